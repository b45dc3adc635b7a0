//! The use case: from what a pod asks for to the files it gets, and the undoing of what failed.
//!
//! Claim the volume → a live session, or a login that is journalled before the first read → the reads
//! that nothing in the registry answers → files → the outcome into the registry → the answer. Only
//! here does Leasehold log in or read.

mod flight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::grant::{Grant, Keep, Session};
use crate::mount::flight::{Entry, Flights, Lead};
use crate::params::{ExpiredToken, PodTokens};
use crate::paths::{Presence, Sight};
use crate::registry::{Claim, Closed, Ending, Held, Registry};
use crate::render::{self, File, RenderError};
use crate::service_account::{MintError, TokenMinter};
use crate::spec::{MountSpec, Request};
use crate::vault::{Room, Vault, VaultError};
use crate::version_key::VersionKey;

/// Reads of one Mount under way at once: one volume must not take an address' whole share.
const READS_AT_ONCE: usize = 8;

/// What a Mount gives.
pub struct Mounted {
    /// The volume's files.
    pub files: Vec<File>,
    /// Object name and version of each.
    pub versions: Vec<(String, String)>,
    /// What they take in memory: to be kept until the answer is on the wire.
    pub room: Arc<Room>,
    /// Nothing but static secrets was read: a rotation poll with nothing due.
    nothing_new: bool,
}

/// Why a Mount failed. Its texts end up in `kubectl describe pod`.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The driver sent no token for the audience, and none may be minted.
    #[error(
        "no service-account token for the audience {audience:?} came with the request (it came for {offered}): add {{audience: {audience}}} to `tokenRequests` of the CSIDriver object secrets-store.csi.k8s.io, or name one of its audiences by the class' `audience`"
    )]
    NoToken {
        /// The audience that the class wants.
        audience: String,
        /// The audiences there were tokens for.
        offered: String,
    },
    /// The driver sent a token that has expired.
    #[error(transparent)]
    ExpiredToken(#[from] ExpiredToken),
    /// No token came, and minting one failed.
    #[error(
        "no service-account token for the audience {audience:?} came with the request, and none could be minted: {source}"
    )]
    Mint {
        /// The audience that the class wants.
        audience: String,
        /// Why.
        source: MintError,
    },
    /// The server refused the login, or could not be asked.
    #[error("login with role {role:?} at auth/{mount}: {source}")]
    Login {
        /// The role.
        role: String,
        /// The auth mount.
        mount: String,
        /// Why.
        source: VaultError,
    },
    /// A read failed.
    #[error("object {object:?}: {source}")]
    Read {
        /// The first object that wants it.
        object: String,
        /// Why.
        source: VaultError,
    },
    /// The replies do not give the files that were asked for.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The daemon is going down.
    #[error("{0}; its successor will serve the driver's next attempt")]
    Stopping(#[from] Closed),
    /// The Mount's own task broke down.
    #[error("the mount broke down inside Leasehold; the daemon's log says where")]
    Broken,
}

impl MountError {
    /// Whether the driver's own retry may succeed without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Login { source, .. } | Self::Read { source, .. } => source.is_transient(),
            Self::Mint { source, .. } => source.is_transient(),
            Self::Stopping(_) => true,
            Self::NoToken { .. } | Self::ExpiredToken(_) | Self::Render(_) | Self::Broken => false,
        }
    }
}

/// What a Mount has come to, shared by all who asked for it.
pub type Outcome = Arc<Result<Mounted, MountError>>;

/// Carries Mounts out.
pub struct Mounter {
    registry: Registry,
    vault: Vault,
    versions: VersionKey,
    sight: Sight,
    minter: Option<TokenMinter>,
    flights: Arc<Flights<Outcome>>,
    tasks: TaskTracker,
}

/// What a Mount has come to when it fails: what it holds at the server is not forgotten.
struct Failure {
    error: MountError,
    session: Option<Arc<Session>>,
    fresh: Vec<Arc<Grant>>,
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

/// Every reply of a Mount, and which of them are new.
struct Replies {
    session: Arc<Session>,
    by_request: HashMap<Request, Arc<Grant>>,
    fresh: Vec<Arc<Grant>>,
}

impl Mounter {
    /// A mounter over its parts. Without a `minter`, a request that lacks the token fails.
    #[must_use]
    pub fn new(
        registry: Registry,
        vault: Vault,
        versions: VersionKey,
        sight: Sight,
        minter: Option<TokenMinter>,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry,
            vault,
            versions,
            sight,
            minter,
            flights: Flights::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Mounts. The work is done in a task of its own and goes on when the caller goes away: a login's
    /// reply that nobody takes would leave a token that nobody knows.
    pub async fn mount(self: &Arc<Self>, spec: MountSpec, tokens: PodTokens) -> Outcome {
        let spec = Arc::new(spec);
        let tokens = Arc::new(tokens);
        let mut outcome = loop {
            match self.flights.enter(&spec) {
                Entry::Lead(lead, outcome) => {
                    let mounter = Arc::clone(self);
                    let (spec, tokens) = (Arc::clone(&spec), Arc::clone(&tokens));
                    self.tasks
                        .spawn(async move { mounter.lead(&spec, &tokens, lead).await });
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
        let outcome = outcome.unwrap_or_else(|| Arc::new(Err(MountError::Broken)));
        if outcome.is_ok() {
            self.registry.answered(spec.volume.clone());
        }
        outcome
    }

    /// Returns when no Mount is under way any more.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn lead(&self, spec: &Arc<MountSpec>, tokens: &PodTokens, lead: Lead<Outcome>) {
        let outcome = self.claimed(spec, tokens).await;
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
    ) -> Result<Mounted, MountError> {
        let seen = self.sees(spec).await;
        let (claim, held) = self.registry.begin(Arc::clone(spec), seen).await?;
        let polled = held.session.is_some();
        let room = self.vault.room(&spec.pod.namespace);
        let attempt = self.attempt(spec, tokens, &claim, held, &room);
        let (attempt, key) = tokio::join!(attempt, self.versions.current());
        let rendered = attempt.and_then(|replies| {
            let files = render::files(&spec.objects, |request| {
                replies.by_request.get(request).map(AsRef::as_ref)
            });
            match files {
                Ok(files) => Ok((files, replies)),
                Err(error) => Err(Failure {
                    error: error.into(),
                    session: Some(replies.session),
                    fresh: replies.fresh,
                }),
            }
        });
        match rendered {
            Ok((files, replies)) => {
                let is_static = |grant: &Arc<Grant>| grant.keep == Keep::Static;
                let nothing_new = polled && replies.fresh.iter().all(is_static);
                let kept = replies.by_request.into_values();
                claim
                    .end(Ending::Complete {
                        session: replies.session,
                        grants: kept.filter(|grant| grant.keep != Keep::Static).collect(),
                    })
                    .await?;
                let versions = spec.objects.iter().zip(&files).map(|(object, file)| {
                    let version = render::version(key.expose(), object, &file.contents);
                    (object.name.clone(), version)
                });
                let versions = versions.collect();
                Ok(Mounted {
                    files,
                    versions,
                    room,
                    nothing_new,
                })
            }
            Err(failure) => {
                let retry = failure.error.is_transient();
                let fresh = failure.fresh.into_iter();
                claim
                    .end(Ending::Failed {
                        session: failure.session,
                        fresh: fresh.filter(|grant| grant.keep != Keep::Static).collect(),
                        retry,
                    })
                    .await?;
                Err(failure.error)
            }
        }
    }

    async fn sees(&self, spec: &MountSpec) -> bool {
        let (sight, path) = (self.sight.clone(), spec.volume.target_path.clone());
        let look = tokio::task::spawn_blocking(move || sight.look(&path));
        matches!(look.await, Ok(Presence::Present))
    }

    async fn attempt(
        &self,
        spec: &MountSpec,
        tokens: &PodTokens,
        claim: &Claim,
        held: Held,
        room: &Room,
    ) -> Result<Replies, Failure> {
        let mut grants = held.grants;
        if let Some(session) = held.session {
            match self.read(spec, session, grants.clone(), room).await {
                Ok(replies) => return Ok(replies),
                Err((failure, true)) => {
                    // The token died behind our back: what hangs from it is gone as well.
                    if let Some(session) = &failure.session {
                        claim.token_dead(session);
                    }
                    grants.retain(|_, grant| grant.lease_id().is_none());
                    // A certificate that came before the token's death is not issued again.
                    let kept = failure
                        .fresh
                        .iter()
                        .filter(|grant| grant.lease_id().is_none() && grant.keep != Keep::Static);
                    grants.extend(kept.map(|grant| (grant.request.clone(), Arc::clone(grant))));
                    let dead = failure.session.as_ref().map(|session| &session.id);
                    info!(volume = %spec.volume, session = dead, "the token is dead: logging in again");
                }
                Err((failure, false)) => return Err(failure),
            }
        }
        let session = Arc::new(self.login(spec, tokens).await?);
        claim
            .hold(Arc::clone(&session))
            .await
            .map_err(MountError::from)?;
        let replies = self.read(spec, session, grants, room).await;
        replies.map_err(|(failure, _)| failure)
    }

    async fn login(&self, spec: &MountSpec, tokens: &PodTokens) -> Result<Session, MountError> {
        let audience = &spec.login.audience;
        let minted;
        let jwt = match (&tokens.wanted, &self.minter) {
            (Some(token), _) => {
                token.unexpired(audience, SystemTime::now())?;
                &token.jwt
            }
            (None, Some(minter)) => {
                let uid = &spec.volume.pod_uid;
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
        let session = self.vault.login(&spec.endpoint, &spec.login, &account, jwt);
        session.await.map_err(|source| MountError::Login {
            role: spec.login.role.clone(),
            mount: spec.login.mount.clone(),
            source,
        })
    }

    /// Reads what `known` does not answer, and awaits every read that was begun: a reply that is on its
    /// way may carry a lease. The flag of a failure says that the session's token is dead.
    async fn read(
        &self,
        spec: &MountSpec,
        session: Arc<Session>,
        known: HashMap<Request, Arc<Grant>>,
        room: &Room,
    ) -> Result<Replies, (Failure, bool)> {
        let mut missing = spec.requests();
        missing.retain(|request| !known.contains_key(*request));
        let missing: Vec<Request> = missing.into_iter().cloned().collect();
        let reads = futures::stream::iter(missing).map(|request| {
            let (vault, session) = (self.vault.clone(), Arc::clone(&session));
            async move {
                let answer = vault.read(&session, &request, room).await;
                (request, answer)
            }
        });
        let answers: Vec<_> = reads.buffered(READS_AT_ONCE).collect().await;
        let mut by_request = known;
        let mut fresh = Vec::new();
        let mut failed: Option<(Request, VaultError)> = None;
        for (request, answer) in answers {
            match answer {
                Ok(grant) => {
                    let grant = Arc::new(grant);
                    fresh.push(Arc::clone(&grant));
                    by_request.insert(request, grant);
                }
                Err(error) => {
                    failed.get_or_insert((request, error));
                }
            }
        }
        let Some((request, source)) = failed else {
            return Ok(Replies {
                session,
                by_request,
                fresh,
            });
        };
        let dead = source.is_dead_token();
        let object = spec
            .objects
            .iter()
            .find(|object| object.request == request)
            .map(|object| object.name.clone());
        let failure = Failure {
            error: MountError::Read {
                object: object.unwrap_or_default(),
                source,
            },
            session: Some(session),
            fresh,
        };
        Err((failure, dead))
    }
}
