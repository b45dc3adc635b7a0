//! The one scheduler of all calls: Mounts, renewals, revocations and look-ups wait here for their turn at their
//! address, and for a server that is away.
//!
//! Whoever is let through holds a [`Permit`] for as long as the call takes. Which call goes next is said by
//! `dispatcher/queue.rs`, how fast by `dispatcher/bucket.rs`, what is away by `health.rs`. Why there is one scheduler:
//! `docs/adr/0005-one-scheduler.md`.

mod bucket;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use self::queue::{Class, Limits, Waiter};
use self::queue::{EndpointQueue, Next};
use super::health::{CircuitOpen, Health, HealthSignal, Noted, Scope};
use crate::clock::{Clock, Moment};
use crate::metrics::Metrics;

/// While something waits, it is looked at this often: time passes for a suspended node that its timers know nothing of.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The shortest time that is waited for a moment.
const TICK: Duration = Duration::from_millis(1);
/// Addresses with nothing to do that are kept.
const IDLE: usize = 256;

/// The scheduler; clones are the same one.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    limits: Limits,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    health: Health,
    addresses: HashMap<String, Address>,
    next_id: u64,
}

struct Address {
    queue: EndpointQueue,
    granted: HashMap<u64, oneshot::Sender<Permit>>,
    /// When somebody looks again.
    timer: Option<Moment>,
}

/// Leave to make one call, until it is dropped.
pub struct Permit {
    dispatcher: Dispatcher,
    address: String,
    scope: Scope,
    class: Class,
    has_left: bool,
    since: Moment,
}

impl Permit {
    /// The call takes long: it gives the address' place back, and keeps those of its tenant and its backend.
    pub fn leave_address(&mut self) {
        if self.class == Class::Mount && !std::mem::replace(&mut self.has_left, true) {
            self.dispatcher.with(&self.address, |address, _| {
                address.queue.leave();
            });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (scope, class, has_left) = (&self.scope, self.class, self.has_left);
        {
            let now = self.dispatcher.0.clock.now();
            let health = &mut self.dispatcher.lock().health;
            health.is_inconclusive(&self.address, scope, self.since, now);
        }
        self.dispatcher.with(&self.address, |address, _| {
            address.queue.ended(scope, class, has_left);
        });
    }
}

/// Takes a waiter out of its queue when nobody waits any more.
struct Waiting<'a> {
    dispatcher: &'a Dispatcher,
    address: &'a str,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let id = self.id;
        self.dispatcher.with(self.address, |address, _| {
            address.granted.remove(&id);
            address.queue.remove(id);
        });
    }
}

impl Dispatcher {
    /// `probe_timeout`: how long the probe of a server that is away may take.
    pub fn new(
        limits: Limits,
        probe_timeout: Duration,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            limits,
            clock,
            state: Mutex::new(State {
                health: Health::new(probe_timeout, metrics),
                addresses: HashMap::new(),
                next_id: 0,
            }),
        }))
    }

    /// Waits for a turn. A caller that goes away waits no more.
    pub async fn permit(&self, address: &str, waiter: Waiter) -> Permit {
        loop {
            let (sender, granted) = oneshot::channel();
            let id = self.enqueue(address, waiter.clone(), sender);
            let _waiting = Waiting {
                dispatcher: self,
                address,
                id,
            };
            // The sender is dropped with its waiter alone.
            if let Ok(permit) = granted.await {
                return permit;
            }
        }
    }

    /// Leave for a Mount's call to ask a server that may be away: a Mount that is refused costs no time. Whoever gets
    /// leave makes the call: it may be the one probe.
    pub fn admit(&self, address: &str, scope: &Scope) -> Result<(), CircuitOpen> {
        let now = self.0.clock.now();
        let health = &mut self.lock().health;
        if let Some(open) = health.open(address, scope, None, now) {
            return Err(open);
        }
        health.begins(address, scope, now);
        Ok(())
    }

    /// Takes in what a call has shown; tells whether the server is to be asked about its health.
    pub fn note(&self, address: &str, scope: &Scope, signal: HealthSignal) -> bool {
        let now = self.0.clock.now();
        let noted = self
            .lock()
            .health
            .note(address, scope, signal, now, rand::random());
        let Noted {
            ask_server,
            recovered,
        } = noted;
        self.changed(address, recovered);
        ask_server
    }

    /// What the last health check of an address said, where it is still good.
    pub fn last_check(&self, address: &str) -> Option<bool> {
        let now = self.0.clock.now();
        self.lock().health.last_check(address, now)
    }

    /// Takes in what a health check of an address says.
    pub fn checked(&self, address: &str, healthy: bool) {
        let now = self.0.clock.now();
        let recovered = self
            .lock()
            .health
            .checked(address, healthy, now, rand::random());
        self.changed(address, recovered);
    }

    /// What is known of an address' health has changed: what waits may go on.
    fn changed(&self, address: &str, recovered: bool) {
        self.with(address, |address, now| {
            if recovered {
                address.queue.start_slowly(now, rand::random());
            }
        });
    }

    fn enqueue(&self, address: &str, waiter: Waiter, sender: oneshot::Sender<Permit>) -> u64 {
        let (now, limits) = (self.0.clock.now(), self.0.limits);
        let id;
        {
            let state = &mut *self.lock();
            id = state.next_id;
            state.next_id += 1;
            if !state.addresses.contains_key(address) && state.addresses.len() >= IDLE {
                let idle = |known: &mut Address| known.queue.is_idle(now);
                state.addresses.retain(|_, known| !idle(known));
            }
            let known = state.addresses.entry(address.to_owned());
            let known = known.or_insert_with(|| Address {
                queue: EndpointQueue::new(limits, now),
                granted: HashMap::new(),
                timer: None,
            });
            known.queue.add(id, waiter);
            known.granted.insert(id, sender);
        }
        self.with(address, |_, _| {});
        id
    }

    /// Changes an address, and then lets through what may go.
    fn with(&self, address: &str, change: impl FnOnce(&mut Address, Moment)) {
        let now = self.0.clock.now();
        let mut granted = Vec::new();
        let mut wake = None;
        {
            let state = &mut *self.lock();
            let Some(known) = state.addresses.get_mut(address) else {
                return;
            };
            change(known, now);
            while known.queue.is_waiting() {
                match known.queue.next(address, &mut state.health, now) {
                    Next::Start(id) => {
                        let waiter = known.queue.remove(id);
                        granted.extend(waiter.zip(known.granted.remove(&id)));
                    }
                    Next::Wait(until) => {
                        let again = now.plus(LOOK_AGAIN);
                        let at = until.map_or(again, |until| until.min(again));
                        let at = at.max(now.plus(TICK));
                        if known.timer.is_none_or(|timer| at < timer) {
                            known.timer = Some(at);
                            wake = Some(at);
                        }
                        break;
                    }
                }
            }
        }
        // Not while the state is locked: a permit that nobody takes any more gives its place back.
        for (waiter, sender) in granted {
            let permit = Permit {
                dispatcher: self.clone(),
                address: address.to_owned(),
                scope: waiter.scope,
                class: waiter.class,
                has_left: false,
                since: now,
            };
            drop(sender.send(permit));
        }
        if let Some(at) = wake {
            self.look_again(address, at, at.since(now));
        }
    }

    fn look_again(&self, address: &str, at: Moment, pause: Duration) {
        // None at the very end, when a runtime drops what it still held.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (dispatcher, address) = (self.clone(), address.to_owned());
        runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            dispatcher.with(&address, |known, _| {
                // An earlier one may have taken its place.
                if known.timer == Some(at) {
                    known.timer = None;
                }
            });
        });
    }

    /// A panic while the lock is held cannot leave the state half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
