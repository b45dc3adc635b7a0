//! TLS to the server: what is trusted, what is not, and what a class may say about it.

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

use dev_vault::{Action, DevVault, Fault, Options, ServiceAccounts};
use serde_json::{Value, json};
use support::admin::Admin;
use support::daemon::{Daemon, Node};
use support::driver::{Driver, Volume, request};
use support::world::{KV, class};
use tonic::Code;

struct World {
    vault: DevVault,
    accounts: ServiceAccounts,
    node: Node,
    driver: Driver,
    _daemon: Daemon,
}

impl World {
    async fn new() -> Self {
        let options = Options {
            tls: true,
            ..Options::default()
        };
        let vault = DevVault::start(options).await.expect("dev-vault");
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let admin = Admin::trusting(&vault.url(), vault.root_token(), vault.ca_pem());
        admin
            .shop(&accounts.url(), Value::Null, "720h", json!({}))
            .await;
        let node = Node::new(&vault.url(), &[]);
        let daemon = node.start().await;
        Self {
            driver: Driver::dial(&node.socket()),
            vault,
            accounts,
            node,
            _daemon: daemon,
        }
    }

    async fn mount(&self, parameters: &[(&str, &str)]) -> Result<usize, (Code, String)> {
        let mut class = class(KV);
        for (name, value) in parameters {
            class[name] = json!(value);
        }
        let volume = Volume::new(&self.node.pods(), "shop", "web", "uid-web", "secrets");
        volume.prepare();
        let jwt = self
            .accounts
            .mint("shop", "web", "vault", Duration::from_secs(600));
        let tokens = BTreeMap::from([("vault".to_owned(), jwt)]);
        let attributes = volume.attributes(&class, &tokens);
        let answer = self.driver.call(request(&volume, &attributes, "")).await;
        answer
            .map(|answer| answer.files.len())
            .map_err(|status| (status.code(), status.message().to_owned()))
    }
}

/// Parameters, the code they get, and a part of the message.
type Refused<'a> = (&'a [(&'a str, &'a str)], Code, &'a str);

#[tokio::test]
async fn the_matrix_of_trust() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("ca.crt", world.vault.ca_pem());
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    let other = file("other.crt", &other.cert.pem());
    let empty = file("empty.crt", "nothing");
    // As a ConfigMap is mounted: a directory with `..data`, and a link through it.
    let mounted = directory.path().join("configmap");
    fs::create_dir_all(mounted.join("..2026")).unwrap();
    fs::write(mounted.join("..2026/ca.crt"), world.vault.ca_pem()).unwrap();
    std::os::unix::fs::symlink("..2026", mounted.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ca.crt", mounted.join("ca.crt")).unwrap();
    let mounted = mounted.display().to_string();
    let port = world.vault.url().rsplit_once(':').unwrap().1.to_owned();
    let by_address = format!("https://127.0.0.1:{port}");

    let good: &[&[(&str, &str)]] = &[
        &[("vaultCACertPath", &ca)],
        &[("vaultCACert", world.vault.ca_pem())],
        &[("vaultCADirectory", &mounted)],
        &[("vaultSkipTLSVerify", "true")],
        &[("vaultCACertPath", &ca), ("vaultAddress", &by_address)],
        &[
            ("vaultCACertPath", &ca),
            ("vaultTLSServerName", "localhost"),
            ("vaultAddress", &by_address),
        ],
    ];
    for parameters in good {
        assert_eq!(world.mount(parameters).await, Ok(1), "{parameters:?}");
    }
    let bad: &[Refused<'_>] = &[
        (
            &[("vaultCACertPath", &other)],
            Code::Unavailable,
            "invalid peer certificate",
        ),
        (
            &[
                ("vaultCACertPath", &ca),
                ("vaultTLSServerName", "vault.example"),
            ],
            Code::Unavailable,
            "not valid for name",
        ),
        (
            &[("vaultCACertPath", "/nowhere/ca.crt")],
            Code::InvalidArgument,
            "vaultCACertPath /nowhere/ca.crt",
        ),
        (
            &[("vaultCACertPath", &empty)],
            Code::InvalidArgument,
            "vaultCACertPath: no certificate in PEM",
        ),
        (
            &[("vaultCACert", "nothing")],
            Code::InvalidArgument,
            "vaultCACert: no certificate in PEM",
        ),
        (
            &[("vaultCACertPath", &ca), ("vaultTLSClientCertPath", &ca)],
            Code::InvalidArgument,
            "vaultTLSClientCertPath: is set without vaultTLSClientKeyPath",
        ),
        (
            &[("vaultCACertPath", &ca), ("vaultTLSServerName", "a b")],
            Code::InvalidArgument,
            "vaultTLSServerName",
        ),
    ];
    for (parameters, code, told) in bad {
        let (got, message) = world.mount(parameters).await.err().unwrap();
        assert_eq!(got, *code, "{parameters:?}: {message}");
        assert!(message.contains(told), "{told:?} in {message:?}");
    }
}

#[tokio::test]
async fn files_that_are_rotated_are_read_again_without_a_restart() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    // As a Secret is mounted: the files change behind one link.
    let put = |version: &str, text: &str| {
        let fresh = directory.path().join(version);
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("ca.crt"), text).unwrap();
        let link = directory.path().join("..data_tmp");
        std::os::unix::fs::symlink(version, &link).unwrap();
        fs::rename(link, directory.path().join("..data")).unwrap();
    };
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    put("..1", &other.cert.pem());
    std::os::unix::fs::symlink("..data/ca.crt", directory.path().join("ca.crt")).unwrap();
    let file = directory.path().join("ca.crt").display().to_string();
    let whole = directory.path().join("..data/").display().to_string();
    for trusted in [
        ("vaultCACertPath", file.as_str()),
        ("vaultCADirectory", &whole),
    ] {
        let refused = world.mount(&[trusted]).await;
        assert!(refused.is_err_and(|(code, _)| code == Code::Unavailable));
    }
    put("..2", world.vault.ca_pem());
    for trusted in [
        ("vaultCACertPath", file.as_str()),
        ("vaultCADirectory", &whole),
    ] {
        assert_eq!(world.mount(&[trusted]).await, Ok(1), "{trusted:?}");
    }
    // Half of a rotation: what was read before serves on.
    put("..3", "half of a certifi");
    assert_eq!(world.mount(&[("vaultCACertPath", &file)]).await, Ok(1));
}

#[tokio::test]
async fn a_redirect_is_followed_once_and_from_https_to_https_alone() {
    let (standby, leader) = (World::new().await, World::new().await);
    let plain = DevVault::start(Options::default()).await.unwrap();
    let trust = format!("{}{}", standby.vault.ca_pem(), leader.vault.ca_pem());
    let login = "/v1/auth/kubernetes/login";
    let redirect = |to: &str| {
        standby.vault.faults().clear();
        let fault = Action::Redirect(format!("{to}{login}"));
        let path = "auth/kubernetes/login";
        standby.vault.faults().push(Fault::at(path, fault));
    };
    // The leader asks its own API server about the token, so it refuses it; but it is asked.
    redirect(&leader.vault.url());
    let before = leader.vault.calls().len();
    let told = standby
        .mount(&[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert_eq!(leader.vault.calls().len() - before, 1, "{told:?}");
    // Without the leader's CA it is not.
    let told = standby
        .mount(&[("vaultCACert", standby.vault.ca_pem())])
        .await
        .err()
        .unwrap();
    assert!(told.1.contains("invalid peer certificate"), "{told:?}");
    redirect(&plain.url());
    let told = standby
        .mount(&[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert!(told.1.contains("plain http"), "{told:?}");
    assert_eq!(plain.calls(), [], "nobody has seen the token");
    // A circle is not gone round.
    redirect(&standby.vault.url());
    let told = standby
        .mount(&[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert!(
        told.1.contains("307") || told.1.contains("redirect"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_class_certificate_does_not_go_with_the_daemons_key() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let (certificate, key) = (
        directory.path().join("c.crt"),
        directory.path().join("c.key"),
    );
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = [
        format!("-vault-tls-client-cert={}", certificate.display()),
        format!("-vault-tls-client-key={}", key.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = Node::new(&world.vault.url(), &flags);
    let daemon = node.start().await;
    let driver = Driver::dial(&node.socket());
    let world = World {
        driver,
        node,
        _daemon: daemon,
        ..world
    };
    let ca = ("vaultCACert", world.vault.ca_pem());
    assert_eq!(world.mount(&[ca]).await, Ok(1), "both are the daemon's");
    let own = certificate.display().to_string();
    let told = world
        .mount(&[ca, ("vaultTLSClientCertPath", &own)])
        .await
        .err()
        .unwrap();
    assert_eq!(told.0, Code::InvalidArgument);
    assert!(told.1.contains("without vaultTLSClientKeyPath"), "{told:?}");
}
