//! TLS settings from files and inline certificates to a rustls configuration that trusts what Go's client
//! trusts.

mod certificate;
mod chain;
mod constraints;
mod der;
mod distrust;
mod extensions;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod names;
mod pem;
mod places;
#[cfg(test)]
mod tests;
mod uri;
mod verifier;
mod words;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, SignatureScheme};
use rustls_pki_types::alg_id;

pub use files::{Fingerprint, fingerprint, names_files};
pub use places::TlsFiles;
pub use words::{ALERT, fault, is_plain, told, told_text, wants_tls};

use crate::spec::Tls;
use chain::Trusted;
use verifier::Verifier;

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

/// What Go's client verifies: rustls offers ML-DSA besides.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let offered = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let unknown = [alg_id::ML_DSA_44, alg_id::ML_DSA_65, alg_id::ML_DSA_87];
    let schemes = [
        SignatureScheme::ML_DSA_44,
        SignatureScheme::ML_DSA_65,
        SignatureScheme::ML_DSA_87,
    ];
    let mut all = offered.all.to_vec();
    all.retain(|algorithm| !unknown.contains(&algorithm.signature_alg_id()));
    let mut mapping = offered.mapping.to_vec();
    mapping.retain(|(scheme, _)| !schemes.contains(scheme));
    // Once in a process: rustls wants them to live as long as it.
    WebPkiSupportedAlgorithms {
        all: all.leak(),
        mapping: mapping.leak(),
    }
});

fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: *ALGORITHMS,
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

/// A configuration that trusts these, or anything.
fn trusting(
    provider: CryptoProvider,
    trusted: Option<Trusted>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let verifier = Verifier {
        trusted,
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    Ok(builder
        .with_safe_default_protocol_versions()?
        // By our own rules, which are Go's: see `chain`.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// A configuration, and the memory that its trusted certificates take, in bytes, about.
#[derive(Debug)]
pub struct Prepared {
    pub config: ClientConfig,
    pub bytes: usize,
}

/// The configuration for settings. Files are read now, for as long as their file system takes; HTTP/2 is
/// offered by the connector.
pub fn config(settings: &Tls, places: &TlsFiles) -> Result<Prepared, TlsError> {
    let provider = provider();
    let shown = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            Some(files::identity(&provider, certificate, key, places)?)
        }
        (None, None) => None,
        (Some(_), None) => return Err(TlsError::Half("the key")),
        (None, Some(_)) => return Err(TlsError::Half("the certificate")),
    };
    let trusted = match settings.skip_verify {
        true => None,
        false => Some(files::trusted(settings, places)?),
    };
    let bytes = trusted.as_ref().map_or(0, Trusted::bytes);
    let builder = trusting(provider, trusted)?;
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
        None => builder.with_no_client_auth(),
    };
    // A resumed session is not verified again: neither its time nor its name.
    config.resumption = Resumption::disabled();
    Ok(Prepared { config, bytes })
}

/// A configuration for a connector that will speak plain http only.
pub fn unused() -> Result<Prepared, TlsError> {
    let config = trusting(provider(), Some(Trusted::default()))?.with_no_client_auth();
    Ok(Prepared { config, bytes: 0 })
}
