//! The server's clock: the system's, plus what tests have added.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that can be put forward. Clones are one clock.
#[derive(Clone, Default)]
pub struct Clock {
    ahead_millis: Arc<AtomicU64>,
}

impl Clock {
    /// The time since 1970.
    #[must_use]
    pub fn now(&self) -> Duration {
        let system = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        system + Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed))
    }

    /// Puts the clock forward: what ends in that time has ended at the next request.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_millis.fetch_add(millis, Ordering::Relaxed);
    }
}
