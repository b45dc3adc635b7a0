//! Mounts over a real socket: bytes, modes, versions, and what a second one asks for again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::{Volume, request, tokens_json, written};
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};

#[tokio::test]
async fn files_have_their_bytes_modes_and_versions() {
    let world = World::new().await;
    let volume = world.volume("web");
    let objects = "
- objectName: api-key
  secretPath: /v1/secret/data/app
  secretKey: api-key
  filePermission: 0600
- objectName: whole/app.json
  secretPath: kv/app
- objectName: greeting
  secretPath: secret/data/app?version=1
  secretKey: greeting
- objectName: binary
  secretPath: v1/kv/app
  secretKey: binary
  encoding: base64
";
    let answer = world.mount(&volume, &class(objects)).await;
    assert_eq!(volume.text("api-key"), "k3y");
    assert_eq!(volume.mode("api-key"), 0o600);
    assert_eq!(volume.text("greeting"), "<hello> & goodbye");
    assert_eq!(volume.mode("greeting"), 0o644);
    assert_eq!(volume.read("binary"), [0, 1, 2, 255]);
    let whole: Value = serde_json::from_slice(&volume.read("whole/app.json")).unwrap();
    assert_eq!(whole["data"]["password"], "p4ss");
    assert_eq!(whole["lease_duration"], 2_764_800);
    assert_eq!(answer.versions.len(), 4);
    let distinct: std::collections::BTreeSet<&String> = answer.versions.values().collect();
    assert_eq!(
        distinct.len(),
        4,
        "versions do not show which contents are equal"
    );
    assert!(answer.versions.values().all(|version| version.len() == 44));
    let (protocol, _, version) = world.driver.version().await.unwrap();
    assert_eq!(
        (protocol.as_str(), version.as_str()),
        ("v1alpha1", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn a_poll_with_nothing_due_asks_for_static_secrets_alone() {
    let world = World::new().await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}{CERTIFICATE}"));
    let first = world.mount(&volume, &class).await;
    let files = ["username", "password", "tls.crt"].map(|file| volume.text(file));
    assert!(world.vault.verify_user(&files[0], &files[1]));
    assert_eq!(world.creds(), 1, "one credential, though it is named twice");
    world.vault.clear_calls();
    for _ in 0..3 {
        let again = world.mount(&volume, &class).await;
        assert_eq!(again.versions, first.versions);
    }
    assert_eq!(
        files,
        ["username", "password", "tls.crt"].map(|file| volume.text(file))
    );
    let calls = world.vault.calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(
        calls
            .iter()
            .all(|call| call.method == "GET" && call.path == "secret/data/app")
    );
}

#[tokio::test]
async fn a_changed_static_secret_shows_at_the_next_poll() {
    let world = World::new().await;
    let volume = world.volume("web");
    let first = world.mount(&volume, &class(KV)).await;
    let body = json!({ "data": { "api-key": "n3w" } });
    world.admin.write("secret/data/app", body).await;
    let second = world.mount(&volume, &class(KV)).await;
    assert_eq!(volume.text("api-key"), "n3w");
    assert_ne!(first.versions, second.versions);
}

#[tokio::test]
async fn other_arguments_are_another_certificate() {
    let world = World::new().await;
    let volume = world.volume("web");
    let objects = format!(
        "{CERTIFICATE}
- objectName: api.crt
  secretPath: pki/issue/web
  method: PUT
  secretArgs: {{common_name: api.shop.example}}
  secretKey: certificate
- objectName: again.crt
  secretPath: pki/issue/web
  method: PUT
  secretArgs: {{common_name: web.shop.example}}
  secretKey: certificate
"
    );
    world.mount(&volume, &class(&objects)).await;
    assert_ne!(volume.text("tls.crt"), volume.text("api.crt"));
    assert_eq!(volume.text("tls.crt"), volume.text("again.crt"));
    assert_eq!(world.vault.count("PUT", "pki/issue/web"), 2);
}

#[tokio::test]
async fn tokens_may_come_with_the_secrets() {
    let world = World::new().await;
    let volume = world.volume("web");
    volume.prepare();
    let attributes = volume.attributes(&class(KV), &BTreeMap::new());
    let tokens = tokens_json(&world.tokens());
    let secrets = json!({ "csi.storage.k8s.io/serviceAccount.tokens": tokens });
    let request = request(&volume, &attributes, &secrets.to_string());
    let answer = world.driver.call(request).await.unwrap();
    written(&volume, &answer);
    assert_eq!(volume.text("api-key"), "k3y");
}

#[tokio::test]
async fn the_jwt_method_and_a_nested_mount_serve_as_well() {
    let world = World::new().await;
    let mount = "teams/a/jwt";
    world
        .admin
        .write(&format!("sys/auth/{mount}"), json!({ "type": "jwt" }))
        .await;
    let keys = json!({ "jwt_validation_pubkeys": [world.accounts.public_key_pem()] });
    world
        .admin
        .write(&format!("auth/{mount}/config"), keys)
        .await;
    let role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "bound_subject": "system:serviceaccount:shop:web",
        "token_policies": ["app"],
        "token_ttl": "1h",
    });
    world
        .admin
        .write(&format!("auth/{mount}/role/app"), role)
        .await;
    let mut class = class(KV);
    class["vaultAuthMountPath"] = json!(format!("/{mount}/"));
    let volume = world.volume("web");
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("api-key"), "k3y");
    assert_eq!(
        world.vault.live_tokens()[0].path,
        format!("auth/{mount}/login")
    );
}

#[tokio::test]
async fn sixty_four_pods_mount_at_once() {
    let world = World::new().await;
    let class = class(&format!("{DATABASE}{KV}"));
    let volumes: Vec<Volume> = (0..64)
        .map(|index| world.volume(&format!("web-{index}")))
        .collect();
    let mounts = volumes.iter().map(|volume| world.mount(volume, &class));
    futures::future::join_all(mounts).await;
    let users: std::collections::BTreeSet<String> = volumes
        .iter()
        .map(|volume| volume.text("username"))
        .collect();
    assert_eq!(users.len(), 64, "each pod has a user of its own");
    assert_eq!(world.vault.live_tokens().len(), 64);
    assert_eq!(world.logins(), 64);
    for volume in &volumes {
        assert!(
            world
                .vault
                .verify_user(&volume.text("username"), &volume.text("password"))
        );
        volume.unmount();
    }
    world.until_nothing_lives().await;
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
}

#[tokio::test]
async fn equal_mounts_at_once_are_one() {
    let world = World::new().await;
    let volume = world.volume("web");
    let slow = Action::Delay(Duration::from_millis(300));
    world
        .vault
        .faults()
        .push(Fault::at("auth/kubernetes/login", slow));
    volume.prepare();
    let attributes = volume.attributes(&class(DATABASE), &world.tokens());
    let request = request(&volume, &attributes, "");
    let calls = (0..8).map(|_| world.driver.call(request.clone()));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap();
    for answer in &answers {
        assert!(answer.as_ref().unwrap().files[0].contents == first.files[0].contents);
    }
    assert_eq!(world.logins(), 1);
    assert_eq!(world.creds(), 1);
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_half_owned() {
    let world = World::new().await;
    let volume = world.volume("web");
    volume.prepare();
    let slow = Action::DelayAfterCommit(Duration::from_millis(500));
    world
        .vault
        .faults()
        .push(Fault::at("auth/kubernetes/login", slow).times(1));
    let attributes = volume.attributes(&class(DATABASE), &world.tokens());
    let call = world.driver.call(request(&volume, &attributes, ""));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), call)
            .await
            .is_err()
    );
    // The driver comes again: it finds what the first call went on to get.
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(world.logins(), 1);
    assert_eq!(world.vault.live_tokens().len(), 1);
    assert_eq!(world.vault.live_leases().len(), 1);
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn two_volumes_of_a_pod_are_two_sessions() {
    let world = World::new().await;
    let first = world.volume("web");
    let second = Volume::new(&world.node.pods(), "shop", "web", "uid-web", "more");
    world.mount(&first, &class(DATABASE)).await;
    world.mount(&second, &class(DATABASE)).await;
    assert_eq!(world.vault.live_tokens().len(), 2);
    first.unmount();
    world
        .until("one token is left", || world.vault.live_tokens().len() == 1)
        .await;
    world
        .until("one user is left", || world.vault.live_users().len() == 1)
        .await;
    assert!(
        world
            .vault
            .verify_user(&second.text("username"), &second.text("password"))
    );
}

#[tokio::test]
async fn a_changed_class_fetches_what_changed() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    let answer = world
        .mount(&volume, &class(&format!("{DATABASE}{KV}")))
        .await;
    assert_eq!(answer.files.len(), 3);
    assert_eq!(volume.text("username"), user, "what is unchanged stays");
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn a_changed_login_reads_everything_anew_and_drains_the_old() {
    let world = World::with(Setup::default()).await;
    world.admin.role("kubernetes", "other", json!({})).await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let user = volume.text("username");
    let mut changed = class(DATABASE);
    changed["roleName"] = json!("other");
    world.mount(&volume, &changed).await;
    assert_ne!(volume.text("username"), user);
    assert!(
        world.vault.live_users().contains(&user),
        "the old one drains"
    );
    // A later Mount confirms that the new files have arrived.
    world.mount(&volume, &changed).await;
    world
        .until("the old user is gone", || {
            !world.vault.live_users().contains(&user)
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
async fn the_lease_of_an_object_that_the_class_no_longer_names_is_revoked() {
    let world = World::new().await;
    let revoke = "path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
    world.admin.policy("revoke", revoke).await;
    let policies = json!({ "token_policies": ["app", "revoke"] });
    world.admin.role("kubernetes", "app", policies).await;
    let volume = world.volume("web");
    world
        .mount(&volume, &class(&format!("{DATABASE}{KV}")))
        .await;
    let user = volume.text("username");
    // Two answers: the first may be lost on its way.
    for _ in 0..2 {
        world.mount(&volume, &class(KV)).await;
    }
    world
        .until("the user is gone", || {
            !world.vault.live_users().contains(&user)
        })
        .await;
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn static_reads_of_one_path_with_other_arguments_are_two() {
    let world = World::new().await;
    let volume = world.volume("web");
    let object = |name, argument| {
        format!(
            "\n- {{objectName: {name}, secretPath: secret/data/app, secretKey: api-key, secretArgs: {{n: {argument}}}}}"
        )
    };
    let both = class(&(object("one", 1) + &object("two", 2)));
    for _ in 0..2 {
        world.mount(&volume, &both).await;
        assert_eq!(volume.text("one"), volume.text("two"));
    }
    assert_eq!(world.vault.count("GET", "secret/data/app"), 4);
}
