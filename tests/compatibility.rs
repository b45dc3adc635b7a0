//! What `docs/compatibility.md` says of a running daemon, by the real binary on a real socket.
//!
//! What the parsers make of a class, and what becomes of a reply, is compared with the incumbents' own code
//! in `tests/parser.rs`; a swap of the image in `tests/swap.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::driver::Driver;
use support::world::{KV, World, class};
use tonic::Code;

/// A policy that may do what a test asks for.
const EVERYTHING: &str = r#"path "*" { capabilities = ["create", "read", "update", "list"] }"#;

/// A class of these objects, with more parameters.
fn class_with(objects: &str, more: Value) -> Value {
    let mut class = class(objects);
    let map = class.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    class
}

/// What the real binary prints, and whether it ended well.
fn printed(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[tokio::test]
async fn every_spelling_of_a_path_reads_the_same() {
    let world = World::new().await;
    let volume = world.volume("web");
    let spellings = [
        "secret/data/app",
        "/secret/data/app",
        "v1/secret/data/app",
        "/v1/secret/data/app",
        "secret//data/app/",
        "secret/data/app?",
    ];
    let object = |(index, path): (usize, &&str)| {
        format!("- objectName: file-{index}\n  secretPath: \"{path}\"\n  secretKey: api-key\n")
    };
    let objects: String = spellings.iter().enumerate().map(object).collect();
    world.mount(&volume, &class(&objects)).await;
    for index in 0..spellings.len() {
        assert_eq!(volume.text(&format!("file-{index}")), "k3y");
    }
    assert_eq!(
        world.vault.count("GET", "secret/data/app"),
        1,
        "one request"
    );
}

#[tokio::test]
async fn entries_are_listed_by_method_and_by_query() {
    let world = World::new().await;
    world.admin.policy("app", EVERYTHING).await;
    let volume = world.volume("web");
    let objects = "
- objectName: by-method
  secretPath: secret/metadata
  secretKey: keys
  method: LIST
- objectName: by-method-in-small-letters
  secretPath: secret/metadata/
  secretKey: keys
  method: list
- objectName: by-query
  secretPath: secret/metadata/?list=true
  secretKey: keys
";
    world.mount(&volume, &class(objects)).await;
    for file in ["by-method", "by-method-in-small-letters", "by-query"] {
        assert_eq!(volume.text(file), "[\"app\"]", "{file}");
    }
    let logins = world.logins();
    world.mount(&volume, &class(objects)).await;
    assert_eq!(
        world.logins(),
        logins,
        "a list is static: read at every poll"
    );
    assert_eq!(world.vault.count("LIST", "secret/metadata"), 2);
}

#[tokio::test]
async fn any_key_and_any_value_become_a_file() {
    let world = World::new().await;
    let values = json!({
        "a.b c": "dotted", "123": "digits", "1.10": "decimal", "n": 10, "f": 1.10, "t": true, "z": null,
        "l": [6, "stilton", true], "o": {"b": "<x>", "a": 1},
    });
    world.admin.write("kv/app", values).await;
    let keys = [
        ("a.b c", "dotted"),
        ("123", "digits"),
        ("1.10", "decimal"),
        ("n", "10"),
        ("t", "true"),
        ("z", "null"),
        ("l", r#"[6,"stilton",true]"#),
        ("o", r#"{"a":1,"b":"\u003cx\u003e"}"#),
    ];
    let object = |(index, (key, _)): (usize, &(&str, &str))| {
        format!("- objectName: file-{index}\n  secretPath: kv/app\n  secretKey: {key}\n")
    };
    let objects: String = keys.iter().enumerate().map(object).collect();
    let volume = world.volume("web");
    world.mount(&volume, &class(&objects)).await;
    for (index, (key, text)) in keys.iter().enumerate() {
        assert_eq!(volume.text(&format!("file-{index}")), *text, "{key}");
    }
}

#[tokio::test]
async fn modes_are_what_they_were_and_an_odd_one_is_told_once() {
    let world = World::new().await;
    let modes = [
        ("0600", 0o600),
        ("0o640", 0o640),
        ("416", 0o640),
        ("\"0440\"", 0o440),
        ("\"420\"", 0o644),
        ("~", 0o644),
        ("644", 0o204),
    ];
    let object = |(index, (mode, _)): (usize, &(&str, u32))| {
        format!(
            "- objectName: file-{index}\n  secretPath: kv/app\n  secretKey: password\n  filePermission: {mode}\n"
        )
    };
    let objects: String = modes.iter().enumerate().map(object).collect();
    let volume = world.volume("web");
    world.mount(&volume, &class(&objects)).await;
    world.mount(&volume, &class(&objects)).await;
    for (index, (written, mode)) in modes.iter().enumerate() {
        assert_eq!(volume.mode(&format!("file-{index}")), *mode, "{written}");
    }
    assert_eq!(world.log().matches("644 is 01204 in octal").count(), 1);
}

#[tokio::test]
async fn json_and_yaml_and_methods_in_any_case_ask_the_same() {
    let world = World::new().await;
    let volume = world.volume("web");
    let yaml = "
- objectName: tls.crt
  secretPath: pki/issue/web
  method: put
  secretArgs: {common_name: web.shop.example, exclude_cn_from_sans: true}
  secretKey: certificate
";
    world.mount(&volume, &class(yaml)).await;
    let certificate = volume.text("tls.crt");
    let json = json!([{
        "objectName": "tls.crt", "secretPath": "/v1/pki/issue/web", "method": "PUT", "secretKey": "certificate",
        "secretArgs": {"exclude_cn_from_sans": true, "common_name": "web.shop.example"},
    }]);
    world.mount(&volume, &class(&json.to_string())).await;
    assert_eq!(
        volume.text("tls.crt"),
        certificate,
        "the same request: nothing is issued anew"
    );
    assert_eq!(world.vault.count("PUT", "pki/issue/web"), 1);
}

#[tokio::test]
async fn a_reply_without_an_envelope_is_its_own_data() {
    let world = World::new().await;
    let volume = world.volume("web");
    let objects = "
- objectName: initialized
  secretPath: sys/health
  secretKey: initialized
- objectName: whole
  secretPath: sys/health
";
    world.mount(&volume, &class(objects)).await;
    assert_eq!(volume.text("initialized"), "true");
    let whole: Value = serde_json::from_slice(&volume.read("whole")).unwrap();
    assert_eq!(whole["data"]["sealed"], false);
    assert_eq!(whole["lease_id"], "");
}

#[tokio::test]
async fn a_class_namespace_goes_before_the_flag_and_that_before_the_environment() {
    let mut world = World::new().await;
    for (namespace, greeting) in [("env", "env"), ("flag", "flag"), ("team/sub", "class")] {
        let admin = world.admin.in_namespace(namespace).await;
        let host = world.accounts.url();
        admin.shop(&host, Value::Null, "720h", Value::Null).await;
        admin.write("kv/app", json!({ "password": greeting })).await;
    }
    let objects = "- objectName: a\n  secretPath: kv/app\n  secretKey: password\n";
    let nested = class_with(objects, json!({ "vaultNamespace": "team/sub" }));
    let environment = [("VAULT_NAMESPACE", "env")];
    world.kill();
    let daemon = world.node.spawn_with(&environment);
    world.daemon = Some(world.node.until_ready(daemon).await);
    for (name, class, wanted) in [("one", &class(objects), "env"), ("two", &nested, "class")] {
        let volume = world.volume(name);
        world.mount(&volume, class).await;
        assert_eq!(volume.text("a"), wanted);
    }
    world.kill();
    world.node.flags.push("-vault-namespace=flag".to_owned());
    let daemon = world.node.spawn_with(&environment);
    world.daemon = Some(world.node.until_ready(daemon).await);
    for (name, class, wanted) in [
        ("three", &class(objects), "flag"),
        ("four", &nested, "class"),
    ] {
        let volume = world.volume(name);
        world.mount(&volume, class).await;
        assert_eq!(volume.text("a"), wanted);
    }
    let calls = world.vault.calls();
    assert!(
        calls
            .iter()
            .any(|call| call.namespace == "team/sub" && call.path == "kv/app")
    );
}

#[tokio::test]
async fn a_mount_that_fails_names_its_namespace() {
    let world = World::new().await;
    let absent = class_with(KV, json!({ "vaultNamespace": "team/absent" }));
    let told = world
        .refused(&world.volume("web"), &absent, Code::NotFound)
        .await;
    assert!(told.contains("team/absent"), "{told}");
    let admin = world.admin.in_namespace("team/sub").await;
    let host = world.accounts.url();
    admin.shop(&host, Value::Null, "720h", Value::Null).await;
    let missing = "- objectName: a\n  secretPath: kv/nothing\n  secretKey: k\n";
    let missing = class_with(missing, json!({ "vaultNamespace": "team/sub" }));
    let told = world
        .refused(&world.volume("web"), &missing, Code::NotFound)
        .await;
    assert!(
        told.contains("kv/nothing") && told.contains("team/sub"),
        "{told}"
    );
}

#[tokio::test]
async fn the_environment_of_either_names_the_server() {
    for name in [
        "VAULT_ADDR",
        "BAO_ADDR",
        "VAULT_AGENT_ADDR",
        "BAO_AGENT_ADDR",
    ] {
        let mut world = World::new().await;
        world.kill();
        let url = world.vault.url();
        world
            .node
            .flags
            .retain(|flag| !flag.starts_with("-vault-addr"));
        world.daemon = Some(
            world
                .node
                .until_ready(world.node.spawn_with(&[(name, &url)]))
                .await,
        );
        let volume = world.volume("web");
        let class = match name.contains("AGENT") {
            // It takes the place of what a class names, too.
            true => class_with(KV, json!({ "vaultAddress": "http://127.0.0.1:1" })),
            false => class(KV),
        };
        world.mount(&volume, &class).await;
        assert_eq!(volume.text("api-key"), "k3y", "{name}");
    }
}

#[tokio::test]
async fn served_as_openbao_its_names_hold() {
    let mut world = World::new().await;
    world.kill();
    let socket = world.node.socket().with_file_name("openbao.sock");
    let url = world.vault.url();
    world
        .node
        .flags
        .retain(|flag| !flag.starts_with("-vault-addr"));
    world.node.flags.extend([
        format!("--endpoint={}", socket.display()),
        "--openbao-addr".to_owned(),
        url.clone(),
    ]);
    world.daemon = Some(world.node.until_ready(world.node.spawn()).await);
    world.driver = Driver::dial(&socket);
    let life = Duration::from_secs(600);
    let token = world.accounts.mint("shop", "web", "openbao", life);
    let tokens = BTreeMap::from([("openbao".to_owned(), token)]);
    let volume = world.volume("web");
    let class = json!({
        "baoRoleName": "app", "vaultRoleName": "nobody", "objects": KV,
        "baoAddress": url, "openbaoAddress": "http://127.0.0.1:1", "vaultAddress": "http://127.0.0.1:1",
    });
    world.driver.mount(&volume, &class, &tokens).await.unwrap();
    assert_eq!(volume.text("api-key"), "k3y");
    assert!(
        world.log().contains("\"provider\":\"openbao\""),
        "{}",
        world.log()
    );
}

#[tokio::test]
async fn what_means_nothing_any_more_is_said_once_by_the_daemon() {
    let mut world = World::new().await;
    world.kill();
    world.node.flags.push("--cache-size=1000".to_owned());
    let environment = [("VAULT_MAX_RETRIES", "2"), ("VAULT_TOKEN", "s.hunter2")];
    world.daemon = Some(
        world
            .node
            .until_ready(world.node.spawn_with(&environment))
            .await,
    );
    let volume = world.volume("web");
    world.mount(&volume, &class(KV)).await;
    world.mount(&volume, &class(KV)).await;
    let log = world.log();
    for name in [
        "-cache-size has no effect",
        "VAULT_MAX_RETRIES has no effect",
        "VAULT_TOKEN has no effect",
    ] {
        assert_eq!(log.matches(name).count(), 1, "{name} in {log}");
    }
    assert!(!log.contains("hunter2"));
}

#[test]
fn the_version_is_printed_in_their_three_layouts() {
    let names = [
        "major",
        "minor",
        "patch",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
        "minDriverVersion",
    ];
    let (_, json) = printed(&["-version", "-output=json"]);
    let (_, pretty) = printed(&["--version", "--output", "json-pretty"]);
    let (_, yaml) = printed(&["-version=true", "-output", "yaml"]);
    assert_eq!(json.lines().count(), 1);
    assert_eq!(pretty.lines().count(), names.len() + 2);
    assert!(yaml.ends_with("\n\n"), "with an empty line at its end");
    let order = |text: &str, before: &str, after: &str| -> Vec<usize> {
        let place = |name: &&str| text.find(&format!("{before}{name}{after}"));
        names.iter().filter_map(place).collect()
    };
    for places in [
        order(&json, "\"", "\":\""),
        order(&pretty, "\n  \"", "\": \""),
        order(&format!("\n{yaml}"), "\n", ": "),
    ] {
        assert_eq!(places.len(), names.len());
        assert!(places.is_sorted(), "their order");
    }
    let whole: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(whole, serde_json::from_str::<Value>(&pretty).unwrap());
    let (_, short) = printed(&["-version", "-endpoint=/provider/openbao.sock"]);
    let short: Value = serde_json::from_str(&short).unwrap();
    assert_eq!(short.as_object().unwrap().len(), 4);
    assert!(!printed(&["-version", "-output=xml"]).0);
}

#[tokio::test]
async fn every_fault_of_a_class_is_told_in_one_message() {
    let world = World::new().await;
    let wrong = json!({
        "vaultSkipTLSVerify": "yes", "vaultTLSClientCertPath": "/c.pem",
        "objects": "- objectName: [a]\n  secretPath: kv/app?a=%zz\n- objectName: b\n  secretPath: kv/../50%25\n  method: DELETE\n",
    });
    let told = world
        .refused(&world.volume("web"), &wrong, Code::InvalidArgument)
        .await;
    for part in [
        "roleName: is missing",
        "vaultSkipTLSVerify: \"yes\" is neither true nor false",
        "vaultTLSClientCertPath: is set without vaultTLSClientKeyPath",
        "objects[0].objectName (line 1, column 15): is a list",
        "objects[0].secretPath (line 2, column 15): its query has a percent sign",
        "objects[1].secretPath (line 4, column 15): \"kv/../50%25\" has the segment",
        "objects[1].method (line 5, column 11): \"DELETE\"",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert_eq!(world.logins(), 0, "nothing was asked for");
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_taken_over() {
    let mut world = World::new().await;
    world.kill();
    assert!(
        fs::exists(world.node.socket()).unwrap(),
        "kill -9 leaves it behind"
    );
    world.restart().await;
    world.driver = Driver::dial(&world.node.socket());
    let volume = world.volume("web");
    world.mount(&volume, &class(KV)).await;
    assert_eq!(volume.text("api-key"), "k3y");
}
