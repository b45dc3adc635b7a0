//! Where a server's redirect may lead. The incumbents' client follows one 301, 302 or 307, with method, body
//! and token, to whatever place it names but for a lower scheme (`rawRequestWithContext` of vault/api and
//! openbao/api `client.go`). Here that place must be the same path of a server that this installation
//! allows: the token goes nowhere else, and what a pod is given comes from nowhere else.

use http::header::LOCATION;
use http::{HeaderMap, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use url::Url;

use super::transport::SendError;
use crate::addresses::{AllowedAddresses, same};

/// As much of a host as a message shows, in bytes: a name may not be longer.
const SHOWN: usize = 255;

/// Which redirects are followed.
#[derive(Clone, Debug)]
pub struct Redirects {
    /// False: none is (`VAULT_DISABLE_REDIRECTS`).
    pub follow: bool,
    /// Where they may lead, besides to the server that answers so.
    pub addresses: AllowedAddresses,
}

impl Default for Redirects {
    fn default() -> Self {
        Self {
            follow: true,
            addresses: AllowedAddresses::default(),
        }
    }
}

impl Redirects {
    /// The address that a reply sends us to; `None` where it is no redirect. `asked` is what was requested
    /// at `address`.
    pub fn leads(
        &self,
        address: &str,
        asked: &Uri,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Option<String>, SendError> {
        if !status.is_redirection() {
            return Ok(None);
        }
        let refused = |why: String| {
            SendError::Redirected(format!(
                "the server redirects (status {}), {why}",
                status.as_u16()
            ))
        };
        let location = headers.get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        if !matches!(status.as_u16(), 301 | 302 | 307) {
            return Err(refused(
                "which is followed for 301, 302 and 307 alone; give the address that serves by itself"
                    .to_owned(),
            ));
        }
        if !self.follow {
            return Err(refused(
                "and VAULT_DISABLE_REDIRECTS forbids to follow; give the active server's address, or leave the variable out"
                    .to_owned(),
            ));
        }
        let from = Url::parse(&asked.to_string());
        let target = from
            .ok()
            .zip(location)
            .and_then(|(from, location)| from.join(location).ok())
            .filter(Url::has_host)
            .ok_or_else(|| refused("but names no place that can be read".to_owned()))?;
        self.checked(address, asked, &target)
            .map(Some)
            .map_err(refused)
    }

    fn checked(&self, address: &str, asked: &Uri, target: &Url) -> Result<String, String> {
        let host = shown(target);
        let scheme = target.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(format!("to {host}, which is neither http nor https"));
        }
        if asked.scheme_str() == Some("https") && scheme != "https" {
            // The token goes with it, and anybody on the way may have written the answer.
            return Err(format!(
                "to {host}, from https to plain http, which is never followed; let it name https, or give the active server's address"
            ));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(format!("to {host} with a user name, which is not used"));
        }
        let Some(prefix) = prefix(asked.path(), target.path(), address) else {
            return Err(format!(
                "to another path at {host}; give the address whose /v1/ is the server's API"
            ));
        };
        let there = format!("{}{prefix}", origin(target));
        if there.parse::<Uri>().is_err() {
            return Err("but names no host that can be dialled".to_owned());
        }
        // A Unix socket's server knows itself by the host that we name to it.
        let here = origin_of(asked);
        if here == origin(target) && address.starts_with("unix://") {
            return Ok(address.to_owned());
        }
        if same(address, &there) || self.addresses.allow(&there) {
            Ok(there)
        } else {
            Err(format!(
                "to {host}, which -allow-vault-address of this installation does not allow; give an address that serves by itself, or let the administrator allow {there}"
            ))
        }
    }
}

/// Why a second redirect is not followed.
pub fn again(status: StatusCode, headers: &HeaderMap) -> SendError {
    let location = headers.get(LOCATION);
    let target = location
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Url::parse(text).ok());
    let place = target.map_or_else(String::new, |target| format!(" to {}", shown(&target)));
    SendError::Redirected(format!(
        "the server that it redirects to redirects again{place} (status {}), which is followed once only; give the active server's address",
        status.as_u16()
    ))
}

/// What stands before the path that was asked for, where the target ends in the same path; the segments
/// are compared as they are meant, since servers differ in what they escape.
fn prefix(asked: &str, target: &str, address: &str) -> Option<String> {
    let split = |path: &str| -> Vec<Vec<u8>> {
        let segments = path.split('/');
        segments
            .map(|segment| percent_decode_str(segment).collect())
            .collect()
    };
    let own_prefix = address_prefix(address);
    // From `/v1` on.
    let wanted = split(asked.strip_prefix(own_prefix)?);
    let given = split(target);
    let wanted = wanted.get(1..)?;
    let before = given.len().checked_sub(wanted.len())?;
    let (before, rest) = given.split_at_checked(before)?;
    // Below another `/v1` it would be another path of the API: `/v1/kv/mine/v1/kv/app`.
    let plain = |part: &Vec<u8>| {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        !part.is_empty() && part.iter().all(is_plain) && part != b"v1"
    };
    let is_prefix = before.first().is_some_and(Vec::is_empty) && before.iter().skip(1).all(plain);
    if rest != wanted || !is_prefix {
        return None;
    }
    let written: Vec<&str> = target.split('/').take(before.len()).collect();
    Some(written.join("/"))
}

/// The path of an address, without a slash at its end.
fn address_prefix(address: &str) -> &str {
    if address.starts_with("unix://") {
        return "";
    }
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.find('/').and_then(|at| rest.get(at..));
    path.unwrap_or("").trim_end_matches('/')
}

/// Scheme, host and port.
fn origin(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

fn origin_of(uri: &Uri) -> String {
    let url = Url::parse(&uri.to_string());
    url.map_or_else(|_| String::new(), |url| origin(&url))
}

/// A target in a message: no path and no query, which may hold anything.
fn shown(url: &Url) -> String {
    origin(url).chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Pattern;

    fn pinned(patterns: &[&str]) -> Redirects {
        Redirects {
            follow: true,
            addresses: AllowedAddresses {
                own: Some("https://own:8200".to_owned()),
                patterns: Some(patterns.iter().map(|text| Pattern::new(text)).collect()),
            },
        }
    }

    fn checked(redirects: &Redirects, address: &str, target: &str) -> Result<String, String> {
        let base = super::super::connect::base(address);
        let asked: Uri = format!("{base}/v1/secret/data/a%20b?version=1")
            .parse()
            .unwrap();
        redirects.checked(address, &asked, &Url::parse(target).unwrap())
    }

    #[test]
    fn only_the_same_path_is_followed() {
        let any = Redirects::default();
        for (target, there) in [
            ("https://b/v1/secret/data/a%20b", Ok("https://b")),
            ("https://b:443/v1/secret/data/a%20b?x=y#z", Ok("https://b")),
            ("https://b:8200/v1/secret/data/a b", Ok("https://b:8200")),
            ("https://b/v1/%73ecret/data/a%20b", Ok("https://b")),
            ("https://b/team/v1/secret/data/a%20b", Ok("https://b/team")),
            (
                "https://[::1]:1/v1/secret/data/a%20b",
                Ok("https://[::1]:1"),
            ),
            ("https://b/v1/secret/data/other", Err("another path")),
            ("https://b/v1/secret/data/a%20b/", Err("another path")),
            ("https://b/v1/secret%2fdata/a%20b", Err("another path")),
            (
                "https://b/v1/kv/evil/v1/secret/data/a%20b",
                Err("another path"),
            ),
            (
                "https://b/%76%31/kv/v1/secret/data/a%20b",
                Err("another path"),
            ),
            ("https://b//v1/secret/data/a%20b", Err("another path")),
            ("https://b/v1/../v2/secret/data/a%20b", Err("another path")),
            ("https://b/", Err("another path")),
            ("https://b", Err("another path")),
            ("https://u:p@b/v1/secret/data/a%20b", Err("user name")),
            ("http://b/v1/secret/data/a%20b", Err("plain http")),
            (
                "ftp://b/v1/secret/data/a%20b",
                Err("neither http nor https"),
            ),
        ] {
            let found = checked(&any, "https://a:8200", target);
            match there {
                Ok(there) => assert_eq!(found.as_deref(), Ok(there), "{target}"),
                Err(told) => {
                    let why = found.unwrap_err();
                    assert!(why.contains(told), "{target}: {why}");
                    assert!(!why.contains("data"), "{why}");
                }
            }
        }
    }

    #[test]
    fn an_address_with_a_path_may_lead_to_one_without_and_back() {
        let any = Redirects::default();
        let path = "/v1/secret/data/a%20b";
        for (address, target, there) in [
            ("https://a/team", "https://b", "https://b"),
            ("https://a/team", "https://a/team", "https://a/team"),
            ("http://a", "https://a/team/vault", "https://a/team/vault"),
            (
                "unix:///agent.sock",
                "http://localhost",
                "unix:///agent.sock",
            ),
            (
                "unix:///agent.sock",
                "http://leader:8200",
                "http://leader:8200",
            ),
        ] {
            let found = checked(&any, address, &format!("{target}{path}"));
            assert_eq!(found.as_deref(), Ok(there));
        }
    }

    #[test]
    fn only_an_allowed_server_is_followed_to() {
        let pinned = pinned(&["https://*.vault.svc:8200", "https://plain"]);
        let path = "/v1/secret/data/a%20b";
        for (address, target, is_allowed) in [
            ("https://own:8200", "https://own:8200", true),
            ("https://a.vault.svc:8200", "https://b.vault.svc:8200", true),
            ("https://a.vault.svc:8200", "https://own:8200", true),
            ("https://own:8200", "https://plain:443", true),
            ("http://plain", "https://plain", true),
            ("https://own:8200", "https://own", false),
            ("https://own:8200", "https://own:8200/below", false),
            ("https://own:8200", "https://evil", false),
            ("https://own:8200", "https://evil/.vault.svc", false),
            ("http://own", "https://own", false),
        ] {
            let found = checked(&pinned, address, &format!("{target}{path}"));
            assert_eq!(found.is_ok(), is_allowed, "{target}: {found:?}");
            if let Err(why) = found {
                assert!(why.contains("-allow-vault-address"), "{why}");
            }
        }
    }
}
