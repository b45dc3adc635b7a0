//! KV version 2 (OpenBao `builtin/logical/kv`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Given, Terms, listed};
use crate::answer::{Answer, Request};
use crate::text;

const WRONG_PATH: &str = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the OpenBao CLI, use 'bao kv get' for this operation.";
const NO_NUMBER: &str = "Field validation failed: error converting input for field \"version\": '' cannot parse value as 'int': strconv.ParseInt: invalid syntax";

/// How many versions are kept where nothing else is said.
const KEPT: usize = 10;

#[derive(Default)]
pub struct Kv2 {
    secrets: BTreeMap<String, Secret>,
}

struct Secret {
    created: Duration,
    updated: Duration,
    current: u64,
    versions: BTreeMap<u64, Version>,
    custom: Option<Value>,
    /// Zero for the default.
    max_versions: u64,
}

struct Version {
    data: Value,
    created: Duration,
    deleted: Option<Duration>,
    destroyed: bool,
}

impl Kv2 {
    pub fn handle(&mut self, request: &Request, path: &str, terms: Terms) -> Given {
        let now = terms.now;
        let (kind, name) = path.split_once('/').unwrap_or((path, ""));
        let answer = match kind {
            "data" if request.writes() => self.put(request, name, now),
            "data" if request.deletes() => {
                self.delete_current(name, now);
                Answer::no_content()
            }
            "data" if request.reads() => self.get(request, name),
            "metadata" if request.lists() => listed(self.secrets.keys(), name),
            "metadata" if request.reads() => self.metadata(name),
            "metadata" if request.writes() => self.describe(request, name, now),
            "metadata" if request.deletes() => {
                self.secrets.remove(name);
                Answer::no_content()
            }
            "delete" | "undelete" | "destroy" if request.writes() => {
                self.mark(request, kind, name, now)
            }
            _ if request.reads() => Answer::with(&[])
                .warn(vec![WRONG_PATH.to_owned()])
                .status(404),
            _ => Answer::unsupported(),
        };
        answer.into()
    }

    fn put(&mut self, request: &Request, name: &str, now: Duration) -> Answer {
        let data = match request.body.get("data") {
            Some(Value::Object(data)) => Value::Object(data.clone()),
            Some(_) => {
                let text = "error converting input for field \"data\": '' expected type 'map[string]interface {}'";
                return Answer::error(400, text);
            }
            None => return Answer::error(400, "no data provided"),
        };
        let current = self.secrets.get(name).map_or(0, |secret| secret.current);
        let expected = request.body.get("options").and_then(|all| all.get("cas"));
        if expected.is_some_and(|cas| cas.as_u64() != Some(current)) {
            let text = "check-and-set parameter did not match the current version";
            return Answer::error(400, text);
        }
        let secret = self.entry(name, now);
        secret.current += 1;
        secret.updated = now;
        let number = secret.current;
        let version = Version {
            data,
            created: now,
            deleted: None,
            destroyed: false,
        };
        let answer = Answer::data(secret.described(number, &version));
        secret.versions.insert(number, version);
        secret.forget_old();
        answer
    }

    fn entry(&mut self, name: &str, now: Duration) -> &mut Secret {
        self.secrets.entry(name.to_owned()).or_insert(Secret {
            created: now,
            updated: now,
            current: 0,
            versions: BTreeMap::new(),
            custom: None,
            max_versions: 0,
        })
    }

    fn get(&self, request: &Request, name: &str) -> Answer {
        let asked = request.query.get("version").map(|text| text.parse());
        let asked = match asked {
            Some(Ok(number)) => number,
            Some(Err(_)) => return Answer::error(400, NO_NUMBER),
            None => 0,
        };
        let Some(secret) = self.secrets.get(name) else {
            return Answer::not_found();
        };
        let number = if asked == 0 { secret.current } else { asked };
        let Some(version) = secret.versions.get(&number) else {
            return Answer::not_found();
        };
        let gone = version.destroyed || version.deleted.is_some();
        let data = if gone { &Value::Null } else { &version.data };
        let metadata = secret.described(number, version);
        let answer = Answer::data(json!({ "data": data, "metadata": metadata }));
        if gone { answer.status(404) } else { answer }
    }

    fn delete_current(&mut self, name: &str, now: Duration) {
        if let Some(secret) = self.secrets.get_mut(name)
            && let Some(version) = secret.versions.get_mut(&secret.current)
        {
            version.deleted.get_or_insert(now);
        }
    }

    fn mark(&mut self, request: &Request, kind: &str, name: &str, now: Duration) -> Answer {
        let numbers = request.body.get("versions").and_then(Value::as_array);
        let numbers: Vec<u64> = numbers
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        if numbers.is_empty() {
            return Answer::error(400, "no version number provided");
        }
        if let Some(secret) = self.secrets.get_mut(name) {
            for number in numbers {
                let Some(version) = secret.versions.get_mut(&number) else {
                    continue;
                };
                match kind {
                    "delete" => {
                        version.deleted.get_or_insert(now);
                    }
                    "undelete" => version.deleted = None,
                    _ => {
                        version.destroyed = true;
                        version.data = Value::Null;
                    }
                }
            }
        }
        Answer::no_content()
    }

    fn describe(&mut self, request: &Request, name: &str, now: Duration) -> Answer {
        let secret = self.entry(name, now);
        if let Some(custom) = request.body.get("custom_metadata") {
            secret.custom = Some(custom.clone());
        }
        if let Some(most) = request.fields().number("max_versions") {
            secret.max_versions = most;
        }
        secret.updated = now;
        Answer::no_content()
    }

    fn metadata(&self, name: &str) -> Answer {
        let Some(secret) = self.secrets.get(name) else {
            return Answer::not_found();
        };
        let versions = secret.versions.iter().map(|(number, version)| {
            let about = json!({
                "created_time": text::timestamp(version.created),
                "deletion_time": version.deletion_time(),
                "destroyed": version.destroyed,
            });
            (number.to_string(), about)
        });
        let versions: serde_json::Map<String, Value> = versions.collect();
        let first = secret.versions.keys().next().copied().unwrap_or_default();
        Answer::data(json!({
            "cas_required": false,
            "created_time": text::timestamp(secret.created),
            "current_version": secret.current,
            "custom_metadata": secret.custom,
            "delete_version_after": "0s",
            "max_versions": secret.max_versions,
            // Zero until versions have been forgotten.
            "oldest_version": if first > 1 { first } else { 0 },
            "updated_time": text::timestamp(secret.updated),
            "versions": versions,
        }))
    }
}

impl Secret {
    fn described(&self, number: u64, version: &Version) -> Value {
        json!({
            "created_time": text::timestamp(version.created),
            "custom_metadata": self.custom,
            "deletion_time": version.deletion_time(),
            "destroyed": version.destroyed,
            "version": number,
        })
    }

    fn forget_old(&mut self) {
        let most = match usize::try_from(self.max_versions) {
            Ok(0) => KEPT,
            Ok(most) => most,
            Err(_) => usize::MAX,
        };
        while self.versions.len() > most {
            self.versions.pop_first();
        }
    }
}

impl Version {
    fn deletion_time(&self) -> String {
        self.deleted.map(text::timestamp).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        usual: Duration::ZERO,
        max: Duration::ZERO,
        now: Duration::from_secs(1_000),
    };

    fn call(kv: &mut Kv2, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request {
            method: method.to_owned(),
            body: body.as_object().cloned().unwrap_or_default(),
            ..Request::default()
        };
        match kv.handle(&request, path, TERMS) {
            Given::Answer(answer) => (answer.status, answer.body.unwrap_or_default()),
            Given::Leased(_) => panic!("KV 2 gives no leases"),
        }
    }

    #[test]
    fn check_and_set_wants_the_current_version() {
        let mut kv = Kv2::default();
        let write = |cas: u64| json!({ "data": { "x": 1 }, "options": { "cas": cas } });
        assert_eq!(call(&mut kv, "POST", "data/a", &write(3)).0, 400);
        assert_eq!(call(&mut kv, "POST", "data/a", &write(0)).0, 200);
        assert_eq!(call(&mut kv, "POST", "data/a", &write(0)).0, 400);
        let (_, second) = call(&mut kv, "POST", "data/a", &write(1));
        assert_eq!(second.pointer("/data/version"), Some(&json!(2)));
    }

    #[test]
    fn old_versions_are_forgotten() {
        let mut kv = Kv2::default();
        call(&mut kv, "POST", "metadata/a", &json!({ "max_versions": 2 }));
        for x in 1..=3 {
            call(&mut kv, "POST", "data/a", &json!({ "data": { "x": x } }));
        }
        let (_, about) = call(&mut kv, "GET", "metadata/a", &Value::Null);
        let versions = about.pointer("/data/versions").unwrap();
        let kept: Vec<_> = versions.as_object().unwrap().keys().collect();
        assert_eq!(kept, ["2", "3"]);
        assert_eq!(about.pointer("/data/oldest_version"), Some(&json!(2)));
    }

    #[test]
    fn a_destroyed_version_does_not_come_back() {
        let mut kv = Kv2::default();
        call(&mut kv, "POST", "data/a", &json!({ "data": { "x": 1 } }));
        let first = json!({ "versions": [1] });
        call(&mut kv, "DELETE", "data/a", &Value::Null);
        assert_eq!(call(&mut kv, "GET", "data/a", &Value::Null).0, 404);
        call(&mut kv, "POST", "undelete/a", &first);
        assert_eq!(call(&mut kv, "GET", "data/a", &Value::Null).0, 200);
        call(&mut kv, "POST", "destroy/a", &first);
        call(&mut kv, "POST", "undelete/a", &first);
        let (status, body) = call(&mut kv, "GET", "data/a", &Value::Null);
        assert_eq!(status, 404);
        assert_eq!(body.pointer("/data/data"), Some(&Value::Null));
    }
}
