//! `sys/leases/*` (OpenBao `vault/logical_system.go`): every failure of a renewal is a 400.

use ring::digest;
use serde_json::{Value, json};

use crate::answer::{Answer, Request};
use crate::core::Core;
use crate::leases::Purpose;

/// Everything below `sys/leases/`.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let (what, path) = rest.split_once('/').unwrap_or((rest, ""));
    match what {
        "renew" if request.writes() => renew(core, request, &id(request, path)),
        "revoke" if request.writes() => revoke(core, request, &id(request, path)),
        "lookup" if request.lists() => list(core, path),
        "lookup" if request.writes() => {
            let now = core.clock.now();
            match core.leases.by_id.get(request.text("lease_id")) {
                Some(lease) => Answer::data(lease.lookup(now)),
                None => Answer::error(400, "invalid lease"),
            }
        }
        "revoke-prefix" | "revoke-force" if request.writes() => prefix(core, request, path),
        _ => Answer::unsupported(),
    }
}

/// The body wins over the path.
fn id(request: &Request, path: &str) -> String {
    match request.text("lease_id") {
        "" => path.to_owned(),
        id => id.to_owned(),
    }
}

fn renew(core: &mut Core, request: &Request, id: &str) -> Answer {
    if id.is_empty() {
        return Answer::error(400, "lease_id must be specified");
    }
    if is_login(core, id) {
        return Answer::error(400, "tokens cannot be renewed through this endpoint");
    }
    let now = core.clock.now();
    let token = core.leases.by_id.get(id).map(|lease| lease.token.clone());
    let ceiling = match token.map(|token| core.tokens.by_id.get(&token)) {
        Some(Some(token)) => token.expires.filter(|_| token.batch),
        Some(None) => {
            return Answer::error(400, "cannot renew lease, no valid associated token");
        }
        None => None,
    };
    let increment = request.duration("increment").unwrap_or_default();
    match core.leases.renew(id, increment, ceiling, now) {
        Ok((lease, warnings)) => {
            let data = match &lease.purpose {
                Purpose::Secret(data) => data.clone(),
                Purpose::User(_) | Purpose::Certificate => Value::Null,
            };
            let left = (lease.expires - now).as_millis() + 500;
            Answer::with(&[
                ("lease_id", json!(lease.id)),
                ("renewable", json!(lease.renewable)),
                ("lease_duration", json!(left / 1000)),
                ("data", data),
            ])
            .warn(warnings)
        }
        Err(text) => Answer::error(400, text),
    }
}

/// A login's own entry among the leases is its token's.
fn is_login(core: &Core, id: &str) -> bool {
    let Some((path, name)) = id.rsplit_once('/') else {
        return false;
    };
    let mut tokens = core.tokens.by_id.values();
    path.starts_with("auth/") && tokens.any(|token| token.path == path && hashed(&token.id) == name)
}

fn hashed(token: &str) -> String {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("h{hex}")
}

fn revoke(core: &mut Core, request: &Request, id: &str) -> Answer {
    if id.is_empty() {
        return Answer::error(400, "lease_id must be specified");
    }
    if request.flag("sync").unwrap_or(true) {
        core.revoke_lease(id);
        Answer::no_content()
    } else {
        core.leases.queue(id.to_owned());
        Answer::empty(202)
    }
}

fn prefix(core: &mut Core, request: &Request, path: &str) -> Answer {
    let path = format!("{}/", path.trim_end_matches('/'));
    let below = core.leases.by_id.keys().filter(|id| id.starts_with(&path));
    let below: Vec<String> = below.cloned().collect();
    let sync = request.flag("sync").unwrap_or(true);
    for id in below {
        if sync {
            core.revoke_lease(&id);
        } else {
            core.leases.queue(id);
        }
    }
    if sync {
        Answer::no_content()
    } else {
        Answer::empty(202)
    }
}

fn list(core: &Core, path: &str) -> Answer {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let folder = if folder == "/" { String::new() } else { folder };
    let leases = core.leases.by_id.keys().cloned();
    let tokens = core
        .tokens
        .by_id
        .values()
        .filter(|token| !token.batch && token.id != core.root_token)
        .map(|token| format!("{}/{}", token.path, hashed(&token.id)));
    let mut keys: Vec<String> = leases
        .chain(tokens)
        .filter_map(|id| {
            let rest = id.strip_prefix(&folder)?;
            Some(match rest.split_once('/') {
                Some((first, _)) => format!("{first}/"),
                None => rest.to_owned(),
            })
        })
        .collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        Answer::not_found()
    } else {
        Answer::data(json!({ "keys": keys }))
    }
}
