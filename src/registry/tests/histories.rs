//! The worker over random histories: mounts, polls, failures, clock jumps, restarts, ends in every order.
//!
//! `LEASEHOLD_HISTORIES=2000` plays more of them; a failure prints its seed (jitter is drawn elsewhere, so that the
//! same seed gives nearly the same history).

use super::world::{ABSURD, Dice, Keeper, Temper, World};
use super::*;

const HISTORIES: u64 = 10;
const EVENTS: u64 = 40;
const VOLUMES: u64 = 5;

fn histories() -> u64 {
    let asked = std::env::var("LEASEHOLD_HISTORIES").ok();
    asked
        .and_then(|asked| asked.parse().ok())
        .unwrap_or(HISTORIES)
}

/// A mounted volume, as the test knows it.
#[derive(Default)]
struct Known {
    /// The lease that its files show.
    lease: Option<String>,
    /// Its first result was taken by nobody: it waits for kubelet's next attempt, path or no path.
    parked: bool,
    /// Every token that was opened for it.
    tokens: Vec<String>,
}

struct Running {
    registry: Registry,
    worker: tokio::task::JoinHandle<()>,
    metrics: Metrics,
    sweeper: tokio::task::JoinHandle<()>,
    _told: mpsc::Receiver<notice::Notice>,
}

struct History {
    world: Arc<World>,
    directory: tempfile::TempDir,
    running: Running,
    dice: Dice,
    volumes: Vec<Known>,
    named: u64,
}

impl History {
    fn new(seed: u64, term: Duration) -> Self {
        let world = Arc::new(World::new(seed, term));
        let directory = tempfile::tempdir().unwrap();
        let running = start(&world, &directory);
        Self {
            world,
            directory,
            running,
            dice: Dice(seed),
            volumes: (0..VOLUMES).map(|_| Known::default()).collect(),
            named: 0,
        }
    }

    fn temper(&self, temper: Temper) {
        self.world.books.lock().unwrap().temper = temper;
    }

    fn name(&mut self) -> String {
        self.named += 1;
        format!("{}", self.named)
    }

    /// One event, and what the worker may do for it at most.
    async fn event(&mut self, event: impl AsyncFnOnce(&mut Self)) {
        self.world.clock.allow();
        let calls = || self.world.books.lock().unwrap().calls;
        let (calls_before, turns_before) = (calls(), self.running.registry.heartbeat().turns());
        let start = tokio::time::Instant::now();
        event(self).await;
        // It is there, whatever is due.
        self.running.registry.paths().await;
        let calls = self.world.books.lock().unwrap().calls - calls_before;
        // A restarted worker counts from nothing.
        let turns = self.running.registry.heartbeat().turns();
        let turns = turns.saturating_sub(turns_before);
        // Every ten seconds, and twice a second while calls wait for a server that lets nobody through.
        let most = 100 + 3 * start.elapsed().as_secs() + 6 * calls;
        assert!(
            turns <= most,
            "{turns} turns for {calls} calls, at most {most}"
        );
    }

    async fn restart(&mut self, kill: bool, alter: impl FnOnce(&mut Self)) {
        self.running.sweeper.abort();
        if kill {
            self.running.worker.abort();
        } else {
            self.running.registry.stop().await;
        }
        let worker = &mut self.running.worker;
        assert!(worker.await.is_ok() || kill, "the worker has panicked");
        assert_eq!(quarantined(&self.running), 0);
        // The writer has the lock until it has written.
        while Journal::open(&state(&self.directory), 1 << 20, true).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        alter(self);
        self.running = start(&self.world, &self.directory);
    }

    fn spec(&mut self, volume: u64, hostile: bool) -> Arc<MountSpec> {
        let mut spec = spec_of(&format!("uid-{volume}"));
        if self.dice.one_in(8) {
            spec.login.role = "other".to_owned();
        }
        if hostile && self.dice.one_in(4) {
            spec.on_unmount = OnUnmount::Expire;
        }
        if self.dice.one_in(8) {
            spec.objects[0].request.path = "database/creds/other".to_owned();
        }
        Arc::new(spec)
    }

    fn term(&mut self, hostile: bool) -> Term {
        let now = self.world.clock.now();
        if !hostile {
            return Term::new(now, self.world.books.lock().unwrap().term);
        }
        let [age, granted] = [0, 1].map(|_| Duration::from_secs(self.dice.of(&ABSURD)));
        Term::aged(now, age, granted)
    }

    async fn mount(&mut self, hostile: bool) {
        let volume = self.dice.below(VOLUMES);
        let spec = self.spec(volume, hostile);
        let seen = !hostile || !self.dice.one_in(3);
        let begun = self.running.registry.begin(Arc::clone(&spec), seen).await;
        let (claim, held) = begun.unwrap();
        let session = match held.session {
            Some(session) => {
                let lives = self.world.token_lives(&session.id);
                assert!(lives || hostile, "a dead token is offered");
                session
            }
            None => {
                let session = self.session(&spec, hostile);
                self.volumes[usize::try_from(volume).unwrap()]
                    .tokens
                    .push(session.id.clone());
                claim.hold(Arc::clone(&session)).await.unwrap();
                session
            }
        };
        if self.dice.one_in(6) {
            pass(Duration::from_secs(self.dice.below(30))).await;
        }
        let request = spec.objects[0].request.clone();
        let grant = match held.grants.get(&request) {
            Some(grant) => Arc::clone(grant),
            None => self.grant(&session, request, hostile),
        };
        let known = &mut self.volumes[usize::try_from(volume).unwrap()];
        match self.dice.below(8) {
            0 => drop(claim),
            1 => {
                let ending = Ending::Failed {
                    session: Some(session),
                    fresh: vec![grant],
                };
                claim.end(ending).await.unwrap();
            }
            outcome => {
                let lease = grant.lease_id().map(str::to_owned);
                let grants = vec![grant];
                let taken = claim.end(Ending::Complete { session, grants }).await;
                if taken.unwrap() && outcome > 2 {
                    self.running.registry.answered(spec.volume.clone());
                    self.world.there.lock().unwrap().insert(spec.volume.clone());
                    known.lease = lease;
                    known.parked = false;
                } else {
                    known.parked |= known.lease.is_none();
                }
            }
        }
    }

    fn session(&mut self, spec: &MountSpec, hostile: bool) -> Arc<Session> {
        let (id, term) = (self.name(), self.term(hostile));
        self.world.login(&id, term);
        let batch = hostile && self.dice.one_in(6);
        Arc::new(Session {
            accessor: if batch { String::new() } else { id.clone() },
            id,
            endpoint: spec.endpoint.clone(),
            login: spec.login.clone(),
            service_account: spec.pod.service_account_id(),
            token: Secret::from("token".to_owned()),
            kind: if batch {
                TokenKind::Batch
            } else {
                TokenKind::Service
            },
            policies: Vec::new(),
            renewable: !hostile || self.dice.one_in(2),
            counted: hostile && self.dice.one_in(8),
            term,
        })
    }

    fn grant(&mut self, session: &Session, request: Request, hostile: bool) -> Arc<Grant> {
        let (id, term) = (self.name(), self.term(hostile));
        self.world.read(&session.id, &id, term);
        let lease = Keep::Lease {
            id,
            renewable: !hostile || self.dice.one_in(2),
        };
        let keep = match self.dice.below(8) {
            0 if hostile => Keep::Certificate,
            1 if hostile => Keep::Expiring,
            2 if hostile => Keep::Written,
            _ => lease,
        };
        Arc::new(Grant {
            request,
            body: SecretBytes::from(b"{}".to_vec()),
            raw: false,
            keep,
            term,
        })
    }

    async fn unmount(&mut self, volume: u64) {
        let id = spec_of(&format!("uid-{volume}")).volume;
        self.world.there.lock().unwrap().remove(&id);
        for _ in 0..2 {
            let absent = vec![(id.clone(), Sighting::Absent)];
            self.running.registry.observed(absent).await;
            pass(Duration::from_secs(3)).await;
        }
        self.volumes[usize::try_from(volume).unwrap()].lease = None;
    }

    /// Everything ends: with a server that is well nothing is left, neither in the journal nor to be done.
    async fn end(mut self) {
        self.temper(Temper::Well);
        for volume in 0..VOLUMES {
            self.event(async |history: &mut Self| {
                history.unmount(volume).await;
                // Where its path was never seen, its pod decides.
                let uid = format!("uid-{volume}");
                history.running.registry.pod_gone(uid, SECOND);
            })
            .await;
        }
        // The longest pauses between two attempts, and the wait for a result that nobody took.
        pass(Duration::from_secs(600)).await;
        self.event(async |_: &mut Self| pass(HOUR).await).await;
        assert_eq!(self.running.registry.paths().await, []);
        let calls = self.world.books.lock().unwrap().calls;
        self.event(async |_: &mut Self| pass(3 * HOUR).await).await;
        assert_eq!(self.world.books.lock().unwrap().calls, calls, "it is over");
        self.restart(false, |history| {
            let files = std::fs::read_dir(state(&history.directory)).unwrap();
            let names = files.flatten().map(|file| file.file_name());
            let left: Vec<_> = names.filter(|name| name != "lock").collect();
            assert!(
                left.iter()
                    .all(|name| name.to_string_lossy().ends_with(".corrupt")),
                "{left:?}"
            );
        })
        .await;
    }
}

fn state(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("state")
}

fn start(world: &Arc<World>, directory: &tempfile::TempDir) -> Running {
    let metrics = Metrics::new();
    let (notices, told) = Notices::channel(metrics.clone());
    let journal = Journal::open(&state(directory), 1 << 20, true).unwrap();
    let (registry, _, worker) = Registry::start(
        Settings::default(),
        Arc::new(Keeper(Arc::clone(world))),
        Arc::clone(&world.clock) as Arc<dyn Clock>,
        journal,
        metrics.clone(),
        notices,
    );
    let sweeper = tokio::spawn(sweep(Arc::clone(world), registry.clone()));
    Running {
        sweeper,
        registry,
        worker: tokio::spawn(worker),
        metrics,
        _told: told,
    }
}

/// Looks at the paths, as `paths.rs` does.
async fn sweep(world: Arc<World>, registry: Registry) {
    loop {
        pass(60 * SECOND).await;
        let there = world.there.lock().unwrap().clone();
        let seen = there.into_iter().map(|volume| (volume, Sighting::Present));
        registry.observed(seen.collect()).await;
    }
}

fn quarantined(running: &Running) -> u64 {
    let text = running.metrics.encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("leasehold_quarantined_total "));
    line.unwrap().parse().unwrap()
}

/// Whatever happens, and whatever a server says, the worker is there, does a bounded amount of work, and comes to an
/// end with everything.
#[tokio::test(start_paused = true)]
async fn any_history_is_lived_through() {
    for seed in 0..histories() {
        println!("seed {seed}");
        let mut history = History::new(seed, HOUR);
        for _ in 0..EVENTS {
            history.event(any_event).await;
        }
        history.end().await;
    }
}

async fn any_event(history: &mut History) {
    let volume = history.dice.below(VOLUMES);
    match history.dice.below(16) {
        0..=4 => history.mount(true).await,
        5 => history.unmount(volume).await,
        6 => {
            let grace = Duration::from_secs(history.dice.of(&ABSURD));
            // A grace of a hundred years is never over: others end it.
            let uid = format!("uid-{volume}");
            history.running.registry.pod_gone(uid, grace.min(HOUR));
        }
        7 | 8 => {
            let seconds = history
                .dice
                .of(&[1, 7, 60, 3600, 24 * 3600, 40 * 24 * 3600]);
            history.world.clock.jump(Duration::from_secs(seconds));
        }
        9..=11 => {
            pass(Duration::from_secs(
                history.dice.of(&[1, 20, 130, 700, 7200]),
            ))
            .await
        }
        12 => {
            let kill = history.dice.one_in(2);
            history.restart(kill, |_| ()).await;
        }
        13 => history.restart(false, alter_numbers).await,
        _ => {
            use Temper::{Away, Breaks, Closed, Hangs, Hostile, Well};
            let temper = history
                .dice
                .of(&[Well, Away, Closed, Hangs, Breaks, Hostile, Hostile]);
            history.temper(temper);
        }
    }
}

/// Puts other numbers into the journal's files, and makes their checksums right.
fn alter_numbers(history: &mut History) {
    let files = std::fs::read_dir(state(&history.directory)).unwrap();
    let files = files.flatten().map(|file| file.path());
    for path in files.filter(|path| path.extension().is_some_and(|is| is == "json")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (header, record) = text.split_once('\n').unwrap();
        let mut altered = String::new();
        let mut rest = record;
        while let Some(from) = rest.find(":").map(|at| at + 1) {
            let (before, after) = rest.split_at(from);
            altered.push_str(before);
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 && history.dice.one_in(6) {
                let absurd = history.dice.of(&ABSURD);
                let written = match history.dice.below(8) {
                    0 => format!("-{absurd}"),
                    1 => format!("{absurd}.5"),
                    2 => "1e400".to_owned(),
                    _ => absurd.to_string(),
                };
                altered.push_str(&written);
                rest = &after[digits..];
            } else {
                rest = after;
            }
        }
        altered.push_str(rest);
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, altered.as_bytes());
        let (start, _) = header.rsplit_once(' ').unwrap();
        std::fs::write(&path, format!("{start} {}\n{altered}", hex::encode(sum))).unwrap();
    }
}

/// A server that keeps its word loses nobody a lease, through outages, suspends and restarts that leave time; and
/// every token is revoked after its path's end.
#[tokio::test(start_paused = true)]
async fn no_lease_is_lost_that_renewals_could_keep() {
    for seed in 0..histories() {
        println!("seed {seed}");
        let term = Dice(seed).of(&[10 * 60 * SECOND, HOUR, 30 * HOUR]);
        let mut history = History::new(seed, term);
        for _ in 0..EVENTS {
            history
                .event(async |history: &mut History| kept_event(history, term).await)
                .await;
            for (volume, known) in history.volumes.iter().enumerate() {
                let lease = known.lease.as_ref();
                let lives = lease.is_none_or(|lease| history.world.lease_lives(lease));
                assert!(lives, "the lease of {volume} is lost");
            }
        }
        let tokens: Vec<String> = history
            .volumes
            .iter()
            .flat_map(|known| known.tokens.clone())
            .collect();
        let world = Arc::clone(&history.world);
        history.end().await;
        for token in tokens {
            assert!(!world.token_lives(&token), "token {token} lives");
        }
    }
}

async fn kept_event(history: &mut History, term: Duration) {
    let volume = history.dice.below(VOLUMES);
    match history.dice.below(12) {
        0..=4 => history.mount(false).await,
        5 => {
            history.unmount(volume).await;
            // At once: waiting for its end is no revocation.
            pass(SECOND).await;
            let known = &mut history.volumes[usize::try_from(volume).unwrap()];
            if known.parked {
                return;
            }
            let known = std::mem::take(known);
            for token in known.tokens {
                assert!(!history.world.token_lives(&token), "token {token} lives");
            }
        }
        6 => history.world.clock.jump(term / 10),
        7 => {
            let temper =
                history
                    .dice
                    .of(&[Temper::Away, Temper::Closed, Temper::Hangs, Temper::Breaks]);
            history.temper(temper);
            pass(term / 16).await;
            if history.dice.one_in(2) {
                history.unmount(volume).await;
            }
            pass(term / 16).await;
            history.temper(Temper::Well);
            pass(term / 20 + 60 * SECOND).await;
        }
        8 => history.restart(false, |_| ()).await,
        9 => history.restart(true, |_| ()).await,
        _ => {
            pass(Duration::from_secs(
                history.dice.of(&[1, 20, 130, 700, 7200]),
            ))
            .await
        }
    }
    // The worker looks at its clock every ten seconds.
    pass(12 * SECOND).await;
}
