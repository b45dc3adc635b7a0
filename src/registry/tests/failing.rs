//! Renewals that always fail: a poll replaces what they were for before it dies, once.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lease_whose_renewals_always_fail_is_replaced_once_before_it_dies() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::LeasesBroken);
    let start = node.clock.now();
    let mut replaced = Vec::new();
    while node.clock.now().since(start) < HOUR + HOUR / 2 {
        pass(POLL).await;
        let (logs_in, reads) = node.mount().await;
        assert!(!logs_in, "its token renews");
        if reads {
            replaced.push(node.clock.now().since(start));
        }
    }
    assert_eq!(replaced.len(), 1, "{replaced:?}");
    assert!(
        replaced[0] >= HOUR - 2 * POLL && replaced[0] < HOUR,
        "{replaced:?}"
    );
    assert!(
        !node.told().contains(&NoticeKind::Expired),
        "nothing has died"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_renewals_always_fail_is_replaced_with_its_leases() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::Away);
    let start = node.clock.now();
    let mut replaced = Vec::new();
    while node.clock.now().since(start) < HOUR + HOUR / 2 {
        pass(POLL).await;
        let (logs_in, reads) = node.mount().await;
        assert_eq!(logs_in, reads);
        if logs_in {
            replaced.push(node.clock.now().since(start));
        }
    }
    assert_eq!(replaced.len(), 1, "{replaced:?}");
    assert!(
        replaced[0] >= HOUR - 2 * POLL && replaced[0] < HOUR,
        "{replaced:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_lost_answer_replaces_nothing_however_short_the_term() {
    // Half a rotation interval: each poll falls into the time that is left.
    let node = Node::start(POLL / 2, 1_000 * HOUR);
    node.mount().await;
    for _ in 0..50 {
        pass(POLL - Duration::from_secs(1)).await;
        let before = node.server.count("renew lease") + node.server.count("renew token");
        node.mood(Mood::Away);
        while node.server.count("renew lease") + node.server.count("renew token") == before {
            pass(Duration::from_millis(100)).await;
        }
        node.mood(Mood::Well);
        assert_eq!(node.mount().await, (false, false));
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_without_polls_are_said_aloud_before_the_end() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::LeasesBroken);
    pass(HOUR - Duration::from_secs(60)).await;
    assert_eq!(node.told(), [NoticeKind::CannotRenew]);
    pass(HOUR).await;
    assert_eq!(node.told(), [NoticeKind::Expired]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_without_polls_is_nothing_to_complain_of_while_there_is_time() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    pass(Duration::from_secs(20 * 60)).await;
    node.mood(Mood::Away);
    pass(Duration::from_secs(25 * 60)).await;
    node.mood(Mood::Well);
    pass(HOUR).await;
    assert_eq!(node.told(), []);
}
