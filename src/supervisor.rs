//! Background tasks: none of them ends unnoticed.
//!
//! Each has a name. One that can be made anew is restarted, with a growing pause; one that cannot (the registry's
//! worker, the gRPC server) ends the process, which Kubernetes starts again and which then replays its journal.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::error;

use crate::metrics::Metrics;

/// The pause before the first restart; each one that follows soon doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A task that ran for so long starts over with the first pause.
const STEADY_AFTER: Duration = Duration::from_secs(300);

/// How a task came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned.
    Returned,
    /// It panicked, with this message.
    Panicked(String),
}

impl Exit {
    fn of(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked(text.unwrap_or("no message").to_owned())
    }

    /// As the metric names it.
    const fn label(&self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Panicked(_) => "panicked",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => f.write_str("returned"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

/// A task without which the daemon is of no use has come to its end.
#[derive(Debug, thiserror::Error)]
#[error(
    "the background task {name} has ended ({exit}): the process ends, so that it is started anew"
)]
pub struct TaskEnded {
    name: &'static str,
    exit: Exit,
}

/// The tasks that can be made anew; aborted when dropped.
pub struct Supervisor {
    tasks: JoinSet<()>,
    metrics: Metrics,
}

impl Supervisor {
    /// Without tasks.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            tasks: JoinSet::new(),
            metrics,
        }
    }

    /// Runs what `make` makes, and again whenever that ends.
    pub fn keep<F, T>(&mut self, name: &'static str, make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let metrics = self.metrics.clone();
        self.tasks
            .spawn(async move { restarted(name, &metrics, make, Until::Dropped).await });
    }

    /// Runs what `make` makes until that has returned, and again when it panics.
    pub fn complete<F, T>(&mut self, name: &'static str, make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let metrics = self.metrics.clone();
        self.tasks
            .spawn(async move { restarted(name, &metrics, make, Until::Returned).await });
    }

    /// Runs a task whose end is the end of the process: whoever holds the answer sees to that.
    pub fn require(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Required {
        Required {
            name,
            task: tokio::spawn(task),
            metrics: self.metrics.clone(),
        }
    }

    /// Ends all tasks.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// A task that cannot be made anew.
pub struct Required {
    name: &'static str,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Required {
    /// Its end, which nobody has asked for. May be dropped, and asked for again, until it has answered.
    pub async fn failed(&mut self) -> TaskEnded {
        let exit = self.exit().await;
        self.metrics.task_exited(self.name, exit.label());
        TaskEnded {
            name: self.name,
            exit,
        }
    }

    /// Its end, which was asked for.
    pub async fn finished(mut self) {
        if let exit @ Exit::Panicked(_) = self.exit().await {
            self.metrics.task_exited(self.name, exit.label());
            error!(task = self.name, %exit, "a background task broke down at the end");
        }
    }

    async fn exit(&mut self) -> Exit {
        match (&mut self.task).await {
            Ok(()) => Exit::Returned,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => Exit::of(panic.as_ref()),
                // Only a runtime that goes down aborts it.
                Err(_) => Exit::Returned,
            },
        }
    }
}

/// Until when a task is made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// For ever.
    Dropped,
    /// It returns.
    Returned,
}

/// Runs what `make` makes, and again whenever it ends, `until` then. For tasks on a runtime of their own.
pub async fn restarted<T: Future<Output = ()>>(
    name: &'static str,
    metrics: &Metrics,
    mut make: impl FnMut() -> T,
    until: Until,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        // What it shared with others is behind their locks, which do not poison, or is made anew.
        let run = AssertUnwindSafe(async { make().await }).catch_unwind();
        let exit = match run.await {
            Ok(()) if until == Until::Returned => return,
            Ok(()) => Exit::Returned,
            Err(panic) => Exit::of(panic.as_ref()),
        };
        metrics.task_exited(name, exit.label());
        if started.elapsed() >= STEADY_AFTER {
            pause = FIRST_PAUSE;
        }
        let drawn = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        error!(task = name, %exit, pause = ?drawn, "a background task has ended; it is started again after a pause");
        tokio::time::sleep(drawn).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn exits(metrics: &Metrics, task: &str, reason: &str) -> Option<usize> {
        let line = format!(
            "leasehold_background_task_exits_total{{task=\"{task}\",reason=\"{reason}\"}} "
        );
        let text = metrics.encode();
        let count = text.lines().find_map(|text| text.strip_prefix(&line));
        count.map(|count| count.parse().unwrap())
    }

    /// A supervisor, and how often a task of it has begun whose every run goes so.
    fn kept(
        run: impl Fn(usize) + Copy + Send + Sync + 'static,
    ) -> (Supervisor, Arc<AtomicUsize>, Metrics) {
        let metrics = Metrics::new();
        let mut supervisor = Supervisor::new(metrics.clone());
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        supervisor.keep("watch", move || {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            async move { run(nth) }
        });
        (supervisor, begun, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_counted() {
        let (_supervisor, begun, metrics) = kept(|nth| assert!(nth > 1, "the {nth}th"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(begun.load(Ordering::Relaxed) > 2);
        assert_eq!(exits(&metrics, "watch", "panicked"), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_is_started_again_ever_more_slowly() {
        let (_supervisor, begun, metrics) = kept(|_| {});
        tokio::time::sleep(Duration::from_secs(600)).await;
        let runs = begun.load(Ordering::Relaxed);
        // 1, 2, 4, … 60 s, each halved at most.
        assert!((15..=30).contains(&runs), "{runs}");
        assert_eq!(exits(&metrics, "watch", "returned"), Some(runs));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_may_end_ends_once() {
        let metrics = Metrics::new();
        let mut supervisor = Supervisor::new(metrics.clone());
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        supervisor.complete("check", move || {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            async move { assert!(nth > 0, "the first") }
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        assert_eq!(exits(&metrics, "check", "panicked"), Some(1));
        assert_eq!(exits(&metrics, "check", "returned"), None);
    }

    #[tokio::test]
    async fn a_required_task_tells_its_name_and_why_it_ended() {
        let metrics = Metrics::new();
        let supervisor = Supervisor::new(metrics.clone());
        let mut worker = supervisor.require("worker", async { panic!("out of sorts") });
        let told = worker.failed().await.to_string();
        assert!(
            told.contains("worker") && told.contains("panicked: out of sorts"),
            "{told}"
        );
        assert_eq!(exits(&metrics, "worker", "panicked"), Some(1));
        let mut server = supervisor.require("server", async {});
        let told = server.failed().await.to_string();
        assert!(told.contains("server has ended (returned)"), "{told}");
    }
}
