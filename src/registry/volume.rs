//! One volume's state and what changes it. Pure: no task, no clock, no call; `schedule.rs` derives what is due
//! from what stands here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::care::{Care, Polls};
use super::evidence::Evidence;
use super::task::ItemKey;
use crate::clock::Moment;
use crate::grant::timing::{Life, resume_at};
use crate::grant::{Grant, Session};
use crate::spec::{MountSpec, OnUnmount, Pod, VolumeId};

/// How far a volume has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its first Mount is under way, or was when we were killed.
    Opening,
    /// Its first Mount has succeeded, and nobody was there for the answer any more. kubelet has removed the path
    /// meanwhile and comes again.
    Parked {
        /// How long that is waited for.
        until: Moment,
    },
    /// Its files are with the pod.
    Mounted,
    /// It is gone; what is left waits for its revocation.
    Leaving,
}

/// What a session or a grant is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// In use, or read for a Mount that has not succeeded yet.
    Open,
    /// Replaced. The pod's files may still show it.
    Draining {
        /// When it was replaced, and then when that was confirmed.
        since: Moment,
        /// The driver was there when the answer that replaces it was given.
        answered: bool,
        /// A later Mount was answered as well. One answer alone may be lost on its way, or with a driver
        /// that was killed before it wrote the files.
        confirmed: bool,
    },
    /// To be revoked.
    Releasing,
}

impl Duty {
    /// When what was replaced, and is confirmed to be, has drained for long enough.
    pub fn drained_at(self, drain: Duration) -> Option<Moment> {
        match self {
            Self::Draining {
                since,
                confirmed: true,
                ..
            } => Some(since.plus(drain)),
            Self::Open | Self::Draining { .. } | Self::Releasing => None,
        }
    }
}

/// A session of the volume.
#[derive(Clone)]
pub struct HeldSession {
    pub session: Arc<Session>,
    pub care: Care,
    pub duty: Duty,
    /// The server does not know its token any more.
    pub dead: bool,
    /// Another volume lives on the same token.
    pub shared: bool,
}

impl HeldSession {
    /// Its token is known to the server, and is not on its way to revocation.
    pub fn lives(&self) -> bool {
        self.duty != Duty::Releasing && !self.dead
    }
}

/// A reply of the volume.
#[derive(Clone)]
pub struct HeldGrant {
    pub grant: Arc<Grant>,
    /// The session it was read under, or the one that has taken it over.
    pub session: ItemKey,
    pub care: Care,
    pub duty: Duty,
    /// The server does not know its lease any more.
    pub lost: bool,
    /// Another volume lives on the same lease.
    pub shared: bool,
}

impl HeldGrant {
    /// It is known to the server, and is not on its way to revocation.
    pub fn lives(&self) -> bool {
        self.duty != Duty::Releasing && !self.lost
    }
}

/// A volume, as the worker keeps it.
#[derive(Clone)]
pub struct Volume {
    pub id: VolumeId,
    pub pod: Pod,
    pub class: String,
    /// What its end does to what its files show, as the class said at the last Mount.
    pub on_unmount: OnUnmount,
    pub stage: Stage,
    /// A Mount is under way: its outcome is awaited before anything is concluded from the path.
    pub mounting: bool,
    /// Its path was seen at least once; only then does its absence mean anything.
    pub seen: bool,
    /// Since when the path is missing.
    pub missing_since: Option<Moment>,
    /// Its pod is gone and its path was never seen: when it is given up.
    pub forsaken_at: Option<Moment>,
    /// Since when it waits for longer than it should.
    pub overdue_since: Option<Moment>,
    /// What shows that it is there.
    pub evidence: Evidence,
    /// Nothing does: it is not renewed.
    pub doubted: bool,
    pub polls: Polls,
    /// The last login at a poll.
    pub logged_in_at: Option<Moment>,
    /// How many requests its last Mount had; none after a restart.
    pub requests: usize,
    pub sessions: BTreeMap<ItemKey, HeldSession>,
    pub grants: BTreeMap<ItemKey, HeldGrant>,
}

impl Volume {
    pub fn new(spec: &MountSpec) -> Self {
        let (id, pod) = (spec.volume.clone(), spec.pod.clone());
        Self {
            class: spec.class.clone(),
            ..Self::of(id, pod, spec.on_unmount)
        }
    }

    /// One that holds nothing yet.
    pub fn of(id: VolumeId, pod: Pod, on_unmount: OnUnmount) -> Self {
        Self {
            id,
            pod,
            class: String::new(),
            on_unmount,
            stage: Stage::Opening,
            mounting: false,
            seen: false,
            missing_since: None,
            forsaken_at: None,
            overdue_since: None,
            evidence: Evidence::default(),
            doubted: false,
            polls: Polls::default(),
            logged_in_at: None,
            requests: 0,
            sessions: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }

    /// Nothing is left that would have to be kept or ended.
    pub fn is_empty(&self) -> bool {
        !self.mounting && self.sessions.is_empty() && self.grants.is_empty()
    }

    /// Goes on after a restart: renewals spread out, what was owed its revocation gets it now, and a
    /// first Mount that was cut short waits `park` for its volume to come back.
    pub fn resume(&mut self, poll: Duration, park: Duration, now: Moment) {
        self.evidence.begin(now);
        for (duty, care) in self.duties() {
            // As if all had just been seen: their look-ups spread over most of the interval.
            care.seen_alive_at = now;
            let planned = care.life.renew_at(poll, care.jitter);
            if let Some(planned) = planned.filter(|_| *duty != Duty::Releasing) {
                let end = care.life.term.end();
                care.attempt_at = Some(resume_at(planned, end, now, care.jitter));
            }
        }
        // A poll may have logged in after its volume had gone.
        if self.stage == Stage::Leaving {
            self.release(now);
        }
        // Whether the answer has arrived, the path tells.
        if matches!(self.stage, Stage::Parked { .. }) {
            self.stage = Stage::Mounted;
        }
        if self.stage == Stage::Opening {
            // Leases we never saw may hang from its session: it is not built upon.
            self.forsaken_at = Some(now.plus(park));
        }
        // What ended meanwhile, or what no call can be made for, waits for nothing.
        self.settle_releases(now);
    }

    /// A Mount begins. What an earlier process left half-done is not built upon; tells whether there was any.
    pub fn begin(&mut self, spec: &MountSpec, seen: bool, now: Moment) -> bool {
        let cut_short = self.stage == Stage::Opening && !self.sessions.is_empty();
        match self.stage {
            Stage::Opening if cut_short => self.release(now),
            Stage::Mounted => self.polls.note(now),
            Stage::Opening | Stage::Parked { .. } | Stage::Leaving => {}
        }
        if self.stage != Stage::Mounted {
            self.stage = Stage::Opening;
            self.polls = Polls::default();
        }
        self.pod = spec.pod.clone();
        // The rotation loop of drivers before 1.6 names no class: warnings would name none either.
        if !spec.class.is_empty() {
            self.class.clone_from(&spec.class);
        }
        self.requests = spec.requests().len();
        self.on_unmount = spec.on_unmount;
        self.mounting = true;
        self.seen |= seen;
        if seen {
            self.evidence.path_seen(now);
        }
        self.missing_since = None;
        self.forsaken_at = None;
        cut_short
    }

    /// A session is taken into care.
    pub fn hold(&mut self, key: ItemKey, session: Arc<Session>, now: Moment) {
        if self.stage == Stage::Mounted {
            self.logged_in_at = Some(now);
        }
        let mut care = Care::new(Life::of_session(&session));
        // Its volume has gone while the login was under way.
        let duty = if self.stage == Stage::Leaving {
            care.at_once();
            Duty::Releasing
        } else {
            Duty::Open
        };
        self.sessions.insert(
            key,
            HeldSession {
                session,
                care,
                duty,
                dead: false,
                shared: false,
            },
        );
    }

    /// A session has served nothing: it is to be revoked, with all that was read under it.
    pub fn discard(&mut self, key: ItemKey, now: Moment) {
        if let Some(held) = self.sessions.get_mut(&key) {
            held.duty = Duty::Releasing;
            held.care.at_once();
        }
        for held in self.grants.values_mut().filter(|held| held.session == key) {
            held.duty = Duty::Releasing;
            held.care.at_once();
        }
        self.settle_releases(now);
    }

    /// A reply is taken into care, unless it is there already.
    pub fn add_grant(&mut self, key: ItemKey, session: ItemKey, grant: &Arc<Grant>) {
        if self.grants.values().any(|held| held.grant.is_same(grant)) {
            return;
        }
        let mut life = Life::of_grant(grant);
        let owner = self.sessions.get(&session);
        // A renewal is a use of the token.
        life.renewable &= owner.is_some_and(|owner| !owner.session.counted);
        let care = Care::new(life);
        self.grants.insert(
            key,
            HeldGrant {
                grant: Arc::clone(grant),
                session,
                care,
                duty: Duty::Open,
                lost: false,
                shared: false,
            },
        );
    }

    /// A reply that no Mount has waited for. Where a poll asked for it, it is kept for the next one, as what a
    /// failed poll has read; else nothing will show it, and its lease is to be revoked. Tells whether it is kept.
    pub fn add_late(
        &mut self,
        key: ItemKey,
        session: ItemKey,
        grant: &Arc<Grant>,
        now: Moment,
    ) -> bool {
        let owner = self.sessions.get(&session);
        let lives = owner.is_some_and(|owner| owner.duty == Duty::Open && !owner.dead);
        let kept = self.stage == Stage::Mounted && lives;
        if kept {
            self.add_grant(key, session, grant);
        } else {
            self.add_grant(key, session, &Arc::new(grant.without_body()));
            if let Some(held) = self.grants.get_mut(&key) {
                held.duty = Duty::Releasing;
                held.care.at_once();
            }
            self.settle_releases(now);
        }
        kept
    }

    /// The key of a session of ours.
    pub fn session_key(&self, id: &str) -> Option<ItemKey> {
        self.sessions
            .iter()
            .find(|(_, held)| held.session.id == id)
            .map(|(key, _)| *key)
    }

    /// A Mount has succeeded: `grants`, read under `session`, are what its files show from now on. All
    /// else drains. A first one's result waits `park` for somebody who takes it. Names the paths whose replies
    /// were replaced by newer ones.
    pub fn complete(
        &mut self,
        session: ItemKey,
        grants: &[Arc<Grant>],
        park: Duration,
        now: Moment,
    ) -> Vec<String> {
        // What was got for a first Mount that nobody waited for has never been in a file.
        let shown = self.stage == Stage::Mounted;
        if !shown {
            self.stage = Stage::Parked {
                until: now.plus(park),
            };
        }
        if self.polls.last.is_none() {
            self.polls.note(now);
        }
        let replace = |duty: &mut Duty, care: &mut Care| {
            if shown {
                *duty = Duty::Draining {
                    since: now,
                    answered: false,
                    confirmed: false,
                };
            } else {
                *duty = Duty::Releasing;
                care.at_once();
            }
        };
        // Static reads are repeated by every Mount, and their grants do not come here: the token has served.
        if grants.len() < self.requests
            && let Some(held) = self.sessions.get_mut(&session)
        {
            held.care.seen_alive(now);
        }
        let mut replaced = Vec::new();
        for held in self.grants.values_mut() {
            if grants.iter().any(|used| used.is_same(&held.grant)) {
                held.session = session;
            } else if held.duty == Duty::Open {
                replace(&mut held.duty, &mut held.care);
                let request = &held.grant.request;
                if grants.iter().any(|used| used.request == *request) {
                    replaced.push(request.path.clone());
                }
            }
        }
        // A reply without a lease has nothing to be drained: the files that show it need no server.
        self.grants
            .retain(|_, held| held.duty == Duty::Open || held.grant.lease_id().is_some());
        for (key, held) in &mut self.sessions {
            if *key != session && held.duty == Duty::Open {
                replace(&mut held.duty, &mut held.care);
            }
        }
        self.settle_releases(now);
        replaced
    }

    /// An answer was given to a driver that was there: the first of what has been replaced since the one
    /// before, the second of what was replaced earlier. Tells whether that has changed anything.
    pub fn answered(&mut self, now: Moment) -> bool {
        let mut changed = matches!(self.stage, Stage::Parked { .. });
        if changed {
            self.stage = Stage::Mounted;
            // From now on its path decides, where that can be seen.
            self.forsaken_at = self.forsaken_at.filter(|_| !self.seen);
        }
        for (duty, _) in self.duties() {
            if let Duty::Draining {
                since,
                answered,
                confirmed,
            } = duty
            {
                if *answered && !*confirmed {
                    *confirmed = true;
                    *since = now;
                    changed = true;
                }
                changed |= !std::mem::replace(answered, true);
            }
        }
        changed
    }

    /// Moves on what has drained for long enough and is confirmed: to its revocation, or out of our hands,
    /// for a container's environment keeps what was replaced as long as the container runs.
    /// Tells whether there was any.
    pub fn retire(&mut self, drain: Duration, now: Moment) -> bool {
        let over = |duty: &Duty| duty.drained_at(drain).is_some_and(|at| at <= now);
        if !self.duties().any(|(duty, _)| over(duty)) {
            return false;
        }
        if self.lets_expire() {
            self.forget(over);
        }
        for (duty, care) in self.duties() {
            if over(duty) {
                *duty = Duty::Releasing;
                care.at_once();
            }
        }
        self.settle_releases(now);
        true
    }

    /// The volume is at its end: everything is to be revoked, or forgotten where the class lets it expire.
    pub fn release(&mut self, now: Moment) {
        if self.lets_expire() {
            // What was on its way to be revoked still is.
            self.forget(|duty| *duty != Duty::Releasing);
        }
        self.stage = Stage::Leaving;
        self.missing_since = None;
        self.forsaken_at = None;
        for (duty, care) in self.duties() {
            if *duty != Duty::Releasing {
                *duty = Duty::Releasing;
                care.at_once();
            }
        }
        self.settle_releases(now);
    }

    /// Forgets what needs no revocation: dead tokens and those that have run out, leases that go with
    /// their session's token, replies without a lease.
    pub fn settle_releases(&mut self, now: Moment) {
        self.drop_dead();
        self.sessions
            .retain(|_, held| held.duty != Duty::Releasing || !held.care.ended(now));
        let (sessions, with_token) = (&self.sessions, self.revoke_their_tokens());
        let in_use = self.living_leases();
        self.grants.retain(|_, held| {
            sessions.contains_key(&held.session)
                && (held.duty != Duty::Releasing
                    || held
                        .grant
                        .lease_id()
                        .is_some_and(|lease| !in_use.contains(lease))
                        && !held.lost
                        && !held.shared
                        && !held.care.ended(now)
                        && !with_token.contains(&held.session))
        });
        // Where the token is not revoked, there is nothing left to do once its leases are.
        let grants = &self.grants;
        self.sessions.retain(|key, held| {
            held.duty != Duty::Releasing
                || with_token.contains(key)
                || grants.values().any(|grant| grant.session == *key)
        });
    }

    fn drop_dead(&mut self) {
        self.sessions
            .retain(|_, held| !held.dead || held.duty == Duty::Open);
    }

    /// Everything of a session is lost with its token.
    pub fn token_dead(&mut self, key: ItemKey, now: Moment) {
        if let Some(held) = self.sessions.get_mut(&key) {
            held.dead = true;
        }
        for held in self.grants.values_mut() {
            if held.session == key && held.grant.lease_id().is_some() {
                held.lost = true;
            }
        }
        self.settle_releases(now);
    }

    /// What the pod's files show and that lives: sessions and grants.
    pub fn open_cares(&self) -> impl Iterator<Item = &Care> {
        let sessions = self.sessions.values();
        let sessions = sessions.filter(|held| held.duty == Duty::Open && !held.dead);
        let grants = self.grants.values();
        let grants = grants.filter(|held| held.duty == Duty::Open && !held.lost);
        sessions
            .map(|held| &held.care)
            .chain(grants.map(|held| &held.care))
    }

    /// The same, to be changed.
    pub fn open_cares_mut(&mut self) -> impl Iterator<Item = &mut Care> {
        let sessions = self.sessions.values_mut();
        let sessions = sessions.filter(|held| held.duty == Duty::Open && !held.dead);
        let grants = self.grants.values_mut();
        let grants = grants.filter(|held| held.duty == Duty::Open && !held.lost);
        sessions
            .map(|held| &mut held.care)
            .chain(grants.map(|held| &mut held.care))
    }

    pub fn duties(&mut self) -> impl Iterator<Item = (&mut Duty, &mut Care)> {
        let sessions = self.sessions.values_mut();
        let sessions = sessions.map(|held| (&mut held.duty, &mut held.care));
        let grants = self.grants.values_mut();
        sessions.chain(grants.map(|held| (&mut held.duty, &mut held.care)))
    }
}
