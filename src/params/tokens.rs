//! The pod's service-account tokens, as kubelet hands them over.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{Fault, Faults, LARGEST, Reader, TOKENS};
use crate::redacted::Secret;

/// A token that has just expired may still be taken: servers allow for a minute of skew.
const LEEWAY_SECONDS: i64 = 60;

/// The pod's service-account token.
pub struct PodToken {
    /// The token.
    pub jwt: Secret,
}

/// The token that a Mount came with, or what there was instead.
pub struct PodTokens {
    /// The token for the wanted audience.
    pub wanted: Option<PodToken>,
    /// The audiences there were tokens for.
    pub offered: Vec<String>,
    /// The audience that the class names itself.
    pub named_audience: Option<String>,
}

#[derive(Deserialize)]
pub struct OfferedToken {
    #[serde(deserialize_with = "secret")]
    pub token: Secret,
    #[serde(rename = "expirationTimestamp", default)]
    expires: Option<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::from)
}

pub fn unexpired(token: &OfferedToken, audience: &str, now: SystemTime) -> Result<(), Faults> {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let expires = token.expires.as_ref();
    // A time that cannot be read tells nothing: the server knows the token's own.
    let Some(expires) = expires.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return Ok(());
    };
    if expires.as_second() + LEEWAY_SECONDS >= now.as_second() {
        return Ok(());
    }
    Err(Faults {
        faults: vec![Fault::new(
            TOKENS,
            format!("the token for audience {audience:?} expired at {expires}"),
            "set `requiresRepublish: true` on the CSIDriver object, so that kubelet sends fresh ones, and check the node's clock",
        )],
        warnings: Vec::new(),
        expired_token: true,
    })
}

impl Reader {
    /// The tokens, where a cluster hands them over with the secrets (`serviceAccountTokenInSecrets`).
    pub fn tokens_in(&mut self, secrets: &str) -> Option<String> {
        if secrets.is_empty() || secrets == "null" {
            return None;
        }
        if secrets.len() > LARGEST {
            self.fault(
                "secrets",
                format!("{} bytes are more than {LARGEST}", secrets.len()),
                "shorten the Secret of nodePublishSecretRef",
            );
            return None;
        }
        match serde_json::from_str::<BTreeMap<String, String>>(secrets) {
            Ok(mut secrets) => secrets.remove(TOKENS),
            Err(_) => {
                self.fault(
                    "secrets",
                    "no JSON map of strings",
                    "this is for the CSI driver to write; see its log",
                );
                None
            }
        }
    }

    pub fn offered(&mut self, tokens: Option<&str>) -> BTreeMap<String, OfferedToken> {
        let Some(tokens) = tokens.filter(|tokens| !matches!(*tokens, "" | "null")) else {
            return BTreeMap::new();
        };
        let mut offered: BTreeMap<String, OfferedToken> = serde_json::from_str(tokens)
            .unwrap_or_else(|_| {
                // The parser's message could quote a token.
                self.fault(
                    TOKENS,
                    "no JSON map of audiences to tokens",
                    "this is for kubelet to write; see its log",
                );
                BTreeMap::new()
            });
        // An empty one is none: the incumbent mints its own in its place.
        offered.retain(|_, token| !token.token.expose().is_empty());
        offered
    }
}
