//! Response wrapping: a reply is kept, and a token that opens it once is given instead
//! (OpenBao `vault/wrapping.go`).

use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{Answer, Request};
use crate::core::Core;
use crate::text;

const NOT_WRAPPED: &str = "wrapping token is not valid or does not exist";

/// That a request's reply is wanted wrapped.
#[derive(Clone)]
pub struct Wrap {
    ttl: Duration,
    path: String,
}

impl Wrap {
    /// What `X-Vault-Wrap-TTL` asks for.
    ///
    /// # Errors
    /// It is no duration; the answer that says so.
    pub fn of(request: &Request) -> Result<Option<Self>, Answer> {
        let asked = request.wrap_ttl.as_str();
        if asked.is_empty() {
            return Ok(None);
        }
        let Some(ttl) = text::duration(&Value::from(asked)) else {
            let text = format!(
                "error parsing X-Vault-Wrap-TTL header: time: invalid duration \"{asked}\""
            );
            return Err(Answer::error(400, text));
        };
        let path = request.path.clone();
        Ok((!ttl.is_zero()).then_some(Self { ttl, path }))
    }
}

/// A reply that is kept for whoever opens it.
pub struct Wrapped {
    pub ends: Duration,
    answer: Answer,
    created: Duration,
    wrap: Wrap,
}

/// The answer, or the token that opens it where that was asked for and there is something to wrap.
pub fn sealed_in(core: &mut Core, wrap: Option<&Wrap>, answer: Answer) -> Answer {
    let Some(wrap) = wrap.filter(|_| answer.status == 200) else {
        return answer;
    };
    let now = core.clock.now();
    let token = format!("s.{}", text::random(24));
    let mut info = json!({
        "token": token,
        "accessor": text::random(24),
        "ttl": wrap.ttl.as_secs(),
        "creation_time": text::timestamp(now),
        "creation_path": wrap.path,
    });
    let inner = answer.body.as_ref();
    let accessor = inner.and_then(|body| body.pointer("/auth/accessor"));
    if let (Some(accessor), Value::Object(info)) = (accessor, &mut info) {
        info.insert("wrapped_accessor".to_owned(), accessor.clone());
    }
    let wrapped = Wrapped {
        ends: now + wrap.ttl,
        answer,
        created: now,
        wrap: wrap.clone(),
    };
    core.wrapped.insert(token, wrapped);
    Answer::with(&[("request_id", json!("")), ("wrap_info", info)])
}

/// What the wrapping token opens by itself, with no other token: looking at it, and unwrapping where it is
/// not in the body.
pub fn open(core: &mut Core, request: &Request) -> Option<Answer> {
    if !request.writes() {
        return None;
    }
    match request.path.as_str() {
        "sys/wrapping/lookup" => Some(lookup(core, request)),
        "sys/wrapping/unwrap" if request.text("token").is_empty() => Some(unwrap(core, request)),
        _ => None,
    }
}

fn token(request: &Request) -> &str {
    match request.text("token") {
        "" => &request.token,
        token => token,
    }
}

fn lookup(core: &Core, request: &Request) -> Answer {
    match core.wrapped.get(token(request)) {
        Some(wrapped) => Answer::data(json!({
            "creation_path": wrapped.wrap.path,
            "creation_time": text::timestamp(wrapped.created),
            "creation_ttl": wrapped.wrap.ttl.as_secs(),
        })),
        None => Answer::error(400, NOT_WRAPPED),
    }
}

/// Gives the kept reply, once.
pub fn unwrap(core: &mut Core, request: &Request) -> Answer {
    let token = token(request);
    if token.is_empty() {
        return Answer::error(403, "error validating wrapping token: token is empty");
    }
    match core.wrapped.remove(token) {
        Some(wrapped) => wrapped.answer,
        None => Answer::error(400, NOT_WRAPPED),
    }
}
