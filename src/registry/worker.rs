//! The one task that owns the registry's state: it takes messages, keeps the deadline queue, and sends
//! renewals and revocations out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::calls::Finished;
use super::deadline_queue::DeadlineQueue;
use super::evidence::{Sources, Verdict};
use super::heartbeat::Heartbeat;
use super::journal::{Found, Journal, Replayed, Writer};
use super::kept::KeptReplies;
use super::notice::Notices;
use super::shared::Uses;
use super::task::{Task, VolumeKey};
use super::telling;
use super::volume::{Stage, Volume};
use super::{Ending, Held, Message, Settings};
use crate::clock::{Clock, Moment};
use crate::grant::{Grant, LeaseKeeper, Session};
use crate::metrics::Metrics;
use crate::spec::{MountSpec, VolumeId};

/// The queue is looked at this often even if nothing is due: a suspended node's timers stand still
/// while its boot-time clock goes on. The heartbeat is as old at most.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// As many messages, ended calls and due volumes are handled in one turn of the loop: whatever is due, each of them
/// has its turn, and so have the other tasks of the process.
const AT_A_TURN: usize = 64;

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
    /// Tells the Mounts under way that their volume has been released.
    pub(super) mounts: HashMap<VolumeKey, CancellationToken>,
    next_key: u64,
    pub(super) deadlines: DeadlineQueue,
    pub(super) heartbeat: Heartbeat,
    pub(super) jobs: JoinSet<Finished>,
    /// Renewals and revocations that wait for their turn.
    pub(super) waiting_calls: usize,
    pub(super) uses: Uses,
    /// When each source of evidence last worked.
    pub(super) sources: Sources,
    /// When the metrics that look at every volume were made last.
    pub(super) surveyed_at: Option<Moment>,
    pub(super) kept: KeptReplies,
    pub(super) journal: Option<Writer>,
    /// The journal's writer, until it runs.
    pub(super) written: Option<BoxFuture<'static, ()>>,
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
        let now = clock.now();
        let (replayed, writer, written) = journal.start(now, &metrics);
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
            mounts: HashMap::new(),
            next_key: 0,
            deadlines: DeadlineQueue::default(),
            heartbeat: Heartbeat::default(),
            jobs: JoinSet::new(),
            waiting_calls: 0,
            uses: Uses::default(),
            kept: KeptReplies::new(settings.quota),
            sources: Sources::new(now),
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
        let mut writing = tokio::spawn(written);
        let stopped = loop {
            self.heartbeat.beat(self.clock.now());
            if let Some(stopped) = self.take_messages(&mut inbox) {
                break stopped;
            }
            self.take_results();
            self.settle_due();
            self.survey();
            let pause = self.pause();
            if pause.is_zero() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(Message::Stop { done }) => break Some(done),
                    Some(message) => self.handle_guarded(message),
                    None => break None,
                },
                Some(finished) = self.jobs.join_next() => self.finished(finished),
                // Whoever waits for a journalled state would wait for ever.
                ended = &mut writing => {
                    error!(panicked = ended.is_err(), "the journal's writer has ended by itself: so does the registry, and is started anew");
                    return;
                }
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

    /// Handles messages that are there. `Some`: the loop ends, and whom to tell; a stop comes after what was said
    /// before it.
    fn take_messages(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
    ) -> Option<Option<oneshot::Sender<()>>> {
        for _ in 0..AT_A_TURN {
            match inbox.try_recv() {
                Ok(Message::Stop { done }) => return Some(Some(done)),
                Ok(message) => self.handle_guarded(message),
                Err(mpsc::error::TryRecvError::Empty) => return None,
                Err(mpsc::error::TryRecvError::Disconnected) => return Some(None),
            }
        }
        None
    }

    fn take_results(&mut self) {
        for _ in 0..AT_A_TURN {
            let Some(finished) = self.jobs.try_join_next() else {
                return;
            };
            self.finished(finished);
        }
    }

    /// Takes over what the journal held: renewals spread out, paths looked at now.
    fn resume(&mut self, replayed: Replayed) {
        let (now, settings) = (self.clock.now(), self.settings);
        let try_out = |volume: &Volume| try_out(volume.clone(), &settings, now);
        let mut count = 0_usize;
        replayed.load(&try_out, &mut |found| {
            count += 1;
            self.adopt(found, now);
        });
        self.metrics.volumes(self.volumes.len());
        if count > 0 {
            info!(volumes = count, "journal replayed: renewals go on");
        }
    }

    fn adopt(&mut self, found: Found, now: Moment) {
        let Found {
            mut volume,
            record,
            outdated,
        } = found;
        let poll = volume.polls.interval(self.settings.poll);
        volume.resume(poll, self.settings.park, now);
        let used = volume.sessions.keys().chain(volume.grants.keys()).max();
        self.next_key = self
            .next_key
            .max(used.map_or(0, |key| key.saturating_add(1)));
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
            // At the loop's first turns.
            self.deadlines.set(key, Some(now));
        }
        self.keep_found(key, record, outdated);
    }

    pub(super) fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { spec, seen, reply } => {
                if let Some(held) = self.begin(&spec, seen) {
                    // A Mount that has gone away meanwhile drops its claim, which ends it.
                    let _ = reply.send(held);
                }
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
            Message::Late {
                volume,
                session,
                grant,
            } => self.late(&volume, &session, &grant),
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
            Message::PodsThere { uids } => self.pods_there(&uids),
            // Ends the loop before it comes here.
            Message::Stop { .. } => {}
        }
    }

    /// `None`: the volume breaks the registry and was set aside. Its Mount must not log in: nobody would keep that.
    fn begin(&mut self, spec: &MountSpec, seen: bool) -> Option<Held> {
        let now = self.clock.now();
        let key = match self.keys.get(&spec.volume) {
            Some(key) => *key,
            None => {
                let key = self.new_key();
                self.keys.insert(spec.volume.clone(), key);
                let mut volume = Volume::new(spec);
                volume.evidence.begin(now);
                self.volumes.insert(key, volume);
                let _ = self.look.send(spec.volume.clone());
                key
            }
        };
        let volume = self.volumes.get_mut(&key)?;
        if volume.stage == Stage::Mounted {
            self.sources.polled(now);
        }
        let cut_short = volume.begin(spec, seen, now);
        let poll = volume.polls.interval(self.settings.poll);
        let held = Held {
            cut_short,
            ..volume.held_for(spec, poll, now)
        };
        self.mounts.insert(key, held.ended.clone());
        self.changed(key, None);
        self.volumes.contains_key(&key).then_some(held)
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

    /// A volume or a session that is gone has taken its leases along.
    fn late(&mut self, id: &VolumeId, session: &str, grant: &Arc<Grant>) {
        let (item, now) = (self.new_key(), self.clock.now());
        if let Some((key, volume)) = self.volume(id)
            && let Some(owner) = volume.session_key(session)
        {
            let kept = volume.add_late(item, owner, grant, now);
            info!(volume = %id, path = grant.request.path, kept, "a reply came after its mount had been given up: it is kept for the next poll, or its lease is revoked");
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
        self.mounts.remove(&key);
        self.changed(key, done);
    }

    /// A volume has changed: what is due for it is done, and it is written down.
    pub(super) fn changed(&mut self, key: VolumeKey, done: Option<oneshot::Sender<()>>) {
        // A call may end after its volume was set aside, whose credentials are still in use.
        if !self.volumes.contains_key(&key) {
            return;
        }
        self.guarded(key, |worker| {
            worker.note_uses(key);
            if worker.carry_out(key) {
                worker.note_uses(key);
            }
            worker.write_down(key, done);
        });
    }

    /// Does what is due for a volume; it is written down where that has changed it.
    pub(super) fn settle(&mut self, key: VolumeKey) {
        self.guarded(key, |worker| {
            if worker.carry_out(key) {
                worker.note_uses(key);
                worker.write_down(key, None);
            }
        });
    }

    /// Does what is due for a volume, and wakes it when there is more. Tells whether that has changed it.
    fn carry_out(&mut self, key: VolumeKey) -> bool {
        let (now, settings) = (self.clock.now(), self.settings);
        let Some(volume) = self.volumes.get_mut(&key) else {
            self.deadlines.set(key, None);
            return false;
        };
        let verdict = volume.verdict(&self.sources, &settings, now);
        telling::judged(volume, verdict, &self.notices);
        volume.doubted = verdict != Verdict::Alive;
        let settled = volume.settle(key, now, &settings);
        if let Some(expires) = settled.gave_up {
            telling::released(volume, expires, "its mount never came to an end");
        }
        telling::ended(volume, &settled.missed, &self.metrics, &self.notices);
        telling::unattended(volume, &settled.unattended, &self.metrics, &self.notices);
        self.deadlines.set(key, settled.wake);
        for task in settled.calls {
            self.queue(task);
        }
        settled.changed
    }

    /// A call that was handed over is not made: its volume is settled again, at the loop's next turn.
    pub(super) fn forgo(&mut self, task: Task) {
        let now = self.clock.now();
        if let Some(volume) = self.volumes.get_mut(&task.volume()) {
            volume.call_ended(task);
            self.deadlines.advance(task.volume(), now);
        }
    }

    /// Whether a call that was handed over is still due.
    pub(super) fn wants(&self, task: Task) -> bool {
        let (now, volume) = (self.clock.now(), self.volumes.get(&task.volume()));
        volume.is_some_and(|volume| volume.wants(task, &self.settings, now))
    }

    fn write_down(&mut self, key: VolumeKey, done: Option<oneshot::Sender<()>>) {
        self.keep(key, done);
        if self.volumes.get(&key).is_some_and(Volume::is_empty) {
            self.forget(key);
        }
        self.metrics.volumes(self.volumes.len());
    }

    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let next = self.deadlines.next().map(|at| at.since(now));
        next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    /// Settles volumes whose time has come, as many as one turn of the loop may.
    fn settle_due(&mut self) {
        let now = self.clock.now();
        for _ in 0..AT_A_TURN {
            let Some(key) = self.deadlines.pop(now) else {
                return;
            };
            self.settle(key);
        }
    }

    /// Takes a volume out of all that names it, but for who shares its credentials.
    pub(super) fn forget(&mut self, key: VolumeKey) -> Option<Volume> {
        self.deadlines.set(key, None);
        let volume = self.volumes.remove(&key)?;
        self.kept.forget(key);
        self.keys.remove(&volume.id);
        self.metrics.volumes(self.volumes.len());
        Some(volume)
    }

    pub(super) fn volume(&mut self, id: &VolumeId) -> Option<(VolumeKey, &mut Volume)> {
        let key = *self.keys.get(id)?;
        Some((key, self.volumes.get_mut(&key)?))
    }

    const fn new_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key = key.saturating_add(1);
        key
    }
}

/// Does with a volume from the journal what will be done with it at once: where its state breaks us, that is seen
/// here, where its file is known.
fn try_out(mut volume: Volume, settings: &Settings, now: Moment) {
    let poll = volume.polls.interval(settings.poll);
    volume.resume(poll, settings.park, now);
    let settled = volume.settle(0, now, settings);
    if let Some(wake) = settled.wake {
        volume.settle(0, wake, settings);
    }
    volume.figures(settings);
}
