//! A server's administrator: sets it up through Vault's own HTTP API, and asks it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// A real server outside of a pod wants a CA, though plain HTTP has no use for it.
fn ca_certificate() -> String {
    let names = vec!["kubernetes".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    made.cert.pem()
}

/// Somebody with a token.
#[derive(Clone)]
pub struct Admin {
    url: String,
    token: String,
    namespace: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Admin {
    pub fn new(url: &str, token: &str) -> Self {
        Self::trusting(url, token, "")
    }

    /// One who trusts a CA (PEM).
    pub fn trusting(url: &str, token: &str, ca: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a CA");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .build();
        Self {
            url: url.to_owned(),
            token: token.to_owned(),
            namespace: String::new(),
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// Somebody else, over the same connections.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The same one in a namespace, which is made with all above it.
    pub async fn in_namespace(&self, namespace: &str) -> Self {
        let mut inner = self.clone();
        for name in namespace.split('/') {
            inner
                .write(&format!("sys/namespaces/{name}"), json!({}))
                .await;
            let above = match inner.namespace.as_str() {
                "" => String::new(),
                above => format!("{above}/"),
            };
            inner.namespace = format!("{above}{name}");
        }
        inner
    }

    /// Calls, and gives status and body.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let sent = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.url))
            .header("X-Vault-Token", &self.token)
            .header("X-Vault-Namespace", &self.namespace)
            .header("Content-Type", "application/json")
            .body(Full::new(sent))
            .expect("a request");
        let response = self
            .client
            .request(request)
            .await
            .expect("the server answers");
        let status = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    /// A write that must succeed.
    pub async fn write(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, &body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// A kubernetes auth mount with a role `app` for `shop/web`.
    pub async fn kubernetes(&self, mount: &str, host: &str, role: Value) {
        self.write(
            &format!("sys/auth/{mount}"),
            json!({ "type": "kubernetes" }),
        )
        .await;
        let config = json!({
            "kubernetes_host": host,
            "kubernetes_ca_cert": ca_certificate(),
            "disable_local_ca_jwt": true,
            "token_reviewer_jwt": "reviewer",
        });
        self.write(&format!("auth/{mount}/config"), config).await;
        self.role(mount, "app", role).await;
    }

    /// A role for `shop/web`; `more` adds to it.
    pub async fn role(&self, mount: &str, name: &str, more: Value) {
        let mut role = json!({
            "bound_service_account_names": ["web"],
            "bound_service_account_namespaces": ["shop"],
            "token_policies": ["app"],
            "token_ttl": "1h",
        });
        let map = role.as_object_mut().expect("a map");
        map.extend(more.as_object().cloned().unwrap_or_default());
        self.write(&format!("auth/{mount}/role/{name}"), role).await;
    }

    /// A policy.
    pub async fn policy(&self, name: &str, hcl: &str) {
        self.write(
            &format!("sys/policies/acl/{name}"),
            json!({ "policy": hcl }),
        )
        .await;
    }

    /// An engine.
    pub async fn engine(&self, path: &str, kind: &str, version: &str) {
        let body = json!({ "type": kind, "options": { "version": version } });
        self.write(&format!("sys/mounts/{path}"), body).await;
    }

    /// The engines of the examples: KV 2 at `secret`, KV 1 at `kv`, `database` with the role `app`, `pki`
    /// with the role `web`; a policy `app` that may read them; kubernetes auth.
    pub async fn shop(&self, host: &str, database: Value, certificate_ttl: &str, role: Value) {
        self.engine("secret", "kv", "2").await;
        let app = json!({ "data": { "api-key": "k3y", "greeting": "<hello> & goodbye" } });
        self.write("secret/data/app", app).await;
        self.engine("kv", "kv", "1").await;
        self.write(
            "kv/app",
            json!({ "password": "p4ss", "binary": "AAEC/w==" }),
        )
        .await;
        self.engine("database", "database", "").await;
        self.write("database/config/db", json!({ "allowed_roles": "*" }))
            .await;
        let mut creds = json!({ "db_name": "db", "default_ttl": "1h", "max_ttl": "24h" });
        let map = creds.as_object_mut().expect("a map");
        map.extend(database.as_object().cloned().unwrap_or_default());
        self.write("database/roles/app", creds).await;
        self.certificates(certificate_ttl).await;
        self.policy(
            "app",
            r#"
            path "secret/data/*" { capabilities = ["read"] }
            path "kv/*" { capabilities = ["read"] }
            path "database/creds/*" { capabilities = ["read"] }
            path "pki/issue/*" { capabilities = ["update"] }
            "#,
        )
        .await;
        self.kubernetes("kubernetes", host, role).await;
    }

    /// `pki` with the role `web`.
    pub async fn certificates(&self, ttl: &str) {
        self.engine("pki", "pki", "").await;
        let root = json!({ "common_name": "Shop Root", "ttl": "720h", "key_type": "ec" });
        self.write("pki/root/generate/internal", root).await;
        let web = json!({ "allow_any_name": true, "ttl": ttl, "key_type": "ec" });
        self.write("pki/roles/web", web).await;
    }
}
