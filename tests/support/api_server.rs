//! A Kubernetes API server in miniature: one Secret, the pods of one node, tokens. It keeps resource
//! versions, sends watches what changed since the version they name, and forbids what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The one Secret that there may be.
pub const SECRET: &str = "vault-csi-provider-hmac-key";

#[derive(Default)]
struct Cluster {
    version: u64,
    secret: Option<Value>,
    pods: BTreeMap<String, Value>,
    /// What happened, for watches: resource, version, event.
    log: Vec<(&'static str, u64, Value)>,
    forbidden: Vec<&'static str>,
    /// Answers of this code to everything, as a server that is going away gives them.
    failing: Option<u16>,
    /// Another node's writes, each of which comes just before the next of ours.
    rivals: Vec<Value>,
    calls: Vec<String>,
    /// Watches that began before this version of the world are cut.
    age: u64,
}

/// The server; it ends when dropped.
pub struct ApiServer {
    cluster: Arc<Mutex<Cluster>>,
    changed: watch::Sender<()>,
    address: String,
    serving: JoinHandle<()>,
}

type Shared = (Arc<Mutex<Cluster>>, watch::Sender<()>);

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl ApiServer {
    /// A server that allows everything and holds nothing.
    pub async fn start() -> Self {
        let cluster = Arc::new(Mutex::new(Cluster::default()));
        let (changed, _) = watch::channel(());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared: Shared = (Arc::clone(&cluster), changed.clone());
        let router = Router::new().fallback(answer).with_state(shared);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            cluster,
            changed,
            address,
            serving,
        }
    }

    pub fn client(&self) -> kube::Client {
        let mut config = kube::Config::new(self.address.parse().unwrap());
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Forbids verbs (`get`, `create`, `update`, `list`, `watch`, `token`), of everything or of one
    /// resource (`watch pods`).
    pub fn forbid(&self, verbs: &[&'static str]) {
        self.with(|cluster| cluster.forbidden = verbs.to_vec());
    }

    /// Answers everything with this code, or properly again. Cuts the watches.
    pub fn fail(&self, code: Option<u16>) {
        self.with(|cluster| {
            cluster.failing = code;
            cluster.age += 1;
        });
    }

    /// Puts the Secret there, as another node or a person would; without `data` it is empty.
    pub fn put_secret(&self, data: Option<&str>) {
        self.with(|cluster| cluster.write_secret(secret(data)));
    }

    /// Lets another node write this key just before our next write.
    pub fn rival(&self, key: &str) {
        self.with(|cluster| cluster.rivals.push(secret(Some(key))));
    }

    pub fn delete_secret(&self) {
        self.with(|cluster| {
            let old = cluster.secret.take().unwrap();
            cluster.note("secrets", "DELETED", old);
        });
    }

    /// The Secret's object.
    pub fn secret(&self) -> Option<Value> {
        self.cluster.lock().unwrap().secret.clone()
    }

    /// A pod of the node, with the grace period of its deletion if that has begun.
    pub fn put_pod(&self, uid: &str, grace: Option<u32>) {
        self.with(|cluster| {
            let known = cluster.pods.contains_key(uid);
            let pod = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"name": uid, "namespace": "shop", "uid": uid, "deletionGracePeriodSeconds": grace},
            });
            let pod = cluster.note("pods", if known { "MODIFIED" } else { "ADDED" }, pod);
            cluster.pods.insert(uid.to_owned(), pod);
        });
    }

    /// A pod goes. Unseen, it does so while no watch is told.
    pub fn delete_pod(&self, uid: &str, seen: bool) {
        self.with(|cluster| {
            let pod = cluster.pods.remove(uid).unwrap();
            if seen {
                cluster.note("pods", "DELETED", pod);
            }
        });
    }

    /// Ends every watch with 410: what happened is forgotten, a list must be made anew.
    pub fn expire(&self) {
        self.with(|cluster| {
            let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old"});
            for resource in ["secrets", "pods"] {
                cluster.version += 1;
                let event = json!({"type": "ERROR", "object": gone});
                cluster.log.push((resource, cluster.version, event));
            }
        });
    }

    /// How often a verb was asked for.
    pub fn count(&self, call: &str) -> usize {
        let cluster = self.cluster.lock().unwrap();
        cluster.calls.iter().filter(|made| *made == call).count()
    }

    /// Waits until a verb was asked for so often.
    pub async fn until(&self, call: &str, times: usize) {
        let instead = || format!("{call}: {}", self.count(call));
        super::held::until(|| self.count(call) >= times, instead).await;
    }

    /// The query of the last call of a verb, or its body.
    pub fn details(&self, call: &str) -> String {
        let cluster = self.cluster.lock().unwrap();
        let prefix = format!("{call}: ");
        let found = cluster
            .calls
            .iter()
            .rev()
            .find_map(|made| made.strip_prefix(&prefix));
        found.unwrap_or_default().to_owned()
    }

    fn with(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.lock().unwrap());
        self.changed.send_replace(());
    }
}

impl Cluster {
    fn forbids(&self, verb: &str, resource: &str) -> bool {
        let mut forbidden = self.forbidden.iter();
        forbidden.any(|known| *known == verb || *known == format!("{verb} {resource}"))
    }

    fn note(&mut self, resource: &'static str, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = json!({"type": kind, "object": object});
        self.log.push((resource, self.version, event));
        object
    }

    fn write_secret(&mut self, object: Value) {
        let kind = if self.secret.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.secret = Some(self.note("secrets", kind, object));
    }
}

fn secret(key: Option<&str>) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": "csi"}});
    if let Some(key) = key {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(key);
        object["data"] = json!({"key": text});
    }
    object
}

fn status(code: u16, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": format!("said {reason}")});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn answer(
    State((cluster, changed)): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path();
    let last = path.rsplit('/').next().unwrap_or_default();
    let resource = if path.ends_with("/selfsubjectaccessreviews") {
        "reviews"
    } else if path.contains("/events.k8s.io/") {
        "events"
    } else if path.contains("/pods") {
        "pods"
    } else {
        "secrets"
    };
    let verb = match parts.method {
        Method::GET if query.contains_key("watch") => "watch",
        Method::GET if last == resource => "list",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        _ if last == "token" => "token",
        _ => "create",
    };
    let mut state = cluster.lock().unwrap();
    state.calls.push(format!("{verb} {resource}"));
    let accept = parts
        .headers
        .get("accept")
        .map(|accept| accept.to_str().unwrap());
    let details = match verb {
        "list" | "watch" => format!(
            "{} {} resourceVersion={}",
            query.get("fieldSelector").map_or("", String::as_str),
            accept.unwrap_or_default(),
            query.get("resourceVersion").map_or("", String::as_str),
        ),
        _ => format!("{path} {}", String::from_utf8_lossy(&body)),
    };
    state.calls.push(format!("{verb} {resource}: {details}"));
    if let Some(code) = state.failing {
        return status(code, "Failing");
    }
    if resource == "reviews" {
        return review(&state, &body);
    }
    if state.forbids(verb, resource) {
        return status(403, "Forbidden");
    }
    match verb {
        "watch" => {
            let since = query
                .get("resourceVersion")
                .and_then(|text| text.parse().ok());
            let age = state.age;
            drop(state);
            stream(
                cluster,
                changed.subscribe(),
                resource,
                since.unwrap_or(0),
                age,
            )
        }
        "list" => {
            let (kind, group, items) = match resource {
                "pods" => (
                    "PartialObjectMetadataList",
                    "meta.k8s.io/v1",
                    state.pods.values().collect(),
                ),
                _ => ("SecretList", "v1", state.secret.iter().collect::<Vec<_>>()),
            };
            let version = state.version.to_string();
            Json(json!({"kind": kind, "apiVersion": group, "metadata": {"resourceVersion": version}, "items": items})).into_response()
        }
        "get" => state.secret.clone().map_or_else(
            || status(404, "NotFound"),
            |object| Json(object).into_response(),
        ),
        "token" => token(&body),
        _ if resource == "events" => {
            let event: Value = serde_json::from_slice(&body).unwrap();
            (StatusCode::CREATED, Json(event)).into_response()
        }
        _ => {
            let answer = write(&mut state, verb, &body);
            drop(state);
            changed.send_replace(());
            answer
        }
    }
}

/// Whether the asker may do what he asks about.
fn review(state: &Cluster, body: &Bytes) -> Response {
    let mut review: Value = serde_json::from_slice(body).unwrap();
    let asked = &review["spec"]["resourceAttributes"];
    let text = |name: &str| asked[name].as_str().unwrap_or_default();
    let (verb, resource) = (text("verb"), text("resource"));
    review["status"] = json!({"allowed": !state.forbids(verb, resource)});
    (StatusCode::CREATED, Json(review)).into_response()
}

fn write(state: &mut Cluster, verb: &str, body: &Bytes) -> Response {
    if let Some(rival) = state.rivals.pop() {
        state.write_secret(rival);
    }
    let object: Value = serde_json::from_slice(body).unwrap();
    let known = state
        .secret
        .as_ref()
        .map(|known| &known["metadata"]["resourceVersion"]);
    match known {
        Some(_) if verb == "create" => return status(409, "AlreadyExists"),
        None if verb == "update" => return status(404, "NotFound"),
        Some(known) if *known != object["metadata"]["resourceVersion"] => {
            return status(409, "Conflict");
        }
        _ => {}
    }
    state.write_secret(object);
    Json(state.secret.clone()).into_response()
}

fn token(body: &Bytes) -> Response {
    let mut request: Value = serde_json::from_slice(body).unwrap();
    request["status"] = json!({"token": "minted", "expirationTimestamp": "2030-01-01T00:00:00Z"});
    (StatusCode::CREATED, Json(request)).into_response()
}

fn stream(
    cluster: Arc<Mutex<Cluster>>,
    changed: watch::Receiver<()>,
    resource: &'static str,
    since: u64,
    age: u64,
) -> Response {
    let lines = futures::stream::unfold((changed, since), move |(mut changed, mut since)| {
        let cluster = Arc::clone(&cluster);
        async move {
            loop {
                let next = {
                    let state = cluster.lock().unwrap();
                    if state.age != age {
                        return None;
                    }
                    let mut news = state.log.iter();
                    let next = news.find(|(of, version, _)| *of == resource && *version > since);
                    next.map(|(_, version, event)| (*version, format!("{event}\n")))
                };
                if let Some((version, line)) = next {
                    since = version;
                    return Some((Ok::<_, std::io::Error>(line), (changed, since)));
                }
                // A change between the look and the wait is not lost; the timeout is for the server's end.
                let _ = tokio::time::timeout(Duration::from_secs(60), changed.changed()).await;
            }
        }
    });
    Body::from_stream(lines).into_response()
}
