//! One attempt of a Mount: the session it already has, or a login, and the reads that nothing answers yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tracing::{debug, info};

use super::Mounter;
use super::error::MountError;
use super::progress::Progress;
use crate::grant::{Grant, Keep, Session};
use crate::params::PodTokens;
use crate::registry::{Claim, Held};
use crate::spec::{MountSpec, Request};
use crate::vault::{Cache, Room, TokenState, VaultError, VaultErrorKind};

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

/// What one Mount works with.
pub struct Job<'a> {
    pub spec: &'a MountSpec,
    pub tokens: &'a PodTokens,
    pub claim: &'a Claim,
    pub room: &'a Room,
    pub progress: &'a Arc<Progress>,
}

/// Every reply of a Mount, and which of them are new.
pub struct Replies {
    pub session: Arc<Session>,
    pub by_request: HashMap<Request, Arc<Grant>>,
    pub fresh: Vec<Arc<Grant>>,
}

/// A failed attempt, with what it holds at the server.
pub struct Failure {
    pub error: MountError,
    pub session: Option<Arc<Session>>,
    pub fresh: Vec<Arc<Grant>>,
}

impl Failure {
    /// All replies came, and no files could be made of them.
    pub fn after(replies: Replies, error: MountError) -> Self {
        Self {
            error,
            session: Some(replies.session),
            fresh: replies.fresh,
        }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Self {
            error,
            session: None,
            fresh: Vec::new(),
        }
    }
}

/// How long a session is known to the server.
#[derive(Clone, Copy)]
enum Age {
    /// It was opened by this attempt.
    New,
    /// It has served before.
    Known,
}

/// What a round of reads gave.
#[derive(Default)]
struct Round {
    grants: Vec<Arc<Grant>>,
    failed: Vec<(Request, VaultError)>,
}

impl Round {
    fn refused(&self) -> impl Iterator<Item = &Request> {
        let refused = |(_, error): &&(Request, VaultError)| error.kind() == VaultErrorKind::Denied;
        self.failed
            .iter()
            .filter(refused)
            .map(|(request, _)| request)
    }
}

impl Mounter {
    pub(super) async fn attempt(&self, job: &Job<'_>, held: Held) -> Result<Replies, Failure> {
        let mut known = held.grants;
        // What a poll asks for is asked for because the old one is over, or may be.
        let mut cache = if held.first {
            Cache::Allowed
        } else {
            Cache::Bypassed
        };
        if let Some(session) = held.session {
            let round = self
                .read(job, &session, missing(job.spec, &known), Age::Known, cache)
                .await;
            if round.failed.is_empty() {
                return Ok(replies(session, known, round.grants));
            }
            if round.refused().next().is_none() {
                return Err(failure(job, session, round));
            }
            let only_refused = round.refused().count() == round.failed.len();
            match self.parts.vault.token_state(&session).await {
                TokenState::Dead => {
                    // What hangs from the token is gone with it. A certificate that came before is not
                    // issued again.
                    job.claim.token_dead(&session);
                    cache = Cache::Bypassed;
                    info!(volume = %job.spec.volume, session = session.id, "the token is dead: logging in again");
                    known.retain(|_, grant| grant.lease_id().is_none());
                    add(
                        &mut known,
                        round.grants.iter().filter(|grant| outlives_token(grant)),
                    );
                }
                TokenState::Alive if only_refused && held.fresh_login_allowed => {
                    return self.log_in_anew(job, session, known, round).await;
                }
                TokenState::Alive | TokenState::Unknown => {
                    return Err(failure(job, session, round));
                }
            }
        }
        loop {
            let session = self.opened(job, cache).await?;
            let wanted = missing(job.spec, &known);
            let round = self.read(job, &session, wanted, Age::New, cache).await;
            if round.failed.is_empty() {
                return Ok(replies(session, known, round.grants));
            }
            // A cache may give out a token that somebody has revoked.
            let is_dead = cache == Cache::Allowed
                && round.refused().next().is_some()
                && self.parts.vault.token_state(&session).await == TokenState::Dead;
            if !is_dead {
                return Err(failure(job, session, round));
            }
            job.claim.token_dead(&session);
            add(
                &mut known,
                round.grants.iter().filter(|grant| outlives_token(grant)),
            );
            cache = Cache::Bypassed;
        }
    }

    /// The token lives and yet reads are refused: a policy may have been added to the role since the login,
    /// and tokens keep the policies they were issued with. A new session takes over only if it is allowed what
    /// the old one is not; else the old one stays, with all its leases.
    async fn log_in_anew(
        &self,
        job: &Job<'_>,
        old: Arc<Session>,
        mut known: HashMap<Request, Arc<Grant>>,
        refused: Round,
    ) -> Result<Replies, Failure> {
        let session = match self.opened(job, Cache::Bypassed).await {
            Ok(session) => session,
            Err(Failure { error, .. }) => {
                debug!(volume = %job.spec.volume, %error, "no fresh login to learn of new policies");
                return Err(failure(job, old, refused));
            }
        };
        let wanted = refused.refused().cloned().collect();
        let granted = self
            .read(job, &session, wanted, Age::New, Cache::Bypassed)
            .await;
        if !granted.failed.is_empty() {
            job.claim.discard(&session, granted.grants);
            return Err(failure(job, old, refused));
        }
        info!(volume = %job.spec.volume, session = session.id, "a fresh login is allowed what the older one is not: it takes over");
        // The other leases hang from the old session.
        known.retain(|_, grant| grant.lease_id().is_none());
        add(
            &mut known,
            refused
                .grants
                .iter()
                .filter(|grant| grant.lease_id().is_none()),
        );
        add(&mut known, granted.grants.iter());
        let mut round = self
            .read(
                job,
                &session,
                missing(job.spec, &known),
                Age::New,
                Cache::Bypassed,
            )
            .await;
        round.grants.extend(granted.grants);
        if round.failed.is_empty() {
            Ok(replies(session, known, round.grants))
        } else {
            Err(failure(job, session, round))
        }
    }

    /// A new session, in the journal before anything is read under it.
    async fn opened(&self, job: &Job<'_>, cache: Cache) -> Result<Arc<Session>, Failure> {
        let session = Arc::new(self.login(job, cache).await?);
        let held = job.claim.hold(Arc::clone(&session)).await;
        held.map_err(MountError::from)?;
        Ok(session)
    }

    async fn login(&self, job: &Job<'_>, cache: Cache) -> Result<Session, MountError> {
        let (spec, tokens) = (job.spec, job.tokens);
        let audience = &spec.login.audience;
        let minted;
        let wanted = tokens.wanted.as_ref().map(|token| {
            let is_good = token.unexpired(audience, SystemTime::now());
            is_good.map(|()| &token.jwt)
        });
        let jwt = match (wanted, &self.parts.minter) {
            (Some(Ok(jwt)), _) => jwt,
            (Some(Err(expired)), None) => return Err(expired.into()),
            (Some(Err(_)) | None, Some(minter)) => {
                let uid = &spec.volume.pod_uid;
                let _pending = job.progress.begin("a token of the API server".to_owned());
                minted = minter
                    .mint(&spec.pod, uid, tokens.named_audience.as_deref())
                    .await
                    .map_err(|source| MountError::Mint {
                        audience: audience.clone(),
                        source,
                    })?;
                &minted
            }
            (None, None) => {
                let offered = if tokens.offered.is_empty() {
                    "no audience at all".to_owned()
                } else {
                    tokens.offered.join(", ")
                };
                return Err(MountError::NoToken {
                    audience: audience.clone(),
                    offered,
                });
            }
        };
        let account = spec.pod.service_account_id();
        let _pending = job
            .progress
            .begin(format!("the login at auth/{}", spec.login.mount));
        let vault = &self.parts.vault;
        let session = vault.login(&spec.endpoint, &spec.login, &account, jwt, cache);
        session.await.map_err(|source| MountError::Login {
            role: spec.login.role.clone(),
            mount: spec.login.mount.clone(),
            source,
        })
    }

    /// Reads, and awaits every read that was begun: a reply that is on its way may carry a lease.
    async fn read(
        &self,
        job: &Job<'_>,
        session: &Arc<Session>,
        wanted: Vec<Request>,
        age: Age,
        cache: Cache,
    ) -> Round {
        let reads = futures::stream::iter(wanted).map(|request| async move {
            let answer = self.read_one(job, session, &request, age, cache).await;
            (request, answer)
        });
        let answers: Vec<_> = reads.buffered(READS_AT_ONCE).collect().await;
        let mut round = Round::default();
        for (request, answer) in answers {
            match answer {
                Ok(grant) => round.grants.push(Arc::new(grant)),
                Err(error) => round.failed.push((request, error)),
            }
        }
        round
    }

    /// Reads, and asks a few more times where the server may only be behind.
    async fn read_one(
        &self,
        job: &Job<'_>,
        session: &Session,
        request: &Request,
        age: Age,
        cache: Cache,
    ) -> Result<Grant, VaultError> {
        let call = format!("{} {}", request.method.as_str(), request.path);
        let _pending = job.progress.begin(call);
        let pauses: &[Duration] = match age {
            Age::New => &AFTER_LOGIN,
            Age::Known => &AT_A_POLL,
        };
        for pause in pauses {
            match self
                .parts
                .vault
                .read(session, request, job.room, cache)
                .await
            {
                Err(error) if error.may_be_behind() => tokio::time::sleep(*pause).await,
                answer => return answer,
            }
        }
        self.parts
            .vault
            .read(session, request, job.room, cache)
            .await
    }
}

/// What nothing answers yet.
fn missing(spec: &MountSpec, known: &HashMap<Request, Arc<Grant>>) -> Vec<Request> {
    let mut missing = spec.requests();
    missing.retain(|request| !known.contains_key(*request));
    missing.into_iter().cloned().collect()
}

fn add<'a>(known: &mut HashMap<Request, Arc<Grant>>, grants: impl Iterator<Item = &'a Arc<Grant>>) {
    known.extend(grants.map(|grant| (grant.request.clone(), Arc::clone(grant))));
}

fn outlives_token(grant: &Grant) -> bool {
    grant.lease_id().is_none() && grant.keep != Keep::Static
}

fn replies(
    session: Arc<Session>,
    mut by_request: HashMap<Request, Arc<Grant>>,
    fresh: Vec<Arc<Grant>>,
) -> Replies {
    add(&mut by_request, fresh.iter());
    Replies {
        session,
        by_request,
        fresh,
    }
}

/// The first failure in the objects' order is the one that is told.
fn failure(job: &Job<'_>, session: Arc<Session>, round: Round) -> Failure {
    let object = |request: &Request| {
        let objects = job.spec.objects.iter();
        let mut named = objects.filter(|object| object.request == *request);
        named.next().map(|object| object.name.clone())
    };
    let told = round.failed.into_iter().next();
    let error = told.map_or(MountError::Broken, |(request, source)| MountError::Read {
        object: object(&request).unwrap_or_default(),
        source,
    });
    Failure {
        error,
        session: Some(session),
        fresh: round.grants,
    }
}
