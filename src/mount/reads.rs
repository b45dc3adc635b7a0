//! A round of reads: in the order that earlier Mounts have shown to be best, a few at a time, and none any
//! more once one has failed.
//!
//! Each read is a task of its own. Where the Mount gives up before its answer, which may carry a lease, the
//! answer goes to the registry, which revokes it.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::attempt::Job;
use super::error::MountError;
use super::history::Ordered;
use super::rendering::Rendering;
use super::{Mounter, kept};
use crate::grant::{Grant, Session};
use crate::registry::Registry;
use crate::spec::{MountSpec, Request};
use crate::vault::{Cache, Read, VaultError, VaultErrorKind};

/// Reads of one Mount under way at once: one volume must not take an address' whole share.
const READS_AT_ONCE: usize = 8;
/// The pauses between the reads of a refused request under a session that was opened just now. A standby may
/// not have heard of the token yet (403), or not of the write that made it (412).
const AFTER_LOGIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1000),
];
/// Under an older session a single refusal may be a proxy's or a standby's slip.
const AT_A_POLL: [Duration; 1] = [Duration::from_millis(200)];

/// How long a session is known to the server.
#[derive(Clone, Copy)]
pub enum Age {
    /// It was opened by this attempt.
    New,
    /// It has served before.
    Known,
}

/// What a round of reads gave.
#[derive(Default)]
pub struct Round {
    pub grants: Vec<Arc<Grant>>,
    pub failed: Vec<(Request, VaultError)>,
    /// No file can be made of a reply, or the Mount was given up.
    pub error: Option<MountError>,
    /// What was not asked any more.
    pub unasked: Vec<Request>,
}

impl Round {
    /// Everything was read.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.error.is_none()
    }

    /// The requests that the server does not allow.
    pub fn refused(&self) -> impl Iterator<Item = &Request> {
        let refused = |(_, error): &&(Request, VaultError)| error.kind() == VaultErrorKind::Denied;
        self.failed
            .iter()
            .filter(refused)
            .map(|(request, _)| request)
    }

    /// Nothing but refusals keeps it from being complete.
    pub fn is_only_refused(&self) -> bool {
        self.error.is_none() && self.refused().count() == self.failed.len()
    }
}

/// A session that is read under, and how.
#[derive(Clone)]
pub struct Under {
    pub session: Arc<Session>,
    pub age: Age,
    pub cache: Cache,
}

/// A read's answer that is waited for. Given up, it goes to the registry, also where it has just come.
struct Awaited {
    answered: oneshot::Receiver<Result<Read, VaultError>>,
    registry: Registry,
    spec: Arc<MountSpec>,
    session: String,
}

/// A reply that came after its Mount had been given up.
fn hand_over(registry: &Registry, spec: &MountSpec, session: &str, late: Read) {
    for grant in kept(spec, [&Arc::new(late.grant)].into_iter()) {
        registry.late(spec.volume.clone(), session.to_owned(), grant);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // From here on the read's own task hands its answer over.
        self.answered.close();
        if let Ok(Ok(late)) = self.answered.try_recv() {
            hand_over(&self.registry, &self.spec, &self.session, late);
        }
    }
}

impl Mounter {
    /// Reads, and awaits every read that was begun, unless the Mount is given up: a reply that is on its way may
    /// carry a lease.
    pub(super) async fn read(
        &self,
        job: &Job<'_>,
        under: &Under,
        wanted: Vec<Request>,
        rendering: &mut Rendering,
    ) -> Round {
        let Ordered {
            requests: mut ahead,
            first_alone: mut alone,
        } = self.history.order(job.spec, wanted);
        let mut round = Round::default();
        let mut under_way = FuturesUnordered::new();
        // A login may have outlived it.
        round.error = job.stop.reached().now_or_never();
        loop {
            let at_once = if alone { 1 } else { READS_AT_ONCE };
            while round.is_complete()
                && under_way.len() < at_once
                && let Some(request) = ahead.pop_front()
            {
                under_way.push(self.begin(job, under, request));
            }
            let (request, answer) = tokio::select! {
                biased;
                answer = under_way.next() => match answer {
                    Some(answer) => answer,
                    None => break,
                },
                error = job.stop.reached() => {
                    round.error = Some(error);
                    break;
                }
            };
            alone = false;
            match answer {
                Some(Ok(read)) => {
                    let (grant, made) = rendering.add(read).await;
                    self.history.answered(job.spec, &grant);
                    round.grants.push(grant);
                    if let Err(error) = made {
                        self.history.failed(job.spec, &request);
                        round.error.get_or_insert(error);
                    }
                }
                Some(Err(error)) => {
                    self.history.failed(job.spec, &request);
                    round.failed.push((request, error));
                }
                None => drop(round.error.get_or_insert(MountError::Broken)),
            }
        }
        round.unasked = ahead.into();
        round
    }

    /// Begins a read. Its answer is nothing where its task has broken down.
    fn begin(
        &self,
        job: &Job<'_>,
        under: &Under,
        request: Request,
    ) -> impl Future<Output = (Request, Option<Result<Read, VaultError>>)> + use<> {
        let (answer, answered) = oneshot::channel();
        let call = format!("{} {}", request.method.as_str(), request.path);
        let pending = job.progress.begin(call);
        let (vault, registry) = (self.parts.vault.clone(), self.parts.registry.clone());
        let (spec, memory) = (Arc::clone(job.spec), job.memory.clone());
        let (under, asked) = (under.clone(), request.clone());
        let session_id = under.session.id.clone();
        self.tasks.spawn(async move {
            let Under {
                session,
                age,
                cache,
            } = under;
            let pauses: &[Duration] = match age {
                Age::New => &AFTER_LOGIN,
                Age::Known => &AT_A_POLL,
            };
            let mut pauses = pauses.iter();
            let read = loop {
                let read = vault.read(&session, &asked, &memory, cache).await;
                // The server may only be behind.
                let behind = read.as_ref().err().filter(|error| error.may_be_behind());
                match (behind, pauses.next()) {
                    (Some(_), Some(pause)) if !answer.is_closed() => {
                        tokio::time::sleep(*pause).await
                    }
                    _ => break read,
                }
            };
            drop(pending);
            if let Err(Ok(late)) = answer.send(read) {
                hand_over(&registry, &spec, &session.id, late);
            }
        });
        let mut awaited = Awaited {
            answered,
            registry: self.parts.registry.clone(),
            spec: Arc::clone(job.spec),
            session: session_id,
        };
        async move {
            let answer = (&mut awaited.answered).await.ok();
            (request, answer)
        }
    }
}
