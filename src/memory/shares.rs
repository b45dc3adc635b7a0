//! Who has reserved how much, and who is served next. Pure: nothing waits here.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::oneshot;

use super::{Limits, MemoryError, Part};

/// One Mount's account; the smaller, the older.
pub type MountKey = u64;

/// Where a Mount's bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Small,
    Shared,
}

/// A reservation that waits.
pub struct Waiter {
    pub key: MountKey,
    pub bytes: usize,
    pub granted: oneshot::Sender<Part>,
}

struct Mount {
    tenant: String,
    small: usize,
    shared: usize,
    /// Its handle was dropped; its last bytes are on their way back.
    closed: bool,
}

impl Mount {
    fn bytes(&self) -> usize {
        self.small.saturating_add(self.shared)
    }
}

/// The counts of a node.
pub struct Shares {
    limits: Limits,
    small: usize,
    /// What each tenant has of the pool for small Mounts; none without bytes.
    small_of: HashMap<String, usize>,
    shared: usize,
    mounts: BTreeMap<MountKey, Mount>,
    /// What each tenant has of the shared pool; none without bytes.
    tenants: HashMap<String, usize>,
    waiters: Vec<Waiter>,
    /// The Mount that is let past the limits.
    privileged: Option<MountKey>,
    next: MountKey,
}

impl Shares {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            small: 0,
            small_of: HashMap::new(),
            shared: 0,
            mounts: BTreeMap::new(),
            tenants: HashMap::new(),
            waiters: Vec::new(),
            privileged: None,
            next: 0,
        }
    }

    pub fn open(&mut self, tenant: &str) -> MountKey {
        let key = self.next;
        self.next += 1;
        let mount = Mount {
            tenant: tenant.to_owned(),
            small: 0,
            shared: 0,
            closed: false,
        };
        self.mounts.insert(key, mount);
        key
    }

    pub fn close(&mut self, key: MountKey) {
        if let Some(mount) = self.mounts.get_mut(&key) {
            mount.closed = true;
            self.forget(key);
        }
    }

    /// Nobody holds an account that is closed and empty.
    fn forget(&mut self, key: MountKey) {
        let Some(mount) = self.mounts.get(&key) else {
            return;
        };
        if self.privileged == Some(key) && mount.shared == 0 {
            self.privileged = None;
        }
        if mount.closed && mount.bytes() == 0 {
            self.mounts.remove(&key);
        }
    }

    pub fn reserved(&self) -> usize {
        self.small.saturating_add(self.shared)
    }

    /// Takes bytes at once, or tells that they must be waited for (`None`).
    pub fn take(&mut self, key: MountKey, bytes: usize) -> Result<Option<Pool>, MemoryError> {
        let limits = self.limits;
        // An account that nobody has opened cannot be there.
        let Some(mount) = self.mounts.get_mut(&key) else {
            return Err(MemoryError::TooMuch(limits.mount));
        };
        if mount.bytes().saturating_add(bytes) > limits.mount {
            return Err(MemoryError::TooMuch(limits.mount));
        }
        let tenant = mount.tenant.clone();
        let small_of_tenant = self.small_of.get(&tenant).copied().unwrap_or_default();
        let is_small = mount.bytes().saturating_add(bytes) <= limits.small_mount
            && self.small.saturating_add(bytes) <= limits.small
            && small_of_tenant.saturating_add(bytes) <= limits.small / 2;
        if is_small {
            mount.small += bytes;
            self.small += bytes;
            *self.small_of.entry(tenant).or_default() += bytes;
            return Ok(Some(Pool::Small));
        }
        // Whoever waits already comes first, unless this one's tenant has less.
        let mine = self.of_tenant(&tenant);
        let comes_first = |waiter: &Waiter| {
            let other = self.mounts.get(&waiter.key);
            other.is_some_and(|other| self.of_tenant(&other.tenant) <= mine)
        };
        if self.privileged != Some(key) && self.waiters.iter().any(comes_first) {
            return Ok(None);
        }
        Ok(self.fits(key, bytes).then(|| {
            self.count(key, bytes);
            Pool::Shared
        }))
    }

    pub fn wait(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    pub fn give_back(&mut self, key: MountKey, pool: Pool, bytes: usize) {
        if let Some(mount) = self.mounts.get_mut(&key) {
            match pool {
                Pool::Small => {
                    mount.small = mount.small.saturating_sub(bytes);
                    self.small = self.small.saturating_sub(bytes);
                    if let Some(of) = self.small_of.get_mut(&mount.tenant) {
                        *of = of.saturating_sub(bytes);
                        if *of == 0 {
                            self.small_of.remove(&mount.tenant);
                        }
                    }
                }
                Pool::Shared => {
                    mount.shared = mount.shared.saturating_sub(bytes);
                    self.shared = self.shared.saturating_sub(bytes);
                    if let Some(of) = self.tenants.get_mut(&mount.tenant) {
                        *of = of.saturating_sub(bytes);
                        if *of == 0 {
                            self.tenants.remove(&mount.tenant);
                        }
                    }
                }
            }
        }
        self.forget(key);
    }

    /// Takes bytes for those who wait, as many as can be served: first those whose tenant has least, and of a
    /// tenant's the oldest Mount. Where none can be, the oldest of those that hold something is let past the
    /// limits: they might be waiting for each other.
    pub fn serve(&mut self) -> Vec<Waiter> {
        let mut served = Vec::new();
        self.waiters.retain(|waiter| !waiter.granted.is_closed());
        while !self.waiters.is_empty() {
            let fitting = self.waiters.iter().enumerate();
            let fitting = fitting.filter(|(_, waiter)| self.fits(waiter.key, waiter.bytes));
            let next = fitting.min_by_key(|(_, waiter)| self.rank(waiter.key));
            let next = match next {
                Some((index, _)) => index,
                None if self.privileged.is_none() => {
                    let holds = |(_, waiter): &(usize, &Waiter)| {
                        let mount = self.mounts.get(&waiter.key);
                        mount.is_some_and(|mount| mount.shared > 0)
                    };
                    let oldest = self.waiters.iter().enumerate().filter(holds);
                    let oldest = oldest.min_by_key(|(_, waiter)| waiter.key);
                    let Some((index, waiter)) = oldest else { break };
                    self.privileged = Some(waiter.key);
                    index
                }
                None => break,
            };
            let waiter = self.waiters.swap_remove(next);
            self.count(waiter.key, waiter.bytes);
            served.push(waiter);
        }
        served
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
            && self.tenants.is_empty()
            && self.small_of.is_empty()
            && self.waiters.is_empty()
    }

    fn rank(&self, key: MountKey) -> (usize, MountKey) {
        let mount = self.mounts.get(&key);
        (mount.map_or(0, |mount| self.of_tenant(&mount.tenant)), key)
    }

    fn of_tenant(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Whether a Mount may have so many bytes more of the shared pool now.
    fn fits(&self, key: MountKey, bytes: usize) -> bool {
        let Some(mount) = self.mounts.get(&key) else {
            return false;
        };
        if self.privileged == Some(key) {
            return true;
        }
        // What the privileged one has is set aside.
        let aside = self.privileged.and_then(|key| self.mounts.get(&key));
        let shared = self.shared - aside.map_or(0, |mount| mount.shared);
        if shared.saturating_add(bytes) > self.limits.shared {
            return false;
        }
        let of_tenant = self.of_tenant(&mount.tenant);
        let others_wait = self.waiters.iter().any(|waiter| {
            let other = self.mounts.get(&waiter.key);
            other.is_some_and(|other| other.tenant != mount.tenant)
        });
        let share = self.limits.shared / if others_wait { 4 } else { 2 };
        // A tenant's only large Mount may be larger than its share.
        of_tenant == mount.shared || of_tenant.saturating_add(bytes) <= share
    }

    fn count(&mut self, key: MountKey, bytes: usize) {
        if let Some(mount) = self.mounts.get_mut(&key) {
            mount.shared += bytes;
            self.shared += bytes;
            *self.tenants.entry(mount.tenant.clone()).or_default() += bytes;
        }
    }
}
