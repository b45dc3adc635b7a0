//! Which servers this installation allows: what a class may name, and where a server's redirect may lead.

use http::Uri;

pub use crate::pattern::Pattern;

/// The rule; everything is allowed by default.
#[derive(Clone, Debug, Default)]
pub struct AllowedAddresses {
    /// The daemon's own address: always allowed.
    pub own: Option<String>,
    /// Patterns of whole addresses (`-allow-vault-address`); `None` allows all.
    pub patterns: Option<Vec<Pattern>>,
}

impl AllowedAddresses {
    /// Whether an address is allowed: scheme, host, port and path prefix, without a slash at its end.
    #[must_use]
    pub fn allow(&self, address: &str) -> bool {
        let Some(patterns) = &self.patterns else {
            return true;
        };
        let own = self.own.as_deref();
        if own.is_some_and(|own| same(own, address)) {
            return true;
        }
        let spellings = spellings(address);
        patterns
            .iter()
            .any(|pattern| spellings.iter().any(|text| pattern.fits(text)))
    }
}

/// Whether two addresses are one server: `https://Vault` is `https://vault:443/`.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    let first = spellings(one);
    spellings(other).iter().any(|text| first.contains(text))
}

/// An address as it is written, and with and without a port that its scheme implies.
fn spellings(address: &str) -> Vec<String> {
    let written = address.trim_end_matches('/');
    let mut spellings = vec![written.to_owned()];
    // Read as it is when it is dialled. A Unix socket has no host.
    let Ok(uri) = written.parse::<Uri>() else {
        return spellings;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return spellings;
    };
    let implied = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return spellings,
    };
    let named = authority.as_str().strip_prefix(authority.host());
    let port = match named {
        Some("") => implied,
        Some(_) => match authority.port_u16() {
            Some(port) => port,
            None => return spellings,
        },
        // A user name stands before the host.
        None => return spellings,
    };
    let host = authority.host().to_ascii_lowercase();
    let path = uri.path().trim_end_matches('/');
    spellings.push(format!("{scheme}://{host}:{port}{path}"));
    if port == implied {
        spellings.push(format!("{scheme}://{host}{path}"));
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(own: &str, patterns: &[&str]) -> AllowedAddresses {
        AllowedAddresses {
            own: Some(own.to_owned()),
            patterns: Some(patterns.iter().map(|text| Pattern::new(text)).collect()),
        }
    }

    #[test]
    fn a_port_that_the_scheme_implies_makes_no_difference() {
        let rule = allowed("https://own/", &["https://vault.*:443", "http://plain"]);
        for address in [
            "https://own",
            "https://own:443",
            "https://OWN:443",
            "https://vault.one",
            "https://vault.one:443",
            "http://plain:80",
        ] {
            assert!(rule.allow(address), "{address}");
        }
        for address in [
            "http://own",
            "https://own:8200",
            "https://own/below",
            "https://own.evil",
            "https://vault.one:8443",
            "https://vault.one:443@evil",
            "https://user@own",
            "https://plain",
            "http://plain:8080",
            "unix:///own",
        ] {
            assert!(!rule.allow(address), "{address}");
        }
    }

    #[test]
    fn a_socket_is_allowed_as_it_is_written() {
        let rule = allowed("unix:///run/agent.sock", &["unix:///run/vault/*.sock"]);
        assert!(rule.allow("unix:///run/agent.sock"));
        assert!(rule.allow("unix:///run/vault/a.sock"));
        assert!(!rule.allow("unix:///run/other.sock"));
    }

    #[test]
    fn without_a_pattern_all_are_allowed_and_an_empty_list_allows_the_own_alone() {
        assert!(AllowedAddresses::default().allow("https://anybody"));
        assert!(!allowed("https://own", &[]).allow("https://anybody"));
    }
}
