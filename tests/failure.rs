//! What goes wrong, with its code, its words, and nothing left alive at the server.

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
use support::driver::{request, tokens_json};
use support::world::{DATABASE, KV, World, class};
use tonic::Code;

fn with(parameter: &str, value: &str) -> Value {
    let mut class = class(KV);
    class[parameter] = json!(value);
    class
}

fn without(parameter: &str) -> Value {
    let mut class = class(KV);
    class.as_object_mut().unwrap().remove(parameter);
    class
}

#[tokio::test]
async fn a_class_that_is_wrong_is_refused_before_anything_is_done() {
    let world = World::new().await;
    let mounted = world.volume("mounted");
    world.mount(&mounted, &class(DATABASE)).await;
    world.vault.clear_calls();
    let volume = world.volume("web");
    let object = |fields: &str| class(&format!("- objectName: a\n  secretPath: kv/app\n{fields}"));
    let cases = [
        (without("roleName"), "roleName: is missing"),
        (without("objects"), "objects: there are none"),
        (with("objects", "[]"), "objects: there are none"),
        (
            with("objects", "- objectName: [\n"),
            "objects (line 1, column 15): cannot be read",
        ),
        (with("objects", "{}"), "objects"),
        (
            with("vaultAddress", "10.0.0.1:8200"),
            "vaultAddress: \"10.0.0.1:8200\" has no https://",
        ),
        (
            with("vaultNamespace", "a\nb"),
            "vaultNamespace: has a control character",
        ),
        (
            with("vaultAuthMountPath", "a/../b"),
            "vaultAuthMountPath: \"a/../b\" has the segment \"..\"",
        ),
        (
            with("vaultSkipTLSVerify", "perhaps"),
            "vaultSkipTLSVerify: \"perhaps\" is neither",
        ),
        (
            class("- objectName: a\n  secretPath: kv/app\n- objectName: a\n  secretPath: kv/b\n"),
            "objectName \"a\" is given twice",
        ),
        (
            class("- objectName: ../a\n  secretPath: kv/app\n"),
            "objects[0].objectName (line 1, column 15): \"../a\" begins with \"..\"",
        ),
        (
            class("- objectName: /a\n  secretPath: kv/app\n"),
            "objects[0].objectName (line 1, column 15): \"/a\" is absolute",
        ),
        (
            class("- objectName: a\n  secretPath: kv/../app\n"),
            "objects[0].secretPath (line 2, column 15)",
        ),
        (
            object("  filePermission: rw\n"),
            "objects[0].filePermission (line 3, column 19)",
        ),
        (
            object("  method: TRACE\n"),
            "objects[0].method (line 3, column 11): \"TRACE\" gives nothing that could be a file",
        ),
        (
            object("  secretKey: a\n  encoding: rot13\n"),
            "objects[0].encoding (line 4, column 13): \"rot13\" is not known",
        ),
    ];
    for (class, told) in cases {
        let message = world.refused(&volume, &class, Code::InvalidArgument).await;
        assert!(message.contains(told), "{told:?} in {message:?}");
    }
    assert!(
        world.vault.calls().is_empty(),
        "nothing was asked of the server"
    );
    assert!(
        world
            .vault
            .verify_user(&mounted.text("username"), &mounted.text("password"))
    );
    assert_eq!(world.vault.live_tokens().len(), 1);
}

#[tokio::test]
async fn attributes_that_are_no_json_are_refused() {
    let world = World::new().await;
    let volume = world.volume("web");
    for attributes in ["", "[]", "{\"a\"", "{\"roleName\": 1}"] {
        let mut broken = request(&volume, &json!({}), "");
        broken.attributes = attributes.to_owned();
        let status = world.driver.call(broken).await.err().unwrap();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{attributes}: {status}"
        );
    }
}

#[tokio::test]
async fn a_missing_or_expired_token_is_told_apart() {
    let world = World::new().await;
    let volume = world.volume("web");
    volume.prepare();
    let attributes = volume.attributes(&class(KV), &BTreeMap::new());
    let status = world
        .driver
        .call(request(&volume, &attributes, ""))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("tokenRequests"), "{status}");

    let message = world
        .refused(
            &volume,
            &with("audience", "third"),
            Code::FailedPrecondition,
        )
        .await;
    assert!(
        message.contains("\"third\"") && message.contains("vault"),
        "{message}"
    );

    let tokens = tokens_json(&world.tokens()).replace("2100-", "2020-");
    let mut attributes = attributes;
    attributes["csi.storage.k8s.io/serviceAccount.tokens"] = json!(tokens);
    let status = world
        .driver
        .call(request(&volume, &attributes, ""))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("expired at 2020"), "{status}");
    assert_eq!(world.logins(), 0);
}

#[tokio::test]
async fn what_the_server_refuses_leaves_no_token() {
    let world = World::new().await;
    let volume = world.volume("web");
    let cases = [
        (
            with("roleName", "nobody"),
            Code::PermissionDenied,
            "invalid role name \"nobody\"",
        ),
        (
            with("vaultAuthMountPath", "nope"),
            Code::PermissionDenied,
            "a mistyped one looks like this",
        ),
        (
            with("vaultNamespace", "nowhere"),
            Code::NotFound,
            "in namespace \"nowhere\": status 404: namespace not found",
        ),
        (
            class("- objectName: a\n  secretPath: other/app\n"),
            Code::PermissionDenied,
            "object \"a\": GET other/app",
        ),
        (
            class("- objectName: a\n  secretPath: kv/nothing\n"),
            Code::NotFound,
            "object \"a\": GET kv/nothing",
        ),
        (
            class("- objectName: a\n  secretPath: kv/app\n  secretKey: nope\n"),
            Code::NotFound,
            "has no key \"nope\"",
        ),
        (
            class(
                "- objectName: a\n  secretPath: kv/app\n  secretKey: password\n  encoding: hex\n",
            ),
            Code::InvalidArgument,
            "is not in hex",
        ),
        (
            class("- objectName: a\n  secretPath: database/creds/nobody\n"),
            Code::PermissionDenied,
            "unknown role: nobody",
        ),
        (
            class(&format!(
                "{DATABASE}- objectName: z\n  secretPath: kv/nothing\n"
            )),
            Code::NotFound,
            "kv/nothing",
        ),
    ];
    for (class, code, told) in cases {
        let message = world.refused(&volume, &class, code).await;
        assert!(message.contains(told), "{told:?} in {message:?}");
        assert!(!message.contains("p4ss"), "{message}");
        world.until_nothing_lives().await;
    }
    world
        .until("the journal is empty", || world.node.journalled() == 0)
        .await;
}

#[tokio::test]
async fn what_is_no_vault_is_told() {
    let world = World::new().await;
    let volume = world.volume("web");
    let page = |code: u16, body: &str| Action::Status {
        code,
        body: body.to_owned(),
        headers: Vec::new(),
    };
    let cases = [
        (
            "auth/kubernetes/login",
            page(200, "<html>hello</html>"),
            Code::Internal,
            "not what a Vault answers",
        ),
        (
            "auth/kubernetes/login",
            page(200, ""),
            Code::Internal,
            "not what a Vault answers",
        ),
        (
            "secret/",
            page(200, "<html>hello</html>"),
            Code::Internal,
            "not what a Vault answers",
        ),
        (
            "secret/",
            page(200, ""),
            Code::NotFound,
            "the reply is empty",
        ),
        (
            "secret/",
            page(200, "{\"data\": null}"),
            Code::NotFound,
            // As for the incumbents' client: a reply without an envelope is all data.
            "has no key \"api-key\"",
        ),
    ];
    for (prefix, action, code, told) in cases {
        world
            .vault
            .faults()
            .push(Fault::at(prefix, action).times(1));
        let message = world.refused(&volume, &class(KV), code).await;
        assert!(message.contains(told), "{told:?} in {message:?}");
        world.until_nothing_lives().await;
    }
}

#[tokio::test]
async fn too_much_is_refused_with_its_measure() {
    let world = World::new().await;
    let volume = world.volume("web");
    // Two replies that are read, and too large together.
    for name in ["one", "two"] {
        let secret = json!({ "value": "x".repeat(2_200_000) });
        world.admin.write(&format!("kv/{name}"), secret).await;
    }
    let objects = "
- {objectName: one, secretPath: kv/one, secretKey: value}
- {objectName: two, secretPath: kv/two, secretKey: value}
";
    let message = world
        .refused(&volume, &class(objects), Code::FailedPrecondition)
        .await;
    assert!(message.contains("split the class"), "{message}");
    // One that is not even read whole.
    let secret = json!({ "value": "x".repeat(5_000_000) });
    world.admin.write("kv/huge", secret).await;
    let objects = "- {objectName: huge, secretPath: kv/huge}";
    let message = world
        .refused(&volume, &class(objects), Code::FailedPrecondition)
        .await;
    assert!(
        message.contains("kv/huge") && message.contains("larger than 4194304 bytes"),
        "{message}"
    );
    // Small files, of replies that are large together: each gives its memory back once its file is made.
    let mut objects = String::new();
    for name in ["three", "four", "five"] {
        let secret = json!({ "value": "small", "other": "x".repeat(3_500_000) });
        world.admin.write(&format!("kv/{name}"), secret).await;
        objects += &format!("- {{objectName: {name}, secretPath: kv/{name}, secretKey: value}}\n");
    }
    world.mount(&volume, &class(&objects)).await;
    assert_eq!(volume.text("five"), "small");
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_sealed_server_is_told_in_its_own_words() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.vault.seal();
    let message = world
        .refused(&volume, &class(DATABASE), Code::Internal)
        .await;
    assert!(message.contains("Vault is sealed"), "{message}");
}

#[tokio::test]
async fn a_failed_poll_costs_nothing_that_worked() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let before = (volume.text("username"), volume.text("password"));
    let broken = class(&format!(
        "{DATABASE}- objectName: z\n  secretPath: kv/nothing\n"
    ));
    for _ in 0..3 {
        world.refused(&volume, &broken, Code::NotFound).await;
    }
    world.vault.stop_listening();
    let poll = world
        .try_mount(&volume, &class(&format!("{DATABASE}{KV}")))
        .await;
    assert_eq!(poll.err().unwrap().code(), Code::Internal);
    world.vault.resume_listening().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(before, (volume.text("username"), volume.text("password")));
    assert!(world.vault.verify_user(&before.0, &before.1));
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn secrets_stay_out_of_the_log() {
    let world = World::new().await;
    let volume = world.volume("web");
    let tokens = world.tokens();
    let class_of_all = class(&format!("{DATABASE}{KV}"));
    let mounted = world.driver.mount(&volume, &class_of_all, &tokens).await;
    assert!(mounted.is_ok());
    let jwt = &tokens["vault"];
    world
        .refused(
            &volume,
            &class("- objectName: a\n  secretPath: kv/app\n  secretKey: nope\n"),
            Code::NotFound,
        )
        .await;
    let password = volume.text("password");
    volume.unmount();
    world.until_nothing_lives().await;
    let log = world.log();
    assert!(
        log.contains("mounted") && log.contains("\"message\":\"revoked\""),
        "{log}"
    );
    for secret in [password.as_str(), "k3y", "p4ss", jwt.as_str()] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let token = |part: &str| part.chars().take_while(char::is_ascii_alphanumeric).count() >= 20;
    assert!(!log.split("s.").skip(1).any(token), "a token in {log}");
}

/// Credentials that are one request each, and one object that is wrong.
fn credentials_and(wrong: &str) -> Value {
    let credentials = (0..30).map(|at| {
        format!("- {{objectName: user-{at}, secretPath: 'database/creds/app?n={at}', secretKey: username}}\n")
    });
    class(&format!("{}{wrong}", credentials.collect::<String>()))
}

#[tokio::test]
async fn a_class_with_a_typo_issues_nothing_at_its_retries() {
    for (wrong, code) in [
        (
            "- {objectName: k, secretPath: secret/data/app, secretKey: typo}",
            Code::NotFound,
        ),
        (
            "- {objectName: k, secretPath: secret/data/typo}",
            Code::NotFound,
        ),
        (
            "- {objectName: k, secretPath: secret/data/app, secretKey: api-key, encoding: hex}",
            Code::InvalidArgument,
        ),
    ] {
        let world = World::new().await;
        let class = credentials_and(wrong);
        let volume = world.volume("web");
        world.refused(&volume, &class, code).await;
        volume.unmount();
        let issued = world.creds();
        for attempt in 0..5 {
            let volume = world.volume(&format!("pod-{attempt}"));
            world.refused(&volume, &class, code).await;
            volume.unmount();
        }
        assert_eq!(
            world.creds(),
            issued,
            "{wrong}: no credential is issued in vain"
        );
        world.until_nothing_lives().await;
    }
}

#[tokio::test]
async fn after_a_failure_no_further_read_is_begun() {
    let world = World::new().await;
    let volume = world.volume("web");
    let first = "- {objectName: k, secretPath: secret/data/app, secretKey: typo}\n";
    let mut class = credentials_and("");
    let objects = format!("{first}{}", class["objects"].as_str().unwrap());
    class["objects"] = json!(objects);
    world.refused(&volume, &class, Code::NotFound).await;
    assert!(world.creds() < 30, "{} were issued", world.creds());
    // An object that issues something itself, and is wrong: one at each retry.
    let issued = world.creds();
    let wrong = credentials_and("")
        .to_string()
        .replace("secretKey: username", "secretKey: usrname");
    let wrong: Value = serde_json::from_str(&wrong).unwrap();
    for _ in 0..3 {
        volume.unmount();
        world.refused(&volume, &wrong, Code::NotFound).await;
    }
    assert!(world.creds() - issued <= 8 + 2, "{}", world.creds());
}
