//! Many volumes, a server that is away, and polls that stay out.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_an_outage_a_node_full_of_leases_comes_back_at_the_stated_rate() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let specs: Vec<Arc<MountSpec>> = (0..2_500)
        .map(|pod| Arc::new(spec_of(&format!("uid-{pod}"))))
        .collect();
    for spec in &specs {
        node.mount_of(spec).await;
    }
    // Away from before the first renewal is due until after the last one is.
    let back = node.clock.now().plus(Duration::from_secs(45 * 60));
    *node.server.closed_until.lock().unwrap() = Some(back);
    pass(HOUR - Duration::from_secs(2 * 60)).await;
    let calls = node.server.calls.lock().unwrap().clone();
    // Look-ups wait for them.
    let renewals = calls.iter().filter(|(call, _)| call.starts_with("renew"));
    let renewals: Vec<Moment> = renewals.map(|(_, at)| *at).collect();
    assert!(
        calls.iter().all(|(_, at)| *at >= back),
        "nobody is asked while the server is away"
    );
    assert_eq!(renewals.len(), 5_000, "each token and each lease, once");
    let mut per_second = BTreeMap::<u64, u32>::new();
    for at in &renewals {
        *per_second.entry(at.since(back).as_secs()).or_default() += 1;
    }
    let most = per_second.values().max().copied().unwrap_or_default();
    assert!(most <= 60, "{most} in a second: 50, and a burst of 10");
    assert!(
        renewals.iter().all(|at| at.since(back) < 101 * SECOND),
        "5,000 at 50 a second"
    );
    for spec in &specs {
        assert_eq!(node.mount_of(spec).await, (false, false), "nothing is lost");
    }
    assert_eq!(node.told(), [], "and there is nothing to complain of");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_earliest_end_comes_first() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    // Nothing but tokens, of three terms; the shortest is opened last.
    let mut ends = Vec::new();
    for minutes in [120_u64, 40, 30] {
        let spec = Arc::new(spec_of(&format!("uid-{minutes}")));
        let (claim, _) = node.registry.begin(Arc::clone(&spec), true).await.unwrap();
        let mut session = Arc::into_inner(node.login()).unwrap();
        session.id = format!("{minutes}");
        session.term = Term::new(session.term.sent(), Duration::from_secs(minutes * 60));
        ends.push(session.term.end().unwrap());
        let session = Arc::new(session);
        claim.hold(Arc::clone(&session)).await.unwrap();
        let grants = Vec::new();
        claim
            .end(Ending::Complete { session, grants })
            .await
            .unwrap();
        node.registry.answered(spec.volume.clone());
    }
    let back = node.clock.now().plus(Duration::from_secs(29 * 60));
    *node.server.closed_until.lock().unwrap() = Some(back);
    pass(Duration::from_secs(29 * 60 + 5)).await;
    let renewed = node.server.renewed.lock().unwrap().clone();
    assert_eq!(renewed, ["30", "40"], "120 is not due yet");
}

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
