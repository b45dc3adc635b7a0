//! Name constraints, as Go's `checkChainConstraints` reads them.

use super::certificate::{Names, Subtrees};

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
    *comparisons = comparisons.saturating_add(trees.saturating_mul(count));
    if *comparisons > MOST_COMPARISONS {
        return Err("it has too many names and constraints to be checked".to_owned());
    }
    for bytes in &names.addresses {
        let inside = |tree: &Subtrees<'_>| {
            let mut ranges = tree.addresses.iter();
            ranges.any(|(address, mask)| contains(address, mask, bytes))
        };
        one(
            &super::names::ip(bytes).map_or_else(String::new, |address| address.to_string()),
            permitted.addresses.is_empty() || inside(permitted),
            inside(excluded),
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
        let host = host(uri).ok_or_else(|| format!("{uri:?} has no host to be checked"))?;
        let inside = |tree: &Subtrees<'_>| tree.uris.iter().any(|domain| below(domain, host));
        one(
            uri,
            permitted.uris.is_empty() || inside(permitted),
            inside(excluded),
        )?;
    }
    for mail in &names.mails {
        let (local, domain) =
            mailbox(mail).ok_or_else(|| format!("{mail:?} is no mail address"))?;
        let inside = |tree: &Subtrees<'_>| {
            tree.mails.iter().any(|of| match of.rsplit_once('@') {
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

/// The host's name in a URI; none of an address, which no constraint speaks of.
fn host(uri: &str) -> Option<&str> {
    let (_, behind) = uri.split_once("://")?;
    let authority = behind.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = host.split(':').next()?;
    let is_name = !host.is_empty() && !host.starts_with('[') && is_domain(host, false);
    (is_name && host.parse::<std::net::IpAddr>().is_err()).then_some(host)
}

/// A mail address without quotes, by its parts.
fn mailbox(mail: &str) -> Option<(&str, &str)> {
    let (local, domain) = mail.rsplit_once('@')?;
    let is_plain = !local.is_empty() && !local.contains(['"', '\\', '@', ' ']);
    (is_plain && !domain.is_empty() && is_domain(domain, false)).then_some((local, domain))
}
