//! One attempt of a Mount: the session it already has, or a login, and the reads that nothing answers yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, info};

use super::Mounter;
use super::error::MountError;
use super::progress::Progress;
use super::reads::{Age, Round, Under};
use super::rendering::Rendering;
use super::stop::Stop;
use crate::grant::{Grant, Keep, Session};
use crate::memory::MountMemory;
use crate::params::PodTokens;
use crate::registry::{Claim, Held};
use crate::spec::{MountSpec, Request};
use crate::vault::{Cache, TokenState};

/// What one Mount works with.
pub struct Job<'a> {
    pub spec: &'a Arc<MountSpec>,
    pub tokens: &'a PodTokens,
    pub claim: &'a Claim,
    pub memory: &'a MountMemory,
    pub progress: &'a Arc<Progress>,
    pub stop: &'a Stop,
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

impl Mounter {
    pub(super) async fn attempt(
        &self,
        job: &Job<'_>,
        held: Held,
        rendering: &mut Rendering,
    ) -> Result<Replies, Failure> {
        let mut known = held.grants;
        // Before anything is issued: what the class asks of a reply that is there may not be in it.
        if let Err(error) = rendering.add_known(&known).await {
            return Err(Failure {
                session: held.session,
                ..error.into()
            });
        }
        // What a poll asks for is asked for because the old one is over, or may be.
        let mut cache = if held.first {
            Cache::Allowed
        } else {
            Cache::Bypassed
        };
        if let Some(session) = held.session {
            let under = Under {
                session: Arc::clone(&session),
                age: Age::Known,
                cache,
            };
            let round = self
                .read(job, &under, missing(job.spec, &known), rendering)
                .await;
            if round.is_complete() {
                return Ok(replies(session, known, round.grants));
            }
            if round.error.is_some() || round.refused().next().is_none() {
                return Err(failure(job, session, round));
            }
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
                TokenState::Alive if round.is_only_refused() && held.fresh_login_allowed => {
                    return self
                        .log_in_anew(job, session, known, round, rendering)
                        .await;
                }
                TokenState::Alive | TokenState::Unknown => {
                    return Err(failure(job, session, round));
                }
            }
        }
        loop {
            let session = self.opened(job, cache).await?;
            let under = Under {
                session: Arc::clone(&session),
                age: Age::New,
                cache,
            };
            let wanted = missing(job.spec, &known);
            let round = self.read(job, &under, wanted, rendering).await;
            if round.is_complete() {
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
    /// the old one is not, and whatever was not asked any more; else the old one stays, with all its leases.
    async fn log_in_anew(
        &self,
        job: &Job<'_>,
        old: Arc<Session>,
        mut known: HashMap<Request, Arc<Grant>>,
        refused: Round,
        rendering: &mut Rendering,
    ) -> Result<Replies, Failure> {
        let session = match self.opened(job, Cache::Bypassed).await {
            Ok(session) => session,
            Err(Failure { error, .. }) => {
                debug!(volume = %job.spec.volume, %error, "no fresh login to learn of new policies");
                return Err(failure(job, old, refused));
            }
        };
        let under = Under {
            session: Arc::clone(&session),
            age: Age::New,
            cache: Cache::Bypassed,
        };
        let wanted = refused.refused().chain(&refused.unasked).cloned().collect();
        let granted = self.read(job, &under, wanted, rendering).await;
        if !granted.is_complete() {
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
        let wanted = missing(job.spec, &known);
        let mut round = self.read(job, &under, wanted, rendering).await;
        round.grants.extend(granted.grants);
        if round.is_complete() {
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
    let place = |request: &Request| {
        let mut objects = job.spec.objects.iter();
        objects.position(|object| object.request == *request)
    };
    let failed = round.failed.into_iter();
    let told = failed
        .map(|(request, source)| (place(&request), source))
        .min_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let error = told.map(|(place, source)| {
        let object = place.and_then(|place| job.spec.objects.get(place));
        let object = object.map_or_else(String::new, |object| object.name.clone());
        MountError::Read { object, source }
    });
    Failure {
        error: error.or(round.error).unwrap_or(MountError::Broken),
        session: Some(session),
        fresh: round.grants,
    }
}
