//! Signs of life: which volumes are renewed, and which are not any more.

use std::collections::HashSet;

use super::*;

fn uids(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Node {
    /// Time passes; each half minute the pod watch tells who is there, and each two minutes these are polled.
    async fn live(&self, time: Duration, there: Option<&[&str]>, polled: &[&Arc<MountSpec>]) {
        let mut left = time;
        while !left.is_zero() {
            for spec in polled {
                self.mount_unseen(spec).await;
            }
            for _ in 0..4 {
                if let Some(there) = there {
                    self.registry.pods_there(uids(there));
                }
                pass(30 * SECOND).await;
            }
            left = left.saturating_sub(POLL);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_went_before_its_first_mount_is_missed_by_the_roll() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (stays, went) = (Arc::new(spec_of("stays")), Arc::new(spec_of("went")));
    node.mount_unseen(&stays).await;
    node.mount_unseen(&went).await;
    node.live(60 * SECOND, Some(&["stays"]), &[]).await;
    assert_eq!(node.server.count("revoke token"), 0, "it is young");
    node.live(5 * 60 * SECOND, Some(&["stays"]), &[]).await;
    assert_eq!(node.server.count("revoke token"), 1);
    node.live(HOUR, Some(&["stays"]), &[]).await;
    assert_eq!(node.server.count("revoke token"), 1);
    assert!(node.server.count("renew token") >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_crosses_its_pods_deletion_does_not_keep_the_volume() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let went = Arc::new(spec_of("went"));
    node.mount_unseen(&went).await;
    node.live(4 * 60 * SECOND, Some(&["went"]), &[&went]).await;
    node.registry.pod_gone("went".to_owned(), 30 * SECOND);
    // A poll was under way.
    node.mount_unseen(&went).await;
    node.live(20 * 60 * SECOND, Some(&[]), &[]).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cached_list_that_does_not_know_a_young_pod_yet_ends_nothing() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let young = Arc::new(spec_of("young"));
    node.mount_unseen(&young).await;
    // The watch itself says that it is gone, for a list from the cache was older than the pod.
    node.registry.pod_gone("young".to_owned(), 30 * SECOND);
    node.live(HOUR, Some(&["young"]), &[]).await;
    assert_eq!(node.server.count("revoke token"), 0);
}

#[tokio::test(start_paused = true)]
async fn without_any_view_who_is_not_polled_is_not_renewed_and_not_revoked() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (stays, went) = (Arc::new(spec_of("stays")), Arc::new(spec_of("went")));
    node.mount_unseen(&stays).await;
    node.mount_unseen(&went).await;
    node.live(4 * HOUR, None, &[&stays]).await;
    let renewed = node.server.renewed.lock().unwrap().len();
    assert!(renewed >= 4, "{renewed}");
    assert_eq!(node.server.count("revoke token"), 0);
    assert_eq!(
        node.told(),
        [NoticeKind::CannotRenew],
        "of the one, once, and nothing at its end"
    );
    let paths = node.registry.paths().await;
    assert_eq!(paths.len(), 1, "its record goes with its end: {paths:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_ends_the_doubt() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (stays, late) = (Arc::new(spec_of("stays")), Arc::new(spec_of("late")));
    node.mount_unseen(&stays).await;
    node.mount_unseen(&late).await;
    node.live(50 * 60 * SECOND, None, &[&stays]).await;
    assert_eq!(node.told(), [NoticeKind::CannotRenew]);
    let (new_login, _) = node.mount_seen(&late, false).await;
    assert!(!new_login, "it had not run out yet");
    node.live(4 * HOUR, None, &[&stays, &late]).await;
    assert_eq!(node.told(), []);
    assert_eq!(node.registry.paths().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_orphaned_path_whose_pod_is_gone_runs_out() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (stays, orphan) = (Arc::new(spec_of("stays")), Arc::new(spec_of("orphan")));
    node.mount_of(&stays).await;
    node.mount_of(&orphan).await;
    for _ in 0..4 * 60 {
        let seen = [&stays, &orphan].map(|spec| (spec.volume.clone(), Sighting::Present));
        node.registry.observed(seen.to_vec()).await;
        node.registry.pods_there(uids(&["stays"]));
        pass(60 * SECOND).await;
    }
    let paths = node.registry.paths().await;
    assert_eq!(paths, std::slice::from_ref(&stays.volume));
    assert_eq!(node.server.count("revoke token"), 0, "it might live");
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_kubelet_is_no_poll_interval() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.live(20 * 60 * SECOND, Some(&["uid"]), &[&node.spec])
        .await;
    node.live(HOUR, Some(&["uid"]), &[]).await;
    node.live(10 * 60 * SECOND, Some(&["uid"]), &[&node.spec])
        .await;
    // A lease of three polls would be too short for a rotation of an hour, and would be told so.
    assert_eq!(node.told(), []);
}
