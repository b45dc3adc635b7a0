//! TLS settings from files and inline certificates to a rustls configuration that trusts what Go's client
//! trusts.

mod certificate;
mod chain;
mod constraints;
mod distrust;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod names;
mod pem;
#[cfg(test)]
mod tests;
mod verifier;
mod words;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder};

pub use files::fingerprint;
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

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
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

/// The configuration for settings. Files are read now; HTTP/2 is offered by the connector.
pub fn config(settings: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let shown = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => Some(files::identity(&provider, certificate, key)?),
        (None, None) => None,
        (Some(_), None) => return Err(TlsError::Half("the key")),
        (None, Some(_)) => return Err(TlsError::Half("the certificate")),
    };
    let trusted = match settings.skip_verify {
        true => None,
        false => Some(files::trusted(settings)?),
    };
    let builder = trusting(provider, trusted)?;
    Ok(match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
        None => builder.with_no_client_auth(),
    })
}

/// A configuration for a connector that will speak plain http only.
pub fn unused() -> Result<ClientConfig, TlsError> {
    Ok(trusting(provider(), Some(Trusted::default()))?.with_no_client_auth())
}
