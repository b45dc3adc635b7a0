//! How a volume comes to its end: its path is gone, or its pod, or a Mount that never succeeded.

use std::time::Duration;

use tracing::info;

use super::Sighting;
use super::agenda::VolumeKey;
use super::volume::{Stage, Volume};
use super::worker::Worker;
use crate::spec::VolumeId;

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
        let mut unconfirmed = false;
        for (id, sighting) in sightings {
            let confirm = self.settings.confirm;
            let Some((key, volume)) = self.volume(&id) else {
                continue;
            };
            match sighting {
                Sighting::Present => {
                    volume.missing_since = None;
                    if !volume.seen {
                        volume.seen = true;
                        self.changed(key, None);
                    }
                }
                Sighting::Absent => {
                    if !volume.seen || !volume.ends_with_its_path() {
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
        let until = self.clock.now().plus(grace).plus(self.settings.unseen);
        let gone: Vec<VolumeKey> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.id.pod_uid == uid && volume.stage != Stage::Leaving)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            let Some(volume) = self.volumes.get_mut(&key) else {
                continue;
            };
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
    }

    pub fn release(&mut self, key: VolumeKey, why: &str) {
        let now = self.clock.now();
        if let Some(volume) = self.volumes.get_mut(&key) {
            let (pod, namespace) = (volume.pod.name.as_str(), volume.pod.namespace.as_str());
            if volume.lets_expire() {
                info!(volume = %volume.id, pod, namespace, why, "volume ended: its credentials are left to expire, as the class says (onUnmount: expire)");
            } else {
                info!(volume = %volume.id, pod, namespace, why, "volume ended: its credentials are revoked");
            }
            volume.release(now);
            // A first Mount that hangs keeps nothing waiting.
            if let Some(mount) = self.mounts.get(&key) {
                mount.cancel();
            }
            self.changed(key, None);
        }
    }
}
