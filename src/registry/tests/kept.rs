//! Replies that there is no room to keep.

use super::*;

/// Database credentials whose reply takes so many bytes.
fn creds(node: &Node, size: usize) -> Arc<Grant> {
    let mut grant = Arc::into_inner(node.creds()).unwrap();
    grant.body = SecretBytes::from(vec![b'x'; size]);
    Arc::new(grant)
}

/// Mounts with credentials of this size where none are kept; tells whether it read them.
async fn mount(node: &Node, spec: &Arc<MountSpec>, size: usize) -> bool {
    let (claim, held) = node.registry.begin(Arc::clone(spec), true).await.unwrap();
    let session = match held.session {
        Some(session) => session,
        None => {
            let mut session = Arc::into_inner(node.login()).unwrap();
            session.service_account = spec.pod.service_account_id();
            let session = Arc::new(session);
            claim.hold(Arc::clone(&session)).await.unwrap();
            session
        }
    };
    let kept = held.grants.get(&request()).cloned();
    let reads = kept.is_none();
    let grants = vec![kept.unwrap_or_else(|| creds(node, size))];
    let ending = Ending::Complete { session, grants };
    assert!(claim.end(ending).await.unwrap());
    node.registry.answered(spec.volume.clone());
    reads
}

fn volumes<const N: usize>(names: [&str; N]) -> [Arc<MountSpec>; N] {
    names.map(|name| {
        let mut spec = spec_of(name);
        let (namespace, _) = name.split_once('-').unwrap();
        spec.pod.namespace = namespace.to_owned();
        Arc::new(spec)
    })
}

#[tokio::test(start_paused = true)]
async fn the_namespace_that_keeps_most_loses_its_largest_and_its_credential_lives_on() {
    let node = Node::with_quota(HOUR, 1_000 * HOUR, 2 * 1024);
    let [small, one, two] = volumes(["small-one", "large-one", "large-two"]);
    assert!(mount(&node, &small, 200).await);
    assert!(mount(&node, &one, 400).await);
    assert_eq!(node.told(), []);
    assert!(mount(&node, &two, 600).await);
    assert_eq!(node.told(), [NoticeKind::NotKept]);
    for polls in 1..4 {
        assert!(!mount(&node, &small, 200).await);
        assert!(!mount(&node, &one, 400).await);
        assert!(mount(&node, &two, 600).await, "poll {polls}");
        pass(POLL).await;
    }
    assert!(!node.told().contains(&NoticeKind::NotKept), "said once");
    // Ten hours on each lease has been renewed ten times over, kept or not.
    let renewed = node.server.count("renew lease");
    pass(10 * HOUR).await;
    let renewed = node.server.count("renew lease") - renewed;
    assert!((3 * 14..=3 * 21).contains(&renewed), "{renewed}");
    assert!(!node.told().contains(&NoticeKind::Expired));
    // With the others its room comes back: it is kept from the next poll on.
    node.unmount_of(&one).await;
    pass(POLL).await;
    assert!(mount(&node, &two, 600).await);
    assert!(!mount(&node, &two, 600).await);
}

/// A poll under way has the reply that is dropped meanwhile: it is still the same credential, renewed since.
#[tokio::test(start_paused = true)]
async fn a_reply_that_is_dropped_during_a_poll_is_no_new_credential() {
    let node = Node::with_quota(HOUR, 1_000 * HOUR, 2 * 1024);
    let [polled, other] = volumes(["shop-one", "shop-two"]);
    assert!(mount(&node, &polled, 600).await);
    pass(3 * HOUR).await;
    let begun = node.registry.begin(Arc::clone(&polled), true).await;
    let (claim, held) = begun.unwrap();
    assert!(mount(&node, &other, 500).await);
    assert_eq!(node.told(), [NoticeKind::NotKept]);
    let ending = Ending::Complete {
        session: held.session.unwrap(),
        grants: held.grants.into_values().collect(),
    };
    assert!(claim.end(ending).await.unwrap());
    node.registry.answered(polled.volume.clone());
    let renewed = node.server.count("renew lease");
    pass(3 * HOUR).await;
    assert_eq!(node.told(), [], "nothing has reached its end");
    let renewed = node.server.count("renew lease") - renewed;
    assert!((8..=12).contains(&renewed), "{renewed}: one lease for each");
    assert_eq!(node.server.count("revoke lease"), 0);
}
