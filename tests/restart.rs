//! `kill -9` of the real binary, at several moments, and its start on the same state.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::json;
use support::daemon::holds;
use support::driver::request;
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};

#[tokio::test]
async fn after_a_kill_renewals_go_on_and_nothing_is_issued_anew() {
    let mut world = World::with(Setup {
        database: json!({ "default_ttl": "6s" }),
        role: json!({ "token_ttl": "8s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{CERTIFICATE}{KV}"));
    world.mount(&volume, &class).await;
    let files = ["username", "password", "tls.crt"].map(|file| volume.text(file));
    for _ in 0..3 {
        world.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.restart().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.mount(&volume, &class).await;
    assert_eq!(
        files,
        ["username", "password", "tls.crt"].map(|file| volume.text(file))
    );
    assert!(world.vault.verify_user(&files[0], &files[1]));
    assert_eq!((world.logins(), world.creds()), (1, 1));
    assert_eq!(world.vault.count("PUT", "pki/issue/web"), 1);
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_volume_that_went_meanwhile_is_revoked() {
    let mut world = World::new().await;
    let (gone, stays) = (world.volume("gone"), world.volume("stays"));
    world.mount(&gone, &class(DATABASE)).await;
    world.mount(&stays, &class(DATABASE)).await;
    world.kill();
    gone.unmount();
    gone.remove_pod();
    world.restart().await;
    world
        .until("one user is left", || world.vault.live_users().len() == 1)
        .await;
    assert_eq!(world.vault.live_tokens().len(), 1);
    assert!(
        world
            .vault
            .verify_user(&stays.text("username"), &stays.text("password"))
    );
}

#[tokio::test]
async fn the_only_volume_that_went_meanwhile_is_revoked() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    world.kill();
    volume.unmount();
    world.restart().await;
    world.until_nothing_lives().await;
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
}

#[tokio::test]
async fn killed_between_login_and_answer_nothing_survives() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    volume.prepare();
    let attributes = volume.attributes(&class(DATABASE), &world.tokens());
    // The credential is made, and we are killed before its reply comes.
    let slow = Action::DelayAfterCommit(Duration::from_secs(30));
    world
        .vault
        .faults()
        .push(Fault::at("database/creds", slow).times(1));
    let driver = world.driver.clone();
    let call = request(&volume, &attributes, "");
    let mounting = tokio::spawn(async move { driver.call(call).await });
    world
        .until("a user lives", || world.vault.live_users().len() == 1)
        .await;
    world.kill();
    mounting.abort();
    let unseen = world.vault.live_users();
    world.restart().await;
    // The driver comes again: the old session is not built upon, for a lease that we never saw may hang
    // from it.
    world.driver = support::driver::Driver::dial(&world.node.socket());
    let told = world
        .refused(&volume, &class(DATABASE), tonic::Code::Internal)
        .await;
    assert!(told.contains("was killed"), "{told}");
    world.mount(&volume, &class(DATABASE)).await;
    world
        .until("the unseen user is gone", || {
            !world.vault.live_users().contains(&unseen[0])
        })
        .await;
    assert_eq!(world.vault.live_tokens().len(), 1);
    assert!(
        world
            .vault
            .verify_user(&volume.text("username"), &volume.text("password"))
    );
}

#[tokio::test]
async fn killed_in_a_first_mount_that_never_comes_back() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    volume.prepare();
    let attributes = volume.attributes(&class(DATABASE), &world.tokens());
    let slow = Action::DelayAfterCommit(Duration::from_secs(30));
    world
        .vault
        .faults()
        .push(Fault::at("database/creds", slow).times(1));
    let driver = world.driver.clone();
    let call = request(&volume, &attributes, "");
    let mounting = tokio::spawn(async move { driver.call(call).await });
    world
        .until("a user lives", || world.vault.live_users().len() == 1)
        .await;
    world.kill();
    mounting.abort();
    world.restart().await;
    // Its path is still there, yet after the parking time (two seconds here) nobody waits any more.
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn what_was_owed_before_the_kill_is_revoked_after_it() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    world.vault.stop_listening();
    volume.unmount();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.kill();
    world.vault.resume_listening().await.unwrap();
    world.restart().await;
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_under_way_and_revokes_nothing() {
    let mut world = World::new().await;
    let (done, late) = (world.volume("done"), world.volume("late"));
    world.mount(&done, &class(DATABASE)).await;
    let slow = Action::Delay(Duration::from_millis(800));
    world
        .vault
        .faults()
        .push(Fault::at("database/creds", slow).times(1));
    let daemon = world.daemon.take().unwrap();
    let (class, tokens) = (class(DATABASE), world.tokens());
    let mounting = world.driver.mount(&late, &class, &tokens);
    let stopping = async {
        world
            .until("the login is done", || world.vault.live_tokens().len() == 2)
            .await;
        daemon.terminate().await
    };
    let (mounted, status) = tokio::join!(mounting, stopping);
    assert!(mounted.is_ok(), "{:?}", mounted.err());
    assert!(status.success());
    assert!(
        !world.node.socket().exists(),
        "the socket goes with the daemon"
    );
    for volume in [&done, &late] {
        assert!(
            world
                .vault
                .verify_user(&volume.text("username"), &volume.text("password"))
        );
    }
    world.restart().await;
    world.driver = support::driver::Driver::dial(&world.node.socket());
    world.mount(&late, &class).await;
    assert_eq!((world.logins(), world.creds()), (2, 2));
}

/// A daemon that has a mount under way which does not come to an end, and its world.
async fn stuck(flags: &[&str]) -> World {
    let world = World::with(Setup {
        flags,
        ..Setup::default()
    })
    .await;
    let (done, late) = (world.volume("done"), world.volume("late"));
    world.mount(&done, &class(DATABASE)).await;
    let fault = Fault::at("secret/data", Action::Hang);
    world.vault.faults().push(fault);
    late.prepare();
    let attributes = late.attributes(&class(KV), &world.tokens());
    let (driver, call) = (world.driver.clone(), request(&late, &attributes, ""));
    tokio::spawn(async move { driver.call(call).await });
    world
        .until("the login is done", || world.vault.live_tokens().len() == 2)
        .await;
    world
}

#[tokio::test]
async fn a_drain_has_a_deadline_and_forgets_nothing() {
    let mut world = stuck(&["-shutdown-timeout=1s"]).await;
    let daemon = world.daemon.take().unwrap();
    assert!(daemon.terminate().await.success(), "its journal is written");
    assert_eq!(world.vault.live_tokens().len(), 2, "nothing was revoked");
    world.vault.faults().clear();
    world.restart().await;
    world.volume("done").unmount();
    world.volume("late").unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut world = stuck(&["-shutdown-timeout=10m"]).await;
    let mut daemon = world.daemon.take().unwrap();
    daemon.signal();
    world
        .until("it drains", || daemon.log().contains("shutting down"))
        .await;
    daemon.signal();
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert_eq!(world.vault.live_tokens().len(), 2, "nothing was revoked");
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let mut second = world.node.spawn();
    assert!(!second.ended().await.success());
    assert!(
        second.log().contains("another daemon is using it"),
        "{}",
        second.log()
    );
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn a_corrupt_file_is_set_aside_and_the_others_load() {
    let mut world = World::new().await;
    let (first, second) = (world.volume("one"), world.volume("two"));
    world.mount(&first, &class(DATABASE)).await;
    let one: Vec<_> = fs::read_dir(world.node.state())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let one = one
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "json"))
        .unwrap();
    world.mount(&second, &class(DATABASE)).await;
    assert_eq!(
        fs::metadata(&one).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(world.node.state())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    assert!(
        holds(&world.node.state(), &first.text("password")),
        "the next poll is answered from it"
    );
    world.kill();
    let whole = fs::read(&one).unwrap();
    fs::write(&one, &whole[..whole.len() / 2]).unwrap();
    fs::write(world.node.state().join("foreign.json"), "{}").unwrap();
    world.restart().await;
    assert!(
        world.log().contains("unusable and was set aside"),
        "{}",
        world.log()
    );
    assert!(one.with_extension("corrupt").exists());
    second.unmount();
    world
        .until("the second user is gone", || {
            world.vault.live_users().len() == 1
        })
        .await;
    assert!(
        world
            .vault
            .verify_user(&first.text("username"), &first.text("password"))
    );
}

/// Seconds of CPU that a process has taken, in the kernel's ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [11, 12]
        .map(|at| fields[at].parse::<u64>().unwrap())
        .iter()
        .sum()
}

#[tokio::test]
async fn after_all_ends_passed_while_it_was_down_the_daemon_is_idle_and_stops_when_told() {
    let mut world = World::with(Setup {
        database: json!({ "default_ttl": "1s", "max_ttl": "1s" }),
        role: json!({ "token_ttl": "2s", "token_max_ttl": "2s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{CERTIFICATE}"));
    world.mount(&volume, &class).await;
    world.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.restart().await;
    let daemon = world.daemon.take().unwrap();
    let before = cpu_ticks(daemon.pid());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ticks = cpu_ticks(daemon.pid()) - before;
    assert!(ticks < 60, "{ticks} ticks of 10 ms in two seconds");
    assert!(daemon.terminate().await.success());
}
