//! The state, and the order of checks that every request goes through (OpenBao `http/handler.go`,
//! `vault/request_handling.go`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{Answer, Request};
use crate::auth::{self, Method, Review};
use crate::clock::Clock;
use crate::engine::{self, Engine};
use crate::leases::{Lease, Leases, Purpose};
use crate::policy::{self, Policy};
use crate::quota::Quotas;
use crate::sys;
use crate::text;
use crate::tokens::{Token, Tokens, Wanted};

/// The system's default and maximum TTL: 768 h.
pub const SYSTEM_TTL: Duration = Duration::from_secs(768 * 3600);

/// A mounted engine or auth method.
pub struct Mount<T> {
    pub inner: T,
    pub accessor: String,
    pub default_ttl: Option<Duration>,
    pub max_ttl: Option<Duration>,
    /// `token_type` of an auth mount.
    pub token_type: Option<String>,
}

impl<T> Mount<T> {
    pub fn new(kind: &str, inner: T) -> Self {
        Self {
            inner,
            accessor: format!("{kind}_{}", text::random(8)),
            default_ttl: None,
            max_ttl: None,
            token_type: None,
        }
    }

    pub fn max_ttl(&self) -> Duration {
        self.max_ttl.unwrap_or(SYSTEM_TTL)
    }

    pub fn default_ttl(&self) -> Duration {
        self.default_ttl.unwrap_or(SYSTEM_TTL).min(self.max_ttl())
    }
}

/// A reply that is kept for whoever unwraps it.
pub struct Wrapped {
    pub answer: Answer,
    pub created: Duration,
    pub ttl: Duration,
    pub path: String,
}

/// The whole state.
pub struct Core {
    pub clock: Clock,
    pub root_token: String,
    pub leased_kv: bool,
    pub sealed: bool,
    pub cluster_id: String,
    pub mounts: BTreeMap<String, Mount<Engine>>,
    pub auths: BTreeMap<String, Mount<Method>>,
    pub policies: BTreeMap<String, Policy>,
    pub namespaces: BTreeSet<String>,
    pub tokens: Tokens,
    pub leases: Leases,
    pub quotas: Quotas,
    pub wrapped: HashMap<String, Wrapped>,
    pub entities: HashMap<String, String>,
}

/// How a request goes on.
pub enum Step {
    Done(Answer),
    /// An API server is to be asked about a login's token first.
    Review(Box<Review>),
}

impl Core {
    pub fn new(clock: Clock, root_token: String, leased_kv: bool) -> Self {
        let default = Policy::parse(policy::DEFAULT).unwrap_or_default();
        let mut core = Self {
            clock,
            root_token: root_token.clone(),
            leased_kv,
            sealed: false,
            cluster_id: text::uuid(),
            mounts: BTreeMap::new(),
            auths: BTreeMap::new(),
            policies: BTreeMap::from([("default".to_owned(), default)]),
            namespaces: BTreeSet::new(),
            tokens: Tokens::default(),
            leases: Leases::default(),
            quotas: Quotas::default(),
            wrapped: HashMap::new(),
            entities: HashMap::new(),
        };
        let now = core.clock.now();
        let wanted = Wanted {
            policies: vec!["root".to_owned()],
            path: "auth/token/create".to_owned(),
            display_name: "token".to_owned(),
            orphan: true,
            max_ttl: SYSTEM_TTL,
            ..Wanted::default()
        };
        let (id, _) = core.tokens.create(wanted, now);
        // Under the name that was asked for.
        if let Some(mut root) = core.tokens.by_id.remove(&id) {
            root.id = root_token;
            core.tokens.insert(root);
        }
        core
    }

    /// The checks that come before a request is looked at, in their order.
    pub fn begin(&mut self, request: &Request, body_error: Option<String>) -> Step {
        self.settle();
        if let Some(refused) = self.quotas.refuse(&request.path) {
            return Step::Done(refused);
        }
        if let Some(error) = body_error {
            let text = format!("failed to decode JSON input: {error}");
            return Step::Done(Answer::error(400, text));
        }
        if let Some(answer) = sys::unsealed(self, request) {
            return Step::Done(answer);
        }
        if self.sealed {
            return Step::Done(Answer::error(503, "Vault is sealed"));
        }
        let namespace = request.namespace.trim_matches('/');
        if !namespace.is_empty() && namespace != "root" && !self.namespaces.contains(namespace) {
            return Step::Done(Answer::error(404, "namespace not found"));
        }
        if request.writes() && request.path.ends_with('/') {
            let text = "cannot write to a path ending in '/'";
            return Step::Done(Answer::error(400, text));
        }
        if let Some(refused) = patch_type(request) {
            return Step::Done(refused);
        }
        if let Some(step) = auth::login(self, request) {
            return step;
        }
        Step::Done(self.authenticated(request))
    }

    fn authenticated(&mut self, request: &Request) -> Answer {
        let Some(token) = self.tokens.by_id.get_mut(&request.token) else {
            return Answer::denied();
        };
        let last_use = token.num_uses == 1;
        let root = token.policies.iter().any(|policy| policy == "root");
        let allowed = root || {
            let found = self.capabilities(&request.token, &acl_path(request));
            let sudo = sys::wants_sudo(request);
            policy::allows(&found, &request.method, request.lists(), sudo)
        };
        if !allowed {
            return Answer::wrapped_error(403, "permission denied");
        }
        let answer = self.route(request);
        self.count_use(&request.token, last_use);
        match request.wrap_ttl {
            Some(ttl) if answer.status == 200 => self.wrap(request, answer, ttl),
            _ => answer,
        }
    }

    pub fn capabilities(&self, token: &str, path: &str) -> BTreeSet<String> {
        let token = self.tokens.by_id.get(token);
        let names = token
            .map(|token| token.policies.as_slice())
            .unwrap_or_default();
        let policies = names.iter().filter_map(|name| self.policies.get(name));
        policy::capabilities(policies, path)
    }

    fn count_use(&mut self, token: &str, last: bool) {
        if last {
            self.revoke_token(token);
        } else if let Some(token) = self.tokens.by_id.get_mut(token)
            && token.num_uses > 0
        {
            token.num_uses -= 1;
        }
    }

    fn route(&mut self, request: &Request) -> Answer {
        if let Some(rest) = request.path.strip_prefix("sys/") {
            return sys::handle(self, request, rest);
        }
        if let Some(rest) = request.path.strip_prefix("auth/") {
            return auth::handle(self, request, rest);
        }
        if let Some(rest) = request.path.strip_prefix("cubbyhole/") {
            return engine::cubbyhole(self, request, rest);
        }
        match self.mount_of(&request.path) {
            Some(mount) => engine::handle(self, request, &mount),
            None => {
                let path = &request.path;
                let text = format!("no handler for route \"{path}\". route entry not found.");
                Answer::error(404, text)
            }
        }
    }

    /// The engine mounted at the longest beginning of a path.
    pub fn mount_of(&self, path: &str) -> Option<String> {
        let fits = |mount: &&String| {
            path.strip_prefix(mount.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let found = self.mounts.keys().filter(fits);
        found.max_by_key(|mount| mount.len()).cloned()
    }

    fn wrap(&mut self, request: &Request, answer: Answer, ttl: Duration) -> Answer {
        let now = self.clock.now();
        let token = format!("s.{}", text::random(24));
        let info = json!({
            "token": token,
            "accessor": text::random(24),
            "ttl": ttl.as_secs(),
            "creation_time": text::timestamp(now),
            "creation_path": request.path,
        });
        let wrapped = Wrapped {
            answer,
            created: now,
            ttl,
            path: request.path.clone(),
        };
        self.wrapped.insert(token, wrapped);
        Answer::with(&[("request_id", json!("")), ("wrap_info", info)])
    }

    /// A reply with a lease. Refused where the token had one use left: its leases die with it.
    pub fn leased(
        &mut self,
        request: &Request,
        mount_max: Duration,
        ttl: Duration,
        renewable: bool,
        purpose: Purpose,
        data: Value,
    ) -> Answer {
        let now = self.clock.now();
        let Some(token) = self.tokens.by_id.get_mut(&request.token) else {
            return Answer::denied();
        };
        if token.num_uses == 1 {
            self.undo(&purpose);
            let text = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.";
            return Answer::error(400, text);
        }
        let mut expires = now + ttl;
        if let Some(end) = token.expires.filter(|_| token.batch) {
            expires = expires.min(end);
        }
        let id = Leases::name(&request.path);
        token.leases.insert(id.clone());
        // Rounded to the nearest second at issue.
        let duration = (expires - now + Duration::from_millis(500)).as_secs();
        self.leases.create(Lease {
            id: id.clone(),
            path: request.path.clone(),
            token: request.token.clone(),
            issued: now,
            expires,
            last_renewal: None,
            renewable,
            default_ttl: ttl,
            max_ttl: mount_max,
            purpose,
        });
        Answer::with(&[
            ("lease_id", json!(id)),
            ("renewable", json!(renewable)),
            ("lease_duration", json!(duration)),
            ("data", data),
        ])
    }

    /// What the time has brought: ended tokens, ended leases, owed revocations.
    pub fn settle(&mut self) {
        let now = self.clock.now();
        for token in self.tokens.ended(now) {
            self.revoke_token(&token);
        }
        if self.sealed {
            return;
        }
        for lease in self.leases.due(now) {
            self.revoke_lease(&lease);
        }
        self.wrapped
            .retain(|_, wrapped| wrapped.created + wrapped.ttl > now);
    }

    /// Ends a token and its children at once; its leases are owed their revocation.
    pub fn revoke_token(&mut self, id: &str) {
        let batch = self.tokens.by_id.get(id).is_some_and(|token| token.batch);
        for lease in self.tokens.remove(id) {
            // A batch token's leases end by themselves, with it.
            if !batch {
                self.leases.queue(lease);
            }
        }
    }

    /// Ends a lease now.
    pub fn revoke_lease(&mut self, id: &str) {
        if let Some(lease) = self.leases.remove(id) {
            if let Some(token) = self.tokens.by_id.get_mut(&lease.token) {
                token.leases.remove(id);
            }
            self.undo(&lease.purpose);
        }
    }

    fn undo(&mut self, purpose: &Purpose) {
        if let Purpose::User(user) = purpose {
            for mount in self.mounts.values_mut() {
                if let Engine::Database(database) = &mut mount.inner {
                    database.users.remove(user);
                }
            }
        }
    }

    /// The reply that gives a token.
    pub fn grant(&mut self, wanted: Wanted) -> Answer {
        let now = self.clock.now();
        let (id, warnings) = self.tokens.create(wanted, now);
        let auth = self.tokens.by_id.get(&id).map(|token| token.auth(now));
        Answer::with(&[("auth", auth.unwrap_or(Value::Null))]).warn(warnings)
    }

    pub fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.by_id.get(id)
    }
}

/// LIST is judged at the folder's path.
fn acl_path(request: &Request) -> String {
    if request.lists() && !request.path.ends_with('/') {
        format!("{}/", request.path)
    } else {
        request.path.clone()
    }
}

fn patch_type(request: &Request) -> Option<Answer> {
    if request.method != "PATCH" {
        return None;
    }
    let text = match request.content_type.as_deref() {
        Some("application/merge-patch+json") => return None,
        Some(other) => {
            let text = format!(
                "PATCH requires Content-Type of application/merge-patch+json, provided {other}"
            );
            return Some(Answer::error(415, text));
        }
        None => "mime: no media type",
    };
    Some(Answer::error(400, text))
}
