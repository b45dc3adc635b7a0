//! A server with books, and a clock that can jump: what random histories are played on.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::*;

/// Numbers that a server, or a file, should not hold.
pub const ABSURD: [u64; 9] = [
    0,
    1,
    2,
    59,
    3600,
    30 * 366 * 24 * 3600,
    u64::MAX / 1_000_000_000,
    u64::MAX - 1,
    u64::MAX,
];

/// A sequence of numbers that a seed determines (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// The boot-time clock. A suspended node's goes on while tokio's timers stand still.
pub struct JumpClock {
    start: tokio::time::Instant,
    ahead_millis: AtomicU64,
    /// How often it may be read until the next event: a worker that turns for ever ends here, not in a test that
    /// hangs.
    budget: AtomicI64,
}

const BUDGET: i64 = 2_000_000;

impl JumpClock {
    pub fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            ahead_millis: AtomicU64::new(0),
            budget: AtomicI64::new(BUDGET),
        }
    }

    pub fn jump(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.ahead_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// An event begins.
    pub fn allow(&self) {
        self.budget.store(BUDGET, Ordering::Relaxed);
    }
}

impl Clock for JumpClock {
    fn now(&self) -> Moment {
        let left = self.budget.fetch_sub(1, Ordering::Relaxed);
        assert!(left > 0, "the worker turns for ever");
        let ahead = Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed));
        Moment::from_boot(Duration::from_secs(10_000) + self.start.elapsed() + ahead)
    }
}

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    Well,
    Away,
    /// Nobody is let through to it: what is due waits in its queue.
    Closed,
    Hangs,
    /// Its answers break the attempt.
    Breaks,
    /// It may answer anything.
    Hostile,
}

#[derive(Clone, Copy)]
struct Entry {
    end: Option<Moment>,
    revoked: bool,
}

impl Entry {
    fn lives(&self, now: Moment) -> bool {
        !self.revoked && self.end.is_none_or(|end| end > now)
    }
}

/// The server's books.
pub struct Books {
    pub temper: Temper,
    /// Whether it says that a maximum was reached, now and then, and grants what it likes.
    pub term: Duration,
    pub calls: u64,
    dice: Dice,
    tokens: BTreeMap<String, Entry>,
    leases: BTreeMap<String, (Entry, String)>,
}

pub struct World {
    pub clock: Arc<JumpClock>,
    pub books: Mutex<Books>,
    /// The volumes whose paths are there.
    pub there: Mutex<std::collections::HashSet<VolumeId>>,
}

/// What is done to the server.
#[derive(Clone)]
enum Deed {
    Renew(Option<String>),
    Revoke(Option<String>),
    LookUp(Option<String>),
}

impl World {
    pub fn new(seed: u64, term: Duration) -> Self {
        Self {
            clock: Arc::new(JumpClock::new()),
            there: Mutex::default(),
            books: Mutex::new(Books {
                temper: Temper::Well,
                term,
                calls: 0,
                dice: Dice(seed ^ 0xb00c),
                tokens: BTreeMap::new(),
                leases: BTreeMap::new(),
            }),
        }
    }

    fn entry(&self, term: Term) -> Entry {
        Entry {
            end: term.end(),
            revoked: false,
        }
    }

    pub fn login(&self, id: &str, term: Term) {
        let entry = self.entry(term);
        let mut books = self.books.lock().unwrap();
        books.tokens.insert(id.to_owned(), entry);
    }

    pub fn read(&self, token: &str, lease: &str, term: Term) {
        let entry = self.entry(term);
        let mut books = self.books.lock().unwrap();
        books
            .leases
            .insert(lease.to_owned(), (entry, token.to_owned()));
    }

    pub fn token_lives(&self, id: &str) -> bool {
        let now = self.clock.now();
        let books = self.books.lock().unwrap();
        books.tokens.get(id).is_some_and(|token| token.lives(now))
    }

    pub fn lease_lives(&self, id: &str) -> bool {
        let now = self.clock.now();
        let token = {
            let books = self.books.lock().unwrap();
            let Some((lease, token)) = books.leases.get(id) else {
                return false;
            };
            lease.lives(now).then(|| token.clone())
        };
        token.is_some_and(|token| self.token_lives(&token))
    }

    /// The answer of a server that does its work.
    fn honest(&self, token: &str, deed: &Deed) -> Result<Renewal, KeepError> {
        let why = || "as the books say".to_owned();
        let now = self.clock.now();
        let token_lives = self.token_lives(token);
        let mut books = self.books.lock().unwrap();
        let term = Term::new(now, books.term);
        let (Deed::Renew(lease) | Deed::Revoke(lease) | Deed::LookUp(lease)) = deed;
        if !token_lives {
            return Err(KeepError::TokenDead { why: why() });
        }
        let entry = match lease {
            Some(lease) => books.leases.get_mut(lease).map(|(entry, _)| entry),
            None => books.tokens.get_mut(token),
        };
        let Some(entry) = entry.filter(|entry| entry.lives(now)) else {
            return Err(KeepError::Gone { why: why() });
        };
        match deed {
            Deed::Renew(_) => entry.end = term.end(),
            Deed::Revoke(_) => entry.revoked = true,
            Deed::LookUp(_) => {}
        }
        Ok(Renewal {
            term,
            renewable: true,
            capped: false,
        })
    }

    fn hostile(&self, token: &str, deed: &Deed) -> Result<Renewal, KeepError> {
        let why = "as it likes".to_owned();
        let now = self.clock.now();
        let (choice, absurd, flip) = {
            let dice = &mut self.books.lock().unwrap().dice;
            (dice.below(8), dice.of(&ABSURD), dice.one_in(2))
        };
        match choice {
            0 => Err(KeepError::TokenDead { why }),
            1 => Err(KeepError::Gone { why }),
            2 => Err(KeepError::NotRenewable { why }),
            3 => Err(KeepError::Forbidden { why }),
            4 => Err(KeepError::Transient {
                why,
                retry_after: flip.then_some(Duration::from_secs(absurd)),
            }),
            5 => self.honest(token, deed),
            6 => panic!("as the test wants"),
            _ => Ok(Renewal {
                term: Term::aged(
                    now,
                    Duration::from_secs(absurd / 3),
                    Duration::from_secs(absurd),
                ),
                renewable: flip,
                capped: absurd % 2 == 0,
            }),
        }
    }
}

/// The server as the registry sees it.
pub struct Keeper(pub Arc<World>);

impl Keeper {
    fn answer(
        &self,
        session: &Session,
        deed: Deed,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        let (world, token) = (Arc::clone(&self.0), session.id.clone());
        let temper = {
            let mut books = world.books.lock().unwrap();
            books.calls += 1;
            books.temper
        };
        Box::pin(async move {
            let away = || KeepError::Transient {
                why: "as the test wants".to_owned(),
                retry_after: None,
            };
            match temper {
                Temper::Well => world.honest(&token, &deed),
                Temper::Away | Temper::Closed => Err(away()),
                Temper::Hangs => {
                    tokio::time::sleep(patience).await;
                    Err(away())
                }
                Temper::Breaks => panic!("as the test wants"),
                Temper::Hostile => world.hostile(&token, &deed),
            }
        })
    }
}

fn revoked(answer: Result<Renewal, KeepError>) -> Result<Revoked, KeepError> {
    match answer {
        Ok(_) => Ok(Revoked::Accepted),
        Err(KeepError::TokenDead { .. } | KeepError::Gone { .. }) => Ok(Revoked::AlreadyDead),
        Err(error) => Err(error),
    }
}

impl LeaseKeeper for Keeper {
    fn admit(&self, _: PlannedCall) -> BoxFuture<'static, Admitted> {
        let world = Arc::clone(&self.0);
        Box::pin(async move {
            while world.books.lock().unwrap().temper == Temper::Closed {
                tokio::time::sleep(SECOND).await;
            }
            Admitted::holding(())
        })
    }

    fn renew_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        self.answer(&session, Deed::Renew(None), patience)
    }

    fn renew_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        self.answer(&session, Deed::Renew(Some(lease_id)), patience)
    }

    fn revoke_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let answer = self.answer(&session, Deed::Revoke(None), patience);
        Box::pin(async { revoked(answer.await) })
    }

    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let answer = self.answer(&session, Deed::Revoke(Some(lease_id)), patience);
        Box::pin(async { revoked(answer.await) })
    }

    fn look_up_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let answer = self.answer(&session, Deed::LookUp(None), patience);
        Box::pin(async { answer.await.map(|_| ()) })
    }

    fn look_up_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let answer = self.answer(&session, Deed::LookUp(Some(lease_id)), patience);
        Box::pin(async { answer.await.map(|_| ()) })
    }
}
