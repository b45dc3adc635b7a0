//! The incumbents' way of writing flags (Go's `flag` package), brought to clap's.
//!
//! One dash is as good as two, and a switch may carry its value behind `=`: `-debug`, `--debug=true`,
//! `-debug=f`. Their manifests must work unchanged.

use crate::params;

/// Switches: they take a value only behind `=`.
pub const SWITCHES: &[&str] = &[
    "debug",
    "version",
    "vault-tls-skip-verify",
    "openbao-tls-skip-verify",
    "allow-disk-state-dir",
    "allow-skip-tls-verify",
];

/// The flags whose empty value means something: no health server, nothing allowed.
const MEANT_EMPTY: &[&str] = &[
    "health-addr",
    "allow-vault-address",
    "allow-namespace",
    "allow-auth-mount",
];

/// A command line, brought to clap's form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// For clap.
    pub flags: Vec<String>,
    /// What Go does not look at: everything from the first argument on that is no flag.
    pub left_out: Vec<String>,
    /// A flag by OpenBao's name is among them.
    pub openbaos: bool,
}

/// Rewrites arguments (without the program's name) so that clap reads them as Go would.
///
/// An empty value is left out with its flag. The incumbents' text flags are empty until they are given, so
/// `-vault-addr=`, as a chart writes it for an unset value, must leave `VAULT_ADDR` in force. Go stops at
/// the first argument that is no flag; as the very first one it stays, for clap to say that it is unknown.
pub fn as_clap_reads(arguments: impl IntoIterator<Item = String>) -> Arguments {
    let mut read = Arguments::default();
    let mut value_follows = false;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if value_follows {
            value_follows = false;
            if argument.is_empty() && read.flags.last().is_some_and(|flag| may_be_dropped(flag)) {
                read.flags.pop();
            } else {
                read.flags.push(argument);
            }
            continue;
        }
        let name = argument.trim_start_matches('-');
        let dashes = argument.len() - name.len();
        let ends = dashes == 0 || name.is_empty();
        if ends && !read.flags.is_empty() {
            read.left_out.push(argument);
            read.left_out.extend(arguments);
            break;
        }
        let is_flag = (1..=2).contains(&dashes)
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && !matches!(argument.as_str(), "-h" | "-V");
        if !is_flag {
            read.flags.push(argument);
            continue;
        }
        read.openbaos |= name.starts_with("openbao-");
        if name
            .strip_suffix('=')
            .is_some_and(|name| !MEANT_EMPTY.contains(&name) && !SWITCHES.contains(&name))
        {
            continue;
        }
        if SWITCHES.contains(&name) {
            read.flags.push(format!("--{name}=true"));
        } else {
            value_follows = !name.contains('=') && name != "help";
            read.flags.push(format!("--{name}"));
        }
    }
    read
}

fn may_be_dropped(flag: &str) -> bool {
    !MEANT_EMPTY.contains(&flag.trim_start_matches('-'))
}

/// A boolean as Go's `strconv.ParseBool` reads it.
///
/// # Errors
/// Says what is accepted.
pub fn boolean(text: &str) -> Result<bool, String> {
    params::boolean(text).ok_or_else(|| format!("{text:?} is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(arguments: &[&str]) -> Vec<String> {
        let read = as_clap_reads(arguments.iter().map(|&argument| argument.to_owned()));
        assert_eq!(read.left_out, [""; 0]);
        read.flags
    }

    #[test]
    fn go_stops_at_what_is_no_flag() {
        for (given, left) in [
            (
                ["-debug", "true", "-vault-addr=x"],
                &["true", "-vault-addr=x"][..],
            ),
            (["-debug=t", "--", "-endpoint"], &["--", "-endpoint"]),
            (["-debug", "-", "x"], &["-", "x"]),
            (["-debug", "", "x"], &["", "x"]),
        ] {
            let read = as_clap_reads(given.map(str::to_owned));
            assert_eq!(read.flags.len(), 1, "{given:?}");
            assert_eq!(read.left_out, left);
        }
        assert_eq!(rewritten(&["serve", "---x"]), ["serve", "---x"]);
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        assert_eq!(
            rewritten(&[
                "-endpoint=/x",
                "--vault-addr",
                "-odd-",
                "-debug",
                "-debug=f"
            ]),
            [
                "--endpoint=/x",
                "--vault-addr",
                "-odd-",
                "--debug=true",
                "--debug=f"
            ]
        );
    }

    #[test]
    fn an_empty_value_is_none() {
        assert_eq!(
            rewritten(&["-vault-addr=", "--vault-tls-ca-cert", "", "-debug"]),
            ["--debug=true"]
        );
        // These two say something, or are refused by Go too.
        assert_eq!(
            rewritten(&["-health-addr=", "-health-addr", "", "-debug="]),
            ["--health-addr=", "--health-addr", "", "--debug="]
        );
    }

    #[test]
    fn booleans_are_gos() {
        assert_eq!(boolean("T"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
    }
}
