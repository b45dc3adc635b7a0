//! The harness: lives of pods, mischief, and the books. `main.rs` says what it is for; `tests/sabotage.rs` shows
//! that it can fail.

mod books;
mod ledger;
mod life;
mod plan;
mod process;
mod report;
pub mod sabotage;
mod server;
mod site;
mod troubles;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::Notify;

use self::life::Pod;
pub use self::report::Report;
use self::sabotage::Sabotage;
use self::site::Site;
use self::troubles::AFTER_SERVER;
use crate::real_process;
use crate::support::driver::Driver;

/// A storm's aftermath is followed by so much time in which everything must be well.
const QUIET: Duration = Duration::from_secs(4);

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lives.
    pub cycles: u64,
    pub seed: u64,
    /// Lives at a time.
    pub at_once: u64,
    pub sabotage: Option<Sabotage>,
    /// No mischief, and lives of so many polls.
    pub plain: Option<usize>,
    /// The driver speaks to the daemon through a front.
    pub fronted: bool,
    /// On a real server, where the environment names one.
    pub real: bool,
    /// The daemon's log level.
    pub log: String,
    /// The term of the leases that are renewed all the time.
    pub short: Duration,
    /// How long after an unmount a token may be alive at a reachable server.
    pub revocation: Duration,
    /// When a first mount is given up, as its pod is deleted.
    pub patience: Duration,
    /// Mischief also of one tenant, or of one engine of one tenant.
    pub scoped: bool,
    /// How long the books may take to agree in the end: what failed is tried again at most a minute later.
    pub closing: Duration,
}

impl Settings {
    /// A run with mischief.
    pub fn new(cycles: u64, seed: u64, at_once: u64) -> Self {
        Self {
            cycles,
            seed,
            at_once,
            sabotage: None,
            plain: None,
            fronted: false,
            real: true,
            log: "info".to_owned(),
            short: Duration::from_secs(6),
            revocation: Duration::from_secs(15),
            patience: Duration::from_secs(30),
            scoped: true,
            closing: Duration::from_secs(75),
        }
    }

    /// A small run without mischief, through the saboteur's fronts.
    pub fn sabotaged(sabotage: Option<Sabotage>) -> Self {
        Self {
            sabotage,
            plain: Some(9),
            fronted: true,
            real: false,
            short: Duration::from_secs(2),
            revocation: Duration::from_secs(4),
            patience: Duration::from_secs(2),
            closing: Duration::from_secs(if sabotage.is_some() { 0 } else { 20 }),
            ..Self::new(8, 1, 8)
        }
    }

    fn life(&self, cycle: u64) -> plan::Life {
        match self.plain {
            Some(polls) => plan::plain(cycle, polls),
            None => plan::life(self.seed, cycle),
        }
    }
}

/// How a run ended.
pub struct Outcome {
    pub report: Arc<Report>,
    pub text: String,
    /// Where the daemon's logs are, if it failed without being sabotaged.
    pub logs: Option<std::path::PathBuf>,
}

/// Runs it all.
pub async fn run(settings: Settings) -> Outcome {
    let started = Instant::now();
    let site = Site::new(settings.clone()).await;
    let over = AtomicBool::new(false);
    let done = Notify::new();
    let lives = async {
        live(&site, &settings).await;
        over.store(true, Ordering::SeqCst);
        done.notify_waiters();
    };
    tokio::join!(
        lives,
        mischief(&site, &over, &done),
        books::watch(&site, &over)
    );
    site.report.peak(
        "ms: the lives took",
        u64::try_from(started.elapsed().as_millis()).unwrap(),
    );
    // What went last is looked for as long as all others.
    let over = AtomicBool::new(false);
    let rest = async {
        if settings.plain.is_none() {
            tokio::time::sleep(AFTER_SERVER).await;
            books::idle(&site).await;
        }
        let began = Instant::now();
        let most = match settings.sabotage {
            None | Some(Sabotage::RevokesNothing) => settings.revocation + AFTER_SERVER,
            // Told by now, or never.
            Some(_) => Duration::ZERO,
        };
        while !site.departed.lock().unwrap().is_empty() && began.elapsed() < most {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(rest, books::watch(&site, &over));
    books::close(&site).await;
    books::shares(&site, &settings);
    let took = started.elapsed().as_secs_f64();
    let text = site.report.text(site.server.name(), settings.seed, took);
    let report = Arc::clone(&site.report);
    let keeps = !report.passes() && settings.sabotage.is_none();
    let logs = keeps.then(|| site.node.keep());
    Outcome { report, text, logs }
}

async fn live(site: &Site, settings: &Settings) {
    let next = AtomicU64::new(0);
    let lanes = (0..settings.at_once).map(|_| async {
        let driver = Driver::dial(&site.socket());
        loop {
            let cycle = next.fetch_add(1, Ordering::SeqCst);
            // A run without a quiet time would show little.
            let is_enough = settings.plain.is_some() || site.storms.load(Ordering::SeqCst) > 0;
            if cycle >= settings.cycles && is_enough {
                break;
            }
            let life = settings.life(cycle);
            Pod::new(site, &driver, cycle, &life).live(&life).await;
            site.report.count("cycles");
        }
    });
    let lanes: futures::stream::FuturesUnordered<_> = lanes.collect();
    lanes.collect::<Vec<()>>().await;
}

/// Storms, each followed by a time in which all must be well, and one in which nobody calls.
async fn mischief(site: &Site, over: &AtomicBool, done: &Notify) {
    if settings_are_plain(site).await {
        return;
    }
    let mut storm = plan::storms(site.settings.seed, site.settings.scoped);
    let is_over = || over.load(Ordering::SeqCst);
    while !is_over() {
        for acts in storm() {
            if is_over() {
                return;
            }
            let calm = acts.iter().map(|act| act.calm).max().unwrap_or_default();
            futures::future::join_all(acts.into_iter().map(|act| site.suffer(act))).await;
            tokio::time::sleep(calm).await;
        }
        let all_well = tokio::time::sleep(AFTER_SERVER + QUIET);
        tokio::select! {
            () = all_well => books::lull(site).await,
            () = done.notified() => return,
        }
        site.storms.fetch_add(1, Ordering::SeqCst);
    }
}

/// A plain run has no mischief, but for the restart at which a saboteur takes the journal away.
async fn settings_are_plain(site: &Site) -> bool {
    if site.settings.plain.is_none() {
        return false;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    if site.settings.sabotage == Some(Sabotage::ForgetsItsJournal) {
        site.restart().await;
    }
    if site.settings.sabotage.is_none()
        || site.settings.sabotage == Some(Sabotage::ForgetsItsJournal)
    {
        books::compare(site).await;
    }
    true
}
