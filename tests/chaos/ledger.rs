//! What went over the wire: every login, every credential, its renewals and its revocation, with the pod it was
//! for. A pod's token is minted for it alone, so that a login tells its pod.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A renewal that gives less than this part of the first term was capped: the end is final.
const CAPPED: f64 = 0.9;

/// A login.
struct Login {
    accessor: String,
    pod: u64,
    born: Instant,
    /// The reply has been handed over to the daemon's connection.
    delivered: bool,
    revoked: bool,
    absurd: bool,
}

/// A credential under a lease.
struct Lease {
    pod: u64,
    token: String,
    backend: String,
    /// When it was given, or renewed at last.
    since: Instant,
    /// For how long then.
    term: Duration,
    first: Duration,
    renewable: bool,
    revoked: bool,
    /// A reply told a duration that no server should.
    absurd: bool,
}

/// What a pod has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub logins: u64,
    pub credentials: u64,
}

#[derive(Default)]
struct Pod {
    cost: Cost,
    /// The lease that its files show, while it is mounted.
    shown: Option<String>,
    tokens: Vec<String>,
    leases: Vec<String>,
    credentials: Vec<String>,
}

#[derive(Default)]
struct Books {
    /// The pods' tokens, hashed.
    bearers: HashMap<u64, u64>,
    pods: HashMap<u64, Pod>,
    logins: HashMap<String, Login>,
    leases: HashMap<String, Lease>,
    /// What files show (a user name, a lease id, a hash of a certificate), and the pod it was given to.
    given: HashMap<String, u64>,
    /// Lease ids by what files show of them.
    shown: HashMap<String, String>,
    /// Accessors of logins whose pods have ended, and that were not revoked.
    left: BTreeMap<String, (Instant, bool)>,
}

#[derive(Default)]
pub struct Ledger(Mutex<Books>);

/// How a credential that is dead came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its term had run out.
    Ended,
    /// Its term had not.
    Revoked,
    /// A reply told a duration that no server should; nobody can keep that.
    Absurd,
}

/// A lease that should have been renewed by now.
pub struct Late {
    pub pod: u64,
    pub lease: String,
    /// When its renewal was due at the latest.
    pub due: Instant,
}

pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    /// A pod's token.
    pub fn minted(&self, pod: u64, token: &str) {
        self.lock().bearers.insert(hash(token), pod);
    }

    /// A login was carried out; `reply` is the server's.
    pub fn login(&self, bearer: &str, reply: &Value, absurd: bool) {
        let books = &mut *self.lock();
        let auth = &reply["auth"];
        let (Some(token), Some(accessor)) =
            (auth["client_token"].as_str(), auth["accessor"].as_str())
        else {
            return;
        };
        let Some(&pod) = books.bearers.get(&hash(bearer)) else {
            return;
        };
        let login = Login {
            accessor: accessor.to_owned(),
            pod,
            born: Instant::now(),
            delivered: false,
            revoked: false,
            absurd,
        };
        books.logins.insert(token.to_owned(), login);
        let pod = books.pods.entry(pod).or_default();
        pod.cost.logins += 1;
        pod.tokens.push(token.to_owned());
    }

    /// A login's reply went on to the daemon.
    pub fn delivered(&self, reply: &Value) {
        let token = reply["auth"]["client_token"].as_str().unwrap_or_default();
        if let Some(login) = self.lock().logins.get_mut(token) {
            login.delivered = true;
        }
    }

    /// A reply that gives a credential, under a lease or not.
    pub fn issued(&self, token: &str, backend: &str, reply: &Value, sent: Instant, absurd: bool) {
        let books = &mut *self.lock();
        let Some(pod) = books.logins.get(token).map(|login| login.pod) else {
            return;
        };
        let lease = reply["lease_id"].as_str().unwrap_or_default();
        let certificate = reply["data"]["certificate"].as_str();
        if lease.is_empty() && certificate.is_none() {
            return;
        }
        let entry = books.pods.entry(pod).or_default();
        entry.cost.credentials += 1;
        if let Some(certificate) = certificate {
            let name = hash(certificate.trim()).to_string();
            entry.credentials.push(name.clone());
            books.given.insert(name, pod);
        }
        if lease.is_empty() {
            return;
        }
        let name = reply["data"]["username"].as_str().unwrap_or(lease);
        entry.credentials.push(name.to_owned());
        entry.leases.push(lease.to_owned());
        books.given.insert(name.to_owned(), pod);
        books.shown.insert(name.to_owned(), lease.to_owned());
        let term = Duration::from_secs(reply["lease_duration"].as_u64().unwrap_or(0));
        let entry = Lease {
            pod,
            token: token.to_owned(),
            backend: backend.to_owned(),
            since: sent,
            term,
            first: term,
            renewable: reply["renewable"].as_bool().unwrap_or(false),
            revoked: false,
            absurd,
        };
        books.leases.insert(lease.to_owned(), entry);
    }

    /// A lease was renewed.
    pub fn renewed(&self, lease: &str, reply: &Value, sent: Instant, absurd: bool) {
        if let Some(lease) = self.lock().leases.get_mut(lease) {
            lease.since = sent;
            lease.term = Duration::from_secs(reply["lease_duration"].as_u64().unwrap_or(0));
            lease.absurd = absurd;
        }
    }

    /// A token was revoked; the pod whose files show what hung from it, if one does.
    pub fn revoked(&self, token: &str) -> Option<(u64, String)> {
        let books = &mut *self.lock();
        let login = books.logins.get_mut(token)?;
        login.revoked = true;
        let pod = login.pod;
        let shown = books.pods.get(&pod)?.shown.clone()?;
        let lease = books.leases.get(&shown)?;
        (lease.token == token && !lease.revoked && !lease.absurd).then_some((pod, shown))
    }

    /// A lease was revoked; the pod whose files show it, if one does.
    pub fn lease_revoked(&self, lease: &str) -> Option<(u64, String)> {
        let books = &mut *self.lock();
        let entry = books.leases.get_mut(lease)?;
        entry.revoked = true;
        let (pod, absurd) = (entry.pod, entry.absurd);
        let shown = books.pods.get(&pod)?.shown.as_deref() == Some(lease);
        (shown && !absurd).then(|| (pod, lease.to_owned()))
    }

    /// What a pod has cost so far.
    pub fn cost(&self, pod: u64) -> Cost {
        self.lock()
            .pods
            .get(&pod)
            .map_or_else(Cost::default, |pod| pod.cost)
    }

    /// To whom a credential was given.
    pub fn owner(&self, shown: &str) -> Option<u64> {
        self.lock().given.get(shown).copied()
    }

    /// A pod's files show this credential from now on.
    pub fn shows(&self, pod: u64, credential: &str) {
        let books = &mut *self.lock();
        let lease = books.shown.get(credential).cloned();
        books.pods.entry(pod).or_default().shown = lease;
    }

    /// A pod's volume ends, or is out of sight.
    pub fn hides(&self, pod: u64) {
        if let Some(pod) = self.lock().pods.get_mut(&pod) {
            pod.shown = None;
        }
    }

    /// Whether a pod holds something of an absurd duration.
    pub fn is_absurd(&self, pod: u64) -> bool {
        let books = self.lock();
        let Some(pod) = books.pods.get(&pod) else {
            return false;
        };
        let last = pod
            .tokens
            .last()
            .and_then(|token| books.logins.get(token))
            .is_some_and(|login| login.absurd);
        let mut leases = pod
            .leases
            .iter()
            .filter_map(|lease| books.leases.get(lease));
        last || leases.any(|lease| lease.absurd && !lease.revoked)
    }

    /// How a dead credential came to its end.
    pub fn death(&self, credential: &str) -> Death {
        let books = self.lock();
        let lease = books
            .shown
            .get(credential)
            .and_then(|lease| books.leases.get(lease));
        match lease {
            Some(lease) if lease.absurd => Death::Absurd,
            Some(lease) if lease.revoked => Death::Revoked,
            // The server floors, and its clock is not ours.
            Some(lease) if lease.since.elapsed() + Duration::from_secs(1) < lease.term => {
                Death::Revoked
            }
            _ => Death::Ended,
        }
    }

    /// The shown leases that are within `share` of their end and could have been renewed.
    pub fn late(&self, share: f64) -> Vec<Late> {
        let books = self.lock();
        let shown = books.pods.values().filter_map(|pod| pod.shown.as_ref());
        let late = shown.filter_map(|id| {
            let lease = books.leases.get(id)?;
            let capped = lease.term.as_secs_f64() < lease.first.as_secs_f64() * CAPPED;
            let left = lease.term.saturating_sub(lease.since.elapsed());
            let is_late = lease.renewable
                && !lease.absurd
                && !lease.revoked
                && !capped
                && left < lease.first.mul_f64(share);
            is_late.then(|| Late {
                pod: lease.pod,
                lease: id.clone(),
                due: lease.since + lease.term / 2,
            })
        });
        late.collect()
    }

    /// The tokens of a pod that nobody has revoked and whose login has reached the daemon.
    pub fn unrevoked(&self, pod: u64) -> Vec<String> {
        let books = self.lock();
        let tokens = books.pods.get(&pod).into_iter().flat_map(|pod| &pod.tokens);
        let logins = tokens.filter_map(|token| books.logins.get(token));
        logins
            .filter(|login| !login.revoked && login.delivered)
            .map(|login| login.accessor.clone())
            .collect()
    }

    /// The leases of a pod from one engine that neither they nor their token was revoked of.
    pub fn leases_of(&self, pod: u64, backend: &str) -> Vec<String> {
        let books = self.lock();
        let leases = books.pods.get(&pod).into_iter().flat_map(|pod| &pod.leases);
        let alive = leases.filter(|id| {
            books.leases.get(*id).is_some_and(|lease| {
                lease.backend == backend
                    && !lease.revoked
                    && !lease.absurd
                    && books
                        .logins
                        .get(&lease.token)
                        .is_some_and(|login| !login.revoked)
            })
        });
        alive.cloned().collect()
    }

    /// The leases of a token, where the server does not tell them.
    pub fn leases_under(&self, accessor: &str) -> Vec<String> {
        let books = self.lock();
        let Some(token) = books
            .logins
            .iter()
            .find(|(_, login)| login.accessor == accessor)
            .map(|(token, _)| token)
        else {
            return Vec::new();
        };
        let leases = books
            .leases
            .iter()
            .filter(|(_, lease)| lease.token == *token && !lease.revoked);
        leases.map(|(id, _)| id.clone()).collect()
    }

    /// When a login was, and whether its reply reached the daemon's connection.
    pub fn birth(&self, accessor: &str) -> Option<(Instant, bool)> {
        let books = self.lock();
        let known = books
            .logins
            .values()
            .find(|login| login.accessor == accessor);
        known
            .map(|login| (login.born, login.delivered))
            .or_else(|| books.left.get(accessor).copied())
    }

    /// Forgets a pod that has ended, but for what nobody has revoked.
    pub fn forget(&self, pod: u64) {
        let books = &mut *self.lock();
        let Some(pod) = books.pods.remove(&pod) else {
            return;
        };
        for token in pod.tokens {
            if let Some(login) = books.logins.remove(&token).filter(|login| !login.revoked) {
                books
                    .left
                    .insert(login.accessor, (login.born, login.delivered));
            }
        }
        for lease in pod.leases {
            books.leases.remove(&lease);
        }
        for name in pod.credentials {
            books.given.remove(&name);
            books.shown.remove(&name);
        }
    }

    /// The server's clock was put forward.
    pub fn advance(&self, by: Duration) {
        for lease in self.lock().leases.values_mut() {
            lease.since = lease.since.checked_sub(by).unwrap_or(lease.since);
        }
    }
}
