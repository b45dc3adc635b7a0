//! Leases: their ends, their renewal, and what revoking one undoes (OpenBao `vault/expiration.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::text;
use crate::ttl::{PAST_MAX, Term, age};

/// What a lease stands for.
#[derive(Clone)]
pub enum Purpose {
    /// A leased KV secret; its renewal shows it again.
    Secret(Value),
    /// A database user, which goes with the lease.
    User(String),
    /// A certificate.
    Certificate,
}

/// A lease.
#[derive(Clone)]
pub struct Lease {
    pub id: String,
    pub namespace: String,
    /// The path of the request that gave it, below its namespace.
    pub path: String,
    pub token: String,
    pub issued: Duration,
    pub expires: Duration,
    pub last_renewal: Option<Duration>,
    pub renewable: bool,
    pub default_ttl: Duration,
    /// The role's maximum; the mount's counts besides.
    pub max_ttl: Duration,
    pub purpose: Purpose,
}

/// All leases.
#[derive(Default)]
pub struct Leases {
    pub by_id: BTreeMap<String, Lease>,
    by_end: BTreeSet<(Duration, String)>,
    /// Revocations that are owed, in real time: the server does them when it comes to it.
    queue: BTreeSet<(Instant, String)>,
    /// How long a revocation is owed.
    pub delay: Duration,
}

impl Leases {
    /// Takes a lease in.
    pub fn insert(&mut self, lease: Lease) {
        self.by_end.insert((lease.expires, lease.id.clone()));
        self.by_id.insert(lease.id.clone(), lease);
    }

    /// A new lease's id: the path and 24 base-62 digits; outside the root namespace its id too.
    pub fn name(path: &str, namespace_id: &str) -> String {
        let dot = if namespace_id.is_empty() { "" } else { "." };
        format!("{path}/{}{dot}{namespace_id}", text::random(24))
    }

    /// Renews for `increment`, or the lease's own term where there is none. `mount_max` is the mount's
    /// maximum, `ceiling` the end of a batch token.
    ///
    /// # Errors
    /// The server's own words.
    pub fn renew(
        &mut self,
        id: &str,
        increment: Option<Duration>,
        mount_max: Duration,
        ceiling: Option<Duration>,
        now: Duration,
    ) -> Result<(Lease, Option<String>), String> {
        let lease = self.by_id.get_mut(id).ok_or("lease not found")?;
        if lease.expires <= now {
            return Err("lease expired".to_owned());
        }
        if !lease.renewable {
            return Err("lease is not renewable".to_owned());
        }
        let term = Term {
            asked: increment.unwrap_or(lease.default_ttl),
            period: None,
            max: lease.max_ttl.min(mount_max),
            explicit_max: None,
            age: age(lease.issued, now),
        };
        let Some(granted) = term.granted() else {
            return Err(format!(
                "failed to renew entry: resp: (*logical.Response)(nil) err: {PAST_MAX}"
            ));
        };
        let end = now + granted.ttl;
        let end = ceiling.map_or(end, |ceiling| end.min(ceiling));
        self.by_end.remove(&(lease.expires, id.to_owned()));
        self.by_end.insert((end, id.to_owned()));
        lease.expires = end;
        lease.last_renewal = Some(now);
        Ok((lease.clone(), granted.warning))
    }

    /// Owes a revocation.
    pub fn queue(&mut self, id: String) {
        self.queue.insert((Instant::now() + self.delay, id));
    }

    /// The leases whose end, or whose owed revocation's time, has come.
    pub fn due(&mut self, now: Duration) -> Vec<String> {
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= now);
        let mut due: Vec<String> = ended.map(|(_, id)| id.clone()).collect();
        let present = Instant::now();
        while self.queue.first().is_some_and(|(at, _)| *at <= present) {
            due.extend(self.queue.pop_first().map(|(_, id)| id));
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
    /// What is left, in seconds and floored.
    pub fn ttl(&self, now: Duration) -> u64 {
        self.expires.saturating_sub(now).as_secs()
    }

    /// What a reply says is left when it is issued or renewed: rounded to the nearest second.
    pub fn duration(&self, now: Duration) -> u64 {
        let left = self.expires.saturating_sub(now);
        (left + Duration::from_millis(500)).as_secs()
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);
    const MOUNT_MAX: Duration = Duration::from_secs(200);

    const fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn with(id: &str, renewable: bool) -> Leases {
        let mut leases = Leases::default();
        leases.insert(Lease {
            id: id.to_owned(),
            namespace: String::new(),
            path: "database/creds/app".to_owned(),
            token: "s.token".to_owned(),
            issued: NOW,
            expires: NOW + secs(60),
            last_renewal: None,
            renewable,
            default_ttl: secs(60),
            max_ttl: secs(100),
            purpose: Purpose::User("app".to_owned()),
        });
        leases
    }

    fn renew(leases: &mut Leases, increment: Option<Duration>, at: u64) -> Result<u64, String> {
        let now = NOW + secs(at);
        let renewed = leases.renew("one", increment, MOUNT_MAX, None, now);
        renewed.map(|(lease, _)| lease.duration(now))
    }

    #[test]
    fn a_renewal_gives_the_term_until_the_maximum_is_near() {
        let mut leases = with("one", true);
        assert_eq!(renew(&mut leases, None, 30), Ok(60));
        assert_eq!(
            renew(&mut leases, Some(secs(2)), 31),
            Ok(2),
            "a small one shortens"
        );
        assert_eq!(renew(&mut leases, None, 32), Ok(60));
        assert_eq!(renew(&mut leases, None, 90), Ok(10));
        assert!(
            leases.due(NOW + secs(99)).is_empty(),
            "earlier ends are forgotten"
        );
        assert_eq!(leases.due(NOW + secs(100)), ["one"]);
    }

    #[test]
    fn the_lesser_maximum_of_role_and_mount_counts() {
        let mut leases = with("one", true);
        let now = NOW + secs(30);
        let (lease, warning) = leases.renew("one", None, secs(50), None, now).unwrap();
        assert_eq!(lease.duration(now), 20);
        assert!(warning.unwrap().contains("max_ttl of \"20s\""));
    }

    #[test]
    fn a_batch_tokens_end_is_its_leases_end() {
        let mut leases = with("one", true);
        let ceiling = Some(NOW + secs(40));
        let (lease, _) = leases
            .renew("one", None, MOUNT_MAX, ceiling, NOW + secs(30))
            .unwrap();
        assert_eq!(lease.expires, NOW + secs(40));
    }

    #[test]
    fn what_cannot_be_renewed_says_why() {
        let refused = |leases: &mut Leases, at| renew(leases, None, at).unwrap_err();
        assert_eq!(refused(&mut with("other", true), 0), "lease not found");
        assert_eq!(
            refused(&mut with("one", false), 0),
            "lease is not renewable"
        );
        assert_eq!(refused(&mut with("one", true), 60), "lease expired");
        let mut leases = with("one", true);
        leases.by_id.get_mut("one").unwrap().expires = NOW + secs(500);
        assert!(refused(&mut leases, 100).ends_with(PAST_MAX));
    }

    #[test]
    fn an_owed_revocation_waits_for_its_delay() {
        let mut leases = with("one", true);
        leases.delay = Duration::from_secs(3600);
        leases.queue("one".to_owned());
        assert!(leases.due(NOW).is_empty());
        // A later one with less delay does not wait behind it.
        leases.delay = Duration::ZERO;
        leases.queue("one".to_owned());
        assert_eq!(leases.due(NOW), ["one"]);
    }
}
