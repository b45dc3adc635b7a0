//! A node full of volumes: how soon it is ready again after a kill, and how its leases come back after an
//! outage. Prints figures; asserts nothing about time.
//!
//! `cargo bench --bench scale` takes about six minutes, most of it waiting for terms to pass;
//! `-- restart`, `-- update` or `-- herd` runs one part.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/support/admin.rs"]
mod admin;
#[path = "../tests/support/daemon.rs"]
mod daemon;
#[path = "../tests/support/driver.rs"]
mod driver;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use admin::Admin;
use daemon::{Daemon, Node};
use dev_vault::{DevVault, Options, ServiceAccounts};
use driver::{Driver, Volume};
use futures::StreamExt;
use process::{cpu, memory};
use serde_json::json;

/// Journalled volumes of the restart.
const MANY: usize = 10_000;
/// Volumes of the rolling update.
const UPDATED: usize = 1_000;
/// Volumes of the outage; each has a token and a lease.
const HERD: usize = 2_500;
const HERD_TERM: Duration = Duration::from_secs(240);

const OBJECTS: &str = "
- {objectName: username, secretPath: database/creds/app, secretKey: username}
- {objectName: password, secretPath: database/creds/app, secretKey: password}
";

struct Bench {
    vault: DevVault,
    accounts: ServiceAccounts,
    node: Node,
}

#[tokio::main]
async fn main() {
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|part| !part.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|asked| asked == part);
    if wanted("restart") {
        restart().await;
    }
    if wanted("update") {
        update().await;
    }
    if wanted("herd") {
        herd().await;
    }
}

impl Bench {
    async fn new(term: Duration) -> Self {
        let vault = DevVault::start(Options::default())
            .await
            .expect("dev-vault");
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let admin = Admin::new(&vault.url(), vault.root_token());
        let term = format!("{}s", term.as_secs());
        let database = json!({ "default_ttl": term });
        let role = json!({ "token_ttl": term });
        admin.shop(&accounts.url(), database, "720h", role).await;
        let flags = [
            "-log-level=info",
            "-state-quota=1073741824",
            "-path-check-interval=5s",
            "-path-confirm=2s",
        ];
        let node = Node::new(&vault.url(), &flags);
        Self {
            vault,
            accounts,
            node,
        }
    }

    async fn mount(&self, count: usize) -> f64 {
        let driver = Driver::dial(&self.node.socket());
        let class = json!({ "roleName": "app", "objects": OBJECTS });
        let hour = Duration::from_secs(3600);
        let token = self.accounts.mint("shop", "web", "vault", hour);
        let tokens = BTreeMap::from([("vault".to_owned(), token)]);
        let started = Instant::now();
        let mounts = (0..count).map(|index| {
            let pod = format!("web-{index}");
            let volume = Volume::new(&self.node.pods(), "shop", &pod, &pod, "secrets");
            let (driver, class, tokens) = (&driver, &class, &tokens);
            async move {
                volume.prepare();
                let attributes = volume.attributes(class, tokens);
                let answer = driver.call(driver::request(&volume, &attributes, "")).await;
                assert_eq!(answer.expect("a mount").files.len(), 2);
            }
        });
        futures::stream::iter(mounts)
            .buffer_unordered(32)
            .collect::<()>()
            .await;
        started.elapsed().as_secs_f64()
    }

    fn logins(&self) -> usize {
        self.vault.count("POST", "auth/kubernetes/login")
    }
}

/// From the start of the process to the first 200 of `/health/ready`.
async fn ready(node: &Node) -> (Daemon, Duration) {
    let started = Instant::now();
    let daemon = node.start().await;
    (daemon, started.elapsed())
}

async fn restart() {
    let bench = Bench::new(Duration::from_secs(3600)).await;
    let (daemon, empty) = ready(&bench.node).await;
    let seconds = bench.mount(MANY).await;
    println!(
        "restart: {MANY} volumes mounted in {seconds:.1} s, {} journalled, memory {:.1} MiB",
        bench.node.journalled(),
        memory(daemon.pid())
    );
    daemon.kill();
    for _ in 0..3 {
        let (daemon, full) = ready(&bench.node).await;
        println!(
            "restart: ready {} ms after a kill with {MANY} volumes, {} ms with none; memory {:.1} MiB; logins {}",
            full.as_millis(),
            empty.as_millis(),
            memory(daemon.pid()),
            bench.logins(),
        );
        daemon.kill();
    }
}

/// A rolling update: the old daemon is asked to end, the new one starts, and every volume is polled.
async fn update() {
    let bench = Bench::new(Duration::from_secs(3600)).await;
    let (daemon, _) = ready(&bench.node).await;
    bench.mount(UPDATED).await;
    let before = (bench.logins(), users(&bench));
    let started = Instant::now();
    assert!(daemon.terminate().await.success(), "a clean end");
    let ended = started.elapsed();
    let (daemon, _) = ready(&bench.node).await;
    let gap = started.elapsed();
    let seconds = bench.mount(UPDATED).await;
    println!(
        "update: {UPDATED} volumes; the old one ended within {} ms, the new one was ready after {} ms; all polled in {seconds:.1} s; logins {} before and {} after; credentials {} and {}",
        ended.as_millis(),
        gap.as_millis(),
        before.0,
        bench.logins(),
        before.1,
        users(&bench),
    );
    daemon.kill();
}

/// A server that is away while nearly all renewals come due.
async fn herd() {
    let bench = Bench::new(HERD_TERM).await;
    let (daemon, _) = ready(&bench.node).await;
    bench.mount(HERD).await;
    let mounted = Instant::now();
    let fraction = |of: f64| HERD_TERM.mul_f64(of).saturating_sub(mounted.elapsed());
    tokio::time::sleep(fraction(0.30)).await;
    bench.vault.stop_listening();
    tokio::time::sleep(fraction(0.54)).await;
    bench.vault.clear_calls();
    bench.vault.resume_listening().await.expect("its port");
    let back = Instant::now();
    let (mut most, mut seen, mut settled) = (0, 0, None);
    while mounted.elapsed() < HERD_TERM.mul_f64(1.2) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let renewed = bench.vault.count("POST", "auth/token/renew-self")
            + bench.vault.count("POST", "sys/leases/renew");
        most = most.max(renewed - seen);
        seen = renewed;
        if settled.is_none() && renewed >= 2 * HERD {
            settled = Some(back.elapsed());
        }
    }
    let scrape = daemon.get("/metrics").await.expect("metrics");
    let missed = scrape.contains("leasehold_deadlines_missed_total{");
    println!(
        "herd: {} things alive, away for {} s of {} s; back: all renewed after {:.0} s, at most {most} calls in a second; credentials left {} of {HERD}; deadlines missed: {missed}; daemon {:.2} s CPU in all",
        2 * HERD,
        HERD_TERM.mul_f64(0.24).as_secs(),
        HERD_TERM.as_secs(),
        settled.map_or(f64::NAN, |settled| settled.as_secs_f64()),
        users(&bench),
        cpu(daemon.pid()),
    );
    daemon.kill();
}

fn users(bench: &Bench) -> usize {
    bench.vault.live_users().len()
}
