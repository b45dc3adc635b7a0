//! Staying alive: leases and tokens over many of their terms, against a server that really ends them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::driver::Volume;
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

fn alive(world: &World, volume: &Volume) -> bool {
    world
        .vault
        .verify_user(&volume.text("username"), &volume.text("password"))
}

#[tokio::test]
async fn without_any_poll_token_and_lease_outlive_many_terms() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "4s" }),
        role: json!({ "token_ttl": "5s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    for _ in 0..14 {
        seconds(1).await;
        assert!(alive(&world, &volume), "{}", world.log());
    }
    assert_eq!((world.logins(), world.creds()), (1, 1));
    assert!(world.vault.count("POST", "sys/leases/renew") >= 5);
    assert!(world.vault.count("POST", "auth/token/renew-self") >= 4);
}

#[tokio::test]
async fn a_lease_at_its_maximum_is_replaced_at_a_poll_before_it_dies() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "4s", "max_ttl": "9s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(DATABASE);
    world.mount(&volume, &class).await;
    let first = volume.text("username");
    let mut changed = 0;
    let mut user = first.clone();
    for _ in 0..14 {
        seconds(1).await;
        assert!(alive(&world, &volume), "{}", world.log());
        world.mount(&volume, &class).await;
        assert!(alive(&world, &volume), "{}", world.log());
        if volume.text("username") != user {
            changed += 1;
            user = volume.text("username");
        }
    }
    assert!(
        (1..=3).contains(&changed),
        "replaced {changed} times in fourteen polls"
    );
    assert_eq!(world.logins(), 1);
    world
        .until("the first user is gone", || {
            !world.vault.live_users().contains(&first)
        })
        .await;
}

#[tokio::test]
async fn a_token_at_its_maximum_is_replaced_with_all_that_hangs_from_it() {
    let world = World::with(Setup {
        role: json!({ "token_ttl": "4s", "token_max_ttl": "8s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{CERTIFICATE}"));
    world.mount(&volume, &class).await;
    let certificate = volume.text("tls.crt");
    for _ in 0..12 {
        seconds(1).await;
        assert!(alive(&world, &volume), "{}", world.log());
        world.mount(&volume, &class).await;
        assert!(alive(&world, &volume), "{}", world.log());
    }
    assert!(
        (2..=5).contains(&world.logins()),
        "{} logins",
        world.logins()
    );
    assert_eq!(
        volume.text("tls.crt"),
        certificate,
        "a certificate without a lease stays"
    );
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_certificate_past_its_time_is_replaced() {
    let world = World::with(Setup {
        certificate_ttl: Some("10s"),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(CERTIFICATE);
    world.mount(&volume, &class).await;
    let first = volume.text("tls.crt");
    seconds(1).await;
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("tls.crt"), first, "its time has not come");
    seconds(8).await;
    world.mount(&volume, &class).await;
    assert_ne!(volume.text("tls.crt"), first);
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn a_token_that_an_administrator_revokes_is_replaced_at_the_next_poll() {
    let world = World::new().await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}"));
    world.mount(&volume, &class).await;
    let accessor = world.vault.live_tokens()[0].accessor.clone();
    world
        .admin
        .write(
            "auth/token/revoke-accessor",
            json!({ "accessor": accessor }),
        )
        .await;
    world.mount(&volume, &class).await;
    assert!(alive(&world, &volume));
    assert_eq!((world.logins(), world.creds()), (2, 2));
}

#[tokio::test]
async fn an_outage_shorter_than_what_is_left_is_survived() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "6s" }),
        role: json!({ "token_ttl": "8s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    seconds(2).await;
    world.vault.stop_listening();
    seconds(3).await;
    world.vault.resume_listening().await.unwrap();
    for _ in 0..6 {
        seconds(1).await;
        assert!(alive(&world, &volume), "{}", world.log());
    }
    assert_eq!(world.logins(), 1);
}
