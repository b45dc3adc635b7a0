//! The verification that rustls asks for in a handshake.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};

use super::certificate::{Certificate, parse};
use super::chain::{Case, Trusted};

/// Verifies a server. The handshake's signatures are always checked; of `vaultSkipTLSVerify`, nothing else.
#[derive(Debug)]
pub struct Verifier {
    /// None: any certificate will do.
    pub trusted: Option<Trusted>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    parse(der).ok_or(CertificateError::BadEncoding.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let own = parsed(own)?;
        if let Some(trusted) = &self.trusted {
            let sent: Vec<_> = sent.iter().map(parsed).collect::<Result<_, _>>()?;
            let case = Case {
                trusted,
                sent: &sent,
                algorithms: &self.algorithms,
                now,
            };
            case.decide(&own, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    /// rustls' own takes no certificate of version 1, which a server whose verification is skipped may show.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let own = parsed(own)?;
        let mapped = self.algorithms.mapping.iter();
        let algorithms = mapped.filter(|(scheme, _)| *scheme == signed.scheme);
        let is_good = algorithms
            .flat_map(|(_, algorithms)| algorithms.iter())
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == own.key.algorithm)
            .any(|algorithm| {
                algorithm
                    .verify_signature(own.key.bits, message, signed.signature())
                    .is_ok()
            });
        match is_good {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let own = parsed(own)?;
        let key = SubjectPublicKeyInfoDer::from(own.key.info);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
