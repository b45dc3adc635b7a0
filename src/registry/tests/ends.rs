//! Restarts, nodes that sleep, and what a volume's end meets.

use super::*;

/// A node whose registry can be stopped and started again over one journal, and one server.
pub struct Host {
    server: Arc<Server>,
    clock: TestClock,
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let clock = TestClock(tokio::time::Instant::now());
        let server = Arc::new(Server {
            clock,
            term: HOUR,
            last: clock.now().plus(1000 * HOUR),
            mood: Mutex::new(Mood::Well),
            closed_until: Mutex::new(None),
            calls: Mutex::new(Vec::new()),
            renewed: Mutex::new(Vec::new()),
        });
        Self {
            server,
            clock,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn start(&self) -> (Node, tokio::task::JoinHandle<()>) {
        let metrics = Metrics::new();
        let (notices, told) = Notices::channel(metrics.clone());
        let state = self.directory.path().join("state");
        let journal = Journal::open(&state, true).unwrap();
        let (registry, _, worker) = Registry::start(
            Settings {
                unattested: Duration::MAX,
                ..Settings::default()
            },
            Arc::new(Fake(Arc::clone(&self.server))),
            Arc::new(self.clock),
            journal,
            metrics,
            notices,
        );
        let node = Node {
            registry,
            server: Arc::clone(&self.server),
            clock: self.clock,
            spec: Arc::new(spec()),
            told: Mutex::new(told),
        };
        (node, tokio::spawn(worker))
    }

    pub async fn restarted(
        &self,
        node: Node,
        worker: tokio::task::JoinHandle<()>,
    ) -> (Node, tokio::task::JoinHandle<()>) {
        node.registry.stop().await;
        worker.await.unwrap();
        self.start()
    }

    async fn restart(&self, node: Node, worker: tokio::task::JoinHandle<()>) -> Node {
        self.restarted(node, worker).await.0
    }
}

/// A volume with a certificate, which nothing renews.
pub async fn mount_certificate(node: &Node) {
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let mut certificate = Arc::into_inner(node.creds()).unwrap();
    certificate.keep = Keep::Certificate;
    let grants = vec![Arc::new(certificate)];
    let ending = Ending::Complete { session, grants };
    claim.end(ending).await.unwrap();
    node.registry.answered(node.spec.volume.clone());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_slept_past_a_warning_and_an_end_goes_on() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    mount_certificate(&node).await;
    pass(SECOND).await;
    tokio::time::advance(3 * HOUR).await;
    pass(SECOND).await;
    assert_eq!(node.registry.paths().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_passed_while_the_daemon_was_down_does_not_stop_it() {
    let host = Host::new();
    let (node, worker) = host.start();
    mount_certificate(&node).await;
    node.registry.stop().await;
    worker.await.unwrap();
    tokio::time::advance(2 * HOUR).await;
    let (node, _worker) = host.start();
    assert_eq!(node.registry.paths().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_class_no_longer_names_is_not_held_for_it() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let mut other = spec();
    other.objects[0].request.path = "secret/data/x".to_owned();
    let (_claim, held) = node.registry.begin(Arc::new(other), true).await.unwrap();
    assert!(held.grants.is_empty() && held.session.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_login_at_a_poll_whose_volume_has_gone_is_revoked_at_once() {
    let host = Host::new();
    let (node, worker) = host.start();
    node.mount().await;
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    node.unmount().await;
    pass(SECOND).await;
    assert_eq!(node.server.count("revoke token"), 1);
    node.mood(Mood::Away);
    claim.hold(node.login()).await.unwrap();
    pass(SECOND).await;
    assert!(node.server.count("revoke token") >= 2);
    // Killed before the server was back, and before the poll's end.
    std::mem::forget(claim);
    let node = host.restart(node, worker).await;
    node.mood(Mood::Well);
    let before = node.server.count("revoke token");
    pass(HOUR).await;
    assert_eq!(node.server.count("revoke token"), before + 1);
    assert_eq!(node.server.count("renew token"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mount_whose_volume_has_gone_is_not_taken() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let (claim, held) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    node.unmount().await;
    pass(SECOND).await;
    let session = held.session.unwrap();
    let grants = vec![node.creds()];
    let taken = claim.end(Ending::Complete { session, grants }).await;
    assert!(!taken.unwrap(), "what it would answer is revoked");
    assert_eq!(node.registry.paths().await, []);
}

/// A Mount whose login and read a cache answers.
async fn mount_shared(node: &Node, spec: &Arc<MountSpec>, lease: &str) {
    let mut cached = Arc::into_inner(node.login()).unwrap();
    cached.accessor = "shared".to_owned();
    let mut grant = Arc::into_inner(node.creds()).unwrap();
    grant.keep = Keep::Lease {
        id: lease.to_owned(),
        renewable: true,
    };
    mounts::mount_from_cache(node, spec, &(Arc::new(cached), Arc::new(grant))).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_knows_that_a_token_is_shared_of_which_one_half_is_released() {
    let host = Host::new();
    let (node, worker) = host.start();
    let [one, two] = ["one", "two"].map(|uid| Arc::new(spec_of(uid)));
    mount_shared(&node, &one, "lease one").await;
    mount_shared(&node, &two, "lease two").await;
    node.mood(Mood::Away);
    node.unmount_of(&one).await;
    pass(SECOND).await;
    assert!(node.server.count("revoke lease") >= 1);
    let node = host.restart(node, worker).await;
    node.mood(Mood::Well);
    pass(10 * SECOND).await;
    assert_eq!(node.server.count("revoke token"), 0, "two lives on it");
    node.unmount_of(&two).await;
    pass(SECOND).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_handed_out_again_while_it_waits_for_revocation_lives_on() {
    let node = Node::start(HOUR, 1000 * HOUR);
    let [one, two] = ["one", "two"].map(|uid| Arc::new(spec_of(uid)));
    mount_shared(&node, &one, "lease one").await;
    node.mood(Mood::Away);
    node.unmount_of(&one).await;
    pass(10 * SECOND).await;
    let tried = node.server.count("revoke token");
    assert!(tried >= 1);
    mount_shared(&node, &two, "lease two").await;
    node.mood(Mood::Well);
    pass(100 * SECOND).await;
    assert_eq!(node.server.count("revoke token"), tried, "two lives on it");
    assert_eq!(
        node.registry.paths().await.as_slice(),
        std::slice::from_ref(&two.volume)
    );
}

#[tokio::test(start_paused = true)]
async fn a_sleep_between_a_mounts_end_and_its_answer_ends_nothing() {
    let world = Arc::new(super::world::World::new(7, HOUR));
    let metrics = Metrics::new();
    let (notices, _told) = Notices::channel(metrics.clone());
    let keeper = Arc::new(super::world::Keeper(Arc::clone(&world)));
    let clock = Arc::clone(&world.clock);
    let (registry, looks, worker) = Registry::start(
        Settings::default(),
        keeper,
        Arc::clone(&clock) as Arc<dyn Clock>,
        Journal::none(),
        metrics,
        notices,
    );
    tokio::spawn(worker);
    std::mem::forget(looks);
    let spec = Arc::new(spec());
    let (claim, _) = registry.begin(Arc::clone(&spec), true).await.unwrap();
    let node = Node::start(HOUR, HOUR);
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let grants = Vec::new();
    claim
        .end(Ending::Complete { session, grants })
        .await
        .unwrap();
    // The node sleeps for longer than a result waits for somebody who takes it.
    clock.jump(HOUR / 6);
    registry.paths().await;
    pass(SECOND / 2).await;
    registry.answered(spec.volume.clone());
    pass(60 * SECOND).await;
    assert_eq!(registry.paths().await, std::slice::from_ref(&spec.volume));
}
