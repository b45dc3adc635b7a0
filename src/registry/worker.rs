//! The one task that owns the registry's state: it takes messages, keeps the deadline queue, and sends
//! renewals and revocations out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info};

use super::agenda::{Agenda, Task, VolumeKey};
use super::journal::{Journal, Writer};
use super::lane::Lane;
use super::lanes::Finished;
use super::notice::Notices;
use super::record::Record;
use super::shared::Uses;
use super::telling;
use super::volume::{Stage, Volume};
use super::{Ending, Held, Message, Settings};
use crate::clock::{Clock, Moment};
use crate::grant::{Grant, LeaseKeeper, Session};
use crate::metrics::Metrics;
use crate::spec::{MountSpec, VolumeId};

/// The queue is looked at this often even if nothing is due: a suspended node's timers stand still
/// while its boot-time clock goes on.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub(super) settings: Settings,
    pub(super) keeper: Arc<dyn LeaseKeeper>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) notices: Notices,
    /// Asks for a look at a path.
    pub(super) look: mpsc::UnboundedSender<VolumeId>,
    pub(super) volumes: BTreeMap<VolumeKey, Volume>,
    keys: HashMap<VolumeId, VolumeKey>,
    next_key: u64,
    agenda: Agenda,
    /// What stands in the agenda for each volume, to be struck out when the volume changes.
    planned: HashMap<VolumeKey, Vec<Task>>,
    pub(super) jobs: JoinSet<Finished>,
    pub(super) lanes: HashMap<String, Lane>,
    pub(super) uses: Uses,
    /// When the metrics that look at every volume were made last.
    pub(super) surveyed_at: Option<Moment>,
    journal: Option<Writer>,
    written: Option<BoxFuture<'static, ()>>,
}

impl Worker {
    pub fn new(
        settings: Settings,
        keeper: Arc<dyn LeaseKeeper>,
        clock: Arc<dyn Clock>,
        journal: Journal,
        metrics: Metrics,
        notices: Notices,
        look: mpsc::UnboundedSender<VolumeId>,
    ) -> Self {
        let replayed = journal.replay(clock.now(), &metrics).volumes;
        let (writer, written) = journal.writer(metrics.clone());
        let mut worker = Self {
            settings,
            keeper,
            clock,
            metrics,
            notices,
            look,
            surveyed_at: None,
            volumes: BTreeMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            agenda: Agenda::default(),
            planned: HashMap::new(),
            jobs: JoinSet::new(),
            lanes: HashMap::new(),
            uses: Uses::default(),
            journal: Some(writer),
            written: Some(Box::pin(written)),
        };
        worker.resume(replayed);
        worker
    }

    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let Some(written) = self.written.take() else {
            return;
        };
        let writing = tokio::spawn(written);
        let stopped = loop {
            self.start_due();
            self.pump_resumed();
            self.survey();
            let pause = self.pause();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Stop { done }) => break Some(done),
                    Some(message) => self.handle(message),
                    None => break None,
                },
                Some(finished) = self.jobs.join_next() => self.finished(finished),
                () = tokio::time::sleep(pause) => {}
            }
        };
        // Attempts under way are cut off: a renewal whose answer is lost has only made the journal
        // pessimistic, a revocation is repeated after the restart.
        self.jobs.abort_all();
        drop(self.journal.take());
        if writing.await.is_err() {
            error!("the journal's writer broke down; its last changes may be lost");
        }
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    /// Takes over what the journal held: renewals spread out, paths looked at now.
    fn resume(&mut self, volumes: Vec<Volume>) {
        let now = self.clock.now();
        let count = volumes.len();
        for mut volume in volumes {
            let poll = volume.polls.interval(self.settings.poll);
            volume.resume(poll, self.settings.park, now);
            let used = volume.sessions.keys().chain(volume.grants.keys()).max();
            self.next_key = self.next_key.max(used.map_or(0, |key| key + 1));
            let key = self.new_key();
            self.keys.insert(volume.id.clone(), key);
            // Fails only when nobody looks at paths any more: at shutdown.
            let _ = self.look.send(volume.id.clone());
            let over = volume.is_empty();
            self.volumes.insert(key, volume);
            self.note_uses(key);
            if over {
                // Of another boot, and left to expire: its file goes.
                self.changed(key, None);
            } else {
                self.plan(key);
            }
        }
        self.metrics.volumes(self.volumes.len());
        if count > 0 {
            info!(volumes = count, "journal replayed: renewals go on");
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { spec, seen, reply } => {
                // A Mount that has gone away meanwhile drops its claim, which ends it.
                let _ = reply.send(self.begin(&spec, seen));
            }
            Message::Hold {
                volume,
                session,
                done,
            } => self.hold(&volume, session, done),
            Message::TokenDead { volume, session } => self.token_dead(&volume, &session),
            Message::Discard {
                volume,
                session,
                grants,
            } => self.discard(&volume, &session, &grants),
            Message::End {
                volume,
                ending,
                taken,
                done,
            } => self.end(&volume, ending, taken, done),
            Message::Answered { volume } => {
                let now = self.clock.now();
                if let Some(key) = self.keys.get(&volume).copied()
                    && let Some(volume) = self.volumes.get_mut(&key)
                    && volume.answered(now)
                {
                    self.changed(key, None);
                }
            }
            Message::Paths { reply } => {
                let present = self.volumes.values();
                let present = present.filter(|volume| volume.stage != Stage::Leaving);
                let _ = reply.send(present.map(|volume| volume.id.clone()).collect());
            }
            Message::Observed { sightings, reply } => {
                let _ = reply.send(self.observed(sightings));
            }
            Message::PodGone { uid, grace } => self.pod_gone(&uid, grace),
            // Ends the loop before it comes here.
            Message::Stop { .. } => {}
        }
    }

    fn begin(&mut self, spec: &MountSpec, seen: bool) -> Held {
        let now = self.clock.now();
        let key = match self.keys.get(&spec.volume) {
            Some(key) => *key,
            None => {
                let key = self.new_key();
                self.keys.insert(spec.volume.clone(), key);
                self.volumes.insert(key, Volume::new(spec));
                let _ = self.look.send(spec.volume.clone());
                key
            }
        };
        let Some(volume) = self.volumes.get_mut(&key) else {
            return Held::default();
        };
        let cut_short = volume.begin(spec, seen, now);
        let poll = volume.polls.interval(self.settings.poll);
        let held = Held {
            cut_short,
            ..volume.held_for(spec, poll, now)
        };
        self.changed(key, None);
        held
    }

    fn hold(&mut self, id: &VolumeId, session: Arc<Session>, done: oneshot::Sender<()>) {
        let (item, now) = (self.new_key(), self.clock.now());
        if let Some((key, volume)) = self.volume(id) {
            volume.hold(item, session, now);
            self.changed(key, Some(done));
        }
    }

    fn token_dead(&mut self, id: &VolumeId, session: &str) {
        let now = self.clock.now();
        if let Some((key, volume)) = self.volume(id)
            && let Some(item) = volume.session_key(session)
        {
            volume.token_dead(item, now);
            self.changed(key, None);
        }
    }

    fn discard(&mut self, id: &VolumeId, session: &str, grants: &[Arc<Grant>]) {
        let now = self.clock.now();
        let mut next_key = self.next_key;
        if let Some((key, volume)) = self.volume(id)
            && let Some(item) = volume.session_key(session)
        {
            for grant in grants {
                volume.add_grant(next_key, item, grant);
                next_key += 1;
            }
            volume.discard(item, now);
            self.next_key = next_key;
            self.changed(key, None);
        }
    }

    fn end(
        &mut self,
        id: &VolumeId,
        ending: Ending,
        taken: oneshot::Sender<bool>,
        done: Option<oneshot::Sender<()>>,
    ) {
        let now = self.clock.now();
        let park = self.settings.park;
        let mut next_key = self.next_key;
        let assumed = self.settings.poll;
        let (metrics, notices) = (self.metrics.clone(), self.notices.clone());
        let Some((key, volume)) = self.volume(id) else {
            return;
        };
        volume.mounting = false;
        // A claim that was dropped awaits nothing.
        let _ = taken.send(volume.stage != Stage::Leaving);
        let (session, grants) = match &ending {
            Ending::Complete { session, grants } => (Some(session), grants),
            Ending::Failed { session, fresh, .. } => (session.as_ref(), fresh),
        };
        let item = session.and_then(|session| volume.session_key(&session.id));
        if let Some(item) = item {
            for grant in grants {
                volume.add_grant(next_key, item, grant);
                next_key += 1;
            }
        }
        match (&ending, item) {
            // It was unmounted meanwhile.
            _ if volume.stage == Stage::Leaving => volume.release(now),
            (Ending::Complete { grants, .. }, Some(item)) => {
                let first = volume.stage != Stage::Mounted;
                let replaced = volume.complete(item, grants, park, now);
                if first {
                    telling::too_short(volume, volume.polls.interval(assumed), &notices);
                }
                telling::rotated(volume, &replaced, &metrics, &notices);
            }
            _ if volume.stage == Stage::Mounted => {}
            _ => volume.release(now),
        }
        self.next_key = next_key;
        self.changed(key, done);
    }

    /// A volume has changed: it is written down, and its part of the agenda made anew.
    pub(super) fn changed(&mut self, key: VolumeKey, done: Option<oneshot::Sender<()>>) {
        self.note_uses(key);
        self.plan(key);
        let (Some(volume), Some(journal)) = (self.volumes.get(&key), &self.journal) else {
            return;
        };
        let record = if volume.sessions.is_empty() && volume.grants.is_empty() {
            Ok(None)
        } else {
            Record::of(volume, journal.has_room()).encode().map(Some)
        };
        match record {
            Ok(bytes) => journal.put(&volume.id, bytes, done),
            Err(error) => {
                self.metrics.journal_error("encode");
                error!(volume = %volume.id, line = error.line(), "a volume could not be journalled: a restart now would forget its last change");
            }
        }
        if volume.is_empty() {
            self.keys.remove(&volume.id);
            self.volumes.remove(&key);
            self.planned.remove(&key);
        }
        self.metrics.volumes(self.volumes.len());
    }

    pub(super) fn plan(&mut self, key: VolumeKey) {
        for task in self.planned.remove(&key).unwrap_or_default() {
            self.agenda.cancel(task);
        }
        let tasks = self.tasks(key);
        for (task, at) in &tasks {
            self.agenda.set(*task, *at);
        }
        let tasks = tasks.into_iter().map(|(task, _)| task).collect();
        self.planned.insert(key, tasks);
    }

    pub(super) fn tasks(&self, key: VolumeKey) -> Vec<(Task, Moment)> {
        self.volumes.get(&key).map_or_else(Vec::new, |volume| {
            volume.agenda(
                key,
                self.settings.poll,
                self.settings.drain,
                self.settings.look_up,
            )
        })
    }

    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let next = self
            .agenda
            .next()
            .into_iter()
            .chain(self.lanes_resume())
            .min();
        let next = next.map(|at| at.since(now));
        next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn start_due(&mut self) {
        let now = self.clock.now();
        while let Some(task) = self.agenda.pop(now) {
            let key = task.volume();
            match task {
                Task::Retire(_) => {
                    let drain = self.settings.drain;
                    if let Some(volume) = self.volumes.get_mut(&key) {
                        volume.retire(drain, now);
                    }
                    self.changed(key, None);
                }
                Task::Expire(_) => {
                    if let Some(volume) = self.volumes.get_mut(&key) {
                        let missed = volume.expire(now);
                        telling::ended(volume, &missed, &self.metrics, &self.notices);
                    }
                    self.changed(key, None);
                }
                Task::Warn(_) => {
                    if let Some(volume) = self.volumes.get_mut(&key) {
                        let found = volume.unattended(self.settings.poll, now);
                        telling::unattended(volume, &found, &self.metrics, &self.notices);
                    }
                    self.plan(key);
                }
                Task::GiveUp(_) => self.release(key, "its mount never came to an end"),
                Task::RenewSession(_, item)
                | Task::RevokeSession(_, item)
                | Task::RenewLease(_, item)
                | Task::RevokeLease(_, item)
                | Task::LookUpSession(_, item)
                | Task::LookUpLease(_, item) => self.queue(task, item),
            }
        }
    }

    pub(super) fn volume(&mut self, id: &VolumeId) -> Option<(VolumeKey, &mut Volume)> {
        let key = *self.keys.get(id)?;
        Some((key, self.volumes.get_mut(&key)?))
    }

    const fn new_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }
}
