//! The secrets engines.

pub mod database;
pub mod kv;
pub mod pki;

use serde_json::Value;

use self::database::Database;
use self::kv::{Kv1, Kv2};
use self::pki::Pki;
use crate::answer::{Answer, Request};
use crate::core::Core;

/// A mounted engine.
pub enum Engine {
    Kv1(Kv1),
    Kv2(Kv2),
    Database(Database),
    Pki(Box<Pki>),
}

impl Engine {
    /// An engine by its type's name. `leased`: every KV is version 1 with leases, as `-dev-leased-kv` has it.
    pub fn of(kind: &str, second: bool, leased: bool) -> Option<Self> {
        match kind {
            "kv" | "kv-v1" if leased || !second => Some(Self::Kv1(Kv1::new(leased))),
            "kv" | "kv-v2" => Some(Self::Kv2(Kv2::default())),
            "database" => Some(Self::Database(Database::default())),
            "pki" => Some(Self::Pki(Box::default())),
            _ => None,
        }
    }

    /// Its type's name, and its version where it has one.
    pub const fn kind(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Kv1(_) => ("kv", Some("1")),
            Self::Kv2(_) => ("kv", Some("2")),
            Self::Database(_) => ("database", None),
            Self::Pki(_) => ("pki", None),
        }
    }
}

/// A request to an engine.
pub fn handle(core: &mut Core, request: &Request, mount: &str) -> Answer {
    let rest = request.path.strip_prefix(mount).unwrap_or_default();
    let rest = rest.trim_start_matches('/').to_owned();
    let now = core.clock.now();
    let Some(mounted) = core.mounts.get_mut(mount) else {
        return Answer::not_found();
    };
    let (usual, max) = (mounted.default_ttl(), mounted.max_ttl());
    let given = match &mut mounted.inner {
        Engine::Kv1(kv) => kv.handle(request, &rest, usual),
        Engine::Kv2(kv) => kv.handle(request, &rest, now),
        Engine::Database(database) => database.handle(request, &rest, usual, max, now),
        Engine::Pki(pki) => pki.handle(request, &rest, usual, now),
    };
    match given {
        Given::Answer(answer) => answer,
        Given::Leased(lease) => {
            let max = lease.max_ttl.unwrap_or(max).min(max);
            core.leased(
                request,
                max,
                lease.ttl.min(max),
                lease.renewable,
                lease.purpose,
                lease.data,
            )
        }
    }
}

/// What an engine gives: an answer, or data under a lease.
pub enum Given {
    Answer(Answer),
    Leased(Box<ToLease>),
}

/// Data that wants a lease.
pub struct ToLease {
    pub ttl: std::time::Duration,
    pub max_ttl: Option<std::time::Duration>,
    pub renewable: bool,
    pub purpose: crate::leases::Purpose,
    pub data: Value,
}

impl From<Answer> for Given {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// The cubbyhole: each service token's own.
pub fn cubbyhole(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let Some(token) = core.tokens.by_id.get_mut(&request.token) else {
        return Answer::denied();
    };
    if token.batch {
        return Answer::error(
            400,
            "cubbyhole operations are only supported by 'service' type tokens",
        );
    }
    if request.writes() {
        token
            .cubbyhole
            .insert(rest.to_owned(), Value::Object(request.body.clone()));
        return Answer::no_content();
    }
    if request.deletes() {
        token.cubbyhole.remove(rest);
        return Answer::no_content();
    }
    if request.lists() {
        return kv::listed(token.cubbyhole.keys(), rest);
    }
    match token.cubbyhole.get(rest) {
        Some(data) => Answer::data(data.clone()),
        None => Answer::not_found(),
    }
}
