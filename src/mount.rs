//! The use case: from what a pod asks for to the files it gets, and the undoing of what failed.
//!
//! Claim the volume → a live session, or a login that is journalled before the first read → the reads
//! that nothing in the registry answers → files → the outcome into the registry → the answer. Only
//! here does Leasehold log in or read.
//!
//! A Mount runs in a task of its own. Its caller waits until its deadline and no longer; a Mount that is
//! slower goes on until its own, and kubelet's next attempt takes its result.

mod attempt;
mod error;
mod flight;
mod history;
mod progress;
mod reads;
mod rendering;
mod retry;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use self::attempt::{Failure, Job, Replies};
pub use self::error::MountError;
use self::flight::{Entry, Flights, Lead};
use self::history::History;
use self::progress::Progress;
use self::rendering::Rendering;
use self::retry::Retries;
use self::stop::Stop;
use crate::blocking::{self, BlockingPool};
use crate::grant::{Grant, Keep};
use crate::memory::{MemoryBudget, MountMemory, Reservation};
use crate::params::PodTokens;
use crate::paths::{Presence, Sight};
use crate::redacted::SecretBytes;
use crate::registry::{Claim, Closed, Ending, Held, Registry};
use crate::render::{self, File};
use crate::service_account::TokenMinter;
use crate::spec::MountSpec;
use crate::vault::Vault;
use crate::version_key::VersionKey;

/// What a Mount gives.
pub struct Mounted {
    /// The volume's files.
    pub files: Vec<File>,
    /// Object name and version of each.
    pub versions: Vec<(String, String)>,
    /// The memory that they and the answer take: to be kept until the answer is on the wire.
    pub memory: Arc<Vec<Reservation>>,
    /// Nothing but static secrets was read: a rotation poll with nothing due.
    nothing_new: bool,
}

/// What a Mount has come to, shared by all who asked for it.
pub type Outcome = Arc<Result<Mounted, MountError>>;

/// What a [`Mounter`] is made of.
pub struct Parts {
    /// Every mounted volume.
    pub registry: Registry,
    /// The client of the server.
    pub vault: Vault,
    /// The key of object versions.
    pub versions: VersionKey,
    /// How paths are looked at.
    pub sight: Sight,
    /// Mints pod tokens; without it a request that lacks the token fails.
    pub minter: Option<TokenMinter>,
    /// How long a first Mount is tried again while its server cannot serve.
    pub retry_for: Duration,
    /// How long a Mount may take as a whole. A login that is under way by then is still awaited.
    pub timeout: Duration,
    /// The memory of all Mounts.
    pub memory: MemoryBudget,
    /// Where large replies become files.
    pub processor: BlockingPool,
}

/// Carries Mounts out.
pub struct Mounter {
    parts: Parts,
    flights: Arc<Flights<Outcome>>,
    tasks: TaskTracker,
    /// What earlier Mounts have shown.
    history: History,
    /// The daemon is going down: no attempt is repeated any more.
    closing: CancellationToken,
    /// The drain's deadline is near: callers are answered without their Mount's result.
    leaving: CancellationToken,
}

impl Mounter {
    /// A mounter over its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            flights: Flights::new(),
            tasks: TaskTracker::new(),
            history: History::default(),
            closing: CancellationToken::new(),
            leaving: CancellationToken::new(),
        })
    }

    /// The memory of all Mounts.
    #[must_use]
    pub fn memory(&self) -> &MemoryBudget {
        &self.parts.memory
    }

    /// Where large requests are parsed, and large replies made into files.
    #[must_use]
    pub fn processor(&self) -> &BlockingPool {
        &self.parts.processor
    }

    /// Mounts, and answers `within` the time given. `asked`: what is reserved for a large request. The work is done in a task of its own and goes on when
    /// the caller goes away: a login's reply that nobody takes would leave a token that nobody knows.
    pub async fn mount(
        self: &Arc<Self>,
        spec: MountSpec,
        tokens: PodTokens,
        asked: Option<(MountMemory, Reservation)>,
        within: Duration,
    ) -> Outcome {
        let spec = Arc::new(spec);
        let failed = |error| Arc::new(Err(error));
        tokio::select! {
            biased;
            outcome = self.outcome(&spec, tokens, asked) => {
                if outcome.is_ok() {
                    self.parts.registry.answered(spec.volume.clone());
                }
                outcome
            }
            () = self.leaving.cancelled() => failed(Closed.into()),
            () = tokio::time::sleep(within) => {
                let pending = self.flights.pending(&spec.volume);
                let waited = within;
                warn!(volume = %spec.volume, pod = spec.pod.name, namespace = spec.pod.namespace, class = spec.class, pending, "not finished by the caller's deadline; the mount goes on");
                failed(MountError::Unfinished { pending, waited })
            }
        }
    }

    /// Ends all retries, waits `within` the time given for the Mounts under way, and lets go of their
    /// callers then. What is cut off is in the journal with its session.
    pub async fn drain(&self, within: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("some mounts are still waiting for their server; the successor takes over");
            self.leaving.cancel();
        }
    }

    async fn outcome(
        self: &Arc<Self>,
        spec: &Arc<MountSpec>,
        tokens: PodTokens,
        asked: Option<(MountMemory, Reservation)>,
    ) -> Outcome {
        let mut asked = Some((tokens, asked));
        let mut outcome = loop {
            match self.flights.enter(spec) {
                Entry::Lead(lead, outcome) => {
                    if let Some((tokens, asked)) = asked.take() {
                        let (mounter, spec) = (Arc::clone(self), Arc::clone(spec));
                        self.tasks.spawn(async move {
                            mounter.lead(&spec, &tokens, asked, lead).await;
                        });
                    }
                    break outcome;
                }
                Entry::Follow(outcome) => break outcome,
                Entry::Wait(mut other) => {
                    // Its end in whatever way: then it is our turn.
                    let _ = other.wait_for(Option::is_some).await;
                }
            }
        };
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(told) => told.clone(),
            Err(_) => None,
        };
        outcome.unwrap_or_else(|| Arc::new(Err(MountError::Broken)))
    }

    async fn lead(
        &self,
        spec: &Arc<MountSpec>,
        tokens: &PodTokens,
        asked: Option<(MountMemory, Reservation)>,
        lead: Lead<Outcome>,
    ) {
        // A large request's own part is held to the Mount's end.
        let (memory, _request) = asked.map_or_else(
            || (self.parts.memory.mount(&spec.pod.namespace), None),
            |(memory, request)| (memory, Some(request)),
        );
        let outcome = self.claimed(spec, tokens, &memory, lead.progress()).await;
        match &outcome {
            // Every two minutes for every pod of the node.
            Ok(mounted) if mounted.nothing_new => {
                debug!(volume = %spec.volume, class = spec.class, "polled: nothing was due");
            }
            Ok(mounted) => {
                info!(volume = %spec.volume, pod = spec.pod.name, namespace = spec.pod.namespace, class = spec.class, files = mounted.files.len(), "mounted");
            }
            Err(error) => {
                warn!(volume = %spec.volume, pod = spec.pod.name, namespace = spec.pod.namespace, class = spec.class, %error, "mount failed");
            }
        }
        lead.finish(Arc::new(outcome));
    }

    async fn claimed(
        &self,
        spec: &Arc<MountSpec>,
        tokens: &PodTokens,
        memory: &MountMemory,
        progress: &Arc<Progress>,
    ) -> Result<Mounted, MountError> {
        let seen = self.sees(spec).await;
        let (claim, held) = self.parts.registry.begin(Arc::clone(spec), seen).await?;
        if held.cut_short {
            // The driver repeats a call that our end has broken, twice, and then gives kubelet a code that is not
            // final: a Mount that kills us each time must be answered before.
            return Err(undo(claim, spec, MountError::CutShort.into()).await?);
        }
        let polled = held.session.is_some();
        let stop = Stop::new(self.parts.timeout, held.ended.clone(), progress);
        let job = Job {
            spec,
            tokens,
            claim: &claim,
            memory,
            progress,
            stop: &stop,
        };
        let mut rendering = Rendering::new(spec, memory, &self.parts.processor);
        let (replies, key) = tokio::join!(
            self.attempts(&job, held, &mut rendering),
            self.parts.versions.current()
        );
        let rendered = match replies {
            Ok(replies) => match self.rendered(spec, rendering, &replies, key).await {
                Ok(rendered) => Ok((rendered, replies)),
                Err(error) => Err(Failure::after(replies, error)),
            },
            Err(failure) => Err(failure),
        };
        let (rendered, replies) = match rendered {
            Ok(done) => done,
            Err(failure) => return Err(undo(claim, spec, failure).await?),
        };
        self.history.succeeded(spec);
        let nothing_new = polled && replies.fresh.iter().all(|grant| is_static(grant));
        let ending = Ending::Complete {
            session: replies.session,
            grants: kept(spec, replies.by_request.values()),
        };
        if !claim.end(ending).await? {
            return Err(MountError::Unmounted);
        }
        Ok(Mounted {
            nothing_new,
            ..rendered
        })
    }

    /// The files and their versions.
    async fn rendered(
        &self,
        spec: &Arc<MountSpec>,
        rendering: Rendering,
        replies: &Replies,
        key: Arc<SecretBytes>,
    ) -> Result<Mounted, MountError> {
        let (files, memory) = rendering.finish(&replies.by_request)?;
        let size: usize = files.iter().map(|file| file.contents.expose().len()).sum();
        let spec = Arc::clone(spec);
        let namespace = spec.pod.namespace.clone();
        let versioned = move || {
            let versions = spec.objects.iter().zip(&files).map(|(object, file)| {
                let version = render::version(key.expose(), object, &file.contents);
                (object.name.clone(), version)
            });
            (versions.collect(), files)
        };
        let (versions, files) = match size > blocking::LARGE {
            true => self.parts.processor.run(&namespace, versioned).await?,
            false => versioned(),
        };
        Ok(Mounted {
            files,
            versions,
            memory: Arc::new(memory),
            nothing_new: false,
        })
    }

    /// Attempts until one succeeds, fails for good, or there is no time for another one. What an attempt has
    /// got is kept for the next.
    async fn attempts(
        &self,
        job: &Job<'_>,
        mut held: Held,
        rendering: &mut Rendering,
    ) -> Result<Replies, Failure> {
        // The files of a mounted volume stay, and its next poll comes: only a first Mount has to wait.
        let retry_for = if held.first {
            self.parts.retry_for
        } else {
            Duration::ZERO
        };
        let mut retries = Retries::new(retry_for);
        let mut kept: Vec<Arc<Grant>> = Vec::new();
        let mut reason = None;
        loop {
            let mut failure = match self.attempt(job, held.clone(), rendering).await {
                Ok(replies) => return Ok(replies),
                Err(failure) => failure,
            };
            let pause = retries.pause(&failure.error);
            // That the server was not even asked tells nobody what is wrong with it.
            if failure.error.was_not_asked()
                && let Some(reason) = reason.take()
            {
                failure.error = reason;
            }
            let closed = match pause {
                Some(pause) => {
                    debug!(volume = %job.spec.volume, error = %failure.error, ?pause, "not mounted yet; it is tried again");
                    let _pending = job
                        .progress
                        .begin(format!("another try ({})", failure.error));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => false,
                        () = self.closing.cancelled() => true,
                        error = job.stop.reached() => {
                            failure.error = error;
                            true
                        }
                    }
                }
                None => true,
            };
            if closed {
                kept.append(&mut failure.fresh);
                failure.fresh = kept;
                failure.session = failure.session.or(held.session);
                return Err(failure);
            }
            if let (Some(now), Some(before)) = (&failure.session, &held.session)
                && now.id != before.id
            {
                // Leases hang from the session that made them.
                held.grants.retain(|_, grant| grant.lease_id().is_none());
            }
            let fresh = failure.fresh.iter();
            let fresh = fresh.map(|grant| (grant.request.clone(), Arc::clone(grant)));
            held.grants.extend(fresh);
            kept.append(&mut failure.fresh);
            reason = Some(failure.error);
            held.session = failure.session.or(held.session);
        }
    }

    async fn sees(&self, spec: &MountSpec) -> bool {
        let (sight, path) = (self.parts.sight.clone(), spec.volume.target_path.clone());
        let look = tokio::task::spawn_blocking(move || sight.look(&path));
        matches!(look.await, Ok(Presence::Present))
    }
}

/// Hands over to the registry what a failed Mount holds at the server.
async fn undo(claim: Claim, spec: &MountSpec, failure: Failure) -> Result<MountError, Closed> {
    claim
        .end(Ending::Failed {
            session: failure.session,
            fresh: kept(spec, failure.fresh.iter()),
        })
        .await?;
    Ok(failure.error)
}

/// What is kept of the replies for the next poll, which reads the static ones again.
fn kept<'a>(spec: &MountSpec, grants: impl Iterator<Item = &'a Arc<Grant>>) -> Vec<Arc<Grant>> {
    let kept = grants.filter(|grant| !is_static(grant));
    kept.map(|grant| render::needed(&spec.objects, grant))
        .collect()
}

fn is_static(grant: &Grant) -> bool {
    grant.keep == Keep::Static
}
