//! One Mount per volume at a time: an equal one that comes meanwhile shares its outcome, a different
//! one waits for its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::progress::Progress;
use crate::spec::{MountSpec, VolumeId};

/// The Mounts under way.
pub struct Flights<T> {
    underway: Mutex<HashMap<VolumeId, Underway<T>>>,
}

struct Underway<T> {
    spec: Arc<MountSpec>,
    outcome: watch::Receiver<Option<T>>,
    progress: Arc<Progress>,
}

/// What a Mount has to do.
pub enum Entry<T> {
    /// Do the work, and tell the outcome through the lead.
    Lead(Lead<T>, watch::Receiver<Option<T>>),
    /// Take the outcome of the equal Mount that is under way.
    Follow(watch::Receiver<Option<T>>),
    /// Await the end of a different one, then enter again.
    Wait(watch::Receiver<Option<T>>),
}

impl<T> Flights<T> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            underway: Mutex::new(HashMap::new()),
        })
    }

    pub fn enter(self: &Arc<Self>, spec: &Arc<MountSpec>) -> Entry<T> {
        let mut underway = self.lock();
        if let Some(other) = underway.get(&spec.volume) {
            let outcome = other.outcome.clone();
            return if other.spec == *spec {
                Entry::Follow(outcome)
            } else {
                Entry::Wait(outcome)
            };
        }
        let (sender, outcome) = watch::channel(None);
        let progress = Arc::new(Progress::default());
        underway.insert(
            spec.volume.clone(),
            Underway {
                spec: Arc::clone(spec),
                outcome: outcome.clone(),
                progress: Arc::clone(&progress),
            },
        );
        let lead = Lead {
            flights: Arc::clone(self),
            volume: spec.volume.clone(),
            outcome: sender,
            progress,
        };
        Entry::Lead(lead, outcome)
    }

    /// What the Mount of a volume that is under way waits for.
    pub fn pending(&self, volume: &VolumeId) -> String {
        let progress = self
            .lock()
            .get(volume)
            .map(|other| Arc::clone(&other.progress));
        progress.unwrap_or_default().describe()
    }

    /// A panic while the lock is held cannot leave the map half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Underway<T>>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Mount that does the work. Dropped without an outcome (a panic), its followers learn that.
pub struct Lead<T> {
    flights: Arc<Flights<T>>,
    volume: VolumeId,
    outcome: watch::Sender<Option<T>>,
    progress: Arc<Progress>,
}

impl<T> Lead<T> {
    /// Where the Mount tells what it waits for.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Tells the outcome. Whoever enters from now on starts anew.
    pub fn finish(self, outcome: T) {
        self.flights.lock().remove(&self.volume);
        self.outcome.send_replace(Some(outcome));
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        // After `finish` the place may belong to the next Mount already.
        let mut underway = self.flights.lock();
        if underway
            .get(&self.volume)
            .is_some_and(|other| other.outcome.same_channel(&self.outcome.subscribe()))
        {
            underway.remove(&self.volume);
        }
    }
}
