//! What is due for a volume, derived from its state alone: what has reached its end, what no poll replaces,
//! what is to be done, and when.

use std::time::Duration;

use super::agenda::{ItemKey, Task, VolumeKey};
use super::care::{AT_ONCE, LookUps};
use super::volume::{Duty, Stage, Volume};
use crate::clock::Moment;
use crate::grant::timing::Nature;

impl Volume {
    /// Takes note of what has reached its end, and names what the pod's files still show of it.
    pub fn expire(&mut self, now: Moment) -> Vec<Nature> {
        let mut missed = Vec::new();
        let dead: Vec<ItemKey> = self
            .sessions
            .iter()
            .filter(|(_, held)| !held.dead && held.care.ended(now) && held.duty != Duty::Releasing)
            .map(|(key, _)| *key)
            .collect();
        for key in dead {
            if let Some(held) = self.sessions.get(&key)
                && held.duty == Duty::Open
            {
                missed.push(Nature::Token);
            }
            self.token_dead(key, now);
        }
        for held in self.grants.values_mut() {
            if held.lost || !held.care.ends() || !held.care.ended(now) {
                continue;
            }
            held.lost = true;
            if held.duty == Duty::Open {
                missed.push(held.care.life.nature);
            }
        }
        self.grants
            .retain(|_, held| !held.lost || held.duty == Duty::Open);
        self.settle_releases(now);
        missed
    }

    /// What is replaced by no poll though it should be: each with the time it has left. Told once.
    pub fn unattended(&mut self, assumed: Duration, now: Moment) -> Vec<(Nature, Duration)> {
        let polls = self.polls.clone();
        let mut found = Vec::new();
        for (duty, care) in self.duties() {
            let due = care.warn_at(&polls, assumed).is_some_and(|at| at <= now);
            if !due {
                continue;
            }
            // Also where its end has passed meanwhile: it would be due again at once, for ever.
            care.warned = true;
            if *duty == Duty::Open && !care.ended(now) {
                let left = care
                    .life
                    .term
                    .end()
                    .map_or(Duration::MAX, |end| end.since(now));
                found.push((care.life.nature, left));
            }
        }
        found
    }

    /// What is to be done for this volume, and when. `assumed` is the poll interval until two were seen,
    /// `look_up` the time within which somebody else's revocation is noticed.
    pub fn agenda(
        &self,
        volume: VolumeKey,
        assumed: Duration,
        drain: Duration,
        look_up: Duration,
    ) -> Vec<(Task, Moment)> {
        let poll = self.polls.interval(assumed);
        let mut tasks = Vec::new();
        let with_token = self.revoke_their_tokens();
        for (key, held) in &self.sessions {
            if held.care.busy || held.dead {
                continue;
            }
            match held.duty {
                Duty::Open | Duty::Draining { .. } => tasks.extend(
                    held.care
                        .renew_at(poll)
                        .map(|at| (Task::RenewSession(volume, *key), at)),
                ),
                Duty::Releasing if with_token.contains(key) => tasks.push((
                    Task::RevokeSession(volume, *key),
                    held.care.attempt_at.unwrap_or(AT_ONCE),
                )),
                Duty::Releasing => {}
            }
        }
        for (key, held) in &self.grants {
            if held.care.busy || held.lost {
                continue;
            }
            match held.duty {
                Duty::Open | Duty::Draining { .. } => tasks.extend(
                    held.care
                        .renew_at(poll)
                        .map(|at| (Task::RenewLease(volume, *key), at)),
                ),
                Duty::Releasing => tasks.push((
                    Task::RevokeLease(volume, *key),
                    held.care.attempt_at.unwrap_or(AT_ONCE),
                )),
            }
        }
        tasks.extend(self.look_ups(volume, poll, look_up));
        let retired = self.sessions.values().map(|held| held.duty);
        let retired = retired.chain(self.grants.values().map(|held| held.duty));
        let retire = retired.filter_map(|duty| match duty {
            Duty::Draining {
                since,
                confirmed: true,
                ..
            } => Some(since.plus(drain)),
            _ => None,
        });
        tasks.extend(retire.min().map(|at| (Task::Retire(volume), at)));
        let sessions = self.sessions.values().filter(|held| !held.dead);
        let grants = self.grants.values().filter(|held| !held.lost);
        let cares = sessions
            .map(|held| &held.care)
            .chain(grants.map(|held| &held.care));
        let ends = cares.filter(|care| care.ends());
        let first_end = ends.filter_map(|care| care.life.term.end()).min();
        tasks.extend(first_end.map(|at| (Task::Expire(volume), at)));
        let open = self.open_cares().filter(|_| self.stage == Stage::Mounted);
        let warn = open.filter_map(|care| {
            let at = care.warn_at(&self.polls, assumed)?;
            care.life
                .term
                .end()
                .is_some_and(|end| at < end)
                .then_some(at)
        });
        tasks.extend(warn.min().map(|at| (Task::Warn(volume), at)));
        let give_up = match self.stage {
            Stage::Parked { until } if !self.mounting => {
                Some(self.forsaken_at.map_or(until, |at| at.min(until)))
            }
            _ => self.forsaken_at.filter(|_| !self.mounting),
        };
        tasks.extend(give_up.map(|at| (Task::GiveUp(volume), at)));
        tasks
    }

    /// What is looked up, and when: leases that the files show, and tokens that no lease' look-up covers. A use of
    /// a token whose uses are limited is none of them.
    fn look_ups(&self, volume: VolumeKey, poll: Duration, every: Duration) -> Vec<(Task, Moment)> {
        let mut tasks = Vec::new();
        if self.stage != Stage::Mounted {
            return tasks;
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
                let at = at.filter(|_| !held.care.busy);
                tasks.extend(at.map(|at| (Task::LookUpLease(volume, *lease), at)));
            }
            let suspected = matches!(owner.care.look_ups, LookUps::Suspected(_));
            if (!covered || suspected) && !owner.care.busy {
                let at = owner.care.look_up_at(poll, every);
                tasks.extend(at.map(|at| (Task::LookUpSession(volume, *key), at)));
            }
        }
        tasks
    }
}
