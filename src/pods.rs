//! The second source about ends: a watch of this node's pods, metadata only.
//!
//! Such a watch shows no phase, so it selects the pods that are neither Succeeded nor Failed: one that
//! finishes leaves the selection, which arrives as a deletion. A departed pod is a reason to look at its
//! paths; it decides only for volumes whose path cannot be seen.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_all};
use kube::{Client, ResourceExt};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::registry::Registry;

/// What kubelet grants where a pod says nothing.
const USUAL_GRACE: Duration = Duration::from_secs(30);

/// Watches until it is dropped.
pub async fn watch(client: Client, node: String, registry: Registry, metrics: Metrics) {
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client);
    let selection = watcher::Config::default().fields(&format!(
        "spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
    ));
    let mut events = watch_all(pods, selection).default_backoff().boxed();
    let mut present = HashSet::new();
    let mut told = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => present.clear(),
            Ok(Event::InitApply(pod)) => {
                present.extend(pod.uid());
            }
            Ok(Event::InitDone) => {
                registry.pods_present(std::mem::take(&mut present));
                if std::mem::replace(&mut told, false) {
                    info!("this node's pods are watched again");
                    metrics.degraded("no_pod_watch", false);
                }
            }
            Ok(Event::Apply(_)) => {}
            Ok(Event::Delete(pod)) => {
                if let Some(uid) = pod.uid() {
                    registry.pod_gone(uid, grace(&pod));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    metrics.degraded("no_pod_watch", true);
                    warn!(%error, "this node's pods cannot be watched: let the role grant list and watch on pods; it is tried again");
                }
            }
        }
    }
}

fn grace(pod: &PartialObjectMeta<Pod>) -> Duration {
    let seconds = pod.metadata.deletion_grace_period_seconds;
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(USUAL_GRACE, Duration::from_secs)
}
