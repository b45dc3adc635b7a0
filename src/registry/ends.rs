//! How a volume comes to its end: its path is gone, or its pod, or a Mount that never succeeded.

use std::collections::HashSet;
use std::time::Duration;

use super::Sighting;
use super::evidence::PodNews;
use super::task::VolumeKey;
use super::telling;
use super::volume::{Stage, Volume};
use super::worker::Worker;
use crate::spec::VolumeId;

/// What kubelet grants where a pod says nothing.
const USUAL_GRACE: Duration = Duration::from_secs(30);
/// A pod that was polled within this time is run by kubelet, whatever the API server says.
const STILL_POLLED: Duration = Duration::from_secs(300);

impl Volume {
    /// Whether the absence of its path is its end. Between two attempts of a first Mount the path is gone as
    /// well: kubelet comes again as long as there is the pod.
    pub fn ends_with_its_path(&self) -> bool {
        let pod_is_gone = self.forsaken_at.is_some();
        match self.stage {
            Stage::Mounted => true,
            Stage::Opening => !self.mounting || pod_is_gone,
            Stage::Parked { .. } => pod_is_gone,
            Stage::Leaving => false,
        }
    }
}

impl Worker {
    pub fn observed(&mut self, sightings: Vec<(VolumeId, Sighting)>) -> bool {
        let now = self.clock.now();
        if !sightings.is_empty() {
            self.sources.swept(now);
        }
        let mut unconfirmed = false;
        for (id, sighting) in sightings {
            let (confirm, unseen) = (self.settings.confirm, self.settings.unseen);
            let Some((key, volume)) = self.volume(&id) else {
                continue;
            };
            match sighting {
                Sighting::Present => {
                    volume.missing_since = None;
                    volume.evidence.path_seen(now);
                    if !volume.seen {
                        volume.seen = true;
                        self.changed(key, None);
                    } else if volume.doubted {
                        self.settle(key);
                    }
                }
                Sighting::Absent | Sighting::PodAbsent => {
                    if !volume.seen || volume.stage == Stage::Leaving {
                        continue;
                    }
                    if sighting == Sighting::PodAbsent && !volume.ends_with_its_path() {
                        volume.forsaken_at = Some(now.plus(unseen));
                    }
                    if !volume.ends_with_its_path() {
                        continue;
                    }
                    let since = *volume.missing_since.get_or_insert(now);
                    // Two looks at least, however short the period.
                    if since < now && now.since(since) >= confirm {
                        self.release(key, "its path is gone");
                    } else {
                        unconfirmed = true;
                    }
                }
            }
        }
        unconfirmed
    }

    pub fn pod_gone(&mut self, uid: &str, grace: Duration) {
        let gone: Vec<VolumeKey> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.id.pod_uid == uid && volume.stage != Stage::Leaving)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.without_pod(key, grace);
        }
    }

    /// The pod watch has told who is there: who is not, is gone, also where that was never told. A forced deletion may
    /// have come before the first Mount.
    pub fn pods_there(&mut self, uids: &HashSet<String>) {
        let now = self.clock.now();
        self.sources.rolled(now);
        let keys: Vec<VolumeKey> = self.volumes.keys().copied().collect();
        for key in keys {
            let Some(volume) = self.volumes.get_mut(&key) else {
                continue;
            };
            if volume.stage == Stage::Leaving {
                continue;
            }
            let named = uids.contains(&volume.id.pod_uid);
            match volume.evidence.roll(named, now) {
                PodNews::Missing => self.without_pod(key, USUAL_GRACE),
                PodNews::Back => {
                    volume.forsaken_at = None;
                    self.changed(key, None);
                }
                PodNews::None if named && volume.doubted => self.settle(key),
                PodNews::None if !named => self.still_missing(key),
                PodNews::None => {}
            }
        }
    }

    /// A list does not name its pod, and that is no news. A Mount may have been under way when it was; one that comes
    /// later shows that kubelet runs the pod nevertheless, for as long as its polls go on.
    fn still_missing(&mut self, key: VolumeKey) {
        let now = self.clock.now();
        let Some(volume) = self.volumes.get(&key) else {
            return;
        };
        if volume.seen && volume.ends_with_its_path() {
            let _ = self.look.send(volume.id.clone());
            return;
        }
        let poll = volume.polls.interval(self.settings.poll);
        let quiet = poll.saturating_mul(3).max(STILL_POLLED);
        let is_quiet = volume.polls.last.is_none_or(|at| now.since(at) >= quiet);
        if volume.evidence.is_missed()
            && volume.forsaken_at.is_none()
            && !volume.mounting
            && is_quiet
        {
            self.without_pod(key, USUAL_GRACE);
        }
    }

    /// Its pod is gone. Where its path was seen, that decides; else it is given up after its grace period and a
    /// margin.
    fn without_pod(&mut self, key: VolumeKey, grace: Duration) {
        let now = self.clock.now();
        let until = now.plus(grace).plus(self.settings.unseen);
        let Some(volume) = self.volumes.get_mut(&key) else {
            return;
        };
        volume.evidence.pod_gone(now);
        let waits = !(volume.seen && volume.ends_with_its_path());
        if waits && volume.forsaken_at.is_none() {
            volume.forsaken_at = Some(until);
        }
        if volume.seen {
            let _ = self.look.send(volume.id.clone());
        }
        if waits {
            self.changed(key, None);
        }
    }

    pub fn release(&mut self, key: VolumeKey, why: &str) {
        let now = self.clock.now();
        if let Some(volume) = self.volumes.get_mut(&key) {
            telling::released(volume, volume.lets_expire(), why);
            volume.release(now);
            // A first Mount that hangs keeps nothing waiting.
            if let Some(mount) = self.mounts.get(&key) {
                mount.cancel();
            }
            self.changed(key, None);
        }
    }
}
