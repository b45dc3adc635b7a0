//! Fuzz targets of this room (see `src/fuzzing.rs`).

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, LOCATION};
use percent_encoding::percent_decode_str;

use super::api;
use super::classify;
use super::error::VaultError;
use super::read;
use super::redirect::Redirects;
use super::request::uri;
use super::transport::Reply;
use crate::addresses::{AllowedAddresses, Pattern};
use crate::clock::Moment;
use crate::grant::timing::Life;
use crate::grant::{Grant, Keep, Renewal};
use crate::redacted::{Secret, SecretBytes};
use crate::spec::{Endpoint, Method, MountSpec, Request, Tls};

/// The token that every call is made with: no message may show it. The corpus has it.
pub const TOKEN: &str = "hunter2-token";
const NOW: Moment = Moment::from_boot(Duration::from_secs(1_000_000));
const POLL: Duration = Duration::from_secs(120);

pub use super::tls::fuzzing::bundle;

/// A reply, and what a read makes of it.
pub fn reply(data: &[u8]) -> Option<Grant> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let (head, body) = data.split_at(end);
    let (status, call) = std::str::from_utf8(head).ok()?.split_once(' ')?;
    let reply = Reply {
        status: status.parse().ok()?,
        retry_after: None,
        age: std::time::Duration::ZERO,
        content_type: None,
        body: SecretBytes::from(body.to_vec()),
        memory: None,
    };
    let endpoint = Endpoint {
        address: "https://vault".to_owned(),
        namespace: None,
        tls: Tls::default(),
    };
    let name = match call {
        "LOGIN" => "login POST auth/kubernetes/login",
        "RENEW" => "POST auth/token/renew-self",
        _ => "GET kv/app",
    };
    let asked = api::asked(name, &endpoint);
    let token = Secret::from(TOKEN.to_owned());
    if !(200..300).contains(&reply.status) {
        let error = VaultError::of_reply(asked, &reply, &[TOKEN]);
        sorted(&error);
        return None;
    }
    match call {
        "LOGIN" => {
            let given = api::logged_in(asked, &reply, &token)
                .map_err(|error| sorted(&error))
                .ok()?;
            assert!(!given.token.expose().is_empty(), "a session has a token");
            assert!(
                !given.renewable || !given.granted.is_zero(),
                "what is renewed ends"
            );
            None
        }
        "RENEW" => {
            let renewals = [
                api::renewed_self(asked, &reply, NOW),
                api::renewed_lease(asked, &reply, NOW),
            ];
            for renewal in renewals {
                match renewal {
                    Ok(renewal) => renewed(&renewal),
                    Err(error) => sorted(&error),
                }
            }
            None
        }
        _ => {
            let method = match call {
                "GET" => Method::Get,
                "LIST" => Method::List,
                _ => Method::Put,
            };
            let request = Request {
                method,
                path: "kv/app".to_owned(),
                query: Vec::new(),
                args: None,
            };
            let grant = read::granted(
                asked,
                &request,
                reply,
                NOW,
                Duration::from_secs(3600),
                &token,
            );
            let grant = grant.map_err(|error| sorted(&error)).ok()?;
            kept(&grant);
            Some(grant)
        }
    }
}

/// Every failure has words for `kubectl describe pod`: one line, not long, without our token.
fn sorted(error: &VaultError) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains(TOKEN), "{text:?}");
    assert!(text.chars().count() < 1000, "{text:?}");
    let _ = (
        classify::renewal(error),
        classify::revocation(error),
        classify::signal(error),
    );
}

fn renewed(renewal: &Renewal) {
    assert!(renewal.term.end().is_some(), "what was renewed ends");
    let mut life = Life {
        nature: crate::grant::timing::Nature::Lease,
        term: crate::grant::Term::new(NOW, POLL),
        renewable: true,
        capped: false,
    };
    life.renewed(renewal);
    timed(&life);
}

fn kept(grant: &Grant) {
    assert_eq!(
        grant.keep == Keep::Static,
        grant.term.end().is_none(),
        "only a static read has no end"
    );
    assert!(grant.lease_id().is_none_or(|id| !id.is_empty()));
    timed(&Life::of_grant(grant));
}

/// A life's times lie between its beginning and its end.
fn timed(life: &Life) {
    for jitter in [0.0, 0.5, 1.0] {
        let renewal = life.renew_at(POLL, jitter);
        let end = life.term.end();
        assert!(renewal.is_none_or(|at| at >= life.term.sent() && end.is_none_or(|end| at <= end)));
        let replacement = life.replace_from(POLL, jitter);
        assert!(replacement.is_none_or(|at| at >= life.term.sent()));
    }
}

/// Where the requests of a class are sent: to its address, below `/v1/`, to the path that it names.
pub fn addressed(spec: &MountSpec) {
    let login = api::login_name(&spec.login);
    assert!(login.ends_with(&format!("auth/{}/login", spec.login.mount)));
    let Ok(bare) = uri(&spec.endpoint.address, "x", &[]) else {
        // No URL at all: nothing is sent.
        return;
    };
    for request in spec.requests() {
        let sent = uri(&spec.endpoint.address, &request.path, &request.query);
        let Ok(sent) = sent else {
            // Longer than a URL may be.
            continue;
        };
        assert_eq!(
            (sent.scheme(), sent.authority()),
            (bare.scheme(), bare.authority())
        );
        let below = bare
            .path()
            .strip_suffix('x')
            .and_then(|prefix| sent.path().strip_prefix(prefix));
        let segments = below
            .unwrap_or_default()
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8_lossy());
        assert!(
            segments.eq(request.path.split('/')),
            "{sent} is not {:?}",
            request.path
        );
    }
}

/// An address as a class may give it, and a path and a query that it could smuggle in.
pub fn address(text: &str) {
    if let Ok(sent) = uri(text, "kv/app", &[]) {
        assert!(sent.host().is_some_and(|host| !host.is_empty()), "{text:?}");
        assert!(
            matches!(sent.scheme_str(), Some("http" | "https")),
            "{text:?}"
        );
    }
    redirected(text);
    let query = [(text.to_owned(), text.to_owned())];
    if let Ok(sent) = uri("https://vault:8200", text, &query) {
        assert_eq!(
            sent.authority().map(|it| it.as_str()),
            Some("vault:8200"),
            "{text:?}"
        );
        assert!(sent.path().starts_with("/v1/"), "{text:?}");
        let given: Vec<&str> = sent.query().unwrap_or_default().split(['=', '&']).collect();
        let whole = |part: &&str| percent_decode_str(part).decode_utf8_lossy() == text;
        assert!(given.len() == 2 && given.iter().all(whole), "{text:?}");
    }
}

/// A redirect's target, which may be anybody's: we go to an allowed server, over https, for the same path, or
/// nowhere.
fn redirected(location: &str) {
    let redirects = Redirects {
        follow: true,
        addresses: AllowedAddresses {
            own: Some("https://vault:8200".to_owned()),
            patterns: Some(vec![Pattern::new("https://*.vault.svc:8200")]),
        },
    };
    let (Ok(asked), Ok(location)) = (
        uri("https://vault:8200", "kv/app", &[]),
        HeaderValue::from_str(location),
    ) else {
        return;
    };
    let headers = HeaderMap::from_iter([(LOCATION, location)]);
    let status = StatusCode::TEMPORARY_REDIRECT;
    match redirects.leads("https://vault:8200", &asked, status, &headers) {
        Ok(there) => {
            let sent = there.and_then(|there| uri(&there, "kv/app", &[]).ok());
            assert!(sent.is_some(), "{headers:?}: an address that is asked");
            let sent = sent.unwrap_or_default();
            let host = sent.host().unwrap_or_default();
            let allowed = host == "vault" || host.ends_with(".vault.svc");
            assert!(allowed && sent.port_u16() == Some(8200), "{sent}");
            assert_eq!(sent.scheme_str(), Some("https"), "{sent}");
            assert_eq!(sent.path(), "/v1/kv/app", "{sent}");
            assert!(
                sent.authority()
                    .is_some_and(|it| !it.as_str().contains('@'))
            );
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.chars().count() < 1000, "{text:?}");
        }
    }
}
