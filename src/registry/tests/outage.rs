//! Many volumes, a server that is away, and polls that stay out.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_server_that_a_mount_finds_back_is_used_at_once() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    // Its next probe was said to be far away; then somebody else has found it back.
    let far = node.clock.now().plus(50 * 60 * SECOND);
    *node.server.closed_until.lock().unwrap() = Some(far);
    pass(40 * 60 * SECOND).await;
    assert_eq!(node.server.count("renew token"), 0);
    *node.server.closed_until.lock().unwrap() = None;
    pass(SECOND).await;
    assert_eq!(node.server.count("renew token"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_polls_a_final_end_is_said_aloud_long_before_it_comes() {
    let node = Node::start(HOUR, 3 * HOUR);
    node.mount().await;
    let start = node.clock.now();
    let mut said = None;
    while node.clock.now().since(start) < 3 * HOUR {
        pass(60 * SECOND).await;
        for kind in node.told() {
            assert!(said.is_none() || kind == NoticeKind::CannotRenew);
            if kind == NoticeKind::CannotRenew {
                said.get_or_insert(node.clock.now());
            }
        }
    }
    // As soon as a renewal has shown that the end is final: polls have stopped long before.
    let said = said.expect("it was said").since(start);
    assert!(said < 3 * HOUR - 10 * 60 * SECOND, "{said:?}");
    pass(60 * SECOND).await;
    assert!(
        node.told().contains(&NoticeKind::Expired),
        "and at the end once more"
    );
}

#[tokio::test(start_paused = true)]
async fn with_polls_a_replacement_is_told_and_nothing_is_complained_of() {
    let node = Node::start(HOUR, 3 * HOUR);
    node.mount().await;
    let mut told = Vec::new();
    for _ in 0..95 {
        pass(POLL).await;
        node.mount().await;
        told.extend(node.told());
        // What the server grants next has a life of its own.
        if !told.is_empty() {
            break;
        }
    }
    assert_eq!(told, [NoticeKind::Rotated]);
}

#[tokio::test(start_paused = true)]
async fn a_term_too_short_for_the_rotation_is_told_once() {
    // Half a rotation interval, and no renewal moves its end.
    let node = Node::start(POLL / 2, POLL / 2);
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    let mut session = Arc::into_inner(node.login()).unwrap();
    session.renewable = false;
    let session = Arc::new(session);
    claim.hold(Arc::clone(&session)).await.unwrap();
    let grants = Vec::new();
    claim
        .end(Ending::Complete { session, grants })
        .await
        .unwrap();
    assert_eq!(node.told(), [NoticeKind::CannotRenew]);
    pass(POLL / 4).await;
    assert_eq!(node.told(), []);
    pass(POLL / 2).await;
    assert_eq!(node.told(), [NoticeKind::Expired]);
}
