//! Whether and when a first Mount is attempted again while its server cannot serve.
//!
//! kubelet tries again as well, but later and later, up to every two minutes: a server that is back within
//! seconds should cost a pod seconds.

use std::time::{Duration, Instant};

use super::error::MountError;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The attempts of one Mount.
pub struct Retries {
    until: Instant,
    failures: u32,
}

impl Retries {
    /// Retries for as long as this.
    pub fn new(retry_for: Duration) -> Self {
        let now = Instant::now();
        Self {
            until: now.checked_add(retry_for).unwrap_or(now),
            failures: 0,
        }
    }

    /// How long to wait before the next attempt; nothing where the failure does not pass by itself or there is
    /// no time left: whoever waits for the pod should then read why.
    pub fn pause(&mut self, error: &MountError) -> Option<Duration> {
        if !error.passes_by_itself() {
            return None;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8));
        let bound = doubled.min(LONGEST_PAUSE);
        let pause = bound / 2 + (bound / 2).mul_f64(rand::random());
        let pause = error.retry_after().map_or(pause, |asked| pause.max(asked));
        self.failures = self.failures.saturating_add(1);
        let left = self.until.saturating_duration_since(Instant::now());
        (pause < left).then_some(pause)
    }
}
