//! What the worker says aloud of a mounted volume: what has ended, what no poll replaces, what was rotated.

use std::time::Duration;

use tracing::{error, info, warn};

use super::evidence::Verdict;
use super::notice::{NoticeKind, Notices};
use super::volume::Volume;
use crate::grant::timing::Nature;
use crate::metrics::Metrics;

/// What people call it.
const fn noun(nature: Nature) -> &'static str {
    match nature {
        Nature::Token => "token",
        Nature::Lease => "lease",
        Nature::Certificate => "certificate",
        Nature::Expiring | Nature::Written | Nature::Static => "credential",
    }
}

/// Says what a mounted volume has lost by its end.
pub fn ended(volume: &Volume, missed: &[Nature], metrics: &Metrics, notices: &Notices) {
    for nature in missed {
        let kind = noun(*nature);
        metrics.deadline_missed(kind);
        error!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            class = volume.class,
            kind,
            "reached its end while mounted; only a rotation poll can replace it: enable the driver's secret rotation, or raise the maximum TTL"
        );
        let text = format!(
            "the {kind} of class {:?} has reached its end; only a rotation poll can replace it: enable the driver's secret rotation, or raise the maximum TTL",
            volume.class
        );
        notices.tell(volume, NoticeKind::Expired, text);
    }
}

/// Says why a volume has ended, and what becomes of its credentials.
pub fn released(volume: &Volume, expires: bool, why: &str) {
    let (pod, namespace) = (volume.pod.name.as_str(), volume.pod.namespace.as_str());
    if expires {
        info!(volume = %volume.id, pod, namespace, why, "volume ended: its credentials are left to expire, as the class says (onUnmount: expire)");
    } else {
        info!(volume = %volume.id, pod, namespace, why, "volume ended: its credentials are revoked");
    }
}

/// Says, once, that nothing shows that a volume is there, and once that something does again.
pub fn judged(volume: &Volume, verdict: Verdict, notices: &Notices) {
    let (pod, namespace) = (volume.pod.name.as_str(), volume.pod.namespace.as_str());
    match verdict {
        Verdict::Doubtful(why) if !volume.doubted => {
            warn!(volume = %volume.id, pod, namespace, why, "nothing shows that this volume is still mounted: it is not renewed any more, and its credentials run out by themselves");
            let text = format!(
                "nothing shows that the volume of class {:?} is still mounted ({why}): its credentials are not renewed any more; a rotation poll ends that",
                volume.class
            );
            notices.tell(volume, NoticeKind::CannotRenew, text);
        }
        Verdict::Alive if volume.doubted => {
            info!(volume = %volume.id, pod, namespace, "the volume is there: it is renewed again");
        }
        Verdict::Doubtful(_) | Verdict::Alive => {}
    }
}

/// Says, in time, that no poll comes to replace what ends then.
pub fn unattended(
    volume: &Volume,
    found: &[(Nature, Duration)],
    metrics: &Metrics,
    notices: &Notices,
) {
    for (nature, left) in found {
        let (kind, seconds_left) = (noun(*nature), left.as_secs());
        metrics.unattended(kind);
        warn!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            class = volume.class,
            kind,
            seconds_left,
            "cannot be renewed, and no rotation poll comes to replace it: enable the driver's secret rotation, or restart the pod before"
        );
        let text = format!(
            "the {kind} of class {:?} ends in {seconds_left} s, cannot be renewed, and no rotation poll comes to replace it: enable the driver's secret rotation, or restart the pod before",
            volume.class
        );
        notices.tell(volume, NoticeKind::CannotRenew, text);
    }
}

/// Says, once, that the rotation interval is too long for a grant to be swapped in time.
pub fn too_short(volume: &Volume, poll: Duration, notices: &Notices) {
    let cares = volume.open_cares();
    for care in cares.filter(|care| care.life.too_short_for(poll)) {
        let kind = noun(care.life.nature);
        let (ttl_seconds, poll_seconds) = (care.life.term.granted().as_secs(), poll.as_secs());
        warn!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            kind,
            ttl_seconds,
            poll_seconds,
            "its TTL is too short for the rotation interval: no swap in time can be promised; raise the TTL above three intervals"
        );
        let text = format!(
            "the TTL of the {kind}, {ttl_seconds} s, is too short for a rotation interval of {poll_seconds} s: no swap in time can be promised; raise it above three intervals"
        );
        notices.tell(volume, NoticeKind::CannotRenew, text);
    }
}

/// Says that a poll has replaced credentials: the paths of their requests.
pub fn rotated(volume: &Volume, paths: &[String], metrics: &Metrics, notices: &Notices) {
    if paths.is_empty() {
        return;
    }
    metrics.rotated();
    let text = format!(
        "class {:?}: a rotation poll has replaced {}",
        volume.class,
        paths.join(", ")
    );
    notices.tell(volume, NoticeKind::Rotated, text);
}
