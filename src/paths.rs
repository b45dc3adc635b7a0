//! Seeing that a volume is gone: its target path on the host.
//!
//! inotify on a path's parent is the hint, a periodic look at every registered path decides. An absence
//! counts only with proven sight: a kubelet directory that is unmounted, moved or unreadable must never
//! look like the end of every volume of the node.

mod roots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::roots::{Place, Roots};
use crate::liveness::Heartbeat;
use crate::metrics::Metrics;
use crate::registry::{Registry, Sighting};
use crate::spec::VolumeId;

/// Where and how often to look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// kubelet's directory of pods, as we see it, where a target path's own is not visible to us.
    pub pods_dir: PathBuf,
    /// Our own pod's UID, where we run in one: its directory must be visible.
    pub own_pod_uid: Option<String>,
    /// The time between two looks at every path.
    pub interval: Duration,
    /// The time after which an absence is looked at again.
    pub confirm: Duration,
}

/// What a look at a path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Present,
    /// It is not, and we see well enough to say so.
    Absent,
    /// Nor is its pod's directory, which kubelet keeps for as long as it may mount the volume again.
    PodAbsent,
    /// We cannot say, and why.
    Blind(String),
}

/// Our eyes. Clones share what was learnt at the first proof.
#[derive(Clone)]
pub struct Sight(Arc<Roots>);

impl Sight {
    /// Looks once, so that the directory's identity is that of the start where it is there by then;
    /// one that comes later is taken when it comes.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self(Arc::new(Roots::new(settings)))
    }

    /// Why an absence below the configured directory would mean nothing just now.
    ///
    /// # Errors
    /// The pods directory is not readable, not the one of the start, or does not show our own pod.
    pub fn prove(&self) -> Result<(), String> {
        self.0.prove_configured()
    }

    /// Looks at one path. Blocks for as long as the file system does.
    #[must_use]
    pub fn look(&self, path: &Path) -> Presence {
        match self.0.find(path) {
            Ok(place) => place.look(),
            Err(reason) => Presence::Blind(reason),
        }
    }

    /// Where this process sees a path.
    fn seen_at(&self, path: &Path) -> Option<PathBuf> {
        self.0.find(path).ok().map(Place::into_path)
    }

    /// Looks at many paths; tells what was seen of them, and why not all of it.
    fn look_at(&self, targets: Vec<VolumeId>) -> (Vec<(VolumeId, Sighting)>, Option<String>) {
        let mut sightings = Vec::with_capacity(targets.len());
        let (mut blind, mut unproven) = (None, None);
        let mut proven = HashSet::new();
        // With nothing mounted, lost sight of the configured directory is to be told as well.
        if targets.is_empty() {
            unproven = self.prove().err();
        }
        for volume in targets {
            let presence = match self.0.find(&volume.target_path) {
                Ok(place) => {
                    if proven.insert(place.pods_dir().to_owned()) {
                        unproven = unproven.or_else(|| place.prove().err());
                    }
                    place.look()
                }
                Err(reason) => Presence::Blind(reason),
            };
            match presence {
                Presence::Present => sightings.push((volume, Sighting::Present)),
                Presence::Absent => sightings.push((volume, Sighting::Absent)),
                Presence::PodAbsent => sightings.push((volume, Sighting::PodAbsent)),
                Presence::Blind(reason) => blind = blind.or(Some(reason)),
            }
        }
        // Lost sight is the better reason.
        (sightings, unproven.or(blind))
    }
}

/// Looks at the registry's paths until it is dropped: at all of them periodically, at those that come
/// through `asked` or whose directory changes at once.
pub async fn watch(
    settings: Settings,
    sight: Sight,
    registry: Registry,
    asked: &mut mpsc::UnboundedReceiver<VolumeId>,
    heartbeat: &Heartbeat,
    metrics: Metrics,
) {
    let mut hints = Hints::new();
    // Started anew, it does not hear of the known ones again.
    hints.add(registry.paths().await, &sight).await;
    // What was missing at the start was told then, and may have come, or be of no use on this node.
    let mut seeing = None;
    let mut sweep = Instant::now() + settings.interval;
    loop {
        heartbeat.rest();
        let (targets, all) = tokio::select! {
            () = tokio::time::sleep_until(sweep) => {
                heartbeat.beat();
                sweep = Instant::now() + settings.interval;
                (registry.paths().await, true)
            }
            Some(volume) = asked.recv() => {
                heartbeat.beat();
                let mut targets = vec![volume];
                while let Ok(volume) = asked.try_recv() {
                    targets.push(volume);
                }
                hints.add(targets.clone(), &sight).await;
                (targets, false)
            }
            volumes = hints.next() => {
                heartbeat.beat();
                (volumes, false)
            }
        };
        let (sightings, blind) = look_at(&sight, targets).await;
        // That nothing is hidden is shown only by a look at everything.
        if all || blind.is_some() {
            tell_sight(&mut seeing, blind, &metrics);
        }
        for (volume, sighting) in &sightings {
            if *sighting != Sighting::Present {
                hints.forget(volume);
            }
        }
        if !sightings.is_empty() && registry.observed(sightings).await {
            // The second look decides; a hint that shows nothing meanwhile must not put it off.
            sweep = sweep.min(Instant::now() + settings.confirm);
        }
    }
}

/// What was seen of many paths, and why not all of it.
async fn look_at(
    sight: &Sight,
    targets: Vec<VolumeId>,
) -> (Vec<(VolumeId, Sighting)>, Option<String>) {
    let sight = sight.clone();
    let looks = tokio::task::spawn_blocking(move || sight.look_at(targets));
    looks
        .await
        .unwrap_or_else(|_| (Vec::new(), Some("the look itself broke down".to_owned())))
}

/// Says once that sight was lost, and once that it is back.
fn tell_sight(seeing: &mut Option<bool>, blind: Option<String>, metrics: &Metrics) {
    match (*seeing, blind) {
        (None | Some(true), Some(reason)) => {
            error!(
                reason,
                "the ends of volumes cannot be seen: what is out of sight is not released until it can be seen again; mount kubelet's pods directory as a read-only hostPath, under its own path"
            );
            metrics.degraded("no_path_view", true);
            *seeing = Some(false);
        }
        (None, None) => {
            metrics.degraded("no_path_view", false);
            *seeing = Some(true);
        }
        (Some(false), None) => {
            info!("the ends of volumes can be seen again");
            metrics.degraded("no_path_view", false);
            *seeing = Some(true);
        }
        (Some(true), None) | (Some(false), Some(_)) => {}
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
        let mut hints = Self {
            events: None,
            by_watch: HashMap::new(),
            by_volume: HashMap::new(),
            told: false,
        };
        match Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096])) {
            Ok(events) => hints.events = Some(events),
            Err(error) => hints.tell(&error),
        }
        hints
    }

    /// Watches beside these volumes. Off the runtime's threads: a path is looked up, in a file system that may hang.
    async fn add(&mut self, volumes: Vec<VolumeId>, sight: &Sight) {
        let Some(events) = &self.events else {
            return;
        };
        let (mut watches, sight) = (events.watches(), sight.clone());
        let add = move || {
            let mask = WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::DELETE_SELF;
            let mut added = Vec::with_capacity(volumes.len());
            for volume in volumes {
                let path = sight.seen_at(&volume.target_path);
                if let Some(parent) = path.as_deref().and_then(Path::parent) {
                    added.push((volume, watches.add(parent, mask)));
                }
            }
            added
        };
        // The periodic look does the work where this breaks down.
        let added = tokio::task::spawn_blocking(add).await.unwrap_or_default();
        for (volume, result) in added {
            match result {
                Ok(watch) => {
                    self.by_volume.insert(volume.clone(), watch.clone());
                    self.by_watch.insert(watch, volume);
                }
                // Gone already: the look that follows sees that.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.tell(&error),
            }
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
        let chunk = events.ready_chunks(256).next().await.unwrap_or_default();
        let mut volumes = Vec::new();
        let mut broken = chunk.is_empty();
        for event in chunk {
            match event {
                // An overflown queue names no watch; the periodic look makes up for it.
                Ok(event) => volumes.extend(self.by_watch.get(&event.wd).cloned()),
                Err(error) => {
                    self.tell(&error);
                    broken = true;
                }
            }
        }
        if broken {
            // A stream that goes on failing would be read again and again without a pause.
            self.events = None;
        }
        volumes.dedup();
        volumes
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            warn!(%error, "inotify is not available: the ends of volumes are found by the periodic look alone; raise fs.inotify.max_user_watches");
        }
    }
}
