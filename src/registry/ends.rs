//! How a volume comes to its end: its path is gone, or its pod, or a Mount that never succeeded.

use std::time::Duration;

use super::Sighting;
use super::task::VolumeKey;
use super::telling;
use super::volume::{Stage, Volume};
use super::worker::Worker;
use crate::spec::VolumeId;

impl Volume {
    /// Whether the absence of its path is its end. Between two attempts of a first Mount the path is gone as
    /// well; those end by themselves, or with their pod.
    pub fn ends_with_its_path(&self) -> bool {
        match self.stage {
            Stage::Mounted => true,
            Stage::Opening => !self.mounting,
            Stage::Parked { .. } | Stage::Leaving => false,
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
            if volume.seen && volume.ends_with_its_path() {
                let _ = self.look.send(volume.id.clone());
            } else if volume.forsaken_at.is_none() {
                volume.forsaken_at = Some(until);
                self.changed(key, None);
            }
        }
    }

    pub fn release(&mut self, key: VolumeKey, why: &str) {
        let now = self.clock.now();
        if let Some(volume) = self.volumes.get_mut(&key) {
            telling::released(volume, volume.lets_expire(), why);
            volume.release(now);
            self.changed(key, None);
        }
    }
}
