//! Requests as the core sees them, and its answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::leases::Lease;
use crate::text;

/// A request, taken apart.
#[derive(Clone, Default)]
pub struct Request {
    pub method: String,
    /// Below `/v1/`, decoded.
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub body: Map<String, Value>,
    pub token: String,
    /// As it was sent; without slashes around it once the core has found it, and empty for the root.
    pub namespace: String,
    /// `X-Vault-Wrap-TTL`, as it was sent.
    pub wrap_ttl: String,
    pub content_type: Option<String>,
}

impl Request {
    /// The parameters of its body.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.body)
    }

    pub fn text(&self, name: &str) -> &str {
        self.fields().text(name)
    }

    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.fields().duration(name)
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.fields().flag(name)
    }

    /// Its path with its namespace: mounts are kept under such paths.
    pub fn full_path(&self) -> String {
        joined(&self.namespace, &self.path)
    }

    /// Whether it lists: by method, or by `?list=true`.
    pub fn lists(&self) -> bool {
        self.method == "LIST"
            || (self.method == "GET" && self.query.get("list").is_some_and(|list| list == "true"))
    }

    pub fn reads(&self) -> bool {
        self.method == "GET" && !self.lists()
    }

    /// PUT equals POST.
    pub fn writes(&self) -> bool {
        matches!(self.method.as_str(), "POST" | "PUT")
    }

    pub fn deletes(&self) -> bool {
        self.method == "DELETE"
    }
}

/// A path below a namespace; the root namespace has the empty name.
pub fn joined(namespace: &str, path: &str) -> String {
    if namespace.is_empty() {
        path.to_owned()
    } else {
        format!("{namespace}/{path}")
    }
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Option<Value>,
    /// In place of a body: bytes of a media type of their own.
    pub file: Option<(&'static str, Vec<u8>)>,
}

impl Answer {
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
            file: None,
        }
    }

    pub fn no_content() -> Self {
        Self::empty(204)
    }

    pub fn raw(status: u16, body: Value) -> Self {
        Self {
            body: Some(body),
            ..Self::empty(status)
        }
    }

    /// Bytes that are no JSON, with their media type.
    pub fn file(kind: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            file: Some((kind, bytes.into())),
            ..Self::empty(200)
        }
    }

    /// `{"errors": […]}` with the text as it is.
    pub fn error(status: u16, text: impl Into<String>) -> Self {
        Self::raw(status, json!({ "errors": [text.into()] }))
    }

    /// A bare error on an authenticated route comes wrapped.
    pub fn wrapped_error(status: u16, text: &str) -> Self {
        Self::error(status, format!("1 error occurred:\n\t* {text}\n\n"))
    }

    pub fn denied() -> Self {
        Self::error(403, "permission denied")
    }

    pub fn not_found() -> Self {
        Self::raw(404, json!({ "errors": [] }))
    }

    pub fn unsupported() -> Self {
        Self::wrapped_error(405, "unsupported operation")
    }

    /// The success envelope, with all of its fields (OpenBao `sdk/logical/translate_response.go`).
    pub fn envelope() -> Map<String, Value> {
        let Value::Object(envelope) = json!({
            "request_id": text::uuid(),
            "lease_id": "",
            "renewable": false,
            "lease_duration": 0,
            "data": null,
            "wrap_info": null,
            "warnings": null,
            "auth": null,
        }) else {
            return Map::new();
        };
        envelope
    }

    /// Nothing is mounted there.
    pub fn no_route(path: &str) -> Self {
        Self::error(
            404,
            format!("no handler for route \"{path}\". route entry not found."),
        )
    }

    /// The reply that gives or renews a lease.
    pub fn lease(lease: &Lease, now: Duration, data: Value) -> Self {
        Self::with(&[
            ("lease_id", json!(lease.id)),
            ("renewable", json!(lease.renewable)),
            ("lease_duration", json!(lease.duration(now))),
            ("data", data),
        ])
    }

    pub fn data(data: Value) -> Self {
        Self::with(&[("data", data)])
    }

    /// An envelope with some fields set.
    pub fn with(fields: &[(&str, Value)]) -> Self {
        let mut envelope = Self::envelope();
        for (name, value) in fields {
            envelope.insert((*name).to_owned(), value.clone());
        }
        Self::raw(200, Value::Object(envelope))
    }

    pub fn set(mut self, name: &str, value: Value) -> Self {
        if let Some(Value::Object(envelope)) = &mut self.body {
            envelope.insert(name.to_owned(), value);
        }
        self
    }

    pub fn warn(self, warnings: Vec<String>) -> Self {
        if warnings.is_empty() {
            self
        } else {
            self.set("warnings", json!(warnings))
        }
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}
