//! What a look at a path shows, over real directories.

use super::*;

fn sight(pods_dir: &Path, own_pod_uid: Option<&str>) -> Sight {
    Sight::new(&Settings {
        pods_dir: pods_dir.to_owned(),
        own_pod_uid: own_pod_uid.map(str::to_owned),
        interval: Duration::from_secs(5),
        confirm: Duration::from_secs(2),
    })
}

fn blind(presence: &Presence, why: &str) -> bool {
    matches!(presence, Presence::Blind(reason) if reason.contains(why))
}

#[test]
fn a_missing_path_is_absent_only_with_proven_sight() {
    let root = tempfile::tempdir().unwrap();
    let pods = root.path().join("pods");
    fs::create_dir_all(pods.join("own")).unwrap();
    let path = pods.join("uid/volumes/kubernetes.io~csi/v/mount");
    fs::create_dir_all(&path).unwrap();
    let sight = sight(&pods, Some("own"));
    assert_eq!(sight.look(&path), Presence::Present);
    fs::remove_dir(&path).unwrap();
    assert_eq!(sight.look(&path), Presence::Absent);
    // Our own pod out of sight.
    fs::rename(pods.join("own"), pods.join("other")).unwrap();
    assert!(blind(&sight.look(&path), "our own pod"));
    fs::rename(pods.join("other"), pods.join("own")).unwrap();
    assert_eq!(sight.look(&path), Presence::Absent);
    // Another directory in its place: an unmounted hostPath shows an empty one.
    fs::rename(&pods, root.path().join("moved")).unwrap();
    assert!(blind(&sight.look(&path), "cannot be read"));
    fs::create_dir_all(pods.join("own")).unwrap();
    assert!(blind(&sight.look(&path), "at the start"));
    fs::remove_dir_all(&pods).unwrap();
    fs::rename(root.path().join("moved"), &pods).unwrap();
    assert_eq!(sight.look(&path), Presence::Absent);
}

#[test]
fn a_file_where_a_directory_was_is_an_absence_too() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("uid"), "").unwrap();
    let path = root.path().join("uid/volumes/kubernetes.io~csi/v/mount");
    assert_eq!(sight(root.path(), None).look(&path), Presence::Absent);
}

#[test]
fn the_directory_that_does_not_show_our_pod_is_not_taken_for_the_true_one() {
    let root = tempfile::tempdir().unwrap();
    let pods = root.path().join("pods");
    fs::create_dir(&pods).unwrap();
    let sight = sight(&pods, Some("own"));
    let path = pods.join("uid/mount");
    assert!(blind(&sight.look(&path), "our own pod"));
    // The mount comes late: another inode than that of the directory below it.
    fs::rename(&pods, root.path().join("below")).unwrap();
    fs::create_dir_all(pods.join("own")).unwrap();
    assert_eq!(sight.look(&path), Presence::Absent);
}

#[test]
fn a_directory_that_was_missing_at_the_start_counts_from_when_it_comes() {
    let root = tempfile::tempdir().unwrap();
    let pods = root.path().join("pods");
    let sight = sight(&pods, None);
    let path = pods.join("uid/mount");
    assert!(blind(&sight.look(&path), "cannot be read"));
    fs::create_dir_all(&path).unwrap();
    assert_eq!(sight.look(&path), Presence::Present);
    fs::remove_dir(&path).unwrap();
    assert_eq!(sight.look(&path), Presence::Absent);
}

#[test]
fn paths_outside_the_pods_directory_are_not_judged() {
    let root = tempfile::tempdir().unwrap();
    let sight = sight(root.path(), None);
    let outside = sight.look(Path::new("/nowhere/mount"));
    assert!(blind(&outside, "is not below"));
    let unclean = sight.look(&root.path().join("a/../b"));
    assert!(blind(&unclean, "is not below"));
    assert_eq!(sight.look(&root.path().join("a/b")), Presence::Absent);
}

#[tokio::test]
async fn a_removal_beside_a_watch_is_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let volume = VolumeId {
        pod_uid: "uid".to_owned(),
        target_path: root.path().join("uid/volumes/kubernetes.io~csi/v/mount"),
    };
    fs::create_dir_all(&volume.target_path).unwrap();
    let mut hints = Hints::new();
    hints.add(&volume);
    fs::remove_dir(&volume.target_path).unwrap();
    let hinted = tokio::time::timeout(Duration::from_secs(5), hints.next()).await;
    assert!(hinted.unwrap() == [volume.clone()]);
    hints.forget(&volume);
    assert!(hints.by_watch.is_empty() && hints.by_volume.is_empty());
}
