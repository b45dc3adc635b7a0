//! Engines of clouds whose credentials have no lease and tell their end otherwise: sessions of AWS (Vault
//! `builtin/logical/aws`, roles with `no_lease`) and access tokens of GCP (`vault-plugin-secrets-gcp`).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::answer::{Answer, Request};
use crate::text;

/// Which cloud it plays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Aws,
    Gcp,
}

pub struct Cloud {
    pub kind: Kind,
    /// The roles, with the lifetime of what they give.
    roles: BTreeMap<String, Duration>,
}

impl Cloud {
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            roles: BTreeMap::new(),
        }
    }

    pub fn handle(&mut self, request: &Request, path: &str) -> Answer {
        let parts: Vec<&str> = path.split('/').collect();
        let gives = request.reads() || request.writes();
        match (self.kind, parts.as_slice()) {
            (_, ["roles" | "roleset", name]) if request.writes() => {
                let lifetime = request.duration("ttl");
                let lifetime = lifetime.unwrap_or(Duration::from_secs(3600));
                self.roles.insert((*name).to_owned(), lifetime);
                Answer::no_content()
            }
            (Kind::Aws, ["sts" | "creds", name]) if gives => self.session(name),
            (Kind::Gcp, ["roleset", name, "token"]) if gives => self.token(name),
            _ => Answer::unsupported(),
        }
    }

    fn session(&self, name: &str) -> Answer {
        let Some(lifetime) = self.roles.get(name) else {
            return Answer::error(400, format!("Role \"{name}\" not found"));
        };
        Answer::data(json!({
            "access_key": format!("ASIA{}", text::random(16)),
            "secret_key": text::random(40),
            "security_token": text::random(60),
            "arn": "arn:aws:sts::1:assumed-role/app/web",
            "ttl": lifetime.as_secs(),
        }))
    }

    fn token(&self, name: &str) -> Answer {
        let Some(lifetime) = self.roles.get(name) else {
            return Answer::error(400, format!("role set \"{name}\" does not exist"));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = now.unwrap_or_default() + *lifetime;
        Answer::data(json!({
            "token": text::random(60),
            "token_ttl": lifetime.as_secs(),
            "expires_at_seconds": end.as_secs(),
        }))
    }
}
