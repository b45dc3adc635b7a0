//! The metrics that look at every volume, made at most once a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Settings;
use super::task::VolumeKey;
use super::volume::{Stage, Volume};
use super::worker::Worker;
use crate::clock::Moment;
use crate::grant::timing::Nature;

const EVERY: Duration = Duration::from_secs(1);

/// One volume's part in the metrics.
#[derive(Default)]
pub struct Figures {
    /// When the first of what it holds ends.
    nearest: Option<Moment>,
    /// How many calls a second its renewals take on the long run.
    demand: f64,
    alive: [usize; NATURES.len()],
}

impl Volume {
    /// What a mounted volume holds; nothing for others.
    pub fn figures(&self, settings: &Settings) -> Figures {
        let mut figures = Figures::default();
        if self.stage != Stage::Mounted {
            return figures;
        }
        let poll = self.polls.interval(settings.poll);
        for care in self.open_cares() {
            if let Some(count) = figures.alive.get_mut(place(care.life.nature)) {
                *count += 1;
            }
            let end = care.life.term.end().filter(|_| care.ends());
            figures.nearest = figures.nearest.into_iter().chain(end).min();
            if let Some(at) = care.life.renew_at(poll, care.jitter) {
                let span = at.since(care.life.term.sent());
                figures.demand += 1.0 / span.as_secs_f64().max(0.5);
            }
        }
        figures
    }
}

impl Worker {
    /// Nearest deadline, things alive by their kind, and the calls a second that keeping them takes.
    pub fn survey(&mut self) {
        let now = self.clock.now();
        if self.surveyed_at.is_some_and(|at| now.since(at) < EVERY) {
            return;
        }
        self.surveyed_at = Some(now);
        let doubted = self.volumes.values().filter(|volume| volume.doubted);
        self.metrics.doubtful(doubted.count());
        let (mut nearest, mut demand) = (None, 0.0);
        let mut alive = [0_usize; NATURES.len()];
        let keys: Vec<VolumeKey> = self.volumes.keys().copied().collect();
        for key in keys {
            let figures = self.guarded(key, |worker| {
                let volume = worker.volumes.get(&key)?;
                Some(volume.figures(&worker.settings))
            });
            let Some(figures) = figures.flatten() else {
                continue;
            };
            nearest = nearest.into_iter().chain(figures.nearest).min();
            demand += figures.demand;
            for (count, more) in alive.iter_mut().zip(figures.alive) {
                *count += more;
            }
        }
        for (kind, count) in NATURES.iter().zip(alive) {
            self.metrics.alive(kind, count);
        }
        // As a time of day, which a scraper can subtract from: what is left would be old when it is read.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let nearest = nearest.zip(unix.ok());
        let nearest = nearest.map(|(end, unix)| unix.saturating_add(end.since(now)).as_secs_f64());
        self.metrics.nearest_end(nearest);
        let capacity = f64::from(self.settings.rate);
        self.metrics.keeping(self.waiting_calls, demand, capacity);
    }
}

const NATURES: [&str; 6] = [
    "token",
    "lease",
    "certificate",
    "expiring",
    "written",
    "static",
];

const fn place(nature: Nature) -> usize {
    match nature {
        Nature::Token => 0,
        Nature::Lease => 1,
        Nature::Certificate => 2,
        Nature::Expiring => 3,
        Nature::Written => 4,
        Nature::Static => 5,
    }
}
