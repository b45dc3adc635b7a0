//! The kubernetes method (OpenBao `credential/kubernetes/path_login.go`, `token_review.go`).

use serde_json::{Map, Value, json};

use super::{Role, Roles, TokenFields, entity};
use crate::answer::{Answer, Request};
use crate::core::Core;
use crate::fields::Fields;
use crate::jwt::{AUDIENCE, EXPIRED, Jwt};
use crate::sys::wrapping::{self, Wrap};
use crate::tokens::Wanted;

#[derive(Default)]
pub struct Kubernetes {
    pub roles: Roles<Bounds>,
    host: Option<String>,
    reviewer: Option<String>,
}

/// Whom a role lets in.
pub struct Bounds {
    names: Vec<String>,
    namespaces: Vec<String>,
    audience: String,
}

/// A service account, as its token names it.
struct Account {
    namespace: String,
    name: String,
    uid: String,
}

/// A login that has passed every check but the API server's.
pub struct Checked<'a> {
    pub role: String,
    pub token: &'a TokenFields,
    url: String,
    bearer: String,
    jwt: String,
    audiences: Vec<String>,
    account: Account,
}

/// A login that waits for the API server's word.
pub struct Review {
    pub url: String,
    pub bearer: String,
    pub token: String,
    pub audiences: Vec<String>,
    account: Account,
    wanted: Wanted,
    wrap: Option<Wrap>,
}

impl Checked<'_> {
    pub fn review(self, wanted: Wanted, wrap: Option<Wrap>) -> Review {
        Review {
            url: self.url,
            bearer: self.bearer,
            token: self.jwt,
            audiences: self.audiences,
            account: self.account,
            wanted,
            wrap,
        }
    }
}

/// What is a role's own.
///
/// # Errors
/// The server's own words.
pub fn bounds(fields: Fields<'_>) -> Result<Bounds, String> {
    let bounds = Bounds {
        names: fields.list("bound_service_account_names"),
        namespaces: fields.list("bound_service_account_namespaces"),
        audience: fields.text("audience").to_owned(),
    };
    if bounds.names.is_empty() {
        return Err("\"bound_service_account_names\" can not be empty".to_owned());
    }
    if bounds.namespaces.is_empty() {
        return Err("\"bound_service_account_namespaces\" can not be empty if \"bound_service_account_namespace_selector\" is not set".to_owned());
    }
    Ok(bounds)
}

impl Kubernetes {
    pub fn configure(&mut self, fields: Fields<'_>) -> Result<(), &'static str> {
        let host = fields.text("kubernetes_host");
        if host.is_empty() {
            return Err("no host provided");
        }
        self.host = Some(host.trim_end_matches('/').to_owned());
        let reviewer = fields.text("token_reviewer_jwt");
        self.reviewer = (!reviewer.is_empty()).then(|| reviewer.to_owned());
        Ok(())
    }

    /// The checks up to the API server's, in their order; `now` in seconds since 1970.
    ///
    /// # Errors
    /// The answer that refuses the login.
    pub fn begin(&self, request: &Request, now: u64) -> Result<Checked<'_>, Answer> {
        let (name, jwt) = (request.text("role"), request.text("jwt"));
        if name.is_empty() {
            return Err(Answer::error(400, "missing role"));
        }
        if jwt.is_empty() {
            return Err(Answer::error(400, "missing jwt"));
        }
        let role = self.roles.get(name);
        let role =
            role.ok_or_else(|| Answer::error(400, format!("invalid role name \"{name}\"")))?;
        let host = self.host.as_ref();
        let host =
            host.ok_or_else(|| Answer::error(500, "could not load backend configuration"))?;
        let token = Jwt::parse(jwt).ok_or_else(Answer::denied)?;
        let account = role.admits(&token, now)?;
        let audiences = match role.bounds.audience.as_str() {
            "" => token.audiences(),
            audience => vec![audience.to_owned()],
        };
        Ok(Checked {
            role: name.to_owned(),
            token: &role.token,
            url: format!("{host}/apis/authentication.k8s.io/v1/tokenreviews"),
            bearer: self.reviewer.clone().unwrap_or_else(|| jwt.to_owned()),
            jwt: jwt.to_owned(),
            audiences,
            account,
        })
    }
}

impl Role<Bounds> {
    fn admits(&self, token: &Jwt, now: u64) -> Result<Account, Answer> {
        let refuse = |text: &str| Answer::error(403, text);
        let audience = &self.bounds.audience;
        if !audience.is_empty() && !token.audiences().contains(audience) {
            return Err(refuse(AUDIENCE));
        }
        if token.expired(now) {
            return Err(refuse(EXPIRED));
        }
        let account = account(token).ok_or_else(Answer::denied)?;
        if !bound(&self.bounds.names, &account.name) {
            return Err(refuse("service account name not authorized"));
        }
        if !bound(&self.bounds.namespaces, &account.namespace) {
            return Err(refuse("namespace not authorized"));
        }
        Ok(account)
    }
}

fn account(token: &Jwt) -> Option<Account> {
    let kubernetes = token.claims.get("kubernetes.io")?;
    let text = |pointer: &str| Some(kubernetes.pointer(pointer)?.as_str()?.to_owned());
    Some(Account {
        namespace: text("/namespace")?,
        name: text("/serviceaccount/name")?,
        uid: text("/serviceaccount/uid")?,
    })
}

fn bound(allowed: &[String], value: &str) -> bool {
    allowed.iter().any(|bound| bound == "*" || bound == value)
}

/// The end of a login: what the API server said, if anything. Its refusal, a mismatch and its absence all
/// look the same.
pub fn reviewed(core: &mut Core, review: Review, status: Option<&Value>) -> Answer {
    if !status.is_some_and(|status| review.genuine(status)) {
        return Answer::denied();
    }
    let (account, mut wanted) = (review.account, review.wanted);
    let (mount, role) = wanted.role.clone().unwrap_or_default();
    wanted.display_name =
        format!("{mount}-{}-{}", account.namespace, account.name).replace('/', "-");
    wanted.entity_id = entity(core, &mount, &account.uid);
    wanted.meta = Some(Map::from_iter([
        ("role".to_owned(), json!(role)),
        ("service_account_name".to_owned(), json!(account.name)),
        (
            "service_account_namespace".to_owned(),
            json!(account.namespace),
        ),
        ("service_account_secret_name".to_owned(), json!("")),
        ("service_account_uid".to_owned(), json!(account.uid)),
    ]));
    let answer = core.grant(wanted);
    wrapping::sealed_in(core, review.wrap.as_ref(), answer)
}

impl Review {
    fn genuine(&self, status: &Value) -> bool {
        let text = |pointer: &str| {
            let value = status.pointer(pointer).and_then(Value::as_str);
            value.unwrap_or_default()
        };
        let (namespace, name) = (&self.account.namespace, &self.account.name);
        let given = status.get("audiences").and_then(Value::as_array);
        let mut given = given.into_iter().flatten().filter_map(Value::as_str);
        let overlap = self.audiences.is_empty()
            || given.any(|given| self.audiences.iter().any(|wanted| wanted == given));
        overlap
            && status.get("authenticated") == Some(&Value::Bool(true))
            && text("/user/username") == format!("system:serviceaccount:{namespace}:{name}")
            && text("/user/uid") == self.account.uid
    }
}
