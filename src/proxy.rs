//! Which proxy stands before an address, as the incumbents' client reads it: `HTTP_PROXY`, `HTTPS_PROXY` and
//! `NO_PROXY` of Go's `http.ProxyFromEnvironment`, or one for every address (`VAULT_PROXY_ADDR` of vault/api).

mod exceptions;

use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use self::exceptions::Exceptions;

/// The proxies of this process; none by default. Passwords in them are not printed.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Arc<Routes>);

#[derive(Debug, Default)]
struct Routes {
    http: Option<Arc<Matcher>>,
    https: Option<Arc<Matcher>>,
    /// What is reached without a proxy; `None` where `VAULT_PROXY_ADDR` stands before every address.
    exceptions: Option<Exceptions>,
}

/// A variable and its value.
pub type Variable = (String, String);

/// What the environment says of proxies; empty where it says nothing.
#[derive(Clone, Default)]
pub struct Said {
    /// For every address whatsoever; the others then do not count.
    pub every: Option<Variable>,
    /// For `http` addresses.
    pub http: Option<Variable>,
    /// For `https` addresses.
    pub https: Option<Variable>,
    /// Hosts, domains with what is below them, addresses and networks that are reached without one.
    pub none: Option<Variable>,
}

impl Proxies {
    /// The proxies that are named.
    ///
    /// # Errors
    /// A proxy cannot be used, or an entry of `NO_PROXY` means nothing: traffic would go another way than
    /// its author meant. A proxy's text is not repeated: it may hold a password.
    pub fn new(said: Said) -> Result<Self, String> {
        if let Some(every) = said.every {
            let every = proxy(every)?;
            return Ok(Self(Arc::new(Routes {
                http: Some(every.clone()),
                https: Some(every),
                exceptions: None,
            })));
        }
        let http = said.http.map(proxy).transpose()?;
        let https = said.https.map(proxy).transpose()?;
        let exceptions = match said.none {
            Some((name, entries)) if http.is_some() || https.is_some() => {
                Exceptions::read(&entries).map_err(|fault| format!("{name}: {fault}"))?
            }
            // Without a proxy it has no effect, whatever it holds.
            _ => Exceptions::default(),
        };
        Ok(Self(Arc::new(Routes {
            http,
            https,
            exceptions: Some(exceptions),
        })))
    }

    /// The proxy that a URI is reached by.
    #[must_use]
    pub fn before(&self, uri: &Uri) -> Option<Intercept> {
        let (proxy, usual_port) = match uri.scheme_str()? {
            "http" => (self.0.http.as_ref()?, 80),
            "https" => (self.0.https.as_ref()?, 443),
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(usual_port);
        let exceptions = self.0.exceptions.as_ref();
        if exceptions.is_some_and(|exceptions| exceptions.hold(uri.host().unwrap_or(""), port)) {
            return None;
        }
        proxy.intercept(uri)
    }
}

/// The matcher leaves out what it does not understand, and the traffic would go past the proxy.
fn proxy((name, text): Variable) -> Result<Arc<Matcher>, String> {
    let uri: Uri = text
        .parse()
        .map_err(|_| format!("{name} is no URL; write it as http://proxy.example:3128"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| format!("{name} has no host; write it as http://proxy.example:3128"))?;
    let host_and_port = authority.as_str().rsplit('@').next().unwrap_or_default();
    let has_port = !host_and_port.ends_with(authority.host());
    if has_port && authority.port_u16().is_none() {
        return Err(format!(
            "{name} has a port that is no number up to 65535; write it as http://proxy.example:3128"
        ));
    }
    match uri.scheme_str() {
        None | Some("http" | "socks5" | "socks5h") => {
            Ok(Arc::new(Matcher::builder().all(text).build()))
        }
        Some(scheme) => Err(format!(
            "{name} has the scheme {scheme}: a proxy is asked by http or socks5; write it as http://proxy.example:3128"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn variable(name: &str, value: &str) -> Option<Variable> {
        Some((name.to_owned(), value.to_owned()))
    }

    fn said(https: &str, none: &str) -> Said {
        Said {
            https: variable("HTTPS_PROXY", https),
            none: variable("NO_PROXY", none),
            ..Said::default()
        }
    }

    fn before(proxies: &Proxies, uri: &str) -> Option<String> {
        let intercept = proxies.before(&uri.parse().unwrap());
        intercept.map(|proxy| proxy.uri().to_string())
    }

    fn recorded() -> Value {
        let text = std::fs::read_to_string("tests/recorded/proxies.json").unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_exception_is_what_it_is_to_go_or_is_refused() {
        let recorded = recorded();
        let urls: Vec<&str> = recorded["urls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|url| url.as_str().unwrap())
            .collect();
        let rows = recorded["exceptions"].as_array().unwrap();
        let (mut understood, mut refused) = (0, 0);
        for row in rows {
            let none = row["no_proxy"].as_str().unwrap();
            let direct = row["direct"].as_array().unwrap();
            let proxies = Proxies::new(Said {
                http: variable("HTTP_PROXY", "http://proxy:3128"),
                ..said("http://proxy:3128", none)
            });
            let Ok(proxies) = proxies else {
                refused += 1;
                // Go: no address but this node's own, or names with a dot at their end that nobody meant.
                let usual = rows[0]["direct"].as_array().unwrap().len();
                let means_nothing = direct.len() == usual || matches!(none, "." | "*.");
                assert!(means_nothing || !none.is_ascii(), "{none:?} is refused");
                continue;
            };
            understood += 1;
            for (at, url) in urls.iter().enumerate() {
                let is_direct = direct.contains(&Value::from(at));
                assert_eq!(
                    before(&proxies, url).is_none(),
                    is_direct,
                    "{none:?}: {url}"
                );
            }
        }
        assert_eq!((understood, refused), (54, 45));
    }

    #[test]
    fn an_exception_that_means_nothing_is_named() {
        for (none, entry) in [
            ("vault.svc, 10.*", "10.*"),
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("[fd00::1]", "[fd00::1]"),
            ("https://vault:8200", "https://vault:8200"),
            ("a b", "a b"),
            ("vault-*.svc", "vault-*.svc"),
            ("vault:https", "vault:https"),
            ("b\u{fc}cher.example", "b\u{fc}cher.example"),
        ] {
            let fault = Proxies::new(said("http://proxy:3128", none)).unwrap_err();
            assert!(fault.contains(&format!("NO_PROXY: {entry:?} ")), "{fault}");
        }
        // It says nothing where there is no proxy.
        let without = Said {
            none: variable("NO_PROXY", "10.*"),
            ..Said::default()
        };
        assert!(Proxies::new(without).is_ok());
    }

    #[test]
    fn one_for_every_address_knows_no_exceptions() {
        let every = Said {
            every: variable("VAULT_PROXY_ADDR", "proxy:3128"),
            ..said("http://other:1", "*")
        };
        let proxies = Proxies::new(every).unwrap();
        for uri in ["https://localhost:8200/", "http://vault/"] {
            assert_eq!(before(&proxies, uri).as_deref(), Some("http://proxy:3128/"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_nothing_is_printed() {
        for (proxy, told) in [
            ("https://proxy:3128", "scheme"),
            ("socks4://proxy:1080", "scheme"),
            ("http://a b", "URL"),
            ("/proxy", "host"),
        ] {
            let fault = Proxies::new(said(proxy, "")).unwrap_err();
            assert!(fault.contains(told), "{proxy}: {fault}");
            assert!(fault.starts_with("HTTPS_PROXY "), "{fault}");
        }
        let proxies = Proxies::new(said("http://user:hidden@proxy:1", "")).unwrap();
        assert!(!format!("{proxies:?}").contains("hidden"));
    }
}
