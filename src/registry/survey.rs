//! The metrics that look at every volume, made at most once a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::volume::Stage;
use super::worker::Worker;
use crate::grant::timing::Nature;

const EVERY: Duration = Duration::from_secs(1);

impl Worker {
    /// Nearest deadline, things alive by their kind, and the calls a second that keeping them takes.
    pub fn survey(&mut self) {
        let now = self.clock.now();
        if self.surveyed_at.is_some_and(|at| now.since(at) < EVERY) {
            return;
        }
        self.surveyed_at = Some(now);
        let mounted = self.volumes.values();
        let mounted = mounted.filter(|volume| volume.stage == Stage::Mounted);
        let (mut nearest, mut demand) = (None, 0.0);
        let mut alive = [0_usize; NATURES.len()];
        for volume in mounted {
            let poll = volume.polls.interval(self.settings.poll);
            for care in volume.open_cares() {
                if let Some(count) = alive.get_mut(place(care.life.nature)) {
                    *count += 1;
                }
                let end = care.life.term.end().filter(|_| care.ends());
                nearest = nearest.into_iter().chain(end).min();
                if let Some(at) = care.life.renew_at(poll, care.jitter) {
                    demand += 1.0 / at.since(care.life.term.sent()).as_secs_f64().max(0.5);
                }
            }
        }
        for (kind, count) in NATURES.iter().zip(alive) {
            self.metrics.alive(kind, count);
        }
        // As a time of day, which a scraper can subtract from: what is left would be old when it is read.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let nearest = nearest.zip(unix.ok());
        let nearest = nearest.map(|(end, unix)| (unix + end.since(now)).as_secs_f64());
        self.metrics.nearest_end(nearest);
        let capacity = f64::from(self.settings.rate);
        self.metrics.keeping(self.waiting(), demand, capacity);
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
