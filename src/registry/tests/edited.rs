//! Objects that a class no longer names: what they held is let go, in every case.

use super::ends::Host;
use super::*;

/// The class, edited: nothing of it makes a lease.
fn edited(on_unmount: OnUnmount) -> Arc<MountSpec> {
    let mut spec = spec();
    spec.objects[0].request.path = "secret/data/static".to_owned();
    spec.on_unmount = on_unmount;
    Arc::new(spec)
}

/// A poll by the edited class; tells whether it succeeded.
async fn poll(node: &Node, spec: &Arc<MountSpec>, succeeds: bool) {
    let (claim, held) = node.registry.begin(Arc::clone(spec), true).await.unwrap();
    let session = held.session.expect("its session lives");
    let ending = if succeeds {
        // Static reads do not come here.
        Ending::Complete {
            session,
            grants: Vec::new(),
        }
    } else {
        Ending::Failed {
            session: Some(session),
            fresh: Vec::new(),
        }
    };
    claim.end(ending).await.unwrap();
    if succeeds {
        node.registry.answered(spec.volume.clone());
    }
}

/// Hours in which its path is seen and nothing polls it.
async fn watched(node: &Node, hours: u32) {
    for _ in 0..60 * hours {
        let seen = vec![(node.spec.volume.clone(), Sighting::Present)];
        node.registry.observed(seen).await;
        pass(60 * SECOND).await;
    }
}

/// From now on the lease is neither renewed nor revoked, while its session lives on.
async fn lease_is_left_alone(node: &Node) {
    let counts = || ["renew lease", "revoke lease"].map(|call| node.server.count(call));
    let (before, tokens) = (counts(), node.server.count("renew token"));
    watched(node, 10).await;
    assert_eq!(counts(), before);
    assert!(node.server.count("renew token") > tokens + 10);
    assert_eq!(node.server.count("revoke token"), 0);
    assert!(
        !node.told().contains(&NoticeKind::Expired),
        "nothing that is shown"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_revoked_after_two_answers_also_where_all_that_is_left_is_static() {
    let host = Host::new();
    for restart_after in 0..4 {
        let (mut node, mut worker) = host.start();
        node.mount().await;
        let revoked = node.server.count("revoke lease");
        let class = edited(OnUnmount::default());
        for step in 0..4 {
            match step {
                // What fails changes nothing: the files show the old ones.
                0 => poll(&node, &class, false).await,
                3 => pass(62 * SECOND).await,
                _ => poll(&node, &class, true).await,
            }
            if step == restart_after && step < 3 {
                assert_eq!(node.server.count("revoke lease"), revoked);
                (node, worker) = host.restarted(node, worker).await;
            }
        }
        pass(SECOND).await;
        assert_eq!(
            node.server.count("revoke lease"),
            revoked + 1,
            "{restart_after}"
        );
        lease_is_left_alone(&node).await;
        node.unmount().await;
        pass(SECOND).await;
        node.registry.stop().await;
        worker.await.unwrap();
        node.server.calls.lock().unwrap().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_policy_allows_its_revocation_a_lease_is_at_least_not_renewed() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::DefaultPolicy);
    let class = edited(OnUnmount::default());
    for _ in 0..2 {
        poll(&node, &class, true).await;
    }
    pass(62 * SECOND).await;
    assert_eq!(node.server.count("revoke lease"), 1, "asked once");
    lease_is_left_alone(&node).await;
}

#[tokio::test(start_paused = true)]
async fn a_class_that_lets_expire_forgets_its_lease() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let class = edited(OnUnmount::Expire);
    for _ in 0..2 {
        poll(&node, &class, true).await;
    }
    pass(62 * SECOND).await;
    assert_eq!(node.server.count("revoke lease"), 0);
    lease_is_left_alone(&node).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_second_answer_a_lease_is_not_renewed_once_polls_have_stopped() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    poll(&node, &edited(OnUnmount::default()), true).await;
    // The files may show it, so it is not revoked; but a pod may live for months.
    pass(10 * 60 * SECOND).await;
    lease_is_left_alone(&node).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_answer_that_replaces_it_was_given_to_nobody_a_lease_is_renewed() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let class = edited(OnUnmount::default());
    let (claim, held) = node.registry.begin(class, true).await.unwrap();
    let ending = Ending::Complete {
        session: held.session.unwrap(),
        grants: Vec::new(),
    };
    claim.end(ending).await.unwrap();
    watched(&node, 24).await;
    assert!(node.server.count("renew lease") > 20, "the files show it");
}

#[tokio::test(start_paused = true)]
async fn what_a_first_mount_has_got_for_a_class_that_was_edited_meanwhile_is_revoked_at_once() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), true)
        .await
        .unwrap();
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let grants = vec![node.creds()];
    // Nobody was there for the answer: no file shows it.
    claim
        .end(Ending::Complete { session, grants })
        .await
        .unwrap();
    poll(&node, &edited(OnUnmount::Expire), true).await;
    pass(SECOND).await;
    assert_eq!(node.server.count("revoke lease"), 1);
    lease_is_left_alone(&node).await;
}
