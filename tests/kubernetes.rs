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
use leasehold::missing;
use leasehold::service_account::{MintError, TokenMinter};
use leasehold::spec::Pod;
use leasehold::version_key::{self, Timing, VersionKey};
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

/// Nobody waits for ten minutes.
const QUICK: Timing = Timing {
    first: Duration::ZERO,
    every: Duration::from_millis(100),
    soonest: Duration::from_millis(10),
};

impl Node {
    /// One whose reads are as far apart as they are.
    fn of(server: &ApiServer) -> Self {
        Self::timed(server, Timing::default())
    }

    fn timed(server: &ApiServer, timing: Timing) -> Self {
        let metrics = Metrics::new();
        let (key, publisher) = VersionKey::shared(metrics.clone());
        let secrets: Api<Object> = Api::namespaced(server.client(), "csi");
        let keeping = tokio::spawn(version_key::keep(
            secrets,
            SECRET.to_owned(),
            publisher,
            timing,
        ));
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
        for _ in 0..1500 {
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
    server.forbid(&["create"]);
    server.put_secret(None);
    server.rival("the winner's");
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"the winner's");
    assert_eq!(server.count("update secrets"), 1);
}

#[tokio::test]
async fn a_rotated_key_arrives_by_the_next_read_and_nothing_is_fetched_at_mounts() {
    let server = ApiServer::start().await;
    // What the incumbent's role grants is enough.
    server.forbid(&["watch", "list", "update"]);
    server.put_secret(Some("old"));
    let node = Node::of(&server);
    assert_eq!(node.text().await, b"old");
    for _ in 0..50 {
        node.text().await;
    }
    assert_eq!(server.count("get secrets"), 1);
    assert_eq!(
        server.count("list secrets") + server.count("watch secrets"),
        0
    );
    let other = Node::timed(&server, QUICK);
    assert_eq!(other.text().await, b"old");
    server.put_secret(Some("new"));
    other.until_text(b"new").await;
    assert!(!other.degraded());
}

#[tokio::test]
async fn a_deleted_secret_is_made_anew_where_that_is_allowed_and_else_its_key_serves_on() {
    let server = ApiServer::start().await;
    server.put_secret(Some("old"));
    let node = Node::timed(&server, QUICK);
    assert_eq!(node.text().await, b"old");
    server.forbid(&["create"]);
    server.delete_secret();
    server.until("create secrets", 1).await;
    assert_eq!(node.text().await, b"old");
    server.put_secret(Some("put back by hand"));
    node.until_text(b"put back by hand").await;
    server.forbid(&[]);
    let made_before = server.count("create secrets");
    server.delete_secret();
    server.until("create secrets", made_before + 1).await;
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
async fn a_key_that_is_missing_is_not_asked_for_at_each_mount_and_comes_without_one() {
    let server = ApiServer::start().await;
    server.forbid(&["create"]);
    let node = Node::timed(
        &server,
        Timing {
            every: Duration::from_secs(1),
            soonest: Duration::from_secs(3600),
            ..QUICK
        },
    );
    let own = node.text().await;
    assert!(node.degraded());
    let (began, gets) = (Instant::now(), server.count("get secrets"));
    for _ in 0..200 {
        assert_eq!(node.text().await, own);
    }
    // One every half second at most, however many Mounts there are.
    let most = gets + 2 + usize::try_from(began.elapsed().as_millis() / 500).unwrap();
    assert!(server.count("get secrets") <= most);
    server.put_secret(Some("shared"));
    // No Mount asks: what was told is withdrawn nevertheless.
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.degraded() {
        assert!(Instant::now() < deadline, "still degraded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.text().await, b"shared");
}

#[tokio::test]
async fn a_right_that_is_granted_later_degrades_no_more() {
    let server = ApiServer::start().await;
    server.forbid(&["update secrets", "create secrets", "list pods"]);
    let metrics = Metrics::new();
    let asking = tokio::spawn(missing::rights(
        server.client(),
        "csi".to_owned(),
        SECRET.to_owned(),
        metrics.clone(),
        Duration::from_millis(50),
    ));
    let until = async |reasons: &[&str]| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while metrics.degradations() != reasons {
            assert!(Instant::now() < deadline, "{:?}", metrics.degradations());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&["cannot_watch_pods", "cannot_write_secret"]).await;
    server.forbid(&["list pods"]);
    until(&["cannot_watch_pods"]).await;
    server.forbid(&[]);
    // Nothing is missing, and nobody asks any more.
    asking.await.unwrap();
    until(&[]).await;
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
