//! Against a small stand-in for the API server: one Secret, and what may be done with it.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::keeper::ENTRY;
use super::*;

const NAME: &str = "vault-csi-provider-hmac-key";

#[derive(Default)]
struct Cluster {
    /// The Secret's data, if it exists.
    data: Mutex<Option<Value>>,
    /// Verbs that RBAC refuses.
    refused: Vec<&'static str>,
    asked: Mutex<Vec<String>>,
}

impl Cluster {
    fn object(data: &Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": NAME, "namespace": "kube-system", "resourceVersion": "7" },
            "data": data,
        })
    }

    fn status(code: u16, reason: &str) -> (u16, Value) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": reason, "reason": reason, "code": code,
        });
        (code, status)
    }

    /// What the API server answers.
    fn answer(&self, method: &Method, uri: &str, body: &[u8]) -> (u16, Value) {
        let named = uri
            .split('?')
            .next()
            .is_some_and(|path| path.ends_with(NAME));
        let verb = match (method, named) {
            (&Method::GET, true) => "get",
            (&Method::GET, false) => "list or watch",
            (&Method::POST, _) => "create",
            _ => "update",
        };
        let version = match uri.contains("resourceVersion=0") {
            true => " any",
            false => "",
        };
        self.asked.lock().unwrap().push(format!("{verb}{version}"));
        if self.refused.contains(&verb) {
            return Self::status(403, "Forbidden");
        }
        let mut data = self.data.lock().unwrap();
        let sent = || serde_json::from_slice::<Value>(body).unwrap()["data"].clone();
        match verb {
            "get" => match data.as_ref() {
                Some(data) => (200, Self::object(data)),
                None => Self::status(404, "NotFound"),
            },
            "create" if data.is_some() => Self::status(409, "AlreadyExists"),
            _ => {
                let written = data.insert(sent());
                (200, Self::object(written))
            }
        }
    }

    async fn serve(self) -> (Arc<Self>, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Arc::new(self);
        let served = Arc::clone(&cluster);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let cluster = Arc::clone(&served);
                let service = service_fn(move |request: Request<Incoming>| {
                    let cluster = Arc::clone(&cluster);
                    async move {
                        let (method, uri) = (request.method().clone(), request.uri().to_string());
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (code, answer) = cluster.answer(&method, &uri, &body);
                        let mut response =
                            Response::new(Full::new(Bytes::from(answer.to_string())));
                        *response.status_mut() = code.try_into().unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_namespace = "kube-system".to_owned();
        (cluster, Client::try_from(config).unwrap())
    }
}

/// The key that a daemon comes to use, and the cluster afterwards.
async fn settled(cluster: Cluster) -> (Arc<SecretBytes>, Arc<Cluster>) {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let (cluster, client) = cluster.serve().await;
    let (key, publisher) = VersionKey::shared(Metrics::new());
    tokio::spawn(keep(
        Api::default_namespaced(client),
        NAME.to_owned(),
        publisher,
        Timing::default(),
    ));
    (key.current().await, cluster)
}

fn stored(cluster: &Cluster) -> Option<Vec<u8>> {
    let data = cluster.data.lock().unwrap();
    let entry = data.as_ref()?.get(ENTRY)?.as_str()?.to_owned();
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, entry).ok()
}

#[tokio::test]
async fn the_secrets_key_is_used() {
    let data = json!({ "key": "c2hhcmVk" });
    let cluster = Cluster {
        data: Mutex::new(Some(data)),
        ..Cluster::default()
    };
    let (key, _) = settled(cluster).await;
    assert!(key.expose() == b"shared");
}

#[tokio::test]
async fn an_empty_secret_is_filled() {
    for empty in [json!({}), json!({ "key": "" }), Value::Null] {
        let cluster = Cluster {
            data: Mutex::new(Some(empty)),
            ..Cluster::default()
        };
        let (key, cluster) = settled(cluster).await;
        assert_eq!(key.expose().len(), LENGTH);
        assert!(stored(&cluster).is_some_and(|stored| stored == key.expose()));
    }
}

#[tokio::test]
async fn a_missing_secret_is_made_where_that_is_allowed() {
    let (key, cluster) = settled(Cluster::default()).await;
    assert!(stored(&cluster).is_some_and(|stored| stored == key.expose()));
}

#[tokio::test]
async fn without_the_right_to_make_one_the_process_own_key_serves() {
    let cluster = Cluster {
        refused: vec!["create"],
        ..Cluster::default()
    };
    let (key, cluster) = settled(cluster).await;
    assert_eq!(key.expose().len(), LENGTH);
    assert!(stored(&cluster).is_none());
}

#[tokio::test]
async fn it_is_read_from_the_api_servers_cache_and_from_nowhere_else() {
    let data = json!({ "key": "c2hhcmVk" });
    let cluster = Cluster {
        data: Mutex::new(Some(data)),
        refused: vec!["list or watch", "update", "create"],
        ..Cluster::default()
    };
    let (key, cluster) = settled(cluster).await;
    assert!(key.expose() == b"shared");
    assert_eq!(*cluster.asked.lock().unwrap(), ["get any"]);
}

#[tokio::test]
async fn without_a_cluster_the_process_own_key_serves() {
    let key = VersionKey::own(Metrics::new());
    let (one, two) = (key.current().await, key.current().await);
    assert!(*one == *two && one.expose().len() == LENGTH);
}
