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
        let retry = true;
        claim
            .end(Ending::Failed {
                session,
                fresh,
                retry,
            })
            .await
            .unwrap();
    }
    assert_eq!(node.server.count("revoke token"), 0);
    node.mount().await;
    pass(Duration::from_secs(61)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_mount_that_fails_is_parked_or_released() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    for (retry, after) in [(true, 300), (false, 0)] {
        let before = node.server.count("revoke token");
        let (claim, held) = node
            .registry
            .begin(Arc::clone(&node.spec), true)
            .await
            .unwrap();
        assert!(held.session.is_none());
        let session = node.login();
        claim.hold(Arc::clone(&session)).await.unwrap();
        let session = Some(session);
        let fresh = Vec::new();
        claim
            .end(Ending::Failed {
                session,
                fresh,
                retry,
            })
            .await
            .unwrap();
        pass(Duration::from_secs(after.max(1) - 1)).await;
        assert_eq!(
            node.server.count("revoke token") - before,
            usize::from(!retry)
        );
        pass(Duration::from_secs(2)).await;
        assert_eq!(node.server.count("revoke token") - before, 1);
    }
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
