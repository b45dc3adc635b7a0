//! JSON Web Tokens: taken apart, and their signatures checked.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

/// A token, not yet believed.
pub struct Jwt {
    pub claims: Value,
    algorithm: String,
    signed: String,
    signature: Vec<u8>,
}

impl Jwt {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| -> Option<Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        Some(Self {
            claims: json(claims)?,
            algorithm: json(header)?.get("alg")?.as_str()?.to_owned(),
            signed: signed.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether a public key (PEM) has signed it.
    pub fn signed_by(&self, pem: &str) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm.as_str() {
            "ES256" => &ECDSA_P256_SHA256_FIXED,
            "RS256" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()) else {
            return false;
        };
        let Some(key) = bare_key(&key) else {
            return false;
        };
        UnparsedPublicKey::new(algorithm, key)
            .verify(self.signed.as_bytes(), &self.signature)
            .is_ok()
    }

    pub fn text(&self, name: &str) -> &str {
        self.claims
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// `aud`, which may be one or many.
    pub fn audiences(&self) -> Vec<String> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many
                .iter()
                .filter_map(|one| one.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether `exp` is more than a minute past; `now` in seconds since 1970.
    pub fn expired(&self, now: u64) -> bool {
        let end = self.claims.get("exp").and_then(Value::as_u64);
        end.is_some_and(|end| end + 60 < now)
    }
}

/// The key within a SubjectPublicKeyInfo: `SEQUENCE { SEQUENCE { … }, BIT STRING }`, as ring wants it.
fn bare_key(info: &[u8]) -> Option<&[u8]> {
    let (_, inner) = element(info)?;
    let (after, _) = element(inner)?;
    let (_, bits) = element(after)?;
    // The count of unused bits comes first.
    bits.get(1..)
}

/// A DER element's content, and what follows it: `(rest, content)`.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (start, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first & 0x7f;
        let bytes = der.get(2..2 + count)?;
        let length = bytes
            .iter()
            .fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        (2 + count, length)
    };
    let content = der.get(start..start.checked_add(length)?)?;
    Some((der.get(start + length..)?, content))
}
