//! The end of a volume: seen by its path, confirmed, revoked, and never concluded from blindness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use serde_json::json;
use support::world::{DATABASE, KV, Setup, World, class};

/// Long enough for several looks and the confirmation.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

#[tokio::test]
async fn the_nodes_only_volume_is_revoked_in_time() {
    let world = World::new().await;
    let volume = world.volume("web");
    world
        .mount(&volume, &class(&format!("{DATABASE}{KV}")))
        .await;
    volume.unmount();
    let gone = Instant::now();
    world.until_nothing_lives().await;
    assert!(gone.elapsed() < Duration::from_secs(10));
    volume.remove_pod();
    assert_eq!(
        world.vault.count("POST", "auth/token/revoke-self"),
        1,
        "once"
    );
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
}

#[tokio::test]
async fn only_the_volume_that_goes_is_revoked() {
    let world = World::new().await;
    let (first, second) = (world.volume("one"), world.volume("two"));
    world.mount(&first, &class(DATABASE)).await;
    world.mount(&second, &class(DATABASE)).await;
    first.unmount();
    world
        .until("one user is left", || world.vault.live_users().len() == 1)
        .await;
    a_while().await;
    assert!(
        world
            .vault
            .verify_user(&second.text("username"), &second.text("password"))
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_told_when_it_is_back() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    world.vault.stop_listening();
    volume.unmount();
    a_while().await;
    assert_eq!(world.vault.live_tokens().len(), 1);
    assert_eq!(world.node.journalled(), 1, "what is owed is written down");
    world.vault.resume_listening().await.unwrap();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_revocation_is_repeated_until_the_server_agrees() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let busy = Action::Status {
        code: 500,
        body: "{\"errors\":[\"internal error\"]}".to_owned(),
        headers: Vec::new(),
    };
    world
        .vault
        .faults()
        .push(Fault::at("auth/token/revoke-self", busy).times(2));
    let lost = Fault::at("auth/token/revoke-self", Action::ResetAfterCommit).times(1);
    world.vault.faults().push(lost);
    volume.unmount();
    world.until_nothing_lives().await;
    // The last answer was lost: the repetition finds the token dead, and that is an end.
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
    assert!(world.vault.count("POST", "auth/token/revoke-self") >= 4);
}

#[tokio::test]
async fn a_path_that_comes_back_in_time_was_never_gone() {
    let world = World::with(Setup {
        flags: &["-path-confirm=3s"],
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    let hidden = world.node.pods().join("uid-web/hidden");
    fs::rename(&volume.directory, &hidden).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::rename(&hidden, &volume.directory).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(world.vault.verify_user(&user, &password));
    assert_eq!(world.vault.count("POST", "auth/token/revoke-self"), 0);
}

#[tokio::test]
async fn without_sight_nothing_is_released() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    // As an unmounted hostPath looks: an empty directory in place of kubelet's.
    let pods = world.node.pods();
    let aside = pods.with_extension("aside");
    fs::rename(&pods, &aside).unwrap();
    a_while().await;
    fs::create_dir(&pods).unwrap();
    a_while().await;
    assert!(world.vault.verify_user(&user, &password));
    assert!(
        world.log().contains("the ends of volumes cannot be seen"),
        "{}",
        world.log()
    );
    fs::remove_dir(&pods).unwrap();
    fs::rename(&aside, &pods).unwrap();
    a_while().await;
    assert!(world.vault.verify_user(&user, &password));
    assert!(world.log().contains("can be seen again"), "{}", world.log());
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn leases_of_a_batch_token_are_revoked_one_by_one_where_policy_allows() {
    let world = World::with(Setup {
        role: json!({ "token_type": "batch", "token_policies": ["app", "revoker"] }),
        ..Setup::default()
    })
    .await;
    let hcl = r#"path "sys/leases/revoke" { capabilities = ["update"] }"#;
    world.admin.policy("revoker", hcl).await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(world.vault.live_users().len(), 1);
    volume.unmount();
    world
        .until("no lease or user lives", || {
            world.vault.live_leases().is_empty() && world.vault.live_users().is_empty()
        })
        .await;
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
}
