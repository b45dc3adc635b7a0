//! How long a reply is good that says so by no lease: what its data tells of its end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use x509_parser::pem::parse_x509_pem;

use crate::grant::Keep;
use crate::spec::Method;

/// A `database/static-creds` reply with `ttl` 0 is rotating just now: it is read again this much later.
const ROTATING_NOW: Duration = Duration::from_secs(2);

/// The fields of a reply's data that tell how long it is good.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Signs {
    certificate: Option<serde_json::Value>,
    expiration: Option<serde_json::Value>,
    ttl: Option<serde_json::Value>,
    last_vault_rotation: Option<serde::de::IgnoredAny>,
    rotation_period: Option<serde::de::IgnoredAny>,
}

/// What keeps a reply good that has no lease, and for how long.
pub fn of(method: Method, signs: &Signs, refresh: Duration) -> (Keep, Duration) {
    if matches!(method, Method::Get | Method::List) {
        let rotated = signs.last_vault_rotation.is_some() || signs.rotation_period.is_some();
        return match signs.ttl.as_ref().and_then(serde_json::Value::as_u64) {
            Some(0) if rotated => (Keep::Rotated, ROTATING_NOW),
            Some(ttl) if rotated => (Keep::Rotated, Duration::from_secs(ttl)),
            _ => (Keep::Static, Duration::ZERO),
        };
    }
    let certificate = signs.certificate.as_ref().and_then(|value| value.as_str());
    let Some(certificate) = certificate else {
        return (Keep::Written, refresh);
    };
    let stated = signs
        .expiration
        .as_ref()
        .and_then(serde_json::Value::as_u64);
    match stated.or_else(|| not_after(certificate)) {
        Some(end) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let left = Duration::from_secs(end).saturating_sub(now);
            (Keep::Certificate, ending(left.as_secs()))
        }
        None => (Keep::Written, refresh),
    }
}

fn not_after(pem: &str) -> Option<u64> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// A duration of something that ends. Zero would mean that it never does, and the server floors.
pub fn ending(seconds: u64) -> Duration {
    Duration::from_secs(seconds.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn kept(method: Method, data: &str) -> (Keep, Duration) {
        of(
            method,
            &serde_json::from_str(data).unwrap_or_default(),
            HOUR,
        )
    }

    #[test]
    fn the_signs_of_a_life() {
        let rotated = r#"{"ttl": 30, "last_vault_rotation": "2026-01-01T00:00:00Z"}"#;
        let table = [
            (Method::Get, "{}", Keep::Static, 0),
            (Method::Get, "[]", Keep::Static, 0),
            (Method::Get, r#"{"ttl": 30}"#, Keep::Static, 0),
            (
                Method::Get,
                r#"{"certificate": "x", "expiration": 1}"#,
                Keep::Static,
                0,
            ),
            (Method::Get, rotated, Keep::Rotated, 30),
            (
                Method::Get,
                r#"{"ttl": 0, "rotation_period": 60}"#,
                Keep::Rotated,
                2,
            ),
            (Method::Post, r#"{"plaintext": "x"}"#, Keep::Written, 3600),
            (
                Method::Put,
                r#"{"certificate": "no PEM"}"#,
                Keep::Written,
                3600,
            ),
            (
                Method::Put,
                r#"{"certificate": "x", "expiration": 1}"#,
                Keep::Certificate,
                1,
            ),
        ];
        for (method, data, keep, seconds) in table {
            let wanted = (keep, Duration::from_secs(seconds));
            assert_eq!(kept(method, data), wanted, "{data}");
        }
    }

    #[test]
    fn a_certificate_without_a_stated_end_tells_its_own() {
        let made = rcgen::generate_simple_self_signed(vec!["web".to_owned()]).unwrap();
        let data = serde_json::json!({ "certificate": made.cert.pem() }).to_string();
        let (keep, left) = kept(Method::Post, &data);
        assert_eq!(keep, Keep::Certificate);
        assert!(left > HOUR * 24 * 365);
    }
}
