//! The state, and the order of checks that every request goes through (OpenBao `http/handler.go`,
//! `vault/request_handling.go`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;

use crate::answer::{Answer, Request, joined};
use crate::auth::{self, Method, Review};
use crate::clock::Clock;
use crate::engine::{self, Engine, ToLease};
use crate::leases::{Lease, Leases, Purpose};
use crate::policy::{self, Policy};
use crate::quota::Quotas;
use crate::sys;
use crate::sys::wrapping::{self, Wrap, Wrapped};
use crate::text;
use crate::tokens::{Token, Tokens, Wanted};
use crate::ttl::Term;

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

/// The whole state.
pub struct Core {
    pub clock: Clock,
    pub root_token: String,
    pub leased_kv: bool,
    pub sealed: bool,
    pub cluster_id: String,
    /// By path, their namespace included.
    pub mounts: BTreeMap<String, Mount<Engine>>,
    /// Likewise, without `auth/`.
    pub auths: BTreeMap<String, Mount<Method>>,
    /// By namespace and name.
    pub policies: BTreeMap<(String, String), Policy>,
    /// The namespaces below the root, and their ids.
    pub namespaces: BTreeMap<String, String>,
    pub tokens: Tokens,
    pub leases: Leases,
    pub quotas: Quotas,
    pub wrapped: HashMap<String, Wrapped>,
    /// The ids of those who have logged in, by mount and name.
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
        let mut core = Self {
            clock,
            root_token: root_token.clone(),
            leased_kv,
            sealed: false,
            cluster_id: text::uuid(),
            mounts: BTreeMap::new(),
            auths: BTreeMap::new(),
            policies: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            tokens: Tokens::default(),
            leases: Leases::default(),
            quotas: Quotas::default(),
            wrapped: HashMap::new(),
            entities: HashMap::new(),
        };
        core.give_default_policy("");
        let root = Wanted {
            id: Some(root_token),
            policies: BTreeSet::from(["root".to_owned()]),
            path: "auth/token/create".to_owned(),
            display_name: "token".to_owned(),
            orphan: true,
            ..Wanted::default()
        };
        core.tokens.create(root, core.clock.now());
        core
    }

    /// Gives a namespace the policy that every token gets unless told otherwise.
    pub fn give_default_policy(&mut self, namespace: &str) {
        let default = Policy::parse(policy::DEFAULT).unwrap_or_default();
        let name = (namespace.to_owned(), "default".to_owned());
        self.policies.insert(name, default);
    }

    /// The checks that come before a request is looked at, in their order.
    pub fn begin(&mut self, request: &Request, body_error: Option<String>) -> Step {
        self.settle();
        match self.checked(request, body_error) {
            Ok((request, wrap)) => {
                if let Some(step) = auth::login(self, &request, wrap.as_ref()) {
                    return step;
                }
                if let Some(answer) = wrapping::open(self, &request) {
                    return Step::Done(answer);
                }
                let answer = self.authenticated(&request);
                Step::Done(wrapping::sealed_in(self, wrap.as_ref(), answer))
            }
            Err(answer) => Step::Done(answer),
        }
    }

    fn checked<'a>(
        &mut self,
        request: &'a Request,
        body_error: Option<String>,
    ) -> Result<(Cow<'a, Request>, Option<Wrap>), Answer> {
        if let Some(refused) = self.quotas.refuse(&request.path) {
            return Err(refused);
        }
        if let Some(error) = body_error {
            let text = format!("failed to decode JSON input: {error}");
            return Err(Answer::error(400, text));
        }
        if let Some(answer) = sys::unsealed(self, request) {
            return Err(answer);
        }
        if self.sealed {
            return Err(Answer::error(503, "Vault is sealed"));
        }
        let Some(request) = self.located(request) else {
            return Err(Answer::error(404, "namespace not found"));
        };
        if request.writes() && request.path.ends_with('/') {
            let text = "cannot write to a path ending in '/'";
            return Err(Answer::error(400, text));
        }
        if let Some(refused) = patch_type(&request) {
            return Err(refused);
        }
        let wrap = Wrap::of(&request)?;
        Ok((request, wrap))
    }

    /// The request with its namespace and its path below it: a namespace may be named by the header, by
    /// the beginning of the path, or by both. Nothing where there is no such namespace.
    fn located<'a>(&self, request: &'a Request) -> Option<Cow<'a, Request>> {
        let named = request.namespace.trim_matches('/');
        let mut namespace = if named == "root" { "" } else { named }.to_owned();
        if !namespace.is_empty() && !self.namespaces.contains_key(&namespace) {
            return None;
        }
        let mut path = request.path.as_str();
        while let Some((first, rest)) = path.split_once('/') {
            let below = joined(&namespace, first);
            if !self.namespaces.contains_key(&below) {
                break;
            }
            (namespace, path) = (below, rest);
        }
        if namespace == request.namespace && path == request.path {
            return Some(Cow::Borrowed(request));
        }
        let path = path.to_owned();
        Some(Cow::Owned(Request {
            namespace,
            path,
            ..request.clone()
        }))
    }

    fn authenticated(&mut self, request: &Request) -> Answer {
        let Some(token) = self.tokens.by_id.get(&request.token) else {
            return Answer::denied();
        };
        let last_use = token.uses == 1;
        let answer = if self.allows(token, request) {
            self.route(request)
        } else {
            Answer::wrapped_error(403, "permission denied")
        };
        self.count_use(&request.token, last_use);
        answer
    }

    fn allows(&self, token: &Token, request: &Request) -> bool {
        // It looks for itself what the token may see.
        if request.reads() && request.path.starts_with("sys/internal/ui/mounts/") {
            return true;
        }
        let path = match request.path.as_str() {
            // A token may see to itself from any namespace.
            own @ ("auth/token/lookup-self"
            | "auth/token/renew-self"
            | "auth/token/revoke-self") => joined(&token.spec.namespace.0, own),
            // LIST is judged at the folder's path.
            path if request.lists() && !path.ends_with('/') => {
                joined(&request.namespace, &format!("{path}/"))
            }
            _ => request.full_path(),
        };
        let found = self.capabilities(token, &path);
        let sudo = sys::wants_sudo(request);
        found.contains("root") || policy::allows(&found, &request.method, request.lists(), sudo)
    }

    /// What a token may do at a path, its namespace included. Outside the token's own namespace and those
    /// below it, nothing.
    pub fn capabilities(&self, token: &Token, full_path: &str) -> BTreeSet<String> {
        let Some(path) = token.relative(full_path) else {
            return BTreeSet::new();
        };
        if token.is_root() {
            return BTreeSet::from(["root".to_owned()]);
        }
        policy::capabilities(self.policies_of(token), path)
    }

    pub fn policies_of<'a>(&'a self, token: &'a Token) -> impl Iterator<Item = &'a Policy> {
        let namespace = &token.spec.namespace.0;
        let names = token.spec.policies.iter();
        names.filter_map(|name| self.policies.get(&(namespace.clone(), name.clone())))
    }

    fn count_use(&mut self, token: &str, last: bool) {
        if last {
            self.revoke_token(token);
        } else if let Some(token) = self.tokens.by_id.get_mut(token) {
            token.uses = token.uses.saturating_sub(1);
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
        match mount_of(&self.mounts, &request.full_path()) {
            Some(mount) => engine::handle(self, request, &mount),
            None => Answer::no_route(&request.path),
        }
    }

    /// What is given under a lease. Refused where the token had one use left: its leases die with it.
    pub fn leased(&mut self, request: &Request, given: ToLease, mount_max: Duration) -> Answer {
        let now = self.clock.now();
        let Some(token) = self.tokens.by_id.get_mut(&request.token) else {
            return Answer::denied();
        };
        if token.uses == 1 {
            self.undo(&request.full_path(), &given.purpose);
            let text = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.";
            return Answer::error(400, text);
        }
        let max_ttl = given.max_ttl.unwrap_or(Duration::MAX);
        let term = Term {
            asked: given.ttl,
            period: None,
            max: max_ttl.min(mount_max),
            explicit_max: None,
            age: Duration::ZERO,
        };
        let Some(granted) = term.granted() else {
            return Answer::wrapped_error(500, "max TTL must be greater than zero");
        };
        let mut expires = now.saturating_add(granted.ttl);
        if let Some(end) = token.expires.filter(|_| token.spec.batch) {
            expires = expires.min(end);
        }
        let namespace_id = self.namespaces.get(&request.namespace);
        let id = Leases::name(&request.path, namespace_id.map_or("", String::as_str));
        token.leases.insert(id.clone());
        let lease = Lease {
            id,
            namespace: request.namespace.clone(),
            path: request.path.clone(),
            token: request.token.clone(),
            issued: now,
            expires,
            last_renewal: None,
            renewable: given.renewable,
            default_ttl: given.ttl,
            max_ttl,
            purpose: given.purpose,
        };
        let answer = Answer::lease(&lease, now, given.data);
        self.leases.insert(lease);
        answer.warn(granted.warning.into_iter().collect())
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
        self.wrapped.retain(|_, wrapped| wrapped.ends > now);
    }

    /// Ends a token and its children at once; their leases are owed their revocation.
    pub fn revoke_token(&mut self, id: &str) {
        for lease in self.tokens.remove(id) {
            self.leases.queue(lease);
        }
    }

    /// Ends a lease now.
    pub fn revoke_lease(&mut self, id: &str) {
        if let Some(lease) = self.leases.remove(id) {
            if let Some(token) = self.tokens.by_id.get_mut(&lease.token) {
                token.leases.remove(id);
            }
            self.undo(&joined(&lease.namespace, &lease.path), &lease.purpose);
        }
    }

    fn undo(&mut self, full_path: &str, purpose: &Purpose) {
        let Purpose::User(user) = purpose else { return };
        let mount = mount_of(&self.mounts, full_path).and_then(|path| self.mounts.get_mut(&path));
        if let Some(Engine::Database(database)) = mount.map(|mount| &mut mount.inner) {
            database.users.remove(user);
        }
    }

    /// The reply that gives a token.
    pub fn grant(&mut self, wanted: Wanted) -> Answer {
        let now = self.clock.now();
        let (id, warning) = self.tokens.create(wanted, now);
        let auth = self.tokens.by_id.get(&id).map(|token| token.auth(now));
        Answer::with(&[("auth", auth.unwrap_or(Value::Null))]).warn(warning.into_iter().collect())
    }

    pub fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.by_id.get(id)
    }

    /// A namespace and its id, as a token is told of them.
    pub fn namespace(&self, path: &str) -> (String, String) {
        let id = self.namespaces.get(path).cloned().unwrap_or_default();
        (path.to_owned(), id)
    }
}

/// The longest beginning of a path, in whole segments, at which something is mounted.
pub fn mount_of<T>(mounts: &BTreeMap<String, T>, path: &str) -> Option<String> {
    let mut candidate = path.trim_end_matches('/');
    loop {
        if mounts.contains_key(candidate) {
            return Some(candidate.to_owned());
        }
        (candidate, _) = candidate.rsplit_once('/')?;
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
