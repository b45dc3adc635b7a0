//! URIs among a certificate's names, as Go's `url.Parse` reads them. What it refuses makes the whole
//! certificate unusable; a constraint is held against the host that it finds.

use std::net::Ipv6Addr;

use super::constraints::is_domain;

/// A host's characters besides letters and digits.
const HOST: &str = "-_.~!$&'()*+,;=:[]<>\"";
/// Those of a user and a password.
const USER: &str = "-._:~!$&'()*+,;=%@";

/// A URI, and its host with the port: empty where it names none.
#[derive(Clone, Copy)]
pub struct Uri<'a> {
    pub text: &'a str,
    authority: &'a str,
}

impl<'a> Uri<'a> {
    /// Nothing where Go refuses it. Besides we refuse an escaped host, which Go takes as the zone of an
    /// address or for a literal `%`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let authority = authority(text)?;
        is_domain(authority, false).then_some(Self { text, authority })
    }

    /// The host's name; none of an address, which no constraint speaks of.
    pub fn host(&self) -> Option<&'a str> {
        let host = match self.authority.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            Some(_) => return None,
            None => self.authority,
        };
        let is_name =
            !self.authority.is_empty() && !host.starts_with('[') && is_domain(host, false);
        (is_name && host.parse::<std::net::IpAddr>().is_err()).then_some(host)
    }
}

fn authority(text: &str) -> Option<&str> {
    let (uri, fragment) = text.split_once('#').unwrap_or((text, ""));
    if uri.bytes().any(|byte| byte.is_ascii_control()) || !is_escaped(fragment) {
        return None;
    }
    let (scheme, rest) = scheme(uri)?;
    let rest = rest.split('?').next()?;
    let (authority, path) = match rest.strip_prefix("//") {
        Some(behind) if !scheme.is_empty() || !behind.starts_with('/') => {
            behind.split_at(behind.find('/').unwrap_or(behind.len()))
        }
        _ => ("", rest),
    };
    if !rest.starts_with('/') {
        // `urn:…`, of which nothing more is read.
        if !scheme.is_empty() {
            return Some("");
        }
        if rest.split('/').next()?.contains(':') {
            return None;
        }
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let is_user = user
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || USER.contains(c));
    (is_escaped(path) && is_user && is_escaped(user) && is_host(scheme, host)).then_some(host)
}

/// A scheme, empty where there is none, and what stands behind it.
fn scheme(uri: &str) -> Option<(&str, &str)> {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match uri.split_once(':') {
        Some(("", _)) => None,
        Some((scheme, rest))
            if scheme.chars().all(is_sign)
                && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            Some((scheme, rest))
        }
        _ => Some(("", uri)),
    }
}

/// Whether each `%` stands before two digits.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|behind| {
        let digits = behind.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

fn is_host(scheme: &str, host: &str) -> bool {
    if !host
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || HOST.contains(c))
    {
        return false;
    }
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if host.contains('[') {
        let address = host
            .strip_prefix('[')
            .and_then(|rest| rest.rsplit_once(']'));
        return address.is_some_and(|(address, behind)| {
            let is_end = behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port);
            is_end && address.parse::<Ipv6Addr>().is_ok()
        });
    }
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let port = match is_web {
        true => host.split_once(':'),
        // Lists of hosts, each with its port.
        false => host.rsplit_once(':'),
    };
    port.is_none_or(|(_, port)| is_port(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_stands_behind_a_scheme_alone() {
        for (text, host) in [
            ("spiffe://a.b/c", Some("a.b")),
            ("//a.b/c", Some("a.b")),
            ("https://user:pass@a.b:8200/c?d#e", Some("a.b")),
            ("urn:x?q=http://good.svc/", None),
            ("urn:x", None),
            ("a/b://c.d", None),
            ("///a.b", None),
            ("https://[::1]/", None),
            ("https://10.1.2.3/", None),
            ("x://a:1:2", None),
            ("https://:80/", Some("")),
        ] {
            assert_eq!(Uri::parse(text).unwrap().host(), host, "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "http://[::1",
            "http://[10.1.2.3]/",
            "http://a..b/",
            "http://a.b./",
            "http://a:1:2/",
            "http://a:x/",
            "spiffe://a.ev%69l.svc/x",
            "http://a/%zz",
            "http://a/%4",
            "http://a b/",
            "http://a^b@c/",
            "a:b".trim_start_matches('a'),
            "1a:b",
            "a\tb",
            "#%",
        ] {
            assert!(Uri::parse(text).is_none(), "{text}");
        }
    }
}
