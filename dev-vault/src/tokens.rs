//! Tokens: service and batch, their ends, their children (OpenBao `vault/token_store.go`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::text;

/// What a login or `auth/token/create` asks for.
#[derive(Clone, Default)]
pub struct Wanted {
    pub policies: Vec<String>,
    pub no_default_policy: bool,
    pub path: String,
    pub display_name: String,
    pub meta: Option<Map<String, Value>>,
    pub entity_id: String,
    pub batch: bool,
    pub orphan: bool,
    pub parent: Option<String>,
    pub ttl: Option<Duration>,
    /// The least of role's and mount's maximum.
    pub max_ttl: Duration,
    pub explicit_max_ttl: Option<Duration>,
    pub period: Option<Duration>,
    pub num_uses: u64,
    pub role: Option<(String, String)>,
}

/// A token.
pub struct Token {
    pub id: String,
    pub accessor: String,
    pub policies: Vec<String>,
    pub path: String,
    pub display_name: String,
    pub meta: Option<Map<String, Value>>,
    pub entity_id: String,
    pub batch: bool,
    pub orphan: bool,
    pub parent: Option<String>,
    pub children: BTreeSet<String>,
    pub created: Duration,
    pub creation_ttl: Duration,
    /// `None`: never.
    pub expires: Option<Duration>,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
    pub explicit_max_ttl: Option<Duration>,
    pub period: Option<Duration>,
    pub num_uses: u64,
    pub last_renewal: Option<Duration>,
    /// The auth mount and role of its login.
    pub role: Option<(String, String)>,
    pub leases: BTreeSet<String>,
    pub cubbyhole: BTreeMap<String, Value>,
}

/// All tokens.
#[derive(Default)]
pub struct Tokens {
    pub by_id: HashMap<String, Token>,
    by_accessor: HashMap<String, String>,
    by_end: BTreeSet<(Duration, String)>,
}

/// A term that was asked for and what became of it.
pub struct Capped {
    pub ttl: Duration,
    pub warning: Option<String>,
}

/// Cuts a term at what is left until the maximum. Both clocks are truncated to seconds, as Go's
/// `framework.CalculateTTL` does.
pub fn cap(wanted: Duration, left: Duration) -> Capped {
    if wanted <= left {
        return Capped {
            ttl: wanted,
            warning: None,
        };
    }
    let (asked, left_shown) = (text::shown(wanted), text::shown(left));
    Capped {
        ttl: left,
        warning: Some(format!(
            "TTL of \"{asked}\" exceeded the effective max_ttl of \"{left_shown}\"; TTL value is capped accordingly"
        )),
    }
}

fn seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

impl Token {
    /// What is left, in whole seconds; zero for a token without end.
    pub fn ttl(&self, now: Duration) -> Duration {
        self.expires
            .map_or(Duration::ZERO, |end| seconds(end.saturating_sub(now)))
    }

    pub fn renewable(&self) -> bool {
        !self.batch && self.expires.is_some()
    }

    /// What is left until nothing prolongs it any more.
    pub fn left(&self, now: Duration) -> Duration {
        let age = seconds(now).saturating_sub(seconds(self.created));
        let max = match (self.period, self.explicit_max_ttl) {
            (Some(_), explicit) => explicit.unwrap_or(Duration::MAX),
            (None, Some(explicit)) => explicit.min(self.max_ttl),
            (None, None) => self.max_ttl,
        };
        max.saturating_sub(age)
    }

    /// The `auth` part of the reply that gives or renews it.
    pub fn auth(&self, now: Duration) -> Value {
        json!({
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.meta,
            "lease_duration": self.ttl(now).as_secs(),
            "renewable": self.renewable(),
            "entity_id": self.entity_id,
            "token_type": self.kind(),
            "orphan": self.orphan,
            "mfa_requirement": null,
            "num_uses": self.num_uses,
        })
    }

    pub fn kind(&self) -> &'static str {
        if self.batch { "batch" } else { "service" }
    }

    /// The data of a lookup.
    pub fn lookup(&self, now: Duration) -> Map<String, Value> {
        let mut data = Map::new();
        let mut put = |name: &str, value: Value| {
            data.insert(name.to_owned(), value);
        };
        put("id", json!(self.id));
        put("accessor", json!(self.accessor));
        put("policies", json!(self.policies));
        put("path", json!(self.path));
        put("meta", json!(self.meta));
        put("display_name", json!(self.display_name));
        put("num_uses", json!(self.num_uses));
        put("orphan", json!(self.orphan));
        put("creation_time", json!(self.created.as_secs()));
        put("creation_ttl", json!(self.creation_ttl.as_secs()));
        put("expire_time", json!(self.expires.map(text::timestamp)));
        put("ttl", json!(self.ttl(now).as_secs()));
        let explicit = self.explicit_max_ttl.unwrap_or_default();
        put("explicit_max_ttl", json!(explicit.as_secs()));
        put("entity_id", json!(self.entity_id));
        put("type", json!(self.kind()));
        put("issue_time", json!(text::timestamp(self.created)));
        put("renewable", json!(self.renewable()));
        if let Some(period) = self.period {
            put("period", json!(period.as_secs()));
        }
        if let Some(renewed) = self.last_renewal {
            put("last_renewal", json!(text::timestamp(renewed)));
            put("last_renewal_time", json!(renewed.as_secs()));
        }
        data
    }
}

impl Tokens {
    /// Makes a token and says what was cut.
    pub fn create(&mut self, wanted: Wanted, now: Duration) -> (String, Vec<String>) {
        let mut policies: BTreeSet<String> = wanted.policies.into_iter().collect();
        let root = policies.contains("root");
        if !wanted.no_default_policy && !root {
            policies.insert("default".to_owned());
        }
        let asked = wanted.ttl.filter(|ttl| !ttl.is_zero());
        let endless = root && asked.is_none() && wanted.period.is_none();
        let default_ttl = asked.unwrap_or(crate::core::SYSTEM_TTL);
        let explicit = wanted.explicit_max_ttl.filter(|max| !max.is_zero());
        let period = wanted.period.filter(|period| !period.is_zero());
        let left = match (period, explicit) {
            (Some(_), explicit) => explicit.unwrap_or(Duration::MAX),
            (None, explicit) => explicit.unwrap_or(wanted.max_ttl).min(wanted.max_ttl),
        };
        let capped = cap(period.unwrap_or(default_ttl), left);
        let prefix = if wanted.batch { "b." } else { "s." };
        let length = if wanted.batch { 96 } else { 24 };
        let id = format!("{prefix}{}", text::random(length));
        let accessor = if wanted.batch {
            String::new()
        } else {
            text::random(24)
        };
        let token = Token {
            id: id.clone(),
            accessor,
            policies: policies.into_iter().collect(),
            path: wanted.path,
            display_name: wanted.display_name,
            meta: wanted.meta,
            entity_id: wanted.entity_id,
            batch: wanted.batch,
            orphan: wanted.orphan,
            parent: wanted.parent,
            children: BTreeSet::new(),
            created: now,
            creation_ttl: if endless { Duration::ZERO } else { capped.ttl },
            expires: (!endless).then(|| now.saturating_add(capped.ttl)),
            default_ttl,
            max_ttl: wanted.max_ttl,
            explicit_max_ttl: explicit,
            period,
            num_uses: wanted.num_uses,
            last_renewal: None,
            role: wanted.role,
            leases: BTreeSet::new(),
            cubbyhole: BTreeMap::new(),
        };
        self.insert(token);
        (id, capped.warning.into_iter().collect())
    }

    /// Takes a token in.
    pub fn insert(&mut self, token: Token) {
        if let Some(parent) = token.parent.as_ref().filter(|_| !token.orphan)
            && let Some(parent) = self.by_id.get_mut(parent)
        {
            parent.children.insert(token.id.clone());
        }
        if !token.accessor.is_empty() {
            self.by_accessor
                .insert(token.accessor.clone(), token.id.clone());
        }
        if let Some(end) = token.expires {
            self.by_end.insert((end, token.id.clone()));
        }
        self.by_id.insert(token.id.clone(), token);
    }

    pub fn of_accessor(&self, accessor: &str) -> Option<&Token> {
        self.by_id.get(self.by_accessor.get(accessor)?)
    }

    pub fn accessors(&self) -> Vec<String> {
        self.by_accessor.keys().cloned().collect()
    }

    /// Moves a token's end.
    pub fn set_end(&mut self, id: &str, end: Duration) {
        if let Some(token) = self.by_id.get_mut(id)
            && let Some(before) = token.expires.replace(end)
        {
            self.by_end.remove(&(before, id.to_owned()));
            self.by_end.insert((end, id.to_owned()));
        }
    }

    /// Tokens whose end has come.
    pub fn ended(&self, now: Duration) -> Vec<String> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        ended.map(|(_, id)| id.clone()).collect()
    }

    /// Removes a token and its children, depth first, and hands out their leases.
    pub fn remove(&mut self, id: &str) -> Vec<String> {
        let Some(token) = self.by_id.remove(id) else {
            return Vec::new();
        };
        self.by_accessor.remove(&token.accessor);
        if let Some(end) = token.expires {
            self.by_end.remove(&(end, token.id.clone()));
        }
        if let Some(parent) = token.parent.and_then(|parent| self.by_id.get_mut(&parent)) {
            parent.children.remove(id);
        }
        let mut leases: Vec<String> = token.leases.into_iter().collect();
        for child in token.children {
            leases.extend(self.remove(&child));
        }
        leases
    }
}
