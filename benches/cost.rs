//! What a mount costs: mounts a second against the bare calls to the same server, and memory after many
//! volumes. Prints ratios; asserts nothing about time.
//!
//! `cargo bench --bench cost` measures against `dev-vault`. With `LEASEHOLD_BENCH_ADDR` and
//! `LEASEHOLD_BENCH_TOKEN` (a root token of a fresh dev server on loopback) it measures against that.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use admin::Admin;
use daemon::Node;
use dev_vault::{DevVault, Options, ServiceAccounts};
use driver::{Driver, Volume};
use process::{cpu, memory};
use serde_json::{Value, json};

const WARM_UP: usize = 50;
const MOUNTS: usize = 500;
const VOLUMES: usize = 1_500;

const OBJECTS: &str = "
- {objectName: one, secretPath: kv/one, secretKey: value}
- {objectName: two, secretPath: kv/two, secretKey: value}
";

#[tokio::main]
async fn main() {
    let own;
    let (url, token) = match (
        std::env::var("LEASEHOLD_BENCH_ADDR"),
        std::env::var("LEASEHOLD_BENCH_TOKEN"),
    ) {
        (Ok(url), Ok(token)) => (url, token),
        _ => {
            own = DevVault::start(Options::default())
                .await
                .expect("dev-vault");
            (own.url(), own.root_token().to_owned())
        }
    };
    let accounts = ServiceAccounts::start().await.expect("an API server");
    let admin = Admin::new(&url, &token);
    admin.engine("kv", "kv", "1").await;
    for name in ["one", "two"] {
        admin
            .write(&format!("kv/{name}"), json!({ "value": "x".repeat(64) }))
            .await;
    }
    admin
        .policy("app", r#"path "kv/*" { capabilities = ["read"] }"#)
        .await;
    admin
        .kubernetes(
            "kubernetes",
            &accounts.url(),
            json!({ "audience": "vault" }),
        )
        .await;
    let jwt = accounts.mint("shop", "web", "vault", Duration::from_secs(3600));
    println!("server: {url}");

    for at_once in [1, 16] {
        bare(&url, &jwt, at_once, WARM_UP).await;
        let floor = bare(&url, &jwt, at_once, MOUNTS).await;
        let node = Node::new(&url, &["-log-level=info"]);
        let daemon = node.start().await;
        mounts(&node, &jwt, at_once, WARM_UP, "warm").await;
        let before = cpu(daemon.pid());
        let ours = mounts(&node, &jwt, at_once, MOUNTS, "mount").await;
        let spent = cpu(daemon.pid()) - before;
        println!(
            "{at_once:>2} at once: login + two reads {floor:>6.0}/s   mount {ours:>6.0}/s   ratio {:.2}   daemon {:.2} s CPU per 1,000",
            ours / floor,
            spent * 1000.0 / MOUNTS as f64,
        );
    }

    let node = Node::new(&url, &["-log-level=info"]);
    let daemon = node.start().await;
    let idle = memory(daemon.pid());
    mounts(&node, &jwt, 16, VOLUMES, "hold").await;
    println!(
        "memory: {idle:.1} MiB idle, {:.1} MiB after {VOLUMES} volumes; {} journalled",
        memory(daemon.pid()),
        node.journalled(),
    );
}

/// The same calls by a bare client, with keep-alive.
async fn bare(url: &str, jwt: &str, at_once: usize, count: usize) -> f64 {
    let anybody = Admin::new(url, "");
    rate(at_once, count, |_| async {
        let anybody = anybody.clone();
        let body = json!({ "role": "app", "jwt": jwt });
        let login = anybody.write("auth/kubernetes/login", body).await;
        let pod = anybody.with_token(login["auth"]["client_token"].as_str().expect("a token"));
        let (one, two) = tokio::join!(
            pod.call("GET", "kv/one", &Value::Null),
            pod.call("GET", "kv/two", &Value::Null)
        );
        assert_eq!((one.0, two.0), (200, 200));
    })
    .await
}

async fn mounts(node: &Node, jwt: &str, at_once: usize, count: usize, name: &str) -> f64 {
    let driver = Driver::dial(&node.socket());
    let class = json!({ "roleName": "app", "objects": OBJECTS });
    let tokens = BTreeMap::from([("vault".to_owned(), jwt.to_owned())]);
    let pods = node.pods();
    rate(at_once, count, |index| {
        let pod = format!("{name}-{at_once}-{index}");
        let volume = Volume::new(&pods, "shop", &pod, &pod, "secrets");
        let (driver, class, tokens) = (&driver, &class, &tokens);
        async move {
            volume.prepare();
            let attributes = volume.attributes(class, tokens);
            let request = driver::request(&volume, &attributes, "");
            let answer = driver.call(request).await;
            assert_eq!(answer.expect("a mount").files.len(), 2);
        }
    })
    .await
}

async fn rate<F: Future<Output = ()>>(
    at_once: usize,
    count: usize,
    run: impl Fn(usize) -> F,
) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let lanes = (0..at_once).map(|_| async {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            run(index).await;
        }
    });
    futures::future::join_all(lanes).await;
    count as f64 / started.elapsed().as_secs_f64()
}
