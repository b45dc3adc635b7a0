//! Reads that the server refuses although the token lives: a stray answer, a standby that is behind, and a
//! policy that came later.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use dev_vault::{Action, Fault};
use serde_json::json;
use support::world::{DATABASE, KV, World, class};
use tonic::Code;

const LATER: &str = "
- objectName: later
  secretPath: later/app
  secretKey: value
";

fn refused(code: u16, text: &str) -> Action {
    Action::Status {
        code,
        body: json!({ "errors": [text] }).to_string(),
        headers: Vec::new(),
    }
}

async fn with_later_secret() -> World {
    let world = World::new().await;
    world.admin.engine("later", "kv", "1").await;
    world
        .admin
        .write("later/app", json!({ "value": "v" }))
        .await;
    world
}

#[tokio::test]
async fn a_policy_added_to_the_role_serves_at_the_next_poll() {
    let world = with_later_secret().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    let more = class(&format!("{DATABASE}{LATER}"));
    world
        .admin
        .policy("later", "path \"later/*\" { capabilities = [\"read\"] }")
        .await;
    world
        .admin
        .role(
            "kubernetes",
            "app",
            json!({ "token_policies": ["app", "later"] }),
        )
        .await;
    world.mount(&volume, &more).await;
    assert_eq!(volume.text("later"), "v");
    assert_eq!(world.logins(), 2);
    assert_ne!(
        volume.text("username"),
        user,
        "leases hang from the session that made them"
    );
    // Served by the new session from now on.
    let user = volume.text("username");
    for _ in 0..2 {
        world.mount(&volume, &more).await;
    }
    assert_eq!((world.logins(), volume.text("username")), (2, user));
    world
        .until("the old session is revoked", || {
            world.vault.live_tokens().len() == 1
        })
        .await;
}

#[tokio::test]
async fn a_policy_that_stays_missing_costs_one_login_and_no_lease() {
    let world = with_later_secret().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    let more = class(&format!("{DATABASE}{LATER}"));
    for _ in 0..3 {
        let told = world.refused(&volume, &more, Code::PermissionDenied).await;
        assert!(told.contains("GET later/app"), "{told}");
    }
    assert_eq!((world.logins(), world.creds()), (2, 1), "paced");
    world
        .until("the login in vain is revoked", || {
            world.vault.live_tokens().len() == 1
        })
        .await;
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user);
    assert!(world.vault.verify_user(&user, &password));
    assert_eq!((world.logins(), world.creds()), (2, 1));
}

#[tokio::test]
async fn a_stray_refusal_at_a_poll_replaces_nothing() {
    let world = World::new().await;
    let volume = world.volume("web");
    let both = class(&format!("{DATABASE}{KV}"));
    world.mount(&volume, &both).await;
    let user = volume.text("username");
    for text in [
        "permission denied",
        "1 error occurred:\n\t* permission denied\n\n",
    ] {
        let fault = Fault::at("secret/", refused(403, text)).times(1);
        world.vault.faults().push(fault);
        world.mount(&volume, &both).await;
    }
    // A refusal that stays, while the token lives: this poll fails, and no more.
    let page = Action::Status {
        code: 403,
        body: "<html>blocked</html>".to_owned(),
        headers: Vec::new(),
    };
    world.vault.faults().push(Fault::at("secret/", page));
    world.refused(&volume, &both, Code::PermissionDenied).await;
    world.vault.faults().clear();
    world.mount(&volume, &both).await;
    assert_eq!(volume.text("username"), user);
    assert_eq!(world.creds(), 1);
}

#[tokio::test]
async fn a_standby_that_has_not_heard_of_the_token_is_asked_again() {
    let world = World::new().await;
    for (pod, action) in [
        ("behind", refused(403, "permission denied")),
        (
            "unreplicated",
            refused(412, "required index state not present"),
        ),
    ] {
        let fault = Fault::at("secret/", action).times(2);
        world.vault.faults().push(fault);
        let volume = world.volume(pod);
        world.mount(&volume, &class(KV)).await;
        assert_eq!(volume.text("api-key"), "k3y");
    }
    assert_eq!(world.logins(), 2);
}
