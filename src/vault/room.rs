//! Room in memory. What a Mount reads is small as a rule; whose replies are large waits until there is room
//! for them, and has it until its answer is on the wire: a thousand of them at once must not be the end
//! of the daemon.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// What a Mount may read without asking, in bytes.
const SMALL: usize = 64 * 1024;
/// All replies of a Mount together, in bytes: its answer is 4 MiB at the most, which JSON may double.
const MOST: usize = 8 * 1024 * 1024;
/// Large Mounts at once, on this node: with replies, files and messages not much more than half of the
/// 256 MiB that our manifest grants.
const LARGE: usize = 8;
/// How long a large one waits: kubelet gives a mount up after two minutes.
const WAIT: Duration = Duration::from_secs(60);

/// Keys that are kept for nobody: tenants choose addresses and paths.
const IDLE: usize = 256;

/// A number of places for each key, first come first served.
pub struct Shares<K> {
    places: usize,
    of: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Shares<K> {
    pub fn new(places: usize) -> Self {
        Self {
            places,
            of: Mutex::default(),
        }
    }

    /// A place of a key. The semaphores are never closed, so there always comes one.
    pub async fn place(&self, key: K) -> Option<OwnedSemaphorePermit> {
        self.semaphore(key).acquire_owned().await.ok()
    }

    fn semaphore(&self, key: K) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        // One where nobody stands can be made again.
        if of.len() > IDLE {
            of.retain(|_, semaphore| {
                Arc::strong_count(semaphore) > 1 || semaphore.available_permits() < self.places
            });
        }
        let made = || Arc::new(Semaphore::new(self.places));
        Arc::clone(of.entry(key).or_insert_with(made))
    }
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// The replies of one Mount are too large together; the limit, in bytes.
    TooMuch(usize),
    /// Other large Mounts have kept it for too long.
    Crowded(Duration),
}

/// The room of a node.
pub struct Rooms {
    all: Arc<Semaphore>,
    /// A tenant whose server answers slowly gets half of it.
    tenants: Shares<String>,
}

/// A Mount's part of it, given back when it is dropped.
pub struct Room {
    rooms: Arc<Rooms>,
    tenant: String,
    taken: AtomicUsize,
    large: OnceCell<[Option<OwnedSemaphorePermit>; 2]>,
}

impl Rooms {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(LARGE)),
            tenants: Shares::new(LARGE / 2),
        })
    }

    /// The room for one Mount of a tenant's (the pod's namespace).
    pub fn of(self: &Arc<Self>, tenant: &str) -> Arc<Room> {
        Arc::new(Room {
            rooms: Arc::clone(self),
            tenant: tenant.to_owned(),
            taken: AtomicUsize::new(0),
            large: OnceCell::new(),
        })
    }
}

impl Room {
    /// Takes room for so many bytes more. Only the first that makes a Mount large waits, once for all: one
    /// that held a part and waited for more could wait for itself.
    pub async fn take(&self, bytes: usize) -> Result<(), Full> {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let taken = before.saturating_add(bytes);
        if taken > MOST {
            return Err(Full::TooMuch(MOST));
        }
        if taken > SMALL {
            let grown = self.large.get_or_init(|| self.grow());
            let grown = tokio::time::timeout(WAIT, grown).await;
            grown.map_err(|_| Full::Crowded(WAIT))?;
        }
        Ok(())
    }

    async fn grow(&self) -> [Option<OwnedSemaphorePermit>; 2] {
        let tenant = self.rooms.tenants.place(self.tenant.clone()).await;
        let all = Arc::clone(&self.rooms.all).acquire_owned().await.ok();
        [tenant, all]
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_mounts_wait_for_each_other_and_small_ones_for_none() {
        let rooms = Rooms::new();
        let large = |tenant| {
            let room = rooms.of(tenant);
            let taken = room.take(SMALL + 1).now_or_never();
            taken.map(|taken| taken.map(|()| room).unwrap())
        };
        let mut held: Vec<_> = (0..LARGE / 2).map(|_| large("a").unwrap()).collect();
        assert!(large("a").is_none(), "half of it for one tenant");
        held.extend((0..LARGE / 2).map(|_| large("b").unwrap()));
        assert!(large("c").is_none(), "all of it is taken");
        let small = rooms.of("c");
        assert_eq!(small.take(SMALL).await, Ok(()));
        assert_eq!(small.take(1).await, Err(Full::Crowded(WAIT)));
        drop(held);
        assert!(large("c").is_some());
        // Who is large already waits no more.
        assert_eq!(small.take(1).await, Ok(()));
        assert_eq!(small.take(MOST).await, Err(Full::TooMuch(MOST)));
    }
}
