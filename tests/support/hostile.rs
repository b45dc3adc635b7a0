//! A server that answers each request as a script says: it stands before a `dev-vault`, or is a tenant's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    pub method: String,
    /// Below `/v1/`.
    pub path: String,
    pub namespace: String,
    pub body: Value,
}

impl Asked {
    /// The lease that it is about; empty for any other request.
    pub fn lease(&self) -> &str {
        self.body["lease_id"].as_str().unwrap_or_default()
    }

    /// Whether it is a renewal of a lease whose id begins so.
    pub fn renews(&self, prefix: &str) -> bool {
        self.path == "sys/leases/renew" && self.lease().starts_with(prefix)
    }

    /// The role of a login.
    pub fn role(&self) -> &str {
        self.body["role"].as_str().unwrap_or_default()
    }
}

/// What becomes of a request.
pub enum Reply {
    /// The server behind answers.
    Pass,
    /// Nothing answers.
    Hang,
    /// This status, these headers, this body.
    Answer(u16, Vec<(&'static str, String)>, Bytes),
    /// A reply of 200 that never ends: this piece, again and again, after each pause.
    Endless(Bytes, Duration),
}

impl Reply {
    pub fn json(body: &Value) -> Self {
        Self::Answer(200, Vec::new(), Bytes::from(body.to_string()))
    }

    /// An error as Vault writes it.
    pub fn error(status: u16, text: &str) -> Self {
        let body = json!({ "errors": [text] }).to_string();
        Self::Answer(status, Vec::new(), Bytes::from(body))
    }

    /// A page of something that stands before the server.
    pub fn page(status: u16) -> Self {
        let page =
            format!("<html><head><title>{status}</title></head><body>{status}</body></html>");
        let headers = vec![("content-type", "text/html".to_owned())];
        Self::Answer(status, headers, Bytes::from(page))
    }

    /// A login that succeeds, with this token and this `lease_duration`.
    pub fn login(token: &str, lease_duration: &Value) -> Self {
        Self::json(&json!({ "auth": {
            "client_token": token, "accessor": format!("of-{token}"), "policies": ["default"],
            "token_policies": ["default"], "metadata": null, "lease_duration": lease_duration,
            "renewable": true, "entity_id": "", "token_type": "service", "orphan": true,
        } }))
    }
}

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    behind: Arc<Mutex<Option<SocketAddr>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The server; it ends when this is dropped, with all its connections.
pub struct Hostile {
    pub url: String,
    shared: Shared,
    serving: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Hostile {
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared {
            script: Arc::new(Mutex::new(Arc::new(script))),
            behind: Arc::default(),
            asked: Arc::default(),
            connections: Arc::default(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self {
            url,
            shared,
            serving,
        }
    }

    /// Puts it before a server.
    pub fn before(&self, server: &str) {
        let address = server.trim_start_matches("http://").parse().unwrap();
        *self.shared.behind.lock().unwrap() = Some(address);
    }

    /// Another script from now on.
    pub fn script(&self, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// The requests that fit, so far.
    pub fn asked(&self, fits: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|asked| fits(asked)).cloned().collect()
    }

    /// The connections that it has had.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        let service = service_fn(move |request| answer(shared.clone(), request));
        let builder = hyper::server::conn::http1::Builder::new();
        connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(shared: Shared, request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let path = head.uri.path();
    let asked = Asked {
        at: Instant::now(),
        method: head.method.to_string(),
        path: path.strip_prefix("/v1/").unwrap_or(path).to_owned(),
        namespace: header("x-vault-namespace"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let script = Arc::clone(&shared.script.lock().unwrap());
    let reply = script(&asked);
    shared.asked.lock().unwrap().push(asked);
    match reply {
        Reply::Hang => std::future::pending().await,
        Reply::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(whole(body)).unwrap())
        }
        Reply::Endless(piece, pause) => {
            let pieces = stream::unfold(piece, move |piece| async move {
                tokio::time::sleep(pause).await;
                Some((Ok(Frame::data(piece.clone())), piece))
            });
            Ok(Response::new(BodyExt::boxed_unsync(StreamBody::new(
                pieces,
            ))))
        }
        Reply::Pass => {
            let behind = shared.behind.lock().unwrap().expect("a server behind");
            let path = head.uri.path_and_query().unwrap().as_str();
            head.uri = format!("http://{behind}{path}").parse().unwrap();
            let passed = Request::from_parts(head, Full::new(body));
            let Ok(response) = shared.client.request(passed).await else {
                return Ok(Response::builder()
                    .status(502)
                    .body(whole(Bytes::new()))
                    .unwrap());
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, whole(body)))
        }
    }
}

fn whole(body: Bytes) -> Body {
    Full::new(body).boxed_unsync()
}

/// A listener whose every connection a function serves, byte by byte.
pub struct Raw {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Raw {
    pub async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> S + Send + 'static,
        S: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let had = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&had);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                // It fails where the client goes away, which is what is wanted of it.
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            connections: had,
            serving,
        }
    }

    /// The connections that it has had.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
