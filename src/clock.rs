//! The clock all deadlines are kept on.
//!
//! It counts from the node's boot (`CLOCK_BOOTTIME`): a stepped wall clock moves no deadline, and a
//! journal written before a restart of the daemon still means the same afterwards. After a reboot it
//! means nothing, which the journal knows by the boot id.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, as the time since the node's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since_boot` after the node's boot.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// This moment plus `duration`, saturating at the end of time.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// This moment less `duration`, saturating at the boot.
    #[must_use]
    pub const fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// The time from `earlier` to this moment; zero when `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells the time. A trait because the worker's tests run on tokio's paused clock.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Moment;
}

/// The node's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Moment {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Moment(Duration::new(seconds, nanos))
    }
}
