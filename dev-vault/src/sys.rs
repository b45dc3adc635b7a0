//! The system backend: mounts, policies, seal, quotas, wrapping.

pub mod leases;
pub mod tokens;

use serde_json::{Value, json};

use crate::answer::{Answer, Request};
use crate::auth::Method;
use crate::core::{Core, Mount};
use crate::engine::Engine;
use crate::policy::Policy;
use crate::text;

const VERSION: &str = "2.6.2-dev-vault";

/// What needs `sudo` besides its operation.
pub fn wants_sudo(request: &Request) -> bool {
    let path = request.path.as_str();
    path.starts_with("sys/leases/revoke-prefix/")
        || path.starts_with("sys/leases/lookup/")
        || path == "sys/seal"
        || path.starts_with("sys/auth/")
        || path.starts_with("auth/token/accessors")
}

/// What is answered without a token, sealed or not.
pub fn unsealed(core: &mut Core, request: &Request) -> Option<Answer> {
    match request.path.as_str() {
        "sys/health" => Some(health(core, request)),
        "sys/seal-status" => Some(Answer::raw(200, seal_status(core))),
        "sys/unseal" if request.writes() => {
            core.sealed = false;
            Some(Answer::raw(200, seal_status(core)))
        }
        _ => None,
    }
}

fn health(core: &Core, request: &Request) -> Answer {
    let code = |name: &str, usual: u16| {
        let asked = request.query.get(name).and_then(|code| code.parse().ok());
        asked.unwrap_or(usual)
    };
    let mut body = json!({
        "initialized": true,
        "sealed": core.sealed,
        "standby": core.sealed,
        "replication_performance_mode": if core.sealed { "unknown" } else { "disabled" },
        "replication_dr_mode": if core.sealed { "unknown" } else { "disabled" },
        "server_time_utc": core.clock.now().as_secs(),
        "version": VERSION,
    });
    if core.sealed {
        return Answer::raw(code("sealedcode", 503), body);
    }
    if let Value::Object(body) = &mut body {
        body.insert("cluster_name".to_owned(), json!("dev-vault"));
        body.insert("cluster_id".to_owned(), json!(core.cluster_id));
    }
    Answer::raw(code("activecode", 200), body)
}

fn seal_status(core: &Core) -> Value {
    json!({
        "type": "shamir", "initialized": true, "sealed": core.sealed, "t": 1, "n": 1, "progress": 0,
        "nonce": "", "recovery_seal": false, "version": VERSION, "migration": false,
        "cluster_name": "dev-vault", "cluster_id": core.cluster_id, "storage_type": "inmem",
    })
}

/// Everything below `sys/` that needs a token.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    if let Some(rest) = rest.strip_prefix("leases/") {
        return leases::handle(core, request, rest);
    }
    if let Some(path) = rest.strip_prefix("mounts/") {
        return mounts(core, request, path);
    }
    if let Some(path) = rest.strip_prefix("auth/") {
        return auths(core, request, path);
    }
    if let Some(name) = rest
        .strip_prefix("policies/acl/")
        .or_else(|| rest.strip_prefix("policy/"))
    {
        return policies(core, request, name);
    }
    if let Some(name) = rest.strip_prefix("quotas/rate-limit/") {
        return quota(core, request, name);
    }
    if let Some(name) = rest.strip_prefix("namespaces/") {
        let name = name.trim_matches('/').to_owned();
        if request.deletes() {
            core.namespaces.remove(&name);
            return Answer::no_content();
        }
        core.namespaces.insert(name.clone());
        return Answer::data(json!({ "path": format!("{name}/"), "id": text::random(6) }));
    }
    if let Some(path) = rest.strip_prefix("internal/ui/mounts/") {
        return ui_mount(core, request, path);
    }
    match rest {
        "seal" if request.writes() => {
            core.sealed = true;
            Answer::no_content()
        }
        "quotas/config" if request.writes() => {
            core.quotas.with_headers = request
                .flag("enable_rate_limit_response_headers")
                .unwrap_or_default();
            Answer::no_content()
        }
        "wrapping/lookup" if request.writes() => wrapping_lookup(core, request),
        "wrapping/unwrap" if request.writes() => unwrap(core, request),
        "capabilities-self" if request.writes() => capabilities(core, request),
        _ => Answer::unsupported(),
    }
}

fn mounts(core: &mut Core, request: &Request, path: &str) -> Answer {
    if let Some(path) = path.strip_suffix("/tune") {
        return match core.mounts.get_mut(path) {
            Some(mount) if request.writes() => tune(mount, request),
            _ => Answer::not_found(),
        };
    }
    let path = path.trim_matches('/');
    if request.deletes() {
        core.mounts.remove(path);
        return Answer::no_content();
    }
    if core.mounts.contains_key(path) {
        return Answer::error(400, format!("path is already in use at {path}/"));
    }
    let kind = request.text("type");
    let options = request.body.get("options");
    let version = options.and_then(|options| options.get("version"));
    let second = version.is_some_and(|version| version == "2" || version == 2);
    match Engine::of(kind, second, core.leased_kv) {
        Some(engine) => {
            core.mounts
                .insert(path.to_owned(), Mount::new(kind, engine));
            Answer::no_content()
        }
        None => Answer::error(400, format!("plugin not found in the catalog: {kind}")),
    }
}

fn auths(core: &mut Core, request: &Request, path: &str) -> Answer {
    if let Some(path) = path.strip_suffix("/tune") {
        return match core.auths.get_mut(path) {
            Some(mount) if request.writes() => tune(mount, request),
            _ => Answer::not_found(),
        };
    }
    let path = path.trim_matches('/');
    if request.deletes() {
        core.auths.remove(path);
        let below = format!("auth/{path}/login");
        let tokens = core
            .tokens
            .by_id
            .values()
            .filter(|token| token.path == below);
        let tokens: Vec<String> = tokens.map(|token| token.id.clone()).collect();
        for token in tokens {
            core.revoke_token(&token);
        }
        return Answer::no_content();
    }
    let kind = request.text("type");
    match Method::of(kind) {
        Some(method) => {
            core.auths.insert(path.to_owned(), Mount::new(kind, method));
            Answer::no_content()
        }
        None => Answer::error(400, format!("plugin not found in the catalog: {kind}")),
    }
}

fn tune<T>(mount: &mut Mount<T>, request: &Request) -> Answer {
    mount.default_ttl = request.duration("default_lease_ttl").or(mount.default_ttl);
    mount.max_ttl = request.duration("max_lease_ttl").or(mount.max_ttl);
    let kind = request.text("token_type");
    if !kind.is_empty() {
        mount.token_type = Some(kind.to_owned());
    }
    Answer::no_content()
}

fn policies(core: &mut Core, request: &Request, name: &str) -> Answer {
    if request.deletes() {
        core.policies.remove(name);
        return Answer::no_content();
    }
    if !request.writes() {
        return if core.policies.contains_key(name) {
            Answer::data(json!({ "name": name }))
        } else {
            Answer::not_found()
        };
    }
    match Policy::parse(request.text("policy")) {
        Ok(policy) => {
            core.policies.insert(name.to_owned(), policy);
            Answer::no_content()
        }
        Err(error) => Answer::error(400, format!("failed to parse policy: {error}")),
    }
}

fn quota(core: &mut Core, request: &Request, name: &str) -> Answer {
    if request.deletes() {
        core.quotas.remove(name);
        return Answer::no_content();
    }
    let Some(rate) = request.number("rate") else {
        return Answer::error(400, "'rate' is invalid");
    };
    let interval = request.duration("interval");
    let interval = interval.unwrap_or(std::time::Duration::from_secs(1));
    core.quotas.set(name, request.text("path"), rate, interval);
    Answer::no_content()
}

fn ui_mount(core: &Core, request: &Request, path: &str) -> Answer {
    let root = core
        .token(&request.token)
        .is_some_and(|token| token.policies.iter().any(|policy| policy == "root"));
    let found = core
        .mount_of(path)
        .filter(|_| root || !core.capabilities(&request.token, path).is_empty());
    let Some((name, mount)) = found.and_then(|name| {
        let mount = core.mounts.get(&name)?;
        Some((name, mount))
    }) else {
        return Answer::error(
            403,
            format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path \"{path}/\""
            ),
        );
    };
    let (kind, version) = mount.inner.kind();
    Answer::data(json!({
        "accessor": mount.accessor,
        "path": format!("{name}/"),
        "type": kind,
        "options": version.map(|version| json!({ "version": version })),
    }))
}

fn wrapping_token(request: &Request) -> &str {
    match request.text("token") {
        "" => &request.token,
        token => token,
    }
}

const NOT_WRAPPED: &str = "wrapping token is not valid or does not exist";

fn wrapping_lookup(core: &Core, request: &Request) -> Answer {
    match core.wrapped.get(wrapping_token(request)) {
        Some(wrapped) => Answer::data(json!({
            "creation_path": wrapped.path,
            "creation_time": text::timestamp(wrapped.created),
            "creation_ttl": wrapped.ttl.as_secs(),
        })),
        None => Answer::error(400, NOT_WRAPPED),
    }
}

fn unwrap(core: &mut Core, request: &Request) -> Answer {
    match core.wrapped.remove(wrapping_token(request)) {
        Some(wrapped) => wrapped.answer,
        None => Answer::error(400, NOT_WRAPPED),
    }
}

fn capabilities(core: &Core, request: &Request) -> Answer {
    let mut paths = request.list("paths");
    paths.extend(request.list("path"));
    let mut data = serde_json::Map::new();
    for path in paths {
        let found: Vec<String> = core
            .capabilities(&request.token, &path)
            .into_iter()
            .collect();
        data.insert(path, json!(found));
    }
    Answer::data(Value::Object(data))
}
