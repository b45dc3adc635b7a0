//! A Vault Agent with `cache {}` in miniature: whatever has `auth` or a lease is kept, renewals too, by the whole
//! request with its headers, until its token is revoked through it (`command/agentproxyshared/cache/lease_cache.go`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Method, path, headers and body: what makes two requests equal.
type Key = (String, String, Vec<String>, Bytes);
/// A reply, when it came, and the token it was asked for with.
type Kept = (Bytes, Instant, String);

#[derive(Clone)]
struct Cache {
    server: String,
    client: Client<HttpConnector, Full<Bytes>>,
    known: Arc<Mutex<HashMap<Key, Kept>>>,
}

/// A running one; it ends when dropped.
pub struct Agent {
    pub url: String,
    serving: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Agent {
    /// One before a server.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cache = Cache {
            server: server.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            known: Arc::default(),
        };
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let cache = cache.clone();
                let service = service_fn(move |request| {
                    let cache = cache.clone();
                    async move { Ok::<_, hyper::Error>(cache.answer(request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { url, serving }
    }
}

impl Cache {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path_and_query().unwrap().to_string();
        let token = parts.headers.get("x-vault-token");
        let token = token.map_or("", |token| token.to_str().unwrap()).to_owned();
        let headers = parts.headers.iter();
        let mut headers: Vec<_> = headers
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        headers.sort();
        let key = (
            parts.method.to_string(),
            path.clone(),
            headers,
            body.clone(),
        );
        if let Some((known, since, _)) = self.known.lock().unwrap().get(&key) {
            return Response::builder()
                .header("x-cache", "HIT")
                .header("age", since.elapsed().as_secs())
                .body(Full::new(known.clone()))
                .unwrap();
        }
        parts.uri = format!("{}{path}", self.server).parse().unwrap();
        let asked = Request::from_parts(parts, Full::new(body));
        let (answered, body) = self.client.request(asked).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let reply: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut known = self.known.lock().unwrap();
        let is_leased = reply["lease_id"].as_str().is_some_and(|id| !id.is_empty());
        if answered.status.is_success() && (reply["auth"].is_object() || is_leased) {
            known.insert(key, (body.clone(), Instant::now(), token.clone()));
        }
        if path.ends_with("/revoke-self") {
            known.retain(|_, (reply, _, of)| {
                let text = String::from_utf8_lossy(reply);
                *of != token && !text.contains(&format!("\"{token}\""))
            });
        }
        Response::from_parts(answered, Full::new(body))
    }
}
