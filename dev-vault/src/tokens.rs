//! Tokens: service and batch, their ends, their children (OpenBao `vault/token_store.go`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::text;
use crate::ttl::{Granted, PAST_MAX, Term, age};

/// What a login or `auth/token/create` asks for.
#[derive(Clone, Default)]
pub struct Wanted {
    /// The token itself, where the server's owner has chosen it; a random one if not given.
    pub id: Option<String>,
    /// The namespace it lives in, and that namespace's own id.
    pub namespace: (String, String),
    pub policies: BTreeSet<String>,
    /// Whether the policy `default` is added.
    pub default_policy: bool,
    pub path: String,
    pub display_name: String,
    pub meta: Option<Map<String, Value>>,
    pub entity_id: String,
    pub batch: bool,
    pub orphan: bool,
    pub parent: Option<String>,
    /// `None`: without end, which only root gets.
    pub ttl: Option<Duration>,
    /// The least of role's and mount's maximum.
    pub max_ttl: Duration,
    pub explicit_max_ttl: Option<Duration>,
    pub period: Option<Duration>,
    pub num_uses: u64,
    /// The auth mount and role of a login.
    pub role: Option<(String, String)>,
}

/// A token.
pub struct Token {
    pub id: String,
    pub accessor: String,
    /// As it was asked for.
    pub spec: Wanted,
    pub children: BTreeSet<String>,
    pub created: Duration,
    /// `None`: never.
    pub expires: Option<Duration>,
    pub last_renewal: Option<Duration>,
    /// What is left of a limited number of uses; zero for one without limit.
    pub uses: u64,
    pub leases: BTreeSet<String>,
    pub cubbyhole: BTreeMap<String, Value>,
    creation_ttl: Duration,
}

/// All tokens.
#[derive(Default)]
pub struct Tokens {
    pub by_id: HashMap<String, Token>,
    by_accessor: HashMap<String, String>,
    by_end: BTreeSet<(Duration, String)>,
}

/// The most that a renewal may give: what role and mount say now.
pub struct Limits {
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub period: Option<Duration>,
}

impl Token {
    /// What is left, in whole seconds; zero for a token without end.
    pub fn ttl(&self, now: Duration) -> Duration {
        let left = self.expires.map(|end| end.saturating_sub(now));
        left.map_or(Duration::ZERO, |left| Duration::from_secs(left.as_secs()))
    }

    pub fn renewable(&self) -> bool {
        !self.spec.batch && self.expires.is_some()
    }

    pub fn is_root(&self) -> bool {
        self.spec.policies.contains("root")
    }

    /// A path as the token's policies name it: below the token's namespace. Nothing where it is not.
    pub fn relative<'a>(&self, full_path: &'a str) -> Option<&'a str> {
        match self.spec.namespace.0.as_str() {
            "" => Some(full_path),
            namespace => full_path.strip_prefix(namespace)?.strip_prefix('/'),
        }
    }

    /// The `auth` part of the reply that gives or renews it.
    pub fn auth(&self, now: Duration) -> Value {
        json!({
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.spec.policies,
            "token_policies": self.spec.policies,
            "metadata": self.spec.meta,
            "lease_duration": self.ttl(now).as_secs(),
            "renewable": self.renewable(),
            "entity_id": self.spec.entity_id,
            "token_type": self.kind(),
            "orphan": self.spec.orphan,
            "mfa_requirement": null,
            "num_uses": self.uses,
        })
    }

    fn kind(&self) -> &'static str {
        if self.spec.batch { "batch" } else { "service" }
    }

    /// The data of a lookup.
    pub fn lookup(&self, now: Duration) -> Map<String, Value> {
        let spec = &self.spec;
        let Value::Object(mut data) = json!({
            "id": self.id,
            "accessor": self.accessor,
            "policies": spec.policies,
            "path": spec.path,
            "meta": spec.meta,
            "display_name": spec.display_name,
            "num_uses": self.uses,
            "orphan": spec.orphan,
            "creation_time": self.created.as_secs(),
            "creation_ttl": self.creation_ttl.as_secs(),
            "expire_time": self.expires.map(text::timestamp),
            "ttl": self.ttl(now).as_secs(),
            "explicit_max_ttl": spec.explicit_max_ttl.unwrap_or_default().as_secs(),
            "entity_id": spec.entity_id,
            "type": self.kind(),
            "issue_time": text::timestamp(self.created),
            "renewable": self.renewable(),
        }) else {
            return Map::new();
        };
        if !spec.namespace.0.is_empty() {
            let path = format!("{}/", spec.namespace.0);
            data.insert("namespace_path".to_owned(), json!(path));
        }
        if let Some(period) = spec.period {
            data.insert("period".to_owned(), json!(period.as_secs()));
        }
        if let Some(renewed) = self.last_renewal {
            let written = text::timestamp(renewed);
            data.insert("last_renewal".to_owned(), json!(written));
            data.insert("last_renewal_time".to_owned(), json!(renewed.as_secs()));
        }
        data
    }
}

impl Tokens {
    /// Makes a token and says what was cut.
    pub fn create(&mut self, mut wanted: Wanted, now: Duration) -> (String, Option<String>) {
        if wanted.default_policy && !wanted.policies.contains("root") {
            wanted.policies.insert("default".to_owned());
        }
        let granted = wanted.ttl.map(|asked| {
            let term = Term {
                asked,
                period: wanted.period,
                max: wanted.max_ttl,
                explicit_max: wanted.explicit_max_ttl,
                age: Duration::ZERO,
            };
            // Only a maximum of zero gives nothing, and such a token is over at once.
            term.granted().unwrap_or(Granted {
                ttl: Duration::ZERO,
                warning: None,
            })
        });
        let ttl = granted.as_ref().map(|granted| granted.ttl);
        let (id, accessor) = names(&wanted);
        let token = Token {
            id: id.clone(),
            accessor,
            children: BTreeSet::new(),
            created: now,
            expires: ttl.map(|ttl| now.saturating_add(ttl)),
            last_renewal: None,
            uses: wanted.num_uses,
            leases: BTreeSet::new(),
            cubbyhole: BTreeMap::new(),
            creation_ttl: ttl.unwrap_or_default(),
            spec: wanted,
        };
        self.insert(token);
        (id, granted.and_then(|granted| granted.warning))
    }

    fn insert(&mut self, token: Token) {
        let parent = token.spec.parent.as_ref().filter(|_| !token.spec.orphan);
        if let Some(parent) = parent.and_then(|parent| self.by_id.get_mut(parent)) {
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

    /// Renews for `increment`, or the role's TTL where there is none.
    ///
    /// # Errors
    /// The maximum has come ([`PAST_MAX`]), or there is no such token.
    pub fn renew(
        &mut self,
        id: &str,
        increment: Option<Duration>,
        limits: &Limits,
        now: Duration,
    ) -> Result<Option<String>, &'static str> {
        let token = self.by_id.get_mut(id).ok_or("token not found")?;
        let term = Term {
            asked: increment.unwrap_or(limits.ttl),
            period: limits.period,
            max: limits.max_ttl,
            explicit_max: token.spec.explicit_max_ttl,
            age: age(token.created, now),
        };
        let granted = term.granted().ok_or(PAST_MAX)?;
        let end = now.saturating_add(granted.ttl);
        token.last_renewal = Some(now);
        if let Some(before) = token.expires.replace(end) {
            self.by_end.remove(&(before, id.to_owned()));
        }
        self.by_end.insert((end, id.to_owned()));
        Ok(granted.warning)
    }

    /// Tokens whose end has come.
    pub fn ended(&self, now: Duration) -> Vec<String> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        ended.map(|(_, id)| id.clone()).collect()
    }

    /// Removes a token and its children, depth first, and hands out the leases that they leave. Those of
    /// batch tokens are not among them: they end by themselves, with their token.
    pub fn remove(&mut self, id: &str) -> Vec<String> {
        let Some(token) = self.by_id.remove(id) else {
            return Vec::new();
        };
        self.by_accessor.remove(&token.accessor);
        if let Some(end) = token.expires {
            self.by_end.remove(&(end, token.id.clone()));
        }
        let parent = token.spec.parent;
        if let Some(parent) = parent.and_then(|parent| self.by_id.get_mut(&parent)) {
            parent.children.remove(id);
        }
        let mut left = Vec::new();
        if !token.spec.batch {
            left.extend(token.leases);
        }
        for child in token.children {
            left.extend(self.remove(&child));
        }
        left
    }
}

/// A new token and its accessor; outside the root namespace both end in the namespace's id.
fn names(wanted: &Wanted) -> (String, String) {
    let suffix = match wanted.namespace.1.as_str() {
        "" => String::new(),
        id => format!(".{id}"),
    };
    if wanted.batch {
        return (format!("b.{}{suffix}", text::random(96)), String::new());
    }
    let id = wanted.id.clone();
    let id = id.unwrap_or_else(|| format!("s.{}{suffix}", text::random(24)));
    (id, format!("{}{suffix}", text::random(24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    const fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn wanted() -> Wanted {
        Wanted {
            ttl: Some(secs(60)),
            max_ttl: secs(100),
            default_policy: true,
            ..Wanted::default()
        }
    }

    const LIMITS: Limits = Limits {
        ttl: secs(60),
        max_ttl: secs(100),
        period: None,
    };

    #[test]
    fn a_token_ends_when_its_time_has_come_and_not_before() {
        let mut tokens = Tokens::default();
        let (id, warning) = tokens.create(wanted(), NOW);
        assert_eq!(warning, None);
        assert!(tokens.ended(NOW + secs(59)).is_empty());
        assert_eq!(tokens.ended(NOW + secs(60)), [id.as_str()]);
        tokens.renew(&id, None, &LIMITS, NOW + secs(30)).unwrap();
        assert!(
            tokens.ended(NOW + secs(60)).is_empty(),
            "its old end is forgotten"
        );
        assert_eq!(tokens.ended(NOW + secs(90)), [id]);
    }

    #[test]
    fn a_small_increment_shortens() {
        let mut tokens = Tokens::default();
        let (id, _) = tokens.create(wanted(), NOW);
        tokens.renew(&id, Some(secs(5)), &LIMITS, NOW).unwrap();
        assert_eq!(tokens.by_id[&id].ttl(NOW), secs(5));
    }

    #[test]
    fn nothing_renews_past_the_maximum() {
        let mut tokens = Tokens::default();
        let (id, _) = tokens.create(wanted(), NOW);
        let near = NOW + secs(93);
        let warning = tokens.renew(&id, None, &LIMITS, near).unwrap().unwrap();
        assert!(warning.contains("max_ttl of \"7s\""), "{warning}");
        assert_eq!(tokens.by_id[&id].expires, Some(NOW + secs(100)));
        let past = tokens.renew(&id, None, &LIMITS, NOW + secs(100));
        assert_eq!(past, Err(PAST_MAX));
    }

    #[test]
    fn children_go_with_their_parent_and_orphans_stay() {
        let mut tokens = Tokens::default();
        let (parent, _) = tokens.create(wanted(), NOW);
        let of_parent = Wanted {
            parent: Some(parent.clone()),
            ..wanted()
        };
        let (child, _) = tokens.create(of_parent.clone(), NOW);
        let orphan = Wanted {
            orphan: true,
            ..of_parent.clone()
        };
        let (orphan, _) = tokens.create(orphan, NOW);
        let batch = Wanted {
            batch: true,
            ..of_parent
        };
        let (batch, _) = tokens.create(batch, NOW);
        for (token, lease) in [(&parent, "one"), (&child, "two"), (&batch, "three")] {
            let token = tokens.by_id.get_mut(token).unwrap();
            token.leases.insert(lease.to_owned());
        }
        assert_eq!(tokens.remove(&parent), ["one", "two"]);
        assert_eq!(tokens.by_id.keys().collect::<Vec<_>>(), [&orphan]);
        assert_eq!(tokens.ended(NOW + secs(60)), [orphan]);
    }

    #[test]
    fn names_tell_the_namespace() {
        let inside = Wanted {
            namespace: ("team".to_owned(), "abc123".to_owned()),
            ..wanted()
        };
        let (id, accessor) = names(&inside);
        assert!(id.starts_with("s.") && id.ends_with(".abc123"), "{id}");
        assert!(accessor.ends_with(".abc123"), "{accessor}");
    }
}
