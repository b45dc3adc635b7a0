//! What a server gave, and what keeps it alive.
//!
//! A [`Session`] is one login for one volume, a [`Grant`] one reply read under it. [`timing`] says when
//! each is renewed or replaced; [`LeaseKeeper`] is the one door through which the registry acts on
//! them, so that registry and Vault client never meet otherwise.

pub mod timing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::clock::foreign::Span;
use crate::clock::{Moment, clamped};
use crate::redacted::{Secret, SecretBytes};
use crate::spec::{Endpoint, Login, MountSpec, Object, Request, Selector};

/// What the server granted, and when we asked for it. Its fields are clamped when it is made: see
/// [`crate::clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenTerm")]
pub struct Term {
    sent: Moment,
    granted: Duration,
}

/// A term as a journal file states it.
#[derive(Deserialize)]
struct WrittenTerm {
    sent: Moment,
    granted: Span,
}

impl From<WrittenTerm> for Term {
    fn from(written: WrittenTerm) -> Self {
        Self::new(written.sent, written.granted.0)
    }
}

impl Term {
    /// A term of `granted` from `sent` on, the time when the request was *sent*: a reply that was long on its way
    /// grants less than it says. Zero means without end (a root-like token). A term of more than a hundred years
    /// is one of a hundred.
    #[must_use]
    pub const fn new(sent: Moment, granted: Duration) -> Self {
        Self {
            sent,
            granted: clamped(granted),
        }
    }

    /// The term of a reply that a cache has kept for `age` (HTTP's `Age`). An age that leaves nothing of the term
    /// is not believed: a cache forgets what has ended, and a living credential would be given up for it.
    #[must_use]
    pub fn aged(sent: Moment, age: Duration, granted: Duration) -> Self {
        let sent = if age < granted { sent.minus(age) } else { sent };
        Self::new(sent, granted)
    }

    /// A term without end.
    #[must_use]
    pub const fn endless(sent: Moment) -> Self {
        Self::new(sent, Duration::ZERO)
    }

    /// When the request was sent.
    #[must_use]
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// For how long it was granted, a hundred years at most; zero means without end.
    #[must_use]
    pub const fn granted(&self) -> Duration {
        self.granted
    }

    /// When it ends; `None` for a term without end.
    #[must_use]
    pub fn end(&self) -> Option<Moment> {
        (!self.granted.is_zero()).then(|| self.sent.plus(self.granted))
    }

    /// What is left of it at `now`; `None` for a term without end.
    #[must_use]
    pub fn left(&self, now: Moment) -> Option<Duration> {
        self.end().map(|end| end.since(now))
    }
}

/// The two kinds of token: they differ in what can be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Stored by the server: has an accessor, can be renewed and revoked, takes its leases along.
    Service,
    /// Not stored: no accessor, no renewal, no revocation.
    Batch,
}

/// One login for one volume. Immutable: how its term goes on is the registry's to know.
pub struct Session {
    /// Names it in logs and in the journal; random, no secret.
    pub id: String,
    /// Where it was opened.
    pub endpoint: Endpoint,
    /// How it was opened.
    pub login: Login,
    /// For which service account (`namespace/name`).
    pub service_account: String,
    /// The client token.
    pub token: Secret,
    /// The token's accessor; empty for batch tokens.
    pub accessor: String,
    /// The token's kind.
    pub kind: TokenKind,
    /// The token's policies, for people and for the check that `default` is among them.
    pub policies: Vec<String>,
    /// Whether the server says that it can be renewed.
    pub renewable: bool,
    /// Its uses are counted (`num_uses`), and each call is one: it serves one Mount and is not renewed, for
    /// with its last use the server revokes it and all its leases.
    pub counted: bool,
    /// The first term.
    pub term: Term,
}

impl Session {
    /// Whether this session may serve `spec`: the same server, the same login, the same account.
    #[must_use]
    pub fn serves(&self, spec: &MountSpec) -> bool {
        self.endpoint == spec.endpoint
            && self.login == spec.login
            && self.service_account == spec.pod.service_account_id()
    }
}

/// What keeps a reply good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// A read that shows what the server has stored: read again at every poll. A static role's credential is
    /// one too (journals of 0.1 call that `rotated`).
    #[serde(alias = "rotated")]
    Static,
    /// A lease.
    Lease {
        /// `lease_id`.
        id: String,
        /// Whether the server says that it can be renewed.
        renewable: bool,
    },
    /// A certificate without a lease: good for its validity.
    Certificate,
    /// A credential without a lease whose reply tells its end otherwise: an access token, an AWS session, an
    /// SSH certificate.
    Expiring,
    /// A write's reply of no known life (sign, decrypt): kept, and repeated after its refresh time.
    Written,
}

/// A reply and what keeps it good. Immutable, like [`Session`].
pub struct Grant {
    /// What was asked.
    pub request: Request,
    /// The server's response body, as far as a later Mount needs it; empty where it was not kept (see
    /// [`Grant::without_body`]).
    pub body: SecretBytes,
    /// The keys of the data that the body was cut down to; `None`: it is the whole reply.
    pub keys: Option<BTreeSet<String>>,
    /// The body is no JSON but a file's content as it is (`pki/ca_chain`). Such a reply is a static read.
    pub raw: bool,
    /// What keeps it good.
    pub keep: Keep,
    /// The first term: of the lease, of the certificate's validity, of what the reply tells, of the refresh time.
    /// Without end for [`Keep::Static`].
    pub term: Term,
}

impl Grant {
    /// Whether its content is there. An empty reply is refused when it is read, so an empty body is one that was
    /// not kept: what it grants is still renewed and revoked, and the next Mount reads it anew.
    #[must_use]
    pub fn has_body(&self) -> bool {
        !self.body.expose().is_empty()
    }

    /// The same grant without its body.
    #[must_use]
    pub fn without_body(&self) -> Self {
        Self {
            request: self.request.clone(),
            body: SecretBytes::from(Vec::new()),
            keys: None,
            raw: self.raw,
            keep: self.keep.clone(),
            term: self.term,
        }
    }

    /// The same grant without its body and without the arguments that it was asked with, which may be as large:
    /// what it takes to renew and revoke it. No Mount can be answered from it.
    #[must_use]
    pub fn without_content(&self) -> Self {
        let mut bare = self.without_body();
        bare.request.args = None;
        bare
    }

    /// Whether it has what `objects` make their files of. A class that was edited may ask for a key that was
    /// not kept.
    #[must_use]
    pub fn answers(&self, objects: &[Object]) -> bool {
        let mut objects = objects.iter();
        let has = |selector: &Selector| match (&self.keys, selector) {
            (None, _) => true,
            (Some(keys), Selector::Key(key)) => keys.contains(key),
            (Some(_), Selector::Response) => false,
        };
        self.has_body()
            && objects.all(|object| object.request != self.request || has(&object.selector))
    }

    /// Whether both are the same reply of the server, however much of it each of them has. (One without its body
    /// has no arguments either.)
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.request, &other.request);
        self.keep == other.keep
            && self.term == other.term
            && (one.method, &one.path, &one.query) == (two.method, &two.path, &two.query)
            && (one.args == two.args || !self.has_body() || !other.has_body())
    }

    /// The bytes that its content takes in memory: what is bounded by a quota, and goes with
    /// [`Grant::without_content`].
    #[must_use]
    pub fn size(&self) -> usize {
        let args = self.request.args.as_ref().map_or(0, String::len);
        let keys = self.keys.iter().flatten().map(String::len).sum::<usize>();
        self.body.size() + args + keys
    }

    /// The lease's id, where there is a lease.
    #[must_use]
    pub fn lease_id(&self) -> Option<&str> {
        match &self.keep {
            Keep::Lease { id, .. } => Some(id),
            Keep::Static | Keep::Certificate | Keep::Expiring | Keep::Written => None,
        }
    }
}

/// A successful renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The new term.
    pub term: Term,
    /// Whether it can be renewed again.
    pub renewable: bool,
    /// The reply warned that a maximum was exceeded: the end is final.
    pub capped: bool,
}

/// How a revocation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The server took it and owns the clean-up from here.
    Accepted,
    /// The token was dead already.
    AlreadyDead,
    /// A batch token: the server revokes none; it lives to its own end.
    Batch,
}

/// Why a renewal or a revocation was not done, by what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// To be tried again: unreachable, sealed, throttled, 5xx, or a text we do not know.
    #[error("{why}")]
    Transient {
        /// For the log; carries no secret.
        why: String,
        /// The server's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The token is dead, and with it every lease below it.
    #[error("the token is dead: {why}")]
    TokenDead {
        /// For the log; carries no secret.
        why: String,
    },
    /// This lease is gone.
    #[error("the lease is gone: {why}")]
    Gone {
        /// For the log; carries no secret.
        why: String,
    },
    /// No renewal any more; it lives to its present end.
    #[error("cannot be renewed any more: {why}")]
    NotRenewable {
        /// For the log; carries no secret.
        why: String,
    },
    /// A policy is missing. The token lives; never a reason to log in again.
    #[error("a policy is missing: {why}")]
    Forbidden {
        /// For the log; carries no secret.
        why: String,
    },
}

/// What the registry calls a server for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To renew a token or a lease.
    Renewal,
    /// To revoke one.
    Revocation,
    /// To ask whether the server still knows one.
    LookUp,
}

/// A call that waits for its turn.
pub struct PlannedCall {
    /// The session of which, or under which, it is made.
    pub session: Arc<Session>,
    /// The lease that it is for; none where it is for the session's token.
    pub lease_id: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// When that ends which it keeps alive; of a look-up, when its item was seen last. The earliest goes first.
    pub end: Moment,
    /// From when on it is urgent.
    pub urgent_from: Moment,
}

/// Leave to make a call, for as long as this is held.
pub struct Admitted(#[expect(dead_code, reason = "held")] Box<dyn Send + Sync>);

impl Admitted {
    /// Holds whatever the implementation counts calls by.
    #[must_use]
    pub fn holding(permit: impl Send + Sync + 'static) -> Self {
        Self(Box::new(permit))
    }
}

/// Keeps and ends what the server gave. Implemented by the Vault client, and by a fake in the worker's
/// tests, which run on a paused clock.
///
/// No method logs in or reads a secret: only a Mount does that.
pub trait LeaseKeeper: Send + Sync + 'static {
    /// Waits for the turn of a call, also for a server that is away. Whoever is admitted makes the call at once, for it
    /// may be the one probe of that server, and keeps the answer until the call has ended; or drops it, where the call
    /// has become pointless.
    fn admit(&self, call: PlannedCall) -> BoxFuture<'static, Admitted>;

    /// `auth/token/renew-self` with increment 0. An answer that is not there within `patience` is none.
    fn renew_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>>;

    /// `sys/leases/renew` with the id in the body (all that the `default` policy allows), increment 0.
    fn renew_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>>;

    /// `auth/token/revoke-self`, waited for as a renewal is. A dead token's 403 and the batch token's 400 are good ends.
    fn revoke_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>>;

    /// `auth/token/lookup-self`: whether the server still knows the token.
    fn look_up_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>>;

    /// `sys/leases/lookup`: whether the server still knows the lease.
    fn look_up_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>>;

    /// `sys/leases/revoke` with `sync: false`. Not in the `default` policy.
    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>>;
}

#[cfg(test)]
mod tests {
    use super::timing::Nature;
    use super::*;

    #[test]
    fn what_older_journals_call_rotated_is_read_at_each_poll() {
        let keep: Keep = serde_json::from_str(r#""rotated""#).unwrap();
        assert_eq!(keep, Keep::Static);
        let nature: Nature = serde_json::from_str(r#""rotated""#).unwrap();
        assert_eq!(nature, Nature::Static);
    }
}
