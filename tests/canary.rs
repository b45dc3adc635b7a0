//! The canary: marked secrets, tokens and keys through every path, the errors included. They must be found
//! in the pod's files and in the journal, and nowhere else.

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
use support::daemon::holds;
use support::driver::{Driver, Volume};
use support::world::{DATABASE, Setup, World, class};

const SECRET: &str = "CANARY-secret-8f14e45fceea167a";
const CLASS: &str = "
- {objectName: canary, secretPath: secret/data/canary, secretKey: value}
- objectName: tls.key
  secretPath: pki/issue/web
  method: PUT
  secretArgs: {common_name: web.shop.example}
  secretKey: private_key
  filePermission: 0400
";

/// Whatever the daemon lets out.
struct Outside {
    text: String,
}

impl Outside {
    fn take(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    async fn look_at(&mut self, world: &World) {
        let daemon = world.daemon.as_ref().unwrap();
        for path in ["/metrics", "/health/ready", "/health/live", "/"] {
            self.take(&daemon.get(path).await.unwrap());
        }
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{}/{file}", daemon.pid())).unwrap_or_default();
            self.take(&String::from_utf8_lossy(&bytes));
        }
        self.take(&daemon.log());
    }

    async fn refused(&mut self, world: &World, volume: &Volume, class: &Value) {
        let status = world.try_mount(volume, class).await.err().unwrap();
        self.take(&format!("{status:?} {status}"));
    }
}

fn answer(code: u16, body: &str) -> Action {
    Action::Status {
        code,
        body: body.to_owned(),
        headers: Vec::new(),
    }
}

/// Every token that the journal holds.
fn journalled_tokens(world: &World) -> Vec<String> {
    let files = fs::read_dir(world.node.state()).unwrap().flatten();
    let mut tokens = Vec::new();
    for file in files {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        let Some((_, record)) = text.split_once('\n') else {
            continue;
        };
        let record: Value = serde_json::from_str(record).unwrap_or_default();
        for session in record["sessions"].as_array().into_iter().flatten() {
            tokens.push(session["token"].as_str().unwrap().to_owned());
        }
    }
    tokens
}

#[tokio::test]
async fn what_is_marked_is_found_in_files_and_journal_alone() {
    let mut world = World::with(Setup {
        flags: &["-log-level=trace"],
        role: json!({ "token_ttl": "6s" }),
        database: json!({ "default_ttl": "6s" }),
        ..Setup::default()
    })
    .await;
    let marked = json!({ "data": { "value": SECRET } });
    world.admin.write("secret/data/canary", marked).await;
    let mut outside = Outside {
        text: String::new(),
    };
    let (volume, bad) = (world.volume("web"), world.volume("bad"));
    let whole = class(&format!("{DATABASE}{CLASS}"));
    let tokens = world.tokens();
    let mounted = world.driver.mount(&volume, &whole, &tokens).await;
    assert!(mounted.is_ok());
    let key = volume.text("tls.key");
    let key_line = key.lines().nth(1).unwrap().to_owned();
    let password = volume.text("password");
    let token = journalled_tokens(&world).remove(0);
    let jwt = &tokens["vault"];
    let mut marks = vec![SECRET, key_line.as_str(), password.as_str(), token.as_str()];
    assert_eq!(volume.text("canary"), SECRET);
    for mark in [&key_line, &password, &token] {
        assert!(holds(&world.node.state(), mark), "the journal has it");
    }
    assert!(
        !holds(&world.node.state(), SECRET),
        "a static secret is read again: it is not journalled"
    );

    // Classes that are wrong in ways that show a value.
    for objects in [
        "- {objectName: a, secretPath: secret/data/canary, secretKey: nope}",
        "- {objectName: a, secretPath: secret/data/canary, secretKey: value, encoding: base64}",
        "- {objectName: a, secretPath: secret/data/canary, secretKey: value, encoding: hex}",
        "- {objectName: ../a, secretPath: secret/data/canary, secretKey: value}",
        "- {objectName: a, secretPath: sys/mounts}",
        "- {objectName: a, secretPath: secret/data/absent}",
    ] {
        outside.refused(&world, &bad, &class(objects)).await;
    }
    let mut role = class("- {objectName: a, secretPath: kv/app}");
    role["roleName"] = json!("nobody");
    outside.refused(&world, &bad, &role).await;

    // A server whose answers repeat what they should not.
    let echo = format!("plugin: {jwt} {token} in {}", "x".repeat(20));
    let errors = json!({ "errors": [echo] }).to_string();
    for (path, action) in [
        ("auth/kubernetes/login", answer(403, &errors)),
        ("auth/kubernetes/login", answer(500, &errors)),
        ("auth/kubernetes/login", answer(200, SECRET)),
        ("secret/data/canary", answer(200, SECRET)),
        (
            "secret/data/canary",
            answer(200, &format!("{{\"data\": {{\"value\": \"{SECRET}")),
        ),
        ("secret/data/canary", Action::ResetAfterCommit),
    ] {
        world.vault.faults().push(Fault::at(path, action));
        outside.refused(&world, &bad, &class(CLASS)).await;
        world.vault.faults().clear();
    }
    // Its renewals and revocations too: of the session that the volume has.
    let own = json!({ "errors": [format!("no such token {token}")] }).to_string();
    for path in ["auth/token/renew-self", "sys/leases/renew"] {
        world
            .vault
            .faults()
            .push(Fault::at(path, answer(400, &own)).times(2));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.vault.faults().clear();
    outside.look_at(&world).await;

    // Over a restart, with a file that is torn.
    world.kill();
    let torn = world.node.state().join("torn.json");
    fs::write(
        &torn,
        format!("leasehold-journal 1 x y\n{{\"token\": \"{token}\"}}"),
    )
    .unwrap();
    world.restart().await;
    world.driver = Driver::dial(&world.node.socket());
    assert!(world.driver.mount(&volume, &whole, &tokens).await.is_ok());
    let later = journalled_tokens(&world);
    marks.extend(later.iter().map(String::as_str));
    marks.push(jwt);
    let refused = json!({ "errors": [format!("cannot revoke {}", later[0])] }).to_string();
    world
        .vault
        .faults()
        .push(Fault::at("auth/token/revoke-self", answer(500, &refused)).times(2));
    volume.unmount();
    tokio::time::sleep(Duration::from_secs(2)).await;
    outside.look_at(&world).await;

    assert!(outside.text.len() > 20_000, "it has looked somewhere");
    assert!(outside.text.contains("not revoked") && outside.text.contains("not renewed"));
    for mark in marks {
        assert!(!outside.text.contains(mark), "{mark} in {}", {
            let at = outside.text.find(mark).unwrap();
            &outside.text[at.saturating_sub(400)..(at + 100).min(outside.text.len())]
        });
    }
}
