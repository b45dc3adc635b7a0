//! The auth methods: what their mounts, configurations and roles have in common, and who logs in where.

pub mod jwt;
pub mod kubernetes;
pub mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

use self::jwt::JwtMethod;
use self::kubernetes::Kubernetes;
pub use self::kubernetes::{Review, reviewed};
use crate::answer::{Answer, Request, joined};
use crate::core::{Core, Mount, Step, mount_of};
use crate::fields::Fields;
use crate::sys::wrapping::{self, Wrap};
use crate::text;
use crate::tokens::{Limits, Wanted};

/// A mounted auth method.
pub enum Method {
    Kubernetes(Kubernetes),
    Jwt(JwtMethod),
}

/// A role: what it asks of a login, and the token that it gives.
pub struct Role<T> {
    pub bounds: T,
    pub token: TokenFields,
    /// As it was written, for those who read it.
    written: Map<String, Value>,
}

/// The roles of a mount.
pub type Roles<T> = BTreeMap<String, Role<T>>;

/// The `token_*` parameters of a role (OpenBao `sdk/helper/tokenutil`).
pub struct TokenFields {
    pub ttl: Option<Duration>,
    pub max_ttl: Option<Duration>,
    pub period: Option<Duration>,
    explicit_max_ttl: Option<Duration>,
    policies: BTreeSet<String>,
    default_policy: bool,
    batch: bool,
    num_uses: u64,
}

impl TokenFields {
    fn parse(fields: Fields<'_>) -> Result<Self, String> {
        let durations = [
            "token_ttl",
            "token_max_ttl",
            "token_period",
            "token_explicit_max_ttl",
        ];
        if let Some(error) = fields.unreadable_duration(&durations) {
            return Err(error);
        }
        let (ttl, max_ttl) = (
            fields.duration("token_ttl"),
            fields.duration("token_max_ttl"),
        );
        if max_ttl.is_some_and(|max| ttl.is_some_and(|ttl| ttl > max)) {
            return Err("'token_ttl' cannot be greater than 'token_max_ttl'".to_owned());
        }
        Ok(Self {
            ttl,
            max_ttl,
            period: fields.duration("token_period"),
            explicit_max_ttl: fields.duration("token_explicit_max_ttl"),
            policies: fields.list("token_policies").into_iter().collect(),
            default_policy: !fields.flag("token_no_default_policy").unwrap_or_default(),
            batch: fields.text("token_type") == "batch",
            num_uses: fields.number("token_num_uses").unwrap_or_default(),
        })
    }
}

impl Method {
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "kubernetes" => Some(Self::Kubernetes(Kubernetes::default())),
            "jwt" => Some(Self::Jwt(JwtMethod::default())),
            _ => None,
        }
    }

    fn token_fields(&self, role: &str) -> Option<&TokenFields> {
        match self {
            Self::Kubernetes(method) => method.roles.get(role).map(|role| &role.token),
            Self::Jwt(method) => method.roles.get(role).map(|role| &role.token),
        }
    }

    fn configure(&mut self, fields: Fields<'_>) -> Result<(), &'static str> {
        match self {
            Self::Kubernetes(method) => method.configure(fields),
            Self::Jwt(method) => method.configure(fields),
        }
    }

    fn roles(&mut self, request: &Request, name: &str) -> Answer {
        match self {
            Self::Kubernetes(method) => {
                answer_roles(&mut method.roles, request, name, kubernetes::bounds)
            }
            Self::Jwt(method) => answer_roles(&mut method.roles, request, name, jwt::bounds),
        }
    }
}

/// Writes, reads, lists or deletes roles; `bounds` reads what is the method's own of a role.
fn answer_roles<T>(
    roles: &mut Roles<T>,
    request: &Request,
    name: &str,
    bounds: fn(Fields<'_>) -> Result<T, String>,
) -> Answer {
    if request.lists() && name.is_empty() {
        return crate::engine::listed(roles.keys(), "");
    }
    if request.deletes() {
        roles.remove(name);
        return Answer::no_content();
    }
    if request.reads() {
        let role = roles.get(name);
        return role.map_or_else(Answer::not_found, |role| {
            Answer::data(Value::Object(role.written.clone()))
        });
    }
    if !request.writes() || name.is_empty() {
        return Answer::unsupported();
    }
    let fields = request.fields();
    let role = bounds(fields).and_then(|bounds| {
        Ok(Role {
            bounds,
            token: TokenFields::parse(fields)?,
            written: request.body.clone(),
        })
    });
    match role {
        Ok(role) => {
            roles.insert(name.to_owned(), role);
            Answer::no_content()
        }
        Err(text) => Answer::error(400, text),
    }
}

/// A login, if the request is one; everything else needs a token. Where nothing is mounted there is no
/// login either, so that a mistyped mount looks like a missing token.
pub fn login(core: &mut Core, request: &Request, wrap: Option<&Wrap>) -> Option<Step> {
    let mount = request.path.strip_prefix("auth/")?.strip_suffix("/login")?;
    let key = joined(&request.namespace, mount);
    let mounted = core.auths.get(&key)?;
    if !request.writes() {
        return Some(Step::Done(Answer::error(405, "unsupported operation")));
    }
    let now = core.clock.now().as_secs();
    match &mounted.inner {
        Method::Kubernetes(method) => Some(match method.begin(request, now) {
            Ok(checked) => {
                let role = (key.as_str(), checked.role.as_str());
                let wanted = wanted(core, request, mounted, role, checked.token);
                Step::Review(Box::new(checked.review(wanted, wrap.cloned())))
            }
            Err(answer) => Step::Done(answer),
        }),
        Method::Jwt(method) => Some(Step::Done(match method.login(request, now) {
            Ok(identity) => {
                let role = (key.as_str(), identity.role.as_str());
                let mut wanted = wanted(core, request, mounted, role, identity.token);
                let user = identity.user;
                wanted.display_name = format!("{mount}-{user}");
                wanted.meta = Some(Map::from_iter([("role".to_owned(), json!(role.1))]));
                wanted.entity_id = entity(core, &key, &user);
                let answer = core.grant(wanted);
                wrapping::sealed_in(core, wrap, answer)
            }
            Err(text) => Answer::error(400, text),
        })),
    }
}

/// The token that a role gives; `role` names mount and role.
fn wanted(
    core: &Core,
    request: &Request,
    mounted: &Mount<Method>,
    role: (&str, &str),
    fields: &TokenFields,
) -> Wanted {
    let batch = match mounted.token_type.as_deref() {
        Some("batch") => true,
        Some("service") => false,
        _ => fields.batch,
    };
    Wanted {
        namespace: core.namespace(&request.namespace),
        policies: fields.policies.clone(),
        default_policy: fields.default_policy,
        path: request.path.clone(),
        batch,
        orphan: true,
        ttl: Some(fields.ttl.unwrap_or_else(|| mounted.default_ttl())),
        max_ttl: fields
            .max_ttl
            .unwrap_or(Duration::MAX)
            .min(mounted.max_ttl()),
        explicit_max_ttl: fields.explicit_max_ttl,
        period: fields.period,
        num_uses: fields.num_uses,
        role: Some((role.0.to_owned(), role.1.to_owned())),
        ..Wanted::default()
    }
}

/// The id of whoever logs in, the same each time.
fn entity(core: &mut Core, mount: &str, alias: &str) -> String {
    let key = format!("{mount}/{alias}");
    core.entities.entry(key).or_insert_with(text::uuid).clone()
}

/// What a login's role says now of its token's renewal; the service account is not looked at again.
/// Nothing where the role is gone.
pub fn limits(core: &Core, mount: &str, role: &str) -> Option<Limits> {
    let mounted = core.auths.get(mount)?;
    let fields = mounted.inner.token_fields(role)?;
    Some(Limits {
        ttl: fields.ttl.unwrap_or_else(|| mounted.default_ttl()),
        max_ttl: fields
            .max_ttl
            .unwrap_or(Duration::MAX)
            .min(mounted.max_ttl()),
        period: fields.period,
    })
}

/// What is done below `auth/` with a token.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    if let Some(rest) = rest.strip_prefix("token/") {
        return tokens::handle(core, request, rest);
    }
    let full = joined(&request.namespace, rest);
    let mounted = mount_of(&core.auths, &full)
        .and_then(|mount| Some((full.strip_prefix(&mount)?, core.auths.get_mut(&mount)?)));
    let Some((rest, mounted)) = mounted else {
        return Answer::no_route(&request.path);
    };
    match rest.trim_matches('/') {
        "config" if request.writes() => match mounted.inner.configure(request.fields()) {
            Ok(()) => Answer::no_content(),
            Err(text) => Answer::error(400, text),
        },
        "role" => mounted.inner.roles(request, ""),
        rest => match rest.strip_prefix("role/") {
            Some(name) => mounted.inner.roles(request, name),
            None => Answer::unsupported(),
        },
    }
}
