//! The health server: `/health/live`, `/health/ready`, `/metrics`.
//!
//! It has a thread and a runtime of its own, so that it answers, and can say what is wrong, while all threads of the
//! daemon's runtime are blocked or a large journal is replayed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::liveness::Watchdog;
use crate::metrics::Metrics;
use crate::supervisor::{Until, restarted};

/// A client that has not sent its request's head by then is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// What [`Metrics::encode`] writes. Prometheus 3 refuses a scrape that does not name its format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// Connections at once; a node's probes and scrapers need a handful.
const CONNECTIONS: usize = 64;

/// What must be done before the daemon is ready. Ready once nothing is left.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

/// Holds readiness back until it is dropped.
pub struct Pending {
    readiness: Readiness,
    what: &'static str,
}

impl Readiness {
    /// Not ready before `what` is done, which dropping the answer says.
    #[must_use]
    pub fn pending(&self, what: &'static str) -> Pending {
        self.lock().insert(what);
        Pending {
            readiness: self.clone(),
            what,
        }
    }

    /// What is still to be done.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.readiness.lock().remove(self.what);
    }
}

/// What the health server answers by.
#[derive(Clone)]
pub struct Health {
    /// What is still to be done.
    pub readiness: Readiness,
    /// What makes progress.
    pub watchdog: Watchdog,
    /// What is counted.
    pub metrics: Metrics,
}

/// The running health server; it ends when dropped.
pub struct Server {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    /// Serves a listener from a thread of its own, which also looks after the watchdog's parts.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(listener: TcpListener, health: Health) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let listener = listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let listener = {
            let _entered = runtime.enter();
            Arc::new(TcpListener::from_std(listener)?)
        };
        let run = async move {
            let metrics = &health.metrics;
            let serve = || serve(&listener, &health);
            let watch = || health.watchdog.clone().run();
            tokio::select! {
                () = stopped.cancelled_owned() => {}
                () = restarted("health-server", metrics, serve, Until::Dropped) => {}
                () = restarted("watchdog", metrics, watch, Until::Dropped) => {}
            }
        };
        std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || runtime.block_on(run))?;
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until it is dropped.
async fn serve(listener: &TcpListener, health: &Health) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: a pause instead of a hot loop.
                debug!(%error, "a health connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let health = health.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%error, "a health connection broke");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let metrics = &health.metrics;
    let mut format = TEXT;
    let (status, body) = if request.method() != Method::GET && request.method() != Method::HEAD {
        (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned())
    } else {
        match request.uri().path() {
            "/health/live" => match health.watchdog.stalled().as_slice() {
                [] => (StatusCode::OK, "live\n".to_owned()),
                stalled => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("stalled: {}\n", stalled.join(", ")),
                ),
            },
            "/health/ready" => match health.readiness.missing().as_slice() {
                [] => (StatusCode::OK, ready(request.uri().query(), metrics)),
                missing => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("waiting for: {}\n", missing.join(", ")),
                ),
            },
            "/metrics" => {
                format = OPENMETRICS;
                (StatusCode::OK, metrics.encode())
            }
            _ => (
                StatusCode::NOT_FOUND,
                "/health/live, /health/ready, /metrics\n".to_owned(),
            ),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    response
}

/// What a ready daemon says; asked verbosely, also what it does without.
fn ready(query: Option<&str>, metrics: &Metrics) -> String {
    let verbose = query.is_some_and(|query| query.split('&').any(|name| name == "verbose"));
    let mut text = "ready\n".to_owned();
    for reason in metrics.degradations().iter().filter(|_| verbose) {
        text.push_str("degraded: ");
        text.push_str(reason);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::liveness::OnStall;

    async fn get(address: std::net::SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_only_when_nothing_is_pending() {
        let metrics = Metrics::new();
        let (server, health) = server(&metrics).await;
        let address = server.address();
        let socket = health.readiness.pending("socket");
        metrics.degraded("no_journal", true);
        let answer = get(address, "GET /health/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("waiting for: socket\n"), "{answer}");
        drop(socket);
        let answer = get(address, "GET /health/ready").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\nready\n"), "{answer}");
        let answer = get(address, "GET /health/ready?verbose").await;
        assert!(
            answer.ends_with("ready\ndegraded: no_journal\n"),
            "{answer}"
        );
        metrics.degraded("no_journal", false);
        let answer = get(address, "GET /health/ready?verbose").await;
        assert!(answer.ends_with("\r\nready\n"), "{answer}");
        assert!(get(address, "GET /health/live").await.contains("200 OK"));
        let scrape = get(address, "GET /metrics").await;
        assert!(scrape.contains("leasehold_volumes"), "{scrape}");
        assert!(
            scrape.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{scrape}"
        );
        assert!(get(address, "GET /x").await.contains("404"));
        assert!(get(address, "POST /metrics").await.contains("405"));
    }

    async fn server(metrics: &Metrics) -> (Server, Health) {
        let health = Health {
            readiness: Readiness::default(),
            watchdog: Watchdog::new(metrics.clone()),
            metrics: metrics.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, health.clone()).unwrap();
        (server, health)
    }

    #[test]
    fn it_answers_and_names_what_stalls_while_the_runtime_is_blocked() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (server, health) = runtime.block_on(server(&Metrics::new()));
        health
            .watchdog
            .add("runtime", Duration::ZERO, OnStall::Restart, || Some(0));
        // The daemon's runtime does not run here at all: another one asks.
        let live = || {
            let asking = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            asking.block_on(get(server.address(), "GET /health/live"))
        };
        assert!(live().starts_with("HTTP/1.1 200"));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let told = loop {
            let told = live();
            if told.starts_with("HTTP/1.1 503") {
                break told;
            }
            assert!(std::time::Instant::now() < deadline, "{told}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(told.contains("stalled: runtime (for "), "{told}");
    }
}
