//! The canary: marked secrets, tokens and keys through every path, the errors included. They must be found
//! in the pod's files and in the journal, and nowhere else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::daemon::holds;
use support::driver::{Driver, Volume, request, tokens_json};
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
    let torn = world.node.state().join(format!("{}.json", "0".repeat(32)));
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

    assert!(outside.text.contains("not revoked") && outside.text.contains("not renewed"));
    // Who reads them at night wants to know whose they are.
    for line in outside.text.lines().filter(|line| {
        line.contains("not revoked; it is tried again") || line.contains("not renewed; it is")
    }) {
        assert!(
            line.contains("\"pod\":\"") && line.contains("\"namespace\":\"shop\""),
            "{line}"
        );
    }
    nowhere(&outside.text, &marks);
}

/// A token of somebody else's, as a confused server may tell it.
const STRANGER: &str = "hvs.CANARYCAESIJ1234567890abcdefGHIJKL";

/// Replies that repeat what they should not, of every class of error and in every shape.
fn echoing(jwt: &str) -> Vec<Action> {
    let words = format!("plugin: cannot use {jwt} nor \"{STRANGER}\",\n\t* {jwt}\r\n");
    let errors = json!({ "errors": [words], "warnings": [words] }).to_string();
    let mut actions = Vec::new();
    for code in [400, 403, 404, 405, 412, 429, 473, 500, 501, 502, 503, 504] {
        actions.push(answer(code, &errors));
        actions.push(answer(code, &format!("<html>{SECRET} {jwt}</html>")));
        actions.push(answer(
            code,
            &json!({ "errors": { "a": SECRET } }).to_string(),
        ));
        actions.push(answer(
            code,
            &json!({ "data": { "value": SECRET }, "errors": null }).to_string(),
        ));
    }
    let half =
        json!({ "data": { "value": SECRET }, "auth": { "client_token": STRANGER } }).to_string();
    let shapes = [
        "".to_owned(),
        SECRET.to_owned(),
        half[..half.len() - 3].to_owned(),
        json!(SECRET).to_string(),
        json!([SECRET]).to_string(),
        json!({ "data": null, "warnings": [words], "auth": null }).to_string(),
        json!({ "data": null, "auth": { "client_token": STRANGER } }).to_string(),
        json!({ "data": null, "auth": { "client_token": [STRANGER], "accessor": SECRET } })
            .to_string(),
        json!({ "data": null, "wrap_info": { "token": STRANGER }, "warnings": [words] })
            .to_string(),
        json!({ "data": { "other": SECRET }, "warnings": [words] }).to_string(),
        json!({ "data": SECRET }).to_string(),
        json!({ "data": { "value": SECRET }, "lease_duration": SECRET, "lease_id": [SECRET] })
            .to_string(),
    ];
    actions.extend(shapes.iter().map(|body| answer(200, body)));
    actions.extend([
        answer(204, ""),
        answer(302, &errors),
        Action::Redirect(format!("http://127.0.0.1:1/v1/{SECRET}?token={STRANGER}")),
        Action::Redirect(SECRET.to_owned()),
        Action::Reset,
        Action::ResetAfterCommit,
    ]);
    actions
}

/// A call without the driver's retries.
async fn asked(
    world: &World,
    pod: &str,
    class: &Value,
    tokens: &str,
    secrets: &str,
) -> Result<(), String> {
    let volume = world.volume(pod);
    volume.prepare();
    let mut attributes = volume.attributes(class, &BTreeMap::new());
    attributes["csi.storage.k8s.io/serviceAccount.tokens"] = json!(tokens);
    let call = request(&volume, &attributes, secrets);
    match world.driver.call(call).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("{status:?} {status}")),
    }
}

#[tokio::test]
async fn no_failure_repeats_what_was_sent() {
    let mut world = World::with(Setup {
        flags: &["-log-level=trace"],
        ..Setup::default()
    })
    .await;
    world.kill();
    let daemon = world
        .node
        .spawn_with(&[("RUST_LOG", "trace"), ("VAULT_CLIENT_TIMEOUT", "5s")]);
    world.daemon = Some(world.node.until_ready(daemon).await);
    world.driver = Driver::dial(&world.node.socket());
    let marked = json!({ "data": { "value": SECRET } });
    world.admin.write("secret/data/canary", marked).await;
    let tokens = world.tokens();
    let (jwt, json) = (&tokens["vault"], tokens_json(&tokens));
    let mut outside = Outside {
        text: String::new(),
    };
    let wanted = class("- {objectName: canary, secretPath: secret/data/canary, secretKey: value}");
    let hang = Fault::at("secret/data/slow", Action::Hang);
    world.vault.faults().push(hang);
    let slow = class("- {objectName: slow, secretPath: secret/data/slow}");
    let (driver, volume) = (world.driver.clone(), world.volume("slow"));
    volume.prepare();
    let call = request(&volume, &volume.attributes(&slow, &tokens), "");
    let hanging = tokio::spawn(async move { driver.call(call).await });

    // Its login is not to meet the faults that are meant for others.
    world
        .until("it has logged in", || world.logins() == 1)
        .await;
    let mut failures = 0;
    for (at, action) in echoing(jwt).into_iter().enumerate() {
        // By turns, so that no three failures in a row make the server one that is not asked.
        for (pod, path) in [
            ("login", "auth/kubernetes/login"),
            ("read", "secret/data/canary"),
        ] {
            let fault = Fault::at(path, action.clone());
            world.vault.faults().push(fault);
            let pod = format!("{pod}-{at}");
            let told = asked(&world, &pod, &wanted, &json, "").await;
            world.vault.faults().clear();
            let told = told
                .err()
                .unwrap_or_else(|| panic!("{path}: reply {at} was taken"));
            outside.take(&told);
            failures += 1;
            world.volume(&pod).unmount();
        }
    }
    for class in carrying_secrets() {
        let told = asked(&world, "wrong", &class, &json, "").await;
        outside.take(&told.err().unwrap_or_else(|| panic!("{class} was taken")));
        failures += 1;
    }
    for (tokens, secrets) in [
        (format!("{jwt} {SECRET}"), String::new()),
        (format!("{{\"vault\": {jwt}}}"), String::new()),
        (
            json!({ "vault": { "token": [jwt] } }).to_string(),
            String::new(),
        ),
        (
            json!({ "vault": { "token": jwt, "expirationTimestamp": "2020-01-01T00:00:00Z" } })
                .to_string(),
            String::new(),
        ),
        (
            json!({ "other": { "token": jwt } }).to_string(),
            String::new(),
        ),
        (
            json!({ "vault": { "token": format!("{jwt}\n") } }).to_string(),
            String::new(),
        ),
        (String::new(), format!("{{\"password\": {SECRET}}}")),
        (String::new(), json!({ "password": [SECRET] }).to_string()),
        (String::new(), json!({ "password": SECRET }).to_string()),
    ] {
        let told = asked(&world, "tokens", &wanted, &tokens, &secrets).await;
        outside.take(
            &told
                .err()
                .unwrap_or_else(|| panic!("{tokens} {secrets} was taken")),
        );
        failures += 1;
    }
    outside.take(&format!("{:?}", hanging.await.unwrap().err().unwrap()));
    outside.look_at(&world).await;
    assert!(failures > 120 && outside.text.contains("no reply within"));
    assert!(
        outside.text.contains("[hidden]"),
        "the server's words are told"
    );
    nowhere(&outside.text, &[SECRET, jwt, STRANGER]);
}

/// Classes that are wrong, or fail at the server, with a secret among their arguments.
fn carrying_secrets() -> Vec<Value> {
    let object = |fields: &str| class(&format!("- objectName: a\n  secretPath: kv/app\n{fields}"));
    let mut classes: Vec<Value> = [
        format!("  secretArgs: [{SECRET}]"),
        format!("  secretArgs: {SECRET}"),
        format!("  secretArgs: {{password: {SECRET}"),
        format!("  secretArgs: {{password: {SECRET}, password: x}}"),
        format!("  secretArgs: {{password: \"{SECRET}}}"),
        format!("  secretArgs: {{password: *{SECRET}}}"),
        format!("  secretArgs: {{password: !!int {SECRET}}}"),
        format!("  secretArgs: {{password: !!binary {SECRET}}}"),
        format!("  secretArgs:\n    password: {SECRET}\n   pin: 1"),
        format!("  secretArgs: {{password: {SECRET}}}\n  method: PUT"),
        format!("  secretArgs: {{password: {SECRET}}}\n  method: TRACE"),
        format!("  secretArgs: {{password: {SECRET}}}\n  filePermission: many"),
        format!("  method: [{SECRET}]"),
        format!("  secretArgs: {{? {{a: {SECRET}}} : b}}"),
    ]
    .iter()
    .map(|fields| object(fields))
    .collect();
    let mut address = class("- {objectName: a, secretPath: kv/app}");
    address["vaultAddress"] = json!(format!("https://user:{SECRET}@vault:8200"));
    classes.push(address);
    let mut key = class("- {objectName: a, secretPath: kv/app}");
    key["vaultAddress"] = json!("https://127.0.0.1:1");
    key["vaultCACert"] = json!(format!(
        "-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    ));
    classes.push(key);
    classes
}

/// None of the marks is in what was let out.
fn nowhere(text: &str, marks: &[&str]) {
    assert!(text.len() > 20_000, "it has looked somewhere");
    for mark in marks {
        assert!(!mark.is_empty() && !text.contains(mark), "{mark} in {}", {
            let at = text.find(mark).unwrap_or_default();
            &text[text.floor_char_boundary(at.saturating_sub(600))
                ..text.ceil_char_boundary((at + 100).min(text.len()))]
        });
    }
}
