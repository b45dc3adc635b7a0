//! What an installation forbids its classes, by the real daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::front::Front;
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};
use tokio::net::TcpListener;
use tonic::Code;

const STRICT: &[&str] = &[
    "-allow-vault-address=https://vault.one:8200",
    "-allow-vault-address=https://*.two:8200,https://vault.three:8200",
    "-allow-namespace=team/*",
    "-allow-auth-mount=kubernetes",
    "-allow-method=get",
    "-allow-tls-files=/etc/leasehold/tls",
    "-allow-skip-tls-verify=false",
];

fn with(name: &str, value: &str) -> Value {
    let mut class = class(KV);
    class[name] = json!(value);
    class
}

#[tokio::test]
async fn what_the_policy_forbids_is_refused_before_anything_is_sent() {
    let world = World::with(Setup {
        flags: STRICT,
        ..Setup::default()
    })
    .await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", elsewhere.local_addr().unwrap());
    let volume = world.volume("web");
    let table = [
        (with("vaultAddress", &address), "-allow-vault-address"),
        (with("vaultNamespace", "other"), "-allow-namespace"),
        (with("vaultAuthMountPath", "jwt"), "-allow-auth-mount"),
        (class(CERTIFICATE), "-allow-method"),
        (
            with("vaultTLSClientKeyPath", "/etc/shadow"),
            "-allow-tls-files",
        ),
        (with("vaultSkipTLSVerify", "true"), "-allow-skip-tls-verify"),
    ];
    world.vault.clear_calls();
    for (class, flag) in table {
        let mut class = class;
        if flag == "-allow-tls-files" {
            class["vaultTLSClientCertPath"] = json!("/etc/leasehold/tls/tls.crt");
        }
        let told = world
            .refused(&volume, &class, Code::FailedPrecondition)
            .await;
        assert!(told.contains(&format!("policy {flag} ")), "{told}");
    }
    assert_eq!(world.vault.calls(), [], "nothing was sent");
    let called = tokio::time::timeout(Duration::from_millis(100), elsewhere.accept()).await;
    assert!(called.is_err(), "nobody has seen the pod's token");
}

#[tokio::test]
async fn an_empty_list_allows_what_we_are_configured_with_alone() {
    let world = World::with(Setup {
        flags: &[
            "-allow-vault-address=",
            "-allow-auth-mount=",
            "-allow-namespace",
            "",
        ],
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(KV)).await;
    for (name, value) in [
        ("vaultAddress", "https://other:8200"),
        ("vaultAuthMountPath", "jwt"),
        ("vaultNamespace", "team"),
    ] {
        world
            .refused(&volume, &with(name, value), Code::FailedPrecondition)
            .await;
    }
}

#[tokio::test]
async fn what_the_policy_allows_is_none_the_worse_and_a_live_volume_keeps_what_it_has() {
    let world = World::with(Setup {
        flags: STRICT,
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    // The address of the daemon's own flag, said by the class.
    let mut same = class(DATABASE);
    same["vaultAddress"] = json!(world.vault.url());
    world.mount(&volume, &same).await;
    // Three patterns, given in two flags.
    for address in ["https://vault.two:8200", "https://vault.three:8200"] {
        let named = with("vaultAddress", address);
        let other = world.volume("other");
        let told = world.refused(&other, &named, Code::Internal).await;
        assert!(!told.contains("policy"), "{told}");
        other.unmount();
    }
    let forbidden = with("vaultAddress", "https://evil.example:8200");
    world
        .refused(&volume, &forbidden, Code::FailedPrecondition)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.vault.verify_user(&user, &password));
    assert_eq!((world.logins(), world.creds()), (1, 1));
    volume.unmount();
    world.until_nothing_lives().await;
}

/// A class' mount whose login is redirected once to this place.
async fn redirected(world: &World, to: &str) -> Result<(), tonic::Status> {
    let login = "auth/kubernetes/login";
    let mut fault = Fault::at(login, Action::Redirect(to.to_owned()));
    fault.times = Some(1);
    world.vault.faults().clear();
    world.vault.faults().push(fault);
    let volume = world.volume("web");
    let mounted = world.try_mount(&volume, &class(KV)).await.map(drop);
    volume.unmount();
    mounted
}

#[tokio::test]
async fn a_redirect_leads_to_the_same_path_of_an_allowed_server_alone() {
    const LOGIN: &str = "/v1/auth/kubernetes/login?x=secret";
    let evil = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let evil_host = evil.local_addr().unwrap().to_string();
    // Another way to the same server.
    let to = |world: &World| {
        world
            .vault
            .url()
            .trim_start_matches("http://")
            .parse()
            .unwrap()
    };
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    let listen = format!("127.0.0.1:{port}");
    let pinned = format!("-allow-vault-address=http://{listen}");
    let world = World::with(Setup {
        flags: &[&pinned],
        ..Setup::default()
    })
    .await;
    let _other = Front::faulty(to(&world), &listen, std::sync::Arc::default()).await;

    let told = redirected(&world, &format!("http://{evil_host}{LOGIN}")).await;
    let told = told.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition, "{told}");
    for part in [evil_host.as_str(), "-allow-vault-address", "status 307"] {
        assert!(told.message().contains(part), "{part} in {told}");
    }
    assert!(!told.message().contains("secret"), "no query: {told}");

    // The daemon's own server, at another path.
    let told = redirected(&world, "/v1/auth/other/login")
        .await
        .unwrap_err();
    assert!(told.message().contains("another path"), "{told}");

    redirected(&world, &format!("http://{listen}{LOGIN}"))
        .await
        .unwrap();
    redirected(&world, &format!("{}{LOGIN}", world.vault.url()))
        .await
        .unwrap();
    redirected(&world, "login").await.unwrap();

    // Under no policy the path must be the same all the same.
    let free = World::new().await;
    let told = redirected(&free, &format!("http://{evil_host}/v1/kv/x")).await;
    assert_eq!(told.unwrap_err().code(), Code::FailedPrecondition);
    let called = tokio::time::timeout(Duration::from_millis(100), evil.accept()).await;
    assert!(called.is_err(), "nobody has seen the pod's token");
}
