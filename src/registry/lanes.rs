//! Renewals and revocations under way: a bounded number at each address, the earliest end first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::agenda::{ItemKey, Task};
use super::upkeep::{self, Outcome};
use super::worker::Worker;
use crate::clock::Moment;

/// An attempt under way: for which task, at which address, and how it ended.
pub type Finished = (Task, String, Outcome);

/// One address: what is under way there, and what waits, the earliest end first.
#[derive(Default)]
pub struct Lane {
    busy: usize,
    pub waiting: BTreeSet<(Moment, Task)>,
}

impl Worker {
    pub fn where_and_until(&self, task: Task, item: ItemKey) -> Option<(String, Moment)> {
        let volume = self.volumes.get(&task.volume())?;
        let (session, care) = match task {
            Task::RenewSession(..) | Task::RevokeSession(..) => {
                let held = volume.sessions.get(&item)?;
                (&held.session, &held.care)
            }
            _ => {
                let held = volume.grants.get(&item)?;
                (&volume.sessions.get(&held.session)?.session, &held.care)
            }
        };
        let never = Moment::from_boot(Duration::MAX);
        let end = care.life.term.end().unwrap_or(never);
        Some((session.endpoint.address.clone(), end))
    }

    /// Starts what waits at an address, as far as there is room.
    pub fn pump(&mut self, address: &str) {
        let now = self.clock.now();
        loop {
            let Some(lane) = self.lanes.get_mut(address) else {
                return;
            };
            if lane.busy >= self.settings.in_flight {
                return;
            }
            let Some((_, task)) = lane.waiting.pop_first() else {
                return;
            };
            // It may have been done, or become pointless, while it waited.
            let tasks = self.tasks(task.volume());
            if !tasks.iter().any(|(due, at)| *due == task && *at <= now) {
                continue;
            }
            if let Some(attempt) = self.attempt(task) {
                if let Some(lane) = self.lanes.get_mut(address) {
                    lane.busy += 1;
                }
                let address = address.to_owned();
                self.jobs.spawn(async move {
                    // In a task of its own, so that its panic still frees its place.
                    let outcome = tokio::spawn(attempt).await.unwrap_or(Outcome::Broken);
                    (task, address, outcome)
                });
                self.plan(task.volume());
            }
        }
    }

    fn attempt(&mut self, task: Task) -> Option<BoxFuture<'static, Outcome>> {
        let keeper = Arc::clone(&self.keeper);
        let volume = self.volumes.get_mut(&task.volume())?;
        Some(match task {
            Task::RenewSession(_, item) => {
                let held = volume.sessions.get_mut(&item)?;
                held.care.busy = true;
                let session = Arc::clone(&held.session);
                Box::pin(async move { Outcome::Renewed(keeper.renew_session(session).await) })
            }
            Task::RevokeSession(_, item) => {
                let held = volume.sessions.get_mut(&item)?;
                held.care.busy = true;
                let session = Arc::clone(&held.session);
                Box::pin(async move { Outcome::Revoked(keeper.revoke_session(session).await) })
            }
            Task::RenewLease(_, item) | Task::RevokeLease(_, item) => {
                let held = volume.grants.get_mut(&item)?;
                let session = Arc::clone(&volume.sessions.get(&held.session)?.session);
                let lease = held.grant.lease_id()?.to_owned();
                held.care.busy = true;
                if matches!(task, Task::RenewLease(..)) {
                    Box::pin(
                        async move { Outcome::Renewed(keeper.renew_lease(session, lease).await) },
                    )
                } else {
                    Box::pin(
                        async move { Outcome::Revoked(keeper.revoke_lease(session, lease).await) },
                    )
                }
            }
            Task::Retire(_) | Task::Expire(_) | Task::GiveUp(_) => return None,
        })
    }

    pub fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        // The outer task only awaits the inner one: it neither panics nor is it aborted before the end.
        let Ok((task, address, outcome)) = finished else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&address) {
            lane.busy = lane.busy.saturating_sub(1);
        }
        let now = self.clock.now();
        let key = task.volume();
        if let Some(volume) = self.volumes.get_mut(&key) {
            upkeep::apply(volume, task, outcome, now, &self.metrics);
            self.changed(key, None);
        }
        self.pump(&address);
        if self
            .lanes
            .get(&address)
            .is_some_and(|lane| lane.busy == 0 && lane.waiting.is_empty())
        {
            self.lanes.remove(&address);
        }
    }
}
