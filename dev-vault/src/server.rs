//! The server as its owner holds it: started, looked into, put forward in time, sealed, taken away.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::core::Core;
use crate::engine::Engine;
use crate::faults::Faults;
use crate::http::{Shared, lock};
use crate::listener::{accept, acceptor};
use crate::text;

/// How often time's work is done when no request comes.
const TICK: Duration = Duration::from_millis(20);

/// What a server is started with.
#[derive(Clone, Default)]
pub struct Options {
    /// Where to listen; a free loopback port if not given.
    pub listen: Option<SocketAddr>,
    /// Serve TLS, with a certificate for `localhost` and 127.0.0.1 of a CA of its own.
    pub tls: bool,
    /// Every KV mount is version 1 with leases, as OpenBao's `-dev-leased-kv`.
    pub leased_kv: bool,
    /// The root token; a random one if not given.
    pub root_token: Option<String>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("the address cannot be had: {0}")]
    Listen(#[from] io::Error),
    /// The certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// A request that was answered; holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Its path below `/v1/`.
    pub path: String,
    /// Its namespace.
    pub namespace: String,
    /// The status it got; 0 where the connection was broken instead.
    pub status: u16,
}

/// A living token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenView {
    /// Its accessor.
    pub accessor: String,
    /// Where it was got: `auth/kubernetes/login`.
    pub path: String,
    /// Its policies.
    pub policies: Vec<String>,
    /// The metadata of its login.
    pub meta: BTreeMap<String, String>,
    /// What is left of it; zero for one without end.
    pub ttl: Duration,
    /// The ids of its leases.
    pub leases: Vec<String>,
}

/// A living lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub id: String,
    /// The path of its request.
    pub path: String,
    /// The accessor of its token; empty for a batch token's, or where the token is gone and the lease only
    /// waits for its revocation.
    pub accessor: String,
    /// What is left of it.
    pub ttl: Duration,
    /// Whether it was ever renewed.
    pub renewed: bool,
}

/// A running server; it ends when this is dropped.
pub struct DevVault {
    shared: Arc<Shared>,
    clock: Clock,
    root_token: String,
    address: SocketAddr,
    tls: Option<(TlsAcceptor, String)>,
    listening: Mutex<Option<JoinHandle<()>>>,
    ticking: JoinHandle<()>,
}

impl DevVault {
    /// Starts a server.
    ///
    /// # Errors
    /// The address cannot be had, or the certificate cannot be made.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let clock = Clock::default();
        let root_token = options
            .root_token
            .unwrap_or_else(|| format!("s.{}", text::random(24)));
        let core = Core::new(clock.clone(), root_token.clone(), options.leased_kv);
        let shared = Arc::new(Shared::new(core));
        let tls = if options.tls { Some(acceptor()?) } else { None };
        let usual = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(options.listen.unwrap_or(usual)).await?;
        let address = listener.local_addr()?;
        let ticked = Arc::clone(&shared);
        let ticking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                lock(&ticked.core).settle();
            }
        });
        let server = Self {
            shared,
            clock,
            root_token,
            address,
            tls,
            listening: Mutex::new(None),
            ticking,
        };
        server.listen(listener);
        Ok(server)
    }

    fn listen(&self, listener: TcpListener) {
        let tls = self.tls.as_ref().map(|(acceptor, _)| acceptor.clone());
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&self.shared)));
        *lock(&self.listening) = Some(task);
    }

    /// Its address, as `VAULT_ADDR` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The CA of its certificate, PEM; empty without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.tls.as_ref().map_or("", |(_, pem)| pem)
    }

    /// The root token.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The clock, to be put forward.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The faults in force.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Seals.
    pub fn seal(&self) {
        lock(&self.shared.core).sealed = true;
    }

    /// Unseals.
    pub fn unseal(&self) {
        lock(&self.shared.core).sealed = false;
    }

    /// How long a revoked token's leases live on, in real time.
    pub fn set_lease_revocation_delay(&self, delay: Duration) {
        lock(&self.shared.core).leases.delay = delay;
    }

    /// Goes away: the port is closed, every connection broken; the state stays.
    pub fn stop_listening(&self) {
        if let Some(task) = lock(&self.listening).as_ref() {
            task.abort();
        }
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    /// Somebody else has taken it.
    pub async fn resume_listening(&self) -> Result<(), StartError> {
        self.stop_listening();
        let before = lock(&self.listening).take();
        if let Some(before) = before {
            // Until it has ended it holds the port. That it was stopped is all it can say.
            let _ = before.await;
        }
        let listener = TcpListener::bind(self.address).await?;
        self.listen(listener);
        Ok(())
    }

    /// The living tokens, but for root's.
    #[must_use]
    pub fn live_tokens(&self) -> Vec<TokenView> {
        let mut core = lock(&self.shared.core);
        core.settle();
        let now = core.clock.now();
        let tokens = core.tokens.by_id.values();
        let tokens = tokens.filter(|token| token.id != self.root_token);
        tokens
            .map(|token| TokenView {
                accessor: token.accessor.clone(),
                path: token.spec.path.clone(),
                policies: token.spec.policies.iter().cloned().collect(),
                meta: meta(token.spec.meta.as_ref()),
                ttl: token.ttl(now),
                leases: token.leases.iter().cloned().collect(),
            })
            .collect()
    }

    /// The living leases.
    #[must_use]
    pub fn live_leases(&self) -> Vec<LeaseView> {
        let mut core = lock(&self.shared.core);
        core.settle();
        let now = core.clock.now();
        let leases = core.leases.by_id.values();
        leases
            .map(|lease| LeaseView {
                id: lease.id.clone(),
                path: lease.path.clone(),
                accessor: core
                    .token(&lease.token)
                    .map_or_else(String::new, |token| token.accessor.clone()),
                ttl: lease.expires.saturating_sub(now),
                renewed: lease.last_renewal.is_some(),
            })
            .collect()
    }

    /// The users that the databases know now.
    #[must_use]
    pub fn live_users(&self) -> Vec<String> {
        let mut core = lock(&self.shared.core);
        core.settle();
        let users = core.mounts.values().filter_map(|mount| match &mount.inner {
            Engine::Database(database) => Some(database.users.keys().cloned()),
            _ => None,
        });
        users.flatten().collect()
    }

    /// Whether a database would let this user in.
    #[must_use]
    pub fn verify_user(&self, user: &str, password: &str) -> bool {
        let mut core = lock(&self.shared.core);
        core.settle();
        core.mounts.values().any(|mount| match &mount.inner {
            Engine::Database(database) => database
                .users
                .get(user)
                .is_some_and(|known| known == password),
            _ => false,
        })
    }

    /// Every request so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// How many requests so far had this method and a path that begins so.
    #[must_use]
    pub fn count(&self, method: &str, prefix: &str) -> usize {
        let calls = lock(&self.shared.calls);
        let fits = |call: &&Call| call.method == method && call.path.starts_with(prefix);
        calls.iter().filter(fits).count()
    }

    /// Forgets the requests so far.
    pub fn clear_calls(&self) {
        lock(&self.shared.calls).clear();
    }
}

impl Drop for DevVault {
    fn drop(&mut self) {
        self.ticking.abort();
        self.stop_listening();
    }
}

fn meta(meta: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    let pairs = meta.into_iter().flatten();
    pairs
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests;
