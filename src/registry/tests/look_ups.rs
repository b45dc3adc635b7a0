//! What somebody else has revoked is noticed between two renewals.

use super::*;

const DAYS: Duration = Duration::from_secs(32 * 24 * 3600);
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// Polls go on for this long; the times from the start at which one read or logged in.
async fn polled(node: &Node, time: Duration) -> Vec<(Duration, bool, bool)> {
    let start = node.clock.now();
    let mut done = Vec::new();
    while node.clock.now().since(start) < time {
        pass(POLL).await;
        let (logs_in, reads) = node.mount().await;
        if logs_in || reads {
            done.push((node.clock.now().since(start), logs_in, reads));
        }
    }
    done
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_an_administrator_revokes_is_replaced_within_ten_minutes_and_a_poll() {
    let node = Node::start(DAYS, 1_000 * DAYS);
    node.mount().await;
    assert_eq!(polled(&node, HOUR).await, []);
    let asked = node.server.count("look the lease up");
    assert!((6..=16).contains(&asked), "{asked} look-ups in an hour");
    assert_eq!(
        node.server.count("look the token up"),
        0,
        "the lease' look-up shows that its token lives"
    );
    node.mood(Mood::NoSuchLease);
    let lost = node.clock.now();
    while node.told().is_empty() {
        pass(Duration::from_secs(1)).await;
        assert!(node.clock.now().since(lost) <= TEN_MINUTES);
    }
    assert_eq!(node.server.count("renew lease"), 0);
    node.mood(Mood::Well);
    assert_eq!(node.mount().await, (false, true), "the token lives");
    assert_eq!(polled(&node, HOUR).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_denied_once_is_asked_about_before_it_counts_as_dead() {
    let node = Node::start(DAYS, 1_000 * DAYS);
    node.mount().await;
    pass(HOUR).await;
    node.mood(Mood::NoSuchToken);
    let before = node.server.count("look the lease up");
    while node.server.count("look the lease up") == before {
        pass(Duration::from_secs(1)).await;
    }
    // A standby that lagged.
    node.mood(Mood::Well);
    pass(HOUR).await;
    assert_eq!(node.server.count("look the token up"), 1);
    assert_eq!(node.mount().await, (false, false));
    node.mood(Mood::NoSuchToken);
    pass(TEN_MINUTES).await;
    node.mood(Mood::Well);
    assert_eq!(node.told(), [NoticeKind::Expired]);
    assert_eq!(node.mount().await, (true, true));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_looked_up_is_asked_about_once() {
    let node = Node::start(DAYS, 1_000 * DAYS);
    node.mood(Mood::LookUpsForbidden);
    node.mount().await;
    pass(24 * HOUR).await;
    assert_eq!(node.server.count("look the lease up"), 1);
    assert_eq!(node.server.count("look the token up"), 1);
    assert_eq!(node.told(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_renewed_often_is_not_looked_up() {
    let node = Node::start(Duration::from_secs(600), 1_000 * HOUR);
    node.mount().await;
    pass(10 * HOUR).await;
    assert_eq!(node.server.count("look the lease up"), 0);
    assert_eq!(node.server.count("look the token up"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_reads_at_every_poll_needs_no_look_up() {
    let node = Node::start(DAYS, 1_000 * DAYS);
    for _ in 0..30 {
        mount_static(&node).await;
        pass(POLL).await;
    }
    assert_eq!(node.server.count("look the token up"), 0);
    // Without polls nothing else would show it.
    pass(TEN_MINUTES).await;
    assert!(node.server.count("look the token up") >= 1);
}

/// A Mount of a static read alone, which leaves no grant.
async fn mount_static(node: &Node) {
    let spec = Arc::clone(&node.spec);
    let (claim, held) = node.registry.begin(spec, true).await.unwrap();
    let session = match held.session {
        Some(session) => session,
        None => {
            let session = node.login();
            claim.hold(Arc::clone(&session)).await.unwrap();
            session
        }
    };
    let grants = Vec::new();
    claim
        .end(Ending::Complete { session, grants })
        .await
        .unwrap();
    node.registry.answered(node.spec.volume.clone());
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_became_pointless_while_it_waited_is_made_when_it_is_due_again() {
    let node = Node::start(DAYS, 1_000 * DAYS);
    mount_static(&node).await;
    // Due, and let through to nobody.
    *node.server.closed_until.lock().unwrap() = Some(Moment::NEVER);
    pass(TEN_MINUTES).await;
    mount_static(&node).await;
    *node.server.closed_until.lock().unwrap() = None;
    pass(10 * SECOND).await;
    assert_eq!(
        node.server.count("look the token up"),
        0,
        "a poll has used it"
    );
    pass(TEN_MINUTES).await;
    // After 40 to 90 % of the time, drawn once.
    assert!((1..=2).contains(&node.server.count("look the token up")));
}
