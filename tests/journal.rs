//! The journal on a disk that refuses writes, and files that an earlier version wrote.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use aws_lc_rs::digest;
use leasehold::clock::{BootClock, Clock};
use serde_json::{Value, json};
use support::driver::Volume;
use support::world::{DATABASE, World, class};

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
