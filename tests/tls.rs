//! TLS to the server: files that are rotated, redirects, and whose key goes with which certificate. What is
//! trusted stands in `tls/matrix.rs` and `tls/trust.rs`, by which way a server is reached in `tls/ways.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "tls/matrix.rs"]
mod matrix;
mod support;
#[path = "tls/trust.rs"]
mod trust;
#[path = "tls/ways.rs"]
mod ways;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use dev_vault::{Action, DevVault, Fault, Options, ServiceAccounts};
use serde_json::{Value, json};
use support::admin::Admin;
use support::daemon::{Daemon, Node};
use support::driver::{Driver, Volume, request};
use support::world::{KV, class};
use tonic::Code;

/// A server that is set up, and an API server that its logins are checked by.
struct World {
    vault: DevVault,
    accounts: ServiceAccounts,
}

/// A node and its daemon.
struct Served {
    node: Node,
    driver: Driver,
    _daemon: Daemon,
}

/// Files are looked at once a second.
const LOOKED_AT_AGAIN: Duration = Duration::from_millis(1100);

type Mounted = Result<usize, (Code, String)>;

impl World {
    async fn new(tls: bool) -> Self {
        let options = Options {
            tls,
            ..Options::default()
        };
        let vault = DevVault::start(options).await.expect("dev-vault");
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let admin = Admin::trusting(&vault.url(), vault.root_token(), vault.ca_pem());
        admin
            .shop(&accounts.url(), Value::Null, "720h", json!({}))
            .await;
        Self { vault, accounts }
    }

    /// Where it listens.
    fn address(&self) -> SocketAddr {
        let url = self.vault.url();
        let port = url.rsplit_once(':').unwrap().1.parse().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    async fn serve(&self, flags: &[&str], environment: &[(&str, &str)]) -> Served {
        let node = Node::new(&self.vault.url(), flags);
        let daemon = node.until_ready(node.spawn_with(environment)).await;
        Served {
            driver: Driver::dial(&node.socket()),
            node,
            _daemon: daemon,
        }
    }

    /// How many files a mount of a class with these parameters gives.
    async fn mount<V: AsRef<str>>(&self, served: &Served, parameters: &[(&str, V)]) -> Mounted {
        let mut class = class(KV);
        for (name, value) in parameters {
            class[name] = json!(value.as_ref());
        }
        let volume = Volume::new(&served.node.pods(), "shop", "web", "uid-web", "secrets");
        volume.prepare();
        let jwt = self
            .accounts
            .mint("shop", "web", "vault", Duration::from_secs(600));
        let tokens = BTreeMap::from([("vault".to_owned(), jwt)]);
        let attributes = volume.attributes(&class, &tokens);
        let answer = served.driver.call(request(&volume, &attributes, "")).await;
        answer
            .map(|answer| answer.files.len())
            .map_err(|status| (status.code(), status.message().to_owned()))
    }
}

#[tokio::test]
async fn files_that_are_rotated_are_read_again_without_a_restart() {
    let world = World::new(true).await;
    let served = world.serve(&[], &[]).await;
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
        let refused = world.mount(&served, &[trusted]).await;
        assert!(refused.is_err_and(|(code, _)| code == Code::Internal));
    }
    put("..2", world.vault.ca_pem());
    tokio::time::sleep(LOOKED_AT_AGAIN).await;
    for trusted in [
        ("vaultCACertPath", file.as_str()),
        ("vaultCADirectory", &whole),
    ] {
        assert_eq!(world.mount(&served, &[trusted]).await, Ok(1), "{trusted:?}");
    }
    // Half of a rotation: what was read before serves on.
    put("..3", "half of a certifi");
    tokio::time::sleep(LOOKED_AT_AGAIN).await;
    assert_eq!(
        world.mount(&served, &[("vaultCACertPath", &file)]).await,
        Ok(1)
    );
}

#[tokio::test]
async fn a_redirect_is_followed_once_and_never_to_a_lower_scheme() {
    let (standby, leader) = (World::new(true).await, World::new(true).await);
    let served = standby.serve(&[], &[]).await;
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
        .mount(&served, &[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert_eq!(leader.vault.calls().len() - before, 1, "{told:?}");
    // Without the leader's CA it is not.
    let told = standby
        .mount(&served, &[("vaultCACert", standby.vault.ca_pem())])
        .await
        .err()
        .unwrap();
    assert!(told.1.contains("invalid peer certificate"), "{told:?}");
    redirect(&plain.url());
    let told = standby
        .mount(&served, &[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert!(told.1.contains("plain http"), "{told:?}");
    assert_eq!(plain.calls(), [], "nobody has seen the token");
    // A circle is not gone round.
    redirect(&standby.vault.url());
    let told = standby
        .mount(&served, &[("vaultCACert", &trust)])
        .await
        .err()
        .unwrap();
    assert!(told.1.contains("redirects again"), "{told:?}");
}

#[tokio::test]
async fn a_class_certificate_does_not_go_with_the_daemons_key() {
    let world = World::new(true).await;
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
    let served = world.serve(&flags, &[]).await;
    let ca = ("vaultCACert", world.vault.ca_pem());
    assert_eq!(
        world.mount(&served, &[ca]).await,
        Ok(1),
        "both are the daemon's"
    );
    let own = certificate.display().to_string();
    let told = world
        .mount(&served, &[ca, ("vaultTLSClientCertPath", &own)])
        .await
        .err()
        .unwrap();
    assert_eq!(told.0, Code::InvalidArgument);
    assert!(told.1.contains("without vaultTLSClientKeyPath"), "{told:?}");
}
