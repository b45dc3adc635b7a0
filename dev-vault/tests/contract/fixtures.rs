//! Mounts, roles, policies and tokens, made through the server's own API.

use serde_json::{Value, json};

use crate::client::{Call, Reply};
use crate::cluster::{Claims, Cluster};
use crate::server::Server;

/// A kubernetes auth mount with the role `app` for the account `shop/web`, and its cluster.
pub struct Kubernetes {
    pub cluster: Cluster,
    pub mount: String,
}

impl Kubernetes {
    /// `role` adds to the role or overrides parts of it.
    pub async fn new(server: &Server, role: Value) -> Kubernetes {
        let cluster = Cluster::start().await;
        let mount = server.unique("kubernetes");
        server
            .set_up(format!("sys/auth/{mount}"), json!({ "type": "kubernetes" }))
            .await;
        let kubernetes = Kubernetes { cluster, mount };
        let host = kubernetes.cluster.url();
        kubernetes
            .configure(server, &host, json!({ "token_reviewer_jwt": "reviewer" }))
            .await;
        kubernetes.role(server, role).await;
        kubernetes
    }

    /// Points the mount at an API server. Outside a pod a real server needs a CA of its own, although
    /// plain HTTP has no use for it.
    pub async fn configure(&self, server: &Server, host: &str, more: Value) {
        let config = json!({
            "kubernetes_host": host,
            "kubernetes_ca_cert": ca_certificate(),
            "disable_local_ca_jwt": true,
        });
        server
            .set_up(format!("auth/{}/config", self.mount), merged(config, more))
            .await;
    }

    pub async fn role(&self, server: &Server, more: Value) {
        let role = json!({
            "bound_service_account_names": ["web"],
            "bound_service_account_namespaces": ["shop"],
            "audience": "vault",
            "token_policies": ["app"],
            "token_ttl": "1h",
        });
        server
            .set_up(format!("auth/{}/role/app", self.mount), merged(role, more))
            .await;
    }

    pub async fn login(&self, server: &Server, claims: Claims) -> Reply {
        let body = json!({ "role": "app", "jwt": self.cluster.token(&claims) });
        self.login_with(server, body).await
    }

    pub async fn login_with(&self, server: &Server, body: Value) -> Reply {
        server
            .call(Call::post(format!("auth/{}/login", self.mount), body))
            .await
    }
}

/// A token made for a case.
pub struct Token {
    pub id: String,
    pub accessor: String,
}

/// The token of an `auth` block.
pub fn token_of(reply: &Reply) -> Token {
    Token {
        id: reply.string("/auth/client_token"),
        accessor: reply.string("/auth/accessor"),
    }
}

/// A token by `auth/token/create`, child of root unless the parameters say otherwise.
pub async fn token(server: &Server, parameters: Value) -> Token {
    token_of(&server.set_up("auth/token/create", parameters).await)
}

/// A service token with `default` and these policies, good for an hour.
pub async fn token_with(server: &Server, policies: &[&str]) -> Token {
    token(server, json!({ "policies": policies, "ttl": "1h" })).await
}

/// A policy of this HCL; returns its name.
pub async fn policy(server: &Server, hcl: &str) -> String {
    let name = server.unique("policy");
    server
        .set_up(format!("sys/policies/acl/{name}"), json!({ "policy": hcl }))
        .await;
    name
}

/// A policy that allows these capabilities below a mount.
pub async fn policy_below(server: &Server, mount: &str, capabilities: &[&str]) -> String {
    policy(
        server,
        &format!(r#"path "{mount}/*" {{ capabilities = {capabilities:?} }}"#),
    )
    .await
}

/// A secrets engine; returns its mount path.
pub async fn engine(server: &Server, kind: &str, options: Value) -> String {
    let mount = server.unique(kind);
    server
        .set_up(
            format!("sys/mounts/{mount}"),
            json!({ "type": kind, "options": options }),
        )
        .await;
    mount
}

/// A KV mount on a server of [`crate::server::Wants::LeasedKv`], whose key `app` gives leases of this
/// duration, and a policy to read below it.
pub struct LeasedKv {
    pub mount: String,
    pub policy: String,
}

impl LeasedKv {
    pub async fn new(server: &Server, ttl: &str) -> LeasedKv {
        let mount = engine(server, "kv", json!({})).await;
        server
            .set_up(
                format!("{mount}/app"),
                json!({ "password": "p4ss", "ttl": ttl }),
            )
            .await;
        let policy = policy_below(server, &mount, &["read"]).await;
        LeasedKv { mount, policy }
    }

    /// A token that may read it.
    pub async fn reader(&self, server: &Server) -> Token {
        token_with(server, &[&self.policy]).await
    }

    /// A leased read.
    pub async fn read(&self, server: &Server, token: &str) -> Reply {
        let call = Call::get(format!("{}/app", self.mount)).token(token);
        let reply = server.call(call).await.expect(200);
        reply.is_filled("/lease_id");
        reply
    }

    /// The lease of a read.
    pub async fn lease(&self, server: &Server, token: &str) -> String {
        self.read(server, token).await.string("/lease_id")
    }
}

/// `base` with the members of `more` added or put in place of its own.
pub fn merged(base: Value, more: Value) -> Value {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else {
        panic!("parameters are JSON objects");
    };
    base.extend(more);
    Value::Object(base)
}

fn ca_certificate() -> String {
    rcgen::generate_simple_self_signed(["kubernetes".to_owned()])
        .expect("a certificate")
        .cert
        .pem()
}
