//! The way between daemon and server: an HTTP proxy that keeps the ledger, makes what mischief asks for of the
//! requests it is meant for, and tampers with them where a run is sabotaged.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::ledger::Ledger;
use super::plan::{LEASED, TENANTS};
use super::report::{Report, Violation};
use super::sabotage::Sabotage;
use super::troubles::Target;

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Wrong {
    Status(u16, &'static str, Option<u64>),
    /// This status in place of the answer to work that is done.
    LostAnswer(u16),
    Reset,
    ResetAfterWork,
    /// No answer, and no end.
    Hang,
    /// No answer until it is over, then the connection's end.
    HangForNow,
    Slow(Duration),
    /// The durations of the reply are this JSON.
    Duration(&'static str),
}

/// A fault, and the requests it is meant for.
#[derive(Clone, Debug)]
pub struct Fault {
    pub target: Target,
    pub renewals_alone: bool,
    pub wrong: Wrong,
}

/// What a request is about.
#[derive(Clone, Default)]
struct Asked {
    tenant: usize,
    /// The engine: of its path, or of the lease that it names.
    backend: String,
    path: String,
    token: String,
    lease: String,
    /// The pod's token of a login.
    bearer: String,
}

impl Asked {
    fn new(request: &Request<Bytes>) -> Self {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.and_then(|value| value.to_str().ok()).unwrap_or("")
        };
        let namespace = header("x-vault-namespace").trim_matches('/').to_owned();
        let tenant = TENANTS
            .iter()
            .position(|tenant| tenant.namespace == namespace);
        let path = request.uri().path().trim_start_matches("/v1/").to_owned();
        let body: Value = if path.starts_with("sys/leases/") || path.ends_with("/login") {
            serde_json::from_slice(request.body()).unwrap_or_default()
        } else {
            Value::Null
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let lease = text("lease_id");
        let about = if lease.is_empty() { &path } else { &lease };
        Self {
            tenant: tenant.unwrap_or(0),
            backend: about.split('/').next().unwrap_or_default().to_owned(),
            token: header("x-vault-token").to_owned(),
            bearer: text("jwt"),
            lease,
            path,
        }
    }

    fn renews(&self) -> bool {
        self.path == "sys/leases/renew"
    }

    fn logs_in(&self) -> bool {
        self.path.ends_with("/login")
    }

    fn issues(&self) -> bool {
        LEASED.contains(&self.path.split('/').next().unwrap_or_default())
            || self.path.starts_with("pki/issue/")
    }

    /// A static read: each poll has one.
    fn polls(&self) -> bool {
        self.path.starts_with("static/")
    }
}

impl Fault {
    fn strikes(&self, asked: &Asked) -> bool {
        let target = self.target;
        // A node's health check of the address has no namespace, and no tenant's trouble answers it.
        let scoped = target != Target::default();
        if scoped && (asked.path.starts_with("sys/health") || asked.path == "sys/seal-status") {
            return false;
        }
        target.tenant.is_none_or(|tenant| tenant == asked.tenant)
            && target
                .backend
                .is_none_or(|backend| backend == asked.backend)
            && (!self.renewals_alone || asked.renews())
    }
}

type Upstream = Client<HttpConnector, Full<Bytes>>;
type Reply = Response<Full<Bytes>>;

/// What all connections share.
pub struct Shared {
    upstream: SocketAddr,
    client: Upstream,
    faults: Mutex<Vec<(usize, Fault)>>,
    sabotage: Option<Sabotage>,
    tampering: Tampering,
    pub ledger: Ledger,
    report: Arc<Report>,
}

/// What a saboteur remembers.
#[derive(Default)]
struct Tampering {
    /// Requests to be repeated, by the token that they serve.
    logins: Mutex<std::collections::HashMap<String, Request<Bytes>>>,
    reads: Mutex<std::collections::HashMap<String, Request<Bytes>>>,
    polls: Mutex<std::collections::HashMap<String, u32>>,
}

/// The proxy.
pub struct Wire {
    pub shared: Arc<Shared>,
    address: SocketAddr,
    serving: Mutex<Option<JoinHandle<()>>>,
    next: Mutex<usize>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Wire {
    pub async fn start(
        upstream: SocketAddr,
        report: Arc<Report>,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
            faults: Mutex::default(),
            sabotage,
            tampering: Tampering::default(),
            ledger: Ledger::default(),
            report,
        });
        Self {
            address,
            serving: Mutex::new(Some(tokio::spawn(serve(listener, Arc::clone(&shared))))),
            shared,
            next: Mutex::default(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nobody listens, and no connection is left.
    pub fn stop(&self) -> Option<JoinHandle<()>> {
        let serving = self.serving.lock().unwrap().take()?;
        serving.abort();
        Some(serving)
    }

    /// Nobody listens for some time.
    pub async fn vanish(&self, during: Duration) {
        if let Some(serving) = self.stop() {
            // Until it has ended it holds the port.
            let _ = serving.await;
        }
        tokio::time::sleep(during).await;
        let listener = TcpListener::bind(self.address).await.expect("its port");
        let serving = tokio::spawn(serve(listener, Arc::clone(&self.shared)));
        *self.serving.lock().unwrap() = Some(serving);
    }

    /// Requests meet this from now on; [`Self::relieve`] takes what this gives.
    pub fn inflict(&self, fault: Fault) -> usize {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        self.shared.faults.lock().unwrap().push((*next, fault));
        *next
    }

    pub fn relieve(&self, inflicted: usize) {
        let mut faults = self.shared.faults.lock().unwrap();
        faults.retain(|(number, _)| *number != inflicted);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(connection);
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Reply> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(head, body);
    let asked = Asked::new(&request);
    if let Some(made_up) = shared.tampered(&asked) {
        return Ok(made_up);
    }
    let (number, wrong) = {
        let faults = shared.faults.lock().unwrap();
        let struck = faults.iter().find(|(_, fault)| fault.strikes(&asked));
        struck
            .map(|(number, fault)| (*number, fault.wrong.clone()))
            .unzip()
    };
    let duration = match &wrong {
        Some(Wrong::Duration(duration)) => Some(*duration),
        _ => None,
    };
    match wrong {
        Some(Wrong::Status(code, text, wait)) => return Ok(status(code, text, wait)),
        Some(Wrong::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Wrong::Hang) => std::future::pending().await,
        Some(Wrong::HangForNow) => {
            while shared.is_on(number) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Wrong::Slow(later)) => tokio::time::sleep(later).await,
        _ => {}
    }
    // In a task of its own: the server's work goes on when the daemon has gone away, and is booked.
    let work = Arc::clone(&shared).work(asked.clone(), request, duration);
    let (reply, told) = tokio::spawn(work).await.map_err(io::Error::other)??;
    match wrong {
        Some(Wrong::LostAnswer(code)) => return Ok(status(code, "", None)),
        Some(Wrong::ResetAfterWork) => return Err(io::ErrorKind::ConnectionReset.into()),
        _ => {}
    }
    if asked.logs_in() {
        shared.ledger.delivered(&told);
    }
    Ok(reply)
}

impl Shared {
    fn is_on(&self, inflicted: Option<usize>) -> bool {
        let faults = self.faults.lock().unwrap();
        faults.iter().any(|(number, _)| Some(*number) == inflicted)
    }

    /// Passes a request on and books what it was.
    async fn work(
        self: Arc<Self>,
        asked: Asked,
        request: Request<Bytes>,
        duration: Option<&'static str>,
    ) -> io::Result<(Reply, Value)> {
        let sent = Instant::now();
        let reply = self.pass(request.clone()).await?;
        if !reply.status().is_success() {
            return Ok((reply, Value::Null));
        }
        if asked.path == "auth/token/revoke-self" {
            self.told_early(self.ledger.revoked(&asked.token));
            return Ok((reply, Value::Null));
        }
        if asked.path == "sys/leases/revoke" {
            self.told_early(self.ledger.lease_revoked(&asked.lease));
            return Ok((reply, Value::Null));
        }
        if !(asked.renews() || asked.logs_in() || asked.issues() || asked.polls()) {
            return Ok((reply, Value::Null));
        }
        let (head, body) = reply.into_parts();
        let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let mut told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let absurd = duration.is_some();
        if asked.renews() {
            self.ledger.renewed(&asked.lease, &told, sent, absurd);
        } else if asked.logs_in() {
            self.ledger.login(&asked.bearer, &told, absurd);
        } else {
            self.ledger
                .issued(&asked.token, &asked.backend, &told, sent, absurd);
        }
        if self.sabotage.is_some() {
            self.repeat(&asked, &request, &told).await;
        }
        let mut reply = Response::from_parts(head, Full::default());
        if let Some(duration) = duration {
            let duration: Value = serde_json::from_str(duration).unwrap();
            let place = if asked.logs_in() {
                &mut told["auth"]["lease_duration"]
            } else {
                &mut told["lease_duration"]
            };
            *place = duration;
            body = Bytes::from(told.to_string());
            reply.headers_mut().remove(CONTENT_LENGTH);
        }
        *reply.body_mut() = Full::new(body);
        Ok((reply, told))
    }

    fn told_early(&self, early: Option<(u64, String)>) {
        if let Some((pod, lease)) = early {
            self.report.violation(Violation::RevokedEarly, || {
                format!("pod-{pod} shows {lease}")
            });
        }
    }

    async fn pass(&self, request: Request<Bytes>) -> io::Result<Reply> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("http://{}{path}", self.upstream).parse().unwrap();
        let request = Request::from_parts(head, Full::new(body));
        let reply = self
            .client
            .request(request)
            .await
            .map_err(io::Error::other)?;
        let (head, body) = reply.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// What a saboteur answers by itself.
    fn tampered(&self, asked: &Asked) -> Option<Reply> {
        match self.sabotage? {
            Sabotage::RenewsNothing if asked.renews() => {
                let reply =
                    json!({ "lease_id": asked.lease, "renewable": true, "lease_duration": 3600 });
                let mut reply = Response::new(Full::new(Bytes::from(reply.to_string())));
                let json = "application/json".parse().unwrap();
                reply.headers_mut().insert("Content-Type", json);
                Some(reply)
            }
            Sabotage::RevokesNothing
                if asked.path == "auth/token/revoke-self" || asked.path == "sys/leases/revoke" =>
            {
                Some(status(204, "", None))
            }
            _ => None,
        }
    }

    /// What a saboteur asks for besides.
    async fn repeat(&self, asked: &Asked, request: &Request<Bytes>, told: &Value) {
        let tampering = &self.tampering;
        if asked.logs_in() {
            let token = told["auth"]["client_token"].as_str().unwrap_or_default();
            let mut logins = tampering.logins.lock().unwrap();
            logins.insert(token.to_owned(), request.clone());
        }
        if LEASED.contains(&asked.backend.as_str()) && asked.issues() {
            let mut reads = tampering.reads.lock().unwrap();
            reads.insert(asked.token.clone(), request.clone());
        }
        if !asked.polls() {
            return;
        }
        let polls = {
            let mut polls = tampering.polls.lock().unwrap();
            let polls = polls.entry(asked.token.clone()).or_default();
            *polls += 1;
            *polls
        };
        let again = match self.sabotage {
            Some(Sabotage::LogsInAtEachPoll) => {
                tampering.logins.lock().unwrap().get(&asked.token).cloned()
            }
            Some(Sabotage::ReissuesAtEachPoll) => {
                tampering.reads.lock().unwrap().get(&asked.token).cloned()
            }
            Some(Sabotage::RevokesTooEarly) if polls == 4 => {
                let mut revocation = request.clone();
                *revocation.method_mut() = Method::POST;
                *revocation.uri_mut() = "/v1/auth/token/revoke-self".parse().unwrap();
                Some(revocation)
            }
            _ => None,
        };
        let Some(again) = again else { return };
        let asked = Asked::new(&again);
        let sent = Instant::now();
        let Ok(reply) = self.pass(again).await else {
            return;
        };
        let Ok(body) = reply.into_body().collect().await;
        let told: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        if asked.logs_in() {
            self.ledger.login(&asked.bearer, &told, false);
        } else if asked.issues() {
            self.ledger
                .issued(&asked.token, &asked.backend, &told, sent, false);
        }
    }
}

fn status(code: u16, text: &str, wait: Option<u64>) -> Reply {
    let body = match text {
        "" => String::new(),
        page if page.starts_with('<') => page.to_owned(),
        error => format!("{}\n", json!({ "errors": [error] })),
    };
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap();
    if let Some(wait) = wait {
        let name = HeaderName::from_static("retry-after");
        reply.headers_mut().insert(name, wait.into());
    }
    reply
}
