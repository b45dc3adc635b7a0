//! What classes of the field rely on, from the message to the files and to the end of the volume.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::{Volume, request, tokens_json, written};
use support::world::{DATABASE, KV, World, class};
use tonic::Code;

fn expiring(objects: &str) -> Value {
    json!({ "roleName": "app", "objects": objects, "onUnmount": "expire" })
}

/// Long enough for several looks and the confirmation.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

#[tokio::test]
async fn arguments_that_stand_once_make_one_certificate_of_several_files() {
    let world = World::new().await;
    let volume = world.volume("web");
    let objects = "
- objectName: ca.crt
  secretPath: v1/pki/issue/web
  method: PUT
  secretKey: ca_chain
- objectName: tls.crt
  secretPath: pki/issue/web
  method: put
  secretKey: certificate
  secretArgs: {common_name: web.shop.example, ttl: 24h}
- objectName: tls.key
  secretPath: pki/issue/web
  method: PUT
  secretKey: private_key
";
    for _ in 0..2 {
        world.mount(&volume, &class(objects)).await;
        assert_eq!(world.vault.count("PUT", "pki/issue/web"), 1, "one issue");
    }
    assert!(volume.text("tls.crt").starts_with("-----BEGIN CERTIFICATE"));
    assert!(volume.text("tls.key").contains("PRIVATE KEY"));
    let chain: Value = serde_json::from_slice(&volume.read("ca.crt")).unwrap();
    assert_eq!(chain.as_array().map(Vec::len), Some(1));
    assert!(!world.log().contains("secretArgs"), "nothing to warn of");

    // Of two argument sets none is guessed: the third is its own request, which the server refuses.
    let other = "
- {objectName: a, secretPath: pki/issue/web, method: PUT, secretKey: certificate, secretArgs: {common_name: a.example}}
- {objectName: b, secretPath: pki/issue/web, method: PUT, secretKey: certificate, secretArgs: {common_name: b.example}}
- {objectName: c, secretPath: pki/issue/web, method: PUT, secretKey: private_key}
";
    let another = world.volume("other");
    let answer = world.try_mount(&another, &class(other)).await;
    drop(answer);
    assert!(
        world.log().contains("asked with 2 different secretArgs"),
        "{}",
        world.log()
    );
}

#[tokio::test]
async fn a_percent_sign_in_a_name_is_read_as_it_stands() {
    let world = World::new().await;
    for (sent, value) in [
        ("secret/data/my-project%252fpassword", "literal"),
        ("secret/data/my-project%2fpassword", "below"),
    ] {
        world
            .admin
            .write(sent, json!({ "data": { "k": value } }))
            .await;
    }
    // An auth mount as well.
    let host = world.accounts.url();
    world.admin.kubernetes("k8s%252fa", &host, json!({})).await;
    let volume = world.volume("web");
    let objects = "
- {objectName: literal, secretPath: secret/data/my-project%2fpassword, secretKey: k}
- {objectName: below, secretPath: secret/data/my-project/password, secretKey: k}
";
    let mut class = class(objects);
    class["vaultAuthMountPath"] = json!("k8s%2fa");
    world.mount(&volume, &class).await;
    assert_eq!(volume.text("literal"), "literal");
    assert_eq!(volume.text("below"), "below");
}

#[tokio::test]
async fn a_poll_with_an_expired_token_is_served_by_the_live_session() {
    let world = World::new().await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}"));
    world.mount(&volume, &class).await;
    let user = volume.text("username");
    let with_expired = |volume: &Volume| {
        let mut attributes = volume.attributes(&class, &world.tokens());
        let tokens = tokens_json(&world.tokens()).replace("2100-", "2020-");
        attributes["csi.storage.k8s.io/serviceAccount.tokens"] = json!(tokens);
        request(volume, &attributes, "")
    };
    for _ in 0..2 {
        let answer = world.driver.call(with_expired(&volume)).await.unwrap();
        written(&volume, &answer);
        assert_eq!(volume.text("username"), user);
    }
    assert_eq!((world.logins(), world.creds()), (1, 1));
    // Only a login needs the token.
    let other = world.volume("other");
    other.prepare();
    let status = world.driver.call(with_expired(&other)).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("expired at 2020"), "{status}");
    assert!(status.message().contains("requiresRepublish"), "{status}");
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn what_is_no_json_is_a_file_of_its_own_bytes() {
    let world = World::new().await;
    world
        .admin
        .policy("app", "path \"*\" { capabilities = [\"read\"] }")
        .await;
    let volume = world.volume("web");
    let objects = "
- {objectName: chain.pem, secretPath: pki/ca_chain}
- {objectName: ca.pem, secretPath: pki/ca/pem}
- {objectName: ca.der, secretPath: pki/cert/ca/raw}
- {objectName: ca.json.crt, secretPath: pki/cert/ca, secretKey: certificate}
";
    for _ in 0..2 {
        world.mount(&volume, &class(objects)).await;
        let certificate = volume.text("ca.json.crt");
        assert_eq!(volume.text("chain.pem"), certificate);
        assert_eq!(volume.text("ca.pem"), certificate);
        let der = volume.read("ca.der");
        assert!(der.starts_with(&[0x30]) && String::from_utf8(der).is_err());
    }
    let keyed = class("- {objectName: a, secretPath: pki/ca_chain, secretKey: ca_chain}\n");
    let told = world
        .refused(&world.volume("keyed"), &keyed, Code::InvalidArgument)
        .await;
    assert!(
        told.contains("is no JSON")
            && told.contains("`pki/cert/ca_chain` with `secretKey: certificate`"),
        "{told}"
    );
    // A proxy's login page is no file, whatever its status says.
    for (kind, body) in [
        ("text/html", "<html>log in</html>"),
        ("text/plain", "log in first"),
    ] {
        let page = Action::Status {
            code: 200,
            body: body.to_owned(),
            headers: vec![("Content-Type".to_owned(), format!("{kind}; charset=utf-8"))],
        };
        world
            .vault
            .faults()
            .push(Fault::at("pki/ca_chain", page).times(1));
        let plain = class("- {objectName: a, secretPath: pki/ca_chain}\n");
        let told = world
            .refused(&world.volume("page"), &plain, Code::Internal)
            .await;
        assert!(
            told.contains(&format!("the reply is {kind}, not what a Vault")),
            "{told}"
        );
        assert!(!told.contains("log in"), "{told}");
    }
    let empty = Action::Status {
        code: 204,
        body: String::new(),
        headers: Vec::new(),
    };
    world
        .vault
        .faults()
        .push(Fault::at("pki/ca_chain", empty).times(1));
    let plain = class("- {objectName: a, secretPath: pki/ca_chain}\n");
    let told = world
        .refused(&world.volume("empty"), &plain, Code::NotFound)
        .await;
    assert!(told.contains("the reply is"), "{told}");
}

#[tokio::test]
async fn a_class_that_lets_expire_revokes_nothing_at_its_end() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &expiring(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    // The word is journalled: a restart keeps it.
    world.kill();
    world.restart().await;
    volume.unmount();
    world
        .until("the volume is forgotten", || world.node.journalled() == 0)
        .await;
    a_while().await;
    assert!(
        world.vault.verify_user(&user, &password),
        "a synced Secret still shows it"
    );
    assert_eq!(world.vault.count("POST", "auth/token/revoke-self"), 0);
    assert_eq!(world.vault.count("POST", "sys/leases/revoke"), 0);
}

#[tokio::test]
async fn a_first_mount_that_fails_is_revoked_though_its_class_lets_expire() {
    let world = World::new().await;
    let volume = world.volume("web");
    let broken = expiring(&format!(
        "{DATABASE}- {{objectName: x, secretPath: kv/nothing}}\n"
    ));
    world.refused(&volume, &broken, Code::NotFound).await;
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_volume_below_another_kubelets_root_ends_in_time() {
    let mut world = World::new().await;
    let root = world.node.pods().parent().unwrap().join("mnt/kubelet/pods");
    fs::create_dir_all(&root).unwrap();
    let elsewhere = Volume::new(&root, "shop", "web", "uid-web", "secrets");
    let here = world.volume("other");
    world.mount(&elsewhere, &class(DATABASE)).await;
    world.mount(&here, &class(KV)).await;
    elsewhere.unmount();
    world
        .until("its user is gone", || world.vault.live_users().is_empty())
        .await;
    a_while().await;
    assert_eq!(world.vault.live_tokens().len(), 1, "the other volume's");

    // And one that ends while nobody looks.
    let elsewhere = Volume::new(&root, "shop", "api", "uid-api", "secrets");
    world.mount(&elsewhere, &class(DATABASE)).await;
    world.kill();
    elsewhere.unmount();
    world.restart().await;
    world
        .until("its user is gone", || world.vault.live_users().is_empty())
        .await;
}

#[tokio::test]
async fn five_hundred_objects_mount_and_five_hundred_faults_fit_into_a_header() {
    let world = World::new().await;
    let volume = world.volume("web");
    let objects: String = (0..500)
        .map(|n| {
            format!(
                "- {{objectName: d/{n:0>255}, secretPath: secret/data/app, secretKey: api-key}}\n"
            )
        })
        .collect();
    let answer = world.mount(&volume, &class(&objects)).await;
    assert_eq!(answer.versions.len(), 500);
    assert_eq!(world.vault.count("GET", "secret/data/app"), 1);
    assert_eq!(volume.text(&format!("d/{:0>255}", 499)), "k3y");

    // As long as the driver can write it.
    let long = world.volume("long");
    let length = 4095 - 33 - long.target().as_os_str().len();
    let name = format!("{}/", "x".repeat(255)).repeat(17);
    let name = name[..length].trim_end_matches('/');
    let objects =
        json!([{ "objectName": name, "secretPath": "secret/data/app", "secretKey": "api-key" }]);
    world.mount(&long, &class(&objects.to_string())).await;
    assert_eq!(long.text(name), "k3y");

    let awkward = "é\u{1f511}\"%".repeat(50);
    let wrong: Vec<Value> = (0..500)
        .map(|n| json!({ "objectName": format!("/{n}{awkward}"), "secretPath": format!("../{awkward}") }))
        .collect();
    let huge = "n".repeat(600_000);
    let fine = "- {objectName: a, secretPath: kv/app}";
    let long = "x/".repeat(1500);
    for class in [
        json!({ "roleName": "app", "objects": json!(wrong).to_string() }),
        json!({ "roleName": "app", "objects": fine, "vaultNamespace": huge }),
        json!({ "roleName": "app", "objects": fine, "vaultNamespace": "n".repeat(1024 * 1024) }),
        json!({ "roleName": "app", huge: "x", "objects": fine, "onUnmount": awkward }),
        json!({ "roleName": "r".repeat(4096), "vaultAuthMountPath": format!("m/{long}"), "objects": fine }),
        json!({ "roleName": "app", "objects": json!([{ "objectName": format!("{long}a"), "secretPath": format!("kv/{long}a"), "secretKey": "k" }]).to_string() }),
        json!({ "roleName": "app", "vaultAddress": format!("http://127.0.0.1:1/{long}"), "objects": fine }),
    ] {
        // Over a real connection: a header that is too long would break the stream instead.
        let status = world
            .try_mount(&world.volume("wrong"), &class)
            .await
            .err()
            .unwrap();
        let message = status.message();
        assert!(message.len() <= 4096, "{}", message.len());
        assert_ne!(status.code(), Code::Unknown, "{message}");
        assert!(!message.is_empty());
    }
}
