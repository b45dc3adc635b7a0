//! Replies that are no JSON: certificates, chains and CRLs in PEM or DER, SSH public keys, metrics as text.
//!
//! Vault's own client takes JSON alone, so with the incumbents such a path fails. A proxy's login page is no
//! JSON either, and must never become a pod's file: what an engine answers is told by its media type
//! (OpenBao `builtin/logical/pki/path_fetch.go`, `path_fetch_issuers.go`) or by its own shape.

use super::transport::Reply;
use crate::spec::{Method, Request};

/// The media types of the PKI engine, which nothing else answers by accident.
const CERTIFICATES: &[&str] = &[
    "application/pkix-cert",
    "application/pkix-crl",
    "application/pem-certificate-chain",
    "application/x-pem-file",
    "application/ocsp-response",
];
/// How an SSH public key begins (`ssh/public_key`), which is sent as plain text.
const SSH_KEYS: &[&str] = &["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
const PLAIN: &str = "text/plain";

/// Whether a success is a file's content as it is. Only reads by GET are: a write's reply is kept, and the
/// journal keeps JSON alone.
pub fn is_raw(request: &Request, reply: &Reply) -> bool {
    let body = reply.body.expose();
    let begins = |with: &str| body.trim_ascii_start().starts_with(with.as_bytes());
    if request.method != Method::Get || body.is_empty() {
        return false;
    }
    match reply.content_type.as_deref() {
        Some(kind) if CERTIFICATES.contains(&kind) => true,
        Some("text/html" | "application/xhtml+xml") => false,
        Some(PLAIN) if request.path == "sys/metrics" => !begins("{"),
        Some(PLAIN) if SSH_KEYS.iter().any(|key| begins(key)) => true,
        // Some engines and proxies name no type, or another one.
        _ => begins("-----BEGIN "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redacted::SecretBytes;

    fn raw(path: &str, content_type: Option<&str>, body: &[u8]) -> bool {
        let request = Request {
            method: Method::Get,
            path: path.to_owned(),
            query: Vec::new(),
            args: None,
        };
        let reply = Reply {
            status: 200,
            retry_after: None,
            age: std::time::Duration::ZERO,
            content_type: content_type.map(str::to_owned),
            body: SecretBytes::from(body.to_vec()),
            memory: None,
        };
        let read = is_raw(&request, &reply);
        let written = Request {
            method: Method::Put,
            ..request
        };
        assert!(!is_raw(&written, &reply), "a write's reply is kept");
        read
    }

    #[test]
    fn what_an_engine_answers_is_told_from_what_a_proxy_does() {
        let pem = b"-----BEGIN CERTIFICATE-----\n";
        let der = [0x30, 0x82, 0xff];
        for (path, content_type, body) in [
            (
                "pki/ca_chain",
                Some("application/pem-certificate-chain"),
                &pem[..],
            ),
            ("pki/ca", Some("application/pkix-cert"), &der[..]),
            ("pki/crl", Some("application/pkix-crl"), &der[..]),
            ("pki/crl/pem", Some("application/x-pem-file"), &pem[..]),
            ("pki/ca/pem", None, &pem[..]),
            ("pki/ca/pem", Some("text/plain"), &pem[..]),
            ("ssh/public_key", Some("text/plain"), b"ssh-rsa AAAA"),
            ("sys/metrics", Some("text/plain"), b"# HELP vault_core"),
        ] {
            assert!(raw(path, content_type, body), "{path} {content_type:?}");
        }
        for (path, content_type, body) in [
            ("pki/ca_chain", Some("text/html"), &pem[..]),
            ("pki/ca_chain", Some("text/html"), b"<html>log in</html>"),
            ("pki/ca_chain", None, b"<html>log in</html>"),
            ("kv/app", Some("text/plain"), b"log in first"),
            ("sys/metrics", Some("text/html"), b"<html>"),
            ("sys/metrics", Some("application/json"), b"{}"),
            ("kv/app", Some("application/json"), b"{}"),
            ("pki/ca", Some("application/octet-stream"), &der[..]),
            ("pki/ca", Some("application/pkix-cert"), b""),
        ] {
            assert!(!raw(path, content_type, body), "{path} {content_type:?}");
        }
    }
}
