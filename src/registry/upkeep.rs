//! What follows from a renewal or a revocation: how each answer changes the volume it was for.

use tracing::{debug, error, info, warn};

use super::agenda::{ItemKey, Task};
use super::care::Care;
use super::volume::{Duty, Volume};
use crate::clock::Moment;
use crate::grant::timing::{Nature, retry_delay};
use crate::grant::{KeepError, Renewal, Revoked};
use crate::metrics::Metrics;

/// How an attempt ended.
pub enum Outcome {
    Renewed(Result<Renewal, KeepError>),
    Revoked(Result<Revoked, KeepError>),
    /// The attempt itself broke down (it panicked): as good as unanswered.
    Broken,
}

/// Takes an attempt's outcome in.
pub fn apply(volume: &mut Volume, task: Task, outcome: Outcome, now: Moment, metrics: &Metrics) {
    let outcome = match (task, outcome) {
        (_, Outcome::Broken) => Err(KeepError::Transient {
            why: "the attempt broke down".to_owned(),
            retry_after: None,
        }),
        (_, Outcome::Renewed(result)) => result.map(Some),
        (_, Outcome::Revoked(result)) => result.map(|_| None),
    };
    match task {
        Task::RenewSession(_, key) => renewed_session(volume, key, outcome, now, metrics),
        Task::RenewLease(_, key) => renewed_lease(volume, key, outcome, now, metrics),
        Task::RevokeSession(_, key) => revoked_session(volume, key, outcome, now, metrics),
        Task::RevokeLease(_, key) => revoked_lease(volume, key, outcome, now, metrics),
        Task::Retire(_) | Task::Expire(_) | Task::GiveUp(_) => {}
    }
}

type Answer = Result<Option<Renewal>, KeepError>;

fn renewed_session(
    volume: &mut Volume,
    key: ItemKey,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
) {
    let name = volume.id.to_string();
    let Some(held) = volume.sessions.get_mut(&key) else {
        return;
    };
    let session = held.session.id.clone();
    let care = &mut held.care;
    care.busy = false;
    match answer {
        Ok(renewal) => {
            metrics.renewal("token", "ok");
            renewed(care, renewal);
            if care.life.capped {
                warn!(
                    volume = name,
                    session,
                    "the token's end is final: it is replaced at the last poll but one before"
                );
            } else {
                debug!(volume = name, session, "token renewed");
            }
        }
        Err(KeepError::Transient { why, retry_after }) => {
            metrics.renewal("token", "retry");
            retry(care, retry_after, now);
            warn!(
                volume = name,
                session,
                why,
                failures = care.failures,
                "token not renewed; it is tried again"
            );
        }
        Err(KeepError::NotRenewable { why } | KeepError::Forbidden { why }) => {
            metrics.renewal("token", "refused");
            care.life.capped = true;
            warn!(
                volume = name,
                session,
                why,
                "the token cannot be renewed: it is replaced at a poll before its end"
            );
        }
        Err(KeepError::TokenDead { why } | KeepError::Gone { why }) => {
            metrics.renewal("token", "dead");
            error!(
                volume = name,
                session,
                why,
                "the server does not know the token any more: the next poll logs in again"
            );
            volume.token_dead(key, now);
        }
    }
}

fn renewed_lease(
    volume: &mut Volume,
    key: ItemKey,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
) {
    let name = volume.id.to_string();
    let Some(held) = volume.grants.get_mut(&key) else {
        return;
    };
    let (session, path) = (held.session, held.grant.request.path.clone());
    let care = &mut held.care;
    care.busy = false;
    match answer {
        Ok(renewal) => {
            metrics.renewal("lease", "ok");
            renewed(care, renewal);
            if care.life.capped {
                warn!(
                    volume = name,
                    path,
                    "the lease's end is final: its credential is replaced at the last poll but one before"
                );
            } else {
                debug!(volume = name, path, "lease renewed");
            }
        }
        Err(KeepError::Transient { why, retry_after }) => {
            metrics.renewal("lease", "retry");
            retry(care, retry_after, now);
            warn!(
                volume = name,
                path,
                why,
                failures = care.failures,
                "lease not renewed; it is tried again"
            );
        }
        Err(KeepError::NotRenewable { why } | KeepError::Forbidden { why }) => {
            metrics.renewal("lease", "refused");
            care.life.capped = true;
            warn!(
                volume = name,
                path,
                why,
                "the lease cannot be renewed any more: its credential is replaced at a poll before its end"
            );
        }
        Err(KeepError::Gone { why }) => {
            metrics.renewal("lease", "gone");
            held.lost = true;
            error!(
                volume = name,
                path, why, "the lease is gone: the next poll fetches a new credential"
            );
            volume.settle_releases(now);
        }
        Err(KeepError::TokenDead { why }) => {
            metrics.renewal("lease", "dead");
            error!(
                volume = name,
                path, why, "the lease's token is dead: the next poll logs in again"
            );
            volume.token_dead(session, now);
        }
    }
}

fn revoked_session(
    volume: &mut Volume,
    key: ItemKey,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
) {
    let name = volume.id.to_string();
    let Some(held) = volume.sessions.get_mut(&key) else {
        return;
    };
    let session = held.session.id.clone();
    held.care.busy = false;
    match answer {
        Ok(_)
        | Err(
            KeepError::TokenDead { .. } | KeepError::Gone { .. } | KeepError::NotRenewable { .. },
        ) => {
            metrics.release("token", "ok");
            info!(
                volume = name,
                session,
                pod = volume.pod.name,
                namespace = volume.pod.namespace,
                "session revoked"
            );
            volume.sessions.remove(&key);
            volume.settle_releases(now);
        }
        Err(KeepError::Transient { why, retry_after }) => {
            metrics.release("token", "retry");
            retry(&mut held.care, retry_after, now);
            warn!(
                volume = name,
                session,
                why,
                failures = held.care.failures,
                "session not revoked; it is tried again until the token has run out"
            );
        }
        Err(KeepError::Forbidden { why }) => {
            metrics.release("token", "refused");
            retry(&mut held.care, None, now);
            error!(
                volume = name,
                session,
                why,
                "the token may not revoke itself: let its role have the `default` policy, or grant update on auth/token/revoke-self; it is tried again until the token has run out"
            );
        }
    }
}

fn revoked_lease(
    volume: &mut Volume,
    key: ItemKey,
    answer: Answer,
    now: Moment,
    metrics: &Metrics,
) {
    let name = volume.id.to_string();
    let Some(held) = volume.grants.get_mut(&key) else {
        return;
    };
    let path = held.grant.request.path.clone();
    held.care.busy = false;
    match answer {
        Err(KeepError::Transient { why, retry_after }) => {
            metrics.release("lease", "retry");
            retry(&mut held.care, retry_after, now);
            warn!(
                volume = name,
                path, why, "replaced lease not revoked; it is tried again"
            );
            return;
        }
        Err(KeepError::Forbidden { .. }) => {
            metrics.release("lease", "left");
            debug!(
                volume = name,
                path, "replaced lease left to run out: no policy grants sys/leases/revoke"
            );
        }
        Ok(_) | Err(_) => {
            metrics.release("lease", "ok");
            info!(volume = name, path, "replaced lease revoked");
        }
    }
    volume.grants.remove(&key);
    volume.settle_releases(now);
}

fn renewed(care: &mut Care, renewal: Option<Renewal>) {
    care.failures = 0;
    care.attempt_at = None;
    if let Some(renewal) = renewal {
        care.life.renewed(&renewal);
        care.jitter = rand::random();
    }
}

fn retry(care: &mut Care, retry_after: Option<std::time::Duration>, now: Moment) {
    let remaining = care.life.term.end().map(|end| end.since(now));
    let delay = retry_delay(care.failures, remaining, retry_after, rand::random());
    care.failures = care.failures.saturating_add(1);
    care.attempt_at = Some(now.plus(delay));
}

/// Says what a mounted volume has lost by its end.
pub fn tell_missed(volume: &Volume, missed: &[Nature], metrics: &Metrics) {
    for nature in missed {
        metrics.deadline_missed(match nature {
            Nature::Token => "token",
            Nature::Lease => "lease",
            _ => "certificate",
        });
        error!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            class = volume.class,
            what = ?nature,
            "reached its end while mounted; only a rotation poll can replace it: enable the driver's secret rotation, or raise the maximum TTL"
        );
    }
}

/// Says, once, that the rotation interval is too long for a grant to be swapped in time.
pub fn tell_too_short(volume: &Volume, poll: std::time::Duration) {
    let sessions = volume
        .sessions
        .values()
        .filter(|held| held.duty == Duty::Open);
    let grants = volume
        .grants
        .values()
        .filter(|held| held.duty == Duty::Open);
    let cares = sessions
        .map(|held| &held.care)
        .chain(grants.map(|held| &held.care));
    for care in cares.filter(|care| care.life.too_short_for(poll)) {
        warn!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            what = ?care.life.nature,
            ttl_seconds = care.life.term.granted.as_secs(),
            poll_seconds = poll.as_secs(),
            "its TTL is too short for the rotation interval: no swap in time can be promised; raise the TTL above three intervals"
        );
    }
}
