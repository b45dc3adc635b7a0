//! Keeps the published key that of the Secret: reads it now and then, fills or makes it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kube::api::{Api, GetParams, ObjectMeta, PostParams};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Publisher, random};
use crate::redacted::SecretBytes;

/// The Secret's entry (hashicorp/vault-csi-provider `internal/hmac/hmac.go`).
pub(super) const ENTRY: &str = "key";
/// How long the API server may take to answer. The client itself would wait for ever.
const ANSWER: Duration = Duration::from_secs(10);
/// The first pause after a failure; it doubles with each one that follows.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How often a lost race is run again; each means that another node wrote meanwhile.
const RACES: u32 = 5;

/// When the Secret is read. Each time is drawn around these: the nodes of a cluster must not ask together.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first read comes within this time of the start, or at once when a Mount wants the key.
    pub first: Duration,
    /// From one read to the next, less or more by half; also the longest pause after a failure.
    pub every: Duration,
    /// From a read that found no key to one that a Mount brings forward, less or more by half.
    pub soonest: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            every: Duration::from_secs(600),
            soonest: Duration::from_secs(30),
        }
    }
}

/// What was being done, as RBAC calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Create,
    Update,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
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
pub async fn keep(secrets: Api<Object>, name: String, publisher: Publisher, timing: Timing) {
    let mut keeper = Keeper {
        secrets,
        name,
        publisher,
        told: Vec::new(),
    };
    let mut failures = 0;
    let mut pause = timing.first.mul_f64(rand::random());
    let mut soonest = Duration::ZERO;
    loop {
        keeper.wait(pause, soonest).await;
        soonest = drawn(timing.soonest);
        pause = drawn(match keeper.read().await {
            Ok(()) => {
                failures = 0;
                keeper.recovered();
                timing.every
            }
            Err(error) => {
                keeper.complain(error);
                failures += 1;
                let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                FIRST_RETRY.saturating_mul(doubled).min(timing.every)
            }
        });
    }
}

/// A time less or more by half.
fn drawn(around: Duration) -> Duration {
    around.mul_f64(0.5 + rand::random::<f64>())
}

struct Keeper {
    secrets: Api<Object>,
    name: String,
    publisher: Publisher,
    /// What was complained about; the same is not said twice.
    told: Vec<KeyError>,
}

impl Keeper {
    /// Waits for so long, or until a Mount wants a key that is not there, but for the soonest time at least.
    async fn wait(&self, pause: Duration, soonest: Duration) {
        let began = Instant::now();
        let wanted = async {
            self.publisher.wanted.notified().await;
            tokio::time::sleep_until(began + soonest).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted => {}
        }
    }

    /// Reads the Secret and publishes its key; fills an empty one, makes a missing one. Where that is
    /// forbidden the last key serves on, and somebody else may yet do it.
    async fn read(&mut self) -> Result<(), KeyError> {
        // From the API server's cache, which costs its storage nothing.
        let mut version = GetParams::any();
        for _ in 0..RACES {
            let object = self.get(&version).await?;
            if object.as_ref().is_some_and(|object| self.publish(object)) {
                return Ok(());
            }
            match self.write(object).await {
                Ok(object) => {
                    self.publish(&object);
                    return Ok(());
                }
                // Another node was faster, or the cache late: what is stored is read now.
                Err(error) if error.is_lost_race() => version = GetParams::default(),
                Err(error) => return Err(error),
            }
        }
        Err(KeyError::Raced)
    }

    async fn get(&self, version: &GetParams) -> Result<Option<Object>, KeyError> {
        match timely(Verb::Get, self.secrets.get_with(&self.name, version)).await {
            Ok(object) => Ok(Some(object)),
            Err(KeyError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
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
        if self.publisher.publish(SecretBytes::from(entry.0.clone())) {
            info!(
                secret = self.name,
                "the shared key for object versions is in use"
            );
        }
        true
    }

    /// The API server is there again. What it forbids it still forbids, and that was said.
    fn recovered(&mut self) {
        self.told
            .retain(|error| matches!(error, KeyError::Forbidden(_)));
    }

    fn complain(&mut self, error: KeyError) {
        if !self.told.contains(&error) {
            warn!(secret = self.name, %error, "the Secret with the key for object versions cannot be used in full: let the role grant get and update on it; the last known key serves");
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
