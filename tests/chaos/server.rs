//! The server that all of it happens to: `dev-vault`, or a real one where the environment names its program. Each
//! tenant has the same engines in a namespace of its own. What is wrong with the way to it is made by
//! [`super::wire`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use dev_vault::{DevVault, Options};
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::plan::{LEASED, TENANTS};
use super::real_process::{Process, program};
use crate::support::admin::Admin;
use crate::support::driver::Volume;

/// A token that is alive.
pub struct Token {
    pub accessor: String,
    /// Its leases that are alive.
    pub leases: Vec<String>,
}

enum Kind {
    Dev(DevVault),
    /// It gives leases without a database by its KV engine (`-dev-leased-kv`).
    Real(Box<Process>),
}

pub struct Server {
    kind: Kind,
    /// For each tenant, one who may do all in its namespace.
    admins: Vec<Admin>,
    /// The administrators' own accessors.
    known: BTreeSet<String>,
}

impl Server {
    /// Starts one, with roles `app` and `other` for `<tenant>/web` at an API server. `short` is the term of the
    /// leases that are renewed all the time; `real` whether a real server is to be had.
    pub async fn start(accounts: &str, short: Duration, real: bool) -> Self {
        let kind = match program().filter(|_| real) {
            None => {
                let vault = DevVault::start(Options::default()).await;
                Kind::Dev(vault.expect("dev-vault"))
            }
            Some(program) => Kind::Real(Box::new(Process::start(program, true).await)),
        };
        let root = match &kind {
            Kind::Dev(vault) => Admin::new(&vault.url(), vault.root_token()),
            Kind::Real(process) => Admin::new(&process.base, &process.root_token),
        };
        let mut admins = Vec::new();
        for tenant in TENANTS {
            admins.push(match tenant.namespace {
                "" => root.clone(),
                namespace => root.in_namespace(namespace).await,
            });
        }
        let mut server = Self {
            kind,
            admins,
            known: BTreeSet::new(),
        };
        for tenant in 0..TENANTS.len() {
            server.set_up(tenant, accounts, short).await;
        }
        for admin in &server.admins {
            server
                .known
                .extend(listed(admin, "auth/token/accessors").await);
        }
        server
    }

    async fn set_up(&self, tenant: usize, accounts: &str, short: Duration) {
        let admin = &self.admins[tenant];
        let short = short.as_secs();
        let mut policy = String::new();
        for engine in LEASED {
            let (ttl, max) = match engine {
                "short" => (format!("{short}s"), "240h".to_owned()),
                "capped" => ("6s".to_owned(), "12s".to_owned()),
                _ => ("8h".to_owned(), "240h".to_owned()),
            };
            match &self.kind {
                Kind::Dev(_) => {
                    admin.engine(engine, "database", "").await;
                    let all = json!({ "allowed_roles": "*" });
                    admin.write(&format!("{engine}/config/db"), all).await;
                    let role = json!({ "db_name": "db", "default_ttl": ttl, "max_ttl": max });
                    admin.write(&format!("{engine}/roles/value"), role).await;
                }
                Kind::Real(_) => {
                    let config = json!({ "default_lease_ttl": ttl, "max_lease_ttl": max });
                    let body = json!({ "type": "kv", "config": config });
                    admin.write(&format!("sys/mounts/{engine}"), body).await;
                    let value = json!({ "key": "value", "ttl": ttl });
                    admin.write(&format!("{engine}/value"), value).await;
                }
            }
            policy += &format!("path \"{engine}/*\" {{ capabilities = [\"read\"] }}\n");
        }
        match &self.kind {
            Kind::Dev(_) => admin.engine("static", "kv", "2").await,
            // Its KV engines give leases for all they hold; a role of PKI is a static secret.
            Kind::Real(_) => admin.engine("static", "pki", "").await,
        }
        self.rotate(tenant, 0).await;
        admin.certificates("240h").await;
        policy += "path \"static/*\" { capabilities = [\"read\"] }\n";
        policy += "path \"pki/issue/*\" { capabilities = [\"create\", \"update\"] }\n";
        // So that the lease of an object that a class no longer names is revoked rather than left to run out.
        policy += "path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n";
        admin.policy("app", &policy).await;
        let role = json!({
            "bound_service_account_namespaces": [TENANTS[tenant].name],
            "token_ttl": "8h",
            "token_max_ttl": "240h",
        });
        admin.kubernetes("kubernetes", accounts, role.clone()).await;
        admin.role("kubernetes", "other", role).await;
    }

    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Dev(_) => "dev-vault",
            Kind::Real(_) => "a real server",
        }
    }

    /// Where it listens itself.
    pub fn address(&self) -> SocketAddr {
        let url = match &self.kind {
            Kind::Dev(vault) => vault.url(),
            Kind::Real(process) => process.base.clone(),
        };
        let address = url.strip_prefix("http://").expect("http");
        address.parse().expect("an address")
    }

    /// Gives a tenant's static secret another value; whether the server took it.
    pub async fn rotate(&self, tenant: usize, value: u64) -> bool {
        let (path, body) = match self.kind {
            Kind::Dev(_) => (
                "static/data/value",
                json!({ "data": { "value": format!("v{value}") } }),
            ),
            Kind::Real(_) => (
                "static/roles/value",
                json!({ "allow_any_name": true, "ou": [format!("v{value}")] }),
            ),
        };
        let (status, _) = self.admins[tenant].call("POST", path, &body).await;
        (200..300).contains(&status)
    }

    /// Objects with a leased credential of an engine.
    pub fn credential_objects(&self, engine: &str) -> String {
        match self.kind {
            Kind::Dev(_) => format!(
                "
- {{objectName: username, secretPath: {engine}/creds/value, secretKey: username}}
- {{objectName: password, secretPath: {engine}/creds/value, secretKey: password}}
"
            ),
            // The whole reply: its lease is the credential.
            Kind::Real(_) => {
                format!("\n- {{objectName: credential, secretPath: {engine}/value}}\n")
            }
        }
    }

    /// One more object, of its own lease.
    pub fn further_object(&self) -> &'static str {
        match self.kind {
            Kind::Dev(_) => {
                "- {objectName: reports, secretPath: reports/creds/value, secretKey: username}\n"
            }
            Kind::Real(_) => "- {objectName: reports, secretPath: reports/value}\n",
        }
    }

    /// The static secret.
    pub fn static_object(&self) -> &'static str {
        match self.kind {
            Kind::Dev(_) => {
                "- {objectName: value, secretPath: static/data/value, secretKey: value}\n"
            }
            Kind::Real(_) => {
                "- {objectName: value, secretPath: static/roles/value, secretKey: ou}\n"
            }
        }
    }

    /// A secret that is not there.
    pub fn absent_object(&self) -> &'static str {
        match self.kind {
            Kind::Dev(_) => "- {objectName: x, secretPath: static/data/absent, secretKey: x}\n",
            Kind::Real(_) => "- {objectName: x, secretPath: app/absent, secretKey: x}\n",
        }
    }

    /// What a volume's files show: a user and a password, or a lease. Nothing where they do not.
    pub fn credential(&self, volume: &Volume) -> Option<String> {
        match self.kind {
            Kind::Dev(_) => {
                let (user, password) = (text(volume, "username")?, text(volume, "password")?);
                Some(format!("{user}\n{password}"))
            }
            Kind::Real(_) => {
                let reply: Value = serde_json::from_str(&text(volume, "credential")?).ok()?;
                Some(reply["lease_id"].as_str()?.to_owned())
            }
        }
    }

    /// Whether a credential works. Nobody can tell while a real server is sealed.
    pub async fn is_alive(&self, tenant: usize, credential: &str) -> Option<bool> {
        match &self.kind {
            Kind::Dev(vault) => {
                let (user, password) = credential.split_once('\n').expect("a pair");
                Some(vault.verify_user(user, password))
            }
            Kind::Real(_) => self.lease_is_alive(tenant, credential).await,
        }
    }

    /// Whether a lease is alive.
    pub async fn lease_is_alive(&self, tenant: usize, lease: &str) -> Option<bool> {
        let body = json!({ "lease_id": lease });
        let admin = &self.admins[tenant];
        match admin.call("PUT", "sys/leases/lookup", &body).await {
            (200, _) => Some(true),
            (400, _) => Some(false),
            (503, _) => None,
            (status, answer) => panic!("{status} {answer}"),
        }
    }

    /// Whether a token is alive.
    pub async fn token_is_alive(&self, tenant: usize, accessor: &str) -> Option<bool> {
        if let Kind::Dev(vault) = &self.kind {
            let mut tokens = vault.live_tokens().into_iter();
            return Some(tokens.any(|token| token.accessor == accessor));
        }
        let body = json!({ "accessor": accessor });
        let admin = &self.admins[tenant];
        let (status, _) = admin
            .call("POST", "auth/token/lookup-accessor", &body)
            .await;
        (status != 503).then_some(status == 200)
    }

    /// The tokens that are alive, but for the administrators'. A real server does not tell which leases are a
    /// token's: the ledger does, and the server which of them are alive.
    pub async fn tokens(&self, ledger: &Ledger) -> Vec<Token> {
        if let Kind::Dev(vault) = &self.kind {
            let tokens = vault.live_tokens().into_iter();
            let token = |token: dev_vault::TokenView| Token {
                accessor: token.accessor,
                leases: token.leases,
            };
            return tokens.map(token).collect();
        }
        let alive: BTreeSet<String> = self.leases().await.into_iter().collect();
        let mut tokens = Vec::new();
        for admin in &self.admins {
            for accessor in listed(admin, "auth/token/accessors").await {
                if self.known.contains(&accessor) {
                    continue;
                }
                let mut leases = ledger.leases_under(&accessor);
                leases.retain(|lease| alive.contains(lease));
                tokens.push(Token { accessor, leases });
            }
        }
        tokens
    }

    /// The leases that are alive.
    pub async fn leases(&self) -> Vec<String> {
        if let Kind::Dev(vault) = &self.kind {
            let leases = vault.live_leases().into_iter();
            return leases.map(|lease| lease.id).collect();
        }
        let mut found = Vec::new();
        for admin in &self.admins {
            for engine in LEASED {
                let folder = format!("{engine}/value");
                let names = listed(admin, &format!("sys/leases/lookup/{folder}")).await;
                found.extend(names.into_iter().map(|name| format!("{folder}/{name}")));
            }
        }
        found
    }

    /// Leases that no token has, as far as the server tells.
    pub fn forsaken(&self) -> Vec<String> {
        let Kind::Dev(vault) = &self.kind else {
            return Vec::new();
        };
        let leases = vault.live_leases().into_iter();
        let forsaken = leases.filter(|lease| lease.accessor.is_empty());
        forsaken.map(|lease| lease.id).collect()
    }

    /// Sealed for some time.
    pub async fn seal(&self, during: Duration) {
        match &self.kind {
            Kind::Dev(vault) => {
                vault.seal();
                tokio::time::sleep(during).await;
                vault.unseal();
            }
            Kind::Real(process) => {
                self.admins[0].write("sys/seal", json!({})).await;
                tokio::time::sleep(during).await;
                let key = json!({ "key": process.unseal_key() });
                self.admins[0].write("sys/unseal", key).await;
            }
        }
    }

    /// Puts the server's clock forward, where it has one of its own; whether it had.
    pub fn advance(&self, by: Duration) -> bool {
        if let Kind::Dev(vault) = &self.kind {
            vault.clock().advance(by);
            return true;
        }
        false
    }

    /// Forgets what it remembers for tests alone.
    pub fn tidy(&self) {
        if let Kind::Dev(vault) = &self.kind {
            vault.clear_calls();
        }
    }
}

fn text(volume: &Volume, file: &str) -> Option<String> {
    std::fs::read_to_string(volume.target().join(file)).ok()
}

/// The keys of a list; none where there is nothing to list, or while the server is sealed.
async fn listed(admin: &Admin, path: &str) -> Vec<String> {
    let (status, answer) = admin.call("LIST", path, &Value::Null).await;
    assert!(
        matches!(status, 200 | 404 | 503),
        "{path}: {status} {answer}"
    );
    let keys = answer["data"]["keys"].as_array().cloned();
    let keys = keys.unwrap_or_default().into_iter();
    keys.filter_map(|key| Some(key.as_str()?.to_owned()))
        .collect()
}
