//! The place where it happens: a server, the way to it, a node, its daemon, and what is being done to them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Locked};
use std::time::{Duration, Instant};

use dev_vault::ServiceAccounts;
use rustix::process::Signal;
use tokio::sync::{Mutex, watch};

use super::Settings;
use super::plan::{Act, Mischief, TENANTS};
use super::process::{self, Starter};
use super::report::{Report, Violation};
use super::sabotage::{Front, Sabotage};
use super::server::Server;
use super::troubles::{Reach, Target, Troubles};
use super::wire::{Fault, Wire, Wrong};
use crate::support::daemon::{Daemon, Node};

/// The bound of a daemon's peak memory, in KiB: half of the manifest's limit.
const MEMORY: u64 = 128 * 1024;
/// How long a daemon that was asked to end may take.
const ENDING: Duration = Duration::from_secs(30);
/// How long the node sleeps at a jump.
const SLEEP: Duration = Duration::from_secs(45);

/// How long a pause waits for the calls under way; one that hangs goes on.
const STILL: Duration = Duration::from_secs(2);

/// A step of a life.
pub struct Step<'a>(&'a AtomicUsize);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A volume that has ended.
pub struct Departed {
    pub pod: u64,
    pub tenant: usize,
    /// For how long its tokens could have been revoked since.
    pub well: Duration,
}

pub struct Site {
    pub settings: Settings,
    pub server: Server,
    pub wire: Wire,
    pub accounts: ServiceAccounts,
    pub node: Node,
    pub report: Arc<Report>,
    pub troubles: Troubles,
    /// The static secret's value of each tenant that the server has taken.
    pub statics: [AtomicU64; TENANTS.len()],
    /// No call begins while this is set.
    paused: watch::Sender<bool>,
    /// Storms whose aftermath and quiet time were lived through.
    pub storms: AtomicU64,
    /// Steps of lives that are under way.
    under_way: AtomicUsize,
    pub live: Locked<HashMap<u64, Reach>>,
    pub departed: Locked<Vec<Departed>>,
    front: Option<Front>,
    starter: Starter,
    daemon: Mutex<Option<Daemon>>,
}

impl Site {
    pub async fn new(settings: Settings) -> Self {
        let report = Arc::new(Report::new(settings.sabotage.is_some()));
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let server = Server::start(&accounts.url(), settings.short, settings.real).await;
        let wire = Wire::start(server.address(), Arc::clone(&report), settings.sabotage).await;
        let level = format!("-log-level={}", settings.log);
        // A node's usual rate is for its usual pods; here hundreds of them go in seconds.
        let flags = ["-path-check-interval=100ms", "-renew-rate=500", &level];
        let node = Node::new(&wire.url(), &flags);
        let starter = Starter::new();
        let daemon = starter.start(&node).await;
        let front = settings.fronted.then(|| {
            let socket = node.state().with_file_name("front.sock");
            Front::start(&socket, &node.socket(), settings.sabotage)
        });
        Self {
            settings,
            server,
            wire,
            accounts,
            node,
            report,
            troubles: Troubles::default(),
            statics: [const { AtomicU64::new(0) }; TENANTS.len()],
            paused: watch::Sender::new(false),
            storms: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            live: Locked::default(),
            departed: Locked::default(),
            front,
            starter,
            daemon: Mutex::new(Some(daemon)),
        }
    }

    /// Where the driver dials.
    pub fn socket(&self) -> PathBuf {
        match self.front {
            Some(_) => self.node.state().with_file_name("front.sock"),
            None => self.node.socket(),
        }
    }

    pub fn is_fronted(&self) -> bool {
        self.front.is_some()
    }

    /// Does something bad, and undoes it.
    pub async fn suffer(&self, act: Act) {
        if act.what == Mischief::Jump && !self.starter.sleep(SLEEP) {
            return;
        }
        self.check_daemon().await;
        self.report.mischief(act.what);
        let episode = self.troubles.begin(act.what, act.target);
        match act.what {
            Mischief::Kill => self.kill(act.during).await,
            Mischief::Jump => {
                self.kill(act.during).await;
            }
            Mischief::Restart => self.restart().await,
            Mischief::Stopped => {
                let daemon = self.daemon.lock().await;
                let daemon = daemon.as_ref().expect("a daemon");
                process::signal(daemon, Signal::STOP);
                tokio::time::sleep(act.during).await;
                process::signal(daemon, Signal::CONT);
            }
            Mischief::Sealed => self.server.seal(act.during).await,
            Mischief::Gone => self.wire.vanish(act.during).await,
            what => {
                let inflicted = self.wire.inflict(Fault {
                    target: act.target,
                    renewals_alone: matches!(
                        what,
                        Mischief::RenewalsHang | Mischief::RenewalsRefused
                    ),
                    wrong: wrong(what, act.variant),
                });
                tokio::time::sleep(act.during).await;
                self.wire.relieve(inflicted);
            }
        }
        self.troubles.end(episode);
    }

    async fn kill(&self, during: Duration) {
        let mut daemon = self.daemon.lock().await;
        let killed = daemon.take().expect("a daemon");
        self.weigh(killed.pid());
        killed.kill();
        tokio::time::sleep(during).await;
        *daemon = Some(self.start().await);
    }

    /// Starts the daemon; the time that its node has slept has passed at the server too.
    async fn start(&self) -> Daemon {
        let passed = self.starter.take_unpassed();
        if !passed.is_zero() && self.server.advance(passed) {
            self.wire.shared.ledger.advance(passed);
        }
        self.starter.start(&self.node).await
    }

    pub async fn restart(&self) {
        let mut daemon = self.daemon.lock().await;
        let mut ending = daemon.take().expect("a daemon");
        self.weigh(ending.pid());
        ending.signal();
        let asked = Instant::now();
        while !ending.has_ended() && asked.elapsed() < ENDING {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if ending.has_ended() {
            let status = ending.ended().await;
            if !status.success() {
                self.ended(&format!("SIGTERM: {status}"), &ending);
            }
        } else {
            self.ended("SIGTERM was of no effect", &ending);
        }
        drop(ending);
        if self.settings.sabotage == Some(Sabotage::ForgetsItsJournal) {
            std::fs::remove_dir_all(self.node.state()).expect("a journal");
        }
        *daemon = Some(self.start().await);
    }

    /// Starts a daemon that has ended by itself again, and says so.
    pub async fn check_daemon(&self) {
        let mut daemon = self.daemon.lock().await;
        let Some(running) = daemon.as_mut() else {
            return;
        };
        if running.has_ended() {
            self.ended("by itself", running);
            *daemon = Some(self.start().await);
        }
    }

    fn ended(&self, how: &str, daemon: &Daemon) {
        self.report.violation(Violation::DaemonEnded, || {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "{how}\n{}",
                lines[lines.len().saturating_sub(10)..].join("\n")
            )
        });
    }

    pub async fn pid(&self) -> u32 {
        self.daemon.lock().await.as_ref().expect("a daemon").pid()
    }

    /// Books a daemon's peak memory.
    pub fn weigh(&self, pid: u32) {
        let Some(peak) = process::peak_memory(pid) else {
            return;
        };
        self.report.peak("KiB: peak memory of a daemon", peak);
        if peak > MEMORY {
            self.report
                .violation(Violation::Memory, || format!("{peak} KiB"));
        }
    }

    /// What the daemon has said; of all its starts, the lines that name something.
    pub fn lines_about(&self, name: &str) -> String {
        let log = self.node.logs();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(name)).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Site {
    /// Gives each tenant's static secret the next value.
    pub async fn rotate(&self) {
        for (tenant, value) in self.statics.iter().enumerate() {
            let next = value.load(Ordering::SeqCst) + 1;
            if self.server.rotate(tenant, next).await {
                value.store(next, Ordering::SeqCst);
            }
        }
    }

    /// Waits while calls are paused, and begins a step.
    pub async fn step(&self) -> Step<'_> {
        let mut paused = self.paused.subscribe();
        // The sender is ours.
        let _ = paused.wait_for(|paused| !paused).await;
        self.under_way.fetch_add(1, Ordering::SeqCst);
        Step(&self.under_way)
    }

    /// Begins no call during some work, and waits for those under way, unless they hang. Who polls nobody may lose
    /// a capped lease.
    pub async fn paused(&self, work: impl Future<Output = ()>) {
        let episode = self.troubles.begin(Mischief::NoPolls, Target::default());
        self.paused.send_replace(true);
        let began = Instant::now();
        while self.under_way.load(Ordering::SeqCst) > 0 && began.elapsed() < STILL {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        work.await;
        self.paused.send_replace(false);
        self.troubles.end(episode);
    }
}

/// Durations that no server should tell.
const ABSURD: [&str; 10] = [
    "18446744073709551615",
    "9223372036854775807",
    "-1",
    "-9223372036854775808",
    "0.5",
    "1e300",
    "\"3600\"",
    "946080000",
    "0",
    "null",
];

fn wrong(mischief: Mischief, variant: usize) -> Wrong {
    let throttled = "request path \"x\": rate limit quota exceeded";
    match mischief {
        Mischief::Throttled | Mischief::TenantThrottled | Mischief::BackendThrottled => {
            Wrong::Status(429, throttled, None)
        }
        Mischief::ThrottledWithPause
        | Mischief::TenantThrottledWithPause
        | Mischief::BackendThrottledWithPause => Wrong::Status(429, throttled, Some(1)),
        Mischief::Status500 => Wrong::Status(500, "internal error", None),
        Mischief::Status502 => Wrong::Status(502, "bad gateway", None),
        Mischief::Status503 => Wrong::Status(503, "Vault is sealed", None),
        Mischief::BackendTimesOut => Wrong::Status(504, "<html>504 Gateway Time-out</html>", None),
        Mischief::RenewalsRefused => Wrong::Status(403, "<html>403 Forbidden</html>", None),
        Mischief::Lost502 => Wrong::LostAnswer(502),
        Mischief::Reset => Wrong::Reset,
        Mischief::ResetAfterCommit => Wrong::ResetAfterWork,
        Mischief::Hang if variant.is_multiple_of(2) => Wrong::HangForNow,
        Mischief::Hang | Mischief::RenewalsHang => Wrong::Hang,
        Mischief::AbsurdDurations => Wrong::Duration(ABSURD[variant % ABSURD.len()]),
        _ => Wrong::Slow(Duration::from_millis(300)),
    }
}
