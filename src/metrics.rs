//! The daemon's counters, in Prometheus' text format. No global state: whoever counts is handed a clone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Addresses whose breakers are named one by one.
const MOST_BREAKERS: usize = 64;

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The daemon's metrics; clones share their counts.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    mounts: Counters,
    mount_seconds: Histograms,
    vault_calls: Counters,
    vault_seconds: Histograms,
    volumes: Gauge,
    renewals: Counters,
    look_ups: Counters,
    releases: Counters,
    missed: Counters,
    journal_errors: Counters,
    quarantined: Counter,
    degraded: Family<Labels, Gauge>,
    degradations: Mutex<BTreeSet<String>>,
    breakers: Family<Labels, Gauge>,
    breakers_open: Mutex<BTreeSet<String>>,
    backends_failing: Gauge,
    doubtful: Gauge,
    rotations: Counter,
    unattended: Counters,
    events: Counters,
    task_exits: Counters,
    alive: Family<Labels, Gauge>,
    nearest_end: Gauge<f64, AtomicU64>,
    keeping_waiting: Gauge,
    keeping_demand: Gauge<f64, AtomicU64>,
    keeping_capacity: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("leasehold");
        let metrics = Inner {
            mounts: counters(
                &mut registry,
                "mounts",
                "Mount calls answered, by gRPC code",
            ),
            mount_seconds: histograms(&mut registry, "mount_duration", "Duration of Mount calls"),
            vault_calls: counters(
                &mut registry,
                "vault_calls",
                "Calls to Vault, by operation and HTTP status",
            ),
            vault_seconds: histograms(
                &mut registry,
                "vault_call_duration",
                "Duration of calls to Vault, by operation",
            ),
            volumes: Gauge::default(),
            renewals: counters(&mut registry, "renewals", "Renewals, by kind and outcome"),
            look_ups: counters(
                &mut registry,
                "look_ups",
                "Questions whether the server still knows a token or a lease, by kind and outcome",
            ),
            releases: counters(
                &mut registry,
                "releases",
                "Revocations, by kind and outcome",
            ),
            missed: counters(
                &mut registry,
                "deadlines_missed",
                "Credentials of mounted volumes that reached their end, by kind",
            ),
            journal_errors: counters(
                &mut registry,
                "journal_errors",
                "Journal files that could not be written or read, by step",
            ),
            unattended: counters(
                &mut registry,
                "unattended",
                "Credentials near their end that no rotation poll came to replace, by kind",
            ),
            events: counters(&mut registry, "events", "Events on pods, by outcome"),
            task_exits: counters(
                &mut registry,
                "background_task_exits",
                "Background tasks that ended and were started again, by task and reason",
            ),
            rotations: Counter::default(),
            quarantined: Counter::default(),
            degraded: Family::default(),
            degradations: Mutex::default(),
            breakers: Family::default(),
            breakers_open: Mutex::default(),
            backends_failing: Gauge::default(),
            doubtful: Gauge::default(),
            alive: Family::default(),
            // 0 would be a time long past, until the registry has looked for the first time.
            nearest_end: {
                let none = Gauge::<f64, AtomicU64>::default();
                none.set(f64::INFINITY);
                none
            },
            keeping_waiting: Gauge::default(),
            keeping_demand: Gauge::default(),
            keeping_capacity: Gauge::default(),
            registry,
        };
        Self(Arc::new(metrics.with_gauges()))
    }

    /// A Mount was answered.
    pub fn mount(&self, code: &str, took: Duration) {
        let labels = vec![("code", code.to_owned())];
        self.0.mounts.get_or_create(&labels).inc();
        self.0
            .mount_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A call to Vault has ended; `status` is the HTTP status, `ok`, or `none` without a reply. A status that no
    /// standard knows is counted as `other`: a tenant's server must not fill the metrics.
    pub fn vault_call(&self, operation: &'static str, status: &str, took: Duration) {
        let status = match status.parse::<u16>() {
            Ok(code) if !is_known(code) => "other",
            _ => status,
        };
        let operation = ("operation", operation.to_owned());
        let labels = vec![operation.clone(), ("status", status.to_owned())];
        self.0.vault_calls.get_or_create(&labels).inc();
        self.0
            .vault_seconds
            .get_or_create(&vec![operation])
            .observe(took.as_secs_f64());
    }

    /// How many volumes the registry holds.
    pub fn volumes(&self, count: usize) {
        self.0.volumes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A renewal has ended.
    pub fn renewal(&self, kind: &str, outcome: &str) {
        let labels = by_kind(kind, outcome);
        self.0.renewals.get_or_create(&labels).inc();
    }

    /// A look-up has ended.
    pub fn look_up(&self, kind: &str, outcome: &str) {
        let labels = by_kind(kind, outcome);
        self.0.look_ups.get_or_create(&labels).inc();
    }

    /// A revocation has ended.
    pub fn release(&self, kind: &str, outcome: &str) {
        let labels = by_kind(kind, outcome);
        self.0.releases.get_or_create(&labels).inc();
    }

    /// A mounted volume's credential has reached its end.
    pub fn deadline_missed(&self, kind: &str) {
        let labels = vec![("kind", kind.to_owned())];
        self.0.missed.get_or_create(&labels).inc();
    }

    /// The journal failed at a step.
    pub fn journal_error(&self, step: &str) {
        let labels = vec![("step", step.to_owned())];
        self.0.journal_errors.get_or_create(&labels).inc();
    }

    /// A volume's state broke the daemon and was set aside.
    pub fn quarantined(&self) {
        self.0.quarantined.inc();
    }

    /// Something that the daemon could do is missing, or is there again.
    pub fn degraded(&self, reason: &str, is: bool) {
        let labels = vec![("reason", reason.to_owned())];
        self.0.degraded.get_or_create(&labels).set(i64::from(is));
        let mut all = self.degradations_now();
        if is {
            all.insert(reason.to_owned());
        } else {
            all.remove(reason);
        }
    }

    /// The reasons that are in force.
    #[must_use]
    pub fn degradations(&self) -> Vec<String> {
        self.degradations_now().iter().cloned().collect()
    }

    fn degradations_now(&self) -> MutexGuard<'_, BTreeSet<String>> {
        let all = &self.0.degradations;
        all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A breaker has opened, or closed. Tenants choose addresses: a closed one is forgotten, and those beyond the
    /// first [`MOST_BREAKERS`] are counted together, as `others`.
    pub fn breaker_open(&self, address: &str, is: bool) {
        let all = &self.0.breakers_open;
        let mut open = all.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match is {
            true => open.insert(address.to_owned()),
            false => open.remove(address),
        };
        if !is_news {
            return;
        }
        let gauges = &self.0.breakers;
        let labels = |address: &str| vec![("address", address.to_owned())];
        gauges.remove(&labels(address));
        // The first in the order of their names: the same ones are named whichever opened first.
        for address in open.iter().take(MOST_BREAKERS) {
            gauges.get_or_create(&labels(address)).set(1);
        }
        if let Some(pushed_out) = open.iter().nth(MOST_BREAKERS) {
            gauges.remove(&labels(pushed_out));
        }
        match open.len().saturating_sub(MOST_BREAKERS) {
            0 => {
                gauges.remove(&labels("others"));
            }
            more => {
                let more = i64::try_from(more).unwrap_or(i64::MAX);
                gauges.get_or_create(&labels("others")).set(more);
            }
        }
    }

    /// How many circuits are open below those of addresses: of a backend, or of one namespace at it.
    pub fn backends_failing(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.backends_failing.set(count);
    }

    /// How many volumes are not renewed because nothing shows that they are still mounted.
    pub fn doubtful(&self, count: usize) {
        self.0
            .doubtful
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A poll has replaced credentials of a volume.
    pub fn rotated(&self) {
        self.0.rotations.inc();
    }

    /// No poll came to replace something near its end.
    pub fn unattended(&self, kind: &str) {
        let labels = vec![("kind", kind.to_owned())];
        self.0.unattended.get_or_create(&labels).inc();
    }

    /// An event on a pod was written, failed, or dropped.
    pub fn event(&self, outcome: &str) {
        let labels = vec![("outcome", outcome.to_owned())];
        self.0.events.get_or_create(&labels).inc();
    }

    /// A background task has ended.
    pub fn task_exited(&self, task: &str, reason: &str) {
        let labels = vec![("task", task.to_owned()), ("reason", reason.to_owned())];
        self.0.task_exits.get_or_create(&labels).inc();
    }

    /// How many things of a kind mounted volumes hold.
    pub fn alive(&self, kind: &str, count: usize) {
        let labels = vec![("kind", kind.to_owned())];
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.alive.get_or_create(&labels).set(count);
    }

    /// When the first of them ends, in seconds of Unix time; `None`: nothing does.
    pub fn nearest_end(&self, at: Option<f64>) {
        self.0.nearest_end.set(at.unwrap_or(f64::INFINITY));
    }

    /// Renewals and revocations that wait, the calls a second that renewals take, and the rate allowed at
    /// each address.
    pub fn keeping(&self, waiting: usize, demand: f64, capacity: f64) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.0.keeping_waiting.set(waiting);
        self.0.keeping_demand.set(demand);
        self.0.keeping_capacity.set(capacity);
    }

    /// The text that a scrape gets.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _: fmt::Result = encode(&mut text, &self.0.registry);
        text
    }
}

impl Inner {
    fn with_gauges(mut self) -> Self {
        self.registry
            .register("volumes", "Volumes in the registry", self.volumes.clone());
        self.registry.register(
            "degraded",
            "1 where the daemon works without something it could use",
            self.degraded.clone(),
        );
        self.registry.register(
            "breaker_open",
            "1 for each address that is away: calls to it wait, one at a time tries",
            self.breakers.clone(),
        );
        self.registry.register(
            "doubtful_volumes",
            "Volumes that are not renewed because nothing shows that they are still mounted",
            self.doubtful.clone(),
        );
        self.registry.register(
            "backends_failing",
            "Backends whose calls fail, each for everybody or for one namespace: these calls wait, one at a time probes",
            self.backends_failing.clone(),
        );
        self.registry.register(
            "rotations",
            "Polls that have replaced credentials of a volume",
            self.rotations.clone(),
        );
        self.registry.register(
            "quarantined",
            "Volumes whose state broke the daemon and was set aside",
            self.quarantined.clone(),
        );
        self.registry.register(
            "alive",
            "What mounted volumes hold, by kind",
            self.alive.clone(),
        );
        self.registry.register(
            "nearest_end_timestamp_seconds",
            "When the first token, lease or certificate of a mounted volume ends, in Unix time",
            self.nearest_end.clone(),
        );
        self.registry.register(
            "keeping_waiting",
            "Renewals and revocations that are due and wait for the rate, a place or the server",
            self.keeping_waiting.clone(),
        );
        self.registry.register(
            "keeping_demand_per_second",
            "Calls a second that renewals take on the long run, at all addresses",
            self.keeping_demand.clone(),
        );
        self.registry.register(
            "keeping_capacity_per_second",
            "Renewals and revocations a second that are allowed at each address",
            self.keeping_capacity.clone(),
        );
        let build = Family::<Labels, Gauge>::default();
        build
            .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        self.registry
            .register("build", "The running version", build);
        self
    }
}

fn by_kind(kind: &str, outcome: &str) -> Labels {
    vec![("kind", kind.to_owned()), ("outcome", outcome.to_owned())]
}

fn counters(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

fn histograms(registry: &mut Registry, name: &str, help: &str) -> Histograms {
    let family = Histograms::new_with_constructor(buckets as fn() -> Histogram);
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

/// Whether a status is a standard one, or Vault's own for a standby (472, 473).
fn is_known(code: u16) -> bool {
    let standard = http::StatusCode::from_u16(code).ok();
    matches!(code, 472 | 473) || standard.is_some_and(|code| code.canonical_reason().is_some())
}

/// 1 ms to 16 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

#[cfg(test)]
mod tests;
