//! A certificate as the verification needs it, read with the strictness of Go's `x509.ParseCertificate`:
//! what Go cannot parse takes no part in a chain.

use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension};
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::{TbsCertificate, X509Version};

use super::constraints::is_domain;

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
    pub path_length: Option<u32>,
}

/// Names of the kinds that constraints speak of.
#[derive(Default)]
pub struct Names<'a> {
    pub dns: Vec<&'a str>,
    /// 4 or 16 bytes each.
    pub addresses: Vec<&'a [u8]>,
    pub mails: Vec<&'a str>,
    pub uris: Vec<&'a str>,
}

/// One side of name constraints.
#[derive(Default)]
pub struct Subtrees<'a> {
    pub dns: Vec<&'a str>,
    /// An address and its mask.
    pub addresses: Vec<(&'a [u8], &'a [u8])>,
    pub mails: Vec<&'a str>,
    pub uris: Vec<&'a str>,
}

impl Subtrees<'_> {
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty()
            && self.addresses.is_empty()
            && self.mails.is_empty()
            && self.uris.is_empty()
    }
}

/// The certificate in a DER, or nothing where Go would refuse it.
pub fn parse(der: &[u8]) -> Option<Certificate<'_>> {
    let (rest, parsed) = parse_x509_certificate(der).ok()?;
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
        certificate.read_extensions(tbs)?;
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

impl<'a> Certificate<'a> {
    fn read_extensions(&mut self, tbs: &TbsCertificate<'a>) -> Option<()> {
        // None where one is there twice.
        tbs.extensions_map().ok()?;
        for extension in tbs.extensions() {
            let parsed = extension.parsed_extension();
            let is_key_id = matches!(
                parsed,
                ParsedExtension::SubjectKeyIdentifier(_)
                    | ParsedExtension::AuthorityKeyIdentifier(_)
            );
            // They are hints, and must not be critical (RFC 5280, 4.2.1.1 and 4.2.1.2).
            if extension.critical && is_key_id {
                return None;
            }
            let is_known = self.read_extension(extension.value, parsed)?;
            self.has_unknown_critical |= extension.critical && !is_known;
        }
        Some(())
    }

    /// Whether an extension is known; nothing where it is broken.
    fn read_extension(&mut self, value: &'a [u8], parsed: &ParsedExtension<'a>) -> Option<bool> {
        match parsed {
            ParsedExtension::ParseError { .. } => return None,
            ParsedExtension::KeyUsage(usage) => {
                // Go takes one without a bit for none.
                self.may_sign = (usage.flags != 0).then(|| usage.key_cert_sign());
            }
            ParsedExtension::BasicConstraints(found) => {
                self.constraints = Some(BasicConstraints {
                    is_ca: found.ca,
                    path_length: found.path_len_constraint,
                });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let is_empty = !(usage.client_auth
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing)
                    && usage.other.is_empty();
                let may_serve = usage.any || usage.server_auth;
                self.may_serve = (may_serve || !is_empty).then_some(may_serve);
            }
            ParsedExtension::SubjectAlternativeName(found) => {
                self.alternatives = Some(value);
                for name in &found.general_names {
                    self.names.add(name)?;
                }
                return Some(!self.names.is_empty());
            }
            ParsedExtension::NameConstraints(found) => {
                if found.permitted_subtrees.is_none() && found.excluded_subtrees.is_none() {
                    return None;
                }
                let permitted = found.permitted_subtrees.iter().flatten();
                let excluded = found.excluded_subtrees.iter().flatten();
                let are_known = (self.permitted.add(permitted)?, self.excluded.add(excluded)?);
                return Some(are_known == (true, true));
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = id.0,
            ParsedExtension::AuthorityKeyIdentifier(found) => {
                self.authority_key_id = found.key_identifier.as_ref().map_or(&[], |id| id.0);
            }
            ParsedExtension::PolicyConstraints(found) => {
                self.requires_policy |= found.require_explicit_policy.is_some();
            }
            ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_)
            | ParsedExtension::CRLDistributionPoints(_) => (),
            _ => return Some(false),
        }
        Some(true)
    }
}

impl<'a> Names<'a> {
    fn is_empty(&self) -> bool {
        self.dns.is_empty()
            && self.addresses.is_empty()
            && self.mails.is_empty()
            && self.uris.is_empty()
    }

    /// Nothing where a name of a kind that Go reads is broken.
    fn add(&mut self, name: &GeneralName<'a>) -> Option<()> {
        match name {
            GeneralName::DNSName(name) if name.is_ascii() => self.dns.push(name),
            GeneralName::RFC822Name(name) if name.is_ascii() => self.mails.push(name),
            GeneralName::URI(name) if name.is_ascii() => self.uris.push(name),
            GeneralName::DNSName(_) | GeneralName::RFC822Name(_) | GeneralName::URI(_) => {
                return None;
            }
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {
                self.addresses.push(bytes);
            }
            GeneralName::IPAddress(_) => return None,
            GeneralName::Invalid(tag, _) if is_read(*tag) => return None,
            _ => (),
        }
        Some(())
    }
}

impl<'a> Subtrees<'a> {
    /// Whether all are of a kind that we check; nothing where one is broken.
    fn add<'s>(&mut self, trees: impl Iterator<Item = &'s GeneralSubtree<'a>>) -> Option<bool>
    where
        'a: 's,
    {
        let mut is_known = true;
        for tree in trees {
            match &tree.base {
                GeneralName::DNSName(name) if is_domain(name, true) => self.dns.push(name),
                GeneralName::URI(name) if is_domain(name, true) => self.uris.push(name),
                GeneralName::RFC822Name(name)
                    if name.is_ascii() && (name.contains('@') || is_domain(name, true)) =>
                {
                    self.mails.push(name);
                }
                GeneralName::DNSName(_) | GeneralName::URI(_) | GeneralName::RFC822Name(_) => {
                    return None;
                }
                GeneralName::IPAddress(bytes) if matches!(bytes.len(), 8 | 32) => {
                    let (address, mask) = bytes.split_at(bytes.len() / 2);
                    if !is_mask(mask) {
                        return None;
                    }
                    self.addresses.push((address, mask));
                }
                GeneralName::IPAddress(_) => return None,
                GeneralName::Invalid(tag, _) if is_read(*tag) => return None,
                _ => is_known = false,
            }
        }
        Some(is_known)
    }
}

/// The kinds of names that Go reads: mail, DNS, URI, address.
fn is_read(tag: Tag) -> bool {
    matches!(tag.0, 1 | 2 | 6 | 7)
}

/// Ones, then zeros alone.
fn is_mask(mask: &[u8]) -> bool {
    let mut behind = mask.iter().skip_while(|&&byte| byte == 0xff);
    behind
        .next()
        .is_none_or(|first| first.leading_ones() + first.trailing_zeros() == 8)
        && behind.all(|&byte| byte == 0)
}
