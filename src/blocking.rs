//! Work that blocks or takes long, off the runtime's threads: files that a tenant names, and the parsing of
//! what a tenant or a server may make large.
//!
//! tokio's own pool for such work has hundreds of threads, which the journal and the path watch use as well. A
//! file system that hangs would take one with each call. So each kind of work has a few places, of which no
//! tenant gets more than a part, and nobody waits for longer than a deadline. A thread that hangs keeps its
//! place until it comes back.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From this size on, in bytes, parsing and rendering are done here.
pub const LARGE: usize = 64 * 1024;

/// Why work was not done, or not awaited to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// The deadline passed.
    #[error("not done within {0:?}")]
    TimedOut(Duration),
    /// The work panicked.
    #[error("it broke down; the daemon's log says where")]
    Broken,
}

/// Places for one kind of work. Clones share them.
#[derive(Clone)]
pub struct BlockingPool(Arc<Inner>);

struct Inner {
    all: Arc<Semaphore>,
    /// Places of one tenant.
    share: usize,
    tenants: Mutex<HashMap<String, Arc<Semaphore>>>,
    deadline: Duration,
}

/// A place, held by the work until it ends.
struct Place {
    #[expect(dead_code, reason = "held")]
    all: Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "held")]
    share: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.0.all.available_permits();
        f.debug_struct("BlockingPool")
            .field("free", &places)
            .finish()
    }
}

impl BlockingPool {
    /// So many places, of which a tenant gets at most `share`. Nobody waits for longer than `deadline`.
    #[must_use]
    pub fn new(places: usize, share: usize, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(places)),
            share,
            tenants: Mutex::default(),
            deadline,
        }))
    }

    /// For work that takes processor time: one place for each core, at least two.
    #[must_use]
    pub fn for_processor() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let places = cores.max(2);
        Self::new(places, places.div_ceil(2), Duration::from_secs(60))
    }

    /// Does the work for a tenant.
    ///
    /// # Errors
    /// The deadline passed before the work's end, which goes on nevertheless; or it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        tenant: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let deadline = self.0.deadline;
        let done = async {
            // Whoever waits for the narrow share holds none of the wide one.
            let place = Place {
                share: self.share(tenant).acquire_owned().await.ok(),
                all: Arc::clone(&self.0.all).acquire_owned().await.ok(),
            };
            let worked = tokio::task::spawn_blocking(move || {
                let done = work();
                drop(place);
                done
            });
            worked.await.map_err(|_| BlockingError::Broken)
        };
        let done = tokio::time::timeout(deadline, done).await;
        done.map_err(|_| BlockingError::TimedOut(deadline))?
    }

    fn share(&self, tenant: &str) -> Arc<Semaphore> {
        let tenants = &self.0.tenants;
        let mut tenants = tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // One that nobody uses can be made again.
        tenants.retain(|_, share| {
            Arc::strong_count(share) > 1 || share.available_permits() < self.0.share
        });
        let made = || Arc::new(Semaphore::new(self.0.share));
        Arc::clone(tenants.entry(tenant.to_owned()).or_insert_with(made))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_keeps_its_own_tenants_places_alone() {
        let pool = BlockingPool::new(4, 2, Duration::from_millis(200));
        let mut hanging = Vec::new();
        for _ in 0..6 {
            let (hang, hangs) = mpsc::channel::<()>();
            hanging.push(hang);
            let done = pool.run("a", move || hangs.recv().is_err()).await;
            assert_eq!(
                done,
                Err(BlockingError::TimedOut(Duration::from_millis(200)))
            );
        }
        for _ in 0..20 {
            assert_eq!(pool.run("b", || 7).await, Ok(7));
        }
        drop(hanging);
        while pool.run("a", || ()).await.is_err() {}
        assert!(pool.0.tenants.lock().unwrap().len() <= 2);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_gives_the_place_back() {
        let pool = BlockingPool::new(1, 1, Duration::from_secs(20));
        for _ in 0..3 {
            let broken = pool.run("a", || -> u8 { panic!("on purpose") }).await;
            assert_eq!(broken, Err(BlockingError::Broken));
        }
        assert_eq!(pool.run("a", || 7).await, Ok(7));
    }
}
