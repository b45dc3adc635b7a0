//! Leasehold in half a minute, without a cluster: a server, the daemon, one pod's volume from its mount to
//! the revocation of everything it was given.
//!
//! The server is `dev-vault`, in this process; the daemon is Leasehold itself, served on its Unix socket;
//! the driver is played by the client that the tests use. Everything printed is read from the files, or
//! from the server's own lists. The example fails unless each step holds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/support/admin.rs"]
#[allow(dead_code)]
mod admin;
#[path = "../tests/support/driver.rs"]
#[allow(dead_code)]
mod driver;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use admin::Admin;
use dev_vault::{DevVault, Options, ServiceAccounts};
use driver::{Driver, Volume};
use leasehold::app::App;
use leasehold::config::{Command, Config};
use leasehold::telemetry;
use serde_json::{Value, json};
use tokio::sync::oneshot;

const CLASS: &str = include_str!("app.yaml");
/// Lives are short here, so that a minute's worth of upkeep fits into a few seconds.
const TOKEN_TTL: &str = "24s";
const LEASE_TTL: &str = "8s";
const LEASE_MAX_TTL: &str = "20s";
const POLL: Duration = Duration::from_secs(4);

fn step(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

fn shown(label: &str, value: impl std::fmt::Display) {
    println!("   {label:<28}{value}");
}

fn parameters() -> Value {
    let class: Value = serde_yaml::from_str(CLASS.split("\n---\n").next().expect("a class"))
        .expect("the example is YAML");
    class["spec"]["parameters"].clone()
}

#[tokio::main]
async fn main() {
    let started = Instant::now();
    println!("Leasehold quickstart: one volume from mount to revocation, about half a minute.");
    let vault = DevVault::start(Options::default())
        .await
        .expect("dev-vault starts");
    let accounts = ServiceAccounts::start()
        .await
        .expect("the API server's stand-in starts");
    let admin = Admin::new(&vault.url(), vault.root_token());
    let database = json!({ "default_ttl": LEASE_TTL, "max_ttl": LEASE_MAX_TTL });
    let role = json!({ "audience": "vault", "token_ttl": TOKEN_TTL });
    admin.shop(&accounts.url(), database, "720h", role).await;
    step(
        1,
        "A Vault-compatible server with KV, database and PKI engines, and kubernetes login.",
    );
    shown("address", vault.url());

    let directory = tempfile::tempdir().expect("a temporary directory");
    let pods = directory.path().join("pods");
    std::fs::create_dir(&pods).expect("kubelet's directory can be made");
    let socket = directory.path().join("vault.sock");
    let (stop, daemon) = start_daemon(directory.path(), &pods, &socket, &vault.url()).await;
    let driver = Driver::dial(&socket);
    let (_, name, version) = driver.version().await.expect("the daemon answers");
    step(2, "The daemon serves the CSI driver on its Unix socket.");
    shown("provider", format!("{name} {version}"));

    let volume = Volume::new(&pods, "shop", "web-0", "4f1c8a52-quickstart", "secrets");
    let jwt = accounts.mint("shop", "web", "vault", Duration::from_secs(600));
    let tokens = BTreeMap::from([("vault".to_owned(), jwt)]);
    let parameters = parameters();
    driver
        .mount(&volume, &parameters, &tokens)
        .await
        .expect("the volume mounts");
    step(
        3,
        "Pod shop/web-0 mounts examples/app.yaml; these are its files.",
    );
    show_files(&volume);
    let user = volume.text("db/username");
    assert!(
        vault.verify_user(&user, &volume.text("db/password")),
        "the database knows the user"
    );
    shown("database login", "accepted");
    show_server(&vault);

    let logins = vault.count("POST", "auth/kubernetes/login");
    driver
        .mount(&volume, &parameters, &tokens)
        .await
        .expect("a poll succeeds");
    step(
        4,
        "A rotation poll with nothing due: no login, no new credential, no new certificate.",
    );
    assert_eq!(
        vault.count("POST", "auth/kubernetes/login"),
        logins,
        "no login"
    );
    assert_eq!(volume.text("db/username"), user, "the same user");
    assert_eq!(
        vault.count("PUT", "pki/issue/web") + vault.count("POST", "pki/issue/web"),
        1,
        "one certificate"
    );
    shown("logins so far", logins);

    step(
        5,
        "While it is mounted, its lease is renewed; at its maximum TTL it is replaced at a poll.",
    );
    let replaced = watch_upkeep(&vault, &driver, &volume, &parameters, &tokens, &user).await;
    shown("new database user", &replaced);
    assert!(
        vault.verify_user(&replaced, &volume.text("db/password")),
        "the new user is let in"
    );

    step(
        6,
        "The pod goes; the driver tells nobody. Leasehold sees that the path is gone.",
    );
    volume.unmount();
    let gone = Instant::now();
    while !(vault.live_tokens().is_empty()
        && vault.live_leases().is_empty()
        && vault.live_users().is_empty())
    {
        assert!(
            gone.elapsed() < Duration::from_secs(15),
            "everything is revoked in time"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shown(
        "revoked after",
        format!("{:.1} s", gone.elapsed().as_secs_f64()),
    );
    show_server(&vault);

    stop.send(()).expect("the daemon is there to be stopped");
    daemon
        .await
        .expect("the daemon did not panic")
        .expect("the daemon stops cleanly");
    println!(
        "\nEvery step held, in {:.0} s.",
        started.elapsed().as_secs_f64()
    );
}

async fn start_daemon(
    directory: &Path,
    pods: &Path,
    socket: &Path,
    url: &str,
) -> (
    oneshot::Sender<()>,
    tokio::task::JoinHandle<Result<(), leasehold::app::RunError>>,
) {
    let flags = [
        "leasehold".to_owned(),
        format!("-endpoint={}", socket.display()),
        format!("-vault-addr={url}"),
        format!("-kubelet-pods-dir={}", pods.display()),
        format!("-state-dir={}", directory.join("state").display()),
        "-allow-disk-state-dir".to_owned(),
        "-health-addr=127.0.0.1:0".to_owned(),
        "-log-level=off".to_owned(),
        format!("-poll-interval={}s", POLL.as_secs()),
        "-drain-after=2s".to_owned(),
        "-path-check-interval=500ms".to_owned(),
        "-path-confirm=500ms".to_owned(),
    ];
    let config = match Config::from_args(flags) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::Print(text)) => panic!("{text}"),
        Err(error) => panic!("{error}"),
    };
    telemetry::init(&config.telemetry);
    let app = App::build(*config).await.expect("the daemon can be built");
    let (stop, stopped) = oneshot::channel();
    let daemon = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    (stop, daemon)
}

fn show_files(volume: &Volume) {
    for file in [
        "db/username",
        "db/password",
        "api-key",
        "tls/tls.crt",
        "tls/tls.key",
    ] {
        let secret = file.ends_with("password") || file.ends_with("key");
        let text = volume.text(file);
        let first = text.lines().next().unwrap_or_default();
        let value = if secret { "(not shown)" } else { first };
        let (mode, size) = (volume.mode(file), text.len());
        shown(file, format!("{mode:04o} {size:>5} bytes  {value}"));
    }
}

/// The server's own lists.
fn show_server(vault: &DevVault) {
    let tokens = vault.live_tokens();
    let leases = vault.live_leases();
    shown("server's list: tokens", tokens.len());
    for token in &tokens {
        let account = token
            .meta
            .get("service_account_name")
            .map_or("", String::as_str);
        shown(
            "",
            format!(
                "{} for {account}, {} s left",
                token.path,
                token.ttl.as_secs()
            ),
        );
    }
    shown("server's list: leases", leases.len());
    for lease in &leases {
        shown(
            "",
            format!("{}, {} s left", lease.path, lease.ttl.as_secs()),
        );
    }
    shown("server's list: DB users", vault.live_users().len());
}

/// Polls as the driver does and prints the lease's countdown until its user was replaced and the old one
/// is gone.
async fn watch_upkeep(
    vault: &DevVault,
    driver: &Driver,
    volume: &Volume,
    parameters: &Value,
    tokens: &BTreeMap<String, String>,
    user: &str,
) -> String {
    let started = Instant::now();
    let mut polled = Instant::now();
    let mut renewals = 0;
    let mut replaced: Option<String> = None;
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "the credential is replaced in time"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lefts: Vec<String> = vault
            .live_leases()
            .iter()
            .map(|lease| format!("{} s", lease.ttl.as_secs()))
            .collect();
        let now = vault.count("POST", "sys/leases/renew");
        let mut line = format!("lease: {} left", lefts.join(" and "));
        if now > renewals {
            line.push_str("  <- renewed");
            renewals = now;
        }
        if polled.elapsed() >= POLL {
            driver
                .mount(volume, parameters, tokens)
                .await
                .expect("a poll succeeds");
            polled = Instant::now();
            line.push_str("  <- rotation poll");
            let current = volume.text("db/username");
            if replaced.is_none() && current != user {
                line.push_str(": replaced before its end");
                assert!(
                    vault.live_users().iter().any(|known| known == user),
                    "the old user outlives the swap"
                );
                replaced = Some(current);
            }
        }
        println!("   {:>4.0} s  {line}", started.elapsed().as_secs_f64());
        if let Some(replaced) = &replaced
            && !vault.live_users().iter().any(|known| known == user)
        {
            assert!(renewals > 0, "the lease was renewed");
            shown("old database user", "gone");
            return replaced.clone();
        }
    }
}
