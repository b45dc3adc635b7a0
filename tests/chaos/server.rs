//! The server that all of it happens to: `dev-vault`, or a real one where the environment names its program.
//! What is wrong with it is its own doing (`dev-vault`) or that of a proxy before it (a real one).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dev_vault::{Action, DevVault, Fault, Options};
use serde_json::{Value, json};

use super::real_process::{Process, program};
use crate::support::admin::Admin;
use crate::support::driver::Volume;
use crate::support::front::Front;

/// A token that is alive.
pub struct Token {
    pub accessor: String,
    /// Its leases, where the server tells whose they are.
    pub leases: Vec<String>,
}

/// Where leases are read from, and their terms: what is usual, and at the most.
const LEASED: [(&str, &str, &str); 4] = [
    ("app", "1h", "24h"),
    ("reports", "1h", "24h"),
    ("short", "6s", "24h"),
    ("capped", "6s", "12s"),
];

pub enum Server {
    Dev(DevVault),
    Real(Box<Real>),
}

/// A real server gives leases without a database by its KV engine (`-dev-leased-kv`).
pub struct Real {
    process: Process,
    admin: Admin,
    front: Mutex<Option<Front>>,
    fault: Arc<Mutex<Option<Action>>>,
    /// Its administrator's own.
    known: BTreeSet<String>,
}

impl Server {
    /// Starts one, with a role for `shop/web` at an API server.
    pub async fn start(accounts: &str) -> Self {
        let server = match program() {
            None => {
                let vault = DevVault::start(Options::default()).await;
                Self::Dev(vault.expect("dev-vault"))
            }
            Some(program) => Self::Real(Box::new(Real::start(program).await)),
        };
        let admin = server.admin();
        match &server {
            Self::Dev(_) => {
                admin.shop(accounts, json!({}), "720h", json!({})).await;
                for (role, default, max) in LEASED {
                    let body = json!({ "db_name": "db", "default_ttl": default, "max_ttl": max });
                    admin.write(&format!("database/roles/{role}"), body).await;
                }
            }
            Self::Real(_) => lease_kv(&admin, accounts).await,
        }
        admin.role("kubernetes", "other", json!({})).await;
        server
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Dev(_) => "dev-vault",
            Self::Real(_) => "a real server",
        }
    }

    /// Where the daemon finds it.
    pub fn url(&self) -> String {
        match self {
            Self::Dev(vault) => vault.url(),
            Self::Real(real) => {
                let front = real.front.lock().unwrap();
                format!("http://{}", front.as_ref().expect("a front").address)
            }
        }
    }

    fn admin(&self) -> Admin {
        match self {
            Self::Dev(vault) => Admin::new(&vault.url(), vault.root_token()),
            Self::Real(real) => real.admin.clone(),
        }
    }

    /// Objects with a leased credential of one of [`LEASED`].
    pub fn credential_objects(&self, of: &str) -> String {
        match self {
            Self::Dev(_) => format!(
                "
- {{objectName: username, secretPath: database/creds/{of}, secretKey: username}}
- {{objectName: password, secretPath: database/creds/{of}, secretKey: password}}
"
            ),
            // The whole reply: its lease is the credential.
            Self::Real(_) => format!("\n- {{objectName: credential, secretPath: {of}/value}}\n"),
        }
    }

    /// One more object, of its own lease.
    pub fn further_object(&self) -> &'static str {
        match self {
            Self::Dev(_) => {
                "- {objectName: reports, secretPath: database/creds/reports, secretKey: username}\n"
            }
            Self::Real(_) => "- {objectName: reports, secretPath: reports/value}\n",
        }
    }

    /// A secret that never changes.
    pub fn static_object(&self) -> &'static str {
        match self {
            Self::Dev(_) => {
                "- {objectName: api-key, secretPath: secret/data/app, secretKey: api-key}\n"
            }
            Self::Real(_) => "- {objectName: api-key, secretPath: app/value, secretKey: api-key}\n",
        }
    }

    /// A secret that is not there.
    pub fn absent_object(&self) -> &'static str {
        match self {
            Self::Dev(_) => "- {objectName: x, secretPath: secret/data/absent, secretKey: x}\n",
            Self::Real(_) => "- {objectName: x, secretPath: app/absent, secretKey: x}\n",
        }
    }

    /// What a volume's files show.
    pub fn credential(&self, volume: &Volume) -> String {
        match self {
            Self::Dev(_) => format!("{}\n{}", volume.text("username"), volume.text("password")),
            Self::Real(_) => {
                let reply: Value = serde_json::from_str(&volume.text("credential")).expect("JSON");
                reply["lease_id"].as_str().expect("a lease").to_owned()
            }
        }
    }

    /// Whether a credential works. Nobody can tell while a real server is sealed.
    pub async fn is_alive(&self, credential: &str) -> Option<bool> {
        match self {
            Self::Dev(vault) => {
                let (user, password) = credential.split_once('\n').expect("a pair");
                Some(vault.verify_user(user, password))
            }
            Self::Real(real) => {
                let body = json!({ "lease_id": credential });
                let (status, answer) = real.admin.call("PUT", "sys/leases/lookup", &body).await;
                match status {
                    200 => Some(true),
                    400 => Some(false),
                    503 => None,
                    _ => panic!("{status} {answer}"),
                }
            }
        }
    }

    /// The tokens that are alive, but for the administrator's.
    pub async fn tokens(&self) -> Vec<Token> {
        match self {
            Self::Dev(vault) => {
                let tokens = vault.live_tokens().into_iter();
                let token = |token: dev_vault::TokenView| Token {
                    accessor: token.accessor,
                    leases: token.leases,
                };
                tokens.map(token).collect()
            }
            Self::Real(real) => {
                let accessors = listed(&real.admin, "auth/token/accessors").await;
                let accessors = accessors.into_iter();
                let others = accessors.filter(|accessor| !real.known.contains(accessor));
                let token = |accessor| Token {
                    accessor,
                    leases: Vec::new(),
                };
                others.map(token).collect()
            }
        }
    }

    /// The leases that are alive.
    pub async fn leases(&self) -> Vec<String> {
        match self {
            Self::Dev(vault) => {
                let leases = vault.live_leases().into_iter();
                leases.map(|lease| format!("{lease:?}")).collect()
            }
            Self::Real(real) => {
                let mut found = Vec::new();
                for (mount, _, _) in LEASED {
                    let path = format!("sys/leases/lookup/{mount}/value");
                    found.extend(listed(&real.admin, &path).await);
                }
                found
            }
        }
    }

    /// Leases that no token has, as far as the server tells.
    pub fn forsaken(&self) -> Vec<String> {
        match self {
            Self::Dev(vault) => {
                let leases = vault.live_leases().into_iter();
                let forsaken = leases.filter(|lease| lease.accessor.is_empty());
                forsaken.map(|lease| format!("{lease:?}")).collect()
            }
            Self::Real(_) => Vec::new(),
        }
    }

    /// Every request meets this from now on.
    pub fn inflict(&self, action: Action) {
        match self {
            Self::Dev(vault) => vault.faults().push(Fault::at("", action)),
            Self::Real(real) => *real.fault.lock().unwrap() = Some(action),
        }
    }

    pub fn relieve(&self) {
        match self {
            Self::Dev(vault) => vault.faults().clear(),
            Self::Real(real) => *real.fault.lock().unwrap() = None,
        }
    }

    /// Sealed for some time.
    pub async fn seal(&self, during: Duration) {
        match self {
            Self::Dev(vault) => {
                vault.seal();
                tokio::time::sleep(during).await;
                vault.unseal();
            }
            Self::Real(real) => {
                real.admin.write("sys/seal", json!({})).await;
                tokio::time::sleep(during).await;
                let key = json!({ "key": real.process.unseal_key() });
                real.admin.write("sys/unseal", key).await;
            }
        }
    }

    /// Nobody listens for some time.
    pub async fn vanish(&self, during: Duration) {
        match self {
            Self::Dev(vault) => {
                vault.stop_listening();
                tokio::time::sleep(during).await;
                vault.resume_listening().await.expect("its port");
            }
            Self::Real(real) => {
                let address = real.front.lock().unwrap().take().expect("a front").address;
                tokio::time::sleep(during).await;
                let front = real.stand_before(&address.to_string()).await;
                *real.front.lock().unwrap() = Some(front);
            }
        }
    }
}

impl Real {
    async fn start(program: std::path::PathBuf) -> Self {
        let process = Process::start(program, true).await;
        let admin = Admin::new(&process.base, &process.root_token);
        let known = listed(&admin, "auth/token/accessors").await;
        let real = Self {
            process,
            admin,
            front: Mutex::default(),
            fault: Arc::default(),
            known: known.into_iter().collect(),
        };
        let front = real.stand_before("127.0.0.1:0").await;
        *real.front.lock().unwrap() = Some(front);
        real
    }

    async fn stand_before(&self, listen: &str) -> Front {
        let to = self.process.base.strip_prefix("http://").expect("http");
        let to = to.parse().expect("an address");
        Front::faulty(to, listen, Arc::clone(&self.fault)).await
    }
}

/// The keys of a list; none where there is nothing to list.
async fn listed(admin: &Admin, path: &str) -> Vec<String> {
    let (status, answer) = admin.call("LIST", path, &Value::Null).await;
    assert!(matches!(status, 200 | 404), "{path}: {status} {answer}");
    let keys = answer["data"]["keys"].as_array().cloned();
    let keys = keys.unwrap_or_default().into_iter();
    keys.filter_map(|key| Some(key.as_str()?.to_owned()))
        .collect()
}

/// KV engines that give leases, PKI, and a policy `app` for them.
async fn lease_kv(admin: &Admin, accounts: &str) {
    let mut policy = String::new();
    for (mount, ttl, max) in LEASED {
        let config = json!({ "default_lease_ttl": ttl, "max_lease_ttl": max });
        let engine = json!({ "type": "kv", "config": config });
        admin.write(&format!("sys/mounts/{mount}"), engine).await;
        let value = json!({ "api-key": "k3y", "ttl": ttl });
        admin.write(&format!("{mount}/value"), value).await;
        policy += &format!("path \"{mount}/*\" {{ capabilities = [\"read\"] }}\n");
    }
    admin.certificates("24h").await;
    policy += "path \"pki/issue/*\" { capabilities = [\"create\", \"update\"] }\n";
    admin.policy("app", &policy).await;
    admin.kubernetes("kubernetes", accounts, json!({})).await;
}
