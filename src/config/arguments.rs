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

/// Rewrites arguments (without the program's name) so that clap reads them as Go would.
///
/// An empty value is left out with its flag. The incumbents' text flags are empty until they are given, so
/// `-vault-addr=`, as a chart writes it for an unset value, must leave `VAULT_ADDR` in force.
pub fn as_clap_reads(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut rewritten: Vec<String> = Vec::new();
    let mut value_follows = false;
    for argument in arguments {
        let name = argument.trim_start_matches('-');
        let dashes = argument.len() - name.len();
        let is_flag = !value_follows
            && (1..=2).contains(&dashes)
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && argument != "-h"
            && argument != "-V";
        if value_follows
            && argument.is_empty()
            && rewritten.last().is_some_and(|flag| may_be_dropped(flag))
        {
            rewritten.pop();
            value_follows = false;
            continue;
        }
        value_follows = false;
        if !is_flag {
            rewritten.push(argument);
            continue;
        }
        if name
            .strip_suffix('=')
            .is_some_and(|name| !MEANT_EMPTY.contains(&name) && !SWITCHES.contains(&name))
        {
            continue;
        }
        let switch = SWITCHES.contains(&name);
        if switch {
            rewritten.push(format!("--{name}=true"));
        } else {
            value_follows = !name.contains('=') && name != "help";
            rewritten.push(format!("--{name}"));
        }
    }
    rewritten
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
        as_clap_reads(arguments.iter().map(|&argument| argument.to_owned()))
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
