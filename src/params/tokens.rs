//! The pod's service-account tokens, as kubelet hands them over.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{LARGEST, Reader, TOKENS};
use crate::redacted::Secret;

/// A token that has just expired may still be taken: servers allow for a minute of skew.
const LEEWAY_SECONDS: i64 = 60;

/// The pod's service-account token.
pub struct PodToken {
    /// The token.
    pub jwt: Secret,
    /// When it ends; unknown where kubelet named no time, or one that cannot be read.
    expires: Option<Timestamp>,
}

impl PodToken {
    /// Checked by a login alone: a poll that is served by a live session sends no token.
    ///
    /// # Errors
    /// The token has expired at `now`.
    pub fn unexpired(&self, audience: &str, now: SystemTime) -> Result<(), ExpiredToken> {
        let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
        match self.expires {
            Some(at) if at.as_second() + LEEWAY_SECONDS < now.as_second() => Err(ExpiredToken {
                audience: audience.to_owned(),
                at: at.to_string(),
            }),
            // Without a time the server judges: the token itself names one.
            Some(_) | None => Ok(()),
        }
    }
}

/// The token that a login needs has expired.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpiredToken {
    audience: String,
    at: String,
}

impl fmt::Display for ExpiredToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{TOKENS}: the token for audience {:?} expired at {}: set `requiresRepublish: true` on the CSIDriver object, so that kubelet sends fresh ones, and check the node's clock",
            self.audience, self.at
        )
    }
}

impl std::error::Error for ExpiredToken {}

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
    token: Secret,
    #[serde(rename = "expirationTimestamp", default)]
    expires: Option<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::from)
}

impl From<OfferedToken> for PodToken {
    fn from(offered: OfferedToken) -> Self {
        Self {
            jwt: offered.token,
            expires: offered.expires.and_then(|text| text.parse().ok()),
        }
    }
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
        offered.retain(|_, offered| !offered.token.expose().is_empty());
        offered
    }
}
