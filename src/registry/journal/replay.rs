//! What the journal held when the daemon started, volume by volume.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, warn};

use super::super::volume::Volume;
use super::BodyFiles;
use super::files::{Files, Name};
use super::loading::Loading;
use crate::clock::Moment;
use crate::metrics::Metrics;

/// The volumes, each read when it is asked for: with all of their replies at once the daemon would take twice the
/// memory. What cannot be used is set aside with a loud error; the others load.
pub struct Replayed {
    files: Option<Arc<Files>>,
    volumes: BTreeSet<String>,
    bodies: BodyFiles,
    now: Moment,
    metrics: Metrics,
}

/// A volume that was found.
pub struct Found {
    pub volume: Volume,
    /// The size of its record, in bytes.
    pub record: usize,
    /// Its files are not as they would be written: an older version's, or without a body that they name.
    pub outdated: bool,
}

impl Replayed {
    /// Looks through the directory. Erases what a kill has left: files half-written, bodies that no record names.
    pub(super) fn over(
        files: Option<Arc<Files>>,
        bodies: BodyFiles,
        now: Moment,
        metrics: &Metrics,
    ) -> Self {
        let volumes = files
            .as_ref()
            .map_or_else(BTreeSet::new, |files| look_through(files, &bodies, metrics));
        let replayed = Self {
            files,
            volumes,
            bodies,
            now,
            metrics: metrics.clone(),
        };
        let all: Vec<String> = replayed.bodies.lock().keys().cloned().collect();
        let has_record = |volume: &&String| replayed.volumes.contains(*volume);
        for volume in all.iter().filter(|volume| !has_record(volume)) {
            replayed.erase_bodies(volume, &BTreeSet::new());
        }
        replayed
    }

    /// Reads one volume after the other, tries it out, and hands it over. What breaks that twice is set aside: see
    /// [`super::loading`].
    pub fn load(self, try_out: &dyn Fn(&Volume), take: &mut dyn FnMut(Found)) {
        let Some(files) = self.files.clone() else {
            return;
        };
        let paths = self.volumes.iter().map(|volume| files.record_path(volume));
        let mut load = |path: &Path, told: &mut dyn FnMut(String)| {
            let volume = path.file_stem().unwrap_or_default().to_string_lossy();
            match self.read(&files, &volume) {
                Ok(found) => {
                    let pod = &found.volume.pod;
                    told(format!("{}/{}", pod.namespace, pod.name));
                    try_out(&found.volume);
                    take(found);
                }
                Err(reason) => self.set_aside(&volume, &reason),
            }
        };
        Loading::of(files.directory()).load_all(paths.collect(), &self.metrics, &mut load);
        for volume in &self.volumes {
            if !files.record_path(volume).exists() {
                self.erase_bodies(volume, &BTreeSet::new());
            }
        }
    }

    /// Puts a volume's files out of the way: it cannot be used.
    fn set_aside(&self, volume: &str, reason: &str) {
        let Some(files) = &self.files else {
            return;
        };
        self.metrics.journal_error("corrupt");
        let (aside, moved) = files.set_aside(volume);
        error!(reason, file = %aside.display(), moved = moved.is_ok(), "a journal file is unusable and was set aside: its volume's credentials live to their own end");
        self.erase_bodies(volume, &BTreeSet::new());
        files.forget_set_aside(SystemTime::now());
    }

    fn read(&self, files: &Files, volume: &str) -> Result<Found, String> {
        let (record, same_boot, size) = files.read_record(volume)?;
        let mut outdated = record.is_of_first_format();
        let named: BTreeSet<_> = record.bodies().collect();
        let mut unusable = BTreeSet::new();
        let replayed = record.into_volume(same_boot, self.now, |key| {
            files
                .read_body(volume, key)
                .inspect_err(|reason| {
                    unusable.insert(key);
                    self.metrics.journal_error("body");
                    error!(reason, volume, key, "a reply in the journal is unusable: what it grants is renewed and revoked, and read anew by the next poll");
                })
                .ok()
        });
        outdated |= !unusable.is_empty();
        self.erase_bodies(volume, &named.difference(&unusable).copied().collect());
        Ok(Found {
            volume: replayed,
            record: size,
            outdated,
        })
    }

    /// Erases the bodies of a volume, but for those that are in use.
    fn erase_bodies(&self, volume: &str, used: &BTreeSet<u64>) {
        let Some(files) = &self.files else {
            return;
        };
        for key in self.bodies.of(volume).difference(used) {
            match files.erase_body(volume, *key) {
                Ok(()) => self.bodies.note(volume, *key, false),
                // It stays known, and the writer tries again.
                Err(error) => {
                    self.metrics.journal_error("write");
                    warn!(%error, volume, key, "a reply in the journal that nothing names cannot be erased");
                }
            }
        }
    }
}

/// The volumes that have a record. Notes the bodies that have files.
fn look_through(files: &Files, bodies: &BodyFiles, metrics: &Metrics) -> BTreeSet<String> {
    let mut volumes = BTreeSet::new();
    let entries = match fs::read_dir(files.directory()) {
        Ok(entries) => entries,
        Err(error) => {
            metrics.journal_error("read");
            error!(%error, directory = %files.directory().display(), "the journal cannot be read: volumes mounted before this start are not known");
            return volumes;
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(Name::of) {
            Some(Name::Record(volume)) => {
                volumes.insert(volume);
            }
            Some(Name::Body(volume, key)) => bodies.note(&volume, key, true),
            Some(Name::Temporary) => {
                if let Err(error) = fs::remove_file(&path) {
                    warn!(%error, file = %path.display(), "what a kill left of a write cannot be erased");
                }
            }
            Some(Name::SetAside) => {}
            None if path.extension().is_some_and(|ending| ending == "json") => {
                warn!(file = %path.display(), "a file in the state directory is no journal file of ours and is left alone");
            }
            None => {}
        }
    }
    files.forget_set_aside(SystemTime::now());
    volumes
}
