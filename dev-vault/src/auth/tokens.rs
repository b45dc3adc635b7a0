//! `auth/token/*`: create, look up, renew, revoke (OpenBao `vault/token_store.go`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::limits;
use crate::answer::{Answer, Request};
use crate::core::{Core, SYSTEM_TTL};
use crate::tokens::{Limits, Token, Wanted};
use crate::ttl::PAST_MAX;

/// Everything below `auth/token/`.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let own = request.token.as_str();
    let named = request.text("token");
    let accessor = request.text("accessor");
    match rest {
        "create" if request.writes() => create(core, request, false),
        "create-orphan" if request.writes() => create(core, request, true),
        "lookup-self" if request.reads() || request.writes() => lookup(core, own),
        "lookup" if request.writes() => lookup(core, named),
        "renew-self" if request.writes() => renew(core, request, own),
        "renew" if request.writes() => renew(core, request, named),
        "revoke-self" if request.writes() => revoke(core, own),
        "revoke" if request.writes() => revoke(core, named),
        "lookup-accessor" if request.writes() => lookup_accessor(core, accessor),
        "renew-accessor" if request.writes() => renew_accessor(core, request, accessor),
        "revoke-accessor" if request.writes() => revoke_accessor(core, accessor),
        "accessors" | "accessors/" if request.lists() => accessors(core, request),
        _ => Answer::unsupported(),
    }
}

fn create(core: &mut Core, request: &Request, orphan: bool) -> Answer {
    let wanted = match wanted(core, request, orphan) {
        Ok(wanted) => wanted,
        Err(text) => return Answer::error(400, text),
    };
    core.grant(wanted)
}

fn wanted(core: &Core, request: &Request, orphan: bool) -> Result<Wanted, String> {
    let parent = core.token(&request.token).ok_or("parent token not found")?;
    if parent.spec.batch {
        return Err("batch tokens cannot create more tokens".to_owned());
    }
    if parent.uses > 0 {
        return Err("restricted use token cannot generate child tokens".to_owned());
    }
    let fields = request.fields();
    let durations = ["ttl", "period", "explicit_max_ttl"];
    if let Some(error) = fields.unreadable_duration(&durations) {
        return Err(error);
    }
    let found = core.capabilities(parent, &request.full_path());
    let sudo = found.contains("root") || found.contains("sudo");
    let no_parent = fields.flag("no_parent").unwrap_or_default();
    if no_parent && !sudo {
        return Err("root or sudo privileges required to create orphan token".to_owned());
    }
    let period = fields.duration("period");
    if period.is_some() && !sudo {
        return Err("root or sudo privileges required to create periodic token".to_owned());
    }
    let policies = policies(request, parent, sudo)?;
    let batch = fields.text("type") == "batch";
    if batch {
        batch_allowed(request, &policies)?;
    }
    let endless = policies.contains("root") && period.is_none();
    let usual = (!endless).then_some(SYSTEM_TTL);
    let name = match fields.text("display_name") {
        "" => "token".to_owned(),
        name => format!("token-{name}"),
    };
    Ok(Wanted {
        namespace: core.namespace(&request.namespace),
        policies,
        default_policy: !fields.flag("no_default_policy").unwrap_or_default()
            && (sudo || parent.spec.policies.contains("default")),
        path: request.path.clone(),
        display_name: name,
        meta: fields.0.get("meta").and_then(Value::as_object).cloned(),
        batch,
        orphan: orphan || no_parent,
        parent: Some(request.token.clone()),
        ttl: fields.duration("ttl").or(usual),
        max_ttl: SYSTEM_TTL,
        explicit_max_ttl: fields.duration("explicit_max_ttl"),
        period,
        num_uses: fields.number("num_uses").unwrap_or_default(),
        ..Wanted::default()
    })
}

fn policies(request: &Request, parent: &Token, sudo: bool) -> Result<BTreeSet<String>, String> {
    let own = &parent.spec.policies;
    let asked: BTreeSet<String> = request.fields().list("policies").into_iter().collect();
    if asked.is_empty() {
        return Ok(own.clone());
    }
    if !sudo && !asked.is_subset(own) {
        return Err("child policies must be subset of parent".to_owned());
    }
    if asked.contains("root") && !parent.is_root() {
        return Err("root tokens may not be created without parent token being root".to_owned());
    }
    Ok(asked)
}

/// A batch token is kept nowhere, so it can have nothing that would have to be counted or looked up.
fn batch_allowed(request: &Request, policies: &BTreeSet<String>) -> Result<(), String> {
    if policies.contains("root") {
        return Err("batch tokens cannot be root tokens".to_owned());
    }
    let fields = request.fields();
    let set = [
        (
            "num_uses",
            fields.number("num_uses").is_some_and(|uses| uses > 0),
        ),
        ("period", fields.duration("period").is_some()),
        (
            "explicit_max_ttl",
            fields.duration("explicit_max_ttl").is_some(),
        ),
    ];
    match set.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(format!("batch tokens cannot have \"{name}\" set")),
        None => Ok(()),
    }
}

fn lookup(core: &Core, id: &str) -> Answer {
    match core.token(id) {
        Some(token) => Answer::data(Value::Object(token.lookup(core.clock.now()))),
        None => Answer::error(403, "bad token"),
    }
}

fn lookup_accessor(core: &Core, accessor: &str) -> Answer {
    match core.tokens.of_accessor(accessor) {
        Some(token) => {
            let mut data = token.lookup(core.clock.now());
            data.insert("id".to_owned(), json!(""));
            Answer::data(Value::Object(data))
        }
        None => Answer::wrapped_error(400, "invalid accessor"),
    }
}

fn renew_accessor(core: &mut Core, request: &Request, accessor: &str) -> Answer {
    let found = core.tokens.of_accessor(accessor);
    match found.map(|token| token.id.clone()) {
        Some(id) => renew(core, request, &id),
        None => Answer::wrapped_error(400, "invalid accessor"),
    }
}

fn renew(core: &mut Core, request: &Request, id: &str) -> Answer {
    let Some(token) = core.token(id) else {
        return Answer::error(400, "token not found");
    };
    if token.spec.batch {
        return Answer::error(400, "batch tokens cannot be renewed");
    }
    if !token.renewable() {
        return Answer::error(400, "lease is not renewable");
    }
    let limits = match &token.spec.role {
        Some((mount, role)) => match limits(core, mount, role) {
            Some(limits) => limits,
            None => {
                let text =
                    format!("failed to renew entry: role {role} does not exist during renewal");
                return Answer::wrapped_error(500, &text);
            }
        },
        None => Limits {
            ttl: token.spec.ttl.unwrap_or(SYSTEM_TTL),
            max_ttl: token.spec.max_ttl,
            period: token.spec.period,
        },
    };
    let now = core.clock.now();
    let increment = request.duration("increment");
    match core.tokens.renew(id, increment, &limits, now) {
        Ok(warning) => {
            let auth = core.token(id).map(|token| token.auth(now));
            Answer::with(&[("auth", auth.unwrap_or(Value::Null))])
                .warn(warning.into_iter().collect())
        }
        Err(PAST_MAX) => Answer::wrapped_error(500, &format!("failed to renew entry: {PAST_MAX}")),
        Err(text) => Answer::error(400, text),
    }
}

fn revoke(core: &mut Core, id: &str) -> Answer {
    if core.token(id).is_some_and(|token| token.spec.batch) {
        return Answer::error(400, "batch tokens cannot be revoked");
    }
    core.revoke_token(id);
    Answer::no_content()
}

fn revoke_accessor(core: &mut Core, accessor: &str) -> Answer {
    let found = core.tokens.of_accessor(accessor);
    match found.map(|token| token.id.clone()) {
        Some(id) => revoke(core, &id),
        None => Answer::with(&[]).warn(vec!["No token found with this accessor".to_owned()]),
    }
}

fn accessors(core: &Core, request: &Request) -> Answer {
    let tokens =
        core.tokens.by_id.values().filter(|token| {
            token.spec.namespace.0 == request.namespace && !token.accessor.is_empty()
        });
    let keys: BTreeSet<&str> = tokens.map(|token| token.accessor.as_str()).collect();
    Answer::data(json!({ "keys": keys }))
}
