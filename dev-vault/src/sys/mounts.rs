//! Mounting and tuning: engines below `sys/mounts/`, auth methods below `sys/auth/`
//! (OpenBao `vault/logical_system.go`).

use serde_json::json;

use crate::answer::{Answer, Request, joined};
use crate::auth::Method;
use crate::core::{Core, Mount, mount_of};
use crate::engine::Engine;
use crate::fields::Fields;
use crate::policy;

/// `sys/mounts/<path>` and its `tune`.
pub fn engines(core: &mut Core, request: &Request, path: &str) -> Answer {
    if let Some(path) = path.strip_suffix("/tune") {
        let mount = core.mounts.get_mut(&joined(&request.namespace, path));
        return tune(mount, request, &format!("{path}/"));
    }
    let path = path.trim_matches('/');
    let full = joined(&request.namespace, path);
    if request.deletes() {
        unmount(core, &full);
        return Answer::no_content();
    }
    if !request.writes() {
        return Answer::unsupported();
    }
    if let Some(taken) = mount_of(&core.mounts, &full) {
        return in_use(request, &taken);
    }
    let kind = request.text("type");
    let options = request.body.get("options");
    let version = options.and_then(|options| options.get("version"));
    let second = version.is_some_and(|version| version == "2" || version == 2);
    match Engine::of(kind, second, core.leased_kv) {
        Some(engine) => {
            let mut mount = Mount::new(kind, engine);
            configure(&mut mount, request);
            core.mounts.insert(full, mount);
            Answer::no_content()
        }
        None => unknown(kind),
    }
}

/// Takes an engine away, and revokes all that it has given first.
pub fn unmount(core: &mut Core, full_path: &str) {
    let leases = core.leases.by_id.values().filter(|lease| {
        let path = joined(&lease.namespace, &lease.path);
        mount_of(&core.mounts, &path).is_some_and(|mount| mount == full_path)
    });
    let leases: Vec<String> = leases.map(|lease| lease.id.clone()).collect();
    for lease in leases {
        core.revoke_lease(&lease);
    }
    core.mounts.remove(full_path);
}

/// `sys/auth/<path>` and its `tune`.
pub fn methods(core: &mut Core, request: &Request, path: &str) -> Answer {
    if let Some(path) = path.strip_suffix("/tune") {
        let mount = core.auths.get_mut(&joined(&request.namespace, path));
        return tune(mount, request, &format!("auth/{path}/"));
    }
    let path = path.trim_matches('/');
    let full = joined(&request.namespace, path);
    if request.deletes() {
        disable(core, &full);
        return Answer::no_content();
    }
    if !request.writes() {
        return Answer::unsupported();
    }
    if let Some(taken) = mount_of(&core.auths, &full) {
        return in_use(request, &taken);
    }
    let kind = request.text("type");
    match Method::of(kind) {
        Some(method) => {
            let mut mount = Mount::new(kind, method);
            configure(&mut mount, request);
            core.auths.insert(full, mount);
            Answer::no_content()
        }
        None => unknown(kind),
    }
}

/// Takes an auth method away, and revokes all tokens that it has given.
pub fn disable(core: &mut Core, full_path: &str) {
    core.auths.remove(full_path);
    let of_mount = |role: &(String, String)| role.0 == full_path;
    let tokens = core.tokens.by_id.values();
    let tokens = tokens.filter(|token| token.spec.role.as_ref().is_some_and(of_mount));
    let tokens: Vec<String> = tokens.map(|token| token.id.clone()).collect();
    for token in tokens {
        core.revoke_token(&token);
    }
}

fn in_use(request: &Request, taken: &str) -> Answer {
    let namespace = joined(&request.namespace, "");
    let taken = taken.strip_prefix(&namespace).unwrap_or(taken);
    Answer::error(400, format!("path is already in use at {taken}/"))
}

fn unknown(kind: &str) -> Answer {
    Answer::error(400, format!("plugin not found in the catalog: {kind}"))
}

/// The `config` of a new mount is what `tune` changes later.
fn configure<T>(mount: &mut Mount<T>, request: &Request) {
    if let Some(config) = request.body.get("config").and_then(|all| all.as_object()) {
        set(mount, Fields(config));
    }
}

fn tune<T>(mount: Option<&mut Mount<T>>, request: &Request, path: &str) -> Answer {
    let Some(mount) = mount else {
        let text = format!("tune of path \"{path}\" failed: no mount entry found");
        return Answer::error(400, text);
    };
    if request.reads() {
        return Answer::data(json!({
            "default_lease_ttl": mount.default_ttl().as_secs(),
            "max_lease_ttl": mount.max_ttl().as_secs(),
        }));
    }
    if !request.writes() {
        return Answer::unsupported();
    }
    set(mount, request.fields());
    Answer::no_content()
}

fn set<T>(mount: &mut Mount<T>, fields: Fields<'_>) {
    mount.default_ttl = fields.duration("default_lease_ttl").or(mount.default_ttl);
    mount.max_ttl = fields.duration("max_lease_ttl").or(mount.max_ttl);
    let kind = fields.text("token_type");
    if !kind.is_empty() {
        mount.token_type = Some(kind.to_owned());
    }
}

/// `sys/internal/ui/mounts/<path>`: which engine serves a path, for those who may do anything on it.
pub fn serving(core: &Core, request: &Request, path: &str) -> Answer {
    let mount = mount_of(&core.mounts, &joined(&request.namespace, path));
    let seen = mount.filter(|mount| {
        core.token(&request.token).is_some_and(|token| {
            token.is_root()
                || token
                    .relative(mount)
                    .is_some_and(|mount| policy::reaches(core.policies_of(token), mount))
        })
    });
    let found = seen.and_then(|path| Some((core.mounts.get(&path)?, path)));
    let Some((mount, full)) = found else {
        let path = path.trim_end_matches('/');
        return Answer::error(
            403,
            format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path \"{path}/\""
            ),
        );
    };
    let (kind, version) = mount.inner.kind();
    let namespace = joined(&request.namespace, "");
    let name = full.strip_prefix(&namespace).unwrap_or(&full);
    Answer::data(json!({
        "accessor": mount.accessor,
        "path": format!("{name}/"),
        "type": kind,
        "options": version.map(|version| json!({ "version": version })),
    }))
}
