//! Nothing but the image is changed in an incumbent's DaemonSet: it runs there, and each right and mount
//! that is missing is said once at start, with the manifest lines that give it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::app::App;
use leasehold::config::{Command, Config};
use serde_json::Value;
use support::api_server::{ApiServer, SECRET};
use support::daemon::{Daemon, Node};
use support::held::until;
use support::world::{DATABASE, World, class};

/// Rights that are asked for at start.
const REVIEWS: usize = 7;
/// What our manifests give beside rights and mounts.
const ENVIRONMENT: &[(&str, &str)] = &[("NODE_NAME", "node-1"), ("POD_NAMESPACE", "csi")];

/// How to reach an API server from outside of its cluster.
fn kubeconfig(node: &Node, server: &ApiServer) -> String {
    let path = node.pods().with_file_name("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: \"{}\"}}\nusers:\n- name: u\n  user: {{token: t}}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u, namespace: csi}}\ncurrent-context: x\n",
        server.url()
    );
    fs::write(&path, text).unwrap();
    format!("-kubeconfig={}", path.display())
}

/// A daemon in a cluster, started with what an installation gives it; all rights were asked for.
async fn started(node: &mut Node, server: &ApiServer, environment: &[(&str, &str)]) -> Daemon {
    let flag = kubeconfig(node, server);
    node.flags.push(flag);
    let daemon = node.until_ready(node.spawn_with(environment)).await;
    server.until("create reviews", REVIEWS).await;
    daemon
}

/// The lines about what is missing.
async fn missing(daemon: &Daemon, count: usize) -> Vec<Value> {
    let lines = || -> Vec<Value> {
        let log = daemon.log();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["message"].as_str().unwrap().starts_with("missing: "))
            .collect()
    };
    until(|| lines().len() >= count, || daemon.log()).await;
    // One more would have been said by now: each follows its answer at once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lines = lines();
    assert_eq!(lines.len(), count, "{}", daemon.log());
    lines
}

/// A line of that reason, with these words in its manifest.
fn assert_said(lines: &[Value], reason: &str, words: &[&str]) {
    let of: Vec<&Value> = lines
        .iter()
        .filter(|line| line["reason"] == reason)
        .collect();
    assert_eq!(of.len(), 1, "{reason} in {lines:?}");
    let manifest = of[0]["manifest"].as_str().unwrap();
    for word in words {
        assert!(manifest.contains(word), "{word} in {manifest}");
    }
    assert!(
        of[0]["costs"]
            .as_str()
            .is_some_and(|costs| !costs.is_empty())
    );
}

#[tokio::test]
async fn with_the_incumbents_rights_and_mounts_it_serves_and_says_what_is_missing() {
    let server = ApiServer::start().await;
    // Theirs: get one Secret, create Secrets and pod tokens.
    let rights = ["watch", "list", "update", "patch", "create events"];
    server.forbid(&rights);
    let mut world = World::new().await;
    world.kill();
    world
        .node
        .flags
        .push("-kubelet-pods-dir=/nowhere/kubelet/pods".to_owned());
    let daemon = started(&mut world.node, &server, &[]).await;
    let lines = missing(&daemon, 4).await;
    assert_said(
        &lines,
        "no_pod_watch",
        &["name: NODE_NAME", "spec.nodeName"],
    );
    assert_said(
        &lines,
        "no_path_view",
        &[
            "mountPath: /nowhere/kubelet/pods",
            "path: /var/lib/kubelet/pods",
            "hostPath",
        ],
    );
    assert_said(
        &lines,
        "cannot_watch_pods",
        &["ClusterRole", "verbs: [list, watch]"],
    );
    assert_said(
        &lines,
        "cannot_write_events",
        &["events.k8s.io", "verbs: [create, patch]"],
    );
    let ready = daemon.get("/health/ready?verbose").await.unwrap();
    for reason in ["no_path_view", "no_pod_watch", "cannot_watch_pods"] {
        assert!(ready.contains(&format!("degraded: {reason}\n")), "{ready}");
    }
    world.daemon = Some(daemon);
    let volume = world.volume("web-0");
    let first = world.mount(&volume, &class(DATABASE)).await;
    let poll = world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(first.versions, poll.versions);
    assert_eq!(
        (world.logins(), world.creds()),
        (1, 1),
        "nothing anew at a poll"
    );
    // The key is the shared one, made in the incumbent's shape.
    assert!(server.secret().is_some());
    let degraded = world
        .daemon
        .as_ref()
        .unwrap()
        .get("/health/ready?verbose")
        .await
        .unwrap();
    assert!(!degraded.contains("no_shared_version_key"), "{degraded}");
}

#[tokio::test]
async fn with_everything_that_our_manifests_give_nothing_is_missing() {
    let server = ApiServer::start().await;
    // A right to create Secrets is more than we ask for.
    server.forbid(&["create secrets"]);
    server.put_secret(None);
    let mut node = Node::new("http://127.0.0.1:1", &[]);
    let daemon = started(&mut node, &server, ENVIRONMENT).await;
    missing(&daemon, 0).await;
    let ready = daemon.get("/health/ready?verbose").await.unwrap();
    assert!(!ready.contains("degraded: cannot"), "{ready}");
}

#[tokio::test]
async fn each_missing_right_is_named_once_with_its_lines() {
    let secret = format!("resourceNames: [{SECRET}]");
    let table: [(&[&'static str], &str, &[&str]); 6] = [
        (
            &["get secrets"],
            "cannot_get_secret",
            &[&secret, "verbs: [get]", "namespace csi"],
        ),
        (
            &["update secrets", "create secrets"],
            "cannot_write_secret",
            &[&secret, "verbs: [update]"],
        ),
        (
            &["list pods"],
            "cannot_watch_pods",
            &["resources: [pods]", "verbs: [list]"],
        ),
        (
            &["watch pods"],
            "cannot_watch_pods",
            &["resources: [pods]", "verbs: [watch]"],
        ),
        (
            &["create events"],
            "cannot_write_events",
            &["apiGroups: [\"events.k8s.io\"]", "verbs: [create]"],
        ),
        (
            &["patch events"],
            "cannot_write_events",
            &["verbs: [patch]"],
        ),
    ];
    for (forbidden, reason, words) in table {
        let server = ApiServer::start().await;
        server.put_secret(Some("key"));
        server.forbid(forbidden);
        let mut node = Node::new("http://127.0.0.1:1", &[]);
        let daemon = started(&mut node, &server, ENVIRONMENT).await;
        let lines = missing(&daemon, 1).await;
        assert_said(&lines, reason, words);
        let metrics = daemon.get("/metrics").await.unwrap();
        let line = format!("leasehold_degraded{{reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{forbidden:?}");
    }
}

#[tokio::test]
async fn without_an_api_server_that_is_named_once() {
    let node = Node::new("http://127.0.0.1:1", &[]);
    let daemon = node.until_ready(node.spawn_with(ENVIRONMENT)).await;
    let lines = missing(&daemon, 1).await;
    assert_said(
        &lines,
        "no_api_server",
        &["automountServiceAccountToken: true"],
    );
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_ends_the_start() {
    let node = Node::new("http://127.0.0.1:1", &["-kubeconfig=/nowhere/config"]);
    let mut daemon = node.spawn_with(ENVIRONMENT);
    assert!(!daemon.ended().await.success());
    assert!(
        daemon.log().contains("kubeconfig /nowhere/config"),
        "{}",
        daemon.log()
    );
}

#[tokio::test]
async fn without_a_place_for_the_journal_it_serves_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let flags = ["leasehold", "-health-addr=127.0.0.1:0"];
    let read = Config::read(flags.map(str::to_owned), |_| None).unwrap();
    let Command::Serve(mut config) = read else {
        panic!("prints");
    };
    // The usual place, where nobody mounted anything that can hold it.
    config.state_dir = file.join("leasehold/vault");
    config.endpoint = directory.path().join("vault.sock");
    config.kubelet_pods_dir = PathBuf::from(directory.path());
    assert!(!config.state_dir_given);
    let app = App::build((*config).clone()).await.unwrap();
    let address = app.health_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    let degraded = async || {
        let answer = support::daemon::ask(address, "/health/ready?verbose").await;
        answer.is_ok_and(|answer| answer.contains("degraded: no_journal\n"))
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !degraded().await {
        assert!(tokio::time::Instant::now() < deadline, "never degraded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    // One that was asked for by name must be had.
    config.state_dir_given = true;
    assert!(App::build(*config).await.is_err());
}
