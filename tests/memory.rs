//! What hostile loads take in memory, of the real daemon: the most that it ever had (`VmHWM`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::{Volume, request};
use support::world::{KV, Setup, World, class};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::{Code, Status};

const MIB: usize = 1024 * 1024;
/// The most that the daemon may ever have, in MiB.
const MOST: u64 = 128;

/// One load at a time: what is measured is what they take, not how they share a small machine.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A daemon whose log does not grow with each of thousands of calls.
async fn world() -> World {
    let world = World::with(Setup {
        flags: &["-log-level=info"],
        ..Setup::default()
    })
    .await;
    let all = json!({ "bound_service_account_namespaces": ["*"] });
    world.admin.role("kubernetes", "app", all).await;
    world
}

/// Mounts that are under way; each tells the number of its files.
type UnderWay = JoinSet<Result<usize, Status>>;

fn begin(world: &World, under_way: &mut UnderWay, namespace: &str, pod: &str, class: &Value) {
    let volume = Volume::new(&world.node.pods(), namespace, pod, pod, "secrets");
    volume.prepare();
    let accounts = &world.accounts;
    let token = accounts.mint(namespace, "web", "vault", Duration::from_secs(600));
    let tokens = BTreeMap::from([("vault".to_owned(), token)]);
    let asked = request(&volume, &volume.attributes(class, &tokens), "");
    let driver = world.driver.clone();
    under_way.spawn(async move { Ok(driver.call(asked).await?.files.len()) });
}

async fn ended(mut under_way: UnderWay) -> Vec<Result<usize, Status>> {
    let mut outcomes = Vec::new();
    while let Some(outcome) = under_way.join_next().await {
        outcomes.push(outcome.unwrap());
    }
    outcomes
}

/// The most memory that the daemon has had so far, in MiB (`proc_pid_status(5)`).
fn peak(world: &World) -> u64 {
    let pid = world.daemon.as_ref().unwrap().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() / 1024
}

/// A load in words, when it began, and the daemon's memory before it.
struct Load(&'static str, Instant, u64);

impl Load {
    fn begins(what: &'static str, world: &World) -> Self {
        Self(what, Instant::now(), peak(world))
    }

    /// The most memory that there was, in MiB.
    fn ends(&self, world: &World) -> u64 {
        let Self(what, began, before) = self;
        let (peak, took) = (peak(world), began.elapsed().as_secs_f64());
        println!("{what}: {peak} MiB at most, {before} MiB before, {took:.1} s");
        peak
    }

    fn within_bounds(self, world: &World) {
        let peak = self.ends(world);
        assert!(peak < MOST, "{}: {peak} MiB", self.0);
    }
}

/// Objects that are one read each, of these fields.
fn reads(path: &str, number: usize, fields: &str) -> String {
    let mut objects = String::new();
    for at in 0..number {
        let object = format!("\n- {{objectName: file-{at}, secretPath: {path}?n={at}{fields}}}");
        objects.write_str(&object).unwrap();
    }
    objects
}

fn answers(world: &World, prefix: &str, code: u16, body: String) {
    let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
    let headers = if code == 200 { Vec::new() } else { headers };
    let action = Action::Status {
        code,
        body,
        headers,
    };
    world.vault.faults().push(Fault::at(prefix, action));
}

#[tokio::test]
async fn five_hundred_files_of_one_large_value_stop_at_the_limit() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let large = json!({ "data": { "api-key": "x".repeat(MIB) } });
    world.admin.write("secret/data/app", large).await;
    let mut objects = String::new();
    for at in 0..500 {
        let object = format!(
            "\n- {{objectName: file-{at}, secretPath: secret/data/app, secretKey: api-key}}"
        );
        objects.write_str(&object).unwrap();
    }
    let load = Load::begins("8 mounts of 500 files of one value of 1 MiB", &world);
    let mut under_way = UnderWay::new();
    for pod in 0..8 {
        begin(
            &world,
            &mut under_way,
            &format!("tenant-{}", pod % 4),
            &format!("pod-{pod}"),
            &class(&objects),
        );
    }
    for outcome in ended(under_way).await {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("file-"), "{status}");
    }
    load.within_bounds(&world);
}

#[tokio::test]
async fn sixty_large_responses_at_once_all_become_files() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let large = json!({ "data": { "api-key": "x".repeat(3 * MIB) } });
    world.admin.write("secret/data/app", large).await;
    let load = Load::begins("60 mounts of a response of 3 MiB", &world);
    let mut under_way = UnderWay::new();
    for pod in 0..60 {
        let whole = class("- {objectName: all, secretPath: secret/data/app}");
        begin(
            &world,
            &mut under_way,
            &format!("tenant-{}", pod % 4),
            &format!("pod-{pod}"),
            &whole,
        );
    }
    for outcome in ended(under_way).await {
        assert_eq!(outcome.unwrap(), 1);
    }
    load.within_bounds(&world);
}

#[tokio::test]
async fn what_is_kept_for_the_next_poll_is_bounded() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let body = json!({ "data": { "signed": "x".repeat(MIB) } }).to_string();
    answers(&world, "secret/", 200, body);
    let load = Load::begins("60 kept replies of 1 MiB, each polled twice", &world);
    for _ in 0..3 {
        let mut under_way = UnderWay::new();
        for pod in 0..60 {
            let objects = format!(
                "\n- {{objectName: all, secretPath: secret/sign-{pod}, method: PUT, secretArgs: {{a: b}}}}"
            );
            begin(
                &world,
                &mut under_way,
                &format!("tenant-{}", pod % 4),
                &format!("pod-{pod}"),
                &class(&objects),
            );
        }
        for outcome in ended(under_way).await {
            assert_eq!(outcome.unwrap(), 1);
        }
    }
    let asked = world.vault.count("PUT", "secret/");
    println!("{asked} writes in 180 mounts");
    load.within_bounds(&world);
    let state = fs::read_dir(world.node.state()).unwrap().flatten();
    let sizes = state.map(|entry| entry.metadata().unwrap().len());
    assert!(sizes.sum::<u64>() < 33 * MIB as u64, "half of the quota");
}

/// Replies that are small as text, and large once they are taken apart.
fn dense() -> Vec<(&'static str, String)> {
    let room = 4 * MIB - 64;
    let mut keys = String::new();
    for at in 0.. {
        let key = format!("\"{at:x}\":1,");
        if keys.len() + key.len() > room {
            break;
        }
        keys.push_str(&key);
    }
    keys.push_str("\"api-key\":1");
    let ones = "1,".repeat(room / 2 - 1);
    let warnings = "\"\",".repeat(room / 3 - 8);
    let deep = "[".repeat(room);
    let nested = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let nested = format!("{nested},").repeat(room / (nested.len() + 1) - 1);
    let angles = "<".repeat(room - 64);
    vec![
        ("400,000 keys", format!("{{\"data\":{{{keys}}}}}")),
        ("400,000 keys, no envelope", format!("{{{keys}}}")),
        (
            "2,000,000 numbers",
            format!("{{\"data\":{{\"api-key\":[{ones}1]}}}}"),
        ),
        (
            "1,300,000 warnings",
            format!("{{\"data\":{{\"api-key\":1}},\"warnings\":[{warnings}\"\"]}}"),
        ),
        (
            "4,000,000 brackets",
            format!("{{\"data\":{{\"api-key\":{deep}"),
        ),
        (
            "nested lists",
            format!("{{\"data\":{{\"api-key\":[{nested}1]}}}}"),
        ),
        (
            "angle brackets",
            format!("{{\"data\":{{\"api-key\":\"{angles}\"}}}}"),
        ),
    ]
}

#[tokio::test]
async fn replies_of_a_million_parts_take_no_multiple_of_their_size() {
    let _alone = ALONE.lock().await;
    let mut peaks = Vec::new();
    for (what, body) in dense() {
        let world = world().await;
        answers(&world, "secret/", 200, body);
        let load = Load::begins(what, &world);
        let mut under_way = UnderWay::new();
        for pod in 0..16 {
            let key = if pod % 2 == 0 {
                ", secretKey: api-key"
            } else {
                ""
            };
            let objects = reads("secret/data/app", 1, key);
            begin(
                &world,
                &mut under_way,
                &format!("tenant-{}", pod % 4),
                &format!("pod-{pod}"),
                &class(&objects),
            );
        }
        let failed = ended(under_way).await.into_iter().filter_map(Result::err);
        let failed: Vec<String> = failed.map(|status| status.message().to_owned()).collect();
        println!("{} of 16 failed: {:?}", failed.len(), failed.first());
        peaks.push((what, load.ends(&world)));
    }
    assert!(peaks.iter().all(|(_, peak)| *peak < MOST), "{peaks:?}");
}

#[tokio::test]
async fn error_pages_of_4_mib_are_not_kept() {
    let _alone = ALONE.lock().await;
    let mut peaks = Vec::new();
    for (what, prefix) in [
        ("reads that end with a page of 4 MiB", "secret/"),
        (
            "logins that end with a page of 4 MiB",
            "auth/kubernetes/login",
        ),
    ] {
        let world = world().await;
        let page = format!("<html>{}</html>", "x".repeat(4 * MIB - 64));
        answers(&world, prefix, 500, page);
        let load = Load::begins(what, &world);
        let mut under_way = UnderWay::new();
        for pod in 0..60 {
            let objects = reads("secret/data/app", 8, "");
            begin(
                &world,
                &mut under_way,
                &format!("tenant-{}", pod % 8),
                &format!("pod-{pod}"),
                &class(&objects),
            );
        }
        for outcome in ended(under_way).await {
            assert_eq!(outcome.unwrap_err().code(), Code::Internal);
        }
        peaks.push((what, load.ends(&world)));
    }
    assert!(peaks.iter().all(|(_, peak)| *peak < MOST), "{peaks:?}");
}

#[tokio::test]
async fn a_directory_of_certificates_takes_no_multiple_of_its_size() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    for at in 0..4000_u32 {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let name = format!("authority {at} of many, with a name that is not short");
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(
            directory.path().join(format!("{at}.pem")),
            certificate.pem(),
        )
        .unwrap();
    }
    let load = Load::begins("20 settings that trust a directory of 4,000 CAs", &world);
    let mut under_way = UnderWay::new();
    for pod in 0..20 {
        let mut class = class(KV);
        class["vaultAddress"] = json!("https://127.0.0.1:9");
        class["vaultCADirectory"] = json!(directory.path());
        class["vaultTLSServerName"] = json!(format!("vault-{pod}.example"));
        begin(
            &world,
            &mut under_way,
            &format!("tenant-{}", pod % 4),
            &format!("pod-{pod}"),
            &class,
        );
    }
    for outcome in ended(under_way).await {
        assert_eq!(outcome.unwrap_err().code(), Code::Internal);
    }
    load.within_bounds(&world);
}

/// A class as large as it may be.
fn largest(objects: &str) -> Value {
    let mut class = class(objects);
    let args = "x".repeat(900_000 - objects.len());
    class["objects"] = json!(format!(
        "{objects}\n- {{objectName: last, secretPath: kv/app, method: PUT, secretArgs: {{text: {args}}}}}"
    ));
    class
}

#[tokio::test]
async fn classes_of_1_mib_are_parsed_a_few_at_a_time() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let mut many = String::new();
    for at in 0..499 {
        let object = format!(
            "\n- {{objectName: f{at}, secretPath: kv/app, secretArgs: {{{}}}}}",
            (0..100).fold(String::new(), |text, n| text + &format!("k{n}: {n}, "))
        );
        many.write_str(&object).unwrap();
    }
    for (what, class) in [
        ("60 classes of 500 objects in 700 KB", class(&many)),
        ("60 classes of one argument of 900 KB", largest("")),
    ] {
        let load = Load::begins(what, &world);
        let mut under_way = UnderWay::new();
        for pod in 0..60 {
            begin(
                &world,
                &mut under_way,
                &format!("tenant-{}", pod % 8),
                &format!("pod-{pod}"),
                &class,
            );
        }
        let failed = ended(under_way).await.into_iter().filter_map(Result::err);
        let failed: Vec<String> = failed.map(|status| status.message().to_owned()).collect();
        println!("{} of 60 failed: {:?}", failed.len(), failed.first());
        load.within_bounds(&world);
    }
}
