//! What a pod's people should hear of: the registry says it, `events` carries it to their cluster.

use tokio::sync::mpsc;

use super::volume::Volume;
use crate::metrics::Metrics;
use crate::spec::Pod;

/// What has happened to a mounted volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// A poll has replaced credentials before their end.
    Rotated,
    /// Something cannot be renewed, or no poll comes to replace it.
    CannotRenew,
    /// Something has reached its end, or was ended by somebody else, while it was mounted.
    Expired,
    /// Something of an ended volume cannot be revoked.
    CannotRevoke,
    /// A reply was not kept for the next poll: it is issued anew at each.
    NotKept,
}

/// A notice for the people of a pod. Carries no secret.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The pod.
    pub pod: Pod,
    /// Its UID.
    pub pod_uid: String,
    /// What it is about.
    pub kind: NoticeKind,
    /// One sentence, with what to do.
    pub text: String,
}

/// Where notices go. Nobody waits for them: what finds no room is counted and dropped.
#[derive(Clone)]
pub struct Notices {
    sender: mpsc::Sender<Notice>,
    metrics: Metrics,
}

/// Notices that may wait to be carried out.
const WAITING: usize = 1024;

impl Notices {
    /// The two ends.
    #[must_use]
    pub fn channel(metrics: Metrics) -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, metrics }, receiver)
    }

    pub(super) fn tell(&self, volume: &Volume, kind: NoticeKind, text: impl Into<String>) {
        let notice = Notice {
            pod: volume.pod.clone(),
            pod_uid: volume.id.pod_uid.clone(),
            kind,
            text: text.into(),
        };
        // Closed where nobody carries events: there is no API server.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(notice) {
            self.metrics.event("dropped");
        }
    }
}
