//! The listener: HTTP/1.1 and HTTP/2, plain or TLS, faults on demand, and what tests ask of the server.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::core::Core;
use crate::engine::Engine;
use crate::faults::Faults;
use crate::http::serve;
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
    /// What is left of it.
    pub ttl: Duration,
    /// Whether it was ever renewed.
    pub renewed: bool,
}

pub(crate) struct Shared {
    pub core: Mutex<Core>,
    pub calls: Mutex<Vec<Call>>,
    pub faults: Faults,
    /// Asks API servers about tokens.
    pub reviewer: Client<HttpConnector, Full<Bytes>>,
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
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            calls: Mutex::new(Vec::new()),
            faults: Faults::default(),
            reviewer: Client::builder(TokioExecutor::new()).build_http(),
        });
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
        if let Some(task) = lock(&self.listening).take() {
            task.abort();
        }
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    /// Somebody else has taken it.
    pub async fn resume_listening(&self) -> Result<(), StartError> {
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
                path: token.path.clone(),
                policies: token.policies.clone(),
                meta: meta(token.meta.as_ref()),
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn meta(meta: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    let pairs = meta.into_iter().flatten();
    pairs
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A CA, a certificate of it for loopback, and an acceptor that offers HTTP/2.
fn acceptor() -> Result<(TlsAcceptor, String), StartError> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), pem))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with this task, which breaks every connection.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // Small replies to small requests: waiting to fill a packet would cost 40 ms each.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| serve(Arc::clone(&shared), request));
            let builder = auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is its client's to notice.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    }
                }
                None => {
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            }
        });
    }
}
