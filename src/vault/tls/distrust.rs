//! Why a server's certificate is not trusted, in words for `kubectl describe pod`.

use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::{ServerName, UnixTime};

use super::certificate::Certificate;
use super::names;

/// Names of a certificate that a message shows.
const SHOWN: usize = 5;

/// Why a server's certificate is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    #[error("UnknownIssuer")]
    UnknownIssuer,
    /// It leads to a CA of the right name, which does not serve.
    #[error("UnknownIssuer: no chain to a trusted certificate holds: {0}")]
    Issuer(Flaw),
    #[error("{0}")]
    Own(Flaw),
    #[error("certificate not valid for name {:?}; it is valid for {}", expected.to_str(), shown(valid))]
    Name {
        expected: ServerName<'static>,
        valid: Vec<String>,
    },
    /// Common names have not counted since RFC 6125.
    #[error("certificate not valid for name {:?}; it has no subjectAltName, and a common name does not count", .0.to_str())]
    NoNames(ServerName<'static>),
}

/// What is wrong with a certificate, or with a chain.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("the certificate has a critical extension that is not known")]
    UnknownCritical,
    #[error("certificate not valid yet: it is {now}, and it is valid from {not_before} on (UNIX)")]
    Early { now: i64, not_before: i64 },
    #[error("certificate expired: it is {now}, and it was valid until {not_after} (UNIX)")]
    Expired { now: i64, not_after: i64 },
    #[error("the certificate of the issuer's name is not a CA's (basicConstraints)")]
    NotCa,
    #[error("the issuer's keyUsage does not allow it to sign certificates")]
    MayNotSign,
    #[error(
        "the signature's algorithm is not supported (SHA-1, MD5, DSA), or the issuer's key is of another kind"
    )]
    Algorithm,
    #[error(
        "a CA has the issuer's name, but the signature is not by its key, or that is RSA of less than 2048 bits"
    )]
    OtherKey,
    #[error("there are more CAs between them than the issuer allows (pathlen)")]
    TooLong,
    #[error("it takes more than 100 signatures to be found")]
    TooManyWays,
    #[error("it requires the checking of certificate policies, which is not supported")]
    Policy,
    #[error("extendedKeyUsage does not allow a server (serverAuth)")]
    Purpose,
    #[error("by an issuer's name constraints, {0}")]
    Constraints(String),
}

impl Distrust {
    pub fn of_names(certificate: &Certificate<'_>, name: &ServerName<'_>) -> Self {
        let expected = name.to_owned();
        if certificate.alternatives.is_none() {
            return Self::NoNames(expected);
        }
        let addresses = certificate.names.addresses.iter();
        let addresses = addresses.filter_map(|bytes| names::ip(bytes));
        let names = certificate.names.dns.iter().map(|name| (*name).to_owned());
        Self::Name {
            expected,
            valid: names
                .chain(addresses.map(|address| address.to_string()))
                .take(SHOWN + 1)
                .collect(),
        }
    }
}

fn shown(names: &[String]) -> String {
    match names.get(..SHOWN) {
        Some(first) if names.len() > SHOWN => format!("{} and others", first.join(", ")),
        _ if names.is_empty() => "no DNS name and no address".to_owned(),
        _ => names.join(", "),
    }
}

/// With the alert that the server gets. Only what rustls has no alert for goes as another error, whose words
/// `words::told` shows.
impl From<Distrust> for rustls::Error {
    fn from(distrust: Distrust) -> Self {
        let at = |seconds: i64| {
            let seconds = u64::try_from(seconds).unwrap_or_default();
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        };
        Self::InvalidCertificate(match distrust {
            Distrust::UnknownIssuer => CertificateError::UnknownIssuer,
            Distrust::Own(Flaw::Expired { now, not_after }) => CertificateError::ExpiredContext {
                time: at(now),
                not_after: at(not_after),
            },
            Distrust::Own(Flaw::Early { now, not_before }) => {
                CertificateError::NotValidYetContext {
                    time: at(now),
                    not_before: at(not_before),
                }
            }
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}
