//! The watch of this node's pods, against a small API server on a real socket and a real registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::Path;
use std::time::Duration;

use leasehold::pods;
use leasehold::registry::Settings;
use leasehold::spec::VolumeId;
use support::api_server::ApiServer;
use support::held::{Held, volume};
use tokio::sync::mpsc;

const WATCH: &str = "no_pod_watch";

struct Node {
    held: Held,
    looks: mpsc::UnboundedReceiver<VolumeId>,
}

impl Node {
    fn new() -> Self {
        let (held, looks) = Held::new(Settings {
            unseen: Duration::from_millis(50),
            ..Settings::default()
        });
        Self { held, looks }
    }

    fn watch(&mut self, server: &ApiServer) {
        let (registry, metrics) = (self.held.registry.clone(), self.held.metrics.clone());
        let watching = pods::watch(
            server.client(),
            "node-1".to_owned(),
            None,
            registry,
            metrics,
            Duration::from_millis(100),
        );
        self.held.tasks.push(tokio::spawn(watching));
    }

    async fn mount(&mut self, uid: &str, seen: bool) {
        let volume = volume(Path::new("/var/lib/kubelet/pods"), uid);
        self.held.mount(&volume, seen).await;
        assert_eq!(self.look().await, uid, "a new path is looked at");
    }

    /// Whose path is to be looked at next.
    async fn look(&mut self) -> String {
        let next = tokio::time::timeout(Duration::from_secs(10), self.looks.recv()).await;
        next.unwrap().unwrap().pod_uid
    }
}

#[tokio::test]
async fn the_watch_asks_for_the_metadata_of_this_nodes_unfinished_pods() {
    let server = ApiServer::start().await;
    let mut node = Node::new();
    node.watch(&server);
    server.until("watch pods", 1).await;
    for call in ["list pods", "watch pods"] {
        let asked = server.details(call);
        let selected = "spec.nodeName=node-1,status.phase!=Succeeded,status.phase!=Failed ";
        assert!(asked.starts_with(selected), "{asked}");
        assert!(asked.contains("as=PartialObjectMetadata"), "{asked}");
    }
    let listed = server.details("list pods");
    assert!(listed.contains("resourceVersion=0"), "{listed}");
}

#[tokio::test]
async fn a_departed_pod_is_a_reason_to_look_at_its_path_alone() {
    let server = ApiServer::start().await;
    let mut node = Node::new();
    for uid in ["stays", "goes"] {
        server.put_pod(uid, None);
        node.mount(uid, true).await;
    }
    node.watch(&server);
    server.until("watch pods", 1).await;
    server.delete_pod("goes", true);
    assert_eq!(node.look().await, "goes");
    assert!(node.looks.try_recv().is_err());
    assert!(node.held.revoked().is_empty(), "its path decides");
}

#[tokio::test]
async fn a_pod_that_went_while_nobody_watched_is_missed_by_the_next_list() {
    let server = ApiServer::start().await;
    let mut node = Node::new();
    for uid in ["stays", "goes"] {
        server.put_pod(uid, None);
        node.mount(uid, true).await;
    }
    node.watch(&server);
    server.until("watch pods", 1).await;
    server.delete_pod("goes", false);
    server.expire();
    assert_eq!(node.look().await, "goes");
    server.until("watch pods", 2).await;
    assert!(node.looks.try_recv().is_err());
    assert_eq!(server.count("list pods"), 2);
}

#[tokio::test]
async fn a_volume_out_of_sight_ends_with_its_pod_and_its_grace_period() {
    let server = ApiServer::start().await;
    server.put_pod("stays", None);
    server.put_pod("goes", None);
    let mut node = Node::new();
    node.mount("stays", false).await;
    node.mount("goes", false).await;
    node.watch(&server);
    server.until("watch pods", 1).await;
    // As kubectl and kubelet do it: asked to go within a second, then gone.
    server.put_pod("goes", Some(1));
    server.delete_pod("goes", true);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(
        node.held.revoked().is_empty(),
        "its containers may still run"
    );
    node.held.until_revoked(&["goes"]).await;
}

#[tokio::test]
async fn a_watch_that_is_forbidden_or_cut_is_tried_again_and_said_once() {
    let server = ApiServer::start().await;
    server.put_pod("goes", None);
    server.forbid(&["list"]);
    let mut node = Node::new();
    node.mount("goes", true).await;
    node.watch(&server);
    node.held.until_degraded(WATCH, 1).await;
    server.forbid(&[]);
    node.held.until_degraded(WATCH, 0).await;
    server.until("watch pods", 1).await;
    // The server goes away and comes back without a new list: the next event shows that it is back.
    server.fail(Some(503));
    node.held.until_degraded(WATCH, 1).await;
    server.fail(None);
    server.delete_pod("goes", true);
    assert_eq!(node.look().await, "goes");
    node.held.until_degraded(WATCH, 0).await;
}
