//! What follows from a renewal, a revocation or a look-up: how each answer changes the volume it was for.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::care::{Care, LookUps};
use super::notice::{NoticeKind, Notices};
use super::task::{ItemKey, Task};
use super::volume::{HeldGrant, HeldSession, Volume};
use crate::clock::Moment;
use crate::grant::timing::retry_delay;
use crate::grant::{KeepError, Renewal, Revoked};
use crate::metrics::Metrics;

/// How an attempt ended.
pub enum Outcome {
    Renewed(Result<Renewal, KeepError>),
    Revoked(Result<Revoked, KeepError>),
    LookedUp(Result<(), KeepError>),
    /// The attempt itself broke down (it panicked): as good as unanswered.
    Broken,
}

/// What an attempt was for.
#[derive(Clone, Copy)]
enum Item {
    Session(ItemKey),
    Lease(ItemKey),
}

impl Item {
    const fn kind(self) -> &'static str {
        match self {
            Self::Session(_) => "token",
            Self::Lease(_) => "lease",
        }
    }

    /// Whether it is known to the server, as far as we know, and not on its way to revocation.
    fn in_use(self, volume: &Volume) -> bool {
        match self {
            Self::Session(key) => volume.sessions.get(&key).is_some_and(HeldSession::lives),
            Self::Lease(key) => volume.grants.get(&key).is_some_and(HeldGrant::lives),
        }
    }

    /// How it is looked after, and what it is called: a session by its id, a lease by its path.
    fn of(self, volume: &mut Volume) -> Option<(&mut Care, String)> {
        match self {
            Self::Session(key) => {
                let held = volume.sessions.get_mut(&key)?;
                Some((&mut held.care, held.session.id.clone()))
            }
            Self::Lease(key) => {
                let held = volume.grants.get_mut(&key)?;
                Some((&mut held.care, held.grant.request.path.clone()))
            }
        }
    }
}

/// Takes an attempt's outcome in.
pub fn apply(
    volume: &mut Volume,
    task: Task,
    outcome: Outcome,
    every: Duration,
    now: Moment,
    metrics: &Metrics,
    notices: &Notices,
) {
    volume.call_ended(task);
    let item = match task {
        Task::RenewSession(_, key) | Task::RevokeSession(_, key) | Task::LookUpSession(_, key) => {
            Item::Session(key)
        }
        Task::RenewLease(_, key) | Task::RevokeLease(_, key) | Task::LookUpLease(_, key) => {
            Item::Lease(key)
        }
    };
    let answer = match outcome {
        Outcome::Broken => Err(KeepError::Transient {
            why: "the attempt broke down".to_owned(),
            retry_after: None,
        }),
        Outcome::Renewed(result) => result.map(Some),
        Outcome::Revoked(result) => result.map(|_| None),
        Outcome::LookedUp(result) => result.map(|()| None),
    };
    match task {
        Task::RenewSession(..) | Task::RenewLease(..) => {
            renewed(volume, item, answer, now, metrics, notices);
        }
        Task::LookUpSession(..) | Task::LookUpLease(..) => {
            looked_up(volume, item, answer, every, now, metrics, notices);
        }
        _ => revoked(volume, item, answer, now, metrics, notices),
    }
}

type Answer = Result<Option<Renewal>, KeepError>;

fn renewed(
    volume: &mut Volume,
    item: Item,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
    notices: &Notices,
) {
    let (kind, id) = (item.kind(), volume.id.to_string());
    let in_use = item.in_use(volume);
    let Some((care, name)) = item.of(volume) else {
        return;
    };
    if !in_use {
        // Released, or found dead, while the renewal was under way. Its revocation must know how long it lives.
        if let Ok(Some(renewal)) = answer {
            care.life.renewed(&renewal);
        }
        return;
    }
    match answer {
        Ok(renewal) => {
            metrics.renewal(kind, "ok");
            care.renewed(renewal);
            if care.life.capped {
                info!(
                    volume = id,
                    pod = volume.pod.name,
                    namespace = volume.pod.namespace,
                    kind,
                    name,
                    "its end is final: it is replaced at the last poll but one before"
                );
            } else {
                debug!(volume = id, kind, name, "renewed");
            }
        }
        Err(KeepError::Transient { why, retry_after }) => {
            metrics.renewal(kind, "retry");
            retry(care, retry_after, now);
            let failures = care.failures;
            warn!(
                volume = id,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                kind,
                name,
                why,
                failures,
                "not renewed; it is tried again"
            );
        }
        Err(KeepError::Forbidden { why }) => {
            metrics.renewal(kind, "refused");
            let first = care.failures == 0;
            care.forbidden(now);
            if first {
                warn!(
                    volume = id,
                    pod = volume.pod.name,
                    namespace = volume.pod.namespace,
                    kind,
                    name,
                    why,
                    "no policy allows its renewal: let the role have the `default` policy; it is asked again, and replaced at a poll before its end"
                );
                let text = format!(
                    "no policy allows the renewal of the {kind}: let the role have the `default` policy; else a rotation poll must replace it: {why}"
                );
                notices.tell(volume, NoticeKind::CannotRenew, text);
            }
        }
        Err(KeepError::NotRenewable { why }) => {
            metrics.renewal(kind, "refused");
            care.life.capped = true;
            warn!(
                volume = id,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                kind,
                name,
                why,
                "cannot be renewed: it is replaced at a poll before its end"
            );
            let text =
                format!("the {kind} cannot be renewed; a rotation poll must replace it: {why}");
            notices.tell(volume, NoticeKind::CannotRenew, text);
        }
        Err(KeepError::TokenDead { why }) if !care.denied_again(now) => {
            metrics.renewal(kind, "denied");
            debug!(
                volume = id,
                kind, name, why, "the token was denied: asked once more before that counts"
            );
        }
        Err(error @ (KeepError::Gone { .. } | KeepError::TokenDead { .. })) => {
            metrics.renewal(kind, "dead");
            error!(
                volume = id,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                kind,
                name,
                why = %error,
                "it is dead at the server: the next poll replaces it"
            );
            lose(volume, item, &error, now);
            let text = format!("the {kind} is dead; the next rotation poll replaces it: {error}");
            notices.tell(volume, NoticeKind::Expired, text);
        }
    }
}

/// Takes the answer in to whether the server still knows a thing. `every`: the time between two questions.
fn looked_up(
    volume: &mut Volume,
    item: Item,
    answer: Answer,
    every: Duration,
    now: Moment,
    metrics: &Metrics,
    notices: &Notices,
) {
    let (kind, id) = (item.kind(), volume.id.to_string());
    let owner = match item {
        Item::Session(key) => Some(key),
        Item::Lease(key) => volume.grants.get(&key).map(|held| held.session),
    };
    if !item.in_use(volume) {
        // It was released, or found dead, while the question was under way.
        return;
    }
    let Some((care, name)) = item.of(volume) else {
        return;
    };
    let suspected = matches!(care.look_ups, LookUps::Suspected(_));
    match answer {
        Ok(_) => {
            metrics.look_up(kind, "ok");
            care.seen_alive(now);
            // The question was asked with its session's token.
            if let Some(owner) = owner.and_then(|key| volume.sessions.get_mut(&key)) {
                owner.care.seen_alive(now);
            }
        }
        Err(KeepError::Forbidden { why } | KeepError::NotRenewable { why }) => {
            metrics.look_up(kind, "refused");
            care.look_ups = LookUps::Refused;
            debug!(volume = id, kind, name, why, "may not be looked up");
        }
        Err(KeepError::Transient { why, .. }) => {
            metrics.look_up(kind, "retry");
            let pause = every / 8 + every.mul_f64(rand::random::<f64>() / 8.0);
            care.look_ups = LookUps::From(now.plus(pause));
            debug!(
                volume = id,
                kind, name, why, "not looked up; it is tried again"
            );
        }
        Err(KeepError::TokenDead { why }) if !suspected => {
            metrics.look_up(kind, "denied");
            debug!(
                volume = id,
                kind, name, why, "the token was denied: asked once more"
            );
            // The lease' own question is put off until its token's is answered.
            care.look_ups = LookUps::From(now.plus(every / 8));
            let owner = owner.and_then(|key| volume.sessions.get_mut(&key));
            let owner = owner.filter(|owner| owner.care.look_ups != LookUps::Refused);
            if let Some(owner) = owner {
                // The questions of its other leases do not put its own off.
                if !matches!(owner.care.look_ups, LookUps::Suspected(_)) {
                    owner.care.look_ups = LookUps::Suspected(now);
                }
            } else if let Some((care, _)) = item.of(volume) {
                // Its token may not be asked about: a renewal or a poll will tell.
                care.look_ups = LookUps::Refused;
            }
        }
        Err(error @ (KeepError::Gone { .. } | KeepError::TokenDead { .. })) => {
            metrics.look_up(kind, "dead");
            error!(
                volume = id,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                kind,
                name,
                why = %error,
                "somebody else has revoked it at the server: the next poll replaces it"
            );
            lose(volume, item, &error, now);
            let text = format!(
                "somebody else has revoked the {kind} at the server; the next rotation poll replaces it: {error}"
            );
            notices.tell(volume, NoticeKind::Expired, text);
        }
    }
}

/// With a dead token goes all that hangs from it, whichever of its renewals has shown it.
fn lose(volume: &mut Volume, item: Item, error: &KeepError, now: Moment) {
    match item {
        Item::Session(key) => volume.token_dead(key, now),
        Item::Lease(key) => {
            let Some(held) = volume.grants.get_mut(&key) else {
                return;
            };
            if matches!(error, KeepError::TokenDead { .. }) {
                let session = held.session;
                volume.token_dead(session, now);
            } else {
                held.lost = true;
                volume.settle_releases(now);
            }
        }
    }
}

fn revoked(
    volume: &mut Volume,
    item: Item,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
    notices: &Notices,
) {
    let (kind, id) = (item.kind(), volume.id.to_string());
    let Some((care, name)) = item.of(volume) else {
        return;
    };
    match (answer, item) {
        (Err(KeepError::Transient { why, retry_after }), _) => {
            metrics.release(kind, "retry");
            retry(care, retry_after, now);
            let failures = care.failures;
            warn!(
                volume = id,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                kind,
                name,
                why,
                failures,
                "not revoked; it is tried again until the server agrees or it has run out"
            );
            return;
        }
        (Err(KeepError::Forbidden { why }), Item::Session(_)) => {
            metrics.release(kind, "refused");
            retry(care, None, now);
            // Said once, not at each of the attempts that go on until the token has run out.
            if care.failures == 1 {
                error!(
                    volume = id,
                    pod = volume.pod.name,
                    namespace = volume.pod.namespace,
                    kind,
                    name,
                    why,
                    "the token may not revoke itself: let its role have the `default` policy, or grant update on auth/token/revoke-self"
                );
                let text = format!("the token may not revoke itself and lives to its end: {why}");
                notices.tell(volume, NoticeKind::CannotRevoke, text);
            }
            return;
        }
        (Err(KeepError::Forbidden { .. }), Item::Lease(_)) => {
            metrics.release(kind, "left");
            debug!(
                volume = id,
                kind, name, "left to run out: no policy grants sys/leases/revoke"
            );
        }
        (Ok(_) | Err(_), _) => {
            metrics.release(kind, "ok");
            info!(
                volume = id,
                kind,
                name,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                "revoked"
            );
        }
    }
    match item {
        Item::Session(key) => volume.sessions.remove(&key).is_some(),
        Item::Lease(key) => volume.grants.remove(&key).is_some(),
    };
    volume.settle_releases(now);
}

fn retry(care: &mut Care, retry_after: Option<Duration>, now: Moment) {
    let remaining = care.life.term.end().map(|end| end.since(now));
    let delay = retry_delay(care.failures, remaining, retry_after, rand::random());
    care.failures = care.failures.saturating_add(1);
    care.attempt_at = Some(now.plus(delay));
}
