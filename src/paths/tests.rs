//! Real directories, a real registry, and a server that only counts what is given back to it.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::grant::{KeepError, LeaseKeeper, Renewal, Revoked, Session, Term, TokenKind};
use crate::redacted::Secret;
use crate::registry::journal::Journal;
use crate::registry::{self, Ending};
use crate::spec::{Endpoint, Login, MountSpec, Pod, Tls};

/// Long enough that nothing in a test comes from it.
const NEVER: Duration = Duration::from_secs(3600);
const CONFIRM: Duration = Duration::from_millis(60);

fn sight(pods_dir: &Path, own_pod_uid: Option<&str>) -> Sight {
    Sight::new(&Settings {
        pods_dir: pods_dir.to_owned(),
        own_pod_uid: own_pod_uid.map(str::to_owned),
        interval: NEVER,
        confirm: CONFIRM,
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
    let volume = volume(root.path(), "uid");
    fs::create_dir_all(&volume.target_path).unwrap();
    let mut hints = Hints::new();
    hints.add(&volume);
    fs::remove_dir(&volume.target_path).unwrap();
    let hinted = tokio::time::timeout(Duration::from_secs(5), hints.next()).await;
    assert!(hinted.unwrap() == [volume.clone()]);
    hints.forget(&volume);
    assert!(hints.by_watch.is_empty() && hints.by_volume.is_empty());
}

/// Takes revocations and notes whose they were.
#[derive(Default)]
struct Server {
    revoked: Mutex<Vec<String>>,
}

impl LeaseKeeper for Server {
    fn renew_session(&self, _: Arc<Session>) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        unreachable!("an endless token is not renewed")
    }

    fn renew_lease(
        &self,
        _: Arc<Session>,
        _: String,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        unreachable!("there are no leases")
    }

    fn revoke_session(
        &self,
        session: Arc<Session>,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        self.revoked.lock().unwrap().push(session.id.clone());
        async { Ok(Revoked::Accepted) }.boxed()
    }

    fn revoke_lease(
        &self,
        _: Arc<Session>,
        _: String,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        unreachable!("there are no leases")
    }
}

struct Node {
    root: TempDir,
    server: Arc<Server>,
    registry: Registry,
    metrics: Metrics,
    ask: mpsc::UnboundedSender<VolumeId>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    /// A node whose paths are looked at every `interval`, with or without inotify.
    fn new(interval: Duration, hints: Hints) -> Self {
        let root = tempfile::tempdir().unwrap();
        let server = Arc::new(Server::default());
        let metrics = Metrics::new();
        let waits = registry::Settings {
            confirm: CONFIRM,
            ..registry::Settings::default()
        };
        let keeper = Arc::clone(&server);
        let clock = Arc::new(crate::clock::BootClock);
        let (registry, mut looks, worker) =
            Registry::start(waits, keeper, clock, Journal::none(), metrics.clone());
        let settings = Settings {
            pods_dir: root.path().join("pods"),
            own_pod_uid: Some("own".to_owned()),
            interval,
            confirm: CONFIRM,
        };
        fs::create_dir_all(settings.pods_dir.join("own")).unwrap();
        let sight = Sight::new(&settings);
        let (ask, asked) = mpsc::unbounded_channel();
        let forward = ask.clone();
        let watching = watch_with(
            hints,
            settings,
            sight,
            registry.clone(),
            asked,
            metrics.clone(),
        );
        let tasks = vec![
            tokio::spawn(worker),
            tokio::spawn(watching),
            tokio::spawn(async move {
                while let Some(volume) = looks.recv().await {
                    forward.send(volume).unwrap();
                }
            }),
        ];
        Self {
            root,
            server,
            registry,
            metrics,
            ask,
            tasks,
        }
    }

    fn pods(&self) -> PathBuf {
        self.root.path().join("pods")
    }

    /// A volume with one session, as a Mount leaves it.
    async fn mount(&self, uid: &str) -> VolumeId {
        let volume = volume(&self.pods(), uid);
        fs::create_dir_all(&volume.target_path).unwrap();
        let spec = Arc::new(spec(&volume));
        let (claim, _) = self.registry.begin(Arc::clone(&spec), true).await.unwrap();
        let session = Arc::new(session(uid, &spec));
        claim.hold(Arc::clone(&session)).await.unwrap();
        let grants = Vec::new();
        let ending = Ending::Complete { session, grants };
        claim.end(ending).await.unwrap();
        volume
    }

    /// Gives the watcher the time to take up what was asked of it.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.registry.paths().await;
        }
    }

    fn revoked(&self) -> Vec<String> {
        self.server.revoked.lock().unwrap().clone()
    }

    async fn until_revoked(&self, uids: &[&str]) {
        until(
            || self.revoked() == uids,
            || format!("{:?}", self.revoked()),
        )
        .await;
    }

    async fn until_degraded(&self, is: u8) {
        let line = format!("leasehold_degraded{{reason=\"no_path_view\"}} {is}");
        let text = || self.metrics.encode();
        until(|| text().contains(&line), text).await;
    }
}

async fn until(there: impl Fn() -> bool, instead: impl Fn() -> String) {
    for _ in 0..2000 {
        if there() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came; instead: {}", instead());
}

fn volume(pods: &Path, uid: &str) -> VolumeId {
    VolumeId {
        pod_uid: uid.to_owned(),
        target_path: pods.join(uid).join("volumes/kubernetes.io~csi/v/mount"),
    }
}

fn spec(volume: &VolumeId) -> MountSpec {
    MountSpec {
        volume: volume.clone(),
        pod: Pod {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        },
        class: "web".to_owned(),
        endpoint: Endpoint {
            address: "http://127.0.0.1:1".to_owned(),
            namespace: None,
            tls: Tls::default(),
        },
        login: Login {
            mount: "kubernetes".to_owned(),
            role: "web".to_owned(),
            audience: "vault".to_owned(),
        },
        objects: Vec::new(),
    }
}

fn session(id: &str, spec: &MountSpec) -> Session {
    Session {
        id: id.to_owned(),
        endpoint: spec.endpoint.clone(),
        login: spec.login.clone(),
        service_account: spec.pod.service_account_id(),
        token: Secret::from("t".to_owned()),
        accessor: "a".to_owned(),
        kind: TokenKind::Service,
        policies: vec!["default".to_owned()],
        renewable: false,
        term: Term {
            sent: crate::clock::Moment::from_boot(Duration::ZERO),
            granted: Duration::ZERO,
        },
    }
}

/// As the driver and kubelet do it: `mount`, then the volume's own directory.
fn unmount(volume: &VolumeId) {
    fs::remove_dir(&volume.target_path).unwrap();
    fs::remove_dir(volume.target_path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_removal_is_seen_at_once_where_inotify_is_there() {
    let node = Node::new(NEVER, Hints::new());
    let volume = node.mount("one").await;
    node.settle().await;
    unmount(&volume);
    // Of the node's only volume, too.
    node.until_revoked(&["one"]).await;
}

#[tokio::test]
async fn a_removal_is_seen_by_the_periodic_look_where_inotify_is_not() {
    let node = Node::new(Duration::from_millis(100), Hints::none());
    let (gone, stays) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    unmount(&gone);
    node.until_revoked(&["one"]).await;
    node.settle().await;
    assert_eq!(node.revoked(), ["one"], "{stays} is still there");
}

#[tokio::test]
async fn pods_that_come_all_the_time_do_not_put_the_periodic_look_off() {
    let node = Node::new(Duration::from_millis(200), Hints::none());
    let (gone, busy) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    let ask = node.ask.clone();
    let asking = tokio::spawn(async move {
        while ask.send(busy.clone()).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    unmount(&gone);
    node.until_revoked(&["one"]).await;
    asking.abort();
}

#[tokio::test]
async fn a_kubelet_directory_out_of_sight_ends_no_volume_until_it_is_back() {
    let node = Node::new(Duration::from_millis(50), Hints::new());
    let (gone, stays) = (node.mount("one").await, node.mount("two").await);
    node.settle().await;
    let away = node.root.path().join("away");
    fs::rename(node.pods(), &away).unwrap();
    fs::create_dir_all(node.pods().join("own")).unwrap();
    node.until_degraded(1).await;
    node.settle().await;
    assert!(node.revoked().is_empty(), "{:?}", node.revoked());
    fs::remove_dir_all(node.pods()).unwrap();
    fs::rename(&away, node.pods()).unwrap();
    node.until_degraded(0).await;
    unmount(&gone);
    node.until_revoked(&["one"]).await;
    assert!(stays.target_path.exists());
}

#[tokio::test]
async fn a_path_of_another_root_is_complained_about() {
    let node = Node::new(Duration::from_millis(50), Hints::new());
    let spec = Arc::new(spec(&volume(Path::new("/var/lib/other/pods"), "one")));
    let (_claim, _) = node.registry.begin(spec, false).await.unwrap();
    node.until_degraded(1).await;
    assert!(node.revoked().is_empty());
}
