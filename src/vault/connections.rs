//! How many connections there are: bounded for the process, so that file descriptors and memory suffice, and for each
//! tenant, so that a thousand addresses that hang leave the others their half.
//!
//! A connection counts for the tenant that it was made for, though others may use it later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tenants that are remembered without a connection.
const TENANTS: usize = 256;

/// No connection is free.
#[derive(Debug, thiserror::Error)]
#[error(
    "all {limit} connections that {whose} may have are in use, and none was closed within {waited:?}: their servers do not answer"
)]
pub struct NoConnection {
    limit: usize,
    whose: &'static str,
    waited: Duration,
}

/// The connections of the process. Clones share them.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    limit: usize,
    timeout: Duration,
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// The right to one connection; given back when dropped.
pub struct Place {
    _all: OwnedSemaphorePermit,
    _of_tenant: Option<OwnedSemaphorePermit>,
    pool: Arc<AtomicUsize>,
}

impl Connections {
    /// `limit` at once, half of them for one tenant. A new one waits for a place for so long.
    pub fn new(limit: usize, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            limit,
            timeout,
            all: Arc::new(Semaphore::new(limit)),
            tenants: Mutex::default(),
        }))
    }

    /// A place for a connection of a pool, which counts its own in `pool`.
    ///
    /// # Errors
    /// None was free in time.
    pub async fn place(
        &self,
        tenant: Option<Arc<str>>,
        pool: Arc<AtomicUsize>,
    ) -> Result<Place, NoConnection> {
        let of_tenant = match tenant {
            // Before one of all: who waits here holds up nobody else.
            Some(tenant) => {
                let share = self.share(tenant);
                Some(
                    self.taken(share, self.0.limit.div_ceil(2), "a namespace")
                        .await?,
                )
            }
            None => None,
        };
        let all = Arc::clone(&self.0.all);
        let all = self.taken(all, self.0.limit, "this node's daemon").await?;
        pool.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            _all: all,
            _of_tenant: of_tenant,
            pool,
        })
    }

    /// Whether idle connections should be closed before a tenant makes another one: few places are left for all, or
    /// none for the tenant.
    pub fn are_scarce(&self, tenant: Option<&Arc<str>>) -> bool {
        let share = tenant.map(|tenant| self.share(Arc::clone(tenant)));
        self.0.all.available_permits() <= self.0.limit / 8
            || share.is_some_and(|share| share.available_permits() == 0)
    }

    async fn taken(
        &self,
        places: Arc<Semaphore>,
        limit: usize,
        whose: &'static str,
    ) -> Result<OwnedSemaphorePermit, NoConnection> {
        let waited = self.0.timeout;
        let failed = NoConnection {
            limit,
            whose,
            waited,
        };
        // Nobody closes the semaphore.
        match tokio::time::timeout(waited, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(failed),
        }
    }

    fn share(&self, tenant: Arc<str>) -> Arc<Semaphore> {
        let tenants = &self.0.tenants;
        let mut tenants = tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= TENANTS && !tenants.contains_key(&tenant) {
            // Whoever holds or awaits a place holds its semaphore.
            tenants.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = || Arc::new(Semaphore::new(self.0.limit.div_ceil(2)));
        Arc::clone(tenants.entry(tenant).or_insert_with(share))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn place(connections: &Connections, tenant: &str) -> Result<Place, NoConnection> {
        connections.place(Some(tenant.into()), Arc::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_whose_connections_all_hang_leaves_the_others_theirs() {
        let connections = Connections::new(8, Duration::from_secs(5));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(place(&connections, "crowd").await.unwrap());
        }
        let told = place(&connections, "crowd")
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            told.contains("all 4 connections that a namespace may have"),
            "{told}"
        );
        for _ in 0..4 {
            held.push(place(&connections, "shop").await.unwrap());
        }
        let told = place(&connections, "other")
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(told.contains("all 8 connections"), "{told}");
        held.remove(0);
        assert!(place(&connections, "other").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_counts_its_connections_and_scarcity_is_seen() {
        let connections = Connections::new(16, Duration::from_secs(5));
        let (pool, tenant) = (Arc::<AtomicUsize>::default(), Arc::<str>::from("crowd"));
        let mut held = Vec::new();
        for _ in 0..8 {
            assert!(!connections.are_scarce(Some(&tenant)));
            let place = connections.place(Some(Arc::clone(&tenant)), Arc::clone(&pool));
            held.push(place.await.unwrap());
        }
        assert!(connections.are_scarce(Some(&tenant)));
        assert!(!connections.are_scarce(Some(&"shop".into())));
        assert_eq!(pool.load(Ordering::Relaxed), 8);
        held.clear();
        assert_eq!(pool.load(Ordering::Relaxed), 0);
        assert!(!connections.are_scarce(Some(&tenant)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_tenants_are_not_remembered() {
        let connections = Connections::new(16, Duration::from_secs(5));
        let held = place(&connections, "held").await.unwrap();
        for at in 0..1000 {
            drop(place(&connections, &format!("tenant-{at}")).await.unwrap());
        }
        let known = connections.0.tenants.lock().unwrap().len();
        assert!(known <= TENANTS, "{known}");
        assert!(connections.0.tenants.lock().unwrap().contains_key("held"));
        drop(held);
    }
}
