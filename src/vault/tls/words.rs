//! Faults of TLS in words.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage};

/// What rustls' words for an alert begin with. HTTP/2 keeps nothing of an error but its words.
pub const ALERT: &str = "received fatal alert: ";

/// What a server says to plain http on its TLS port: Go's (Vault, OpenBao) and nginx's.
const WANTS_TLS: [&str; 2] = [
    "Client sent an HTTP request to an HTTPS server",
    "The plain HTTP request was sent to HTTPS port",
];
/// A page that says so is short.
const LONGEST_PAGE: usize = 4096;

/// rustls among an error's causes. An I/O error hides what it was made of from `source`, and may have
/// been made of another one.
pub fn fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    if let Some(fault) = error.downcast_ref::<Error>() {
        return Some(fault);
    }
    let hidden = error
        .downcast_ref::<io::Error>()
        .and_then(|error| error.get_ref());
    let hidden = hidden.and_then(|hidden| fault(hidden));
    hidden.or_else(|| error.source().and_then(fault))
}

/// Whether what came back was no TLS at all: a plain http server answers a handshake by a status line.
pub fn is_plain(fault: &Error) -> bool {
    matches!(
        fault,
        Error::InvalidMessage(InvalidMessage::InvalidContentType)
    )
}

/// Whether a reply's body says that the server speaks TLS on this port.
pub fn wants_tls(status: u16, body: &[u8]) -> bool {
    let has = |words: &str| {
        let mut parts = body.windows(words.len());
        parts.any(|part| part == words.as_bytes())
    };
    status == 400 && body.len() <= LONGEST_PAGE && WANTS_TLS.into_iter().any(has)
}

/// A fault in words.
pub fn told(fault: &Error) -> String {
    match fault {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            format!("invalid peer certificate: {other}")
        }
        other => told_text(&other.to_string()),
    }
}

/// A fault that is left as a text alone. What the server refuses of us, it says by an alert's name.
pub fn told_text(text: &str) -> String {
    let alert = text.split_once(ALERT).map(|(_, alert)| alert);
    match alert.map(|alert| alert.split(':').next().unwrap_or(alert)) {
        Some("CertificateRequired") => {
            "the server asks for a client certificate, and none is set".to_owned()
        }
        Some(
            alert @ ("BadCertificate"
            | "CertificateExpired"
            | "CertificateRevoked"
            | "CertificateUnknown"
            | "UnknownCA"
            | "UnsupportedCertificate"),
        ) => format!("the server does not accept our client certificate ({alert})"),
        Some("HandshakeFailure" | "ProtocolVersion" | "InsufficientSecurity") => format!(
            "the server and we have no version of TLS, cipher or kind of key in common; it wants TLS 1.2 or 1.3 with forward secrecy ({text})"
        ),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_about_our_certificate_are_told_in_words() {
        let told = told_text("connection error: received fatal alert: UnknownCA: more");
        assert!(told.contains("does not accept our client certificate (UnknownCA)"));
        assert_eq!(told_text("certificate expired"), "certificate expired");
    }

    #[test]
    fn a_server_of_tls_says_so_to_plain_http() {
        assert!(wants_tls(
            400,
            b"Client sent an HTTP request to an HTTPS server.\n"
        ));
        assert!(!wants_tls(
            200,
            b"Client sent an HTTP request to an HTTPS server.\n"
        ));
        assert!(!wants_tls(400, b"{\"errors\":[]}"));
    }
}
