//! What is due for a volume. [`Volume::settle`] carries out all that has come due, and says what is to be called,
//! what is to be told, and when it is to be asked again: later than now, always.

use std::time::Duration;

use super::Settings;
use super::care::{AT_ONCE, Care, LookUps};
use super::task::{CallKind, ItemKey, Task, VolumeKey};
use super::volume::{Duty, Stage, Volume};
use crate::clock::Moment;
use crate::grant::timing::Nature;

/// How long after its time a volume is given up.
const OVERDUE: Duration = Duration::from_secs(1);
/// How soon the evidence is looked at again that keeps a volume from being renewed.
const RECONSIDER: Duration = Duration::from_secs(60);

/// A class of this name breaks the worker: no state is known that does.
#[cfg(test)]
pub const BREAKS: &str = "breaks the worker";

/// What follows from a volume's state at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The calls that are due, each marked as handed over: none comes twice before it has ended.
    pub calls: Vec<Task>,
    /// What the pod's files show and has reached its end.
    pub missed: Vec<Nature>,
    /// What is replaced by no poll though it should be: each with the time it has left. Told once.
    pub unattended: Vec<(Nature, Duration)>,
    /// The volume was given up; `Some(true)`: its credentials are left to expire, as its class says.
    pub gave_up: Option<bool>,
    /// Something has changed that a restart must know.
    pub changed: bool,
    /// When to settle again if nothing happens before. Later than now.
    pub wake: Option<Moment>,
}

/// Collects the earliest moment after `now`.
struct Wake {
    now: Moment,
    first: Option<Moment>,
}

impl Wake {
    /// Whether this moment has come. Where it has not, it is one to wake at: every moment goes one of the two
    /// ways, so that what has been done at its moment cannot be planned for it again.
    fn is_due(&mut self, at: Moment) -> bool {
        if at <= self.now {
            return true;
        }
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        false
    }
}

impl Volume {
    /// Carries out every transition whose time has come, and marks every call that is due as handed over.
    ///
    /// The order matters: each step may bring about what a later one does, and none what an earlier one has done.
    /// Settled again at the same moment, nothing is left to do.
    pub fn settle(&mut self, key: VolumeKey, now: Moment, settings: &Settings) -> Settled {
        #[cfg(test)]
        assert!(self.class != BREAKS, "as the test wants");
        let mut settled = Settled::default();
        if self.is_overdue(now) {
            settled.gave_up = Some(self.lets_expire());
            settled.changed = true;
            self.release(now);
        }
        let (missed, changed) = self.expire(now);
        // Of one in doubt, nobody is missing anything.
        settled.missed = if self.doubted { Vec::new() } else { missed };
        settled.changed |= changed;
        settled.changed |= self.retire(settings.drain, now);
        settled.unattended = self.unattended(settings.poll, now);

        if self.doubted && self.stage == Stage::Mounted && self.has_run_out(now) {
            settled.changed = true;
            self.release(now);
        }
        let mut wake = Wake { now, first: None };
        for at in self.transitions(settings) {
            wake.is_due(at);
        }
        for (task, at) in self.calls(key, settings, now) {
            if at <= now && self.holds_back(task) {
                wake.is_due(now.plus(RECONSIDER));
                continue;
            }
            if wake.is_due(at) {
                let care = self.care_mut(task);
                if care.is_some_and(|care| care.calls.begin(task.kind())) {
                    settled.calls.push(task);
                }
            }
        }
        settled.wake = wake.first;
        settled
    }

    /// Whether a call that was handed over is still due.
    pub fn wants(&self, task: Task, settings: &Settings, now: Moment) -> bool {
        let calls = self.calls(task.volume(), settings, now);
        !self.holds_back(task) && calls.iter().any(|(due, at)| *due == task && *at <= now)
    }

    /// Whether a call is not made although its time has come: what is in doubt is not renewed.
    fn holds_back(&self, task: Task) -> bool {
        self.doubted && task.kind() == CallKind::Renew
    }

    /// A call has ended, or was found pointless.
    pub fn call_ended(&mut self, task: Task) {
        if let Some(care) = self.care_mut(task) {
            care.calls.end(task.kind());
        }
    }

    fn care_mut(&mut self, task: Task) -> Option<&mut Care> {
        let item = task.item();
        if task.is_of_session() {
            return self.sessions.get_mut(&item).map(|held| &mut held.care);
        }
        self.grants.get_mut(&item).map(|held| &mut held.care)
    }

    /// Whether no token of it lives any more.
    fn has_run_out(&self, now: Moment) -> bool {
        self.sessions
            .values()
            .all(|held| held.dead || held.care.ended(now))
    }

    /// Whether a volume is given up now. Not at once when its time has come: a node that has slept, or a process that was
    /// stopped, past that time may have the message at hand that makes an end of the waiting.
    fn is_overdue(&mut self, now: Moment) -> bool {
        if self.waits_until().is_none_or(|at| at > now) {
            self.overdue_since = None;
            return false;
        }
        if self.overdue_since.is_none() {
            self.overdue_since = Some(now);
        }
        self.give_up_at().is_some_and(|at| at <= now)
    }

    fn give_up_at(&self) -> Option<Moment> {
        let until = self.waits_until()?;
        let confirmed = self.overdue_since.map(|since| since.plus(OVERDUE));
        Some(confirmed.map_or(until, |at| at.max(until)))
    }

    /// How long a volume waits for the driver's retry, or whose pod is gone and path unseen.
    fn waits_until(&self) -> Option<Moment> {
        if self.mounting {
            return None;
        }
        let parked = match self.stage {
            Stage::Parked { until } => Some(until),
            Stage::Opening | Stage::Mounted | Stage::Leaving => None,
        };
        parked.into_iter().chain(self.forsaken_at).min()
    }

    /// Takes note of what has reached its end, and names what the pod's files still show of it; and whether that
    /// has changed anything.
    fn expire(&mut self, now: Moment) -> (Vec<Nature>, bool) {
        let mut missed = Vec::new();
        let mut changed = false;
        let ended: Vec<(ItemKey, Duty)> = self
            .sessions
            .iter()
            .filter(|(_, held)| !held.dead && held.care.ended(now))
            .map(|(key, held)| (*key, held.duty))
            .collect();
        for (key, duty) in ended {
            changed = true;
            match duty {
                // The server ends what was waiting for its revocation; `settle_releases` drops it.
                Duty::Releasing => {}
                Duty::Draining { .. } => self.token_dead(key, now),
                Duty::Open => {
                    missed.push(Nature::Token);
                    self.token_dead(key, now);
                }
            }
        }
        for held in self.grants.values_mut() {
            if held.lost || !held.care.ends() || !held.care.ended(now) {
                continue;
            }
            held.lost = true;
            changed = true;
            if held.duty == Duty::Open {
                missed.push(held.care.life.nature);
            }
        }
        if changed {
            self.grants
                .retain(|_, held| !held.lost || held.duty == Duty::Open);
            self.settle_releases(now);
        }
        (missed, changed)
    }

    /// What is replaced by no poll though it should be: each with the time it has left. Told once.
    fn unattended(&mut self, assumed: Duration, now: Moment) -> Vec<(Nature, Duration)> {
        let mut found = Vec::new();
        if self.stage != Stage::Mounted {
            return found;
        }
        let polls = self.polls.clone();
        for care in self.open_cares_mut() {
            if care.warn_at(&polls, assumed).is_none_or(|at| at > now) {
                continue;
            }
            care.warned = true;
            // What has ended was told as such.
            let left = care.life.term.left(now).unwrap_or(Duration::MAX);
            if !left.is_zero() {
                found.push((care.life.nature, left));
            }
        }
        found
    }

    /// The moments at which something changes by itself.
    fn transitions(&self, settings: &Settings) -> Vec<Moment> {
        let mut moments: Vec<Moment> = self.give_up_at().into_iter().collect();
        let sessions = self.sessions.values().filter(|held| !held.dead);
        let grants = self.grants.values().filter(|held| !held.lost);
        let cares = sessions
            .map(|held| &held.care)
            .chain(grants.map(|held| &held.care));
        let ends = cares.filter(|care| care.ends());
        moments.extend(ends.filter_map(|care| care.life.term.end()));
        let duties = self.sessions.values().map(|held| held.duty);
        let duties = duties.chain(self.grants.values().map(|held| held.duty));
        moments.extend(duties.filter_map(|duty| duty.drained_at(settings.drain)));
        if self.stage == Stage::Mounted {
            let open = self.open_cares();
            moments.extend(open.filter_map(|care| {
                let at = care.warn_at(&self.polls, settings.poll)?;
                // At its end, that is told.
                care.life.term.end().filter(|end| at < *end).map(|_| at)
            }));
        }
        moments
    }

    /// The calls to be made, and when. Calls that were handed over already are among them.
    fn calls(&self, volume: VolumeKey, settings: &Settings, now: Moment) -> Vec<(Task, Moment)> {
        let poll = self.polls.interval(settings.poll);
        let mut calls = Vec::new();
        let with_token = self.revoke_their_tokens();
        for (key, held) in &self.sessions {
            if held.dead {
                continue;
            }
            match held.duty {
                Duty::Open | Duty::Draining { .. } => {
                    let at = self.renew_at(&held.care, held.duty, settings, now);
                    calls.extend(at.map(|at| (Task::RenewSession(volume, *key), at)));
                }
                Duty::Releasing if with_token.contains(key) => {
                    let at = held.care.attempt_at.unwrap_or(AT_ONCE);
                    calls.push((Task::RevokeSession(volume, *key), at));
                }
                Duty::Releasing => {}
            }
        }
        for (key, held) in &self.grants {
            // What cannot be called for must not be due: it would be handed over and given back for ever.
            let callable =
                held.grant.lease_id().is_some() && self.sessions.contains_key(&held.session);
            if held.lost || !callable {
                continue;
            }
            match held.duty {
                Duty::Open | Duty::Draining { .. } => {
                    let at = self.renew_at(&held.care, held.duty, settings, now);
                    calls.extend(at.map(|at| (Task::RenewLease(volume, *key), at)));
                }
                Duty::Releasing => {
                    let at = held.care.attempt_at.unwrap_or(AT_ONCE);
                    calls.push((Task::RevokeLease(volume, *key), at));
                }
            }
        }
        self.look_ups(volume, poll, settings.look_up, &mut calls);
        calls
    }

    /// When an item is renewed. What was replaced is not, once polls have plainly stopped: the answer that replaced
    /// it was given, no second one comes to confirm that, and renewed it would live as long as its pod.
    fn renew_at(
        &self,
        care: &Care,
        duty: Duty,
        settings: &Settings,
        now: Moment,
    ) -> Option<Moment> {
        let at = care.renew_at(self.polls.interval(settings.poll))?;
        let given_up_from = match duty {
            Duty::Draining {
                answered: true,
                confirmed: false,
                ..
            } => self.polls.stopped_at(settings.poll),
            _ => None,
        };
        given_up_from
            .is_none_or(|from| at.max(now) < from)
            .then_some(at)
    }

    /// What is looked up, and when: leases that the files show, and tokens that no lease' look-up covers. A use of
    /// a token whose uses are limited is none of them.
    fn look_ups(
        &self,
        volume: VolumeKey,
        poll: Duration,
        every: Duration,
        calls: &mut Vec<(Task, Moment)>,
    ) {
        if self.stage != Stage::Mounted {
            return;
        }
        for (key, owner) in &self.sessions {
            if owner.duty != Duty::Open || owner.dead || owner.session.counted {
                continue;
            }
            let leases = self.grants.iter().filter(|(_, held)| {
                held.session == *key
                    && held.duty == Duty::Open
                    && !held.lost
                    && held.grant.lease_id().is_some()
            });
            let mut covered = false;
            for (lease, held) in leases {
                covered |= held.care.look_ups != LookUps::Refused;
                let at = held.care.look_up_at(poll, every);
                calls.extend(at.map(|at| (Task::LookUpLease(volume, *lease), at)));
            }
            let suspected = matches!(owner.care.look_ups, LookUps::Suspected(_));
            if !covered || suspected {
                let at = owner.care.look_up_at(poll, every);
                calls.extend(at.map(|at| (Task::LookUpSession(volume, *key), at)));
            }
        }
    }
}
