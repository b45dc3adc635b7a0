//! Bulkheads of Mounts' calls: places at each address, of which no tenant and no backend may take all. What
//! hangs then holds up its own users alone, and of those only what goes to it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// The gates of all addresses.
pub struct Gates {
    /// Of a tenant at a backend.
    pairs: Shares<(String, String, String)>,
    backends: Shares<(String, String)>,
    tenants: Shares<(String, String)>,
    addresses: Shares<String>,
}

/// Leave to call, until it is dropped.
pub struct Place {
    #[expect(dead_code, reason = "held")]
    shares: [Option<OwnedSemaphorePermit>; 3],
    address: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Gives the address' place back, and keeps the narrow ones. A call that takes long, such as the making of a
    /// cloud's principal, goes on without it: else two backends that hang could take all of an address' places.
    pub fn leave_address(&mut self) {
        self.address = None;
    }
}

impl Gates {
    /// `places` at each address: half of them for a backend, a quarter for a tenant, an eighth for a tenant at
    /// a backend.
    pub fn new(places: usize) -> Self {
        Self {
            pairs: Shares::new(places.div_ceil(8)),
            backends: Shares::new(places.div_ceil(2)),
            tenants: Shares::new(places.div_ceil(4)),
            addresses: Shares::new(places),
        }
    }

    /// A place for a call of a tenant's (the pod's namespace) with a path. Who waits for a narrow share holds
    /// none of the wide ones.
    pub async fn enter(&self, address: &str, tenant: &str, path: &str) -> Place {
        let [address, tenant, backend] = [address, tenant, backend(path)].map(str::to_owned);
        let pair = (address.clone(), tenant.clone(), backend.clone());
        let shares = [
            self.pairs.place(pair).await,
            self.backends.place((address.clone(), backend)).await,
            self.tenants.place((address.clone(), tenant)).await,
        ];
        Place {
            shares,
            address: self.addresses.place(address).await,
        }
    }
}

/// Where a path's backend ends is the server's to know: two segments are near enough to it.
fn backend(path: &str) -> &str {
    let second = path.match_indices('/').nth(1);
    second.map_or(path, |(end, _)| path.get(..end).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn nobody_takes_more_than_his_share() {
        let gates = Gates::new(8);
        let enter =
            |tenant: &str, path: &str| gates.enter("https://vault", tenant, path).now_or_never();
        let _first = enter("a", "kv/data/x").unwrap();
        assert!(enter("a", "kv/data/y").is_none(), "an eighth: a at kv/data");
        let _second = enter("a", "pki/issue/x").unwrap();
        assert!(enter("a", "auth/kubernetes").is_none(), "a quarter: a");
        // Those who waited in vain have left.
        let _half = ["b", "c", "d"].map(|tenant| enter(tenant, "kv/data/x").unwrap());
        assert!(enter("e", "kv/data/x").is_none(), "a half: kv/data");
        let rest = ["e", "f", "g"].map(|tenant| enter(tenant, "pki/issue/x").unwrap());
        assert!(enter("h", "auth/kubernetes").is_none(), "all");
        drop(rest);
        assert!(enter("h", "auth/kubernetes").is_some());
    }

    #[test]
    fn what_takes_long_leaves_its_address_to_the_others() {
        let gates = Gates::new(8);
        let enter =
            |tenant: &str, path: &str| gates.enter("https://vault", tenant, path).now_or_never();
        let mut places = Vec::new();
        for backend in ["kv/data/x", "pki/issue/x"] {
            places.extend(["a", "b", "c", "d"].map(|tenant| enter(tenant, backend).unwrap()));
        }
        assert!(enter("e", "auth/kubernetes").is_none(), "all");
        places.iter_mut().for_each(Place::leave_address);
        assert!(enter("e", "auth/kubernetes").is_some());
        assert!(enter("e", "kv/data/x").is_none(), "a half: kv/data");
    }

    #[test]
    fn keys_that_nobody_uses_are_forgotten() {
        let shares = Shares::new(1);
        let held = shares.place(0).now_or_never().flatten();
        for key in 1..1000 {
            drop(shares.place(key).now_or_never());
        }
        assert!(shares.of.lock().unwrap().len() <= IDLE + 1);
        assert!(shares.place(0).now_or_never().is_none(), "it is still held");
        drop(held);
        assert!(shares.place(0).now_or_never().is_some());
    }
}
