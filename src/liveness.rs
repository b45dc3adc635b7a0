//! Whether the parts of the daemon still make progress: what `/health/live` answers by.
//!
//! Each part counts its progress, and the watchdog looks at the counts from a thread of its own. A part has stalled
//! when its count stood still for longer than its limit, in time during which *the watchdog itself ran*. On a node
//! that was suspended, or in a process that was stopped, frozen or starved of CPU, no part had time to progress, and
//! the watchdog has counted none.
//!
//! The kubelet kills the daemon when a part stalls without which nothing works and that a restart brings back: the
//! registry's worker, the runtime. A file system that hangs is another matter: a restart cannot mend it, and would end
//! the renewals that still go on. That is told as degraded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::metrics::Metrics;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// The most that one look counts, however long ago the last one was.
const LONGEST_INTERVAL: Duration = INTERVAL.saturating_mul(2);

/// Counts the progress of one part. Clones share the count.
#[derive(Clone, Default)]
pub struct Heartbeat(Arc<Beats>);

#[derive(Default)]
struct Beats {
    count: AtomicU64,
    idle: AtomicBool,
}

impl Heartbeat {
    /// The part has made progress, and has more to do.
    pub fn beat(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.idle.store(false, Ordering::Relaxed);
    }

    /// The part has nothing to do until its next beat.
    pub fn rest(&self) {
        self.0.idle.store(true, Ordering::Relaxed);
    }

    /// The count; nothing while there is nothing to do.
    #[must_use]
    pub fn progress(&self) -> Option<u64> {
        let is_idle = self.0.idle.load(Ordering::Relaxed);
        (!is_idle).then(|| self.0.count.load(Ordering::Relaxed))
    }
}

/// What follows when a part stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStall {
    /// `/health/live` fails, so that the kubelet starts the daemon anew.
    Restart,
    /// The daemon runs on, degraded for this reason.
    Degrade(&'static str),
}

/// Looks at the progress of all parts. Clones share what they know.
#[derive(Clone)]
pub struct Watchdog(Arc<Inner>);

struct Inner {
    parts: Mutex<Vec<Part>>,
    metrics: Metrics,
}

struct Part {
    name: &'static str,
    progress: Box<dyn Fn() -> Option<u64> + Send>,
    limit: Duration,
    on_stall: OnStall,
    seen: Option<u64>,
    /// How long its count has stood still while the watchdog ran.
    still: Duration,
    told: bool,
}

impl Watchdog {
    /// Without parts: nothing can stall.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            parts: Mutex::default(),
            metrics,
        }))
    }

    /// Looks after one more part. `progress` answers a count that changes with each progress, or nothing while the
    /// part has nothing to do; it must not block.
    pub fn add(
        &self,
        name: &'static str,
        limit: Duration,
        on_stall: OnStall,
        progress: impl Fn() -> Option<u64> + Send + 'static,
    ) {
        self.parts().push(Part {
            name,
            progress: Box::new(progress),
            limit,
            on_stall,
            seen: None,
            still: Duration::ZERO,
            told: false,
        });
    }

    /// Why the daemon should be started anew: the parts that have stalled, and for how long.
    #[must_use]
    pub fn stalled(&self) -> Vec<String> {
        let parts = self.parts();
        let stalled = parts.iter().filter(|part| part.told);
        let fatal = stalled.filter(|part| part.on_stall == OnStall::Restart);
        let text = |part: &Part| format!("{} (for {} s)", part.name, part.still.as_secs());
        fatal.map(text).collect()
    }

    /// Looks until it is dropped.
    pub async fn run(self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = Instant::now();
            self.look(now.duration_since(last).min(LONGEST_INTERVAL));
            last = now;
        }
    }

    /// Looks once; the watchdog has run for this long since the last time.
    fn look(&self, ran: Duration) {
        for part in self.parts().iter_mut() {
            let progress = (part.progress)();
            if progress.is_none() || progress != part.seen {
                part.seen = progress;
                if std::mem::take(&mut part.told) {
                    let seconds = part.still.as_secs();
                    info!(
                        part = part.name,
                        seconds, "a part that had stalled makes progress again"
                    );
                    part.degrade(&self.0.metrics, false);
                }
                part.still = Duration::ZERO;
                continue;
            }
            part.still = part.still.saturating_add(ran);
            if part.still > part.limit && !part.told {
                part.told = true;
                let seconds = part.still.as_secs();
                match part.on_stall {
                    OnStall::Restart => error!(
                        part = part.name,
                        seconds,
                        "a part of the daemon has stalled: /health/live fails, so that the kubelet starts the daemon anew"
                    ),
                    OnStall::Degrade(reason) => error!(
                        part = part.name,
                        seconds,
                        reason,
                        "a part of the daemon has stalled, as it does when a file system hangs; everything else goes on"
                    ),
                }
                part.degrade(&self.0.metrics, true);
            }
        }
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        let parts = &self.0.parts;
        parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn degrade(&self, metrics: &Metrics, is: bool) {
        if let OnStall::Degrade(reason) = self.on_stall {
            metrics.degraded(reason, is);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn watchdog(on_stall: OnStall) -> (Watchdog, Heartbeat, Metrics) {
        let metrics = Metrics::new();
        let (watchdog, heartbeat) = (Watchdog::new(metrics.clone()), Heartbeat::default());
        let beats = heartbeat.clone();
        watchdog.add("worker", LIMIT, on_stall, move || beats.progress());
        (watchdog, heartbeat, metrics)
    }

    /// Looks for so long.
    fn look_for(watchdog: &Watchdog, seconds: u64) {
        for _ in 0..seconds / INTERVAL.as_secs() {
            watchdog.look(INTERVAL);
        }
    }

    #[test]
    fn a_part_that_stands_still_for_longer_than_its_limit_has_stalled_until_it_moves() {
        let (watchdog, heartbeat, metrics) = watchdog(OnStall::Restart);
        heartbeat.beat();
        look_for(&watchdog, 65);
        assert!(watchdog.stalled().is_empty(), "the first look only learns");
        look_for(&watchdog, 5);
        assert_eq!(watchdog.stalled(), ["worker (for 65 s)"]);
        assert!(metrics.degradations().is_empty());
        heartbeat.beat();
        watchdog.look(INTERVAL);
        assert!(watchdog.stalled().is_empty());
    }

    #[test]
    fn a_part_that_moves_now_and_then_has_not_stalled() {
        let (watchdog, heartbeat, _) = watchdog(OnStall::Restart);
        for _ in 0..10 {
            heartbeat.beat();
            look_for(&watchdog, 55);
        }
        assert!(watchdog.stalled().is_empty());
    }

    #[test]
    fn a_part_that_rests_is_expected_to_do_nothing() {
        let (watchdog, heartbeat, _) = watchdog(OnStall::Restart);
        heartbeat.beat();
        heartbeat.rest();
        look_for(&watchdog, 3600);
        assert!(watchdog.stalled().is_empty());
        heartbeat.beat();
        look_for(&watchdog, 70);
        assert_eq!(watchdog.stalled().len(), 1);
    }

    #[test]
    fn a_node_that_has_slept_or_a_process_that_was_stopped_has_stalled_nothing() {
        let (watchdog, heartbeat, _) = watchdog(OnStall::Restart);
        heartbeat.beat();
        look_for(&watchdog, 30);
        // An hour passes between two looks: `run` counts no more of it than this.
        watchdog.look(Duration::from_secs(3600).min(LONGEST_INTERVAL));
        assert!(watchdog.stalled().is_empty());
        heartbeat.beat();
        look_for(&watchdog, 30);
        assert!(watchdog.stalled().is_empty());
    }

    #[test]
    fn a_file_system_that_hangs_degrades_and_restarts_nothing() {
        let (watchdog, heartbeat, metrics) = watchdog(OnStall::Degrade("path_watch_stalled"));
        heartbeat.beat();
        look_for(&watchdog, 70);
        assert!(watchdog.stalled().is_empty());
        assert_eq!(metrics.degradations(), ["path_watch_stalled"]);
        heartbeat.rest();
        watchdog.look(INTERVAL);
        assert!(metrics.degradations().is_empty());
    }
}
