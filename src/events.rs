//! The registry's notices as Events on the pods they are about: `kubectl describe pod` shows them.
//!
//! Nothing waits for them. While the API server is away they are dropped and counted; log and metrics have
//! said the same.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::registry::notice::{Notice, NoticeKind};

/// The longest note that the API takes, in bytes (`events.k8s.io/v1`).
const LONGEST_NOTE: usize = 1024;
/// Ten events a second from one node: an outage of the server must not become one of the API server.
const PAUSE: Duration = Duration::from_millis(100);
/// An API server that does not answer holds up one event, not the queue for good.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries notices until the registry has ended. `instance` is our own pod's name, where we have one.
pub async fn publish(
    client: Client,
    instance: Option<String>,
    notices: &mut mpsc::Receiver<Notice>,
    metrics: Metrics,
) {
    let reporter = Reporter {
        controller: "leasehold".to_owned(),
        instance,
    };
    let recorder = Recorder::new(client, reporter);
    let mut failing = false;
    while let Some(notice) = notices.recv().await {
        let (event, pod) = (event(&notice), reference(&notice));
        let published = tokio::time::timeout(PATIENCE, recorder.publish(&event, &pod)).await;
        let fault = match published {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        metrics.event(if fault.is_some() { "failed" } else { "written" });
        metrics.degraded("no_events", fault.is_some());
        match fault {
            Some(fault) if !failing => {
                failing = true;
                warn!(
                    fault,
                    "an event on a pod could not be written; they are dropped meanwhile: let the role grant create and patch on events of events.k8s.io"
                );
            }
            None if failing => {
                failing = false;
                info!("events on pods are written again");
            }
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn event(notice: &Notice) -> Event {
    let (type_, reason, action) = match notice.kind {
        NoticeKind::Rotated => (EventType::Normal, "CredentialsRotated", "Rotate"),
        NoticeKind::CannotRenew => (EventType::Warning, "CannotRenew", "Renew"),
        NoticeKind::Expired => (EventType::Warning, "CredentialsExpired", "Renew"),
        NoticeKind::CannotRevoke => (EventType::Warning, "CannotRevoke", "Revoke"),
    };
    let mut note = notice.text.clone();
    note.truncate(note.floor_char_boundary(LONGEST_NOTE - 1));
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    }
}

fn reference(notice: &Notice) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(notice.pod.name.clone()),
        namespace: Some(notice.pod.namespace.clone()),
        uid: Some(notice.pod_uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Pod;

    #[test]
    fn a_note_is_cut_between_characters() {
        let notice = Notice {
            pod: Pod {
                name: "web-0".to_owned(),
                namespace: "shop".to_owned(),
                service_account: "web".to_owned(),
            },
            pod_uid: "uid".to_owned(),
            kind: NoticeKind::CannotRenew,
            text: "ü".repeat(2000),
        };
        let note = event(&notice).note.unwrap();
        assert_eq!(note.len(), 1022);
        assert!(note.chars().all(|c| c == 'ü'));
    }
}
