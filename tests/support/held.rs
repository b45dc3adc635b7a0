//! A registry in a test's own process, over a server that only counts what is given back to it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use leasehold::clock::{BootClock, Moment};
use leasehold::grant::{
    Admitted, KeepError, LeaseKeeper, PlannedCall, Renewal, Revoked, Session, Term, TokenKind,
};
use leasehold::metrics::Metrics;
use leasehold::redacted::Secret;
use leasehold::registry::journal::Journal;
use leasehold::registry::notice::Notices;
use leasehold::registry::{Ending, Registry, Settings};
use leasehold::spec::{Endpoint, Login, MountSpec, OnUnmount, Pod, Tls, VolumeId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Takes revocations and notes whose they were.
#[derive(Default)]
struct Server {
    revoked: Mutex<Vec<String>>,
}

impl LeaseKeeper for Server {
    fn admit(&self, _: PlannedCall) -> BoxFuture<'static, Admitted> {
        async { Admitted::holding(()) }.boxed()
    }

    fn renew_session(
        &self,
        _: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        unreachable!("an endless token is not renewed")
    }

    fn renew_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        unreachable!("there are no leases")
    }

    fn look_up_session(
        &self,
        _: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        async { Ok(()) }.boxed()
    }

    fn look_up_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        unreachable!("there are no leases")
    }

    fn revoke_session(
        &self,
        session: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        self.revoked.lock().unwrap().push(session.id.clone());
        async { Ok(Revoked::Accepted) }.boxed()
    }

    fn revoke_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        unreachable!("there are no leases")
    }
}

/// The registry with its worker; both end when dropped.
pub struct Held {
    server: Arc<Server>,
    pub registry: Registry,
    pub metrics: Metrics,
    pub tasks: Vec<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Held {
    /// A registry without a journal, and the paths that it wants looked at.
    pub fn new(settings: Settings) -> (Self, mpsc::UnboundedReceiver<VolumeId>) {
        let server = Arc::new(Server::default());
        let metrics = Metrics::new();
        let keeper = Arc::clone(&server);
        let clock = Arc::new(BootClock);
        // Nobody carries events here.
        let (notices, _) = Notices::channel(metrics.clone());
        let (registry, looks, worker) = Registry::start(
            settings,
            keeper,
            clock,
            Journal::none(),
            metrics.clone(),
            notices,
        );
        let held = Self {
            server,
            registry,
            metrics,
            tasks: vec![tokio::spawn(worker)],
        };
        (held, looks)
    }

    /// Registers a volume with one session of its pod's name, as a Mount leaves it; `seen` says whether
    /// the Mount saw its path.
    pub async fn mount(&self, volume: &VolumeId, seen: bool) {
        let spec = Arc::new(spec(volume));
        let (claim, _) = self.registry.begin(Arc::clone(&spec), seen).await.unwrap();
        let session = Arc::new(session(&volume.pod_uid, &spec));
        claim.hold(Arc::clone(&session)).await.unwrap();
        let grants = Vec::new();
        let ending = Ending::Complete { session, grants };
        claim.end(ending).await.unwrap();
        self.registry.answered(volume.clone());
    }

    /// The pods whose sessions were given back, in that order.
    pub fn revoked(&self) -> Vec<String> {
        self.server.revoked.lock().unwrap().clone()
    }

    pub async fn until_revoked(&self, uids: &[&str]) {
        until(
            || self.revoked() == uids,
            || format!("{:?}", self.revoked()),
        )
        .await;
    }

    pub async fn until_degraded(&self, reason: &str, is: u8) {
        let line = format!("leasehold_degraded{{reason=\"{reason}\"}} {is}");
        let text = || self.metrics.encode();
        until(|| text().contains(&line), text).await;
    }
}

/// Waits for ten seconds at most; then says what is there instead.
pub async fn until(there: impl Fn() -> bool, instead: impl Fn() -> String) {
    for _ in 0..1000 {
        if there() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came; instead: {}", instead());
}

/// The volume of a pod below a pods directory, where the driver mounts it.
pub fn volume(pods: &Path, uid: &str) -> VolumeId {
    VolumeId {
        pod_uid: uid.to_owned(),
        target_path: pods.join(uid).join("volumes/kubernetes.io~csi/v/mount"),
    }
}

/// A Mount of a volume that asks for no object.
pub fn spec(volume: &VolumeId) -> MountSpec {
    MountSpec {
        volume: volume.clone(),
        pod: Pod {
            name: volume.pod_uid.clone(),
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
        on_unmount: OnUnmount::default(),
    }
}

fn session(id: &str, spec: &MountSpec) -> Session {
    Session {
        id: id.to_owned(),
        endpoint: spec.endpoint.clone(),
        login: spec.login.clone(),
        service_account: spec.pod.service_account_id(),
        token: Secret::from("t".to_owned()),
        accessor: id.to_owned(),
        kind: TokenKind::Service,
        policies: vec!["default".to_owned()],
        renewable: false,
        counted: false,
        term: Term::endless(Moment::from_boot(Duration::ZERO)),
    }
}
