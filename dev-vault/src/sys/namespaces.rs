//! `sys/namespaces/<name>`: namespaces with mounts, policies and tokens of their own.

use serde_json::json;

use super::mounts;
use crate::answer::{Answer, Request, joined};
use crate::core::Core;
use crate::text;

pub fn handle(core: &mut Core, request: &Request, name: &str) -> Answer {
    let name = name.trim_matches('/');
    if name.contains('/') {
        return Answer::error(400, "namespace name cannot contain /");
    }
    let path = joined(&request.namespace, name);
    if request.deletes() {
        return delete(core, &path);
    }
    if request.writes() && !core.namespaces.contains_key(&path) {
        core.namespaces.insert(path.clone(), text::random(6));
        core.give_default_policy(&path);
    }
    match core.namespaces.get(&path) {
        Some(id) => Answer::data(json!({ "path": format!("{path}/"), "id": id })),
        None => Answer::not_found(),
    }
}

/// With a namespace go its mounts, its tokens with their leases, and its policies.
fn delete(core: &mut Core, path: &str) -> Answer {
    let folder = format!("{path}/");
    if !core.namespaces.contains_key(path) {
        return Answer::with(&[]).warn(vec!["requested namespace does not exist".to_owned()]);
    }
    if core.namespaces.keys().any(|name| name.starts_with(&folder)) {
        let text = "unable to delete namespace containing child namespaces";
        return Answer::error(400, text);
    }
    let mounts: Vec<String> = core.mounts.keys().cloned().collect();
    for mount in mounts.iter().filter(|mount| mount.starts_with(&folder)) {
        mounts::unmount(core, mount);
    }
    core.auths.retain(|mount, _| !mount.starts_with(&folder));
    core.policies.retain(|(namespace, _), _| namespace != path);
    core.namespaces.remove(path);
    let tokens = core.tokens.by_id.values();
    let tokens = tokens.filter(|token| token.spec.namespace.0 == path);
    let tokens: Vec<String> = tokens.map(|token| token.id.clone()).collect();
    for token in tokens {
        core.revoke_token(&token);
    }
    Answer::data(json!({ "status": "in-progress" }))
}
