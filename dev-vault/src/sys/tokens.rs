//! `auth/token/*`: create, look up, renew, revoke (OpenBao `vault/token_store.go`).

use serde_json::{Value, json};

use crate::answer::{Answer, Request};
use crate::core::{Core, SYSTEM_TTL};
use crate::tokens::{Wanted, cap};

/// Everything below `auth/token/`.
pub fn handle(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let named = |field: &str| request.text(field).to_owned();
    let own = request.token.clone();
    match rest {
        "create" | "create-orphan" if request.writes() => create(core, request, rest != "create"),
        "lookup-self" if request.reads() || request.writes() => lookup(core, &own),
        "lookup" if request.writes() => lookup(core, &named("token")),
        "lookup-accessor" if request.writes() => of_accessor(core, request),
        "renew-self" if request.writes() => renew(core, request, &own),
        "renew" if request.writes() => renew(core, request, &named("token")),
        "revoke-self" if request.writes() => revoke(core, &own),
        "revoke" if request.writes() => revoke(core, &named("token")),
        "revoke-accessor" if request.writes() => revoke_accessor(core, request),
        "accessors" | "accessors/" if request.lists() => {
            Answer::data(json!({ "keys": core.tokens.accessors() }))
        }
        _ => Answer::unsupported(),
    }
}

fn create(core: &mut Core, request: &Request, orphan: bool) -> Answer {
    let parent = core.token(&request.token);
    let inherited = parent
        .map(|parent| parent.policies.clone())
        .unwrap_or_default();
    let mut policies = request.list("policies");
    if policies.is_empty() {
        policies = inherited;
    }
    let name = request.text("display_name");
    let wanted = Wanted {
        policies,
        no_default_policy: request.flag("no_default_policy").unwrap_or_default(),
        path: "auth/token/create".to_owned(),
        display_name: if name.is_empty() {
            "token".to_owned()
        } else {
            format!("token-{name}")
        },
        meta: request.body.get("meta").and_then(Value::as_object).cloned(),
        batch: request.text("type") == "batch",
        orphan: orphan || request.flag("no_parent").unwrap_or_default(),
        parent: Some(request.token.clone()),
        ttl: request.duration("ttl"),
        max_ttl: SYSTEM_TTL,
        explicit_max_ttl: request.duration("explicit_max_ttl"),
        period: request.duration("period"),
        num_uses: request.number("num_uses").unwrap_or_default(),
        ..Wanted::default()
    };
    core.grant(wanted)
}

fn lookup(core: &Core, id: &str) -> Answer {
    match core.token(id) {
        Some(token) => Answer::data(Value::Object(token.lookup(core.clock.now()))),
        None => Answer::error(403, "bad token"),
    }
}

fn of_accessor(core: &Core, request: &Request) -> Answer {
    match core.tokens.of_accessor(request.text("accessor")) {
        Some(token) => {
            let mut data = token.lookup(core.clock.now());
            data.insert("id".to_owned(), json!(""));
            Answer::data(Value::Object(data))
        }
        None => Answer::wrapped_error(400, "invalid accessor"),
    }
}

fn renew(core: &mut Core, request: &Request, id: &str) -> Answer {
    let now = core.clock.now();
    let Some(token) = core.token(id) else {
        return Answer::error(403, "bad token");
    };
    if token.batch {
        return Answer::error(400, "batch tokens cannot be renewed");
    }
    if !token.renewable() {
        return Answer::error(400, "lease is not renewable");
    }
    let mut own = token.default_ttl;
    if let Some((mount, name)) = &token.role {
        // The role is read again; the service account is not.
        let role = core
            .auths
            .get(mount)
            .and_then(|method| method.inner.role(name));
        let Some(role) = role else {
            let text = format!("failed to renew entry: role {name} does not exist during renewal");
            return Answer::wrapped_error(500, &text);
        };
        let asked = role.get("token_ttl").and_then(crate::text::duration);
        own = asked.filter(|ttl| !ttl.is_zero()).unwrap_or(own);
    }
    let increment = request.duration("increment").unwrap_or_default();
    let wanted = match token.period {
        Some(period) => period,
        None if increment.is_zero() => own,
        None => increment,
    };
    let left = token.left(now);
    if left.is_zero() {
        let text = "failed to renew entry: past the max TTL, cannot renew";
        return Answer::wrapped_error(500, text);
    }
    let capped = cap(wanted, left);
    core.tokens.set_end(id, now.saturating_add(capped.ttl));
    if let Some(token) = core.tokens.by_id.get_mut(id) {
        token.last_renewal = Some(now);
    }
    let auth = core.token(id).map(|token| token.auth(now));
    Answer::with(&[("auth", auth.unwrap_or(Value::Null))])
        .warn(capped.warning.into_iter().collect())
}

fn revoke(core: &mut Core, id: &str) -> Answer {
    let Some(token) = core.token(id) else {
        return Answer::error(400, "token to revoke not found");
    };
    if token.batch {
        return Answer::error(400, "batch tokens cannot be revoked");
    }
    core.revoke_token(id);
    Answer::no_content()
}

fn revoke_accessor(core: &mut Core, request: &Request) -> Answer {
    let found = core.tokens.of_accessor(request.text("accessor"));
    match found.map(|token| token.id.clone()) {
        Some(id) => revoke(core, &id),
        None => Answer::with(&[]).warn(vec!["No token found with this accessor".to_owned()]),
    }
}
