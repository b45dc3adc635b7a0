//! The key that object versions are made with, shared by all nodes through a Kubernetes Secret.
//!
//! The Secret has the incumbent's shape: 32 random bytes under `key`. It is watched, not fetched at every
//! mount; where only `get` is granted it is fetched every half minute. An empty one (as our manifests
//! ship it) is filled, a missing one made where that is allowed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Error as WatchError, watch_object};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::redacted::SecretBytes;

/// The Secret's entry (hashicorp/vault-csi-provider `internal/hmac/hmac.go`).
const ENTRY: &str = "key";
const LENGTH: usize = 32;
/// How long the first Mounts wait for the shared key.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two fetches where watching is not granted.
const REFETCH: Duration = Duration::from_secs(30);

/// The key; clones share it.
#[derive(Clone)]
pub struct VersionKey(Arc<Inner>);

struct Inner {
    shared: Option<watch::Receiver<Option<Arc<SecretBytes>>>>,
    /// Serves while there is no shared one: versions then change with a restart, and differ by node.
    own: Arc<SecretBytes>,
    told: AtomicBool,
    metrics: Metrics,
}

/// Where the key is published by [`keep`].
pub type Publisher = watch::Sender<Option<Arc<SecretBytes>>>;

impl VersionKey {
    /// A key that is shared through a Secret as soon as [`keep`] has it.
    #[must_use]
    pub fn shared(metrics: Metrics) -> (Self, Publisher) {
        let (publisher, shared) = watch::channel(None);
        (Self::new(Some(shared), metrics), publisher)
    }

    /// A key of this process alone.
    #[must_use]
    pub fn own(metrics: Metrics) -> Self {
        Self::new(None, metrics)
    }

    fn new(shared: Option<watch::Receiver<Option<Arc<SecretBytes>>>>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            shared,
            own: Arc::new(random()),
            told: AtomicBool::new(false),
            metrics,
        }))
    }

    /// The key to be used now. Waits for the shared one for two seconds, until it had to do without once.
    pub async fn current(&self) -> Arc<SecretBytes> {
        if let Some(shared) = &self.0.shared {
            let mut shared = shared.clone();
            let told = self.0.told.load(Ordering::Relaxed);
            let patience = if told { Duration::ZERO } else { PATIENCE };
            let there = tokio::time::timeout(patience, shared.wait_for(Option::is_some)).await;
            if let Ok(Ok(key)) = there
                && let Some(key) = key.as_ref()
            {
                if told {
                    self.0.told.store(false, Ordering::Relaxed);
                    self.0.metrics.degraded("no_shared_version_key", false);
                }
                return Arc::clone(key);
            }
        }
        if !self.0.told.swap(true, Ordering::Relaxed) {
            self.0.metrics.degraded("no_shared_version_key", true);
            warn!(
                "the shared key for object versions is not available: this process' own serves, so versions differ between nodes and change with a restart"
            );
        }
        Arc::clone(&self.0.own)
    }
}

/// Keeps the published key that of the Secret until it is dropped.
pub async fn keep(secrets: Api<Object>, name: String, publisher: Publisher) {
    let mut complained = false;
    loop {
        let mut changes = watch_object(secrets.clone(), &name)
            .default_backoff()
            .boxed();
        while let Some(change) = changes.next().await {
            let settled = match change {
                Ok(object) => settle(&secrets, &name, object, &publisher).await,
                Err(error) if forbidden(&error) => break,
                Err(error) => {
                    complain(&mut complained, &name, &error);
                    continue;
                }
            };
            match settled {
                Ok(()) => complained = false,
                Err(error) => complain(&mut complained, &name, &error),
            }
        }
        // Only `get` is granted, as by the incumbent's manifests.
        let fetched = secrets.get_opt(&name).await;
        let settled = match fetched {
            Ok(object) => settle(&secrets, &name, object, &publisher).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => complained = false,
            Err(error) => complain(&mut complained, &name, &error),
        }
        tokio::time::sleep(REFETCH).await;
    }
}

fn complain(complained: &mut bool, name: &str, error: &dyn std::fmt::Display) {
    if !std::mem::replace(complained, true) {
        warn!(secret = name, %error, "the Secret with the key for object versions cannot be used: let the role grant get, watch and update on it; the last known key serves");
    }
}

fn forbidden(error: &WatchError) -> bool {
    let status = match error {
        WatchError::InitialListFailed(error)
        | WatchError::WatchStartFailed(error)
        | WatchError::WatchFailed(error) => error,
        WatchError::WatchError(status) => return status.code == 403,
        _ => return false,
    };
    matches!(status, kube::Error::Api(status) if status.code == 403)
}

/// Publishes a Secret's key; fills an empty Secret, makes a missing one. Another node may be faster:
/// its key is seen by the watch.
async fn settle(
    secrets: &Api<Object>,
    name: &str,
    object: Option<Object>,
    publisher: &Publisher,
) -> Result<(), kube::Error> {
    let Some(mut object) = object else {
        let key = random();
        let made = Object {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(entry(&key)),
            immutable: Some(true),
            ..Object::default()
        };
        return won(
            secrets.create(&PostParams::default(), &made).await,
            key,
            publisher,
        );
    };
    let present = object.data.as_ref().and_then(|data| data.get(ENTRY));
    if let Some(key) = present.filter(|key| !key.0.is_empty()) {
        let key = SecretBytes::from(key.0.clone());
        publisher.send_if_modified(|published| {
            let new = published.as_ref().is_none_or(|known| **known != key);
            if new {
                info!(
                    secret = name,
                    "the shared key for object versions is in use"
                );
                *published = Some(Arc::new(key));
            }
            new
        });
        return Ok(());
    }
    let key = random();
    object.data.get_or_insert_default().extend(entry(&key));
    // Its resourceVersion goes along: of two nodes one is refused.
    let replaced = secrets.replace(name, &PostParams::default(), &object).await;
    won(replaced, key, publisher)
}

fn won(
    written: Result<Object, kube::Error>,
    key: SecretBytes,
    publisher: &Publisher,
) -> Result<(), kube::Error> {
    match written {
        Ok(_) => {
            publisher.send_replace(Some(Arc::new(key)));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

fn entry(key: &SecretBytes) -> BTreeMap<String, ByteString> {
    BTreeMap::from([(ENTRY.to_owned(), ByteString(key.expose().to_vec()))])
}

fn random() -> SecretBytes {
    SecretBytes::from(rand::random::<[u8; LENGTH]>().to_vec())
}

#[cfg(test)]
mod tests;
