//! One HTTP exchange with the server under test, and what a case may ask of its reply.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A request under construction; `path` is what follows `/v1/`.
pub struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
    token: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>, body: Option<Value>) -> Call {
        Call {
            method,
            path: path.into(),
            body,
            token: None,
            headers: Vec::new(),
        }
    }

    pub fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path, None)
    }

    pub fn post(path: impl Into<String>, body: Value) -> Call {
        Call::new(Method::POST, path, Some(body))
    }

    pub fn put(path: impl Into<String>, body: Value) -> Call {
        Call::new(Method::PUT, path, Some(body))
    }

    pub fn patch(path: impl Into<String>, body: Value) -> Call {
        Call::new(Method::PATCH, path, Some(body))
    }

    pub fn delete(path: impl Into<String>) -> Call {
        Call::new(Method::DELETE, path, None)
    }

    pub fn list(path: impl Into<String>) -> Call {
        let method = Method::from_bytes(b"LIST").expect("LIST is a legal method name");
        Call::new(method, path, None)
    }

    pub fn token(mut self, token: &str) -> Call {
        self.token = Some(token.to_owned());
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }
}

/// A reply: `body` is null where there was none.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
    asked: String,
}

impl Reply {
    /// The value at a JSON pointer; null where there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// Whether the object at a JSON pointer has this key, be its value null.
    pub fn has(&self, pointer: &str, key: &str) -> bool {
        self.at(pointer).get(key).is_some()
    }

    #[track_caller]
    pub fn string(&self, pointer: &str) -> String {
        match self.at(pointer).as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no string at {pointer}: {self}"),
        }
    }

    #[track_caller]
    pub fn seconds(&self, pointer: &str) -> i64 {
        match self.at(pointer).as_i64() {
            Some(number) => number,
            None => panic!("no integer at {pointer}: {self}"),
        }
    }

    /// Passes the reply on when it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "wrong status: {self}");
        self
    }

    /// A value at a JSON pointer is exactly this.
    #[track_caller]
    pub fn is(&self, pointer: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        assert_eq!(self.at(pointer), &wanted, "at {pointer} of {self}");
    }

    /// A text at a JSON pointer that is there and not empty.
    #[track_caller]
    pub fn is_filled(&self, pointer: &str) {
        assert!(
            !self.string(pointer).is_empty(),
            "{pointer} is empty: {self}"
        );
    }

    /// A duration within `low..=high` seconds: both clocks are cut to seconds, so one may be lost.
    #[track_caller]
    pub fn is_within(&self, pointer: &str, low: i64, high: i64) {
        let found = self.seconds(pointer);
        assert!(
            (low..=high).contains(&found),
            "{pointer} is {found}, not within {low}..={high}: {self}"
        );
    }

    /// Exactly this one error and this status.
    #[track_caller]
    pub fn refuses(&self, status: u16, text: &str) {
        assert_eq!(self.status, status, "wrong status: {self}");
        assert_eq!(
            self.body,
            serde_json::json!({ "errors": [text] }),
            "of {self}"
        );
    }

    /// This status and an error that contains the text.
    #[track_caller]
    pub fn refuses_with(&self, status: u16, text: &str) {
        assert_eq!(self.status, status, "wrong status: {self}");
        let errors = self.at("/errors").as_array().cloned().unwrap_or_default();
        assert!(
            errors
                .iter()
                .filter_map(Value::as_str)
                .any(|error| error.contains(text)),
            "no error contains {text:?}: {self}"
        );
    }

    /// A valid token without the policy: the wrapped form, by which a client tells it from a dead token.
    #[track_caller]
    pub fn refuses_for_policy(&self) {
        self.refuses(403, "1 error occurred:\n\t* permission denied\n\n");
    }

    /// Exactly one warning, which contains the text.
    #[track_caller]
    pub fn warns(&self, text: &str) {
        let warnings = self.at("/warnings").as_array().cloned().unwrap_or_default();
        let first = warnings.first().and_then(Value::as_str).unwrap_or_default();
        assert!(
            warnings.len() == 1 && first.contains(text),
            "not the one warning {text:?}: {self}"
        );
    }

    #[track_caller]
    pub fn is_empty(&self) {
        assert!(self.text.is_empty(), "a body where none belongs: {self}");
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {} {}", self.asked, self.status, self.text)
    }
}

/// One connection pool. Made anew for each case: connections belong to a test's runtime.
pub struct Client {
    base: String,
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// `base` is `http://host:port`.
    pub fn new(base: String) -> Client {
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Client { base, http }
    }

    /// The reply, or why there is none.
    pub async fn send(&self, call: Call) -> Result<Reply, String> {
        let asked = format!("{} {}", call.method, call.path);
        let mut request = http::Request::builder()
            .method(call.method)
            .uri(format!("{}/v1/{}", self.base, call.path));
        if let Some(token) = &call.token {
            request = request.header("X-Vault-Token", token);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let body = call
            .body
            .map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request
            .body(Full::new(body))
            .map_err(|error| format!("{asked}: {error}"))?;
        let reply = self
            .http
            .request(request)
            .await
            .map_err(|error| format!("{asked}: {error:?}"))?;
        let (head, body) = reply.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| format!("{asked}: {error}"))?
            .to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
            asked,
        })
    }
}
