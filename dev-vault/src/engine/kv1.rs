//! KV version 1 (OpenBao `builtin/logical/kv/passthrough.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Given, Terms, ToLease, listed};
use crate::answer::{Answer, Request};
use crate::leases::Purpose;
use crate::text;

/// Version 1, also with leases as `-dev-leased-kv` has it.
pub struct Kv1 {
    leased: bool,
    secrets: BTreeMap<String, Map<String, Value>>,
}

impl Kv1 {
    pub const fn new(leased: bool) -> Self {
        Self {
            leased,
            secrets: BTreeMap::new(),
        }
    }

    pub fn handle(&mut self, request: &Request, path: &str, terms: Terms) -> Given {
        if request.writes() {
            if request.body.is_empty() {
                return Answer::error(400, "missing data fields").into();
            }
            self.secrets.insert(path.to_owned(), request.body.clone());
            return Answer::no_content().into();
        }
        if request.deletes() {
            self.secrets.remove(path);
            return Answer::no_content().into();
        }
        if request.lists() {
            return listed(self.secrets.keys(), path).into();
        }
        if !request.reads() {
            return Answer::unsupported().into();
        }
        let Some(secret) = self.secrets.get(path) else {
            return Answer::not_found().into();
        };
        // A hint, uncapped, not a lease.
        let hint = secret.get("ttl").or_else(|| secret.get("lease"));
        let ttl = hint.and_then(text::duration).unwrap_or(terms.usual);
        let data = Value::Object(secret.clone());
        if self.leased {
            return Given::Leased(ToLease {
                ttl,
                max_ttl: None,
                renewable: true,
                purpose: Purpose::Secret(data.clone()),
                data,
            });
        }
        Answer::data(data)
            .set("lease_duration", json!(ttl.as_secs()))
            .into()
    }
}
