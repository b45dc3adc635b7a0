//! The ends of volumes, seen in real directories by a real registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leasehold::liveness::Heartbeat;
use leasehold::paths::{self, Settings, Sight};
use leasehold::registry;
use leasehold::spec::VolumeId;
use support::held::{Held, spec, volume};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Long enough that nothing in a test comes from it.
const NEVER: Duration = Duration::from_secs(3600);
const CONFIRM: Duration = Duration::from_millis(60);
const VIEW: &str = "no_path_view";

/// Whether the watcher learns of new paths in time to set inotify beside them. Withheld, it is as if
/// there were no inotify: the periodic look is alone.
#[derive(PartialEq, Eq)]
enum Hint {
    Given,
    Withheld,
}

struct Node {
    root: TempDir,
    held: Held,
    ask: mpsc::UnboundedSender<VolumeId>,
}

impl Node {
    fn new(interval: Duration, hint: Hint) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (mut held, mut looks) = Held::new(registry::Settings {
            confirm: CONFIRM,
            ..registry::Settings::default()
        });
        let settings = Settings {
            pods_dir: root.path().join("pods"),
            own_pod_uid: Some("own".to_owned()),
            interval,
            confirm: CONFIRM,
        };
        fs::create_dir_all(settings.pods_dir.join("own")).unwrap();
        let sight = Sight::new(&settings);
        let (ask, asked) = mpsc::unbounded_channel();
        let (registry, metrics) = (held.registry.clone(), held.metrics.clone());
        held.tasks.push(tokio::spawn(async move {
            let (mut asked, heartbeat) = (asked, Heartbeat::default());
            paths::watch(settings, sight, registry, &mut asked, &heartbeat, metrics).await;
        }));
        let forward = ask.clone();
        held.tasks.push(tokio::spawn(async move {
            while let Some(volume) = looks.recv().await {
                if hint == Hint::Given {
                    forward.send(volume).unwrap();
                }
            }
        }));
        Self { root, held, ask }
    }

    fn pods(&self) -> PathBuf {
        self.root.path().join("pods")
    }

    async fn mount(&self, uid: &str) -> VolumeId {
        let volume = volume(&self.pods(), uid);
        fs::create_dir_all(&volume.target_path).unwrap();
        self.held.mount(&volume, true).await;
        volume
    }

    /// Gives the watcher the time to take up what was asked of it.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.held.registry.paths().await;
        }
    }
}

/// As the driver and kubelet do it: `mount`, then the volume's own directory.
fn unmount(volume: &VolumeId) {
    fs::remove_dir(&volume.target_path).unwrap();
    fs::remove_dir(volume.target_path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_removal_is_seen_at_once_where_inotify_is_there() {
    let node = Node::new(NEVER, Hint::Given);
    let volume = node.mount("one").await;
    node.settle().await;
    unmount(&volume);
    // Of the node's only volume, too.
    node.held.until_revoked(&["one"]).await;
}

#[tokio::test]
async fn a_removal_is_seen_by_the_periodic_look_where_inotify_is_not() {
    let node = Node::new(Duration::from_millis(100), Hint::Withheld);
    let (gone, stays) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    unmount(&gone);
    node.held.until_revoked(&["one"]).await;
    node.settle().await;
    assert_eq!(node.held.revoked(), ["one"], "{stays} is still there");
}

#[tokio::test]
async fn pods_that_come_all_the_time_do_not_put_the_periodic_look_off() {
    let node = Node::new(Duration::from_millis(200), Hint::Withheld);
    let (gone, busy) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    let ask = node.ask.clone();
    let asking = tokio::spawn(async move {
        while ask.send(busy.clone()).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    unmount(&gone);
    node.held.until_revoked(&["one"]).await;
    asking.abort();
}

#[tokio::test]
async fn a_kubelet_directory_out_of_sight_ends_no_volume_until_it_is_back() {
    let node = Node::new(Duration::from_millis(50), Hint::Given);
    let (gone, stays) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    let away = node.root.path().join("away");
    fs::rename(node.pods(), &away).unwrap();
    fs::create_dir_all(node.pods().join("own")).unwrap();
    node.held.until_degraded(VIEW, 1).await;
    node.settle().await;
    assert!(node.held.revoked().is_empty(), "{:?}", node.held.revoked());
    fs::remove_dir_all(node.pods()).unwrap();
    fs::rename(&away, node.pods()).unwrap();
    node.held.until_degraded(VIEW, 0).await;
    unmount(&gone);
    node.held.until_revoked(&["one"]).await;
    assert!(stays.target_path.exists());
}

#[tokio::test]
async fn a_volume_below_another_kubelets_root_is_watched_there() {
    for hint in [Hint::Given, Hint::Withheld] {
        let node = Node::new(Duration::from_millis(100), hint);
        let other = node.root.path().join("mnt/kubelet/pods");
        fs::create_dir_all(other.join("own")).unwrap();
        let elsewhere = volume(&other, "one");
        fs::create_dir_all(&elsewhere.target_path).unwrap();
        node.held.mount(&elsewhere, true).await;
        let here = node.mount("two").await;
        node.settle().await;
        unmount(&elsewhere);
        node.held.until_revoked(&["one"]).await;
        assert!(here.target_path.exists());
        unmount(&here);
        node.held.until_revoked(&["one", "two"]).await;
    }
}

#[tokio::test]
async fn a_path_of_another_root_is_complained_about() {
    let node = Node::new(Duration::from_millis(50), Hint::Given);
    let spec = Arc::new(spec(&volume(Path::new("/var/lib/other/pods"), "one")));
    let (_claim, _) = node.held.registry.begin(spec, false).await.unwrap();
    node.held.until_degraded(VIEW, 1).await;
    assert!(node.held.revoked().is_empty());
}
