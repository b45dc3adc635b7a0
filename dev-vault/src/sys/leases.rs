//! `sys/leases/*` (OpenBao `vault/logical_system.go`): every failure of a renewal is a 400.

use aws_lc_rs::digest;
use serde_json::Value;

use crate::answer::{Answer, Request, joined};
use crate::core::{Core, Mount, SYSTEM_TTL, mount_of};
use crate::engine::listed;
use crate::leases::Purpose;

/// Everything below `sys/leases/`.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let (what, path) = rest.split_once('/').unwrap_or((rest, ""));
    match what {
        "renew" if request.writes() => renew(core, request, &id(request, path)),
        "revoke" if request.writes() => revoke(core, request, &id(request, path)),
        "lookup" if request.lists() => list(core, request, path),
        "lookup" if request.writes() => lookup(core, request),
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

fn lookup(core: &Core, request: &Request) -> Answer {
    let id = request.text("lease_id");
    if id.is_empty() {
        return Answer::error(400, "lease_id must be specified");
    }
    match core.leases.by_id.get(id) {
        Some(lease) => Answer::data(lease.lookup(core.clock.now())),
        None => Answer::error(400, "invalid lease"),
    }
}

fn renew(core: &mut Core, request: &Request, id: &str) -> Answer {
    if id.is_empty() {
        return Answer::error(400, "lease_id must be specified");
    }
    if is_login(core, id) {
        return Answer::error(400, "tokens cannot be renewed through this endpoint");
    }
    let Some(lease) = core.leases.by_id.get(id) else {
        return Answer::error(400, "lease not found");
    };
    let Some(token) = core.token(&lease.token) else {
        return Answer::error(400, "cannot renew lease, no valid associated token");
    };
    let ceiling = token.expires.filter(|_| token.spec.batch);
    let mount = mount_of(&core.mounts, &joined(&lease.namespace, &lease.path));
    let mount = mount.and_then(|path| core.mounts.get(&path));
    let mount_max = mount.map_or(SYSTEM_TTL, Mount::max_ttl);
    let now = core.clock.now();
    let increment = request.duration("increment");
    match core.leases.renew(id, increment, mount_max, ceiling, now) {
        Ok((lease, warning)) => {
            let data = match &lease.purpose {
                Purpose::Secret(data) => data.clone(),
                Purpose::User(_) | Purpose::Certificate => Value::Null,
            };
            Answer::lease(&lease, now, data).warn(warning.into_iter().collect())
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
    path.starts_with("auth/")
        && tokens.any(|token| token.spec.path == path && hashed(&token.id) == name)
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
    let below = core.leases.by_id.range(path.clone()..);
    let below = below.take_while(|(id, _)| id.starts_with(&path));
    let below: Vec<String> = below
        .filter(|(_, lease)| lease.namespace == request.namespace)
        .map(|(id, _)| id.clone())
        .collect();
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

/// Leases, and tokens, which the real server keeps among them: under their login's path and a hash.
fn list(core: &Core, request: &Request, path: &str) -> Answer {
    let here = &request.namespace;
    let leases = core.leases.by_id.values();
    let leases = leases
        .filter(|lease| lease.namespace == *here)
        .map(|lease| lease.id.clone());
    let tokens = core.tokens.by_id.values().filter(|token| {
        token.spec.namespace.0 == *here && !token.spec.batch && token.id != core.root_token
    });
    let tokens = tokens.map(|token| format!("{}/{}", token.spec.path, hashed(&token.id)));
    let keys: Vec<String> = leases.chain(tokens).collect();
    listed(keys.iter(), path)
}
