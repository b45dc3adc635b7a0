//! Keeps the published key that of the Secret: reads, fills or makes it, then watches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kube::api::{Api, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::DefaultBackoff;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{FRESH, Publisher, Source, random};
use crate::redacted::SecretBytes;

/// The Secret's entry (hashicorp/vault-csi-provider `internal/hmac/hmac.go`).
pub(super) const ENTRY: &str = "key";
/// How long the API server may take to answer. The client itself would wait for ever.
const ANSWER: Duration = Duration::from_secs(10);
/// The server ends a watch after this; one that is silent for longer is dead.
const WATCH_SECONDS: u32 = 290;
const DEAD_AFTER: Duration = Duration::from_secs(300);
/// How often a watch is tried again where it was forbidden.
const REWATCH: Duration = Duration::from_secs(600);
/// How often a lost race is run again; each means that another node wrote meanwhile.
const RACES: u32 = 5;

/// What was being done, as RBAC calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Create,
    Update,
    Watch,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Watch => "watch",
        })
    }
}

/// Why the Secret could not be used. Says nothing that the API server or a parser said at length: it
/// may quote the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum KeyError {
    #[error("the role lacks `{0}` on it")]
    Forbidden(Verb),
    #[error("the API server refuses `{verb}`: {code} {reason}")]
    Refused {
        verb: Verb,
        code: u16,
        reason: String,
    },
    #[error("the API server cannot be reached for `{0}`")]
    Unreachable(Verb),
    #[error("another node wrote first, each of {RACES} times")]
    Raced,
}

impl KeyError {
    fn of(verb: Verb, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(verb, status.code, &status.reason),
            _ => Self::Unreachable(verb),
        }
    }

    fn of_status(verb: Verb, code: u16, reason: &str) -> Self {
        if code == 403 {
            return Self::Forbidden(verb);
        }
        Self::Refused {
            verb,
            code,
            reason: reason.to_owned(),
        }
    }

    /// Its like was there already, or the resource version was another.
    const fn is_lost_race(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }
}

/// Keeps the published key that of the Secret until it is dropped.
pub async fn keep(secrets: Api<Object>, name: String, publisher: Publisher) {
    let mut keeper = Keeper {
        secrets,
        name,
        publisher,
        told: Vec::new(),
    };
    // Resets itself when a round lasted for two minutes.
    let mut backoff = DefaultBackoff::default();
    loop {
        match keeper.follow().await {
            Ok(()) => {}
            Err(error @ KeyError::Forbidden(Verb::Watch)) => {
                keeper.complain(error);
                keeper.fetch_when_wanted().await;
            }
            Err(error) => {
                keeper.complain(error);
                keeper.source(Source::Unknown);
            }
        }
        tokio::time::sleep(backoff.next().unwrap_or(FRESH)).await;
    }
}

struct Keeper {
    secrets: Api<Object>,
    name: String,
    publisher: Publisher,
    /// What was complained about; the same is not said twice.
    told: Vec<KeyError>,
}

impl Keeper {
    /// Reads the Secret and watches it until the watch ends.
    async fn follow(&mut self) -> Result<(), KeyError> {
        let version = self.settle().await?;
        self.source(Source::Fetched(Instant::now()));
        let selection = WatchParams::default()
            .fields(&format!("metadata.name={}", self.name))
            .timeout(WATCH_SECONDS);
        let watching = self.secrets.watch(&selection, &version);
        let mut changes = timely(Verb::Watch, watching).await?.boxed();
        self.source(Source::Watched);
        self.recovered();
        while let Ok(Some(change)) = tokio::time::timeout(DEAD_AFTER, changes.next()).await {
            match change.map_err(|error| KeyError::of(Verb::Watch, &error))? {
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    if !self.publish(&object) {
                        self.settle().await?;
                    }
                }
                WatchEvent::Deleted(_) => {
                    self.settle().await?;
                }
                // Too old a resource version: an ordinary reason to read again.
                WatchEvent::Error(status) if status.code == 410 => break,
                WatchEvent::Error(status) => {
                    return Err(KeyError::of_status(
                        Verb::Watch,
                        status.code,
                        &status.reason,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Without the right to watch: reads when a Mount finds the key too old, for some minutes.
    async fn fetch_when_wanted(&mut self) {
        let rewatch = Instant::now() + REWATCH;
        let wanted = Arc::clone(&self.publisher.wanted);
        let mut next = Instant::now() + FRESH;
        loop {
            let due = async {
                wanted.notified().await;
                tokio::time::sleep_until(next).await;
            };
            tokio::select! {
                () = due => {}
                () = tokio::time::sleep_until(rewatch) => return,
            }
            match self.settle().await {
                Ok(_) => {
                    self.recovered();
                    self.source(Source::Fetched(Instant::now()));
                }
                Err(error) => {
                    self.complain(error);
                    self.source(Source::Unknown);
                }
            }
            next = Instant::now() + FRESH;
        }
    }

    /// Reads the Secret and publishes its key; fills an empty one, makes a missing one. Where that is
    /// forbidden the last key serves on, and somebody else may yet do it. Returns the resource version
    /// to watch from.
    async fn settle(&mut self) -> Result<String, KeyError> {
        for _ in 0..RACES {
            let object = timely(Verb::Get, self.secrets.get_opt(&self.name)).await?;
            if let Some(object) = &object
                && self.publish(object)
            {
                return Ok(version(object));
            }
            // "0": from any state on; a missing object has no version.
            let seen = object.as_ref().map_or_else(|| "0".to_owned(), version);
            match self.write(object).await {
                Ok(object) => {
                    self.publish(&object);
                    return Ok(version(&object));
                }
                // Another node was faster; its key is read now.
                Err(error) if error.is_lost_race() => {}
                Err(error @ KeyError::Forbidden(_)) => {
                    self.complain(error);
                    return Ok(seen);
                }
                Err(error) => return Err(error),
            }
        }
        Err(KeyError::Raced)
    }

    async fn write(&self, object: Option<Object>) -> Result<Object, KeyError> {
        let parameters = PostParams::default();
        let entry = BTreeMap::from([(ENTRY.to_owned(), ByteString(random().expose().to_vec()))]);
        let Some(mut object) = object else {
            let made = Object {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                data: Some(entry),
                immutable: Some(true),
                ..Object::default()
            };
            return timely(Verb::Create, self.secrets.create(&parameters, &made)).await;
        };
        object.data.get_or_insert_default().extend(entry);
        // Its resourceVersion goes along: of two nodes one is refused.
        let replacing = self.secrets.replace(&self.name, &parameters, &object);
        timely(Verb::Update, replacing).await
    }

    /// Publishes an object's key, if it has one.
    fn publish(&self, object: &Object) -> bool {
        let entry = object.data.as_ref().and_then(|data| data.get(ENTRY));
        let Some(entry) = entry.filter(|entry| !entry.0.is_empty()) else {
            return false;
        };
        let key = SecretBytes::from(entry.0.clone());
        self.publisher.state.send_if_modified(|state| {
            let new = state.key.as_ref().is_none_or(|known| **known != key);
            if new {
                info!(
                    secret = self.name,
                    "the shared key for object versions is in use"
                );
                state.key = Some(Arc::new(key));
            }
            new
        });
        true
    }

    fn source(&self, source: Source) {
        self.publisher
            .state
            .send_modify(|state| state.source = source);
    }

    /// The API server is there again. What it forbids it still forbids, and that was said.
    fn recovered(&mut self) {
        self.told
            .retain(|error| matches!(error, KeyError::Forbidden(_)));
    }

    fn complain(&mut self, error: KeyError) {
        if !self.told.contains(&error) {
            warn!(secret = self.name, %error, "the Secret with the key for object versions cannot be used in full: let the role grant get, watch and update on it; the last known key serves");
            self.told.push(error);
        }
    }
}

/// One call of the API server, within the time that it may take.
async fn timely<T>(
    verb: Verb,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, KeyError> {
    tokio::time::timeout(ANSWER, call)
        .await
        .map_err(|_| KeyError::Unreachable(verb))?
        .map_err(|error| KeyError::of(verb, &error))
}

fn version(object: &Object) -> String {
    let version = object.metadata.resource_version.clone();
    version.unwrap_or_else(|| "0".to_owned())
}
