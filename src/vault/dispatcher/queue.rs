//! One address: what waits there, what is under way, and which call goes next. Pure but for the clock's time that is
//! handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bucket::TokenBucket;
use crate::clock::Moment;
use crate::vault::health::{Health, Scope};

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A Mount's login or read.
    Mount,
    Renewal,
    Revocation,
    LookUp,
}

/// How many calls an address takes at once, and how many that keep or end something start in a second.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub mounts: usize,
    /// Renewals, revocations and look-ups.
    pub keeping: usize,
    pub per_second: u32,
}

/// What part of the rate is kept for calls that have time.
const CALM: u32 = 4;

/// A call that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub scope: Scope,
    pub class: Class,
    /// When that ends which it keeps alive; of a look-up, when its item was seen last.
    pub end: Moment,
    /// From when on it may use what is kept free for urgent calls.
    pub urgent_from: Moment,
}

/// What may be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This one starts; it counts as under way.
    Start(u64),
    /// Nothing before this moment, unless a call ends or another one comes.
    Wait(Option<Moment>),
}

/// Places of one kind: of all, no tenant, no backend, and no tenant at a backend may take them all. What hangs then
/// holds up its own users alone.
#[derive(Debug, Default)]
struct Places {
    busy: usize,
    tenants: HashMap<String, usize>,
    backends: HashMap<(String, String), usize>,
    pairs: HashMap<Scope, usize>,
}

/// How many of the places each may take.
#[derive(Clone, Copy, Debug)]
struct Shares {
    all: usize,
    tenant: usize,
    backend: usize,
    pair: usize,
}

impl Shares {
    const fn of_mounts(places: usize) -> Self {
        Self {
            all: places,
            tenant: places.div_ceil(4),
            backend: places.div_ceil(2),
            pair: places.div_ceil(8),
        }
    }

    /// A call takes milliseconds, and most nodes have one backend: wider shares, and circuits for what hangs.
    const fn of_keeping(places: usize) -> Self {
        Self {
            all: places,
            tenant: places.div_ceil(2),
            backend: places.div_ceil(2),
            pair: places.div_ceil(4),
        }
    }
}

impl Places {
    fn has_room(&self, scope: &Scope, shares: Shares, all: usize) -> bool {
        let backend = (scope.namespace.clone(), scope.backend.clone());
        self.busy < all
            && count(&self.pairs, scope) < shares.pair
            && count(&self.tenants, &scope.tenant) < shares.tenant
            && count(&self.backends, &backend) < shares.backend
    }

    fn take(&mut self, scope: &Scope) {
        self.busy += 1;
        *self.tenants.entry(scope.tenant.clone()).or_default() += 1;
        let backend = (scope.namespace.clone(), scope.backend.clone());
        *self.backends.entry(backend).or_default() += 1;
        *self.pairs.entry(scope.clone()).or_default() += 1;
    }

    /// `has_left`: the place of the address was given back before.
    fn give_back(&mut self, scope: &Scope, has_left: bool) {
        if !has_left {
            self.leave();
        }
        less(&mut self.tenants, &scope.tenant);
        let backend = (scope.namespace.clone(), scope.backend.clone());
        less(&mut self.backends, &backend);
        less(&mut self.pairs, scope);
    }

    const fn leave(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }
}

fn count<K: std::hash::Hash + Eq>(of: &HashMap<K, usize>, key: &K) -> usize {
    of.get(key).copied().unwrap_or_default()
}

fn less<K: std::hash::Hash + Eq>(of: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = of.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            of.remove(key);
        }
    }
}

/// What waits of one tenant at one backend, the first of each class first.
#[derive(Debug, Default)]
struct Line {
    mounts: BTreeSet<(Moment, u64)>,
    renewals: BTreeSet<(Moment, u64)>,
    revocations: BTreeSet<(Moment, u64)>,
    look_ups: BTreeSet<(Moment, u64)>,
}

impl Line {
    const fn of(&mut self, class: Class) -> &mut BTreeSet<(Moment, u64)> {
        match class {
            Class::Mount => &mut self.mounts,
            Class::Renewal => &mut self.renewals,
            Class::Revocation => &mut self.revocations,
            Class::LookUp => &mut self.look_ups,
        }
    }

    fn is_empty(&self) -> bool {
        self.mounts.is_empty()
            && self.renewals.is_empty()
            && self.revocations.is_empty()
            && self.look_ups.is_empty()
    }
}

/// The calls to one address.
#[derive(Debug)]
pub struct EndpointQueue {
    limits: Limits,
    /// For what keeps or ends something.
    keeping_rate: TokenBucket,
    /// A part of the rate beside it that urgent calls cannot take: one tenant's short leases must not be all that is
    /// done.
    calm_rate: TokenBucket,
    /// For Mounts, which it holds back during a slow start alone.
    mount_rate: TokenBucket,
    mounts: Places,
    keeping: Places,
    revocations: usize,
    look_ups: usize,
    waiters: HashMap<u64, Waiter>,
    lines: BTreeMap<Scope, Line>,
    /// Whose calls went last, of Mounts, of calls that have time, and of urgent ones: the next tenant comes next.
    last_mount: String,
    last_kept: String,
    last_urgent: String,
}

/// What one kind of call waits for.
struct Candidate<'a> {
    id: u64,
    end: Moment,
    scope: &'a Scope,
}

impl EndpointQueue {
    pub fn new(limits: Limits, now: Moment) -> Self {
        Self {
            limits,
            keeping_rate: TokenBucket::new(limits.per_second, now),
            calm_rate: TokenBucket::new(limits.per_second.div_ceil(CALM), now),
            mount_rate: TokenBucket::new(limits.per_second, now),
            mounts: Places::default(),
            keeping: Places::default(),
            revocations: 0,
            look_ups: 0,
            waiters: HashMap::new(),
            lines: BTreeMap::new(),
            last_mount: String::new(),
            last_kept: String::new(),
            last_urgent: String::new(),
        }
    }

    /// A call waits. Those that name the same moment go in the order of their numbers.
    pub fn add(&mut self, id: u64, waiter: Waiter) {
        let line = self.lines.entry(waiter.scope.clone()).or_default();
        line.of(waiter.class).insert((waiter.end, id));
        self.waiters.insert(id, waiter);
    }

    /// A call waits no more.
    pub fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        if let Some(line) = self.lines.get_mut(&waiter.scope) {
            line.of(waiter.class).remove(&(waiter.end, id));
            if line.is_empty() {
                self.lines.remove(&waiter.scope);
            }
        }
        Some(waiter)
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether it can be made anew without a difference.
    pub fn is_idle(&mut self, now: Moment) -> bool {
        self.waiters.is_empty()
            && self.mounts.pairs.is_empty()
            && self.keeping.pairs.is_empty()
            && self.keeping_rate.is_full(now)
            && self.calm_rate.is_full(now)
            && self.mount_rate.is_full(now)
    }

    /// The server was away, and is back: the fleet, not the node, is what it feels.
    pub fn start_slowly(&mut self, now: Moment, jitter: f64) {
        self.keeping_rate.start_slowly(now, jitter);
        self.calm_rate.start_slowly(now, jitter);
        self.mount_rate.start_slowly(now, jitter);
    }

    /// A call has ended.
    pub fn ended(&mut self, scope: &Scope, class: Class, has_left: bool) {
        match class {
            Class::Mount => self.mounts.give_back(scope, has_left),
            Class::Renewal => self.keeping.give_back(scope, false),
            Class::Revocation => {
                self.revocations = self.revocations.saturating_sub(1);
                self.keeping.give_back(scope, false);
            }
            Class::LookUp => {
                self.look_ups = self.look_ups.saturating_sub(1);
                self.keeping.give_back(scope, false);
            }
        }
    }

    /// A Mount's call takes long: it gives the address' place back, and keeps the narrow ones. Else two backends that
    /// hang could take all places of an address.
    pub const fn leave(&mut self) {
        self.mounts.leave();
    }

    /// Which call goes next.
    pub fn next(&mut self, address: &str, health: &mut Health, now: Moment) -> Next {
        let mut wait = Soonest(None);
        let started = self
            .next_urgent(address, health, now, &mut wait)
            .or_else(|| self.next_kept(address, health, now, &mut wait))
            .or_else(|| self.next_mount(now, &mut wait))
            .or_else(|| self.next_look_up(address, health, now, &mut wait));
        match started {
            Some(id) => Next::Start(id),
            None => Next::Wait(wait.0),
        }
    }

    /// What ends soon always finds a place: the last quarter is kept for it, and each tenant may have one call whatever
    /// the others do. Tenants take turns: what one of them has of short leases must not make another one's late.
    fn next_urgent(
        &mut self,
        address: &str,
        health: &mut Health,
        now: Moment,
        wait: &mut Soonest,
    ) -> Option<u64> {
        let shares = Shares::of_keeping(self.limits.keeping);
        let mut turn = Turn::after(&self.last_urgent);
        for (scope, line) in &self.lines {
            let Some((end, id)) = line.renewals.first().copied() else {
                continue;
            };
            let urgent_from = self.waiters.get(&id).map(|waiter| waiter.urgent_from);
            let Some(urgent_from) = urgent_from else {
                continue;
            };
            if urgent_from > now {
                wait.note(urgent_from);
                continue;
            }
            let has_place = count(&self.keeping.tenants, &scope.tenant) == 0
                || self.keeping.has_room(scope, shares, shares.all);
            if !has_place {
                continue;
            }
            match health.open(address, scope, Some(end), now) {
                None => turn.offer(Candidate { id, end, scope }),
                Some(open) => wait.note(open.until),
            }
        }
        let Candidate { id, scope, .. } = turn.taken()?;
        let tenant = scope.tenant.clone();
        if let Err(at) = self.keeping_rate.has_ahead(now) {
            wait.note(at);
            return None;
        }
        health.begins(address, scope, now);
        self.keeping_rate.take_ahead();
        self.last_urgent = tenant;
        self.start(id)
    }

    /// Renewals and revocations that have time: each tenant in its turn, its earliest end first.
    fn next_kept(
        &mut self,
        address: &str,
        health: &mut Health,
        now: Moment,
        wait: &mut Soonest,
    ) -> Option<u64> {
        let (places, shares, calm) = self.calm_places();
        let mut turn = Turn::after(&self.last_kept);
        for (scope, line) in &self.lines {
            let revocation = line.revocations.first();
            let revocation = revocation.filter(|_| self.revocations < (places / 2).max(1));
            // What is urgent has had its turn, and takes nothing from these.
            let renewal = line.renewals.first().filter(|(_, id)| {
                let waiter = self.waiters.get(id);
                waiter.is_some_and(|waiter| waiter.urgent_from > now)
            });
            let first = renewal.into_iter().chain(revocation).min();
            let Some((end, id)) = first.copied() else {
                continue;
            };
            if !self.keeping.has_room(scope, shares, calm) {
                continue;
            }
            match health.open(address, scope, Some(end), now) {
                None => turn.offer(Candidate { id, end, scope }),
                Some(open) => wait.note(open.until),
            }
        }
        let Candidate { id, scope, .. } = turn.taken()?;
        let tenant = scope.tenant.clone();
        if let Err(at) = spend(&mut self.keeping_rate, &mut self.calm_rate, now) {
            wait.note(at);
            return None;
        }
        health.begins(address, scope, now);
        self.last_kept = tenant;
        self.start(id)
    }

    /// Mounts: each tenant in its turn, first come first served. They ask themselves whether their server is away: one
    /// that is told so costs no time.
    fn next_mount(&mut self, now: Moment, wait: &mut Soonest) -> Option<u64> {
        let shares = Shares::of_mounts(self.limits.mounts);
        let mut turn = Turn::after(&self.last_mount);
        for (scope, line) in &self.lines {
            if let Some((end, id)) = line.mounts.first().copied()
                && self.mounts.has_room(scope, shares, shares.all)
            {
                turn.offer(Candidate { id, end, scope });
            }
        }
        let Candidate { id, scope, .. } = turn.taken()?;
        let tenant = scope.tenant.clone();
        if self.mount_rate.is_slow(now) {
            let at = self.mount_rate.next(now);
            if at > now {
                wait.note(at);
                return None;
            }
            self.mount_rate.take();
        }
        self.last_mount = tenant;
        self.start(id)
    }

    /// Look-ups come after all others, and take a quarter of the places at most.
    fn next_look_up(
        &mut self,
        address: &str,
        health: &mut Health,
        now: Moment,
        wait: &mut Soonest,
    ) -> Option<u64> {
        let (places, shares, calm) = self.calm_places();
        if self.look_ups >= (places / 4).max(1) {
            return None;
        }
        let mut first: Option<Candidate<'_>> = None;
        for (scope, line) in &self.lines {
            let Some((end, id)) = line.look_ups.first().copied() else {
                continue;
            };
            let is_first = first.as_ref().is_none_or(|first| end < first.end);
            if !is_first || !self.keeping.has_room(scope, shares, calm) {
                continue;
            }
            match health.open(address, scope, None, now) {
                None => first = Some(Candidate { id, end, scope }),
                Some(open) => wait.note(open.until),
            }
        }
        let Candidate { id, scope, .. } = first?;
        if let Err(at) = spend(&mut self.keeping_rate, &mut self.calm_rate, now) {
            wait.note(at);
            return None;
        }
        health.begins(address, scope, now);
        self.start(id)
    }

    /// All places of what keeps or ends something, their shares, and how many of them calls take that have time.
    fn calm_places(&self) -> (usize, Shares, usize) {
        let places = self.limits.keeping;
        (
            places,
            Shares::of_keeping(places),
            (places - places / 4).max(1),
        )
    }

    fn start(&mut self, id: u64) -> Option<u64> {
        let waiter = self.waiters.get(&id)?;
        match waiter.class {
            Class::Mount => self.mounts.take(&waiter.scope),
            Class::Renewal => self.keeping.take(&waiter.scope),
            Class::Revocation => {
                self.revocations += 1;
                self.keeping.take(&waiter.scope);
            }
            Class::LookUp => {
                self.look_ups += 1;
                self.keeping.take(&waiter.scope);
            }
        }
        Some(id)
    }
}

/// Takes one call out of the rate, or out of what is kept beside it where urgent calls have taken that; else when there
/// is one.
fn spend(rate: &mut TokenBucket, calm: &mut TokenBucket, now: Moment) -> Result<(), Moment> {
    let at = rate.next(now);
    if at <= now {
        rate.take();
        return Ok(());
    }
    if !rate.is_overdrawn() {
        return Err(at);
    }
    let calm_at = calm.next(now);
    if calm_at <= now {
        calm.take();
        return Ok(());
    }
    Err(at.min(calm_at))
}

/// The earliest of several moments.
struct Soonest(Option<Moment>);

impl Soonest {
    fn note(&mut self, at: Moment) {
        self.0 = Some(self.0.map_or(at, |soonest| soonest.min(at)));
    }
}

/// Whose turn it is: the first tenant after the last one that has something to do, and of its calls the one with the
/// earliest end.
struct Turn<'a> {
    last: &'a str,
    next: Option<Candidate<'a>>,
    around: Option<Candidate<'a>>,
}

impl<'a> Turn<'a> {
    const fn after(last: &'a str) -> Self {
        Self {
            last,
            next: None,
            around: None,
        }
    }

    fn offer(&mut self, offered: Candidate<'a>) {
        let kept = if offered.scope.tenant.as_str() > self.last {
            &mut self.next
        } else {
            &mut self.around
        };
        let order =
            |candidate: &Candidate<'a>| (&candidate.scope.tenant, candidate.end, candidate.id);
        if kept
            .as_ref()
            .is_none_or(|kept| order(&offered) < order(kept))
        {
            *kept = Some(offered);
        }
    }

    fn taken(self) -> Option<Candidate<'a>> {
        self.next.or(self.around)
    }
}
