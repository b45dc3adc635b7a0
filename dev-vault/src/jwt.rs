//! JSON Web Tokens: taken apart, and their signatures checked.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

/// What the server says of a token for others (`hashicorp/cap`, `jwt/jwt.go`, as the next three).
pub const AUDIENCE: &str =
    "invalid audience (aud) claim: audience claim does not match any expected audience";
/// Of one whose time is over.
pub const EXPIRED: &str = "invalid expiration time (exp) claim: token is expired";
/// Of one whose time has not come.
pub const NOT_YET: &str = "invalid not before (nbf) claim: token not yet valid";
/// Of one without times.
pub const NO_TIMES: &str =
    "no issued at (iat), not before (nbf), or expiration time (exp) claims in token";

/// How far two clocks may be apart, in seconds.
const SKEW: u64 = 60;
/// What is assumed between the times of a token that does not have them all, in seconds.
const LEEWAY: u64 = 150;

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

    fn time(&self, claim: &str) -> Option<u64> {
        self.claims.get(claim).and_then(Value::as_u64)
    }

    /// Whether it says anything of its time.
    pub fn has_times(&self) -> bool {
        ["iat", "nbf", "exp"]
            .iter()
            .any(|claim| self.time(claim).is_some())
    }

    /// Whether its end is more than a minute past; `now` in seconds since 1970. Without `exp` it ends soon
    /// after its other times.
    pub fn expired(&self, now: u64) -> bool {
        let begin = || self.time("iat").max(self.time("nbf"));
        let end = self
            .time("exp")
            .or_else(|| begin().map(|begin| begin + LEEWAY));
        end.is_some_and(|end| end + SKEW < now)
    }

    /// Whether its begin is more than a minute off. Without `nbf` that is when it was issued, and without
    /// that too, shortly before its end.
    pub fn not_yet_valid(&self, now: u64) -> bool {
        let issued = || self.time("iat");
        let late = || self.time("exp").map(|end| end.saturating_sub(LEEWAY));
        let begin = self.time("nbf").or_else(issued).or_else(late);
        begin.is_some_and(|begin| begin > now + SKEW)
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

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use rcgen::KeyPair;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn with(claims: Value) -> Jwt {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256" });
        Jwt::parse(&format!("{}.{}.AAAA", part(&header), part(&claims))).unwrap()
    }

    #[test]
    fn times_are_judged_with_a_minutes_grace() {
        assert!(!with(json!({ "exp": NOW - 60 })).expired(NOW));
        assert!(with(json!({ "exp": NOW - 61 })).expired(NOW));
        assert!(!with(json!({ "nbf": NOW + 60 })).not_yet_valid(NOW));
        assert!(with(json!({ "nbf": NOW + 61 })).not_yet_valid(NOW));
        assert!(with(json!({ "exp": NOW + 600 })).not_yet_valid(NOW));
        assert!(!with(json!({ "exp": NOW + 600, "iat": NOW })).not_yet_valid(NOW));
        assert!(with(json!({ "iat": NOW - 211 })).expired(NOW));
        assert!(!with(json!({ "sub": "x" })).has_times());
    }

    #[test]
    fn only_the_right_key_has_signed_it() {
        let key = KeyPair::generate().unwrap();
        let random = SystemRandom::new();
        let der = key.serialize_der();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).unwrap();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256" })), part(json!({})));
        let signature = signer.sign(&random, signed.as_bytes()).unwrap();
        let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let token = Jwt::parse(&text).unwrap();
        assert!(token.signed_by(&key.public_key_pem()));
        let other = KeyPair::generate().unwrap();
        assert!(!token.signed_by(&other.public_key_pem()));
        assert!(!token.signed_by("no key"));
        let unsigned = format!("{}.{}.", part(json!({ "alg": "none" })), part(json!({})));
        let unsigned = Jwt::parse(&unsigned).unwrap();
        assert!(!unsigned.signed_by(&key.public_key_pem()));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in ["", "abc", "a.b.c", "e30.e30.!"] {
            assert!(Jwt::parse(text).is_none(), "{text}");
        }
    }
}
