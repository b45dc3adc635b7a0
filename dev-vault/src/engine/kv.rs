//! KV, versions 1 and 2 (OpenBao `builtin/logical/kv`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Given, ToLease};
use crate::answer::{Answer, Request};
use crate::leases::Purpose;
use crate::text;

const WRONG_PATH: &str = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the OpenBao CLI, use 'bao kv get' for this operation.";

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

    pub fn handle(&mut self, request: &Request, path: &str, usual: Duration) -> Given {
        if request.writes() {
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
        let ttl = hint.and_then(text::duration).unwrap_or(usual);
        let data = Value::Object(secret.clone());
        if self.leased {
            return Given::Leased(Box::new(ToLease {
                ttl,
                max_ttl: None,
                renewable: true,
                purpose: Purpose::Secret(data.clone()),
                data,
            }));
        }
        Answer::data(data)
            .set("lease_duration", json!(ttl.as_secs()))
            .into()
    }
}

/// Version 2.
#[derive(Default)]
pub struct Kv2 {
    secrets: BTreeMap<String, Vec<Version>>,
}

struct Version {
    data: Value,
    created: Duration,
    deleted: Option<Duration>,
    destroyed: bool,
}

impl Kv2 {
    pub fn handle(&mut self, request: &Request, path: &str, now: Duration) -> Given {
        let (kind, name) = path.split_once('/').unwrap_or((path, ""));
        let answer = match kind {
            "data" => self.data(request, name, now),
            "metadata" if request.lists() => listed(self.secrets.keys(), name),
            "metadata" if request.deletes() => {
                self.secrets.remove(name);
                Answer::no_content()
            }
            "delete" | "undelete" | "destroy" if request.writes() => {
                self.mark(request, kind, name, now);
                Answer::no_content()
            }
            "config" if request.writes() => Answer::no_content(),
            _ if request.reads() => Answer::with(&[])
                .warn(vec![WRONG_PATH.to_owned()])
                .status(404),
            _ => Answer::unsupported(),
        };
        answer.into()
    }

    fn data(&mut self, request: &Request, name: &str, now: Duration) -> Answer {
        if request.writes() {
            let Some(data) = request.body.get("data") else {
                return Answer::error(400, "no data provided");
            };
            let versions = self.secrets.entry(name.to_owned()).or_default();
            versions.push(Version {
                data: data.clone(),
                created: now,
                deleted: None,
                destroyed: false,
            });
            let number = versions.len();
            return match versions.last() {
                Some(version) => Answer::data(version.metadata(number)),
                None => Answer::not_found(),
            };
        }
        if request.deletes() {
            let last = self
                .secrets
                .get_mut(name)
                .and_then(|versions| versions.last_mut());
            if let Some(version) = last {
                version.deleted.get_or_insert(now);
            }
            return Answer::no_content();
        }
        let asked = match request
            .query
            .get("version")
            .map(|text| text.parse::<usize>())
        {
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                return Answer::error(
                    400,
                    "Field validation failed: error converting input for field \"version\": '' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
                );
            }
            None => 0,
        };
        let Some(versions) = self.secrets.get(name) else {
            return Answer::not_found();
        };
        let number = if asked == 0 { versions.len() } else { asked };
        let Some(version) = number.checked_sub(1).and_then(|index| versions.get(index)) else {
            return Answer::not_found();
        };
        let gone = version.destroyed || version.deleted.is_some();
        let data = if gone {
            Value::Null
        } else {
            version.data.clone()
        };
        let answer = Answer::data(json!({ "data": data, "metadata": version.metadata(number) }));
        if gone { answer.status(404) } else { answer }
    }

    fn mark(&mut self, request: &Request, kind: &str, name: &str, now: Duration) {
        let numbers = request.body.get("versions").and_then(Value::as_array);
        let numbers = numbers.into_iter().flatten().filter_map(Value::as_u64);
        let Some(versions) = self.secrets.get_mut(name) else {
            return;
        };
        for number in numbers {
            let index = usize::try_from(number)
                .ok()
                .and_then(|number| number.checked_sub(1));
            let Some(version) = index.and_then(|index| versions.get_mut(index)) else {
                continue;
            };
            match kind {
                "delete" => version.deleted = Some(now),
                "undelete" => version.deleted = None,
                _ => version.destroyed = true,
            }
        }
    }
}

impl Version {
    fn metadata(&self, number: usize) -> Value {
        json!({
            "created_time": text::timestamp(self.created),
            "custom_metadata": null,
            "deletion_time": self.deleted.map(text::timestamp).unwrap_or_default(),
            "destroyed": self.destroyed,
            "version": number,
        })
    }
}
