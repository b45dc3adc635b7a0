//! Seeing that a volume is gone: its target path on the host.
//!
//! inotify on a path's parent is the hint, a periodic look at every registered path decides. An absence
//! counts only with proven sight: a kubelet directory that is unmounted, moved or unreadable must never
//! look like the end of every volume of the node.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::registry::{Registry, Sighting};
use crate::spec::VolumeId;

/// Where and how often to look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// kubelet's directory of pods, as we see it.
    pub pods_dir: PathBuf,
    /// Our own pod's UID, where we run in one: its directory must be visible.
    pub own_pod_uid: Option<String>,
    /// The time between two looks at every path.
    pub interval: Duration,
    /// The time after which an absence is looked at again.
    pub confirm: Duration,
}

/// What a look at a path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Present,
    /// It is not, and we see well enough to say so.
    Absent,
    /// We cannot say.
    Blind,
}

/// Our eyes. Clones share what was learnt at the first proof.
#[derive(Clone)]
pub struct Sight(Arc<Eyes>);

struct Eyes {
    pods_dir: PathBuf,
    own_pod_uid: Option<String>,
    /// Device and inode of the pods directory when it was first seen.
    identity: Mutex<Option<(u64, u64)>>,
}

impl Sight {
    /// Looks once, so that the directory's identity is that of the start where it is there by then.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let sight = Self(Arc::new(Eyes {
            pods_dir: settings.pods_dir.clone(),
            own_pod_uid: settings.own_pod_uid.clone(),
            identity: Mutex::new(None),
        }));
        let _: Result<(), String> = sight.prove();
        sight
    }

    /// Why an absence would mean nothing just now.
    ///
    /// # Errors
    /// The pods directory is not readable, not the one of the start, or does not show our own pod.
    pub fn prove(&self) -> Result<(), String> {
        let directory = &self.0.pods_dir;
        let shown = directory.display();
        fs::read_dir(directory).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let metadata = fs::metadata(directory).map_err(|error| format!("{shown}: {error}"))?;
        let identity = (metadata.dev(), metadata.ino());
        let mut known = self
            .0
            .identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *known.get_or_insert(identity) != identity {
            return Err(format!(
                "{shown} is not the directory that was there at the start"
            ));
        }
        drop(known);
        match &self.0.own_pod_uid {
            Some(uid) if !directory.join(uid).exists() => {
                Err(format!("{shown} does not show our own pod {uid}"))
            }
            _ => Ok(()),
        }
    }

    /// Looks at one path. Blocks for as long as the file system does.
    #[must_use]
    pub fn look(&self, path: &Path) -> Presence {
        let below = path.starts_with(&self.0.pods_dir)
            && path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !below {
            return Presence::Blind;
        }
        match fs::symlink_metadata(path) {
            Ok(_) => Presence::Present,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                // After the look, not before: sight lost in between must not count.
                if self.prove().is_ok() {
                    Presence::Absent
                } else {
                    Presence::Blind
                }
            }
            Err(_) => Presence::Blind,
        }
    }
}

/// Looks at the registry's paths until it is dropped: at all of them periodically, at those that come
/// through `asked` or whose directory changes at once.
pub async fn watch(
    settings: Settings,
    sight: Sight,
    registry: Registry,
    mut asked: mpsc::UnboundedReceiver<VolumeId>,
    metrics: Metrics,
) {
    let mut hints = Hints::new();
    let mut seeing = true;
    let mut sweep = Instant::now() + settings.interval;
    loop {
        let targets = tokio::select! {
            () = tokio::time::sleep_until(sweep) => {
                sweep = Instant::now() + settings.interval;
                registry.paths().await
            }
            Some(volume) = asked.recv() => {
                hints.add(&volume);
                let mut targets = vec![volume];
                while let Ok(volume) = asked.try_recv() {
                    hints.add(&volume);
                    targets.push(volume);
                }
                targets
            }
            volumes = hints.next() => volumes,
        };
        let (sightings, proof) = look_at(&sight, targets).await;
        tell_sight(&mut seeing, proof, &metrics);
        for (volume, sighting) in &sightings {
            if *sighting == Sighting::Absent {
                hints.forget(volume);
            }
        }
        if !sightings.is_empty() && registry.observed(sightings).await {
            // The second look decides; a hint that shows nothing meanwhile must not put it off.
            sweep = sweep.min(Instant::now() + settings.confirm);
        }
    }
}

async fn look_at(
    sight: &Sight,
    targets: Vec<VolumeId>,
) -> (Vec<(VolumeId, Sighting)>, Result<(), String>) {
    let sight = sight.clone();
    let looks = tokio::task::spawn_blocking(move || {
        let mut sightings = Vec::with_capacity(targets.len());
        for volume in targets {
            match sight.look(&volume.target_path) {
                Presence::Present => sightings.push((volume, Sighting::Present)),
                Presence::Absent => sightings.push((volume, Sighting::Absent)),
                Presence::Blind => {}
            }
        }
        (sightings, sight.prove())
    });
    looks
        .await
        .unwrap_or_else(|_| (Vec::new(), Err("the look itself broke down".to_owned())))
}

/// Says once that sight was lost, and once that it is back.
fn tell_sight(seeing: &mut bool, proof: Result<(), String>, metrics: &Metrics) {
    match (*seeing, proof) {
        (true, Err(reason)) => {
            error!(
                reason,
                "the ends of volumes cannot be seen: nothing is released until they can be again; mount kubelet's pods directory as a read-only hostPath"
            );
            metrics.degraded("no_path_view", true);
            *seeing = false;
        }
        (false, Ok(())) => {
            info!("the ends of volumes can be seen again");
            metrics.degraded("no_path_view", false);
            *seeing = true;
        }
        _ => {}
    }
}

/// inotify on the `<volume>` directories. Without it (no instances or watches left) the periodic looks
/// do the work alone.
struct Hints {
    events: Option<EventStream<[u8; 4096]>>,
    by_watch: HashMap<WatchDescriptor, VolumeId>,
    by_volume: HashMap<VolumeId, WatchDescriptor>,
    told: bool,
}

impl Hints {
    fn new() -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        let mut hints = Self {
            events: None,
            by_watch: HashMap::new(),
            by_volume: HashMap::new(),
            told: false,
        };
        match events {
            Ok(events) => hints.events = Some(events),
            Err(error) => hints.tell(&error),
        }
        hints
    }

    fn add(&mut self, volume: &VolumeId) {
        let (Some(events), Some(parent)) = (&self.events, volume.target_path.parent()) else {
            return;
        };
        let mask = WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::DELETE_SELF;
        match events.watches().add(parent, mask) {
            Ok(watch) => {
                self.by_volume.insert(volume.clone(), watch.clone());
                self.by_watch.insert(watch, volume.clone());
            }
            // Gone already: the look that follows sees that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.tell(&error),
        }
    }

    fn forget(&mut self, volume: &VolumeId) {
        if let Some(watch) = self.by_volume.remove(volume) {
            self.by_watch.remove(&watch);
            if let Some(events) = &self.events {
                // The kernel has removed it together with its directory, as a rule.
                let _: io::Result<()> = events.watches().remove(watch);
            }
        }
    }

    /// The volumes that something happened beside. Never, without inotify.
    async fn next(&mut self) -> Vec<VolumeId> {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        let mut ready = events.ready_chunks(256);
        let Some(chunk) = ready.next().await else {
            drop(ready);
            self.events = None;
            return Vec::new();
        };
        let mut volumes: Vec<VolumeId> = chunk
            .into_iter()
            .filter_map(|event: io::Result<inotify::Event<OsString>>| {
                self.by_watch.get(&event.ok()?.wd).cloned()
            })
            .collect();
        volumes.dedup();
        volumes
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            warn!(%error, "inotify is not available: the ends of volumes are found by the periodic look alone; raise fs.inotify.max_user_watches");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pods_dir: &Path, own_pod_uid: Option<&str>) -> Settings {
        Settings {
            pods_dir: pods_dir.to_owned(),
            own_pod_uid: own_pod_uid.map(str::to_owned),
            interval: Duration::from_secs(5),
            confirm: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_missing_path_is_absent_only_with_proven_sight() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        fs::create_dir_all(pods.join("own")).unwrap();
        let path = pods.join("uid/volumes/kubernetes.io~csi/v/mount");
        fs::create_dir_all(&path).unwrap();
        let sight = Sight::new(&settings(&pods, Some("own")));
        assert_eq!(sight.look(&path), Presence::Present);
        fs::remove_dir(&path).unwrap();
        assert_eq!(sight.look(&path), Presence::Absent);
        // Our own pod out of sight.
        fs::rename(pods.join("own"), pods.join("other")).unwrap();
        assert_eq!(sight.look(&path), Presence::Blind);
        fs::rename(pods.join("other"), pods.join("own")).unwrap();
        assert_eq!(sight.look(&path), Presence::Absent);
        // Another directory in its place: an unmounted hostPath shows an empty one.
        fs::rename(&pods, root.path().join("moved")).unwrap();
        assert_eq!(sight.look(&path), Presence::Blind);
        fs::create_dir_all(pods.join("own")).unwrap();
        assert_eq!(sight.look(&path), Presence::Blind);
        fs::remove_dir_all(&pods).unwrap();
        fs::rename(root.path().join("moved"), &pods).unwrap();
        assert_eq!(sight.look(&path), Presence::Absent);
    }

    #[test]
    fn paths_outside_the_pods_directory_are_not_judged() {
        let root = tempfile::tempdir().unwrap();
        let sight = Sight::new(&settings(root.path(), None));
        assert_eq!(sight.look(Path::new("/nowhere/mount")), Presence::Blind);
        assert_eq!(sight.look(&root.path().join("a/../b")), Presence::Blind);
        assert_eq!(sight.look(&root.path().join("a/b")), Presence::Absent);
    }

    #[tokio::test]
    async fn a_removal_beside_a_watch_is_a_hint() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("uid/volumes/kubernetes.io~csi/v/mount");
        fs::create_dir_all(&path).unwrap();
        let volume = VolumeId {
            pod_uid: "uid".to_owned(),
            target_path: path.clone(),
        };
        let mut hints = Hints::new();
        hints.add(&volume);
        fs::remove_dir(&path).unwrap();
        let hinted = tokio::time::timeout(Duration::from_secs(5), hints.next()).await;
        assert!(hinted.unwrap() == [volume]);
    }
}
