//! Leases: their ends, their renewal, and what revoking one undoes (OpenBao `vault/expiration.go`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::text;
use crate::tokens::cap;

/// What a lease stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A leased KV secret; its renewal shows it again.
    Secret(Value),
    /// A database user.
    User(String),
    /// A certificate.
    Certificate,
}

/// A lease.
#[derive(Clone, Debug)]
pub struct Lease {
    pub id: String,
    pub path: String,
    pub token: String,
    pub issued: Duration,
    pub expires: Duration,
    pub last_renewal: Option<Duration>,
    pub renewable: bool,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
    pub purpose: Purpose,
}

/// All leases.
#[derive(Default)]
pub struct Leases {
    pub by_id: BTreeMap<String, Lease>,
    by_end: BTreeSet<(Duration, String)>,
    /// Revocations that are owed, in real time: the server does them when it comes to it.
    queue: VecDeque<(Instant, String)>,
    /// How long a revocation is owed.
    pub delay: Duration,
}

impl Leases {
    /// Makes a lease for a reply at `path`.
    pub fn create(&mut self, lease: Lease) -> String {
        let id = lease.id.clone();
        self.by_end.insert((lease.expires, id.clone()));
        self.by_id.insert(id.clone(), lease);
        id
    }

    /// A new lease's id: the path and 24 base-62 digits.
    pub fn name(path: &str) -> String {
        format!("{path}/{}", text::random(24))
    }

    /// Renews for `increment`, or the lease's own term where that is zero; `ceiling` is the end of a
    /// batch token.
    pub fn renew(
        &mut self,
        id: &str,
        increment: Duration,
        ceiling: Option<Duration>,
        now: Duration,
    ) -> Result<(Lease, Vec<String>), &'static str> {
        let lease = self.by_id.get_mut(id).ok_or("lease not found")?;
        if lease.expires <= now {
            return Err("lease expired");
        }
        if !lease.renewable {
            return Err("lease is not renewable");
        }
        let age = Duration::from_secs(now.as_secs().saturating_sub(lease.issued.as_secs()));
        let left = lease.max_ttl.saturating_sub(age);
        if left.is_zero() {
            return Err(
                "failed to renew entry: resp: (*logical.Response)(nil) err: past the max TTL, cannot renew",
            );
        }
        let wanted = if increment.is_zero() {
            lease.default_ttl
        } else {
            increment
        };
        let capped = cap(wanted, left);
        let end = now + capped.ttl;
        let end = ceiling.map_or(end, |ceiling| end.min(ceiling));
        self.by_end.remove(&(lease.expires, id.to_owned()));
        lease.expires = end;
        lease.last_renewal = Some(now);
        self.by_end.insert((end, id.to_owned()));
        Ok((lease.clone(), capped.warning.into_iter().collect()))
    }

    /// Owes a revocation.
    pub fn queue(&mut self, id: String) {
        self.queue.push_back((Instant::now() + self.delay, id));
    }

    /// The leases whose end, or whose owed revocation's time, has come.
    pub fn due(&mut self, now: Duration) -> Vec<String> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        let mut due: Vec<String> = ended.map(|(_, id)| id.clone()).collect();
        let present = Instant::now();
        while let Some((at, _)) = self.queue.front()
            && *at <= present
        {
            due.extend(self.queue.pop_front().map(|(_, id)| id));
        }
        due
    }

    /// Takes a lease out.
    pub fn remove(&mut self, id: &str) -> Option<Lease> {
        let lease = self.by_id.remove(id)?;
        self.by_end.remove(&(lease.expires, id.to_owned()));
        Some(lease)
    }
}

impl Lease {
    /// What is left. Freshly issued it is rounded, later floored, as the real server does.
    pub fn ttl(&self, now: Duration) -> u64 {
        self.expires.saturating_sub(now).as_secs()
    }

    /// The data of a lookup.
    pub fn lookup(&self, now: Duration) -> Value {
        json!({
            "id": self.id,
            "issue_time": text::timestamp(self.issued),
            "expire_time": text::timestamp(self.expires),
            "last_renewal": self.last_renewal.map(text::timestamp),
            "renewable": self.renewable,
            "ttl": self.ttl(now),
            "path": self.path,
        })
    }
}
