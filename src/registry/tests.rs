//! The worker on a paused clock: days pass in milliseconds. The keeper is a fake that plays the server.

mod broken;
mod edited;
mod ends;
mod evidence;
mod failing;
mod histories;
mod kept;
mod look_ups;
mod mounts;
mod outage;
mod settle;
mod world;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use futures::future::BoxFuture;

use super::notice::NoticeKind;
use super::*;
use crate::clock::Moment;
use crate::grant::{Admitted, Keep, KeepError, PlannedCall, Renewal, Revoked, Term, TokenKind};
use crate::redacted::{Secret, SecretBytes};
use crate::spec::{Endpoint, Login, Method, Object, OnUnmount, Pod, Selector, Tls};

/// The boot-time clock, driven by tokio's.
#[derive(Clone, Copy)]
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::from_boot(Duration::from_secs(10_000) + self.0.elapsed())
    }
}

/// What the server does at present.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Away,
    NoSuchToken,
    /// Somebody has revoked the leases; tokens live.
    NoSuchLease,
    /// The leases' backend is broken; tokens renew.
    LeasesBroken,
    /// No policy allows a look-up.
    LookUpsForbidden,
    /// No policy but `default`: no lease may be revoked.
    DefaultPolicy,
}

struct Server {
    clock: TestClock,
    term: Duration,
    /// No renewal moves an end beyond this.
    last: Moment,
    mood: Mutex<Mood>,
    /// Nobody is to call before.
    closed_until: Mutex<Option<Moment>>,
    calls: Mutex<Vec<(&'static str, Moment)>>,
    /// The sessions whose tokens were renewed, in that order.
    renewed: Mutex<Vec<String>>,
}

impl Server {
    fn note(&self, what: &'static str) -> Mood {
        self.calls.lock().unwrap().push((what, self.clock.now()));
        *self.mood.lock().unwrap()
    }

    fn renewal(&self, mood: Mood) -> Result<Renewal, KeepError> {
        let why = "as the test wants".to_owned();
        match mood {
            Mood::Well
            | Mood::NoSuchLease
            | Mood::LeasesBroken
            | Mood::LookUpsForbidden
            | Mood::DefaultPolicy => {
                let sent = self.clock.now();
                let granted = self.term.min(self.last.since(sent));
                let term = Term::new(sent, granted);
                Ok(Renewal {
                    term,
                    renewable: true,
                    capped: false,
                })
            }
            Mood::Away => Err(KeepError::Transient {
                why,
                retry_after: None,
            }),
            Mood::NoSuchToken => Err(KeepError::TokenDead { why }),
        }
    }

    fn look_up(&self, mood: Mood, lease: bool) -> Result<(), KeepError> {
        let why = "as the test wants".to_owned();
        match mood {
            Mood::Well | Mood::LeasesBroken | Mood::DefaultPolicy => Ok(()),
            Mood::Away => Err(KeepError::Transient {
                why,
                retry_after: None,
            }),
            Mood::NoSuchToken => Err(KeepError::TokenDead { why }),
            Mood::NoSuchLease if lease => Err(KeepError::Gone { why }),
            Mood::NoSuchLease => Ok(()),
            Mood::LookUpsForbidden => Err(KeepError::Forbidden { why }),
        }
    }

    fn revocation(mood: Mood, lease: bool) -> Result<Revoked, KeepError> {
        let why = "as the test wants".to_owned();
        match mood {
            Mood::DefaultPolicy if lease => Err(KeepError::Forbidden { why }),
            Mood::Well
            | Mood::NoSuchLease
            | Mood::LeasesBroken
            | Mood::LookUpsForbidden
            | Mood::DefaultPolicy => Ok(Revoked::Accepted),
            Mood::Away => Err(KeepError::Transient {
                why,
                retry_after: None,
            }),
            Mood::NoSuchToken => Ok(Revoked::AlreadyDead),
        }
    }

    /// Waits for as long as nobody is to call.
    async fn opens(&self) {
        loop {
            let until = *self.closed_until.lock().unwrap();
            let Some(until) = until.filter(|until| *until > self.clock.now()) else {
                return;
            };
            tokio::time::sleep(until.since(self.clock.now()).min(SECOND / 2)).await;
        }
    }

    fn count(&self, what: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(call, _)| *call == what).count()
    }
}

/// The server as the registry sees it.
struct Fake(Arc<Server>);

impl LeaseKeeper for Fake {
    fn admit(&self, _: PlannedCall) -> BoxFuture<'static, Admitted> {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            server.opens().await;
            Admitted::holding(())
        })
    }

    fn renew_session(
        &self,
        session: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        self.0.renewed.lock().unwrap().push(session.id.clone());
        let answer = self.0.renewal(self.0.note("renew token"));
        Box::pin(async { answer })
    }

    fn renew_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        let answer = match self.0.note("renew lease") {
            Mood::NoSuchLease => Err(KeepError::Gone {
                why: "as the test wants".to_owned(),
            }),
            Mood::LeasesBroken => Err(KeepError::Transient {
                why: "as the test wants".to_owned(),
                retry_after: None,
            }),
            mood => self.0.renewal(mood),
        };
        Box::pin(async { answer })
    }

    fn look_up_session(
        &self,
        _: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let answer = self.0.look_up(self.0.note("look the token up"), false);
        Box::pin(async { answer })
    }

    fn look_up_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let answer = self.0.look_up(self.0.note("look the lease up"), true);
        Box::pin(async { answer })
    }

    fn revoke_session(
        &self,
        _: Arc<Session>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let answer = Server::revocation(self.0.note("revoke token"), false);
        Box::pin(async { answer })
    }

    fn revoke_lease(
        &self,
        _: Arc<Session>,
        _: String,
        _: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let answer = Server::revocation(self.0.note("revoke lease"), true);
        Box::pin(async { answer })
    }
}

struct Node {
    registry: Registry,
    server: Arc<Server>,
    clock: TestClock,
    spec: Arc<MountSpec>,
    told: Mutex<mpsc::Receiver<notice::Notice>>,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_secs(120);

fn request() -> Request {
    Request {
        method: Method::Get,
        path: "database/creds/app".to_owned(),
        query: Vec::new(),
        args: None,
    }
}

fn spec() -> MountSpec {
    spec_of("uid")
}

fn spec_of(uid: &str) -> MountSpec {
    MountSpec {
        volume: VolumeId {
            pod_uid: uid.to_owned(),
            target_path: PathBuf::from(format!("/pods/{uid}/mount")),
        },
        pod: Pod {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        },
        class: "app".to_owned(),
        endpoint: Endpoint {
            address: "http://vault".to_owned(),
            namespace: None,
            tls: Tls::default(),
        },
        login: Login {
            mount: "kubernetes".to_owned(),
            role: "app".to_owned(),
            audience: "vault".to_owned(),
        },
        objects: vec![Object {
            name: "user".to_owned(),
            request: request(),
            selector: Selector::Response,
            encoding: crate::spec::Encoding::Utf8,
            mode: 0o644,
        }],
        on_unmount: OnUnmount::default(),
    }
}

impl Node {
    /// A registry over a server that grants `term` at a time, until `last` from now.
    fn start(term: Duration, last: Duration) -> Self {
        Self::with_quota(term, last, Settings::default().quota)
    }

    /// The same with so much room for what is kept.
    fn with_quota(term: Duration, last: Duration, quota: usize) -> Self {
        let clock = TestClock(tokio::time::Instant::now());
        let server = Arc::new(Server {
            clock,
            term,
            last: clock.now().plus(last),
            mood: Mutex::new(Mood::Well),
            closed_until: Mutex::new(None),
            calls: Mutex::new(Vec::new()),
            renewed: Mutex::new(Vec::new()),
        });
        let metrics = Metrics::new();
        let (notices, told) = Notices::channel(metrics.clone());
        // Nobody looks at paths here, or tells who is there.
        let settings = Settings {
            unattested: Duration::MAX,
            quota,
            ..Settings::default()
        };
        let (registry, looks, worker) = Registry::start(
            settings,
            Arc::new(Fake(Arc::clone(&server))),
            Arc::new(clock),
            Journal::none(),
            metrics,
            notices,
        );
        tokio::spawn(worker);
        std::mem::forget(looks);
        Self {
            registry,
            server,
            clock,
            spec: Arc::new(spec()),
            told: Mutex::new(told),
        }
    }

    /// The kinds of the notices since the last time this was asked.
    fn told(&self) -> Vec<NoticeKind> {
        let mut told = self.told.lock().unwrap();
        std::iter::from_fn(|| told.try_recv().ok())
            .map(|notice| notice.kind)
            .collect()
    }

    fn mood(&self, mood: Mood) {
        *self.server.mood.lock().unwrap() = mood;
    }

    fn term(&self) -> Term {
        Term::new(self.clock.now(), self.server.term)
    }

    fn login(&self) -> Arc<Session> {
        Arc::new(Session {
            id: format!("{:?}", self.clock.now()),
            endpoint: self.spec.endpoint.clone(),
            login: self.spec.login.clone(),
            service_account: self.spec.pod.service_account_id(),
            token: Secret::from("token".to_owned()),
            accessor: format!("accessor {:x}", rand::random::<u64>()),
            kind: TokenKind::Service,
            policies: vec!["default".to_owned()],
            renewable: true,
            counted: false,
            term: self.term(),
        })
    }

    fn creds(&self) -> Arc<Grant> {
        Arc::new(Grant {
            request: request(),
            body: SecretBytes::from(b"{}".to_vec()),
            keys: None,
            raw: false,
            keep: Keep::Lease {
                id: format!("lease {:x}", rand::random::<u64>()),
                renewable: true,
            },
            term: self.term(),
        })
    }

    /// A Mount as `mount` would do it; tells whether it logged in, and whether it read.
    async fn mount(&self) -> (bool, bool) {
        self.mount_of(&self.spec).await
    }

    async fn mount_of(&self, spec: &Arc<MountSpec>) -> (bool, bool) {
        self.mount_seen(spec, true).await
    }

    /// One whose path we cannot see.
    async fn mount_unseen(&self, spec: &Arc<MountSpec>) {
        self.mount_seen(spec, false).await;
    }

    async fn mount_seen(&self, spec: &Arc<MountSpec>, seen: bool) -> (bool, bool) {
        let (claim, held) = self.registry.begin(Arc::clone(spec), seen).await.unwrap();
        let logs_in = held.session.is_none();
        let session = match held.session {
            Some(session) => session,
            None => {
                let session = self.login();
                claim.hold(Arc::clone(&session)).await.unwrap();
                session
            }
        };
        let kept = held.grants.get(&request()).cloned();
        let reads = kept.is_none();
        let grants = vec![kept.unwrap_or_else(|| self.creds())];
        claim
            .end(Ending::Complete { session, grants })
            .await
            .unwrap();
        self.registry.answered(spec.volume.clone());
        (logs_in, reads)
    }

    /// The path is looked at, twice, with the confirmation's time between.
    async fn unmount(&self) {
        self.unmount_of(&self.spec).await;
    }

    async fn unmount_of(&self, spec: &MountSpec) {
        let absent = || vec![(spec.volume.clone(), Sighting::Absent)];
        assert!(
            self.registry.observed(absent()).await,
            "one look decides nothing"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!self.registry.observed(absent()).await);
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_day_without_polls_is_renewed_through() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    assert_eq!(node.mount().await, (true, true));
    pass(24 * HOUR).await;
    // At 0.40 to 0.55 of an hour, and at 0.50 to 0.67.
    assert!((43..=61).contains(&node.server.count("renew token")));
    assert!((35..=49).contains(&node.server.count("renew lease")));
    assert_eq!(node.mount().await, (false, false));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_twenty_minutes_costs_nothing() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    for _ in 0..20 {
        pass(HOUR).await;
        node.mood(Mood::Away);
        pass(Duration::from_secs(20 * 60)).await;
        node.mood(Mood::Well);
        pass(Duration::from_secs(300)).await;
        assert_eq!(node.mount().await, (false, false));
    }
    let attempts = node.server.count("renew token");
    assert!(attempts < 5_000, "{attempts} attempts: retries are paced");
}

#[tokio::test(start_paused = true)]
async fn what_reaches_its_maximum_is_replaced_before_it_dies() {
    let node = Node::start(HOUR, 3 * HOUR);
    node.mount().await;
    let start = node.clock.now();
    let mut replaced = None;
    while replaced.is_none() {
        pass(POLL).await;
        let (logs_in, reads) = node.mount().await;
        assert_eq!(logs_in, reads, "with its token goes its lease");
        if logs_in {
            replaced = Some(node.clock.now().since(start));
        }
    }
    let replaced = replaced.unwrap();
    assert!(replaced < 3 * HOUR - POLL, "{replaced:?}");
    assert!(replaced > 3 * HOUR - 4 * POLL, "{replaced:?}");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_ends_is_revoked_until_the_server_agrees() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::Away);
    node.unmount().await;
    pass(Duration::from_secs(600)).await;
    assert!(node.server.count("revoke token") > 5);
    assert!(
        node.registry.paths().await.is_empty(),
        "it is no mounted volume any more"
    );
    node.mood(Mood::Well);
    pass(Duration::from_secs(120)).await;
    let after = node.server.count("revoke token");
    pass(10 * HOUR).await;
    assert_eq!(
        node.server.count("revoke token"),
        after,
        "and then it is over"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revocation_ends_with_the_token() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    node.mood(Mood::Away);
    node.unmount().await;
    pass(HOUR).await;
    let after = node.server.count("revoke token");
    pass(10 * HOUR).await;
    assert_eq!(node.server.count("revoke token"), after);
}

#[tokio::test(start_paused = true)]
async fn an_absence_is_confirmed_and_a_return_counts() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    node.mount().await;
    let see = |sighting| {
        node.registry
            .observed(vec![(node.spec.volume.clone(), sighting)])
    };
    assert!(see(Sighting::Absent).await);
    pass(Duration::from_secs(1)).await;
    assert!(!see(Sighting::Present).await);
    pass(Duration::from_secs(5)).await;
    assert!(see(Sighting::Absent).await, "the count begins anew");
    pass(Duration::from_secs(1)).await;
    assert!(see(Sighting::Absent).await);
    assert_eq!(node.server.count("revoke token"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_was_never_seen_leaves_the_decision_to_the_pod() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let (claim, _) = node
        .registry
        .begin(Arc::clone(&node.spec), false)
        .await
        .unwrap();
    let session = node.login();
    claim.hold(Arc::clone(&session)).await.unwrap();
    let grants = vec![node.creds()];
    claim
        .end(Ending::Complete { session, grants })
        .await
        .unwrap();
    node.registry.answered(node.spec.volume.clone());
    let absent = vec![(node.spec.volume.clone(), Sighting::Absent)];
    assert!(
        !node.registry.observed(absent).await,
        "never seen: its absence means nothing"
    );
    pass(HOUR).await;
    assert_eq!(node.server.count("revoke token"), 0);
    node.registry
        .pod_gone("uid".to_owned(), Duration::from_secs(30));
    pass(Duration::from_secs(80)).await;
    assert_eq!(
        node.server.count("revoke token"),
        0,
        "its containers may still run"
    );
    pass(Duration::from_secs(20)).await;
    assert_eq!(node.server.count("revoke token"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_result_that_nobody_took_waits_without_its_path_for_kubelets_next_attempt() {
    let node = Node::start(HOUR, 1_000 * HOUR);
    let unanswered = || async {
        let (claim, held) = node
            .registry
            .begin(Arc::clone(&node.spec), true)
            .await
            .unwrap();
        let logs_in = held.session.is_none();
        let session = held.session.unwrap_or_else(|| node.login());
        if logs_in {
            claim.hold(Arc::clone(&session)).await.unwrap();
        }
        let grants = vec![node.creds()];
        claim
            .end(Ending::Complete { session, grants })
            .await
            .unwrap();
        logs_in
    };
    assert!(unanswered().await);
    let absent = || vec![(node.spec.volume.clone(), Sighting::Absent)];
    for _ in 0..100 {
        assert!(!node.registry.observed(absent()).await);
        pass(SECOND).await;
    }
    assert_eq!(node.server.count("revoke token"), 0);
    assert!(!unanswered().await, "the next attempt finds it");
    pass(Duration::from_secs(299)).await;
    assert_eq!(node.server.count("revoke token"), 0);
    pass(Duration::from_secs(3)).await;
    assert_eq!(node.server.count("revoke token"), 1, "nobody came");
    // With its pod it goes earlier.
    assert!(unanswered().await);
    node.registry
        .pod_gone("uid".to_owned(), Duration::from_secs(30));
    pass(Duration::from_secs(92)).await;
    assert_eq!(node.server.count("revoke token"), 2);
}

mod unmount;
