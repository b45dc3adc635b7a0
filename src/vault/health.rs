//! Who is away: a server, a backend for everybody, or one tenant at a backend.
//!
//! A circuit breaker for each, the narrow ones first. A failure counts for the tenant that met it: a broken role, a
//! namespace that was locked, a quota of its own stops nobody else. A backend is away when several tenants say so, an
//! address when several tenants do at several backends, when connections to it fail, or when its own health check says so. Any proper
//! answer closes what it came through.
//!
//! An open circuit lets one probe through at a time. Its pauses are short (a thousand nodes make 200 probes a second),
//! and never longer than a part of what is left of that which a call keeps alive. `Retry-After` binds whom it was
//! said to.

mod circuit;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tracing::{info, warn};

use self::circuit::Circuit;
use crate::clock::Moment;
use crate::metrics::Metrics;

/// Failures in a row that open a tenant's own circuit, and that of an address which cannot be reached: one answer lost
/// on the way must not stop a node.
const CONSECUTIVE: u32 = 3;
/// So many tenants without a success in between are a backend's failure, and so many at so many backends an address'.
const SEVERAL: usize = 3;
/// A failure counts for others for so long.
const COUNTS: Duration = Duration::from_secs(60);
/// After an outage of this length much has come due, on every node of a fleet: calls start slowly.
const LONG: Duration = Duration::from_secs(5);
/// A health check's result holds this long for the next call that fails ambiguously.
const CHECK_HOLDS: Duration = Duration::from_secs(1);
/// Tenants choose addresses and paths: so many of each that fail are remembered.
const REMEMBERED: usize = 1024;

/// Whose calls share a fate, at one address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The pod's namespace.
    pub tenant: String,
    /// The server's namespace; empty for its root.
    pub namespace: String,
    /// Where a call goes, as far as a path tells.
    pub backend: String,
}

impl Scope {
    /// The scope of a call with a path. Where a path's backend ends is the server's to know: two segments are near
    /// enough to it.
    pub fn new(tenant: &str, namespace: Option<&str>, path: &str) -> Self {
        let second = path.match_indices('/').nth(1);
        let backend = second.map_or(path, |(end, _)| path.get(..end).unwrap_or(path));
        Self {
            tenant: tenant.to_owned(),
            namespace: namespace.unwrap_or_default().to_owned(),
            backend: backend.to_owned(),
        }
    }

    fn place(&self) -> Place {
        (self.namespace.clone(), self.backend.clone())
    }
}

/// A backend within a server: its namespace and its path.
type Place = (String, String);

/// What a call has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthSignal {
    /// A proper answer, a refusal perhaps.
    Healthy,
    /// No connection, or it broke: this speaks of the address.
    Unreachable,
    /// The call could not be served.
    Failing {
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
        /// Whose trouble it may be.
        reach: Reach,
    },
    /// A 500: the trouble of one role, perhaps. The health check decides.
    Ambiguous,
    /// The call says nothing: it was never sent, or never taken.
    Silent,
}

/// How far the cause of a failure may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The whole server: 502, 503, 504, or no answer in time.
    Server,
    /// A quota: of whom, it does not say. The health check is exempt from quotas and tells nothing.
    Quota,
    /// The caller's namespace alone: it is locked or sealed.
    Namespace,
}

/// What is to be done about a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The server is to be asked about its health, which [`Health::checked`] then takes.
    pub ask_server: bool,
    /// The address was away for long and has answered.
    pub recovered: bool,
}

/// A circuit that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitOpen {
    /// When to ask again.
    pub until: Moment,
    /// Since when it is open.
    pub since: Moment,
    /// What is away.
    pub what: &'static str,
}

/// The circuits of all addresses.
pub struct Health {
    addresses: HashMap<String, AddressHealth>,
    /// How long a probe may take; after that the next one is let through.
    probe_timeout: Duration,
    metrics: Metrics,
}

#[derive(Default)]
struct AddressHealth {
    circuit: Circuit,
    /// The backends that have failed since the last success, and for whom.
    failing: BTreeMap<(Place, String), Moment>,
    backends: BTreeMap<Place, BackendHealth>,
    checked: Option<(Moment, bool)>,
    touched: Option<Moment>,
}

#[derive(Default)]
struct BackendHealth {
    circuit: Circuit,
    /// The tenants that have failed since the last success.
    failing: BTreeMap<String, Moment>,
    tenants: BTreeMap<String, Circuit>,
    touched: Option<Moment>,
}

impl Health {
    pub fn new(probe_timeout: Duration, metrics: Metrics) -> Self {
        Self {
            addresses: HashMap::new(),
            probe_timeout,
            metrics,
        }
    }

    /// What keeps a call from being made now. `end` is when that ends which the call keeps alive: no pause of ours
    /// takes more than a quarter of what is left until then.
    pub fn open(
        &self,
        address: &str,
        scope: &Scope,
        end: Option<Moment>,
        now: Moment,
    ) -> Option<CircuitOpen> {
        let known = self.addresses.get(address)?;
        let backend = known.backends.get(&scope.place());
        let tenant = backend.and_then(|backend| backend.tenants.get(&scope.tenant));
        let levels = [
            (Some(&known.circuit), "it"),
            (
                backend.map(|backend| &backend.circuit),
                "this backend of it",
            ),
            (tenant, "this backend of it, for this namespace,"),
        ];
        let open = levels.into_iter().filter_map(|(circuit, what)| {
            let (until, since) = circuit?.open(end, now)?;
            Some(CircuitOpen { until, since, what })
        });
        open.max_by_key(|open| open.until)
    }

    /// A call is made that nothing keeps from it: it is the probe of all circuits on its way that are open.
    pub fn begins(&mut self, address: &str, scope: &Scope, now: Moment) {
        let probe_timeout = self.probe_timeout;
        let Some(known) = self.addresses.get_mut(address) else {
            return;
        };
        known.circuit.probe(probe_timeout, now);
        if let Some(backend) = known.backends.get_mut(&scope.place()) {
            backend.circuit.probe(probe_timeout, now);
            if let Some(circuit) = backend.tenants.get_mut(&scope.tenant) {
                circuit.probe(probe_timeout, now);
            }
        }
    }

    /// Takes in what a call has shown. [`HealthSignal::Ambiguous`] is for the health check.
    pub fn note(
        &mut self,
        address: &str,
        scope: &Scope,
        signal: HealthSignal,
        now: Moment,
        jitter: f64,
    ) -> Noted {
        match signal {
            HealthSignal::Healthy => Noted {
                recovered: self.healthy(address, scope, now),
                ..Noted::default()
            },
            HealthSignal::Unreachable => {
                self.address_fails(address, CONSECUTIVE, now, jitter);
                Noted::default()
            }
            HealthSignal::Failing { retry_after, reach } => {
                self.scope_fails(address, scope, retry_after, reach, now, jitter)
            }
            HealthSignal::Ambiguous => Noted {
                ask_server: true,
                ..Noted::default()
            },
            HealthSignal::Silent => {
                self.is_inconclusive(address, scope, Moment::from_boot(Duration::ZERO), now);
                Noted::default()
            }
        }
    }

    /// A call that was let through at `since` has ended, or was not made. Where it was a probe and has shown nothing,
    /// another one may be made: whoever waits for it must not wait until it would have timed out.
    pub fn is_inconclusive(&mut self, address: &str, scope: &Scope, since: Moment, now: Moment) {
        let Some(known) = self.addresses.get_mut(address) else {
            return;
        };
        known.circuit.is_inconclusive(since, now);
        if let Some(backend) = known.backends.get_mut(&scope.place()) {
            backend.circuit.is_inconclusive(since, now);
            if let Some(circuit) = backend.tenants.get_mut(&scope.tenant) {
                circuit.is_inconclusive(since, now);
            }
        }
    }

    /// A health check's result, where it is still good.
    pub fn last_check(&self, address: &str, now: Moment) -> Option<bool> {
        let (at, healthy) = self.addresses.get(address)?.checked?;
        (now.since(at) < CHECK_HOLDS).then_some(healthy)
    }

    /// Takes in what the health check says; whether the address was away for long and is not any more.
    pub fn checked(&mut self, address: &str, healthy: bool, now: Moment, jitter: f64) -> bool {
        let known = self.address(address, now);
        known.checked = Some((now, healthy));
        if !healthy {
            let mut tenants = known.backends.values().flat_map(|it| it.tenants.values());
            // One check that fails may be an answer lost on the way.
            let consecutive = if tenants.any(Circuit::is_open) {
                1
            } else {
                CONSECUTIVE
            };
            self.address_fails(address, consecutive, now, jitter);
            return false;
        }
        let Some(known) = self.addresses.get_mut(address) else {
            return false;
        };
        known.failing.clear();
        Self::closes(address, &mut known.circuit, now, &self.metrics)
    }

    fn healthy(&mut self, address: &str, scope: &Scope, now: Moment) -> bool {
        let Some(known) = self.addresses.get_mut(address) else {
            return false;
        };
        known.failing.clear();
        let place = scope.place();
        if let Some(backend) = known.backends.get_mut(&place) {
            backend.failing.clear();
            let tenant = backend.tenants.remove(&scope.tenant);
            let was_open = [Some(std::mem::take(&mut backend.circuit)), tenant];
            if was_open.into_iter().flatten().any(|it| it.is_open()) {
                let Scope {
                    tenant,
                    namespace,
                    backend,
                } = scope;
                info!(address, tenant, namespace, backend, "backend answers again");
            }
            if backend.tenants.is_empty() {
                known.backends.remove(&place);
            }
        }
        let recovered = Self::closes(address, &mut known.circuit, now, &self.metrics);
        let is_checked = known
            .checked
            .is_some_and(|(at, _)| now.since(at) < CHECK_HOLDS);
        if known.backends.is_empty() && !is_checked {
            self.addresses.remove(address);
        }
        self.count();
        recovered
    }

    fn closes(address: &str, circuit: &mut Circuit, now: Moment, metrics: &Metrics) -> bool {
        let Some(since) = std::mem::take(circuit).since() else {
            return false;
        };
        let away = now.since(since);
        let seconds = away.as_secs();
        info!(
            address,
            seconds, "server answers again; the earliest ends come first"
        );
        metrics.breaker_open(address, false);
        away >= LONG
    }

    fn address_fails(&mut self, address: &str, consecutive: u32, now: Moment, jitter: f64) {
        let circuit = &mut self.address(address, now).circuit;
        if circuit.fails(consecutive, None, now, jitter) {
            warn!(
                address,
                "server is away: calls to it wait, and one at a time probes it"
            );
            self.metrics.breaker_open(address, true);
        }
    }

    fn scope_fails(
        &mut self,
        address: &str,
        scope: &Scope,
        retry_after: Option<Duration>,
        reach: Reach,
        now: Moment,
        jitter: f64,
    ) -> Noted {
        let metrics = self.metrics.clone();
        let known = self.address(address, now);
        let place = scope.place();
        let backend = known.backend(&place, now);
        let tenant = backend.tenants.entry(scope.tenant.clone()).or_default();
        let opened = tenant.fails(CONSECUTIVE, retry_after, now, jitter);
        let mut widened = false;
        if reach != Reach::Namespace {
            backend.failing.insert(scope.tenant.clone(), now);
            backend.failing.retain(|_, at| now.since(*at) < COUNTS);
            if backend.failing.len() >= SEVERAL || backend.circuit.is_open() {
                widened = backend.circuit.fails(1, None, now, jitter);
            }
            known.failing.insert((place, scope.tenant.clone()), now);
            known.failing.retain(|_, at| now.since(*at) < COUNTS);
        } else {
            // It has answered, if only for this namespace.
            let ever = Moment::from_boot(Duration::ZERO);
            backend.circuit.is_inconclusive(ever, now);
        }
        // One that was not reachable is, where its probe was answered at all.
        let is_probed = known.circuit.is_probed();
        let places: BTreeSet<&Place> = known.failing.keys().map(|(place, _)| place).collect();
        let tenants: BTreeSet<&String> = known.failing.keys().map(|(_, tenant)| tenant).collect();
        let several = places.len() >= SEVERAL && tenants.len() >= SEVERAL;
        let mut recovered = false;
        if is_probed && !several && reach != Reach::Server {
            recovered = Self::closes(address, &mut known.circuit, now, &metrics);
        } else if several {
            self.address_fails(address, 1, now, jitter);
        }
        if opened || widened {
            let Scope {
                tenant,
                namespace,
                backend,
            } = scope;
            let everybody = widened;
            warn!(
                address,
                tenant,
                namespace,
                backend,
                everybody,
                "backend fails: these calls wait, and one at a time probes it"
            );
        }
        self.count();
        Noted {
            ask_server: reach == Reach::Server && (opened || is_probed),
            recovered,
        }
    }

    fn address(&mut self, address: &str, now: Moment) -> &mut AddressHealth {
        if self.addresses.len() >= REMEMBERED && !self.addresses.contains_key(address) {
            let all = self.addresses.iter();
            let all = all.map(|(address, known)| (address, known.touched, known.tenants()));
            if let Some(one) = most_greedy(all).cloned() {
                self.addresses.remove(&one);
                self.metrics.breaker_open(&one, false);
            }
        }
        let known = self.addresses.entry(address.to_owned()).or_default();
        known.touched = Some(now);
        known
    }

    /// Tells how many circuits are open below those of addresses.
    fn count(&self) {
        let backends = self
            .addresses
            .values()
            .flat_map(|known| known.backends.values());
        let open = backends.map(|backend| {
            let tenants = backend.tenants.values();
            usize::from(backend.circuit.is_open())
                + tenants.filter(|circuit| circuit.is_open()).count()
        });
        self.metrics.backends_failing(open.sum());
    }
}

/// Which of many to forget: the one that was touched longest ago of the tenant who has the most of them.
fn most_greedy<'a, K>(
    all: impl Iterator<Item = (&'a K, Option<Moment>, BTreeSet<&'a str>)>,
) -> Option<&'a K> {
    let all: Vec<_> = all.collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tenant in all.iter().flat_map(|(_, _, tenants)| tenants) {
        *counts.entry(tenant).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    let greedy = most.map(|(tenant, _)| tenant);
    // Nobody else's, where there is such a one.
    let rank = |tenants: &BTreeSet<&str>| {
        let mine = greedy.is_some_and(|greedy| tenants.contains(greedy));
        (!mine, tenants.len())
    };
    let one = all
        .iter()
        .min_by_key(|(_, touched, tenants)| (rank(tenants), *touched));
    one.map(|(key, ..)| *key)
}

impl AddressHealth {
    fn tenants(&self) -> BTreeSet<&str> {
        let backends = self.backends.values();
        backends
            .flat_map(|backend| backend.tenants.keys().map(String::as_str))
            .collect()
    }

    fn backend(&mut self, place: &Place, now: Moment) -> &mut BackendHealth {
        if self.backends.len() >= REMEMBERED && !self.backends.contains_key(place) {
            let all = self.backends.iter();
            let all = all.map(|(place, backend)| {
                let tenants = backend.tenants.keys().map(String::as_str).collect();
                (place, backend.touched, tenants)
            });
            if let Some(one) = most_greedy(all).cloned() {
                self.backends.remove(&one);
            }
        }
        let backend = self.backends.entry(place.clone()).or_default();
        backend.touched = Some(now);
        backend
    }
}
