//! Name constraints, as Go's `checkChainConstraints` reads them, but for IPv4 addresses that are written as
//! IPv6: Go holds such a name against no range of IPv4, so that an exclusion misses it.

use std::net::{IpAddr, Ipv4Addr};

use super::extensions::{Names, Subtrees};

/// Comparisons for one server. A CA and a server's certificate with thousands of names each would
/// otherwise take seconds of the processor at every handshake.
pub const MOST_COMPARISONS: usize = 250_000;

/// Whether names are allowed by both sides of constraints; an error says which is not.
pub fn check(
    names: &Names<'_>,
    permitted: &Subtrees<'_>,
    excluded: &Subtrees<'_>,
    comparisons: &mut usize,
) -> Result<(), String> {
    let subtrees = [permitted, excluded];
    let total = |tree: &Subtrees<'_>| {
        tree.dns.len() + tree.addresses.len() + tree.mails.len() + tree.uris.len()
    };
    let trees: usize = subtrees.into_iter().map(total).sum();
    let count = names.dns.len() + names.addresses.len() + names.mails.len() + names.uris.len();
    *comparisons = comparisons.saturating_add(trees.max(1).saturating_mul(count));
    if *comparisons > MOST_COMPARISONS {
        return Err("it has too many names and constraints to be checked".to_owned());
    }
    for bytes in &names.addresses {
        let inside = |tree: &Subtrees<'_>, bytes: &[u8]| {
            let mut ranges = tree.addresses.iter();
            ranges.any(|(address, mask)| contains(address, mask, bytes))
        };
        let is_mapped = other_form(bytes).is_some_and(|bytes| inside(excluded, &bytes));
        one(
            &super::names::ip(bytes).map_or_else(String::new, |address| address.to_string()),
            permitted.addresses.is_empty() || inside(permitted, bytes),
            inside(excluded, bytes) || is_mapped,
        )?;
    }
    for name in &names.dns {
        if !is_domain(name, false) {
            return Err(format!("{name:?} is no DNS name"));
        }
        let inside = |tree: &Subtrees<'_>| tree.dns.iter().any(|domain| below(domain, name));
        // `*.a.b` may be used as `x.a.b`.
        let reaches = |domain: &&str| {
            name.starts_with('*') && parent(domain).is_some_and(|of| Some(of) == parent(name))
        };
        one(
            name,
            permitted.dns.is_empty() || inside(permitted),
            inside(excluded) || excluded.dns.iter().any(reaches),
        )?;
    }
    for uri in &names.uris {
        let host = uri
            .host()
            .ok_or_else(|| format!("{:?} has no host to be checked", uri.text))?;
        let inside = |tree: &Subtrees<'_>| tree.uris.iter().any(|domain| below(domain, host));
        one(
            uri.text,
            permitted.uris.is_empty() || inside(permitted),
            inside(excluded),
        )?;
    }
    for mail in &names.mails {
        let (local, domain) =
            mailbox(mail).ok_or_else(|| format!("{mail:?} is no mail address"))?;
        let inside = |tree: &Subtrees<'_>| {
            tree.mails.iter().any(|of| match of.split_once('@') {
                Some((known, at)) => known == local && at.eq_ignore_ascii_case(domain),
                None => below(of, domain),
            })
        };
        one(
            mail,
            permitted.mails.is_empty() || inside(permitted),
            inside(excluded),
        )?;
    }
    Ok(())
}

fn one(name: &str, is_permitted: bool, is_excluded: bool) -> Result<(), String> {
    match (is_permitted, is_excluded) {
        (false, _) => Err(format!(
            "{name:?} is not among the names that it may sign for"
        )),
        (_, true) => Err(format!(
            "{name:?} is among the names that it must not sign for"
        )),
        (true, false) => Ok(()),
    }
}

fn contains(address: &[u8], mask: &[u8], bytes: &[u8]) -> bool {
    let pairs = || address.iter().zip(mask).zip(bytes);
    address.len() == bytes.len()
        && pairs().all(|((ours, mask), theirs)| ours & mask == theirs & mask)
}

/// Whether a name is a domain's own or below it; of `.a.b`, below it alone.
fn below(domain: &str, name: &str) -> bool {
    let Some(at) = name.len().checked_sub(domain.len()) else {
        return false;
    };
    let end = name.as_bytes().get(at..).unwrap_or_default();
    let is_end = end.eq_ignore_ascii_case(domain.as_bytes());
    let begins_label = || {
        at == 0
            || domain.is_empty()
            || domain.starts_with('.')
            || name.as_bytes().get(at - 1) == Some(&b'.')
    };
    is_end && begins_label()
}

/// A name from its first dot on, in small letters.
fn parent(name: &str) -> Option<String> {
    let (_, rest) = name.split_once('.')?;
    Some(rest.to_ascii_lowercase())
}

/// Whether Go takes it for a domain: printable, without empty labels or a dot at its end. A constraint's may
/// begin with one.
pub fn is_domain(name: &str, is_constraint: bool) -> bool {
    let rest = match name.strip_prefix('.') {
        Some(rest) if is_constraint => rest,
        _ => name,
    };
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| (33..=126).contains(&byte));
    name.is_empty() || rest.split('.').all(is_label)
}

/// A mail address without quotes and escapes, by its parts.
pub fn mailbox(mail: &str) -> Option<(&str, &str)> {
    let (local, domain) = mail.split_once('@')?;
    let is_sign = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_sign);
    let is_good = local.split('.').all(is_atom) && is_domain(domain, false);
    is_good.then_some((local, domain))
}

/// An IPv4 address of 4 bytes as one of 16, or the other way round.
fn other_form(bytes: &[u8]) -> Option<Vec<u8>> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Some(Ipv4Addr::from(bytes).to_ipv6_mapped().octets().to_vec()),
        Err(_) => match super::names::ip(bytes) {
            Some(IpAddr::V4(address)) => Some(address.octets().to_vec()),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_no_mail_address_is_refused() {
        assert_eq!(mailbox("a.b+c@d.e"), Some(("a.b+c", "d.e")));
        for mail in [
            "\"a\"@b", "a\\ b@c", "a(b@c", "a..b@c", ".a@c", "@c", "a@b.", "a",
        ] {
            assert_eq!(mailbox(mail), None, "{mail}");
        }
    }
}
