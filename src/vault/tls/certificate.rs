//! A certificate as the verification needs it, read with the strictness of Go's `x509.ParseCertificate`:
//! what Go cannot parse takes no part in a chain. x509-parser reads all but the extensions: it passes over
//! what it cannot read of them.

use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::nom::Parser;
use x509_parser::prelude::{X509CertificateParser, X509Version};

use super::der::{Reader, constructed};
use super::extensions::{Names, Subtrees};

/// The longest that is read, in bytes: no handshake has room for more, and a CA with names by the hundred
/// thousand would take seconds at each.
pub const LARGEST: usize = 64 * 1024;

/// Borrowed from its DER: the certificates of a bundle are kept once, as they came.
#[derive(Default)]
pub struct Certificate<'a> {
    pub der: &'a [u8],
    /// What is signed.
    pub signed: &'a [u8],
    /// The content of the signature's AlgorithmIdentifier.
    pub signature_algorithm: &'a [u8],
    pub signature: &'a [u8],
    pub key: PublicKey<'a>,
    pub subject: &'a [u8],
    pub issuer: &'a [u8],
    /// Seconds since 1970, both within it.
    pub valid: (i64, i64),
    pub is_version_3: bool,
    pub constraints: Option<BasicConstraints>,
    /// Whether `keyUsage` allows to sign certificates; none where it is absent.
    pub may_sign: Option<bool>,
    /// Whether `extendedKeyUsage` allows a server; none where it is absent.
    pub may_serve: Option<bool>,
    /// The value of `subjectAltName`.
    pub alternatives: Option<&'a [u8]>,
    pub names: Names<'a>,
    /// Whether it has name constraints, of whatever kind.
    pub constrains_names: bool,
    pub permitted: Subtrees<'a>,
    pub excluded: Subtrees<'a>,
    pub subject_key_id: &'a [u8],
    pub authority_key_id: &'a [u8],
    /// It asks for the checking of policies, which we do not do.
    pub requires_policy: bool,
    pub has_unknown_critical: bool,
}

/// A public key by its parts.
#[derive(Default)]
pub struct PublicKey<'a> {
    /// The whole SubjectPublicKeyInfo.
    pub info: &'a [u8],
    /// The content of its AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    pub bits: &'a [u8],
}

#[derive(Clone, Copy)]
pub struct BasicConstraints {
    pub is_ca: bool,
    /// Intermediates below it, at most.
    pub path_length: Option<u64>,
}

/// The certificate in a DER, or nothing where it is too long, or Go would refuse it.
pub fn parse(der: &[u8]) -> Option<Certificate<'_>> {
    if der.len() > LARGEST {
        return None;
    }
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let (rest, parsed) = parser.parse(der).ok()?;
    let tbs = &parsed.tbs_certificate;
    let is_negative = tbs.raw_serial().first().is_some_and(|first| *first >= 0x80);
    if !rest.is_empty() || is_negative || tbs.version.0 > X509Version::V3.0 {
        return None;
    }
    if tbs.signature != parsed.signature_algorithm {
        return None;
    }
    let (_, whole) = Any::from_der(der).ok()?;
    let (behind, _) = Any::from_der(whole.data).ok()?;
    let signed = whole
        .data
        .get(..whole.data.len().checked_sub(behind.len())?)?;
    let (behind, algorithm) = Any::from_der(behind).ok()?;
    let (_, signature) = Any::from_der(behind).ok()?;
    let mut certificate = Certificate {
        der,
        signed,
        signature_algorithm: algorithm.data,
        signature: bits(signature.data)?,
        key: key(tbs.subject_pki.raw)?,
        subject: tbs.subject.as_raw(),
        issuer: tbs.issuer.as_raw(),
        valid: (
            tbs.validity.not_before.timestamp(),
            tbs.validity.not_after.timestamp(),
        ),
        is_version_3: tbs.version == X509Version::V3,
        ..Certificate::default()
    };
    if certificate.is_version_3 {
        let (_, body) = Any::from_der(signed).ok()?;
        let mut fields = Reader::new(body.data);
        while !fields.is_empty() {
            let (tag, content) = fields.any()?;
            if tag == constructed(3) {
                certificate.read_extensions(content)?;
            }
        }
    }
    Some(certificate)
}

/// `id-ecPublicKey`, in DER.
const ELLIPTIC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
/// The curves that Go knows, in DER: P-224, P-256, P-384 and P-521.
const CURVES: [&[u8]; 4] = [
    b"\x06\x05\x2b\x81\x04\x00\x21",
    b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
    b"\x06\x05\x2b\x81\x04\x00\x22",
    b"\x06\x05\x2b\x81\x04\x00\x23",
];

/// A SubjectPublicKeyInfo's parts; nothing for a key on a curve that Go does not know.
fn key(info: &[u8]) -> Option<PublicKey<'_>> {
    let (_, whole) = Any::from_der(info).ok()?;
    let (behind, algorithm) = Any::from_der(whole.data).ok()?;
    let (_, key) = Any::from_der(behind).ok()?;
    let curve = algorithm.data.strip_prefix(ELLIPTIC);
    if curve.is_some_and(|curve| !CURVES.contains(&curve)) {
        return None;
    }
    Some(PublicKey {
        info,
        algorithm: algorithm.data,
        bits: bits(key.data)?,
    })
}

/// The bytes of a BIT STRING, of which none may be unused: no key and no signature has such.
fn bits(string: &[u8]) -> Option<&[u8]> {
    string.strip_prefix(&[0])
}
