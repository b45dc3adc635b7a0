//! One address: which renewal or revocation may go next, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use super::task::Task;
use crate::clock::Moment;

/// As many calls may start at one moment before the rate holds the next ones back.
const BURST: f64 = 10.0;
/// What ends within this time may use the last places too.
const URGENT: Duration = Duration::from_secs(60);

/// What is under way, and what waits, the earliest end first.
#[derive(Default)]
pub struct Queue {
    pub busy: usize,
    pub waiting: BTreeSet<(Moment, Task)>,
}

/// One address.
///
/// Calls that hang must not stop those that would not: revocations take half of the places at most, and
/// both they and renewals that have time leave a quarter to those that have not.
pub struct Lane {
    renewals: Queue,
    revocations: Queue,
    /// They wait for all others, and take a quarter of the places at most.
    look_ups: Queue,
    pub rate: Rate,
    /// When those that wait may go on, where it is not an attempt's end that they wait for.
    pub resume_at: Option<Moment>,
}

/// A token bucket: the server throttles our node as one client (rate limit quotas are
/// keyed by the client's address).
pub struct Rate {
    per_second: f64,
    left: f64,
    counted_at: Moment,
}

impl Rate {
    pub fn new(per_second: u32, now: Moment) -> Self {
        Self {
            per_second: f64::from(per_second.max(1)),
            left: BURST,
            counted_at: now,
        }
    }

    /// When the next call may start: now, or later.
    pub fn next(&mut self, now: Moment) -> Moment {
        let earned = now.since(self.counted_at).as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(BURST);
        self.counted_at = now;
        if self.left >= 1.0 {
            return now;
        }
        // Up to the next nanosecond: one that is a hair too early would turn in a circle.
        let missing = Duration::from_secs_f64((1.0 - self.left) / self.per_second);
        now.plus(missing + Duration::from_nanos(1))
    }

    /// Whether it would forgive nothing to forget it.
    pub fn full(&mut self, now: Moment) -> bool {
        self.next(now) <= now && self.left >= BURST
    }

    /// A call starts.
    pub const fn take(&mut self) {
        self.left -= 1.0;
    }
}

impl Lane {
    pub fn new(per_second: u32, now: Moment) -> Self {
        Self {
            renewals: Queue::default(),
            revocations: Queue::default(),
            look_ups: Queue::default(),
            rate: Rate::new(per_second, now),
            resume_at: None,
        }
    }

    const fn busy(&self) -> usize {
        self.renewals.busy + self.revocations.busy + self.look_ups.busy
    }

    /// The one that a task stands in.
    pub const fn queue(&mut self, task: Task) -> &mut Queue {
        match task {
            Task::RevokeSession(..) | Task::RevokeLease(..) => &mut self.revocations,
            Task::LookUpSession(..) | Task::LookUpLease(..) => &mut self.look_ups,
            _ => &mut self.renewals,
        }
    }

    /// How many renewals and revocations are due and wait.
    pub fn waiting(&self) -> usize {
        self.renewals.waiting.len() + self.revocations.waiting.len()
    }

    /// What may go next, of `places` in all.
    pub fn next(&self, places: usize, now: Moment) -> Option<(Moment, Task)> {
        let most = (places - places / 4).max(1);
        let renewal = self.renewals.waiting.first().filter(|(end, _)| {
            let limit = if end.since(now) < URGENT {
                places
            } else {
                most
            };
            self.busy() < limit
        });
        let revocation = self
            .revocations
            .waiting
            .first()
            .filter(|_| self.busy() < most && self.revocations.busy < (places / 2).max(1));
        let first = renewal.into_iter().chain(revocation).min().copied();
        let look_up = || {
            let first = self.look_ups.waiting.first().copied();
            let room = self.busy() < most && self.look_ups.busy < (places / 4).max(1);
            first.filter(|_| room && self.waiting() == 0)
        };
        first.or_else(look_up)
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy() == 0 && self.waiting() == 0 && self.look_ups.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(seconds))
    }

    /// What is started, with nothing coming to an end.
    fn start_all(lane: &mut Lane, places: usize) -> Vec<Task> {
        let mut started = Vec::new();
        while let Some(first) = lane.next(places, at(0)) {
            let queue = lane.queue(first.1);
            queue.waiting.remove(&first);
            queue.busy += 1;
            started.push(first.1);
        }
        started
    }

    #[test]
    fn what_hangs_leaves_places_to_what_is_urgent() {
        let mut lane = Lane::new(50, at(0));
        for volume in 0..40 {
            let revocation = Task::RevokeSession(volume, 0);
            lane.queue(revocation)
                .waiting
                .insert((at(1000), revocation));
            let calm = Task::RenewSession(volume, 1);
            lane.queue(calm).waiting.insert((at(3000), calm));
        }
        let started = start_all(&mut lane, 16);
        let revocations = |task: &&Task| matches!(task, Task::RevokeSession(..));
        assert_eq!(started.iter().filter(revocations).count(), 8);
        assert_eq!(started.len(), 12);
        let urgent = Task::RenewLease(99, 2);
        lane.queue(urgent).waiting.insert((at(6), urgent));
        assert_eq!(start_all(&mut lane, 16), [urgent]);
    }

    #[test]
    fn look_ups_wait_for_all_others() {
        let mut lane = Lane::new(50, at(0));
        for volume in 0..10 {
            let look_up = Task::LookUpLease(volume, 0);
            lane.queue(look_up).waiting.insert((at(0), look_up));
        }
        let renewal = Task::RenewLease(99, 0);
        lane.queue(renewal).waiting.insert((at(3000), renewal));
        let started = start_all(&mut lane, 16);
        assert_eq!(started.first(), Some(&renewal));
        assert_eq!(started.len(), 5, "a quarter of the places");
        assert_eq!(
            lane.waiting(),
            0,
            "what waits is neither renewal nor revocation"
        );
        assert!(!lane.is_idle());
    }

    #[test]
    fn one_place_serves_everybody_in_turn() {
        let mut lane = Lane::new(50, at(0));
        let (revocation, renewal) = (Task::RevokeSession(1, 0), Task::RenewSession(2, 0));
        lane.queue(revocation).waiting.insert((at(100), revocation));
        lane.queue(renewal).waiting.insert((at(200), renewal));
        assert_eq!(start_all(&mut lane, 1), [revocation]);
        lane.revocations.busy = 0;
        assert_eq!(start_all(&mut lane, 1), [renewal]);
    }

    #[test]
    fn the_rate_lets_a_burst_through_and_then_an_even_stream() {
        let start = Moment::from_boot(Duration::from_secs(100));
        let mut rate = Rate::new(50, start);
        let mut now = start;
        for started in 0..510_u32 {
            let at = rate.next(now);
            if started < 10 {
                assert_eq!(at, start);
            }
            now = at;
            assert!(rate.next(now) <= now, "the time it named was enough");
            rate.take();
        }
        let took = now.since(start).as_secs_f64();
        assert!((9.9..=10.1).contains(&took), "{took}");
    }
}
