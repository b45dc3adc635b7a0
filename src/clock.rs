//! The clock all deadlines are kept on.
//!
//! It counts from the node's boot (`CLOCK_BOOTTIME`): a stepped wall clock moves no deadline, and a
//! journal written before a restart of the daemon still means the same afterwards. After a reboot it
//! means nothing, which the journal knows by the boot id.
//!
//! Every number that a server, a class or a journal file states ends up in a [`Moment`] or in a span of at most
//! [`LONGEST`]. Both are clamped when they are made, so that no sum of them overflows, in a timer, in a time of
//! day or in a `Duration`.

pub mod foreign;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::foreign::Span;

/// A hundred years: a longer span is treated as this one.
pub const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A span from outside, no longer than [`LONGEST`].
#[must_use]
pub const fn clamped(span: Duration) -> Duration {
    if span.as_secs() >= LONGEST.as_secs() {
        LONGEST
    } else {
        span
    }
}

/// A moment, as the time since the node's boot: a thousand years at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Span")]
pub struct Moment(Duration);

impl Moment {
    /// The end of time. Later moments are this one.
    pub const NEVER: Self = Self(Duration::from_secs(10 * LONGEST.as_secs()));

    /// The moment `since_boot` after the node's boot.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        if since_boot.as_secs() >= Self::NEVER.0.as_secs() {
            Self::NEVER
        } else {
            Self(since_boot)
        }
    }

    /// The time since the node's boot.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// This moment plus `duration`, saturating at the end of time.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self::from_boot(self.0.saturating_add(duration))
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
        Moment::from_boot(
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())),
        )
    }
}

impl From<Span> for Moment {
    fn from(span: Span) -> Self {
        Self::from_boot(span.0)
    }
}
