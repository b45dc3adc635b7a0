//! The second source about ends: a watch of this node's pods, metadata only.
//!
//! Such a watch shows no phase, so it selects the pods that are neither Succeeded nor Failed: one that
//! finishes leaves the selection, which arrives as a deletion. A departed pod is a reason to look at its
//! paths; it decides only for volumes whose path cannot be seen. Who is there is told every half minute as well: that is
//! evidence of life, and a deletion that came before the first Mount is told to nobody else.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Error, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_all};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::registry::Registry;

/// What kubelet grants where a pod says nothing.
const USUAL_GRACE: Duration = Duration::from_secs(30);
/// A watch that has not failed for this long runs: kube notices a dead connection after 295 s.
const RUNS_AFTER: Duration = Duration::from_secs(360);

/// The registry is told who is there this often.
const ROLL_EVERY: Duration = Duration::from_secs(30);
/// Watches until it is dropped. After a failure the first list or watch comes within `retry`, each later one within twice
/// the time, up to a minute: an API server that comes back meets the whole fleet.
pub async fn watch(
    client: Client,
    node: String,
    registry: Registry,
    metrics: Metrics,
    retry: Duration,
) {
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client);
    // From the API server's cache: a fleet's lists must not reach etcd. kube asks the cache for no pages.
    let whole = watcher::Config {
        page_size: None,
        ..watcher::Config::default()
    };
    let selection = whole.any_semantic().fields(&format!(
        "spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
    ));
    let spread = Spread::new(retry);
    let mut events = watch_all(pods, selection).backoff(spread).boxed();
    let mut roll = Roll::default();
    let mut complaint = Complaint {
        metrics,
        told: false,
    };
    let mut tick = tokio::time::interval(ROLL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed_at = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                // A list begins; it has not been answered yet.
                Some(Ok(Event::Init)) => roll.begin(),
                Some(Ok(event)) => {
                    failed_at = None;
                    complaint.withdraw();
                    let is_complete = matches!(event, Event::InitDone);
                    for (uid, grace) in roll.departed(event) {
                        registry.pod_gone(uid, grace);
                    }
                    if is_complete {
                        registry.pods_there(roll.there.clone());
                    }
                }
                Some(Err(error)) => {
                    failed_at = Some(Instant::now());
                    complaint.raise(&error);
                }
                None => return,
            },
            _ = tick.tick() => {
                if failed_at.is_some_and(|at: Instant| at.elapsed() >= RUNS_AFTER) {
                    failed_at = None;
                    complaint.withdraw();
                }
                if failed_at.is_none() && roll.is_complete {
                    registry.pods_there(roll.there.clone());
                }
            }
        }
    }
}

/// Random pauses within a bound that doubles.
struct Spread {
    first: Duration,
    failures: u32,
}

impl Spread {
    const LONGEST: Duration = Duration::from_secs(60);

    const fn new(first: Duration) -> Self {
        Self { first, failures: 0 }
    }
}

impl Iterator for Spread {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let bound = self.first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        Some(bound.min(Self::LONGEST).mul_f64(rand::random()))
    }
}

impl Backoff for Spread {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Who is there, as far as it takes to say who is not.
#[derive(Default)]
struct Roll {
    /// The grace periods of the pods that are being deleted. At the very end the object says 0.
    graces: HashMap<String, Duration>,
    /// The UIDs of the pods that there are. By these alone: kubelet names a static pod's directory by an annotation of its
    /// mirror, which the author of any pod can write; static pods have no service account, so they have no volume of ours.
    there: HashSet<String>,
    /// A list has ended, and no new one has begun.
    is_complete: bool,
}

impl Roll {
    fn begin(&mut self) {
        self.graces.clear();
        self.there.clear();
        self.is_complete = false;
    }

    /// The pods that an event shows to be gone, each with its grace period.
    fn departed(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Vec<(String, Duration)> {
        match event {
            Event::Init => Vec::new(),
            Event::InitApply(pod) | Event::Apply(pod) => {
                self.note(&pod);
                Vec::new()
            }
            Event::InitDone => {
                self.is_complete = true;
                Vec::new()
            }
            Event::Delete(pod) => {
                self.note(&pod);
                pod.uid().map_or_else(Vec::new, |uid| {
                    self.there.remove(&uid);
                    let grace = self.graces.remove(&uid).unwrap_or(USUAL_GRACE);
                    vec![(uid, grace)]
                })
            }
        }
    }

    /// Remembers the longest grace period. None, or 0, says nothing about the containers: a forced
    /// deletion lets kubelet end them by the pod's own period, which metadata do not show.
    fn note(&mut self, pod: &PartialObjectMeta<Pod>) {
        self.there.extend(pod.uid());
        let seconds = pod.metadata.deletion_grace_period_seconds;
        let grace = seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        if let (Some(uid), Some(grace)) = (pod.uid(), grace) {
            let known = self.graces.entry(uid).or_default();
            *known = grace.max(*known);
        }
    }
}

/// Says once that the watch fails, and once that it runs again.
struct Complaint {
    metrics: Metrics,
    told: bool,
}

impl Complaint {
    fn raise(&mut self, error: &Error) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        self.metrics.degraded("no_pod_watch", true);
        if code(error) == Some(403) {
            warn!(
                "this node's pods cannot be watched: let the role grant list and watch on pods; it is tried again"
            );
        } else {
            warn!(%error, "this node's pods cannot be watched while the API server is away; it is tried again");
        }
    }

    fn withdraw(&mut self) {
        if std::mem::replace(&mut self.told, false) {
            self.metrics.degraded("no_pod_watch", false);
            info!("this node's pods are watched again");
        }
    }
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn pod(uid: &str, grace: Option<i64>) -> PartialObjectMeta<Pod> {
        PartialObjectMeta {
            metadata: ObjectMeta {
                uid: Some(uid.to_owned()),
                deletion_grace_period_seconds: grace,
                ..ObjectMeta::default()
            },
            ..PartialObjectMeta::default()
        }
    }

    fn seconds(departed: &[(String, Duration)]) -> Vec<(&str, u64)> {
        let pairs = departed.iter();
        pairs
            .map(|(uid, grace)| (uid.as_str(), grace.as_secs()))
            .collect()
    }

    #[test]
    fn a_pod_is_there_under_its_own_uid_alone() {
        let mut roll = Roll::default();
        roll.begin();
        let mut hostile = pod("hostile", None);
        let hash = ("kubernetes.io/config.hash".to_owned(), "victim".to_owned());
        hostile.metadata.annotations = Some([hash].into());
        for pod in [pod("victim", None), hostile.clone()] {
            roll.departed(Event::InitApply(pod));
        }
        assert!(roll.departed(Event::InitDone).is_empty() && roll.is_complete);
        assert_eq!(
            seconds(&roll.departed(Event::Delete(hostile))),
            [("hostile", 30)]
        );
        assert_eq!(roll.there, HashSet::from(["victim".to_owned()]));
    }

    #[test]
    fn the_grace_period_is_the_longest_that_was_seen() {
        let mut roll = Roll::default();
        roll.departed(Event::Apply(pod("slow", Some(300))));
        let gone = roll.departed(Event::Delete(pod("slow", Some(0))));
        assert_eq!(seconds(&gone), [("slow", 300)]);
        let gone = roll.departed(Event::Delete(pod("forced", Some(0))));
        assert_eq!(seconds(&gone), [("forced", 30)]);
        let gone = roll.departed(Event::Delete(pod("finished", None)));
        assert_eq!(seconds(&gone), [("finished", 30)]);
        assert!(roll.graces.is_empty());
    }
}
