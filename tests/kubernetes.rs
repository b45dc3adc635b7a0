//! What is asked of the Kubernetes API, against a small API server on a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret as Object;
use kube::Api;
use leasehold::metrics::Metrics;
use leasehold::service_account::{MintError, TokenMinter};
use leasehold::spec::Pod;
use leasehold::version_key::{self, VersionKey};
use support::api_server::{ApiServer, SECRET};
use tokio::task::JoinHandle;

/// A daemon's share in the key.
struct Node {
    key: VersionKey,
    metrics: Metrics,
    keeping: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Node {
    fn of(server: &ApiServer) -> Self {
        let metrics = Metrics::new();
        let (key, publisher) = VersionKey::shared(metrics.clone());
        let secrets: Api<Object> = Api::namespaced(server.client(), "csi");
        let keeping = tokio::spawn(version_key::keep(secrets, SECRET.to_owned(), publisher));
        Self {
            key,
            metrics,
            keeping,
        }
    }

    async fn text(&self) -> Vec<u8> {
        self.key.current().await.expose().to_vec()
    }

    async fn until_text(&self, wanted: &[u8]) {
        for _ in 0..500 {
            if self.text().await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the key never became the expected one");
    }

    fn degraded(&self) -> bool {
        let line = "leasehold_degraded{reason=\"no_shared_version_key\"} 1";
        self.metrics.encode().contains(line)
    }
}

#[tokio::test]
async fn an_existing_key_is_used_as_it_is() {
    let server = ApiServer::start().await;
    server.put_secret(Some("the incumbent's own key, any length"));
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"the incumbent's own key, any length");
    assert!(!node.degraded());
    assert_eq!(
        server.count("create secrets") + server.count("update secrets"),
        0
    );
}

#[tokio::test]
async fn a_missing_secret_is_made_in_the_incumbents_shape() {
    let server = ApiServer::start().await;
    let (one, two) = (Node::of(&server), Node::of(&server));
    let key = one.text().await;
    assert_eq!(key.len(), 32);
    assert_eq!(two.text().await, key, "both nodes share one");
    let made = server.secret().unwrap();
    assert_eq!(made["immutable"], true);
    assert_eq!(made["metadata"]["name"], SECRET);
    assert_eq!(made["data"].as_object().unwrap().len(), 1);
    assert!(!one.degraded() && !two.degraded());
}

#[tokio::test]
async fn the_loser_of_the_race_to_create_reads_the_winners_key() {
    let server = ApiServer::start().await;
    // Without a watch, so that nothing but reading again can show it.
    server.forbid(&["watch"]);
    server.rival("the winner's");
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"the winner's");
    assert_eq!(server.count("create secrets"), 1);
}

#[tokio::test]
async fn an_empty_secret_is_filled_once() {
    let server = ApiServer::start().await;
    server.forbid(&["create"]);
    server.put_secret(None);
    let (one, two) = (Node::of(&server), Node::of(&server));
    let key = one.text().await;
    assert_eq!(key.len(), 32);
    two.until_text(&key).await;
    assert!(server.secret().unwrap()["immutable"].is_null());
}

#[tokio::test]
async fn the_loser_of_the_race_to_fill_reads_the_winners_key() {
    let server = ApiServer::start().await;
    server.forbid(&["watch", "create"]);
    server.put_secret(None);
    server.rival("the winner's");
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"the winner's");
    assert_eq!(server.count("update secrets"), 1);
}

#[tokio::test]
async fn a_rotated_key_arrives_by_the_watch_and_nothing_is_fetched_at_mounts() {
    let server = ApiServer::start().await;
    server.put_secret(Some("old"));
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"old");
    server.until("watch secrets", 1).await;
    let gets = server.count("get secrets");
    for _ in 0..50 {
        node.text().await;
    }
    assert_eq!(server.count("get secrets"), gets);
    server.put_secret(Some("new"));
    node.until_text(b"new").await;
    assert_eq!(server.count("get secrets"), gets);
    // `list` is no right that this takes.
    assert_eq!(server.count("list secrets"), 0);
    assert!(
        server
            .details("watch secrets")
            .starts_with(&format!("metadata.name={SECRET} "))
    );
}

#[tokio::test]
async fn a_deleted_secret_is_made_anew_where_that_is_allowed_and_else_its_key_serves_on() {
    let server = ApiServer::start().await;
    server.put_secret(Some("old"));
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"old");
    server.until("watch secrets", 1).await;
    server.forbid(&["create"]);
    server.delete_secret();
    server.until("create secrets", 1).await;
    assert_eq!(node.text().await, b"old");
    server.put_secret(Some("put back by hand"));
    node.until_text(b"put back by hand").await;
    server.forbid(&[]);
    server.delete_secret();
    server.until("create secrets", 2).await;
    for _ in 0..500 {
        if node.text().await != b"put back by hand" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let made = node.text().await;
    assert_eq!(made.len(), 32);
    assert_ne!(made, b"put back by hand");
}

#[tokio::test]
async fn without_the_right_to_watch_one_fetch_serves_all_mounts() {
    let server = ApiServer::start().await;
    server.forbid(&["watch", "list"]);
    server.put_secret(Some("old"));
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"old");
    server.until("watch secrets", 1).await;
    server.put_secret(Some("new"));
    let gets = server.count("get secrets");
    // Older than a few seconds: the next Mounts have it fetched, and wait for that.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let mounts = (0..64).map(|_| node.text());
    let keys = futures::future::join_all(mounts).await;
    assert!(keys.iter().all(|key| key == b"new"));
    assert_eq!(server.count("get secrets"), gets + 1);
    assert!(!node.degraded());
}

#[tokio::test]
async fn without_an_api_server_a_mount_waits_two_seconds_once() {
    let server = ApiServer::start().await;
    server.fail(Some(503));
    let node = Node::of(&server);
    let began = Instant::now();
    let key = node.text().await;
    let first = began.elapsed();
    assert!(
        first >= Duration::from_millis(1_900) && first < Duration::from_secs(4),
        "{first:?}"
    );
    assert!(node.degraded());
    let began = Instant::now();
    assert_eq!(
        node.text().await,
        key,
        "this process' own, and the same one"
    );
    assert!(began.elapsed() < Duration::from_millis(500));
    server.put_secret(Some("shared"));
    server.fail(None);
    node.until_text(b"shared").await;
    assert!(!node.degraded());
}

#[tokio::test]
async fn a_key_of_this_process_alone_never_waits() {
    let began = Instant::now();
    let key = VersionKey::own(Metrics::new());
    assert!(key.current().await.expose() == key.current().await.expose());
    assert!(began.elapsed() < Duration::from_millis(500));
}

fn pod() -> Pod {
    Pod {
        name: "web-0".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
    }
}

#[tokio::test]
async fn a_token_is_asked_for_as_the_incumbent_does() {
    let server = ApiServer::start().await;
    let minter = TokenMinter::new(server.client());
    let token = minter.mint(&pod(), "uid-1", Some("vault")).await;
    assert!(token.is_ok_and(|token| token.expose() == "minted"));
    let asked = server.details("token secrets");
    let (path, body) = asked.split_once(' ').unwrap();
    assert_eq!(path, "/api/v1/namespaces/shop/serviceaccounts/web/token");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body["spec"],
        serde_json::json!({
            "audiences": ["vault"],
            "expirationSeconds": 900,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "uid-1"},
        })
    );
}

#[tokio::test]
async fn a_refused_token_says_what_to_do() {
    let server = ApiServer::start().await;
    server.forbid(&["token"]);
    let minter = TokenMinter::new(server.client());
    let error = minter.mint(&pod(), "uid-1", Some("vault")).await.err();
    let error = error.unwrap();
    assert!(matches!(error, MintError::Forbidden) && !error.is_transient());
    assert!(
        error.to_string().contains("serviceaccounts/token"),
        "{error}"
    );
    for (code, transient) in [
        (404, false),
        (409, false),
        (429, true),
        (500, true),
        (503, true),
    ] {
        server.fail(Some(code));
        let error = minter.mint(&pod(), "uid-1", None).await.err().unwrap();
        assert_eq!(error.is_transient(), transient, "{code}: {error}");
    }
    drop(server);
    let error = minter.mint(&pod(), "uid-1", None).await.err().unwrap();
    assert!(matches!(error, MintError::Unreachable), "{error}");
}
