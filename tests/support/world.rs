//! Everything together: a server that is set up, a node, its daemon, the driver.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dev_vault::{DevVault, Options, ServiceAccounts};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::admin::Admin;
use super::daemon::{Daemon, Node};
use super::driver::{Answer, Driver, Volume};

/// How long a condition may take to come about, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

pub struct World {
    pub vault: DevVault,
    pub accounts: ServiceAccounts,
    pub admin: Admin,
    pub node: Node,
    pub driver: Driver,
    pub daemon: Option<Daemon>,
}

/// What a world differs by from the usual one.
#[derive(Default)]
pub struct Setup<'a> {
    /// Added to the database role.
    pub database: Value,
    /// Added to the auth role.
    pub role: Value,
    /// The certificates' life.
    pub certificate_ttl: Option<&'a str>,
    /// Flags of the daemon.
    pub flags: &'a [&'a str],
}

impl World {
    pub async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup<'_>) -> Self {
        let vault = DevVault::start(Options::default())
            .await
            .expect("dev-vault");
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let admin = Admin::new(&vault.url(), vault.root_token());
        let ttl = setup.certificate_ttl.unwrap_or("720h");
        admin
            .shop(&accounts.url(), setup.database, ttl, setup.role)
            .await;
        let node = Node::new(&vault.url(), setup.flags);
        let daemon = node.start().await;
        Self {
            driver: Driver::dial(&node.socket()),
            vault,
            accounts,
            admin,
            node,
            daemon: Some(daemon),
        }
    }

    /// A volume of a pod `shop/<pod>`, whose UID is the pod's name.
    pub fn volume(&self, pod: &str) -> Volume {
        Volume::new(
            &self.node.pods(),
            "shop",
            pod,
            &format!("uid-{pod}"),
            "secrets",
        )
    }

    /// The pod's token for the audience `vault`.
    pub fn tokens(&self) -> BTreeMap<String, String> {
        let token = self
            .accounts
            .mint("shop", "web", "vault", Duration::from_secs(600));
        BTreeMap::from([("vault".to_owned(), token)])
    }

    /// A mount or poll that must succeed.
    pub async fn mount(&self, volume: &Volume, class: &Value) -> Answer {
        match self.try_mount(volume, class).await {
            Ok(answer) => answer,
            Err(status) => panic!("{status}: {}", self.log()),
        }
    }

    pub async fn try_mount(&self, volume: &Volume, class: &Value) -> Result<Answer, Status> {
        self.driver.mount(volume, class, &self.tokens()).await
    }

    /// A mount that must fail with this code; its message.
    pub async fn refused(&self, volume: &Volume, class: &Value, code: Code) -> String {
        match self.try_mount(volume, class).await {
            Ok(_) => panic!("accepted: {class}"),
            Err(status) => {
                assert_eq!(status.code(), code, "{status}");
                status.message().to_owned()
            }
        }
    }

    pub fn log(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, Daemon::log)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.daemon.take().expect("a daemon").kill();
    }

    /// Starts the daemon again.
    pub async fn restart(&mut self) {
        self.daemon = Some(self.node.start().await);
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server knows of nothing any more.
    pub async fn until_nothing_lives(&self) {
        self.until("no token, lease or user lives", || {
            self.vault.live_tokens().is_empty()
                && self.vault.live_leases().is_empty()
                && self.vault.live_users().is_empty()
        })
        .await;
    }

    /// Logins that the server has seen.
    pub fn logins(&self) -> usize {
        self.vault.count("POST", "auth/")
            - self.vault.count("POST", "auth/token/")
            - self.vault.count("POST", "auth/kubernetes/config")
            - self.vault.count("POST", "auth/kubernetes/role/")
    }

    /// Reads of database credentials that the server has seen.
    pub fn creds(&self) -> usize {
        self.vault.count("GET", "database/creds/")
    }
}

/// A class of these objects, in YAML.
pub fn class(objects: &str) -> Value {
    json!({ "roleName": "app", "objects": objects })
}

/// Database credentials, both keys.
pub const DATABASE: &str = "
- objectName: username
  secretPath: database/creds/app
  secretKey: username
- objectName: password
  secretPath: database/creds/app
  secretKey: password
  filePermission: 0400
";

/// A value from KV 2.
pub const KV: &str = "
- objectName: api-key
  secretPath: secret/data/app
  secretKey: api-key
";

/// A certificate.
pub const CERTIFICATE: &str = "
- objectName: tls.crt
  secretPath: pki/issue/web
  method: PUT
  secretArgs: {common_name: web.shop.example}
  secretKey: certificate
";
