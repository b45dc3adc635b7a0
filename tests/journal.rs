//! The journal's files: what is written when, what is left of them by a kill and by a disk that refuses writes, how
//! much is kept, and files that an earlier version wrote.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use dev_vault::{Action, Fault};
use leasehold::clock::{BootClock, Clock};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use support::daemon::holds;
use support::driver::{Driver, Volume};
use support::world::{DATABASE, Setup, World, class};

/// A volume's journal file, less its ending.
fn file(world: &World, volume: &Volume) -> PathBuf {
    let target = volume.target();
    let name = [
        volume.uid.as_bytes(),
        &[0],
        target.to_str().unwrap().as_bytes(),
    ]
    .concat();
    let name = hex::encode(digest::digest(&digest::SHA256, &name));
    world.node.state().join(&name[..32])
}

/// Anything in the way of the file that is written first: a write fails, whoever we are.
fn refuse(world: &World, volume: &Volume) -> PathBuf {
    let temporary = file(world, volume).with_extension("tmp");
    fs::create_dir(&temporary).unwrap();
    temporary
}

/// The files of the state directory with this ending, in the order of their names.
fn files(world: &World, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.node.state()).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|it| it == ending))
        .collect();
    paths.sort();
    paths
}

async fn restarted(world: &mut World) {
    world.kill();
    world.restart().await;
    world.driver = Driver::dial(&world.node.socket());
}

async fn metrics(world: &World) -> String {
    let daemon = world.daemon.as_ref().unwrap();
    daemon.get("/metrics").await.unwrap()
}

/// From now on a write to this path is answered with so many bytes, which begin with its name.
fn signs(world: &World, path: &str, bytes: usize) {
    let text = format!("{path} {}", "x".repeat(bytes));
    let data = json!({ "text": text, "key": path, "id": "7" });
    let action = Action::Status {
        code: 200,
        body: json!({ "request_id": "r", "data": data }).to_string(),
        headers: Vec::new(),
    };
    world.vault.faults().push(Fault::at(path, action));
}

/// A file of what a write to this path is answered with.
fn signed(path: &str, key: &str) -> String {
    format!(
        "\n- {{objectName: {key}, secretPath: {path}, method: PUT, secretArgs: {{a: b}}, secretKey: {key}}}"
    )
}

#[tokio::test]
async fn a_reply_is_written_once_and_its_record_at_each_change() {
    let world = World::with(Setup {
        role: json!({ "token_ttl": "4s" }),
        ..Setup::default()
    })
    .await;
    signs(&world, "secret/sign", 1 << 20);
    let volume = world.volume("web");
    world
        .mount(&volume, &class(&signed("secret/sign", "text")))
        .await;
    let stamp = |path: &PathBuf| {
        let of = fs::metadata(path).unwrap();
        (of.ino(), of.mtime(), of.mtime_nsec(), of.len())
    };
    let (record, bodies) = (
        file(&world, &volume).with_extension("json"),
        files(&world, "body"),
    );
    assert_eq!(bodies.len(), 1);
    let mode = fs::metadata(&bodies[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (before, body) = (stamp(&record), stamp(&bodies[0]));
    let renewals = || {
        let by = |method| world.vault.count(method, "auth/token/renew-self");
        by("POST") + by("PUT")
    };
    let first = renewals();
    world
        .until("it is renewed, and that is written down", || {
            renewals() >= first + 2 && stamp(&record) != before
        })
        .await;
    let after = stamp(&record);
    assert!(after.3 < 4096, "{} bytes", after.3);
    assert!(body.3 > 1 << 20);
    assert_eq!(stamp(&bodies[0]), body, "the reply is where it was");
    println!("{} bytes are written at a renewal", after.3);
}

#[tokio::test]
async fn a_record_whose_replies_are_missing_or_torn_is_gone_on_with() {
    let mut world = World::new().await;
    let (torn, lost) = (world.volume("torn"), world.volume("lost"));
    let mut users = Vec::new();
    for volume in [&torn, &lost] {
        world.mount(volume, &class(DATABASE)).await;
        users.push(volume.text("username"));
    }
    world.kill();
    let of = |volume: &Volume| {
        let stem = file(&world, volume).display().to_string();
        let mut bodies = files(&world, "body");
        bodies.retain(|body| body.display().to_string().starts_with(&stem));
        assert_eq!(bodies.len(), 1);
        bodies.remove(0)
    };
    let whole = fs::read(of(&torn)).unwrap();
    fs::write(of(&torn), &whole[..whole.len() - 1]).unwrap();
    fs::remove_file(of(&lost)).unwrap();
    world.restart().await;
    world.driver = Driver::dial(&world.node.socket());
    assert!(files(&world, "body").is_empty(), "what is torn is erased");
    assert!(files(&world, "corrupt").is_empty());
    assert!(world.log().contains("a reply in the journal is unusable"));
    for (volume, user) in [&torn, &lost].into_iter().zip(&users) {
        world.mount(volume, &class(DATABASE)).await;
        assert_ne!(volume.text("username"), *user, "it is read anew");
        // What was replaced is revoked once a second answer was given.
        world.mount(volume, &class(DATABASE)).await;
    }
    assert_eq!((world.logins(), world.creds()), (2, 4));
    torn.unmount();
    lost.unmount();
    world.until_nothing_lives().await;
    world
        .until("no file is left", || {
            files(&world, "body").is_empty() && world.node.journalled() == 0
        })
        .await;
}

#[tokio::test]
async fn what_no_record_names_is_erased_and_what_is_not_ours_stays() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    world.kill();
    let own = files(&world, "body").remove(0);
    let stem = file(&world, &volume).display().to_string();
    let gone = file(&world, &world.volume("gone")).display().to_string();
    let orphans = [
        format!("{stem}.77.body"),
        format!("{stem}.78.tmp"),
        format!("{gone}.0.body"),
        format!("{gone}.0.tmp"),
        format!("{gone}.tmp"),
    ];
    let foreign = ["notes.json", "notes.tmp", "notes.body", "07.body"].map(|name| {
        let path = world.node.state().join(name);
        path.display().to_string()
    });
    let odd = format!("{stem}.07.body");
    for path in orphans.iter().chain(&foreign).chain([&odd]) {
        fs::write(path, "{}").unwrap();
    }
    world.restart().await;
    world.driver = Driver::dial(&world.node.socket());
    let there = |path: &String| PathBuf::from(path).exists();
    assert!(!orphans.iter().any(there));
    assert!(foreign.iter().chain([&odd]).all(there));
    assert!(own.exists());
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user);
}

#[tokio::test]
async fn a_full_disk_leaves_no_half_written_file_and_what_is_alive_is_known() {
    let mut world = World::new().await;
    world.kill();
    let daemon = world.node.spawn_ignoring_file_sizes();
    world.daemon = Some(world.node.until_ready(daemon).await);
    world.driver = Driver::dial(&world.node.socket());
    let pid = i32::try_from(world.daemon.as_ref().unwrap().pid()).unwrap();
    // A file that is full refuses as a disk does that is, in the middle of a write.
    let limit = |bytes: Option<u64>| {
        let maximum = None;
        let limit = Rlimit {
            current: bytes,
            maximum,
        };
        prlimit(Pid::from_raw(pid), Resource::Fsize, limit).unwrap();
    };
    limit(Some(512 * 1024));
    signs(&world, "secret/sign", 1 << 20);
    let volume = world.volume("web");
    let class = class(&format!("{}{DATABASE}", signed("secret/sign", "text")));
    world.mount(&volume, &class).await;
    let user = volume.text("username");
    assert_eq!(world.node.journalled(), 1, "the token and its leases");
    assert_eq!(files(&world, "body").len(), 1, "what there is room for");
    assert!(files(&world, "tmp").is_empty());
    assert!(!holds(&world.node.state(), "secret/sign xxx"));
    let scrape = metrics(&world).await;
    assert!(scrape.contains("leasehold_degraded{reason=\"journal_writes_fail\"} 1"));
    limit(None);
    world
        .until("the journal has caught up", || {
            files(&world, "body").len() == 2
        })
        .await;
    restarted(&mut world).await;
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("username"), user);
    assert_eq!(world.vault.count("PUT", "secret/sign"), 1);
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_large_reply_is_cut_down_to_what_the_class_names() {
    let mut world = World::new().await;
    signs(&world, "secret/sign", 100_000);
    let volume = world.volume("web");
    let keys = class(&(signed("secret/sign", "key") + &signed("secret/sign", "id")));
    world.mount(&volume, &keys).await;
    let body = fs::metadata(&files(&world, "body")[0]).unwrap();
    assert!(body.len() < 1024, "{} bytes", body.len());
    restarted(&mut world).await;
    world.mount(&volume, &keys).await;
    assert_eq!(volume.text("key"), "secret/sign");
    assert_eq!(volume.text("id"), "7");
    assert_eq!(world.vault.count("PUT", "secret/sign"), 1);
    // Another key was not kept: it is asked for.
    let more = class(&(signed("secret/sign", "key") + &signed("secret/sign", "text")));
    world.mount(&volume, &more).await;
    assert!(volume.text("text").starts_with("secret/sign xxx"));
    assert_eq!(world.vault.count("PUT", "secret/sign"), 2);
    world.mount(&volume, &more).await;
    assert_eq!(world.vault.count("PUT", "secret/sign"), 2);
}

#[tokio::test]
async fn a_tenants_large_replies_push_out_only_its_own() {
    let mut world = World::with(Setup {
        // Half of it for replies.
        flags: &["-state-quota=1"],
        ..Setup::default()
    })
    .await;
    let all = json!({ "bound_service_account_namespaces": ["*"] });
    world.admin.role("kubernetes", "app", all).await;
    let mount = async |world: &World, namespace: &str, name: &str| {
        let pods = world.node.pods();
        let volume = Volume::new(&pods, namespace, name, &format!("uid-{name}"), "secrets");
        let accounts = &world.accounts;
        let token = accounts.mint(namespace, "web", "vault", Duration::from_secs(600));
        let tokens = BTreeMap::from([("vault".to_owned(), token)]);
        let class = class(&signed(&format!("secret/{name}"), "text"));
        let mounted = world.driver.mount(&volume, &class, &tokens).await;
        assert!(mounted.is_ok(), "{}", world.log());
    };
    let pods = [
        ("small", "one", 100_000),
        ("large", "first", 200_000),
        ("large", "other", 200_000),
        ("large", "another", 200_000),
    ];
    for (namespace, name, bytes) in pods {
        signs(&world, &format!("secret/{name}"), bytes);
        mount(&world, namespace, name).await;
    }
    let asked = |world: &World| {
        pods.map(|(_, name, _)| world.vault.count("PUT", &format!("secret/{name}")))
    };
    assert_eq!(asked(&world), [1, 1, 1, 1]);
    for polls in 2..4 {
        for (namespace, name, _) in pods {
            mount(&world, namespace, name).await;
        }
        assert_eq!(asked(&world), [1, 1, 1, polls], "the newest finds no room");
    }
    let scrape = metrics(&world).await;
    assert!(scrape.contains("leasehold_degraded{reason=\"state_quota\"} 1"));
    assert!(
        scrape.contains("leasehold_dropped_replies_total 3"),
        "{scrape}"
    );
    let log = world.log();
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("not enough room to keep its replies"))
        .collect();
    assert_eq!(said.len(), 1, "once: {said:?}");
    for word in ["another", "large", "secret/another", "-state-quota"] {
        assert!(said[0].contains(word), "{}", said[0]);
    }
    restarted(&mut world).await;
    for (namespace, name, _) in pods {
        mount(&world, namespace, name).await;
    }
    assert_eq!(asked(&world), [1, 1, 1, 4]);
}

#[tokio::test]
async fn a_write_that_fails_is_loud_costs_no_mount_and_is_made_up_for() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    let in_the_way = refuse(&world, &volume);
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    assert_eq!(world.node.journalled(), 0);
    let scrape = world
        .daemon
        .as_ref()
        .unwrap()
        .get("/metrics")
        .await
        .unwrap();
    assert!(scrape.contains("leasehold_degraded{reason=\"journal_writes_fail\"} 1"));
    assert!(world.log().contains("a journal file could not be written"));
    // The disk has room again.
    fs::remove_dir(in_the_way).unwrap();
    world
        .until("the journal has caught up", || world.node.journalled() == 1)
        .await;
    let scrape = world
        .daemon
        .as_ref()
        .unwrap()
        .get("/metrics")
        .await
        .unwrap();
    assert!(scrape.contains("leasehold_degraded{reason=\"journal_writes_fail\"} 0"));
    world.kill();
    world.restart().await;
    world.driver = support::driver::Driver::dial(&world.node.socket());
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user);
    assert_eq!((world.logins(), world.creds()), (1, 1));
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn what_a_kill_left_of_a_write_is_erased() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    world.kill();
    let torn = file(&world, &world.volume("gone")).with_extension("tmp");
    fs::write(&torn, "half a tok").unwrap();
    world.restart().await;
    assert!(!torn.exists());
    volume.unmount();
    world.until_nothing_lives().await;
}

/// Every daemon to come must read what this one writes: the first format, as version 0.1.0 wrote it.
#[tokio::test]
async fn a_file_of_the_first_format_is_gone_on_with() {
    let mut world = World::new().await;
    world.kill();
    let volume = world.volume("web");
    volume.prepare();
    let login = json!({ "role": "app", "jwt": world.tokens()["vault"] });
    let login = world.admin.write("auth/kubernetes/login", login).await;
    let token = login["auth"]["client_token"].as_str().unwrap();
    let pod = world.admin.with_token(token);
    let (_, reply) = pod.call("GET", "database/creds/app", &Value::Null).await;
    let user = reply["data"]["username"].as_str().unwrap();

    let now = serde_json::to_string(&BootClock.now()).unwrap();
    let record = include_str!("fixtures/journal-1.json")
        .replace("\"NOW\"", &now)
        .replace("\"BODY\"", &json!(reply.to_string()).to_string())
        .replace("PATH", volume.target().to_str().unwrap())
        .replace("ADDRESS", &world.vault.url())
        .replace("TOKEN", token)
        .replace("ACCESSOR", login["auth"]["accessor"].as_str().unwrap())
        .replace("LEASE", reply["lease_id"].as_str().unwrap());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let sum = hex::encode(digest::digest(&digest::SHA256, record.as_bytes()));
    let path = file(&world, &volume).with_extension("json");
    let whole = format!("leasehold-journal 1 {} {sum}\n{record}", boot.trim());
    fs::write(&path, whole).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    world.restart().await;
    world.driver = support::driver::Driver::dial(&world.node.socket());
    world
        .until("it is of the second format", || {
            let record = fs::read_to_string(&path).unwrap();
            record.starts_with("leasehold-journal 2 ") && !record.contains(user)
        })
        .await;
    assert_eq!(files(&world, "body").len(), 1);
    restarted(&mut world).await;
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user, "{}", world.log());
    assert_eq!(
        (world.logins(), world.creds()),
        (1, 1),
        "only the test's own"
    );
    volume.unmount();
    world.until_nothing_lives().await;
}
