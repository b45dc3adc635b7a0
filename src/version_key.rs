//! The key that object versions are made with, shared by all nodes through a Kubernetes Secret.
//!
//! The Secret has the incumbent's shape: 32 random bytes under `key`. It is read, not watched: five thousand nodes
//! would hold five thousand watches of a key that hardly ever changes. Each node reads it when its first Mount wants
//! it, or some seconds after its start, and every ten minutes from then on. An empty one (as our manifests ship it) is
//! filled, a missing one made where that is allowed.

mod keeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::warn;

pub use self::keeper::{Timing, keep};
use crate::metrics::Metrics;
use crate::redacted::SecretBytes;

const LENGTH: usize = 32;
/// How long a Mount waits for the shared key.
const PATIENCE: Duration = Duration::from_secs(2);

/// The key; clones share it.
#[derive(Clone)]
pub struct VersionKey(Arc<Inner>);

struct Inner {
    shared: Option<Shared>,
    /// Serves while there is no shared one: versions then change with a restart, and differ by node.
    own: Arc<SecretBytes>,
    missing: Missing,
}

struct Shared {
    key: watch::Receiver<Option<Arc<SecretBytes>>>,
    wanted: Arc<Notify>,
}

/// Where [`keep`] publishes the key, and learns that one is wanted. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    key: watch::Sender<Option<Arc<SecretBytes>>>,
    wanted: Arc<Notify>,
    missing: Missing,
}

/// Whether a Mount had to do without the shared key: it is said once, and withdrawn with the key.
#[derive(Clone)]
struct Missing {
    told: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Missing {
    fn new(metrics: Metrics) -> Self {
        Self {
            told: Arc::default(),
            metrics,
        }
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.metrics.degraded("no_shared_version_key", true);
            warn!(
                "the shared key for object versions is not available: this process' own serves, so versions differ between nodes and change with a restart"
            );
        }
    }

    fn withdraw(&self) {
        if self.told.swap(false, Ordering::Relaxed) {
            self.metrics.degraded("no_shared_version_key", false);
        }
    }
}

impl Publisher {
    /// Publishes a key; says whether it is another one than before.
    fn publish(&self, key: SecretBytes) -> bool {
        let is_new = self.key.send_if_modified(|known| {
            let is_new = known.as_ref().is_none_or(|known| **known != key);
            if is_new {
                *known = Some(Arc::new(key));
            }
            is_new
        });
        self.missing.withdraw();
        is_new
    }
}

impl VersionKey {
    /// A key that is shared through a Secret as soon as [`keep`] has it.
    #[must_use]
    pub fn shared(metrics: Metrics) -> (Self, Publisher) {
        let (sender, key) = watch::channel(None);
        let (wanted, missing) = (Arc::new(Notify::new()), Missing::new(metrics));
        let shared = Shared {
            key,
            wanted: Arc::clone(&wanted),
        };
        let publisher = Publisher {
            key: sender,
            wanted,
            missing: missing.clone(),
        };
        (Self::new(Some(shared), missing), publisher)
    }

    /// A key of this process alone.
    #[must_use]
    pub fn own(metrics: Metrics) -> Self {
        Self::new(None, Missing::new(metrics))
    }

    fn new(shared: Option<Shared>, missing: Missing) -> Self {
        Self(Arc::new(Inner {
            shared,
            own: Arc::new(random()),
            missing,
        }))
    }

    /// The key to be used now: the last known one. Where none is known, waits for it for two seconds, until it had to
    /// do without once.
    pub async fn current(&self) -> Arc<SecretBytes> {
        if let Some(key) = self.shared_key().await {
            self.0.missing.withdraw();
            return key;
        }
        self.0.missing.tell();
        Arc::clone(&self.0.own)
    }

    async fn shared_key(&self) -> Option<Arc<SecretBytes>> {
        let shared = self.0.shared.as_ref()?;
        let mut key = shared.key.clone();
        let known = key.borrow().clone();
        if known.is_some() {
            return known;
        }
        shared.wanted.notify_one();
        if !self.0.missing.is_told() {
            // Neither a timeout nor a keeper that has stopped changes that there is none.
            let _ = tokio::time::timeout(PATIENCE, key.wait_for(Option::is_some)).await;
        }
        key.borrow().clone()
    }
}

fn random() -> SecretBytes {
    SecretBytes::from(rand::random::<[u8; LENGTH]>().to_vec())
}

#[cfg(test)]
mod tests;
