//! Writes volumes down, in a task of its own: the worker hands over a volume's state as it is, and does not wait.
//!
//! The order of the writes makes every moment's files usable: a body before the first record that names it, and its
//! erasure after the first one that does not. Of a volume that waits its turn only the newest state is kept, so the
//! queue is no longer than there are volumes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::{error, warn};
use zeroize::Zeroizing;

use super::BodyFiles;
use super::files::{self, Files};
use super::loading;
use crate::grant::Grant;
use crate::metrics::Metrics;
use crate::registry::task::ItemKey;
use crate::spec::VolumeId;

/// How long a write that failed is left alone; the disk may have room again by then.
const RETRY: Duration = Duration::from_secs(1);
/// How often unusable records are looked at that have been set aside.
const TIDY: Duration = Duration::from_secs(24 * 3600);

/// A volume's state.
pub struct Snapshot {
    /// Its record, encoded.
    pub record: Zeroizing<Vec<u8>>,
    /// The grants whose bodies the record names.
    pub bodies: Vec<(ItemKey, Arc<Grant>)>,
}

/// Takes the states of volumes, in their order. Dropped, it lets the writer finish.
pub struct Writer {
    queue: Arc<Queue>,
}

impl Writer {
    /// Writes a volume down, or erases its files. `done` is told once that was tried.
    pub fn put(
        &self,
        volume: &VolumeId,
        state: Option<Snapshot>,
        done: Option<oneshot::Sender<()>>,
    ) {
        self.queue.put(Order {
            volume: files::name(volume),
            state,
            aside: false,
            done: done.into_iter().collect(),
        });
    }

    /// Sets a volume's record aside: what it holds broke the daemon.
    pub fn quarantine(&self, volume: &VolumeId) {
        self.queue.put(Order {
            volume: files::name(volume),
            state: None,
            aside: true,
            done: Vec::new(),
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
    }
}

struct Order {
    volume: String,
    /// `None` erases the files.
    state: Option<Snapshot>,
    /// In place of that: the record is set aside.
    aside: bool,
    /// Told when it was carried out.
    done: Vec<oneshot::Sender<()>>,
}

impl Order {
    fn tell_done(&mut self) {
        for done in self.done.drain(..) {
            // The Mount that waited may have gone away.
            let _ = done.send(());
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    orders: HashMap<String, Order>,
    turns: VecDeque<String>,
    closed: bool,
}

impl Queue {
    /// Nothing is left half-done in it by a panic.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newer state of a volume takes the place of the one that waits, and answers for it.
    fn put(&self, mut order: Order) {
        let mut waiting = self.lock();
        match waiting.orders.get_mut(&order.volume) {
            Some(earlier) => {
                earlier.state = order.state;
                earlier.aside = order.aside;
                earlier.done.append(&mut order.done);
            }
            None => {
                waiting.turns.push_back(order.volume.clone());
                waiting.orders.insert(order.volume.clone(), order);
            }
        }
        drop(waiting);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Order> {
        let mut waiting = self.lock();
        let volume = waiting.turns.pop_front()?;
        waiting.orders.remove(&volume)
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// Starts the writer over the directory, or over none. The second value ends when the first has been dropped and
/// all is written.
pub fn start(
    files: Option<Arc<Files>>,
    bodies: BodyFiles,
    metrics: Metrics,
) -> (Writer, impl Future<Output = ()> + Send + 'static) {
    let queue = Arc::new(Queue::default());
    let writer = Writer {
        queue: Arc::clone(&queue),
    };
    (writer, write(files, bodies, queue, metrics))
}

async fn write(files: Option<Arc<Files>>, bodies: BodyFiles, queue: Arc<Queue>, metrics: Metrics) {
    let mut disk = files.map(|files| Disk {
        files,
        bodies,
        metrics: metrics.clone(),
        failed: HashMap::new(),
    });
    let mut retry_at = Instant::now();
    let mut tidy_at = Instant::now() + TIDY;
    loop {
        let failing = disk.as_ref().is_some_and(|disk| !disk.failed.is_empty());
        tokio::select! {
            () = queue.changed.notified() => {}
            () = tokio::time::sleep_until(retry_at), if failing => {}
            () = tokio::time::sleep_until(tidy_at), if disk.is_some() => {}
        }
        // Asked before the queue is: what was put before the end is written.
        let closed = queue.is_closed();
        let Some(mut at_work) = disk.take() else {
            while let Some(mut order) = queue.next() {
                order.tell_done();
            }
            if closed {
                return;
            }
            continue;
        };
        let now = Instant::now();
        let again = closed || retry_at <= now;
        let tidy = tidy_at <= now;
        let orders = Arc::clone(&queue);
        let worked = tokio::task::spawn_blocking(move || {
            if again {
                at_work.repeat();
            }
            while let Some(order) = orders.next() {
                at_work.carry_out(order);
            }
            if tidy {
                at_work.files.forget_set_aside(SystemTime::now());
            }
            at_work
        });
        let Ok(worked) = worked.await else {
            error!("the journal's writer broke down");
            return;
        };
        if again {
            retry_at = now + RETRY;
        }
        if tidy {
            tidy_at = now + TIDY;
        }
        metrics.degraded("journal_writes_fail", !worked.failed.is_empty());
        disk = Some(worked);
        if closed {
            return;
        }
    }
}

struct Disk {
    files: Arc<Files>,
    bodies: BodyFiles,
    metrics: Metrics,
    /// Orders that could not be carried out, by their volumes.
    failed: HashMap<String, Order>,
}

impl Disk {
    /// Tries again what has failed.
    fn repeat(&mut self) {
        for (_, order) in std::mem::take(&mut self.failed) {
            self.carry_out(order);
        }
    }

    /// Carries an order out; it is kept where it fails. Whoever waits for it goes on even so: a disk that is full
    /// must not keep a node's pods from starting.
    fn carry_out(&mut self, mut order: Order) {
        // It is older than this one.
        self.failed.remove(&order.volume);
        // A volume that breaks the writer must not take the others' along.
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&order)));
        order.tell_done();
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("the writer broke down"),
        };
        self.metrics.journal_error("write");
        let file = self.files.record_path(&order.volume);
        warn!(%error, file = %file.display(), "a journal file could not be written and is tried again: a restart now would forget the last change of its volume");
        self.failed.insert(order.volume.clone(), order);
    }

    fn write(&self, order: &Order) -> io::Result<()> {
        let volume = order.volume.as_str();
        let on_disk = self.bodies.of(volume);
        let Some(state) = &order.state else {
            match order.aside {
                true => loading::set_aside(&self.files.record_path(volume))?,
                false => self.files.erase_record(volume)?,
            }
            return self.erase(volume, &on_disk);
        };
        let mut unwritten = None;
        for (key, grant) in &state.bodies {
            if !on_disk.contains(key) {
                match self.files.write_body(volume, *key, grant) {
                    Ok(()) => self.bodies.note(volume, *key, true),
                    Err(error) => unwritten = Some(error),
                }
            }
        }
        // Also where there is no room for a body: what is alive must be known.
        self.files.write_record(volume, &state.record)?;
        let named: BTreeSet<ItemKey> = state.bodies.iter().map(|(key, _)| *key).collect();
        self.erase(volume, &on_disk.difference(&named).copied().collect())?;
        unwritten.map_or(Ok(()), Err)
    }

    /// Erases as many of a volume's bodies as it can.
    fn erase(&self, volume: &str, keys: &BTreeSet<ItemKey>) -> io::Result<()> {
        let mut result = Ok(());
        for key in keys {
            match self.files.erase_body(volume, *key) {
                Ok(()) => self.bodies.note(volume, *key, false),
                Err(error) => result = Err(error),
            }
        }
        result
    }
}
