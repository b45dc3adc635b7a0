//! The auth methods: kubernetes and jwt logins, their configuration, and the token store's own paths.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Request};
use crate::core::{Core, Mount, Step};
use crate::jwt::Jwt;
use crate::text;
use crate::tokens::Wanted;

/// A mounted auth method.
pub enum Method {
    Kubernetes(Kubernetes),
    Jwt(JwtMethod),
}

#[derive(Default)]
pub struct Kubernetes {
    pub host: Option<String>,
    pub reviewer: Option<String>,
    pub roles: BTreeMap<String, Map<String, Value>>,
}

#[derive(Default)]
pub struct JwtMethod {
    pub keys: Vec<String>,
    pub default_role: String,
    pub roles: BTreeMap<String, Map<String, Value>>,
}

impl Method {
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "kubernetes" => Some(Self::Kubernetes(Kubernetes::default())),
            "jwt" => Some(Self::Jwt(JwtMethod::default())),
            _ => None,
        }
    }

    pub fn role(&self, name: &str) -> Option<&Map<String, Value>> {
        match self {
            Self::Kubernetes(method) => method.roles.get(name),
            Self::Jwt(method) => method.roles.get(name),
        }
    }

    pub fn roles(&mut self) -> &mut BTreeMap<String, Map<String, Value>> {
        match self {
            Self::Kubernetes(method) => &mut method.roles,
            Self::Jwt(method) => &mut method.roles,
        }
    }
}

/// A login that waits for the API server's word.
pub struct Review {
    pub url: String,
    pub bearer: String,
    pub token: String,
    pub audiences: Vec<String>,
    account: Account,
    wanted: Wanted,
}

struct Account {
    namespace: String,
    name: String,
    uid: String,
}

/// A login, if the request is one; everything else needs a token.
pub fn login(core: &mut Core, request: &Request) -> Option<Step> {
    let mount = request.path.strip_prefix("auth/")?.strip_suffix("/login")?;
    if !request.writes() {
        return None;
    }
    let now = core.clock.now().as_secs();
    let method = core.auths.get(mount)?;
    Some(match &method.inner {
        Method::Kubernetes(kubernetes) => match kubernetes_login(kubernetes, request, now) {
            Ok((review, role)) => {
                let wanted = wanted(mount, method, &role.0, &role.1);
                Step::Review(Box::new(Review { wanted, ..review }))
            }
            Err(answer) => Step::Done(answer),
        },
        Method::Jwt(jwt) => match jwt_login(jwt, request, now) {
            Ok((token, name, role)) => {
                let mut wanted = wanted(mount, method, &name, &role);
                let user = token.text(
                    role.get("user_claim")
                        .and_then(Value::as_str)
                        .unwrap_or("sub"),
                );
                wanted.display_name = format!("{mount}-{user}");
                wanted.meta = Some(Map::from_iter([("role".to_owned(), json!(name))]));
                wanted.entity_id = entity(core, mount, user);
                Step::Done(core.grant(wanted))
            }
            Err(text) => Step::Done(Answer::error(400, text)),
        },
    })
}

type Role = (String, Map<String, Value>);

/// The checks up to the API server's, in their order (OpenBao `credential/kubernetes/path_login.go`).
fn kubernetes_login(
    method: &Kubernetes,
    request: &Request,
    now: u64,
) -> Result<(Review, Role), Answer> {
    let (name, jwt) = (request.text("role"), request.text("jwt"));
    if name.is_empty() {
        return Err(Answer::error(400, "missing role"));
    }
    if jwt.is_empty() {
        return Err(Answer::error(400, "missing jwt"));
    }
    let Some(role) = method.roles.get(name) else {
        return Err(Answer::error(400, format!("invalid role name \"{name}\"")));
    };
    let Some(host) = &method.host else {
        return Err(Answer::error(500, "could not load backend configuration"));
    };
    let Some(token) = Jwt::parse(jwt) else {
        return Err(Answer::denied());
    };
    let audience = role.get("audience").and_then(Value::as_str).unwrap_or("");
    if !audience.is_empty() && !token.audiences().iter().any(|aud| aud == audience) {
        return Err(Answer::error(
            403,
            "invalid audience (aud) claim: audience claim does not match any expected audience",
        ));
    }
    if token.expired(now) {
        return Err(Answer::error(
            403,
            "invalid expiration time (exp) claim: token is expired",
        ));
    }
    let account = account(&token).ok_or_else(Answer::denied)?;
    if !bound(role, "bound_service_account_names", &account.name) {
        return Err(Answer::error(403, "service account name not authorized"));
    }
    if !bound(role, "bound_service_account_namespaces", &account.namespace) {
        return Err(Answer::error(403, "namespace not authorized"));
    }
    let audiences = if audience.is_empty() {
        token.audiences()
    } else {
        vec![audience.to_owned()]
    };
    let review = Review {
        url: format!(
            "{}/apis/authentication.k8s.io/v1/tokenreviews",
            host.trim_end_matches('/')
        ),
        bearer: method.reviewer.clone().unwrap_or_else(|| jwt.to_owned()),
        token: jwt.to_owned(),
        audiences,
        account,
        wanted: Wanted::default(),
    };
    Ok((review, (name.to_owned(), role.clone())))
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

fn bound(role: &Map<String, Value>, field: &str, value: &str) -> bool {
    texts(role, field)
        .iter()
        .any(|bound| bound == "*" || bound == value)
}

fn texts(role: &Map<String, Value>, field: &str) -> Vec<String> {
    let request = Request {
        body: role.clone(),
        ..Request::default()
    };
    request.list(field)
}

/// The end of a kubernetes login: what the API server said (`token_review.go`). Its refusal, a mismatch
/// and its absence all look the same.
pub fn reviewed(core: &mut Core, review: Review, status: Option<Value>) -> Answer {
    let Some(status) = status else {
        return Answer::denied();
    };
    let text = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let account = &review.account;
    let user = format!(
        "system:serviceaccount:{}:{}",
        account.namespace, account.name
    );
    let audiences = status.get("audiences").and_then(Value::as_array);
    let overlap = audiences.into_iter().flatten().filter_map(Value::as_str);
    let overlap = review.audiences.is_empty()
        || overlap
            .into_iter()
            .any(|one| review.audiences.iter().any(|aud| aud == one));
    let genuine = status.get("authenticated") == Some(&Value::Bool(true))
        && overlap
        && text("/user/username") == user
        && text("/user/uid") == account.uid;
    if !genuine {
        return Answer::denied();
    }
    let mut wanted = review.wanted;
    let (mount, role) = wanted.role.clone().unwrap_or_default();
    wanted.display_name = format!("{mount}-{}-{}", account.namespace, account.name);
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
    wanted.entity_id = entity(core, &mount, &account.uid);
    core.grant(wanted)
}

fn entity(core: &mut Core, mount: &str, alias: &str) -> String {
    let key = format!("{mount}/{alias}");
    core.entities.entry(key).or_insert_with(text::uuid).clone()
}

/// The checks of a jwt login (OpenBao `credential/jwt/path_login.go`): every failure is a 400.
fn jwt_login(
    method: &JwtMethod,
    request: &Request,
    now: u64,
) -> Result<(Jwt, String, Map<String, Value>), String> {
    let name = match request.text("role") {
        "" => method.default_role.as_str(),
        name => name,
    };
    if name.is_empty() {
        return Err("missing role".to_owned());
    }
    let role = method
        .roles
        .get(name)
        .ok_or_else(|| format!("role \"{name}\" could not be found"))?;
    if request.text("jwt").is_empty() {
        return Err("missing token".to_owned());
    }
    let fail = |text: &str| format!("error validating token: {text}");
    let token = Jwt::parse(request.text("jwt"))
        .ok_or_else(|| fail("error verifying token signature: malformed token"))?;
    if !method.keys.iter().any(|key| token.signed_by(key)) {
        return Err(fail(
            "error verifying token signature: no known key successfully validated the token signature",
        ));
    }
    if token.expired(now) {
        return Err(fail(
            "invalid expiration time (exp) claim: token is expired",
        ));
    }
    let subject = role
        .get("bound_subject")
        .and_then(Value::as_str)
        .unwrap_or("");
    if !subject.is_empty() && token.text("sub") != subject {
        return Err(fail("invalid subject (sub) claim"));
    }
    let audiences = texts(role, "bound_audiences");
    let given = token.audiences();
    if audiences.is_empty() && !given.is_empty() {
        return Err("audience claim found in JWT but no audiences bound to the role".to_owned());
    }
    if !audiences.is_empty() && !given.iter().any(|aud| audiences.contains(aud)) {
        return Err(fail(
            "invalid audience (aud) claim: audience claim does not match any expected audience",
        ));
    }
    let claims = role.get("bound_claims").and_then(Value::as_object);
    for (claim, wanted) in claims.into_iter().flatten() {
        let found = if claim.starts_with('/') {
            token.claims.pointer(claim)
        } else {
            token.claims.get(claim)
        };
        let fits = found.is_some_and(|found| match wanted {
            Value::Array(any) => any.contains(found),
            one => one == found,
        });
        if !fits {
            return Err(format!(
                "error validating claims: claim \"{claim}\" does not match any associated bound claim values"
            ));
        }
    }
    Ok((token, name.to_owned(), role.clone()))
}

/// The token that a role gives.
fn wanted(mount: &str, method: &Mount<Method>, name: &str, role: &Map<String, Value>) -> Wanted {
    let fields = Request {
        body: role.clone(),
        ..Request::default()
    };
    let duration = |field: &str| fields.duration(field).filter(|time| !time.is_zero());
    let max = duration("token_max_ttl").unwrap_or(Duration::MAX);
    let kind = match method.token_type.as_deref() {
        Some("batch") => "batch",
        Some("service") => "service",
        _ => fields.text("token_type"),
    };
    Wanted {
        policies: fields.list("token_policies"),
        no_default_policy: fields.flag("token_no_default_policy").unwrap_or_default(),
        path: format!("auth/{mount}/login"),
        batch: kind == "batch",
        orphan: true,
        ttl: Some(duration("token_ttl").unwrap_or_else(|| method.default_ttl())),
        max_ttl: max.min(method.max_ttl()),
        explicit_max_ttl: duration("token_explicit_max_ttl"),
        period: duration("token_period"),
        num_uses: fields.number("token_num_uses").unwrap_or_default(),
        role: Some((mount.to_owned(), name.to_owned())),
        ..Wanted::default()
    }
}

/// What is done below `auth/` with a token.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    if let Some(rest) = rest.strip_prefix("token/") {
        return crate::sys::tokens::handle(core, request, rest);
    }
    let Some((mount, rest)) = core
        .auths
        .keys()
        .filter_map(|mount| Some((mount.clone(), rest.strip_prefix(&format!("{mount}/"))?)))
        .max_by_key(|(mount, _)| mount.len())
    else {
        let path = &request.path;
        return Answer::error(
            404,
            format!("no handler for route \"{path}\". route entry not found."),
        );
    };
    let Some(method) = core.auths.get_mut(&mount) else {
        return Answer::not_found();
    };
    if rest == "config" && request.writes() {
        match &mut method.inner {
            Method::Kubernetes(kubernetes) => {
                kubernetes.host = Some(request.text("kubernetes_host").to_owned());
                let reviewer = request.text("token_reviewer_jwt");
                kubernetes.reviewer = (!reviewer.is_empty()).then(|| reviewer.to_owned());
            }
            Method::Jwt(jwt) => {
                jwt.keys = request.list("jwt_validation_pubkeys");
                request
                    .text("default_role")
                    .clone_into(&mut jwt.default_role);
            }
        }
        return Answer::no_content();
    }
    let Some(name) = rest.strip_prefix("role/") else {
        return Answer::unsupported();
    };
    let roles = method.inner.roles();
    if request.writes() {
        roles.insert(name.to_owned(), request.body.clone());
        Answer::no_content()
    } else if request.deletes() {
        roles.remove(name);
        Answer::no_content()
    } else {
        match roles.get(name) {
            Some(role) if request.reads() => Answer::data(Value::Object(role.clone())),
            _ => Answer::not_found(),
        }
    }
}
