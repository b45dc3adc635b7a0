//! The secrets engines.

pub mod cloud;
pub mod database;
pub mod kv1;
pub mod kv2;
pub mod pki;
pub mod transit;

use std::time::Duration;

use serde_json::{Value, json};

use self::cloud::{Cloud, Kind};
use self::database::Database;
use self::kv1::Kv1;
use self::kv2::Kv2;
use self::pki::Pki;
use self::transit::Transit;
use crate::answer::{Answer, Request};
use crate::core::Core;
use crate::leases::Purpose;

/// A mounted engine.
pub enum Engine {
    Kv1(Kv1),
    Kv2(Kv2),
    Database(Database),
    Pki(Box<Pki>),
    Transit(Transit),
    Cloud(Cloud),
}

impl Engine {
    /// An engine by its type's name. `leased`: every KV is version 1 with leases, as `-dev-leased-kv` has it.
    pub fn of(kind: &str, second: bool, leased: bool) -> Option<Self> {
        match kind {
            "kv" | "kv-v1" if leased || !second => Some(Self::Kv1(Kv1::new(leased))),
            "kv" | "kv-v2" => Some(Self::Kv2(Kv2::default())),
            "database" => Some(Self::Database(Database::default())),
            "pki" => Some(Self::Pki(Box::default())),
            "transit" => Some(Self::Transit(Transit::default())),
            "aws" => Some(Self::Cloud(Cloud::new(Kind::Aws))),
            "gcp" => Some(Self::Cloud(Cloud::new(Kind::Gcp))),
            _ => None,
        }
    }

    /// Its type's name, and its version where it has one.
    pub fn kind(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Kv1(_) => ("kv", Some("1")),
            Self::Kv2(_) => ("kv", Some("2")),
            Self::Database(_) => ("database", None),
            Self::Pki(_) => ("pki", None),
            Self::Transit(_) => ("transit", None),
            Self::Cloud(cloud) if cloud.kind == Kind::Aws => ("aws", None),
            Self::Cloud(_) => ("gcp", None),
        }
    }
}

/// What the mount and the clock say.
#[derive(Clone, Copy)]
pub struct Terms {
    /// The mount's default TTL.
    pub usual: Duration,
    /// The mount's maximum TTL.
    pub max: Duration,
    pub now: Duration,
}

/// A request to an engine.
pub fn handle(core: &mut Core, request: &Request, mount: &str) -> Answer {
    let full = request.full_path();
    let rest = full.strip_prefix(mount).unwrap_or_default();
    let rest = rest.trim_start_matches('/');
    let now = core.clock.now();
    let Some(mounted) = core.mounts.get_mut(mount) else {
        return Answer::no_route(&request.path);
    };
    let terms = Terms {
        usual: mounted.default_ttl(),
        max: mounted.max_ttl(),
        now,
    };
    let given = match &mut mounted.inner {
        Engine::Kv1(kv) => kv.handle(request, rest, terms),
        Engine::Kv2(kv) => kv.handle(request, rest, terms),
        Engine::Database(database) => database.handle(request, rest, terms),
        Engine::Pki(pki) => pki.handle(request, rest, terms),
        Engine::Transit(transit) => transit.handle(request, rest).into(),
        Engine::Cloud(cloud) => cloud.handle(request, rest).into(),
    };
    match given {
        Given::Answer(answer) => answer,
        Given::Leased(given) => core.leased(request, given, terms.max),
    }
}

/// What an engine gives: an answer, or data under a lease.
pub enum Given {
    Answer(Answer),
    Leased(ToLease),
}

/// Data that wants a lease.
pub struct ToLease {
    pub ttl: Duration,
    /// The role's maximum; the mount's counts besides.
    pub max_ttl: Option<Duration>,
    pub renewable: bool,
    pub purpose: Purpose,
    pub data: Value,
}

impl From<Answer> for Given {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// The keys below a folder; folders end with a slash.
pub fn listed<'a>(keys: impl Iterator<Item = &'a String>, folder: &str) -> Answer {
    let folder = match folder.trim_end_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let mut names: Vec<String> = keys
        .filter_map(|key| {
            let rest = key.strip_prefix(&folder)?;
            Some(match rest.split_once('/') {
                Some((first, _)) => format!("{first}/"),
                None => rest.to_owned(),
            })
        })
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        Answer::not_found()
    } else {
        Answer::data(json!({ "keys": names }))
    }
}

/// The cubbyhole: each service token's own.
pub fn cubbyhole(core: &mut Core, request: &Request, rest: &str) -> Answer {
    let Some(token) = core.tokens.by_id.get_mut(&request.token) else {
        return Answer::denied();
    };
    if token.spec.batch {
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
        return listed(token.cubbyhole.keys(), rest);
    }
    match token.cubbyhole.get(rest) {
        Some(data) => Answer::data(data.clone()),
        None => Answer::not_found(),
    }
}
