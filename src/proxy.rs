//! Which proxy stands before an address, as the incumbents' client reads it: `HTTP_PROXY`, `HTTPS_PROXY` and
//! `NO_PROXY` of Go's `http.ProxyFromEnvironment`, or one for every address (`VAULT_PROXY_ADDR` of vault/api).

use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// Go's clients never ask a proxy for these.
const NEVER: &str = "localhost,127.0.0.0/8,::1";

/// The proxies of this process; none by default. Passwords in them are not printed.
#[derive(Clone, Debug)]
pub struct Proxies(Arc<Matcher>);

/// What the environment says of proxies; empty where it says nothing.
#[derive(Default)]
pub struct Said {
    /// For every address whatsoever; the others then do not count.
    pub every: Option<String>,
    /// For `http` addresses.
    pub http: Option<String>,
    /// For `https` addresses.
    pub https: Option<String>,
    /// Hosts, domains with what is below them, addresses and networks that are reached without one.
    pub none: Option<String>,
}

impl Default for Proxies {
    fn default() -> Self {
        Self(Arc::new(Matcher::builder().build()))
    }
}

impl Proxies {
    /// The proxies that are named.
    ///
    /// # Errors
    /// One cannot be used. Its text is not repeated: it may hold a password.
    pub fn new(said: Said) -> Result<Self, &'static str> {
        let named = [&said.every, &said.http, &said.https];
        for proxy in named.into_iter().flatten() {
            check(proxy)?;
        }
        let builder = match said.every {
            Some(every) => Matcher::builder().all(every),
            None => Matcher::builder()
                .http(said.http.unwrap_or_default())
                .https(said.https.unwrap_or_default())
                .no(format!("{NEVER},{}", said.none.unwrap_or_default())),
        };
        Ok(Self(Arc::new(builder.build())))
    }

    /// The proxy that a URI is reached by.
    #[must_use]
    pub fn before(&self, uri: &Uri) -> Option<Intercept> {
        self.0.intercept(uri)
    }
}

/// The matcher leaves out what it does not understand, and the traffic would go past the proxy.
fn check(proxy: &str) -> Result<(), &'static str> {
    let uri: Uri = proxy
        .parse()
        .map_err(|_| "is no URL; write it as http://proxy.example:3128")?;
    if uri.authority().is_none() {
        return Err("has no host; write it as http://proxy.example:3128");
    }
    match uri.scheme_str() {
        None | Some("http") => Ok(()),
        Some(_) => Err("has another scheme than http, the one by which a proxy is asked here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(https: &str, none: &str) -> Said {
        Said {
            https: Some(https.to_owned()),
            none: Some(none.to_owned()),
            ..Said::default()
        }
    }

    fn before(proxies: &Proxies, uri: &str) -> Option<String> {
        let intercept = proxies.before(&uri.parse().unwrap());
        intercept.map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn exceptions_are_what_they_are_to_go() {
        let proxies = said("http://proxy:3128", "internal, 10.0.0.0/8,vault.example");
        let proxies = Proxies::new(proxies).unwrap();
        let through = Some("http://proxy:3128/".to_owned());
        assert_eq!(before(&proxies, "https://vault.other:8200/v1"), through);
        assert_eq!(before(&proxies, "https://notvault.example/"), through);
        for direct in [
            "https://vault.example:8200/",
            "https://a.vault.example/",
            "https://vault.internal/",
            "https://10.1.2.3:8200/",
            "https://127.0.0.1:8200/",
            "https://localhost:8200/",
            "https://[::1]:8200/",
            // HTTPS_PROXY is for https.
            "http://vault.other/",
        ] {
            assert_eq!(before(&proxies, direct), None, "{direct}");
        }
    }

    #[test]
    fn one_for_every_address_knows_no_exceptions() {
        let every = Said {
            every: Some("proxy:3128".to_owned()),
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
            ("socks5://proxy:1080", "scheme"),
            ("http://a b", "URL"),
            ("/proxy", "host"),
        ] {
            let fault = Proxies::new(said(proxy, "")).unwrap_err();
            assert!(fault.contains(told), "{proxy}: {fault}");
        }
        let proxies = Proxies::new(said("http://user:hidden@proxy:1", "")).unwrap();
        assert!(!format!("{proxies:?}").contains("hidden"));
    }
}
