//! `onUnmount: expire`: what a volume's end leaves alone, and what it does not.

use super::*;

fn expiring(node: &Node) -> Arc<MountSpec> {
    Arc::new(MountSpec {
        on_unmount: OnUnmount::Expire,
        ..(*node.spec).clone()
    })
}

fn revocations(node: &Node) -> usize {
    node.server.count("revoke token") + node.server.count("revoke lease")
}

#[tokio::test(start_paused = true)]
async fn a_class_that_lets_expire_is_forgotten_unrevoked() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount_of(&expiring(&node)).await;
    pass(3 * HOUR).await;
    assert!(node.server.count("renew lease") > 0, "while mounted, alive");
    node.unmount().await;
    let renewed = node.server.count("renew token") + node.server.count("renew lease");
    pass(10 * HOUR).await;
    assert_eq!(revocations(&node), 0);
    let after = node.server.count("renew token") + node.server.count("renew lease");
    assert_eq!(after, renewed, "renewals stop with the volume");
    assert!(node.registry.paths().await.is_empty());
    assert_eq!(
        node.mount().await,
        (true, true),
        "the volume is forgotten: its next Mount is a first one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_word_holds_from_the_next_poll() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount_of(&expiring(&node)).await;
    pass(POLL).await;
    assert_eq!(
        node.mount().await,
        (false, false),
        "nothing is fetched for it"
    );
    node.unmount().await;
    pass(Duration::from_secs(10)).await;
    assert_eq!(node.server.count("revoke token"), 1);

    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    pass(POLL).await;
    assert_eq!(node.mount_of(&expiring(&node)).await, (false, false));
    node.unmount().await;
    pass(HOUR).await;
    assert_eq!(revocations(&node), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_runs_out_as_well() {
    let node = Node::start(HOUR, 3 * HOUR);
    let spec = expiring(&node);
    let mut logins = 0;
    for _ in 0..300 {
        logins += usize::from(node.mount_of(&spec).await.0);
        pass(POLL).await;
    }
    assert!(logins > 1, "{logins} logins: sessions were replaced");
    assert_eq!(revocations(&node), 0);
}

#[tokio::test(start_paused = true)]
async fn a_first_mount_that_fails_is_revoked_whatever_the_class_says() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (claim, _) = node.registry.begin(expiring(&node), true).await.unwrap();
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let failed = Ending::Failed {
        session: Some(session),
        fresh: vec![node.creds()],
    };
    claim.end(failed).await.unwrap();
    pass(HOUR / 2).await;
    assert_eq!(node.server.count("revoke token"), 1);
}
