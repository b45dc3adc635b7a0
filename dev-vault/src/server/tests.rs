//! What the owner of a server can do to it, over real sockets.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use super::*;
use crate::{Action, Fault, ServiceAccounts, Verdict};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);

/// A server with a database role `database/creds/app` and a kubernetes role `app` that may read it.
struct World {
    vault: DevVault,
    accounts: ServiceAccounts,
}

impl World {
    async fn new() -> Self {
        let vault = DevVault::start(Options::default()).await.unwrap();
        let accounts = ServiceAccounts::start().await.unwrap();
        let world = Self { vault, accounts };
        world.shop("").await;
        world
    }

    /// Mounts, policy and roles in a namespace.
    async fn shop(&self, namespace: &str) {
        let policy = r#"path "database/creds/app" { capabilities = ["read"] }"#;
        let role = json!({
            "bound_service_account_names": "web",
            "bound_service_account_namespaces": "shop",
            "audience": "vault",
            "token_policies": "app",
            "token_ttl": "1h",
        });
        let host = json!({ "kubernetes_host": self.accounts.url() });
        let creds = json!({ "db_name": "main", "default_ttl": "10m", "max_ttl": "1h" });
        for (path, body) in [
            ("sys/mounts/database", json!({ "type": "database" })),
            ("database/config/main", json!({ "allowed_roles": "*" })),
            ("database/roles/app", creds),
            ("sys/policies/acl/app", json!({ "policy": policy })),
            ("sys/auth/kubernetes", json!({ "type": "kubernetes" })),
            ("auth/kubernetes/config", host),
            ("auth/kubernetes/role/app", role),
        ] {
            let root = self.vault.root_token();
            let (status, reply) = self.post(root, namespace, path, &body).await.unwrap();
            assert_eq!(status, 204, "{path}: {reply}");
        }
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> Result<(u16, Value), String> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let reply = client.request(request).await;
        let reply = reply.map_err(|error| error.to_string())?;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn post(
        &self,
        token: &str,
        namespace: &str,
        path: &str,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let request = http::Request::post(format!("{}/v1/{path}", self.vault.url()))
            .header("X-Vault-Token", token)
            .header("X-Vault-Namespace", namespace);
        self.send(request, body.to_string()).await
    }

    async fn get(&self, token: &str, path: &str) -> Result<(u16, Value), String> {
        let request = http::Request::get(format!("{}/v1/{path}", self.vault.url()))
            .header("X-Vault-Token", token);
        self.send(request, String::new()).await
    }

    async fn try_login(&self, namespace: &str) -> (u16, Value) {
        let jwt = self.accounts.mint("shop", "web", "vault", HOUR);
        let body = json!({ "role": "app", "jwt": jwt });
        let path = "auth/kubernetes/login";
        self.post("", namespace, path, &body).await.unwrap()
    }

    async fn login(&self) -> String {
        let (status, reply) = self.try_login("").await;
        assert_eq!(status, 200, "{reply}");
        token_of(&reply)
    }

    async fn creds(&self, token: &str) -> (String, String) {
        let (status, reply) = self.get(token, "database/creds/app").await.unwrap();
        assert_eq!(status, 200, "{reply}");
        let text = |name: &str| reply.pointer(name).unwrap().as_str().unwrap().to_owned();
        (text("/data/username"), text("/data/password"))
    }

    async fn until(&self, what: &str, holds: impl Fn(&DevVault) -> bool) {
        let start = Instant::now();
        while !holds(&self.vault) {
            assert!(start.elapsed() < PATIENCE, "not in time: {what}");
            tokio::time::sleep(TICK).await;
        }
    }
}

fn token_of(reply: &Value) -> String {
    let token = reply.pointer("/auth/client_token").unwrap();
    token.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_lives_as_long_as_its_lease() {
    let world = World::new().await;
    let token = world.login().await;
    let (user, password) = world.creds(&token).await;
    assert!(world.vault.verify_user(&user, &password));
    assert!(!world.vault.verify_user(&user, "another"));
    let leases = world.vault.live_leases();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].path, "database/creds/app");
    let tokens = world.vault.live_tokens();
    assert_eq!(leases[0].accessor, tokens[0].accessor);
    assert_eq!(tokens[0].leases, [leases[0].id.clone()]);
    assert_eq!(tokens[0].meta["service_account_name"], "web");
    world.vault.clock().advance(Duration::from_secs(601));
    assert!(world.vault.live_users().is_empty());
    assert!(!world.vault.verify_user(&user, &password));
    assert_eq!(world.vault.live_tokens().len(), 1, "the token goes on");
    world.vault.clock().advance(HOUR);
    assert!(world.vault.live_tokens().is_empty());
}

#[tokio::test]
async fn a_revoked_tokens_leases_live_on_for_the_delay() {
    let world = World::new().await;
    let token = world.login().await;
    world.creds(&token).await;
    world
        .vault
        .set_lease_revocation_delay(Duration::from_millis(300));
    let start = Instant::now();
    let revoke = world.post(&token, "", "auth/token/revoke-self", &Value::Null);
    assert_eq!(revoke.await.unwrap().0, 204);
    assert!(world.vault.live_tokens().is_empty());
    assert_eq!(world.vault.live_users().len(), 1);
    world
        .until("the user is gone", |vault| vault.live_users().is_empty())
        .await;
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn an_engine_that_is_unmounted_takes_its_users_along() {
    let world = World::new().await;
    let token = world.login().await;
    world.creds(&token).await;
    let request = http::Request::delete(format!("{}/v1/sys/mounts/database", world.vault.url()))
        .header("X-Vault-Token", world.vault.root_token());
    assert_eq!(world.send(request, String::new()).await.unwrap().0, 204);
    assert!(world.vault.live_users().is_empty());
    assert!(world.vault.live_leases().is_empty());
}

#[tokio::test]
async fn a_namespace_has_mounts_and_tokens_of_its_own() {
    let world = World::new().await;
    let root = world.vault.root_token();
    let made = world
        .post(root, "", "sys/namespaces/team", &json!({}))
        .await;
    assert_eq!(made.unwrap().0, 200);
    let (status, _) = world.try_login("team").await;
    assert_eq!(status, 403, "nothing is mounted there yet");
    world.shop("team").await;
    let (_, reply) = world.try_login("team/").await;
    let token = token_of(&reply);
    let (status, _) = world.get(&token, "database/creds/app").await.unwrap();
    assert_eq!(status, 403, "the root's database is another");
    let (status, creds) = world.get(&token, "team/database/creds/app").await.unwrap();
    assert_eq!(status, 200, "{creds}");
    assert_eq!(world.vault.live_leases()[0].path, "database/creds/app");
}

#[tokio::test]
async fn a_server_that_went_away_comes_back_with_what_it_knew() {
    let world = World::new().await;
    let token = world.login().await;
    let calls = world.vault.calls().len();
    world.vault.stop_listening();
    world.vault.resume_listening().await.unwrap();
    world.vault.stop_listening();
    let start = Instant::now();
    while world.get(&token, "auth/token/lookup-self").await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "it still answers");
    }
    let before = world.vault.calls().len();
    assert!(before >= calls);
    world.vault.resume_listening().await.unwrap();
    let (status, _) = world.get(&token, "auth/token/lookup-self").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(world.vault.calls().len(), before + 1);
}

#[tokio::test]
async fn faults_strike_before_or_after_the_work() {
    let world = World::new().await;
    let token = world.login().await;
    let path = "database/creds/app";
    let strike = |action| world.vault.faults().push(Fault::at(path, action).times(1));
    strike(Action::Reset);
    assert!(world.get(&token, path).await.is_err());
    strike(Action::Status {
        code: 503,
        body: "{}".to_owned(),
        headers: Vec::new(),
    });
    assert_eq!(world.get(&token, path).await.unwrap().0, 503);
    assert!(world.vault.live_users().is_empty());
    strike(Action::ResetAfterCommit);
    assert!(world.get(&token, path).await.is_err());
    strike(Action::StatusAfterCommit {
        code: 500,
        body: "{}".to_owned(),
    });
    assert_eq!(world.get(&token, path).await.unwrap().0, 500);
    assert_eq!(world.vault.live_users().len(), 2);
    let statuses: Vec<u16> = world
        .vault
        .calls()
        .iter()
        .rev()
        .take(4)
        .map(|call| call.status)
        .collect();
    assert_eq!(statuses, [500, 0, 503, 0]);
    assert_eq!(
        world.get(&token, path).await.unwrap().0,
        200,
        "they are used up"
    );
}

#[tokio::test]
async fn a_sealed_server_says_so_and_forgets_nothing() {
    let world = World::new().await;
    let token = world.login().await;
    world.vault.seal();
    let (status, reply) = world.get(&token, "auth/token/lookup-self").await.unwrap();
    assert_eq!(
        (status, reply),
        (503, json!({ "errors": ["Vault is sealed"] }))
    );
    world.vault.unseal();
    let (status, _) = world.get(&token, "auth/token/lookup-self").await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_api_servers_word_decides_a_login() {
    let world = World::new().await;
    world.login().await;
    let reviews = world.accounts.reviews();
    assert_eq!(reviews.len(), 1);
    assert_eq!(
        reviews[0].path,
        "/apis/authentication.k8s.io/v1/tokenreviews"
    );
    assert_eq!(reviews[0].audiences, ["vault"]);
    assert!(reviews[0].own_bearer);
    for verdict in [Verdict::Unauthenticated, Verdict::OtherUid] {
        world.accounts.says(verdict);
        let (status, reply) = world.try_login("").await;
        assert_eq!(
            (status, reply),
            (403, json!({ "errors": ["permission denied"] }))
        );
    }
    assert_eq!(world.vault.live_tokens().len(), 1);
    world.accounts.says(Verdict::Genuine);
    world.login().await;
}

#[tokio::test]
async fn a_login_can_be_wrapped_and_opened_once() {
    let world = World::new().await;
    let jwt = world.accounts.mint("shop", "web", "vault", HOUR);
    let request = http::Request::post(format!("{}/v1/auth/kubernetes/login", world.vault.url()))
        .header("X-Vault-Wrap-TTL", "1m");
    let body = json!({ "role": "app", "jwt": jwt }).to_string();
    let (_, reply) = world.send(request, body).await.unwrap();
    assert_eq!(reply.pointer("/auth"), Some(&Value::Null));
    let accessor = reply.pointer("/wrap_info/wrapped_accessor").unwrap();
    assert_eq!(*accessor, world.vault.live_tokens()[0].accessor);
    let wrapping = reply.pointer("/wrap_info/token").unwrap().as_str().unwrap();
    let unwrap = || world.post(wrapping, "", "sys/wrapping/unwrap", &Value::Null);
    let (_, opened) = unwrap().await.unwrap();
    let (status, _) = world
        .get(&token_of(&opened), "auth/token/lookup-self")
        .await
        .unwrap();
    assert_eq!(status, 200);
    assert_eq!(unwrap().await.unwrap().0, 400);
}
