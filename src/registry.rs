//! The node's lease registry: every mounted volume with its sessions and grants.
//!
//! [`Registry`] is the handle; the state belongs to one task, the worker, and is reached by messages
//! alone. A Mount takes a [`Claim`] on its volume, puts a new session into it *before* its first read,
//! and ends it with what it read. What is in the registry is renewed until its volume goes, and then
//! revoked; the [`journal`] carries it over our own restarts.

mod calls;
mod care;
mod deadline_queue;
mod ends;
mod evidence;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
pub mod heartbeat;
pub mod journal;
mod kept;
pub mod notice;
mod quota;
mod record;
mod reuse;
mod schedule;
mod shared;
mod survey;
mod task;
mod telling;
#[cfg(test)]
mod tests;
mod unmount;
mod upkeep;
mod volume;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::grant::{Grant, LeaseKeeper, Session};
use crate::liveness::UnderWay;
use crate::metrics::Metrics;
use crate::registry::heartbeat::Heartbeat;
use crate::registry::journal::Journal;
use crate::registry::notice::Notices;
use crate::registry::worker::Worker;
use crate::spec::{MountSpec, Request, VolumeId};

/// The waiting times of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a path must be gone before its volume is released.
    pub confirm: Duration,
    /// How long, at least, a replaced session or lease lives on.
    pub drain: Duration,
    /// How long the result of a first mount that nobody waited for is kept for kubelet's next attempt, which
    /// comes two minutes later at most; also how long a mount that a crash cut short waits for its volume to
    /// come back.
    pub park: Duration,
    /// The rotation poll interval that is assumed until two polls were seen.
    pub poll: Duration,
    /// Renewals and revocations that may start in a second, for each address: told beside what they take.
    pub rate: u32,
    /// Within what time it is noticed that somebody else has revoked a lease or a token; zero: only when it
    /// is renewed.
    pub look_up: Duration,
    /// How long after its pod's grace period a volume is given up whose path we cannot see.
    pub unseen: Duration,
    /// Room for what is kept of mounted volumes, in bytes, in memory and in the journal alike. Replies take half of
    /// it at the most, shared between namespaces.
    pub quota: usize,
    /// How long a volume is renewed where nothing can show that it is there: no view of paths, no watch of pods, no
    /// polls. The incumbent would renew nothing.
    pub unattested: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            confirm: Duration::from_secs(2),
            drain: Duration::from_secs(60),
            park: Duration::from_secs(300),
            poll: Duration::from_secs(120),
            rate: 50,
            look_up: Duration::from_secs(600),
            unseen: Duration::from_secs(60),
            quota: 64 * 1024 * 1024,
            unattested: Duration::from_secs(3600),
        }
    }
}

/// What was seen at a volume's target path, with proven sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The path is there.
    Present,
    /// The path is gone, and we see well enough to say so.
    Absent,
    /// So is the directory of its pod: nobody will mount the volume again.
    PodAbsent,
}

/// The registry has stopped, or has set the volume aside because its state breaks it.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is shutting down, or has set this volume aside (its log says so)")]
pub struct Closed;

/// How a Mount ended.
pub enum Ending {
    /// All replies are there: this is what the volume's files are made of.
    Complete {
        /// The session that everything was read under.
        session: Arc<Session>,
        /// Every reply that is not a static read: reused ones and new ones.
        grants: Vec<Arc<Grant>>,
    },
    /// Something failed. What a poll has read until then is kept for the next one; a first Mount's session is
    /// revoked, and all that hangs from it.
    Failed {
        /// The session that was used, if it came to that.
        session: Option<Arc<Session>>,
        /// The new replies that are not static reads.
        fresh: Vec<Arc<Grant>>,
    },
}

/// What the registry has of a volume when a Mount of it begins.
#[derive(Clone, Default)]
pub struct Held {
    /// No Mount of the volume has succeeded before.
    pub first: bool,
    /// The Mount before this one was cut short by the end of the process that worked on it.
    pub cut_short: bool,
    /// A fresh login may be tried beside a living session: none was tried for some minutes.
    pub fresh_login_allowed: bool,
    /// A session that may serve the Mount and will outlive the next polls.
    pub session: Option<Arc<Session>>,
    /// The replies that need not be fetched again.
    pub grants: HashMap<Request, Arc<Grant>>,
    /// Cancelled when the volume is released while the Mount is under way: nobody will see what it still reads.
    pub ended: CancellationToken,
}

pub(crate) enum Message {
    Begin {
        spec: Arc<MountSpec>,
        seen: bool,
        reply: oneshot::Sender<Held>,
    },
    Hold {
        volume: VolumeId,
        session: Arc<Session>,
        done: oneshot::Sender<()>,
    },
    TokenDead {
        volume: VolumeId,
        session: String,
    },
    Discard {
        volume: VolumeId,
        session: String,
        grants: Vec<Arc<Grant>>,
    },
    Late {
        volume: VolumeId,
        session: String,
        grant: Arc<Grant>,
    },
    End {
        volume: VolumeId,
        ending: Ending,
        /// Whether the volume was still there.
        taken: oneshot::Sender<bool>,
        done: Option<oneshot::Sender<()>>,
    },
    Answered {
        volume: VolumeId,
    },
    Paths {
        reply: oneshot::Sender<Vec<VolumeId>>,
    },
    Observed {
        sightings: Vec<(VolumeId, Sighting)>,
        reply: oneshot::Sender<bool>,
    },
    PodGone {
        uid: String,
        grace: Duration,
    },
    PodsThere {
        uids: HashSet<String>,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// The handle: cheap to clone, safe to share.
#[derive(Clone)]
pub struct Registry {
    messages: mpsc::UnboundedSender<Message>,
    heartbeat: Heartbeat,
    /// Mounts that wait for the journal.
    journalling: UnderWay,
}

impl Registry {
    /// Starts the worker over what the journal replayed. The second value yields the volumes whose
    /// path is to be looked at now; the third ends when the worker has.
    pub fn start(
        settings: Settings,
        keeper: Arc<dyn LeaseKeeper>,
        clock: Arc<dyn Clock>,
        journal: Journal,
        metrics: Metrics,
        notices: Notices,
    ) -> (
        Self,
        mpsc::UnboundedReceiver<VolumeId>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (look, looks) = mpsc::unbounded_channel();
        let worker = Worker::new(settings, keeper, clock, journal, metrics, notices, look);
        let heartbeat = worker.heartbeat.clone();
        let registry = Self {
            messages,
            heartbeat,
            journalling: UnderWay::default(),
        };
        (registry, looks, worker.run(inbox))
    }

    /// Shows whether the worker turns.
    #[must_use]
    pub const fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Shows whether Mounts that wait for the journal come to an end.
    #[must_use]
    pub const fn journalling(&self) -> &UnderWay {
        &self.journalling
    }

    /// A Mount of a volume begins. `seen` says whether its target path was seen just now.
    ///
    /// At most one claim on a volume may be held at a time; the caller sees to that.
    pub async fn begin(&self, spec: Arc<MountSpec>, seen: bool) -> Result<(Claim, Held), Closed> {
        let volume = spec.volume.clone();
        let held = self
            .ask(|reply| Message::Begin { spec, seen, reply })
            .await?;
        let claim = Claim {
            registry: self.clone(),
            volume,
            ended: false,
        };
        Ok((claim, held))
    }

    /// The driver was there when the last Mount's answer was given to it. A first Mount's result that finds
    /// nobody is kept for kubelet's next attempt.
    pub fn answered(&self, volume: VolumeId) {
        self.tell(Message::Answered { volume });
    }

    /// The volumes whose paths are to be looked at.
    pub async fn paths(&self) -> Vec<VolumeId> {
        self.ask(|reply| Message::Paths { reply })
            .await
            .unwrap_or_default()
    }

    /// What was seen; answers whether an absence waits for its confirmation.
    pub async fn observed(&self, sightings: Vec<(VolumeId, Sighting)>) -> bool {
        self.ask(|reply| Message::Observed { sightings, reply })
            .await
            .unwrap_or_default()
    }

    /// A pod of this node went away or finished. A reason to look at its paths; where those cannot be
    /// seen, its volumes end `grace` (plus a margin) from now.
    pub fn pod_gone(&self, uid: String, grace: Duration) {
        self.tell(Message::PodGone { uid, grace });
    }

    /// A reply came after its Mount had been given up. A poll's is kept for the next one; any other's lease is
    /// revoked.
    pub fn late(&self, volume: VolumeId, session: String, grant: Arc<Grant>) {
        self.tell(Message::Late {
            volume,
            session,
            grant,
        });
    }

    /// Every pod of this node that the API server knows, by the names that kubelet's directories have. Told every half
    /// minute, and only while the watch works.
    pub fn pods_there(&self, uids: HashSet<String>) {
        self.tell(Message::PodsThere { uids });
    }

    /// Writes everything down and ends the worker. Revokes nothing: a shutdown is no unmount.
    pub async fn stop(&self) {
        let _: Result<(), Closed> = self.ask(|done| Message::Stop { done }).await;
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// For messages that want no answer: once the worker has stopped there is nobody to care.
    fn tell(&self, message: Message) {
        let _ = self.messages.send(message);
    }
}

/// The right of one Mount to change its volume. Dropped without an end (a panic), it ends as failed.
pub struct Claim {
    registry: Registry,
    volume: VolumeId,
    ended: bool,
}

impl Claim {
    /// Puts a new session under the registry's care; returns once it is journalled. Comes before the
    /// first read: killed after that read, we would otherwise not know whose leases those are.
    pub async fn hold(&self, session: Arc<Session>) -> Result<(), Closed> {
        let volume = self.volume.clone();
        let _piece = self.registry.journalling.begin();
        self.registry
            .ask(|done| Message::Hold {
                volume,
                session,
                done,
            })
            .await
    }

    /// A read has shown that the session's token is dead.
    pub fn token_dead(&self, session: &Session) {
        self.registry.tell(Message::TokenDead {
            volume: self.volume.clone(),
            session: session.id.clone(),
        });
    }

    /// A session that was opened in vain is revoked, with what was read under it.
    pub fn discard(&self, session: &Session, grants: Vec<Arc<Grant>>) {
        self.registry.tell(Message::Discard {
            volume: self.volume.clone(),
            session: session.id.clone(),
            grants,
        });
    }

    /// Ends the Mount; returns once the outcome is journalled. False: the volume was unmounted meanwhile, and
    /// what the Mount has got is revoked.
    pub async fn end(mut self, ending: Ending) -> Result<bool, Closed> {
        self.ended = true;
        let volume = self.volume.clone();
        let (taken, was_taken) = oneshot::channel();
        let _piece = self.registry.journalling.begin();
        let journalled = self.registry.ask(|done| Message::End {
            volume,
            ending,
            taken,
            done: Some(done),
        });
        journalled.await?;
        was_taken.await.map_err(|_| Closed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            let (taken, _) = oneshot::channel();
            self.registry.tell(Message::End {
                taken,
                volume: self.volume.clone(),
                ending: Ending::Failed {
                    session: None,
                    fresh: Vec::new(),
                },
                done: None,
            });
        }
    }
}
