//! The second source about ends: a watch of this node's pods, metadata only.
//!
//! Such a watch shows no phase, so it selects the pods that are neither Succeeded nor Failed: one that
//! finishes leaves the selection, which arrives as a deletion. A departed pod is a reason to look at its
//! paths; it decides only for volumes whose path cannot be seen.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{self, Error, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_all};
use kube::{Client, ResourceExt};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::registry::Registry;

/// What kubelet grants where a pod says nothing.
const USUAL_GRACE: Duration = Duration::from_secs(30);
/// A watch that has not failed for this long runs: kube notices a dead connection after 295 s.
const RUNS_AFTER: Duration = Duration::from_secs(360);

/// Watches until it is dropped.
pub async fn watch(client: Client, node: String, registry: Registry, metrics: Metrics) {
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client);
    let selection = watcher::Config::default().fields(&format!(
        "spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
    ));
    let mut events = watch_all(pods, selection).default_backoff().boxed();
    let mut roll = Roll::default();
    let mut complaint = Complaint {
        metrics,
        told: false,
    };
    loop {
        match tokio::time::timeout(RUNS_AFTER, events.next()).await {
            // A list begins; it has not been answered yet.
            Ok(Some(Ok(Event::Init))) => roll.begin(uids(&registry).await),
            Ok(Some(Ok(event))) => {
                complaint.withdraw();
                for (uid, grace) in roll.departed(event) {
                    registry.pod_gone(uid, grace);
                }
            }
            Ok(Some(Err(error))) => complaint.raise(&error),
            Ok(None) => return,
            Err(_) => complaint.withdraw(),
        }
    }
}

/// The pods that volumes are registered for.
async fn uids(registry: &Registry) -> HashSet<String> {
    let paths = registry.paths().await;
    paths.into_iter().map(|volume| volume.pod_uid).collect()
}

/// Who is there, as far as it takes to say who is not.
#[derive(Default)]
struct Roll {
    /// The pods whose volumes were registered when the list began and that it has not named yet. A pod
    /// that came after that may be missing from the list and yet be alive.
    missing: HashSet<String>,
    /// The grace periods of the pods that are being deleted. At the very end the object says 0.
    graces: HashMap<String, Duration>,
}

impl Roll {
    fn begin(&mut self, registered: HashSet<String>) {
        self.missing = registered;
        self.graces.clear();
    }

    /// The pods that an event shows to be gone, each with its grace period.
    fn departed(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Vec<(String, Duration)> {
        match event {
            Event::Init => Vec::new(),
            Event::InitApply(pod) => {
                if let Some(uid) = pod.uid() {
                    self.missing.remove(&uid);
                }
                self.note(&pod);
                Vec::new()
            }
            Event::Apply(pod) => {
                self.note(&pod);
                Vec::new()
            }
            Event::InitDone => self.missing.drain().map(|uid| (uid, USUAL_GRACE)).collect(),
            Event::Delete(pod) => {
                self.note(&pod);
                pod.uid().map_or_else(Vec::new, |uid| {
                    let grace = self.graces.remove(&uid).unwrap_or(USUAL_GRACE);
                    vec![(uid, grace)]
                })
            }
        }
    }

    /// Remembers the longest grace period. None, or 0, says nothing about the containers: a forced
    /// deletion lets kubelet end them by the pod's own period, which metadata do not show.
    fn note(&mut self, pod: &PartialObjectMeta<Pod>) {
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
    fn a_list_shows_who_went_of_those_that_were_registered_before_it() {
        let mut roll = Roll::default();
        roll.begin(HashSet::from(["stays".to_owned(), "went".to_owned()]));
        assert!(
            roll.departed(Event::InitApply(pod("stays", None)))
                .is_empty()
        );
        // Of a pod that came meanwhile the list says nothing, and so do we.
        assert_eq!(seconds(&roll.departed(Event::InitDone)), [("went", 30)]);
        assert!(roll.departed(Event::InitDone).is_empty());
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
