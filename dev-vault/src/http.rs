//! One request: taken apart, struck by a fault or not, answered, and counted.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::http::{HeaderMap, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Request};
use crate::auth::{self, Review};
use crate::core::{Core, Step};
use crate::faults::{Action, Faults};
use crate::server::Call;

/// What every connection shares with the server's owner.
pub struct Shared {
    pub core: Mutex<Core>,
    pub calls: Mutex<Vec<Call>>,
    pub faults: Faults,
    /// Asks API servers about tokens.
    reviewer: Client<HttpConnector, Full<Bytes>>,
}

impl Shared {
    pub fn new(core: Core) -> Self {
        Self {
            core: Mutex::new(core),
            calls: Mutex::new(Vec::new()),
            faults: Faults::default(),
            reviewer: Client::builder(TokioExecutor::new()).build_http(),
        }
    }
}

/// A lock is held for the time of a computation, never across an await. What a panicking test has left
/// behind is still worth looking at.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a request: an answer, or a connection that breaks.
type Served = Result<Response<Full<Bytes>>, io::Error>;

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "broken on demand")
}

/// Answers one request.
pub async fn serve(shared: Arc<Shared>, request: ::http::Request<Incoming>) -> Served {
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
        wrap_ttl: header(&parts.headers, "x-vault-wrap-ttl"),
        content_type: parts
            .headers
            .get(::http::header::CONTENT_TYPE)
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
            auth::reviewed(&mut lock(&shared.core), *review, status.as_ref())
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
    let request = ::http::Request::post(&review.url)
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
    let kind = answer
        .file
        .as_ref()
        .map_or("application/json", |(kind, _)| kind);
    let named = |name: &str| {
        answer
            .headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    let mut response = Response::builder()
        .status(answer.status)
        .header("Cache-Control", "no-store");
    if !named("Content-Type") {
        response = response.header("Content-Type", kind);
    }
    if !request.namespace.is_empty() {
        response = response.header("X-Vault-Namespace", &request.namespace);
    }
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    if let Some((_, bytes)) = answer.file {
        let body = Full::new(Bytes::from(bytes));
        return response.body(body).map_err(io::Error::other);
    }
    let body = match answer.body {
        // A text that is no JSON is sent as it is: it plays what is no Vault.
        Some(Value::String(text)) => text,
        // Go's encoder ends with a newline.
        Some(body) => format!("{body}\n"),
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
