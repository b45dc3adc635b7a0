//! What a Mount need not fetch again: the session and the replies that a volume holds already.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Held;
use super::volume::{Duty, Stage, Volume};
use crate::clock::Moment;
use crate::grant::Keep;
use crate::spec::{MountSpec, Request};

/// The least time between two logins at polls that only a refused read asks for.
const FRESH_LOGINS: Duration = Duration::from_secs(300);

impl Volume {
    /// What may serve a Mount of `spec`.
    pub fn held_for(&self, spec: &MountSpec, poll: Duration, now: Moment) -> Held {
        let open = |duty: Duty| duty == Duty::Open;
        let session = self.sessions.iter().rev().find(|(_, held)| {
            let usable = !held.dead && !held.session.counted && !held.care.due(poll, now);
            open(held.duty) && usable && held.session.serves(spec)
        });
        let mut grants = HashMap::new();
        let wanted: HashSet<&Request> = spec.requests().into_iter().collect();
        for held in self.grants.values() {
            // What the class no longer names drains.
            if !wanted.contains(&held.grant.request) {
                continue;
            }
            if !open(held.duty) || held.lost || held.care.due(poll, now) {
                continue;
            }
            if !held.grant.has_body() {
                continue;
            }
            let under = match held.grant.keep {
                Keep::Lease { .. } => session.is_some_and(|(key, _)| *key == held.session),
                // No lease hangs from the session: it outlives it, within the same authority.
                Keep::Certificate | Keep::Expiring | Keep::Written | Keep::Static => self
                    .sessions
                    .get(&held.session)
                    .is_some_and(|owner| owner.session.serves(spec)),
            };
            if under {
                // In the order of their keys: a newer reply to the same request wins.
                grants.insert(held.grant.request.clone(), Arc::clone(&held.grant));
            }
        }
        let paced = |at: Moment| at.plus(FRESH_LOGINS) <= now;
        Held {
            cut_short: false,
            first: self.stage != Stage::Mounted,
            fresh_login_allowed: self.logged_in_at.is_none_or(paced),
            session: session.map(|(_, held)| Arc::clone(&held.session)),
            grants,
            ended: CancellationToken::new(),
        }
    }
}
