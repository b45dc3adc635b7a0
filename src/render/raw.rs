//! Replies that are no JSON: the file has their bytes, and a key of theirs is asked of another path.

use std::ops::Range;

use super::RenderError;
use super::gojson::Measure;
use crate::redacted::SecretBytes;
use crate::spec::{Object, Selector};

/// Measures a raw reply's file: all of it.
///
/// # Errors
/// The object asks for a key. The message names the path that gives the same as JSON.
pub fn measure(
    object: &Object,
    body: &SecretBytes,
) -> Result<(Range<usize>, Measure), RenderError> {
    let size = body.expose().len();
    match &object.selector {
        Selector::Response => Ok((0..size, Measure { size, extra: 0 })),
        Selector::Key(key) => Err(RenderError::NoKeys {
            object: object.name.clone(),
            path: object.request.path.clone(),
            key: key.clone(),
        }),
    }
}

/// The way to a key of what a path answers raw, as a message ends.
pub fn or_twin(path: &str) -> String {
    twin(path).map_or_else(String::new, |twin| format!(", or read {twin}"))
}

/// The path that answers in JSON what this one answers raw (Vault's PKI and SSH engines, `sys/metrics`).
fn twin(path: &str) -> Option<String> {
    if path == "sys/metrics" {
        return Some("it without `format=prometheus`".to_owned());
    }
    let below = |end: &str| path.strip_suffix(end).map(str::to_owned);
    let certificate = |path: String| format!("`{path}` with `secretKey: certificate`");
    if let Some(issuer) = below("/crl/pem").or_else(|| below("/crl/der"))
        && issuer.contains("/issuer/")
    {
        return Some(format!("`{issuer}/crl` with `secretKey: crl`"));
    }
    for (ends, json) in [
        (&["/ca_chain"][..], "/cert/ca_chain"),
        (&["/crl/delta/pem", "/crl/delta"], "/cert/delta-crl"),
        (&["/crl/pem", "/crl"], "/cert/crl"),
        (&["/raw/pem", "/raw"], ""),
        (&["/ca/pem", "/ca"], "/cert/ca"),
    ] {
        if let Some(mount) = ends.iter().find_map(|end| below(end)) {
            return Some(certificate(format!("{mount}{json}")));
        }
    }
    if let Some(mount) = below("/public_key") {
        return Some(format!("`{mount}/config/ca` with `secretKey: public_key`"));
    }
    let issuer = below("/pem").or_else(|| below("/der"))?;
    issuer
        .contains("/issuer/")
        .then(|| certificate(format!("{issuer}/json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_raw_path_has_its_json_twin() {
        for (path, json) in [
            ("pki/ca_chain", "`pki/cert/ca_chain`"),
            ("a/pki/ca", "`a/pki/cert/ca`"),
            ("pki/ca/pem", "`pki/cert/ca`"),
            ("pki/crl/pem", "`pki/cert/crl`"),
            ("pki/crl/delta", "`pki/cert/delta-crl`"),
            ("pki/cert/ca/raw", "`pki/cert/ca`"),
            ("pki/cert/12:34/raw/pem", "`pki/cert/12:34`"),
            ("pki/issuer/default/pem", "`pki/issuer/default/json`"),
            ("pki/issuer/default/crl/der", "`pki/issuer/default/crl`"),
            ("ssh/public_key", "`ssh/config/ca`"),
        ] {
            let told = twin(path).unwrap();
            assert!(told.starts_with(json), "{path}: {told}");
        }
        assert_eq!(twin("kv/app"), None);
    }
}
