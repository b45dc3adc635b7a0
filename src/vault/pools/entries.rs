//! What is known of pools: which one serves, when it is replaced, and which is forgotten.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Pool;
use crate::spec::Tls;
use crate::vault::tls::Fingerprint;
use crate::vault::transport::SendError;

/// Pools that are kept.
pub const POOLS: usize = 256;
/// What the trusted certificates and the settings of all pools may take in memory, in bytes, beside those of
/// the one that was used last.
pub const MOST_BYTES: usize = 32 * 1024 * 1024;

/// A pool counts for the tenants that have used it within this time: some polls of a volume.
const LATELY: Duration = Duration::from_secs(600);
/// Tenants that a pool is remembered to be used by. One that more share is the last to go in any case.
const USERS: usize = 16;

/// How long the state of files is taken for what it was: not every request looks at each of them.
const SETTLED: Duration = Duration::from_secs(1);
/// How long files that could not be used are not read again while they stay as they are.
const RETRY: Duration = Duration::from_secs(10);

/// An address and its TLS settings.
pub type Key = (String, Tls);

/// The entries. Where there are too many, or they take too much, one of the tenant that has the most goes: the least
/// recently used of those that fewest others share. So a tenant with a thousand addresses pays for them itself. Without
/// tenants, or among those that have equally much, the least recently used goes.
#[derive(Default)]
pub struct Entries(HashMap<Key, Entry>);

/// What is known of one address and its settings.
pub struct Entry {
    made: Option<Made>,
    /// Why the files as they were last read cannot be used.
    failure: Option<Failure>,
    /// When the files were last looked at.
    looked: Option<Instant>,
    used: Instant,
    /// Who has used it lately, and when.
    users: Vec<(Arc<str>, Instant)>,
    /// Held by the one request that looks at the files.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A pool, and the state of the files that it was made of.
struct Made {
    pool: Arc<Pool>,
    files: Fingerprint,
    /// What its trusted certificates take in memory.
    bytes: usize,
    since: Instant,
    /// When it is replaced; earlier for a pool that is retired.
    until: Instant,
}

struct Failure {
    files: Fingerprint,
    error: String,
    /// The first of those that followed one another.
    since: Instant,
    /// When the files were read.
    read: Instant,
}

impl Entries {
    /// The entry of a key, made where there is none, and used now.
    pub fn entry(&mut self, key: &Key, now: Instant) -> &mut Entry {
        if !self.0.contains_key(key) {
            while self.0.len() >= POOLS && self.forget_one(now, None, |_, _| 1) {}
        }
        let entry = self.0.entry(key.clone()).or_insert_with(|| Entry {
            made: None,
            failure: None,
            looked: None,
            used: now,
            users: Vec::new(),
            turn: Arc::default(),
        });
        entry.used = now;
        entry
    }

    /// A tenant uses the entry of a key.
    pub fn used(&mut self, key: &Key, tenant: Option<Arc<str>>, now: Instant) {
        let users = &mut self.entry(key, now).users;
        users.retain(|(user, at)| now < *at + LATELY && Some(user) != tenant.as_ref());
        if users.len() >= USERS {
            users.remove(0);
        }
        users.extend(tenant.map(|tenant| (tenant, now)));
    }

    /// Forgets a pool that has connections, of the tenant that has the most of them: those that are idle are closed.
    /// Not the one of this key.
    pub fn close_idle(&mut self, but: &Key, now: Instant) {
        self.forget_one(now, Some(but), |_, entry| {
            let made = entry.made.as_ref();
            made.map_or(0, |made| made.pool.open.load(Ordering::Relaxed))
        });
    }

    /// Lets a pool of this kind be replaced at its next use.
    pub fn retire(
        &mut self,
        key: &Key,
        now: Instant,
        which: impl Fn(&Arc<Pool>, Duration) -> bool,
    ) {
        let made = self.0.get_mut(key).and_then(|entry| entry.made.as_mut());
        if let Some(made) = made.filter(|made| which(&made.pool, now - made.since)) {
            made.until = now;
        }
    }

    /// Forgets entries until all together take no more memory than this. The one of this key stays.
    pub fn evict(&mut self, most: usize, but: &Key, now: Instant) {
        while self.bytes() > most && self.forget_one(now, Some(but), bytes) {}
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(key, entry)| bytes(key, entry)).sum()
    }

    /// Forgets one entry of the tenant whose entries weigh the most. Those without weight stay.
    fn forget_one(
        &mut self,
        now: Instant,
        but: Option<&Key>,
        weight: impl Fn(&Key, &Entry) -> usize,
    ) -> bool {
        let mut loads: HashMap<Option<&str>, usize> = HashMap::new();
        for (key, entry) in &self.0 {
            for user in entry.users_at(now) {
                let load = loads.entry(user).or_default();
                *load = load.saturating_add(weight(key, entry));
            }
        }
        let candidates = self.0.iter();
        let candidates =
            candidates.filter(|(key, entry)| Some(*key) != but && weight(key, entry) > 0);
        let load_of = |entry: &Entry| {
            let loads = entry.users_at(now).filter_map(|user| loads.get(&user));
            loads.max().copied().unwrap_or_default()
        };
        let victim = candidates.max_by_key(|(_, entry)| {
            let shared = entry.users_at(now).count();
            (load_of(entry), Reverse(shared), Reverse(entry.used))
        });
        let victim = victim.map(|(key, _)| key.clone());
        victim.is_some_and(|key| self.0.remove(&key).is_some())
    }
}

/// What the trusted certificates and the settings of an entry take in memory.
fn bytes((_, settings): &Key, entry: &Entry) -> usize {
    let made = entry.made.as_ref().map_or(0, |made| made.bytes);
    made + settings.ca_pem.as_ref().map_or(0, String::len)
}

impl Entry {
    /// Who has used it lately; nobody in particular counts as one.
    fn users_at(&self, now: Instant) -> impl Iterator<Item = Option<&str>> {
        let users = self.users.iter();
        let mut lately = users
            .filter(move |(_, at)| now < *at + LATELY)
            .map(|(user, _)| Some(user.as_ref()))
            .peekable();
        let nobody = lately.peek().is_none().then_some(None);
        lately.chain(nobody)
    }

    pub fn turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.turn)
    }

    /// Whether the files need no look now.
    pub fn is_settled(&self, now: Instant, has_files: bool) -> bool {
        let is_fixed = !has_files && self.failure.is_none();
        is_fixed || self.looked.is_some_and(|at| now < at + SETTLED)
    }

    /// What a request gets as the files are known; nothing where a pool is to be made. While they cannot be
    /// used, the pool of before serves on for `max_age`: a rotation may be under way. Not for ever: they may
    /// be gone because what they trust, or show, must not be used any more.
    pub fn outcome(&self, now: Instant, max_age: Duration) -> Option<Result<Arc<Pool>, SendError>> {
        match (&self.made, &self.failure) {
            (Some(made), None) => (now < made.until).then(|| Ok(Arc::clone(&made.pool))),
            (None, None) => None,
            (Some(made), Some(failure)) if now < failure.since + max_age => {
                Some(Ok(Arc::clone(&made.pool)))
            }
            (_, Some(failure)) => Some(Err(SendError::Settings(failure.error.clone()))),
        }
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.error.as_str())
    }

    /// The files are in this state. Whether they need not be read: the pool was made of them, or they could
    /// not be used a short while ago.
    pub fn looked(&mut self, files: &Fingerprint, now: Instant) -> bool {
        self.looked = Some(now);
        let is_current = |made: &Made| made.files == *files && now < made.until;
        if self.made.as_ref().is_some_and(is_current) {
            self.failure = None;
            return true;
        }
        let is_known = |failure: &Failure| failure.files == *files && now < failure.read + RETRY;
        self.failure.as_ref().is_some_and(is_known)
    }

    pub fn succeeded(
        &mut self,
        pool: Arc<Pool>,
        files: Fingerprint,
        bytes: usize,
        now: Instant,
        until: Instant,
    ) {
        self.failure = None;
        self.made = Some(Made {
            pool,
            files,
            bytes,
            since: now,
            until,
        });
    }

    /// The files in this state cannot be used. Whether that was not known of them.
    pub fn failed(
        &mut self,
        files: Fingerprint,
        error: String,
        now: Instant,
        max_age: Duration,
    ) -> bool {
        let before = self.failure.as_ref();
        let is_news = before.is_none_or(|before| before.files != files);
        let since = before.map_or(now, |before| before.since);
        if now >= since + max_age {
            self.made = None;
        }
        self.failure = Some(Failure {
            files,
            error,
            since,
            read: now,
        });
        is_news
    }
}

#[cfg(test)]
impl Entries {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// When files that cannot be used were last read.
    pub fn read(&self, key: &Key) -> Option<Instant> {
        self.0
            .get(key)?
            .failure
            .as_ref()
            .map(|failure| failure.read)
    }
}
