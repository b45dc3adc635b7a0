//! TLS settings from files and inline certificates to a rustls configuration.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::parse_x509_certificate;

use crate::spec::Tls;

/// More than any bundle of CAs.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// What rustls' words for an alert begin with. HTTP/2 keeps nothing of an error but its words.
pub const ALERT: &str = "received fatal alert: ";

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read.
    #[error("{field} {path}: {source}")]
    Read {
        /// Which setting names it.
        field: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no usable certificate or key in it.
    #[error("{field}: {problem}")]
    Content {
        /// Which setting it came by.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Only one of certificate and key is given.
    #[error("vaultTLSClientCertPath and vaultTLSClientKeyPath go together: {0} is missing")]
    Half(&'static str),
    /// rustls refuses the combination.
    #[error("TLS settings: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What tells one state of the files that settings name from another: identity, length and time of change
/// of each, links followed. A ConfigMap or Secret that is rotated gets new files behind its links.
pub fn fingerprint(settings: &Tls) -> Vec<(u64, u64, u64, i64)> {
    let files = [
        &settings.ca_file,
        &settings.ca_directory,
        &settings.client_certificate,
        &settings.client_key,
    ];
    let named = files.into_iter().flatten().cloned();
    let listed = settings.ca_directory.iter().flat_map(|directory| {
        let entries = fs::read_dir(directory).ok();
        entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    });
    let mut states: Vec<_> = named
        .chain(listed)
        .filter_map(|path| fs::metadata(path).ok())
        .map(|state| {
            let changed = state.mtime().saturating_mul(1_000_000_000) + state.mtime_nsec();
            (state.dev(), state.ino(), state.len(), changed)
        })
        .collect();
    // A directory lists its entries in any order.
    states.sort_unstable();
    states
}

/// rustls among an error's causes. An I/O error hides what it was made of from `source`, and may have
/// been made of another one.
pub fn fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(fault) = error.downcast_ref::<rustls::Error>() {
        return Some(fault);
    }
    let hidden = error
        .downcast_ref::<io::Error>()
        .and_then(|error| error.get_ref());
    let hidden = hidden.and_then(|hidden| fault(hidden));
    hidden.or_else(|| error.source().and_then(fault))
}

/// A fault of TLS in words. What the server refuses of us, it says by an alert's name alone.
pub fn told(text: &str) -> String {
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
        _ => text.to_owned(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The configuration for settings. Files are read now; HTTP/2 is offered by the connector.
pub fn config(settings: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if settings.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(Arc::clone(&provider))))
    } else {
        builder.with_root_certificates(roots(settings)?)
    };
    match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("vaultTLSClientCertPath", certificate)?;
            let identity = identity(&provider, chain, private_key(key)?)?;
            let shown = Arc::new(SingleCertAndKey::from(identity));
            Ok(builder.with_client_cert_resolver(shown))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) => Err(TlsError::Half("the key")),
        (None, Some(_)) => Err(TlsError::Half("the certificate")),
    }
}

/// Our certificate with its key. Not by rustls' own check, which reads no X.509 version 1: `openssl x509 -req`
/// makes such client certificates, and the servers and Go's clients take them.
fn identity(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    let key = provider.key_provider.load_private_key(key)?;
    let first = chain
        .first()
        .and_then(|first| parse_x509_certificate(first).ok());
    let theirs = first.map(|(_, certificate)| certificate.tbs_certificate.subject_pki.raw.to_vec());
    if let (Some(theirs), Some(ours)) = (theirs, key.public_key())
        && theirs != ours.as_ref()
    {
        return Err(TlsError::Content {
            field: "vaultTLSClientKeyPath",
            problem: "this key and vaultTLSClientCertPath do not belong together".to_owned(),
        });
    }
    Ok(CertifiedKey::new(chain, key))
}

/// A configuration for a connector that will speak plain http only.
pub fn unused() -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

/// Inline certificates over a file over a directory over the system's: the most particular wins.
fn roots(settings: &Tls) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let (field, found) = if let Some(pem) = &settings.ca_pem {
        ("vaultCACert", parse("vaultCACert", pem.as_bytes())?)
    } else if let Some(file) = &settings.ca_file {
        ("vaultCACertPath", certificates("vaultCACertPath", file)?)
    } else if let Some(directory) = &settings.ca_directory {
        ("vaultCADirectory", directory_certificates(directory)?)
    } else {
        let system = rustls_native_certs::load_native_certs();
        ("the system's CA certificates", system.certs)
    };
    let (added, _) = store.add_parsable_certificates(found);
    if added == 0 {
        return Err(TlsError::Content {
            field,
            problem: "no usable CA certificate in PEM; name the server's CA by vaultCACertPath or -vault-tls-ca-cert".to_owned(),
        });
    }
    Ok(store)
}

fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = contents(path).map_err(|source| TlsError::Read {
        field,
        path: path.to_owned(),
        source,
    })?;
    parse(field, &bytes)
}

/// A file's content. A tenant names it: only a regular file of a certificate's size is read, for a device
/// would be read without end, and a pipe would hold the thread.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn parse(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Content {
        field,
        problem: format!("not PEM: {error}"),
    })?;
    if found.is_empty() {
        return Err(TlsError::Content {
            field,
            problem: "no certificate in PEM".to_owned(),
        });
    }
    Ok(found)
}

/// Every regular file of a directory, links followed: a ConfigMap mounts its files as links through
/// `..data`, which is a directory itself and is passed over.
fn directory_certificates(directory: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let field = "vaultCADirectory";
    let unreadable = |source| TlsError::Read {
        field,
        path: directory.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // A dangling link is no certificate, and no reason to distrust the others.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            let bytes = contents(&path).map_err(unreadable)?;
            // A file that holds none is no fault: CA directories carry hash links and READMEs.
            found.extend(CertificateDer::pem_slice_iter(&bytes).flatten());
        }
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let field = "vaultTLSClientKeyPath";
    let bytes = contents(path).map_err(|source| TlsError::Read {
        field,
        path: path.to_owned(),
        source,
    })?;
    let bytes = zeroize::Zeroizing::new(bytes);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| TlsError::Content {
        field,
        problem: "no private key in PEM (PKCS#1, PKCS#8 or SEC1, not encrypted)".to_owned(),
    })
}

/// `vaultSkipTLSVerify`: any certificate will do, though the handshake's signatures are still checked.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(certificate: &str, key: &str) -> Result<ClientConfig, TlsError> {
        let at = |name: &str| Some(Path::new("tests/fixtures/keys").join(name));
        config(&Tls {
            client_certificate: at(certificate),
            client_key: at(key),
            skip_verify: true,
            ..Tls::default()
        })
    }

    #[test]
    fn a_client_certificate_of_version_1_is_taken_with_its_own_key_alone() {
        assert!(with("p256.v1.crt", "p256.sec1.pem").is_ok());
        let told = with("p256.v1.crt", "rsa.pkcs1.pem")
            .unwrap_err()
            .to_string();
        assert!(told.contains("do not belong together"), "{told}");
    }

    #[test]
    fn alerts_about_our_certificate_are_told_in_words() {
        let told = told("connection error: received fatal alert: UnknownCA: more");
        assert!(told.contains("does not accept our client certificate (UnknownCA)"));
        assert_eq!(super::told("certificate expired"), "certificate expired");
    }
}
