//! What is kept of a volume for its next poll, in memory and in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::journal::Snapshot;
use super::notice::{NoticeKind, Notices};
use super::quota::Quota;
use super::record::Record;
use super::task::{ItemKey, VolumeKey};
use super::volume::{Duty, Volume};
use super::worker::Worker;

/// The replies that are kept, and those that are not.
pub struct KeptReplies {
    quota: Quota,
    /// The replies in use that there was no room for, of the volumes whose people were told.
    dropped: BTreeMap<VolumeKey, BTreeSet<ItemKey>>,
    /// What the metrics show.
    shown: Option<Shown>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    replies: usize,
    records: usize,
    degraded: bool,
    exceeded: bool,
}

impl KeptReplies {
    pub fn new(limit: usize) -> Self {
        Self {
            quota: Quota::new(limit),
            dropped: BTreeMap::new(),
            shown: None,
        }
    }

    /// A volume is gone.
    pub fn forget(&mut self, key: VolumeKey) {
        self.quota.forget(key);
        self.dropped.remove(&key);
    }
}

impl Volume {
    /// Lets go of the replies that no poll asks for any more: what drains, what is revoked, what is lost. Tells
    /// whether there were any.
    fn drop_unused_replies(&mut self) -> bool {
        let mut any = false;
        for held in self.grants.values_mut() {
            if (held.duty != Duty::Open || held.lost) && held.grant.size() > 0 {
                held.grant = Arc::new(held.grant.without_content());
                any = true;
            }
        }
        any
    }

    fn reply_sizes(&self) -> BTreeMap<ItemKey, usize> {
        let kept = self.grants.iter();
        let sizes = kept.map(|(item, held)| (*item, held.grant.size()));
        sizes.filter(|(_, size)| *size > 0).collect()
    }

    /// Lets go of one reply; its path.
    fn drop_reply(&mut self, item: ItemKey) -> Option<String> {
        let held = self.grants.get_mut(&item)?;
        held.grant = Arc::new(held.grant.without_content());
        Some(held.grant.request.path.clone())
    }

    /// As it is written down; `None`: there is nothing to be known of it.
    fn snapshot(&self) -> Result<Option<Snapshot>, serde_json::Error> {
        if self.sessions.is_empty() && self.grants.is_empty() {
            return Ok(None);
        }
        let with_body = self.grants.iter().filter(|(_, held)| held.grant.has_body());
        Ok(Some(Snapshot {
            record: Record::of(self).encode()?,
            bodies: with_body
                .map(|(item, held)| (*item, Arc::clone(&held.grant)))
                .collect(),
        }))
    }
}

impl Worker {
    /// A volume has changed: what it keeps is made to fit into the quota, and it is written down, with those that
    /// have lost a reply for it.
    pub fn keep(&mut self, key: VolumeKey, done: Option<oneshot::Sender<()>>) {
        let mut changed = self.fit_in(key);
        changed.remove(&key);
        self.put_down(key, done);
        for loser in changed {
            self.put_down(loser, None);
        }
        self.show_kept(key);
    }

    /// A volume was found in the journal: what it keeps is made to fit into the quota. Where its files are not as
    /// they would be written now, they are. `record`: the size of its record's file.
    pub fn keep_found(&mut self, key: VolumeKey, record: usize, outdated: bool) {
        let Some(volume) = self.volumes.get(&key) else {
            return;
        };
        let namespace = &volume.pod.namespace;
        self.kept.quota.set_record(key, namespace, record);
        let mut changed = self.fit_in(key);
        if outdated {
            changed.insert(key);
        }
        for volume in changed {
            self.put_down(volume, None);
        }
        self.show_kept(key);
    }

    /// Takes in what a volume keeps, and drops what there is no room for. The volumes that have lost something.
    fn fit_in(&mut self, key: VolumeKey) -> BTreeSet<VolumeKey> {
        let mut changed = BTreeSet::new();
        if let Some(volume) = self.volumes.get_mut(&key) {
            if volume.drop_unused_replies() {
                changed.insert(key);
            }
            let sizes = volume.reply_sizes();
            let namespace = &volume.pod.namespace;
            self.kept.quota.set_bodies(key, namespace, sizes);
        }
        let mut news: BTreeMap<VolumeKey, Vec<String>> = BTreeMap::new();
        while let Some((loser, item)) = self.kept.quota.excess() {
            let volume = self.volumes.get_mut(&loser);
            let Some(path) = volume.and_then(|volume| volume.drop_reply(item)) else {
                continue;
            };
            changed.insert(loser);
            self.metrics.reply_dropped();
            let is_told = self.kept.dropped.contains_key(&loser) && !news.contains_key(&loser);
            self.kept.dropped.entry(loser).or_default().insert(item);
            if !is_told {
                news.entry(loser).or_default().push(path);
            }
        }
        for (loser, paths) in news {
            if let Some(volume) = self.volumes.get(&loser) {
                no_room(volume, &paths, &self.notices);
            }
        }
        changed
    }

    fn put_down(&mut self, key: VolumeKey, done: Option<oneshot::Sender<()>>) {
        let (Some(volume), Some(journal)) = (self.volumes.get(&key), &self.journal) else {
            return;
        };
        match volume.snapshot() {
            Ok(state) => {
                let size = state.as_ref().map_or(0, |state| state.record.len());
                let namespace = &volume.pod.namespace;
                self.kept.quota.set_record(key, namespace, size);
                journal.put(&volume.id, state, done);
            }
            Err(error) => {
                self.metrics.journal_error("encode");
                error!(volume = %volume.id, line = error.line(), "a volume could not be journalled: a restart now would forget its last change");
            }
        }
    }

    /// Shows what is kept, and what of a volume is not.
    fn show_kept(&mut self, key: VolumeKey) {
        let kept = &mut self.kept;
        match self.volumes.get(&key).filter(|volume| !volume.is_empty()) {
            Some(volume) => {
                if let Some(dropped) = kept.dropped.get_mut(&key) {
                    let in_use = |item: &ItemKey| {
                        let held = volume.grants.get(item);
                        held.is_some_and(|held| held.duty == Duty::Open)
                    };
                    dropped.retain(in_use);
                }
            }
            None => drop(kept.dropped.remove(&key)),
        }
        let exceeded = kept.quota.is_exceeded();
        let before = kept.shown.replace(Shown {
            replies: kept.quota.bodies(),
            records: kept.quota.records(),
            degraded: exceeded || kept.dropped.values().any(|items| !items.is_empty()),
            exceeded,
        });
        if exceeded && !before.is_some_and(|before| before.exceeded) {
            error!(
                bytes = kept.quota.records(),
                "the records of the mounted volumes take more than half of -state-quota: they are written even so; raise it"
            );
        }
        if let Some(shown) = kept.shown.filter(|shown| before != Some(*shown)) {
            self.metrics.kept(shown.replies, shown.records);
            self.metrics.degraded("state_quota", shown.degraded);
        }
    }
}

/// Says, once for each volume, that replies of its were not kept.
fn no_room(volume: &Volume, paths: &[String], notices: &Notices) {
    let paths = paths.join(", ");
    warn!(
        volume = %volume.id,
        pod = volume.pod.name,
        namespace = volume.pod.namespace,
        class = volume.class,
        paths,
        "not enough room to keep its replies: their credentials are renewed and revoked, and issued anew at each poll; select single keys (secretKey), or raise -state-quota"
    );
    let text = format!(
        "class {:?}: not enough room on this node to keep the replies of {paths}: they are issued anew at each rotation poll; select single keys (secretKey), or have -state-quota raised",
        volume.class
    );
    notices.tell(volume, NoticeKind::NotKept, text);
}
