//! Whether a certificate is for a name, as Go's `VerifyHostname` decides. The subject's common name never
//! counts.

use std::net::IpAddr;

use rustls_pki_types::ServerName;

use super::extensions::Names;

impl Names<'_> {
    /// Whether a server of this name may show them.
    pub fn fit(&self, server: &ServerName<'_>) -> bool {
        match server {
            ServerName::IpAddress(address) => {
                let address = IpAddr::from(*address).to_canonical();
                let addresses = self.addresses.iter().filter_map(|bytes| ip(bytes));
                addresses.into_iter().any(|known| known == address)
            }
            ServerName::DnsName(host) => self.dns.iter().any(|name| fits(name, host.as_ref())),
            _ => false,
        }
    }
}

/// An address of 4 or 16 bytes; an IPv4 address may be written as one of IPv6.
pub fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|bytes| IpAddr::from(bytes).to_canonical()),
    }
}

/// A `*` stands for the whole first label and for nothing else. What is no host's name fits its equal.
fn fits(pattern: &str, host: &str) -> bool {
    let bare = host.strip_suffix('.').unwrap_or(host);
    if !(is_host(bare, false) && is_host(pattern, true)) {
        let is_name = |name: &str| !matches!(name, "" | ".");
        return is_name(pattern) && is_name(host) && pattern.eq_ignore_ascii_case(host);
    }
    let equal = |ours: &str, theirs: &str| ours.eq_ignore_ascii_case(theirs);
    match pattern.strip_prefix("*.") {
        Some(parent) => bare
            .split_once('.')
            .is_some_and(|(_, rest)| equal(parent, rest)),
        None => equal(pattern, bare),
    }
}

fn is_host(name: &str, may_be_pattern: bool) -> bool {
    let is_label = |label: &str| {
        let is_sign = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && !label.starts_with('-') && label.chars().all(is_sign)
    };
    let mut labels = name.split('.').enumerate();
    name != "*"
        && labels.all(|(at, label)| is_label(label) || (may_be_pattern && at == 0 && label == "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_first_label() {
        for (pattern, host) in [
            ("*.vault-internal", "vault-0.vault-internal"),
            ("*.vault", "A.VAULT"),
            ("a_b.c", "a_b.c"),
            ("a.b", "a.b."),
        ] {
            assert!(fits(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("*.vault-internal", "a.b.vault-internal"),
            ("*.vault-internal", "vault-internal"),
            ("*", "vault"),
            ("v*.x", "va.x"),
            ("a.*.x", "a.b.x"),
            ("a.b.", "a.b"),
            ("", ""),
        ] {
            assert!(!fits(pattern, host), "{pattern} {host}");
        }
    }
}
