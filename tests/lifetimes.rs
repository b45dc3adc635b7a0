//! How long a reply is good: what is read anew at each poll, what is kept and until when, and what happens
//! when somebody else ends it or nothing renews it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::Volume;
use support::world::{DATABASE, KV, Setup, World, class};

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

fn alive(world: &World, volume: &Volume) -> bool {
    world
        .vault
        .verify_user(&volume.text("username"), &volume.text("password"))
}

/// A world in which the policy `more` allows this as well.
async fn allowing(path: &str, capabilities: &str, setup: Setup<'_>) -> World {
    let world = World::with(Setup {
        role: json!({ "token_policies": ["app", "more"] }),
        ..setup
    })
    .await;
    let hcl = format!(r#"path "{path}" {{ capabilities = [{capabilities}] }}"#);
    world.admin.policy("more", &hcl).await;
    world
}

#[tokio::test]
async fn a_static_role_that_an_operator_rotates_shows_its_new_password_at_the_next_poll() {
    let world = allowing("database/static-creds/*", r#""read""#, Setup::default()).await;
    let role = json!({ "username": "shop", "rotation_period": "24h", "db_name": "db" });
    world.admin.write("database/static-roles/app", role).await;
    let class = class(
        "
- {objectName: username, secretPath: database/static-creds/app, secretKey: username}
- {objectName: password, secretPath: database/static-creds/app, secretKey: password}
",
    );
    let volume = world.volume("web");
    world.mount(&volume, &class).await;
    let first = volume.text("password");
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("password"), first);
    world
        .admin
        .write("database/rotate-role/app", Value::Null)
        .await;
    world.mount(&volume, &class).await;
    assert_ne!(volume.text("password"), first);
    assert!(alive(&world, &volume));
    assert_eq!(world.logins(), 1);
}

/// Files of one reply of AWS.
fn session(method: &str) -> Value {
    class(&format!(
        "
- {{objectName: key, secretPath: aws/sts/deploy, secretKey: access_key, method: {method}}}
- {{objectName: token, secretPath: aws/sts/deploy, secretKey: security_token, method: {method}}}
"
    ))
}

#[tokio::test]
async fn a_session_without_a_lease_is_kept_while_it_is_good_and_replaced_as_a_whole() {
    for method in ["GET", "PUT"] {
        let rights = r#""read", "update""#;
        let world = allowing("aws/sts/*", rights, Setup::default()).await;
        world.admin.engine("aws", "aws", "").await;
        world
            .admin
            .write("aws/roles/deploy", json!({ "ttl": "20s" }))
            .await;
        let asked = || world.vault.count(method, "aws/sts/");
        let class = session(method);
        let volume = world.volume("web");
        world.mount(&volume, &class).await;
        let started = Instant::now();
        let pair = || (volume.text("key"), volume.text("token"));
        let mut pairs = BTreeSet::from([pair()]);
        let mut polls_after = 0;
        while polls_after < 4 {
            seconds(1).await;
            world.mount(&volume, &class).await;
            pairs.insert(pair());
            if started.elapsed() < Duration::from_secs(5) {
                assert_eq!(asked(), 1, "{method}: kept while it is good");
            }
            polls_after += usize::from(asked() > 1);
            assert!(started.elapsed() < Duration::from_secs(20), "{method}");
        }
        assert_eq!(asked(), 2, "{method}: replaced in its last third, once");
        assert_eq!(pairs.len(), 2, "{method}: both files of one reply");
        assert_eq!(world.logins(), 1);
    }
}

#[tokio::test]
async fn an_access_token_outlives_a_restart_and_is_not_asked_for_again() {
    let mut world = allowing("gcp/*", r#""read""#, Setup::default()).await;
    world.admin.engine("gcp", "gcp", "").await;
    world
        .admin
        .write("gcp/roleset/app", json!({ "ttl": "1h" }))
        .await;
    let objects = "\n- {objectName: token, secretPath: gcp/roleset/app/token, secretKey: token}\n";
    let class = class(objects);
    let volume = world.volume("web");
    world.mount(&volume, &class).await;
    let first = volume.text("token");
    world.kill();
    world.restart().await;
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("token"), first);
    assert_eq!(world.vault.count("GET", "gcp/roleset/"), 1);
}

#[tokio::test]
async fn leases_that_an_administrator_revokes_are_noticed_and_replaced() {
    let world = World::with(Setup {
        flags: &["-lookup-interval=2s"],
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}"));
    world.mount(&volume, &class).await;
    let looked_up = || world.vault.count("POST", "sys/leases/lookup");
    world.until("it is looked up", || looked_up() >= 2).await;
    world.mount(&volume, &class).await;
    assert_eq!(world.creds(), 1);
    world
        .admin
        .write("sys/leases/revoke-prefix/database/creds", json!({}))
        .await;
    assert!(!alive(&world, &volume));
    let noticed = "somebody else has revoked it";
    world
        .until("it is noticed", || world.log().contains(noticed))
        .await;
    let log = world.log();
    let line = log.lines().find(|line| line.contains(noticed)).unwrap();
    assert!(line.contains("\"pod\":\"web\"") && line.contains("\"namespace\":\"shop\""));
    assert_eq!(world.vault.count("POST", "sys/leases/renew"), 0);
    world.mount(&volume, &class).await;
    assert!(alive(&world, &volume));
    assert_eq!((world.logins(), world.creds()), (1, 2));
}

#[tokio::test]
async fn a_token_that_only_a_look_up_can_miss_is_looked_up() {
    let world = World::with(Setup {
        flags: &["-lookup-interval=2s"],
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world
        .mount(&volume, &class(support::world::CERTIFICATE))
        .await;
    let accessor = world.vault.live_tokens()[0].accessor.clone();
    let body = json!({ "accessor": accessor });
    world.admin.write("auth/token/revoke-accessor", body).await;
    let noticed = "somebody else has revoked it";
    world
        .until("it is noticed", || world.log().contains(noticed))
        .await;
}

#[tokio::test]
async fn what_no_policy_lets_us_look_up_is_asked_about_once() {
    let world = World::with(Setup {
        flags: &["-lookup-interval=1s"],
        role: json!({ "token_no_default_policy": true }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    seconds(5).await;
    assert_eq!(world.vault.count("POST", "sys/leases/lookup"), 1);
    assert_eq!(world.vault.count("GET", "auth/token/lookup-self"), 1);
    assert_eq!(world.logins(), 1);
}

/// Polls each second until the credential has changed, and four times more; how often it changed.
async fn changes_with(action: Action, path: &str, setup: Setup<'_>) -> (usize, World) {
    let world = World::with(setup).await;
    let volume = world.volume("web");
    let class = class(DATABASE);
    world.mount(&volume, &class).await;
    world.vault.faults().push(Fault::at(path, action));
    let (mut changes, mut user) = (0, volume.text("username"));
    let mut polls_after = 0;
    while polls_after < 5 {
        seconds(1).await;
        assert!(alive(&world, &volume), "{}", world.log());
        world.mount(&volume, &class).await;
        if volume.text("username") != user {
            changes += 1;
            user = volume.text("username");
        }
        polls_after += usize::from(changes > 0);
    }
    assert!(alive(&world, &volume));
    (changes, world)
}

fn answered(code: u16, body: &str) -> Action {
    Action::Status {
        code,
        body: body.to_owned(),
        headers: Vec::new(),
    }
}

#[tokio::test]
async fn a_lease_that_nothing_renews_is_replaced_once_before_it_dies() {
    let actions = [
        answered(500, r#"{"errors":["internal error"]}"#),
        answered(204, ""),
        answered(200, "{}"),
        answered(200, r#"{"lease_id":"","lease_duration":0,"data":null}"#),
        answered(200, "<html>"),
    ];
    let runs = actions.map(|action| async {
        let shown = format!("{action:?}");
        let (changes, world) = changes_with(
            action,
            "sys/leases/renew",
            Setup {
                database: json!({ "default_ttl": "16s" }),
                ..Setup::default()
            },
        )
        .await;
        assert_eq!(changes, 1, "{shown}: {}", world.log());
        assert_eq!(world.logins(), 1, "{shown}");
    });
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn a_token_that_nothing_renews_is_replaced_once_before_it_dies() {
    let actions = [
        answered(500, r#"{"errors":["internal error"]}"#),
        answered(204, ""),
        answered(200, r#"{"auth":null}"#),
    ];
    let runs = actions.map(|action| async {
        let shown = format!("{action:?}");
        let (changes, world) = changes_with(
            action,
            "auth/token/renew-self",
            Setup {
                role: json!({ "token_ttl": "16s" }),
                ..Setup::default()
            },
        )
        .await;
        assert_eq!(changes, 1, "{shown}: {}", world.log());
        assert_eq!(world.logins(), 2, "{shown}");
    });
    futures::future::join_all(runs).await;
}
