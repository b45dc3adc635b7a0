//! What a look at a path shows, over real directories.

use std::fs;

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

/// A second kubelet root beside the configured one, with a volume in it.
fn second(root: &Path) -> (PathBuf, PathBuf) {
    let pods = root.join("mnt/kubelet/pods");
    let path = pods.join("uid/volumes/kubernetes.io~csi/v/mount");
    fs::create_dir_all(&path).unwrap();
    (pods, path)
}

#[test]
fn another_kubelets_root_follows_from_the_target_path() {
    for own in [None, Some("own")] {
        let root = tempfile::tempdir().unwrap();
        let configured = root.path().join("var/pods");
        let (pods, path) = second(root.path());
        fs::create_dir_all(pods.join("own")).unwrap();
        // It need not even be there: the flag's default on such a node.
        let sight = sight(&configured, own);
        assert_eq!(sight.look(&path), Presence::Present);
        fs::remove_dir(&path).unwrap();
        assert_eq!(sight.look(&path), Presence::Absent);
        let volume = VolumeId {
            pod_uid: "uid".to_owned(),
            target_path: path.clone(),
        };
        let (seen, blind) = sight.look_at(vec![volume]);
        assert_eq!(seen[0].1, Sighting::Absent);
        assert_eq!(blind, None, "the unused directory is no loss");
        let (_, blind) = sight.look_at(Vec::new());
        assert!(blind.unwrap().contains("var/pods cannot be read"));
        // The disk goes: an empty directory is left in its place.
        fs::rename(&pods, root.path().join("gone")).unwrap();
        assert!(matches!(sight.look(&path), Presence::Blind(_)));
        fs::create_dir_all(&pods).unwrap();
        assert!(matches!(sight.look(&path), Presence::Blind(_)));
    }
}

#[test]
fn both_roots_of_a_node_are_seen_each_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let configured = root.path().join("var/pods");
    let here = configured.join("uid/volumes/kubernetes.io~csi/v/mount");
    fs::create_dir_all(&here).unwrap();
    let (pods, there) = second(root.path());
    let sight = sight(&configured, None);
    assert_eq!(sight.look(&here), Presence::Present);
    assert_eq!(sight.look(&there), Presence::Present);
    fs::rename(&pods, root.path().join("gone")).unwrap();
    fs::remove_dir(&here).unwrap();
    assert!(matches!(sight.look(&there), Presence::Blind(_)));
    assert_eq!(sight.look(&here), Presence::Absent);
}

#[test]
fn a_directory_that_a_path_only_names_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let configured = root.path().join("var/pods");
    fs::create_dir_all(configured.join("own")).unwrap();
    let (pods, path) = second(root.path());
    // Not the kubelet that runs us.
    let as_pod = sight(&configured, Some("own"));
    fs::remove_dir_all(pods.join("uid")).unwrap();
    fs::create_dir(pods.join("other")).unwrap();
    assert!(blind(&as_pod.look(&path), "does not show our own pod"));
    let as_process = sight(&configured, None);
    fs::remove_dir(pods.join("other")).unwrap();
    // No pod at its own place, no such volume at the flag's.
    assert!(blind(&as_process.look(&path), "shows no pod"));
    // What does not look like kubelet's path names no directory at all.
    for odd in [
        "pods/uid/volumes/x/v/mount",
        "uid/volumes/kubernetes.io~csi/v/mount",
        "mount",
    ] {
        let odd = root.path().join("mnt").join(odd);
        fs::create_dir_all(&odd).unwrap();
        assert!(
            blind(&as_process.look(&odd), "is not below"),
            "{}",
            odd.display()
        );
    }
}

#[test]
fn a_root_that_is_mounted_at_the_flags_place_is_looked_for_there() {
    let root = tempfile::tempdir().unwrap();
    let mounted = root.path().join("host-pods");
    let below = "uid/volumes/kubernetes.io~csi/v/mount";
    fs::create_dir_all(mounted.join(below)).unwrap();
    let named = root.path().join("nowhere/kubelet/pods").join(below);
    let sight = sight(&mounted, None);
    assert_eq!(sight.look(&named), Presence::Present);
    assert_eq!(sight.seen_at(&named), Some(mounted.join(below)));
    fs::remove_dir(mounted.join(below)).unwrap();
    assert_eq!(sight.look(&named), Presence::Absent);
    // Its own name comes into sight later: it stays where it was found.
    fs::create_dir_all(&named).unwrap();
    assert_eq!(sight.look(&named), Presence::Absent);
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
    hints
        .add(vec![volume.clone()], &sight(root.path(), None))
        .await;
    fs::remove_dir(&volume.target_path).unwrap();
    let hinted = tokio::time::timeout(Duration::from_secs(5), hints.next()).await;
    assert!(hinted.unwrap() == [volume.clone()]);
    hints.forget(&volume);
    assert!(hints.by_watch.is_empty() && hints.by_volume.is_empty());
}
