//! What follows from a renewal or revocation that the server refused.
//!
//! Every failure inside OpenBao's renew handlers is a 400 (`vault/logical_system.go`), so it is sorted by
//! its text; a text we do not know is transient, for a backend's outage hides behind a 400 as well.

use std::time::Duration;

use super::error::{VaultError, VaultErrorKind as Kind};
use super::health::{HealthSignal, Reach};
use crate::grant::{KeepError, Revoked};

/// Texts that say: there is no such lease any more.
const GONE: &[&str] = &[
    "lease not found",
    "lease expired",
    "failed previous revocation attempts",
    "no valid associated token",
    "invalid lease",
];
/// Texts that say: it lives, but not beyond its present end.
const NOT_RENEWABLE: &[&str] = &[
    "not renewable",
    "past the max ttl",
    "batch tokens cannot be renewed",
];

/// Sorts a failed renewal.
pub fn renewal(error: &VaultError) -> KeepError {
    let why = error.to_string();
    if error.is_dead_token() {
        return KeepError::TokenDead { why };
    }
    let text = error.text().to_ascii_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|known| text.contains(known));
    match error.kind() {
        Kind::Denied if is_foreign(error) => transient(error, why),
        Kind::Denied => KeepError::Forbidden { why },
        Kind::Refused | Kind::Server if says(NOT_RENEWABLE) => KeepError::NotRenewable { why },
        Kind::Refused if says(GONE) => KeepError::Gone { why },
        _ => transient(error, why),
    }
}

/// Whether a refusal comes without a server's own words: a proxy's page, or a firewall's JSON, says nothing about a
/// policy.
fn is_foreign(error: &VaultError) -> bool {
    let text = error.text();
    ![
        "permission denied",
        "unsupported operation",
        "unsupported path",
    ]
    .iter()
    .any(|own| text.contains(own))
}

/// Sorts a failed look-up. What no server could answer otherwise later is taken as refused.
pub fn look_up(error: &VaultError) -> KeepError {
    let why = error.to_string();
    if error.is_dead_token() {
        return KeepError::TokenDead { why };
    }
    let text = error.text().to_ascii_lowercase();
    match error.kind() {
        Kind::Denied | Kind::Missing | Kind::Unsupported if is_foreign(error) => {
            transient(error, why)
        }
        Kind::Denied | Kind::Missing | Kind::Unsupported => KeepError::Forbidden { why },
        Kind::Refused if GONE.iter().any(|known| text.contains(known)) => KeepError::Gone { why },
        _ => transient(error, why),
    }
}

/// Sorts a failed revocation of a token or of a lease: three of the refusals are good ends.
pub fn revocation(error: &VaultError) -> Result<Revoked, KeepError> {
    let why = error.to_string();
    if error.is_dead_token() {
        return Ok(Revoked::AlreadyDead);
    }
    match error.kind() {
        Kind::Denied if is_foreign(error) => Err(transient(error, why)),
        Kind::Denied => Err(KeepError::Forbidden { why }),
        Kind::Refused if error.text().contains("batch tokens cannot be revoked") => {
            Ok(Revoked::Batch)
        }
        _ => Err(transient(error, why)),
    }
}

/// What a failed call says about the health of whom it was made to.
pub fn signal(error: &VaultError) -> HealthSignal {
    let failing = |reach| HealthSignal::Failing {
        retry_after: error.retry_after(),
        reach,
    };
    match (error.kind(), error.status()) {
        (Kind::Settings | Kind::Untrusted | Kind::Scheme | Kind::Away | Kind::NotTaken, _) => {
            HealthSignal::Silent
        }
        (Kind::Unreachable, _) => HealthSignal::Unreachable,
        (_, Some(429)) => failing(Reach::Quota),
        (_, Some(503)) if is_the_namespaces(error.text()) => failing(Reach::Namespace),
        // Who cuts a request off may do so with those for one backend.
        (Kind::Sealed | Kind::TimedOut | Kind::Interrupted, _) | (_, Some(502..=504)) => {
            failing(Reach::Server)
        }
        // A tenant's broken role, or the database behind it.
        (_, Some(500)) => HealthSignal::Ambiguous,
        _ => HealthSignal::Healthy,
    }
}

/// A namespace is sealed or locked by itself (OpenBao `vault/namespace_store.go`: `API access to this namespace has been
/// locked by an administrator`).
fn is_the_namespaces(text: &str) -> bool {
    text.contains("namespace is sealed") || text.contains("this namespace has been locked")
}

fn transient(error: &VaultError, why: String) -> KeepError {
    let retry_after: Option<Duration> = error.retry_after();
    KeepError::Transient { why, retry_after }
}

#[cfg(test)]
mod tests {
    use super::super::error::Asked;
    use super::super::transport::Reply;
    use super::*;
    use crate::redacted::SecretBytes;

    fn failed(status: u16, text: &str) -> VaultError {
        let body = serde_json::json!({ "errors": [text] }).to_string();
        let reply = Reply {
            content_type: None,
            status,
            retry_after: Some(Duration::from_secs(7)),
            age: Duration::ZERO,
            body: SecretBytes::from(body.into_bytes()),
            memory: None,
        };
        let asked = Asked {
            call: "renew",
            address: "http://vault",
            namespace: None,
        };
        VaultError::of_reply(asked, &reply, &["s.token"])
    }

    fn kind(error: &KeepError) -> &'static str {
        match error {
            KeepError::Transient { .. } => "transient",
            KeepError::TokenDead { .. } => "token dead",
            KeepError::Gone { .. } => "gone",
            KeepError::NotRenewable { .. } => "not renewable",
            KeepError::Forbidden { .. } => "forbidden",
        }
    }

    #[test]
    fn renewals_are_sorted_by_what_the_server_says() {
        let table = [
            (403, "permission denied", "token dead"),
            (403, "invalid token", "token dead"),
            (
                403,
                "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
                "token dead",
            ),
            (
                403,
                "1 error occurred:\n\t* permission denied\n\n",
                "forbidden",
            ),
            (403, "", "transient"),
            (403, "Request blocked. Reference 18.2", "transient"),
            (400, "lease not found", "gone"),
            (400, "lease expired", "gone"),
            (
                400,
                "lease is expired and has failed previous revocation attempts",
                "gone",
            ),
            (400, "cannot renew lease, no valid associated token", "gone"),
            (400, "lease is not renewable", "not renewable"),
            (400, "batch tokens cannot be renewed", "not renewable"),
            (
                400,
                "failed to renew entry: resp: (*logical.Response)(nil) err: past the max TTL, cannot renew",
                "not renewable",
            ),
            (
                400,
                "failed to renew entry: resp: (*logical.Response)(nil) err: dial tcp: connection refused",
                "transient",
            ),
            (400, "something new", "transient"),
            (500, "internal error", "transient"),
            (
                500,
                "failed to renew entry: role app does not exist during renewal",
                "transient",
            ),
            (503, "Vault is sealed", "transient"),
            (429, "rate limit quota exceeded", "transient"),
        ];
        for (status, text, wanted) in table {
            assert_eq!(
                kind(&renewal(&failed(status, text))),
                wanted,
                "{status} {text}"
            );
        }
    }

    #[test]
    fn look_ups_are_sorted_by_what_the_server_says() {
        let table = [
            (400, "invalid lease", "gone"),
            (400, "something new", "transient"),
            (403, "permission denied", "token dead"),
            (
                403,
                "1 error occurred:\n\t* permission denied\n\n",
                "forbidden",
            ),
            (403, "", "transient"),
            (404, "", "transient"),
            (404, "unsupported path", "forbidden"),
            (405, "", "transient"),
            (405, "unsupported operation", "forbidden"),
            (429, "rate limit quota exceeded", "transient"),
            (500, "internal error", "transient"),
            (503, "Vault is sealed", "transient"),
        ];
        for (status, text, wanted) in table {
            let sorted = look_up(&failed(status, text));
            assert_eq!(kind(&sorted), wanted, "{status} {text}");
        }
    }

    #[test]
    fn one_tenants_trouble_is_not_the_servers() {
        let failing = |reach| HealthSignal::Failing {
            retry_after: Some(Duration::from_secs(7)),
            reach,
        };
        let locked = "API access to this namespace has been locked by an administrator - \"t1/\" must be unlocked to gain access.";
        let table = [
            (400, "unknown role", HealthSignal::Healthy),
            (403, "permission denied", HealthSignal::Healthy),
            (404, "", HealthSignal::Healthy),
            (
                429,
                "request path \"secret/data/a\": rate limit quota exceeded",
                failing(Reach::Quota),
            ),
            (500, "unknown role", HealthSignal::Ambiguous),
            (501, "", failing(Reach::Server)),
            (502, "", failing(Reach::Server)),
            (503, "Vault is sealed", failing(Reach::Server)),
            (503, "namespace is sealed", failing(Reach::Namespace)),
            (503, locked, failing(Reach::Namespace)),
            (503, "", failing(Reach::Server)),
            (504, "", failing(Reach::Server)),
        ];
        for (status, text, wanted) in table {
            assert_eq!(signal(&failed(status, text)), wanted, "{status} {text}");
        }
    }

    #[test]
    fn the_good_ends_of_a_revocation() {
        let dead = revocation(&failed(403, "permission denied"));
        assert_eq!(dead, Ok(Revoked::AlreadyDead));
        let batch = revocation(&failed(400, "batch tokens cannot be revoked"));
        assert_eq!(batch, Ok(Revoked::Batch));
        let policy = revocation(&failed(403, "1 error occurred:\n\t* permission denied\n\n"));
        assert_eq!(policy.as_ref().map_err(kind), Err("forbidden"));
        assert_eq!(
            revocation(&failed(429, "slow down")).as_ref().map_err(kind),
            Err("transient")
        );
    }

    #[test]
    fn a_long_text_is_sorted_by_its_end_and_shown_by_its_beginning() {
        let long = format!("{} past the max TTL, cannot renew", "x".repeat(500));
        let error = failed(400, &long);
        assert_eq!(kind(&renewal(&error)), "not renewable");
        let shown = error.to_string();
        assert!(shown.contains(&"x".repeat(300)) && !shown.contains(&"x".repeat(301)));
    }

    #[test]
    fn our_token_is_struck_out_of_the_servers_words() {
        let shown = failed(400, "bad token s.token, s.token!").to_string();
        assert!(shown.contains("bad token [hidden], [hidden]!"), "{shown}");
        let other = "of hvs.CAESIJ1234567890abcdefGH: eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJhdWQi.c2ln";
        let shown = failed(403, other).to_string();
        assert!(shown.contains("of [hidden]: [hidden]: "), "{shown}");
        // These are words.
        let plain = "s.o.s. at pods.example and sys/leases/renew of b.example.com";
        assert!(failed(403, plain).to_string().contains(plain));
    }
}
