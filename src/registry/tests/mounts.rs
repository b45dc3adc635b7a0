//! Mounts that replace, that fail, and that are dropped.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_replaced_drains_until_a_later_mount() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::NoSuchToken);
    pass(HOUR).await;
    node.mood(Mood::Well);
    assert_eq!(node.mount().await, (true, true), "a dead token is replaced");
    assert_eq!(
        node.server.count("revoke token"),
        0,
        "there is nothing to revoke"
    );

    // Another login replaces a living one.
    let mut changed = spec();
    changed.login.role = "other".to_owned();
    let node = Node {
        spec: Arc::new(changed),
        ..node
    };
    assert_eq!(node.mount().await, (true, true));
    pass(HOUR).await;
    assert_eq!(
        node.server.count("revoke token"),
        0,
        "no later Mount has come"
    );
    node.mount().await;
    pass(Duration::from_secs(59)).await;
    assert_eq!(
        node.server.count("revoke token"),
        0,
        "the later answer is on its way to the files"
    );
    pass(Duration::from_secs(2)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn while_later_mounts_fail_what_the_files_may_show_is_not_revoked() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let mut changed = spec();
    changed.login.role = "other".to_owned();
    let node = Node {
        spec: Arc::new(changed),
        ..node
    };
    // Answered, but the driver is killed before it writes the files; then nothing but failures.
    assert_eq!(node.mount().await, (true, true));
    for _ in 0..20 {
        pass(POLL).await;
        let (claim, held) = node
            .registry
            .begin(Arc::clone(&node.spec), true)
            .await
            .unwrap();
        let session = held.session;
        let fresh = Vec::new();
        claim.end(Ending::Failed { session, fresh }).await.unwrap();
    }
    assert_eq!(node.server.count("revoke token"), 0);
    node.mount().await;
    pass(Duration::from_secs(61)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_mount_that_fails_is_released() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (claim, held) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    assert!(held.session.is_none() && held.first);
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let session = Some(session);
    let fresh = Vec::new();
    claim.end(Ending::Failed { session, fresh }).await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_dropped_releases_what_it_held() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    claim.hold(node.login()).await.unwrap();
    drop(claim);
    pass(Duration::from_secs(1)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

/// A Mount of a volume whose login and read a cache before the server answers with what another one has.
pub async fn mount_from_cache(
    node: &Node,
    spec: &Arc<MountSpec>,
    cached: &(Arc<Session>, Arc<Grant>),
) {
    let (claim, _) = node.registry.begin(Arc::clone(spec), true).await.unwrap();
    let mut session = Arc::into_inner(node.login()).unwrap();
    session.id = format!("{:x}", rand::random::<u64>());
    session.accessor.clone_from(&cached.0.accessor);
    let session = Arc::new(session);
    claim.hold(Arc::clone(&session)).await.unwrap();
    let mut grant = Arc::into_inner(node.creds()).unwrap();
    grant.keep.clone_from(&cached.1.keep);
    let grants = vec![Arc::new(grant)];
    let ending = Ending::Complete { session, grants };
    claim.end(ending).await.unwrap();
    node.registry.answered(spec.volume.clone());
}

#[tokio::test(start_paused = true)]
async fn what_another_volume_lives_on_is_not_revoked() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let cached = (node.login(), node.creds());
    let specs = ["one", "two"].map(|uid| Arc::new(spec_of(uid)));
    for spec in &specs {
        mount_from_cache(&node, spec, &cached).await;
    }
    let [one, two] = specs;
    node.unmount_of(&one).await;
    pass(SECOND).await;
    let revocations = || {
        (
            node.server.count("revoke token"),
            node.server.count("revoke lease"),
        )
    };
    assert_eq!(revocations(), (0, 0));
    node.unmount_of(&two).await;
    pass(SECOND).await;
    assert_eq!(revocations(), (1, 0), "the last one revokes it");
}

#[tokio::test(start_paused = true)]
async fn a_cached_lease_that_comes_again_outlives_its_replacement() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let cached = (node.login(), node.creds());
    for _ in 0..3 {
        mount_from_cache(&node, &node.spec, &cached).await;
        pass(2 * POLL).await;
    }
    assert_eq!(
        (
            node.server.count("revoke token"),
            node.server.count("revoke lease")
        ),
        (0, 0)
    );
    node.unmount().await;
    pass(SECOND).await;
    assert!(node.server.count("revoke token") >= 1);
}
