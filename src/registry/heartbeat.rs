//! Whether the worker turns: liveness reads it, tests count its turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::worker::LONGEST_SLEEP;
use crate::clock::Moment;

/// The worker's heartbeat. Clones share it.
#[derive(Clone, Default)]
pub struct Heartbeat(Arc<Beat>);

#[derive(Default)]
struct Beat {
    millis: AtomicU64,
    turns: AtomicU64,
}

impl Heartbeat {
    /// The longest time between two beats of a worker that has nothing to do. One that works has some more: a few
    /// milliseconds for a turn.
    pub const INTERVAL: Duration = LONGEST_SLEEP;

    pub(super) fn beat(&self, now: Moment) {
        let millis = u64::try_from(now.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.0.millis.store(millis, Ordering::Relaxed);
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// When the worker's loop has turned last, to the millisecond.
    #[must_use]
    pub fn last(&self) -> Moment {
        Moment::from_boot(Duration::from_millis(self.0.millis.load(Ordering::Relaxed)))
    }

    /// How often it has turned.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.0.turns.load(Ordering::Relaxed)
    }
}
