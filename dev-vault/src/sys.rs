//! The system backend: who answers what below `sys/`; seal, policies, quotas and capabilities themselves.

pub mod leases;
mod mounts;
mod namespaces;
pub mod wrapping;

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Request, joined};
use crate::core::Core;
use crate::policy::Policy;

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
        return mounts::engines(core, request, path);
    }
    if let Some(path) = rest.strip_prefix("auth/") {
        return mounts::methods(core, request, path);
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
        return namespaces::handle(core, request, name);
    }
    if let Some(path) = rest.strip_prefix("internal/ui/mounts/") {
        return mounts::serving(core, request, path);
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
        "wrapping/unwrap" if request.writes() => wrapping::unwrap(core, request),
        "capabilities-self" if request.writes() => capabilities(core, request),
        _ => Answer::unsupported(),
    }
}

fn policies(core: &mut Core, request: &Request, name: &str) -> Answer {
    let key = (request.namespace.clone(), name.to_owned());
    if request.deletes() {
        core.policies.remove(&key);
        return Answer::no_content();
    }
    if !request.writes() {
        let known = core.policies.get(&key);
        return known.map_or_else(Answer::not_found, |policy| {
            Answer::data(json!({ "name": name, "policy": policy.written() }))
        });
    }
    match Policy::parse(request.text("policy")) {
        Ok(policy) => {
            core.policies.insert(key, policy);
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
    let Some(rate) = request.fields().number("rate") else {
        return Answer::error(400, "'rate' is invalid");
    };
    let interval = request.duration("interval");
    let interval = interval.unwrap_or(std::time::Duration::from_secs(1));
    core.quotas.set(name, request.text("path"), rate, interval);
    Answer::no_content()
}

fn capabilities(core: &Core, request: &Request) -> Answer {
    let Some(token) = core.token(&request.token) else {
        return Answer::denied();
    };
    let found = |path: &str| {
        let found = core.capabilities(token, &joined(&request.namespace, path));
        if found.is_empty() {
            json!(["deny"])
        } else {
            json!(found)
        }
    };
    let mut paths = request.fields().list("paths");
    paths.extend(request.fields().list("path"));
    let mut data = Map::new();
    if let [path] = paths.as_slice() {
        data.insert("capabilities".to_owned(), found(path));
    }
    for path in paths {
        let found = found(&path);
        data.insert(path, found);
    }
    Answer::data(Value::Object(data))
}
