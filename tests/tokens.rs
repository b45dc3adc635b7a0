//! Tokens and replies of every kind, each by its rule.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::json;
use support::driver::Volume;
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};
use tonic::Code;

fn logs_in(world: &World, volume: &Volume) -> bool {
    let (user, password) = (volume.text("username"), volume.text("password"));
    world.vault.verify_user(&user, &password)
}

#[tokio::test]
async fn a_periodic_token_is_renewed_for_ever() {
    let world = World::with(Setup {
        role: json!({ "token_period": "3s", "token_ttl": "0", "token_max_ttl": "0" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user);
    assert!(logs_in(&world, &volume));
    assert_eq!((world.logins(), world.creds()), (1, 1), "{}", world.log());
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_batch_token_is_replaced_at_a_poll_before_it_ends_and_its_leases_with_it() {
    let world = World::with(Setup {
        role: json!({ "token_type": "batch", "token_ttl": "6s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{CERTIFICATE}"));
    world.mount(&volume, &class).await;
    let (user, certificate) = (volume.text("username"), volume.text("tls.crt"));
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.mount(&volume, &class).await;
        assert!(logs_in(&world, &volume), "{}", world.log());
    }
    assert_ne!(volume.text("username"), user);
    assert_eq!(
        volume.text("tls.crt"),
        certificate,
        "a certificate outlives the token"
    );
    assert!((2..=4).contains(&world.logins()), "{}", world.logins());
    assert_eq!(
        world.vault.count("POST", "auth/token/renew-self"),
        0,
        "a batch token cannot be renewed"
    );
    volume.unmount();
    // No policy lets it revoke its leases here; they end with the token.
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_token_with_counted_uses_serves_one_mount_and_is_used_for_nothing_else() {
    let world = World::with(Setup {
        role: json!({ "token_num_uses": 5, "token_ttl": "6s" }),
        database: json!({ "default_ttl": "4s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}"));
    for polls in 1..=3 {
        world.mount(&volume, &class).await;
        assert!(logs_in(&world, &volume), "{}", world.log());
        assert_eq!(world.logins(), polls);
        tokio::time::sleep(Duration::from_millis(2200)).await;
    }
    assert_eq!(world.vault.count("POST", "auth/token/renew-self"), 0);
    assert_eq!(world.vault.count("POST", "sys/leases/renew"), 0);
    assert!(world.log().contains("token_num_uses"), "{}", world.log());
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_token_without_the_default_policy_is_no_reason_to_log_in_again_and_again() {
    let world = World::with(Setup {
        role: json!({ "token_no_default_policy": true, "token_ttl": "8s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.mount(&volume, &class(DATABASE)).await;
        assert!(logs_in(&world, &volume), "{}", world.log());
    }
    // The renewal at half its time was forbidden; it is replaced two polls before its end, not before.
    assert_eq!(world.logins(), 1, "{}", world.log());
    assert!(
        world.log().contains("no policy allows its renewal"),
        "{}",
        world.log()
    );
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.mount(&volume, &class(DATABASE)).await;
        assert!(logs_in(&world, &volume), "{}", world.log());
    }
    assert_eq!(world.logins(), 2, "{}", world.log());
    volume.unmount();
    world
        .until("it is said", || {
            world.log().contains("may not revoke itself")
        })
        .await;
    assert_eq!(world.node.journalled(), 1, "it is not forgotten");
    // It ends by itself, and is tried until then.
    world.until_nothing_lives().await;
    world
        .until("and then it is over", || world.node.journalled() == 0)
        .await;
}

#[tokio::test]
async fn a_reply_that_is_no_secret_is_told_apart_and_leaves_nothing() {
    let world = World::new().await;
    let more = r#"
        path "auth/token/create" { capabilities = ["update"] }
    "#;
    world.admin.policy("more", more).await;
    let role = json!({ "token_policies": ["app", "more"] });
    world.admin.role("kubernetes", "app", role).await;
    let volume = world.volume("web");
    let grants = class("- objectName: a\n  secretPath: auth/token/create\n  method: POST\n");
    let told = world.refused(&volume, &grants, Code::NotFound).await;
    assert!(told.contains("grants a token"), "{told}");
    // The token that it granted is a child of the session's, and goes with it.
    world.until_nothing_lives().await;
    let wrapped = Action::Status {
        code: 200,
        body: json!({ "data": null, "wrap_info": { "token": "s.wrapping" } }).to_string(),
        headers: Vec::new(),
    };
    world.vault.faults().push(Fault::at("kv/app", wrapped));
    let kv = class("- objectName: a\n  secretPath: kv/app\n");
    let told = world.refused(&volume, &kv, Code::NotFound).await;
    assert!(
        told.contains("wrapped") && !told.contains("s.wrapping"),
        "{told}"
    );
    volume.unmount();
}
