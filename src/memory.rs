//! The memory that Mounts take while they are under way: replies, what rendering makes of them, and the
//! answer until it is on the wire. All of it is reserved in bytes, before it is allocated, from one budget
//! for the node, of which no tenant gets more than half.
//!
//! A small Mount never waits. A large one waits until others have given back what they hold. Two Mounts that
//! each hold a part and wait for more would wait for each other for ever: so one of those at a time is let past
//! the limits, up to its own maximum, which is set aside for it.

mod shares;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};

use self::shares::{MountKey, Pool, Shares, Waiter};

const MIB: usize = 1024 * 1024;

/// The bounds of a [`MemoryBudget`], in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What all large Mounts of the node share. A tenant gets half of it, and a quarter while others wait.
    pub shared: usize,
    /// What all small Mounts of the node share.
    pub small: usize,
    /// What one Mount may reserve without waiting.
    pub small_mount: usize,
    /// The most that one Mount may reserve. Set aside once, besides the others: see the module.
    pub mount: usize,
    /// A reply above this is large: a Mount reads one of those at a time.
    pub large_reply: usize,
    /// The longest time that a reservation waits: kubelet gives a mount up after two minutes.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shared: 24 * MIB,
            small: 4 * MIB,
            small_mount: 64 * 1024,
            mount: 16 * MIB,
            large_reply: 256 * 1024,
            wait: Duration::from_secs(60),
        }
    }
}

/// Why memory was not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// This Mount alone wants more than one may have.
    #[error("the mount takes more than {0} bytes of memory")]
    TooMuch(usize),
    /// Other large Mounts have held the memory for too long.
    #[error("other large mounts have taken all memory that is set aside for mounts for {0:?}")]
    Crowded(Duration),
}

/// The budget of a node. Clones share it.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Inner>);

struct Inner {
    limits: Limits,
    shares: Mutex<Shares>,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl MemoryBudget {
    /// A budget of which nothing is reserved.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            shares: Mutex::new(Shares::new(limits)),
            limits,
        }))
    }

    /// The account of one Mount of a tenant's (the pod's namespace). Nothing is reserved yet.
    #[must_use]
    pub fn mount(&self, tenant: &str) -> MountMemory {
        let key = self.0.locked().open(tenant);
        MountMemory(Arc::new(Account {
            budget: Arc::clone(&self.0),
            tenant: tenant.into(),
            key,
            large_reply: Arc::default(),
        }))
    }

    /// What is reserved by all, in bytes.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.locked().reserved()
    }
}

impl Inner {
    /// A panic while the lock is held cannot leave the counts half-changed.
    fn locked(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(self: &Arc<Self>, key: MountKey, pool: Pool, bytes: usize) {
        let mut shares = self.locked();
        shares.give_back(key, pool, bytes);
        let served = shares.serve();
        drop(shares);
        self.tell(served);
    }

    /// Hands reservations to those who waited. One that has gone away meanwhile drops its part, which gives it
    /// back: not under the lock.
    fn tell(self: &Arc<Self>, served: Vec<Waiter>) {
        for waiter in served {
            let part = Part {
                budget: Arc::clone(self),
                key: waiter.key,
                pool: Pool::Shared,
                bytes: waiter.bytes,
            };
            drop(waiter.granted.send(part));
        }
    }
}

/// The account of one Mount. Clones share it.
#[derive(Clone)]
pub struct MountMemory(Arc<Account>);

struct Account {
    budget: Arc<Inner>,
    tenant: Box<str>,
    key: MountKey,
    /// Held while a large reply is read and used.
    large_reply: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut shares = self.budget.locked();
        shares.close(self.key);
        let served = shares.serve();
        drop(shares);
        self.budget.tell(served);
    }
}

impl MountMemory {
    /// Whose Mount it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.0.tenant
    }

    /// A reservation of nothing, to be grown.
    #[must_use]
    pub fn reservation(&self) -> Reservation {
        Reservation {
            memory: self.clone(),
            parts: Vec::new(),
            turn: None,
        }
    }
}

/// Bytes of one pool; given back when dropped.
struct Part {
    budget: Arc<Inner>,
    key: MountKey,
    pool: Pool,
    bytes: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.key, self.pool, self.bytes);
        }
    }
}

/// Memory that one Mount has reserved for one thing; given back when dropped.
pub struct Reservation {
    memory: MountMemory,
    parts: Vec<Part>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Reservation {
    /// Reserves so many bytes more, and waits where the Mount is large and others have taken what there is.
    ///
    /// # Errors
    /// The Mount takes too much, or has waited for too long.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), MemoryError> {
        let waiting = {
            let Account { budget, key, .. } = &*self.memory.0;
            let mut shares = budget.locked();
            if let Some(pool) = shares.take(*key, bytes)? {
                let (budget, key) = (Arc::clone(budget), *key);
                self.parts.push(Part {
                    budget,
                    key,
                    pool,
                    bytes,
                });
                return Ok(());
            }
            let (granted, waiting) = oneshot::channel();
            let key = *key;
            shares.wait(Waiter {
                key,
                bytes,
                granted,
            });
            let served = shares.serve();
            drop(shares);
            budget.tell(served);
            waiting
        };
        let wait = self.memory.0.budget.limits.wait;
        match tokio::time::timeout(wait, waiting).await {
            Ok(Ok(part)) => {
                self.parts.push(part);
                Ok(())
            }
            _ => Err(MemoryError::Crowded(wait)),
        }
    }

    /// The same for a reply that will have this size. A Mount reads one large reply at a time: eight that grow
    /// at once could together be more than it may have, though one after the other they are not.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub async fn grow_reply(&mut self, more: usize) -> Result<(), MemoryError> {
        let Limits {
            large_reply, wait, ..
        } = self.memory.0.budget.limits;
        if self.turn.is_none() && self.bytes().saturating_add(more) > large_reply {
            let turn = Arc::clone(&self.memory.0.large_reply).lock_owned();
            let turn = tokio::time::timeout(wait, turn).await;
            self.turn = Some(turn.map_err(|_| MemoryError::Crowded(wait))?);
        }
        self.grow(more).await
    }

    /// The reply is kept for longer: the next large one may be read meanwhile.
    pub fn end_turn(&mut self) {
        self.turn = None;
    }

    /// Gives so many bytes back.
    pub fn shrink(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0
            && let Some(mut part) = self.parts.pop()
        {
            let kept = part.bytes.saturating_sub(left);
            left = left.saturating_sub(part.bytes);
            if kept > 0 {
                let back = part.bytes - kept;
                part.bytes = kept;
                let (key, pool) = (part.key, part.pool);
                self.parts.push(part);
                self.memory.0.budget.give_back(key, pool, back);
            }
        }
    }

    /// What is reserved, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

#[cfg(test)]
mod tests;
