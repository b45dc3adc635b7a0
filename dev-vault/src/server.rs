//! The listener: HTTP/1.1 and HTTP/2, plain or TLS, faults on demand, and what tests ask of the server.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::answer::{Answer, Request};
use crate::auth::{self, Review};
use crate::clock::Clock;
use crate::core::{Core, Step};
use crate::engine::Engine;
use crate::faults::{Action, Faults};
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

struct Shared {
    core: Mutex<Core>,
    calls: Mutex<Vec<Call>>,
    faults: Faults,
    /// Asks API servers about tokens.
    reviewer: Client<HttpConnector, Full<Bytes>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

type Served = Result<Response<Full<Bytes>>, io::Error>;

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "broken on demand")
}

async fn serve(shared: Arc<Shared>, request: http::Request<Incoming>) -> Served {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix("/v1/").unwrap_or_default();
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let fault = shared.faults.strike(parts.method.as_str(), &path);
    let (body, body_error) = match body.collect().await {
        Ok(body) => parse_body(&body.to_bytes()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let request = Request {
        method: parts.method.to_string(),
        path: path.into_owned(),
        query: query(parts.uri.query().unwrap_or_default()),
        body,
        token: token(&parts.headers),
        namespace: header(&parts.headers, "x-vault-namespace"),
        wrap_ttl: text::duration(&Value::from(header(&parts.headers, "x-vault-wrap-ttl")))
            .filter(|ttl| !ttl.is_zero()),
        content_type: parts
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
    };
    let answer = answered(&shared, &request, body_error, fault).await;
    lock(&shared.calls).push(Call {
        method: request.method.clone(),
        path: request.path.clone(),
        namespace: request.namespace.clone(),
        status: answer.as_ref().map_or(0, |answer| answer.status),
    });
    response(&request, answer?)
}

async fn answered(
    shared: &Shared,
    request: &Request,
    body_error: Option<String>,
    fault: Option<Action>,
) -> io::Result<Answer> {
    let plain = |code, body: &str| {
        let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
        Answer::raw(code, body)
    };
    match &fault {
        Some(Action::Status {
            code,
            body,
            headers,
        }) => {
            let mut answer = plain(*code, body);
            answer.headers.clone_from(headers);
            return Ok(answer);
        }
        Some(Action::Reset) => return Err(broken()),
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Action::Redirect(to)) => {
            let mut answer = Answer::empty(307);
            answer.headers = vec![("Location".to_owned(), to.clone())];
            return Ok(answer);
        }
        _ => {}
    }
    let step = lock(&shared.core).begin(request, body_error);
    let answer = match step {
        Step::Done(answer) => answer,
        Step::Review(review) => {
            let status = ask(shared, &review).await;
            auth::reviewed(&mut lock(&shared.core), *review, status)
        }
    };
    match fault {
        Some(Action::StatusAfterCommit { code, body }) => Ok(plain(code, &body)),
        Some(Action::ResetAfterCommit) => Err(broken()),
        Some(Action::DelayAfterCommit(time)) => {
            tokio::time::sleep(time).await;
            Ok(answer)
        }
        _ => Ok(answer),
    }
}

/// Asks the API server about a token (`POST …/tokenreviews`); nothing where it does not answer.
async fn ask(shared: &Shared, review: &Review) -> Option<Value> {
    let body = json!({ "spec": { "token": review.token, "audiences": review.audiences } });
    let request = http::Request::post(&review.url)
        .header("authorization", format!("Bearer {}", review.bearer))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .ok()?;
    let response = shared.reviewer.request(request).await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let body = response.into_body().collect().await.ok()?.to_bytes();
    let review: Value = serde_json::from_slice(&body).ok()?;
    review.get("status").cloned()
}

fn response(request: &Request, answer: Answer) -> Served {
    let mut response = Response::builder()
        .status(answer.status)
        .header("Cache-Control", "no-store")
        .header("Content-Type", "application/json");
    if !request.namespace.is_empty() {
        response = response.header("X-Vault-Namespace", &request.namespace);
    }
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let body = match answer.body {
        // A text that is no JSON is sent as it is: it plays what is no Vault.
        Some(Value::String(text)) => text,
        Some(body) => body.to_string(),
        None => String::new(),
    };
    response
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)
}

fn parse_body(body: &[u8]) -> (Map<String, Value>, Option<String>) {
    if body.is_empty() {
        return (Map::new(), None);
    }
    match serde_json::from_slice::<Option<Map<String, Value>>>(body) {
        Ok(map) => (map.unwrap_or_default(), None),
        Err(error) => (Map::new(), Some(error.to_string())),
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let decoded = |part: &str| {
        let part = part.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&part);
        decoded.decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn header(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// `X-Vault-Token`, else `Authorization: Bearer`.
fn token(headers: &HeaderMap) -> String {
    match header(headers, "x-vault-token") {
        token if token.is_empty() => header(headers, "authorization")
            .strip_prefix("Bearer ")
            .unwrap_or_default()
            .to_owned(),
        token => token,
    }
}
