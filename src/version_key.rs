//! The key that object versions are made with, shared by all nodes through a Kubernetes Secret.
//!
//! The Secret has the incumbent's shape: 32 random bytes under `key`. It is watched, not fetched at every
//! mount; where only `get` is granted, a Mount that finds it some seconds old has it fetched, once for
//! all that wait. An empty one (as our manifests ship it) is filled, a missing one made where that is
//! allowed.

mod keeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::warn;

pub use self::keeper::keep;
use crate::metrics::Metrics;
use crate::redacted::SecretBytes;

const LENGTH: usize = 32;
/// How long a Mount waits for the shared key.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a fetched key is taken for the present one.
const FRESH: Duration = Duration::from_secs(5);

/// The key; clones share it.
#[derive(Clone)]
pub struct VersionKey(Arc<Inner>);

struct Inner {
    shared: Option<Shared>,
    /// Serves while there is no shared one: versions then change with a restart, and differ by node.
    own: Arc<SecretBytes>,
    told: AtomicBool,
    metrics: Metrics,
}

struct Shared {
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
}

/// Where [`keep`] publishes the key, and learns that a fresh one is wanted.
pub struct Publisher {
    state: watch::Sender<State>,
    wanted: Arc<Notify>,
}

#[derive(Clone, Default)]
struct State {
    key: Option<Arc<SecretBytes>>,
    source: Source,
}

/// What is known of the key's age.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Source {
    /// Changes arrive by themselves.
    Watched,
    /// Fetched, at that time.
    Fetched(Instant),
    /// The last attempt failed, or there was none: waiting would not make it fresher.
    #[default]
    Unknown,
}

impl State {
    /// Whether a Mount may go on with what is there.
    fn settled(&self) -> bool {
        self.key.is_some()
            && match self.source {
                Source::Watched | Source::Unknown => true,
                Source::Fetched(at) => at.elapsed() < FRESH,
            }
    }
}

impl VersionKey {
    /// A key that is shared through a Secret as soon as [`keep`] has it.
    #[must_use]
    pub fn shared(metrics: Metrics) -> (Self, Publisher) {
        let (publisher, state) = watch::channel(State::default());
        let wanted = Arc::new(Notify::new());
        let shared = Shared {
            state,
            wanted: Arc::clone(&wanted),
        };
        let publisher = Publisher {
            state: publisher,
            wanted,
        };
        (Self::new(Some(shared), metrics), publisher)
    }

    /// A key of this process alone.
    #[must_use]
    pub fn own(metrics: Metrics) -> Self {
        Self::new(None, metrics)
    }

    fn new(shared: Option<Shared>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            shared,
            own: Arc::new(random()),
            told: AtomicBool::new(false),
            metrics,
        }))
    }

    /// The key to be used now. Waits for the shared one for two seconds, until it had to do without once;
    /// a known one that could not be made fresh in that time serves on.
    pub async fn current(&self) -> Arc<SecretBytes> {
        if let Some(key) = self.shared_key().await {
            if self.0.told.swap(false, Ordering::Relaxed) {
                self.0.metrics.degraded("no_shared_version_key", false);
            }
            return key;
        }
        if !self.0.told.swap(true, Ordering::Relaxed) {
            self.0.metrics.degraded("no_shared_version_key", true);
            warn!(
                "the shared key for object versions is not available: this process' own serves, so versions differ between nodes and change with a restart"
            );
        }
        Arc::clone(&self.0.own)
    }

    async fn shared_key(&self) -> Option<Arc<SecretBytes>> {
        let shared = self.0.shared.as_ref()?;
        let mut state = shared.state.clone();
        let known = state.borrow().clone();
        if known.source != Source::Watched {
            shared.wanted.notify_one();
        }
        if known.settled() {
            return known.key;
        }
        let patience = if self.0.told.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        // Neither a timeout nor a keeper that has stopped changes which key is the best one known.
        let _ = tokio::time::timeout(patience, state.wait_for(State::settled)).await;
        state.borrow().key.clone()
    }
}

fn random() -> SecretBytes {
    SecretBytes::from(rand::random::<[u8; LENGTH]>().to_vec())
}

#[cfg(test)]
mod tests;
