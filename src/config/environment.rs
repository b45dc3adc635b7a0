//! The environment, as the incumbents' clients read it (`ReadEnvironment` of vault/api and openbao/api).

use std::path::PathBuf;
use std::time::Duration;

use super::{arguments, duration};
use crate::params::Flavour;
use crate::proxy::{Proxies, Said};
use crate::spec::Tls;

/// Variables that are accepted and do nothing here, and why.
const IDLE: &[(&str, &str)] = &[
    (
        "MAX_RETRIES",
        "a call that may have reached the server is never repeated, for it could leave a credential behind; the driver repeats a Mount",
    ),
    (
        "RATE_LIMIT",
        "-renew-rate and -renew-concurrency bound what an address gets",
    ),
    ("HEADERS", "no header but the protocol's is sent"),
    (
        "TOKEN",
        "each pod logs in as itself; a token of the daemon's is never used for it",
    ),
    ("WRAP_TTL", "a wrapped reply could not become a file"),
];

/// The environment of a flavour.
pub struct Environment<F> {
    flavour: Flavour,
    lookup: F,
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    pub const fn new(flavour: Flavour, lookup: F) -> Self {
        Self { flavour, lookup }
    }

    /// A variable of ours or Kubernetes'. Empty counts as absent.
    pub fn own(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// A variable of the server's clients. OpenBao's asks for `BAO_…` first, and an empty one hides
    /// `VAULT_…`; Vault's knows `VAULT_…` alone, which therefore wins there.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.named(name).map(|(_, value)| value)
    }

    /// The same, with the name of the variable that says it.
    pub fn named(&self, name: &str) -> Option<(String, String)> {
        let bao = format!("BAO_{name}");
        let vault = format!("VAULT_{name}");
        let given = match self.flavour {
            Flavour::OpenBao => match (self.lookup)(&bao) {
                Some(value) => Some((bao, value)),
                None => self.own(&vault).map(|value| (vault, value)),
            },
            Flavour::Vault => match self.own(&vault) {
                Some(value) => Some((vault, value)),
                None => self.own(&bao).map(|value| (bao, value)),
            },
        };
        given.filter(|(_, value)| !value.is_empty())
    }

    /// The TLS settings. Faults are added to those of the rest.
    pub fn tls(&self, faults: &mut Vec<String>) -> Tls {
        let file = |name: &str| self.variable(name).map(PathBuf::from);
        let ca_file = file("CACERT");
        // Their client takes the first of these three that there is.
        let ca_pem = self.variable("CACERT_BYTES").filter(|_| ca_file.is_none());
        let skip_verify = self.switch("SKIP_VERIFY", faults);
        let tls = Tls {
            ca_pem,
            ca_file,
            ca_directory: file("CAPATH"),
            server_name: self.variable("TLS_SERVER_NAME"),
            client_certificate: file("CLIENT_CERT"),
            client_key: file("CLIENT_KEY"),
            skip_verify,
        };
        if tls.client_certificate.is_some() != tls.client_key.is_some() {
            faults.push("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY go together: set both".to_owned());
        }
        tls
    }

    /// How long a reply is waited for (`VAULT_CLIENT_TIMEOUT`): seconds, days, or a duration of Go's.
    pub fn client_timeout(
        &self,
        faults: &mut Vec<String>,
        notes: &mut Vec<String>,
    ) -> Option<Duration> {
        let (name, value) = self.named("CLIENT_TIMEOUT")?;
        match duration::timeout(&value) {
            // As for the incumbents: zero is none.
            Ok(Some(timeout)) => Some(timeout).filter(|timeout| !timeout.is_zero()),
            Ok(None) => {
                notes.push(format!(
                    "{name}={value} has no effect: a reply is never waited for without limit; give a positive duration"
                ));
                None
            }
            Err(fault) => {
                faults.push(format!("{name}: {fault}"));
                None
            }
        }
    }

    /// Whether a server's redirect is followed (`VAULT_DISABLE_REDIRECTS`).
    pub fn follows_redirects(&self, faults: &mut Vec<String>) -> bool {
        !self.switch("DISABLE_REDIRECTS", faults)
    }

    /// A boolean of Go's; false where it is not set.
    fn switch(&self, name: &str, faults: &mut Vec<String>) -> bool {
        let Some((name, value)) = self.named(name) else {
            return false;
        };
        arguments::boolean(&value).unwrap_or_else(|fault| {
            faults.push(format!("{name}: {fault}"));
            false
        })
    }

    /// The proxies, as Go's clients read them: the first of both spellings that is not empty.
    pub fn proxies(&self, faults: &mut Vec<String>) -> Proxies {
        let either = |name: &str| {
            let small = name.to_ascii_lowercase();
            let names = [name.to_owned(), small];
            names
                .into_iter()
                .find_map(|name| self.own(&name).map(|value| (name, value)))
        };
        let said = Said {
            every: self
                .named("PROXY_ADDR")
                .or_else(|| self.named("HTTP_PROXY")),
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            none: either("NO_PROXY"),
        };
        // What a web server sets from a request's header must not become a proxy (go.dev/s/cgihttpproxy).
        if let (None, Some((name, _)), Some(_)) =
            (&said.every, &said.http, self.own("REQUEST_METHOD"))
        {
            faults.push(format!(
                "{name} is not used where REQUEST_METHOD is set, as for a CGI program: leave one of them out"
            ));
        }
        Proxies::new(said).unwrap_or_else(|fault| {
            faults.push(fault);
            Proxies::default()
        })
    }

    /// What is set and does nothing here, to be said once.
    pub fn idle(&self, faults: &mut Vec<String>) -> Vec<String> {
        let idle = IDLE.iter().filter_map(|(name, why)| {
            let (name, _) = self.named(name)?;
            Some(format!("{name} has no effect: {why}"))
        });
        let mut notes: Vec<String> = idle.collect();
        // Switched off, it asks for nothing.
        if self.switch("SRV_LOOKUP", faults)
            && let Some((name, _)) = self.named("SRV_LOOKUP")
        {
            notes.push(format!(
                "{name} has no effect: addresses are not looked up by SRV records; name host and port"
            ));
        }
        notes
    }
}

/// Settings over others: whatever names CAs replaces all that did, a pair replaces a pair, and
/// verification is skipped where either says so, as the incumbents lay one configuration over another.
///
/// # Errors
/// The upper ones hold half of a key pair.
pub fn over(upper: Tls, lower: Tls) -> Result<Tls, String> {
    if upper.client_certificate.is_some() != upper.client_key.is_some() {
        return Err(
            "-vault-tls-client-cert and -vault-tls-client-key go together: give both".to_owned(),
        );
    }
    let mut tls = lower;
    if upper.ca_pem.is_some() || upper.ca_file.is_some() || upper.ca_directory.is_some() {
        (tls.ca_pem, tls.ca_file, tls.ca_directory) =
            (upper.ca_pem, upper.ca_file, upper.ca_directory);
    }
    if upper.client_certificate.is_some() {
        (tls.client_certificate, tls.client_key) = (upper.client_certificate, upper.client_key);
    }
    tls.server_name = upper.server_name.or(tls.server_name);
    tls.skip_verify |= upper.skip_verify;
    Ok(tls)
}
