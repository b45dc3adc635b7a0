//! The database engine, over a table of live users in place of a database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Given, Terms, ToLease};
use crate::answer::{Answer, Request};
use crate::fields::Fields;
use crate::leases::Purpose;
use crate::text;

#[derive(Default)]
pub struct Database {
    connections: BTreeMap<String, Map<String, Value>>,
    roles: BTreeMap<String, Map<String, Value>>,
    statics: BTreeMap<String, Static>,
    /// The users that can log in, with their passwords.
    pub users: BTreeMap<String, String>,
}

struct Static {
    username: String,
    period: Duration,
    password: String,
    rotated: Duration,
}

impl Static {
    fn rotate(&mut self, users: &mut BTreeMap<String, String>, now: Duration) {
        self.password = text::random(20);
        self.rotated = now;
        users.insert(self.username.clone(), self.password.clone());
    }
}

impl Database {
    pub fn handle(&mut self, request: &Request, path: &str, terms: Terms) -> Given {
        let (kind, name) = path.split_once('/').unwrap_or((path, ""));
        let body = || request.body.clone();
        match kind {
            "config" if request.writes() => {
                self.connections.insert(name.to_owned(), body());
                Answer::no_content().into()
            }
            "roles" if request.writes() => {
                self.roles.insert(name.to_owned(), body());
                Answer::no_content().into()
            }
            "roles" if request.deletes() => {
                self.roles.remove(name);
                Answer::no_content().into()
            }
            "static-roles" if request.writes() => {
                let username = request.text("username").to_owned();
                let period = request.duration("rotation_period");
                let password = text::random(20);
                self.users.insert(username.clone(), password.clone());
                let role = Static {
                    username,
                    period: period.unwrap_or(Duration::from_secs(3600)),
                    password,
                    rotated: terms.now,
                };
                self.statics.insert(name.to_owned(), role);
                Answer::no_content().into()
            }
            "rotate-role" if request.writes() => match self.statics.get_mut(name) {
                Some(role) => {
                    role.rotate(&mut self.users, terms.now);
                    Answer::no_content().into()
                }
                None => Answer::error(400, format!("unknown role: {name}")).into(),
            },
            "creds" if request.reads() => self.creds(name, terms),
            "static-creds" if request.reads() => self.static_creds(name, terms.now).into(),
            _ => Answer::unsupported().into(),
        }
    }

    fn creds(&mut self, name: &str, terms: Terms) -> Given {
        let Some(role) = self.roles.get(name) else {
            return Answer::error(400, format!("unknown role: {name}")).into();
        };
        let role = Fields(role);
        let connection = self.connections.get(role.text("db_name"));
        let Some(connection) = connection else {
            let name = role.text("db_name");
            let text = format!("failed to find entry for connection with name: \"{name}\"");
            return Answer::wrapped_error(500, &text).into();
        };
        let allowed = Fields(connection).list("allowed_roles");
        if !allowed.iter().any(|role| role == "*" || role == name) {
            return Answer::wrapped_error(500, &format!("\"{name}\" is not an allowed role"))
                .into();
        }
        let username = format!(
            "v-token-{name}-{}-{}",
            text::random(20),
            terms.now.as_secs()
        );
        let password = format!("{}-{}", text::random(10), text::random(9));
        let given = ToLease {
            ttl: role.duration("default_ttl").unwrap_or(terms.usual),
            max_ttl: role.duration("max_ttl"),
            renewable: true,
            data: json!({ "username": username, "password": password }),
            purpose: Purpose::User(username.clone()),
        };
        self.users.insert(username, password);
        Given::Leased(given)
    }

    fn static_creds(&mut self, name: &str, now: Duration) -> Answer {
        let Some(role) = self.statics.get_mut(name) else {
            return Answer::error(400, format!("unknown role: {name}"));
        };
        if now >= role.rotated + role.period {
            role.rotate(&mut self.users, now);
        }
        let left = (role.rotated + role.period).saturating_sub(now);
        Answer::data(json!({
            "username": role.username,
            "password": role.password,
            "ttl": left.as_secs(),
            "rotation_period": role.period.as_secs(),
            "last_vault_rotation": text::timestamp(role.rotated),
        }))
    }
}
