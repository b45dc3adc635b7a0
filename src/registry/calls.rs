//! Calls under way: what is due waits for its turn, is called, and the answer is taken in.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::task::{CallKind, ItemKey, Task};
use super::upkeep::{self, Outcome};
use super::worker::Worker;
use crate::clock::Moment;
use crate::grant::{Admitted, PlannedCall, Purpose, Term};

/// The longest that any answer is waited for: one that hangs takes a place from the others.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The least that any answer is waited for.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(500);
/// What ends within this time, or within the last third of its term, is urgent.
const URGENT: Duration = Duration::from_secs(60);

/// How far a call has come.
pub enum Finished {
    /// It is its turn.
    Admitted(Task, Admitted),
    /// Waiting for it broke down (it panicked).
    Broken(Task),
    /// It has ended.
    Ended(Task, Outcome),
}

impl Worker {
    /// Lets a call wait for its turn.
    pub fn queue(&mut self, task: Task) {
        // What no call can be made for stays marked: given back, it would be handed over again at once.
        let Some(call) = self.planned(task) else {
            return;
        };
        self.waiting_calls += usize::from(task.kind() != CallKind::LookUp);
        let admission = self.keeper.admit(call);
        self.jobs.spawn(async move {
            // In a task of its own, so that its panic is an attempt that failed and not a call that never ends.
            match tokio::spawn(admission).await {
                Ok(admitted) => Finished::Admitted(task, admitted),
                Err(_) => Finished::Broken(task),
            }
        });
    }

    fn waits_no_more(&mut self, task: Task) {
        let is_counted = task.kind() != CallKind::LookUp;
        self.waiting_calls = self.waiting_calls.saturating_sub(usize::from(is_counted));
    }

    fn planned(&self, task: Task) -> Option<PlannedCall> {
        let volume = self.volumes.get(&task.volume())?;
        let (session, lease_id, care) = if task.is_of_session() {
            let held = volume.sessions.get(&task.item())?;
            (&held.session, None, &held.care)
        } else {
            let held = volume.grants.get(&task.item())?;
            let session = &volume.sessions.get(&held.session)?.session;
            (session, Some(held.grant.lease_id()?.to_owned()), &held.care)
        };
        let term = care.life.term;
        let end = term.end().unwrap_or(Moment::NEVER);
        let (purpose, end, urgent_from) = match task.kind() {
            CallKind::Renew => {
                let urgent = (term.granted() / 3).min(URGENT);
                (Purpose::Renewal, end, end.minus(urgent))
            }
            CallKind::Revoke => (Purpose::Revocation, end, Moment::NEVER),
            // Not the end counts, but for how long nobody has seen it.
            CallKind::LookUp => (Purpose::LookUp, care.seen_alive_at, Moment::NEVER),
        };
        Some(PlannedCall {
            session: Arc::clone(session),
            lease_id,
            purpose,
            end,
            urgent_from,
        })
    }

    /// It is a call's turn. It may have been done, or become pointless, while it waited.
    fn admitted(&mut self, task: Task, admitted: Admitted) {
        let attempt = self.wants(task).then(|| self.attempt(task));
        let Some(attempt) = attempt.flatten() else {
            self.forgo(task);
            return;
        };
        self.jobs.spawn(async move {
            let outcome = tokio::spawn(attempt).await.unwrap_or(Outcome::Broken);
            drop(admitted);
            Finished::Ended(task, outcome)
        });
    }

    fn attempt(&mut self, task: Task) -> Option<BoxFuture<'static, Outcome>> {
        let keeper = Arc::clone(&self.keeper);
        let now = self.clock.now();
        let volume = self.volumes.get(&task.volume())?;
        let of_session = |item: ItemKey| {
            let held = volume.sessions.get(&item)?;
            Some((Arc::clone(&held.session), held.care.life.term))
        };
        let of_lease = |item: ItemKey| {
            let held = volume.grants.get(&item)?;
            let session = Arc::clone(&volume.sessions.get(&held.session)?.session);
            let lease = held.grant.lease_id()?.to_owned();
            Some((session, lease, held.care.life.term))
        };
        Some(match task {
            Task::RenewSession(_, item) => {
                let (session, term) = of_session(item)?;
                let timeout = timeout(term, now);
                Box::pin(
                    async move { Outcome::Renewed(keeper.renew_session(session, timeout).await) },
                )
            }
            Task::RevokeSession(_, item) => {
                let (session, _) = of_session(item)?;
                Box::pin(async move {
                    Outcome::Revoked(keeper.revoke_session(session, LONGEST_TIMEOUT).await)
                })
            }
            Task::LookUpSession(_, item) => {
                let (session, _) = of_session(item)?;
                Box::pin(async move {
                    Outcome::LookedUp(keeper.look_up_session(session, LONGEST_TIMEOUT).await)
                })
            }
            Task::RenewLease(_, item) => {
                let (session, lease, term) = of_lease(item)?;
                let timeout = timeout(term, now);
                Box::pin(async move {
                    Outcome::Renewed(keeper.renew_lease(session, lease, timeout).await)
                })
            }
            Task::RevokeLease(_, item) => {
                let (session, lease, _) = of_lease(item)?;
                Box::pin(async move {
                    Outcome::Revoked(keeper.revoke_lease(session, lease, LONGEST_TIMEOUT).await)
                })
            }
            Task::LookUpLease(_, item) => {
                let (session, lease, _) = of_lease(item)?;
                Box::pin(async move {
                    Outcome::LookedUp(keeper.look_up_lease(session, lease, LONGEST_TIMEOUT).await)
                })
            }
        })
    }

    pub fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        // The outer task only awaits inner ones: it neither panics nor is it aborted before the end.
        let Ok(finished) = finished else {
            return;
        };
        let (task, outcome) = match finished {
            Finished::Admitted(task, admitted) => {
                self.waits_no_more(task);
                self.guarded(task.volume(), |worker| worker.admitted(task, admitted));
                return;
            }
            Finished::Broken(task) => {
                self.waits_no_more(task);
                (task, Outcome::Broken)
            }
            Finished::Ended(task, outcome) => (task, outcome),
        };
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
    }
}

/// How long a renewal's answer is waited for: a server that hangs must leave time for two more attempts.
fn timeout(term: Term, now: Moment) -> Duration {
    let left = term.end().map_or(Duration::MAX, |end| end.since(now));
    (left / 3).clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT)
}
