//! Renewals and revocations under way: what is due waits for its turn at its address, is tried, and its
//! outcome is taken in.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::lane::Lane;
use super::task::{ItemKey, Task};
use super::upkeep::{self, Outcome};
use super::worker::Worker;
use crate::clock::Moment;
use crate::grant::Term;

/// How long at most nobody asks whether a server that was away is back.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// The longest that any answer is waited for: one that hangs takes a place from the others.
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);
/// The least that any answer is waited for.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);

/// An attempt under way: for which task, at which address, and how it ended.
pub type Finished = (Task, String, Outcome);

impl Worker {
    /// Lets a task wait for its turn at its address.
    pub fn queue(&mut self, task: Task, item: ItemKey) {
        let Some((address, end)) = self.where_and_until(task, item) else {
            self.forgo(task);
            return;
        };
        let (rate, now) = (self.settings.rate, self.clock.now());
        let lane = self.lanes.entry(address.clone());
        let lane = lane.or_insert_with(|| Lane::new(rate, now));
        lane.queue(task).waiting.insert((end, task));
        // Thousands may come due while the server is away. One look is enough for all but the most urgent.
        let first = lane.next(self.settings.in_flight, now);
        if lane.resume_at.is_none_or(|at| at <= now) || first == Some((end, task)) {
            self.pump(&address);
        }
    }

    fn where_and_until(&self, task: Task, item: ItemKey) -> Option<(String, Moment)> {
        let volume = self.volumes.get(&task.volume())?;
        let (session, care) = match task {
            Task::RenewSession(..) | Task::RevokeSession(..) | Task::LookUpSession(..) => {
                let held = volume.sessions.get(&item)?;
                (&held.session, &held.care)
            }
            _ => {
                let held = volume.grants.get(&item)?;
                (&volume.sessions.get(&held.session)?.session, &held.care)
            }
        };
        let never = Moment::from_boot(Duration::MAX);
        let end = match task {
            // Not the end counts, but for how long nobody has seen it.
            Task::LookUpSession(..) | Task::LookUpLease(..) => care.seen_alive_at,
            _ => care.life.term.end().unwrap_or(never),
        };
        Some((session.endpoint.address.clone(), end))
    }

    /// When the first lane goes on whose calls wait for the time alone.
    pub fn lanes_resume(&self) -> Option<Moment> {
        self.lanes.values().filter_map(|lane| lane.resume_at).min()
    }

    /// Starts what has waited for a time that has come.
    pub fn pump_resumed(&mut self) {
        let now = self.clock.now();
        let due = |lane: &Lane| lane.resume_at.is_some_and(|at| at <= now);
        let due: Vec<String> = self
            .lanes
            .iter()
            .filter(|(_, lane)| due(lane))
            .map(|(address, _)| address.clone())
            .collect();
        for address in due {
            self.pump(&address);
        }
    }

    /// Renewals and revocations that are due and wait for their turn.
    pub fn waiting(&self) -> usize {
        self.lanes.values().map(Lane::waiting).sum()
    }

    /// Starts what waits at an address, as far as there is room.
    fn pump(&mut self, address: &str) {
        let now = self.clock.now();
        while let Some(lane) = self.lanes.get_mut(address) {
            lane.resume_at = None;
            let Some(first) = lane.next(self.settings.in_flight, now) else {
                // Idle, it is forgotten once that forgives it nothing. Else an attempt's end goes on.
                if lane.is_idle() {
                    if lane.rate.full(now) {
                        self.lanes.remove(address);
                    } else {
                        lane.resume_at = Some(now.plus(Duration::from_secs(1)));
                    }
                }
                return;
            };
            // It may have been done, or become pointless, while it waited.
            let (end, task) = first;
            lane.queue(task).waiting.remove(&first);
            if !self.wants(task) {
                self.forgo(task);
                continue;
            }
            let Some(lane) = self.lanes.get_mut(address) else {
                return;
            };
            let mut go_on = lane.rate.next(now);
            if go_on <= now
                && let Err(until) = self.keeper.admit(address, urgency(task, end))
            {
                // A Mount may find it back before: it is asked again soon.
                go_on = until.clamp(now.plus(Duration::from_millis(1)), now.plus(ASK_AGAIN));
            }
            if go_on > now {
                lane.queue(task).waiting.insert(first);
                lane.resume_at = Some(go_on);
                return;
            }
            lane.rate.take();
            self.start(address, task);
        }
    }

    fn start(&mut self, address: &str, task: Task) {
        let Some(attempt) = self.attempt(task) else {
            self.forgo(task);
            return;
        };
        if let Some(lane) = self.lanes.get_mut(address) {
            lane.queue(task).busy += 1;
        }
        let address = address.to_owned();
        self.jobs.spawn(async move {
            // In a task of its own, so that its panic still frees its place.
            let outcome = tokio::spawn(attempt).await.unwrap_or(Outcome::Broken);
            (task, address, outcome)
        });
    }

    fn attempt(&mut self, task: Task) -> Option<BoxFuture<'static, Outcome>> {
        let keeper = Arc::clone(&self.keeper);
        let now = self.clock.now();
        let volume = self.volumes.get_mut(&task.volume())?;
        Some(match task {
            Task::RenewSession(_, item) => {
                let held = volume.sessions.get_mut(&item)?;
                let patience = patience(held.care.life.term, now);
                let session = Arc::clone(&held.session);
                Box::pin(
                    async move { Outcome::Renewed(keeper.renew_session(session, patience).await) },
                )
            }
            Task::RevokeSession(_, item) => {
                let held = volume.sessions.get_mut(&item)?;
                let session = Arc::clone(&held.session);
                Box::pin(async move {
                    Outcome::Revoked(keeper.revoke_session(session, LONGEST_PATIENCE).await)
                })
            }
            Task::RenewLease(_, item) | Task::RevokeLease(_, item) => {
                let held = volume.grants.get_mut(&item)?;
                let session = Arc::clone(&volume.sessions.get(&held.session)?.session);
                let lease = held.grant.lease_id()?.to_owned();
                if matches!(task, Task::RenewLease(..)) {
                    let patience = patience(held.care.life.term, now);
                    Box::pin(async move {
                        Outcome::Renewed(keeper.renew_lease(session, lease, patience).await)
                    })
                } else {
                    Box::pin(async move {
                        Outcome::Revoked(
                            keeper.revoke_lease(session, lease, LONGEST_PATIENCE).await,
                        )
                    })
                }
            }
            Task::LookUpSession(_, item) => {
                let held = volume.sessions.get_mut(&item)?;
                let session = Arc::clone(&held.session);
                Box::pin(async move {
                    Outcome::LookedUp(keeper.look_up_session(session, LONGEST_PATIENCE).await)
                })
            }
            Task::LookUpLease(_, item) => {
                let held = volume.grants.get_mut(&item)?;
                let session = Arc::clone(&volume.sessions.get(&held.session)?.session);
                let lease = held.grant.lease_id()?.to_owned();
                Box::pin(async move {
                    let answer = keeper.look_up_lease(session, lease, LONGEST_PATIENCE);
                    Outcome::LookedUp(answer.await)
                })
            }
        })
    }

    pub fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        // The outer task only awaits the inner one: it neither panics nor is it aborted before the end.
        let Ok((task, address, outcome)) = finished else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&address) {
            let queue = lane.queue(task);
            queue.busy = queue.busy.saturating_sub(1);
        }
        let now = self.clock.now();
        let key = task.volume();
        // A thing that was found as it should be is no news for the journal.
        let unchanged = matches!(outcome, Outcome::LookedUp(Ok(())));
        self.guarded(key, |worker| {
            let every = worker.settings.look_up;
            if let Some(volume) = worker.volumes.get_mut(&key) {
                let (metrics, notices) = (&worker.metrics, &worker.notices);
                upkeep::apply(volume, task, outcome, every, now, metrics, notices);
            }
        });
        if unchanged {
            self.settle(key);
        } else {
            self.changed(key, None);
        }
        self.pump(&address);
    }
}

/// When what a call keeps alive ends: no pause of the breaker is longer than a part of that. A look-up can
/// wait.
const fn urgency(task: Task, end: Moment) -> Moment {
    match task {
        Task::LookUpSession(..) | Task::LookUpLease(..) => Moment::from_boot(Duration::MAX),
        _ => end,
    }
}

/// How long a renewal's answer is waited for: a server that hangs must leave time for two more attempts.
fn patience(term: Term, now: Moment) -> Duration {
    let left = term.end().map_or(Duration::MAX, |end| end.since(now));
    (left / 3).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
}
