//! The server under test: in-process or real, spoken to through HTTP alone.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dev_vault::{DevVault, Options};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::client::{Call, Client, Reply};
use crate::real_process::{self, Process};

/// Which server a case wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// One that other cases use at the same time, on mounts of their own.
    Shared,
    /// The same, whose KV engine gives a renewable lease for a key with a `ttl`.
    LeasedKv,
    /// One that no other case sees, because this one seals or throttles it.
    Own,
}

enum Backing {
    InProcess(DevVault),
    Real(&'static Process),
    RealOwn(Process),
}

/// A server and the client of one case.
pub struct Server {
    client: Client,
    root_token: String,
    backing: Backing,
}

impl Server {
    /// `dev-vault`, always one of its own: it costs next to nothing.
    pub async fn in_process(wants: Wants) -> Server {
        let options = Options {
            leased_kv: wants == Wants::LeasedKv,
            ..Options::default()
        };
        let vault = DevVault::start(options).await.expect("dev-vault starts");
        Server {
            client: Client::new(vault.url()),
            root_token: vault.root_token().to_owned(),
            backing: Backing::InProcess(vault),
        }
    }

    /// A real server, when the environment names its program.
    pub async fn real(wants: Wants) -> Option<Server> {
        static SHARED: OnceCell<Process> = OnceCell::const_new();
        static LEASED_KV: OnceCell<Process> = OnceCell::const_new();
        let program = real_process::program()?;
        let backing = match wants {
            Wants::Shared => {
                Backing::Real(SHARED.get_or_init(|| Process::start(program, false)).await)
            }
            Wants::LeasedKv => Backing::Real(
                LEASED_KV
                    .get_or_init(|| Process::start(program, true))
                    .await,
            ),
            Wants::Own => Backing::RealOwn(Process::start(program, false).await),
        };
        let process = match &backing {
            Backing::Real(process) => process,
            Backing::RealOwn(process) => process,
            Backing::InProcess(_) => return None,
        };
        Some(Server {
            client: Client::new(process.base.clone()),
            root_token: process.root_token.clone(),
            backing,
        })
    }

    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// A name that no other case uses, so that cases may share a server.
    pub fn unique(&self, stem: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn call(&self, call: Call) -> Reply {
        self.client
            .send(call)
            .await
            .unwrap_or_else(|error| panic!("no reply from the server under test: {error}"))
    }

    /// As the administrator.
    pub async fn root(&self, call: Call) -> Reply {
        self.call(call.token(&self.root_token)).await
    }

    /// A step of set-up, which has to succeed.
    pub async fn set_up(&self, path: impl Into<String>, body: Value) -> Reply {
        let reply = self.root(Call::post(path, body)).await;
        assert!(
            reply.status == 200 || reply.status == 204,
            "set-up failed: {reply}"
        );
        reply
    }

    /// Lets time pass for the server: `dev-vault`'s clock is moved, a real one is waited for.
    pub async fn pass(&self, time: Duration) {
        match &self.backing {
            Backing::InProcess(vault) => vault.clock().advance(time),
            Backing::Real(_) | Backing::RealOwn(_) => tokio::time::sleep(time).await,
        }
    }

    /// Waits, at most ten seconds, for what a server does in its own time.
    pub async fn until_lease_is_gone(&self, lease_id: &str) {
        let start = Instant::now();
        loop {
            let call = Call::post("sys/leases/lookup", json!({ "lease_id": lease_id }));
            let reply = self.root(call).await;
            if reply.status != 200 {
                reply.refuses(400, "invalid lease");
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "the lease lives on: {reply}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Unseals it, the one act for which each kind of server has its own key.
    pub async fn unseal(&self) {
        let key = match &self.backing {
            Backing::InProcess(vault) => return vault.unseal(),
            Backing::Real(process) => process.unseal_key(),
            Backing::RealOwn(process) => process.unseal_key(),
        };
        let reply = self
            .call(Call::post("sys/unseal", json!({ "key": key })))
            .await
            .expect(200);
        reply.is("/sealed", false);
    }
}
