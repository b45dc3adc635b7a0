//! Bulkheads: what is slow, hostile or large holds up nobody else, and takes no more than its share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::{Volume, request};
use support::world::{DATABASE, KV, Setup, World, class};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Mounts that are under way.
type UnderWay = JoinSet<Result<usize, tonic::Status>>;

/// A volume of a pod of any namespace.
fn volume(world: &World, namespace: &str, pod: &str) -> Volume {
    let volume = Volume::new(&world.node.pods(), namespace, pod, pod, "secrets");
    volume.prepare();
    volume
}

/// Begins a mount, as one call; its outcome is the number of files.
fn begin(world: &World, under_way: &mut UnderWay, volume: &Volume, class: &Value) {
    let accounts = &world.accounts;
    let token = accounts.mint(&volume.namespace, "web", "vault", Duration::from_secs(600));
    let tokens = BTreeMap::from([("vault".to_owned(), token)]);
    let asked = request(volume, &volume.attributes(class, &tokens), "");
    let driver = world.driver.clone();
    under_way.spawn(async move { Ok(driver.call(asked).await?.files.len()) });
}

/// Objects that are one read each.
fn reads(path: &str, number: usize) -> String {
    let mut objects = String::new();
    for at in 0..number {
        let object =
            format!("\n- objectName: file-{at}\n  secretPath: {path}?n={at}\n  secretKey: api-key");
        objects.write_str(&object).unwrap();
    }
    objects
}

/// A role that any namespace may log in with.
async fn open_to_all(world: &World) {
    let all = json!({ "bound_service_account_namespaces": ["*"] });
    world.admin.role("kubernetes", "app", all).await;
}

/// Ten other pods mount while those that hang still do.
async fn others_mount(world: &World, hanging: &mut UnderWay) {
    let mut others = UnderWay::new();
    for pod in 0..10 {
        let volume = volume(world, "shop", &format!("other-{pod}"));
        begin(world, &mut others, &volume, &class(KV));
    }
    while let Some(mounted) = others.join_next().await {
        assert_eq!(mounted.unwrap().unwrap(), 1);
        assert!(hanging.try_join_next().is_none(), "they still hang");
    }
}

#[tokio::test]
async fn a_tenant_whose_reads_hang_holds_up_nobody() {
    let world = World::new().await;
    open_to_all(&world).await;
    let hang = Fault::at("secret/data/slow", Action::Hang);
    world.vault.faults().push(hang);
    let mut hanging = UnderWay::new();
    // More reads than all places of the address.
    for pod in 0..20 {
        let volume = volume(&world, "greedy", &format!("greedy-{pod}"));
        begin(
            &world,
            &mut hanging,
            &volume,
            &class(&reads("secret/data/slow", 8)),
        );
    }
    world
        .until("reads hang", || world.vault.live_tokens().len() >= 20)
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    others_mount(&world, &mut hanging).await;
}

#[tokio::test]
async fn a_backend_that_hangs_for_everybody_holds_up_its_own_users_alone() {
    let world = World::new().await;
    open_to_all(&world).await;
    let hang = Fault::at("database/creds", Action::Hang);
    world.vault.faults().push(hang);
    let mut hanging = UnderWay::new();
    for pod in 0..100 {
        let volume = volume(&world, &format!("tenant-{pod}"), &format!("user-{pod}"));
        begin(
            &world,
            &mut hanging,
            &volume,
            &class(&reads("database/creds/app", 4)),
        );
    }
    world
        .until("reads hang", || world.vault.live_tokens().len() >= 100)
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    others_mount(&world, &mut hanging).await;
}

#[tokio::test]
async fn a_backend_that_hangs_does_not_keep_its_users_from_the_others() {
    let world = World::new().await;
    let hang = Fault::at("database/creds", Action::Hang);
    world.vault.faults().push(hang);
    let mut hanging = UnderWay::new();
    for pod in 0..20 {
        let volume = volume(&world, "shop", &format!("user-{pod}"));
        let class = class(&reads("database/creds/app", 8));
        begin(&world, &mut hanging, &volume, &class);
    }
    world
        .until("reads hang", || world.vault.live_tokens().len() >= 20)
        .await;
    others_mount(&world, &mut hanging).await;
}

#[tokio::test]
async fn an_address_that_never_answers_holds_up_its_own_callers_alone() {
    let world = World::new().await;
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let mut hanging = UnderWay::new();
    let mut hostile = class(KV);
    hostile["vaultAddress"] = json!(address);
    for pod in 0..200 {
        let volume = volume(&world, "shop", &format!("hostile-{pod}"));
        begin(&world, &mut hanging, &volume, &hostile);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    others_mount(&world, &mut hanging).await;
}

/// What one backend, or one namespace's quota, may answer.
fn failures() -> [(&'static str, Action); 5] {
    let answer = |code, body: &str, headers: &[(&str, &str)]| Action::Status {
        code,
        body: body.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    // Recorded from OpenBao 2.6.2.
    let quota =
        r#"{"errors":["request path \"database/creds/greedy\": rate limit quota exceeded"]}"#;
    let locked = r#"{"errors":["API access to this namespace has been locked by an administrator - \"t1/\" must be unlocked to gain access."]}"#;
    let page = "<html><head><title>504 Gateway Time-out</title></head></html>";
    [
        ("a quota", answer(429, quota, &[])),
        (
            "a quota and a pause",
            answer(429, quota, &[("Retry-After", "60")]),
        ),
        ("a proxy's page", answer(504, page, &[])),
        ("a bad gateway", answer(502, page, &[])),
        ("a locked namespace", answer(503, locked, &[])),
    ]
}

#[tokio::test]
async fn what_one_tenant_meets_at_a_backend_stops_nobody_else() {
    let runs = failures().map(|(what, failure)| stops_nobody_else(what, failure));
    futures::future::join_all(runs).await;
}

async fn stops_nobody_else(what: &str, failure: Action) {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "12s" }),
        ..Setup::default()
    })
    .await;
    open_to_all(&world).await;
    let kept = volume(&world, "shop", "kept");
    world.mount(&kept, &class(DATABASE)).await;
    let credential = (kept.text("username"), kept.text("password"));
    let fault = Fault::at("database/creds/greedy", failure);
    world.vault.faults().push(fault);
    let greedy = class(&reads("database/creds/greedy", 1));
    for round in 0..3 {
        let mut under_way = UnderWay::new();
        for pod in 0..5 {
            let volume = volume(&world, "greedy", &format!("greedy-{round}-{pod}"));
            begin(&world, &mut under_way, &volume, &greedy);
        }
        while let Some(mounted) = under_way.join_next().await {
            assert!(mounted.unwrap().is_err(), "{what}");
        }
        // The same server, the same backend, another namespace; and what the namespace has elsewhere.
        let mut others = UnderWay::new();
        let other = volume(&world, "shop", &format!("other-{round}"));
        begin(&world, &mut others, &other, &class(DATABASE));
        let elsewhere = volume(&world, "greedy", &format!("elsewhere-{round}"));
        begin(&world, &mut others, &elsewhere, &class(KV));
        while let Some(mounted) = others.join_next().await {
            assert!(mounted.unwrap().is_ok(), "{what}: {}", world.log());
        }
    }
    // Two terms pass: it was renewed.
    tokio::time::sleep(Duration::from_secs(13)).await;
    let (user, password) = &credential;
    assert!(
        world.vault.verify_user(user, password),
        "{what}: {}",
        world.log()
    );
    let metrics = world.daemon.as_ref().unwrap().get("/metrics").await;
    assert!(
        !metrics.unwrap().contains("leasehold_breaker_open{"),
        "{what}"
    );
}

#[tokio::test]
async fn renewals_that_hang_delay_no_others() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "20s" }),
        ..Setup::default()
    })
    .await;
    open_to_all(&world).await;
    let kept = volume(&world, "shop", "kept");
    world.mount(&kept, &class(KV)).await;
    let mut hanging = Vec::new();
    for pod in 0..30 {
        let volume = volume(
            &world,
            &format!("tenant-{}", pod % 3),
            &format!("hanging-{pod}"),
        );
        let mut under_way = UnderWay::new();
        begin(&world, &mut under_way, &volume, &class(DATABASE));
        let mounted = under_way.join_next().await;
        assert!(mounted.is_some_and(|mounted| mounted.unwrap().is_ok()));
        hanging.push(volume);
    }
    world
        .vault
        .faults()
        .push(Fault::at("sys/leases/renew", Action::Hang));
    // All of them are due, and hang.
    world
        .until("renewals hang", || world.log().contains("no reply within"))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A release, a login and its reads go on.
    let before = world.vault.live_tokens().len();
    kept.unmount();
    world
        .until("it is revoked", || world.vault.live_tokens().len() < before)
        .await;
    let mut others = UnderWay::new();
    let other = volume(&world, "shop", "other");
    begin(&world, &mut others, &other, &class(KV));
    let mounted = others.join_next().await;
    assert!(mounted.is_some_and(|mounted| mounted.unwrap().is_ok()));
}

/// The most memory that the daemon has had so far, in MiB (`proc_pid_status(5)`).
fn peak(world: &World) -> u64 {
    let pid = world.daemon.as_ref().unwrap().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024
}

#[tokio::test]
async fn a_thousand_large_mounts_at_once_stay_within_the_pods_memory() {
    let world = World::with(Setup {
        flags: &["-log-level=info"],
        ..Setup::default()
    })
    .await;
    let large = "x".repeat(1024 * 1024);
    world
        .admin
        .write("secret/data/app", json!({ "data": { "api-key": large } }))
        .await;
    let mut under_way = UnderWay::new();
    for pod in 0..1000 {
        let volume = volume(&world, "shop", &format!("large-{pod}"));
        begin(&world, &mut under_way, &volume, &class(KV));
    }
    while let Some(mounted) = under_way.join_next().await {
        assert_eq!(mounted.unwrap().unwrap(), 1);
    }
    let peak = peak(&world);
    println!("1,000 mounts of 1 MiB at once: {peak} MiB at most");
    assert!(peak < 128, "{peak} MiB");
}
