//! The registry on memory-backed disk: one owner-only file per volume, replaced by rename.
//!
//! Format 1: a header line `leasehold-journal 1 <boot id> <SHA-256 of the rest, hexadecimal>`, then the
//! record as JSON. It holds tokens and every reply that is not a static read, private keys included,
//! because the next poll must be answered without issuing anything anew.

mod loading;
mod steps;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use rustix::fs::FlockOperation;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, warn};
use zeroize::Zeroizing;

use self::loading::Loading;
use super::record::Record;
use super::volume::Volume;
use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::spec::VolumeId;

const FORMAT: &str = "leasehold-journal 1";
const SUFFIX: &str = "json";
/// A file on its way to being written: what a kill leaves of it is not read, but erased.
const TEMPORARY: &str = "tmp";
/// How long a write that failed is left alone; the disk may have room again by then.
const RETRY: Duration = Duration::from_secs(1);

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made, read or locked.
    #[error("state directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "state directory {path}: another daemon is using it; give each its own --state-dir, or stop the other one first"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It lies on a disk.
    #[error(
        "state directory {path} is not on tmpfs: tokens would be written to a disk; choose a directory below /run, or allow it with --allow-disk-state-dir"
    )]
    OnDisk {
        /// The directory.
        path: PathBuf,
    },
}

/// The journal: a directory that is ours alone, or none at all.
pub struct Journal {
    open: Option<Open>,
}

struct Open {
    directory: PathBuf,
    boot_id: String,
    quota: usize,
    /// Holds the lock until the process ends.
    _lock: OwnedFd,
}

/// What a journal held when it was opened.
pub(super) struct Replayed {
    pub volumes: Vec<Volume>,
}

impl Journal {
    /// No journal: a restart forgets.
    #[must_use]
    pub const fn none() -> Self {
        Self { open: None }
    }

    /// Takes a directory, making it where it is missing. `quota` bounds the bytes of all its files;
    /// beyond it, sessions are journalled without their replies.
    ///
    /// # Errors
    /// The directory cannot be used, another daemon holds it, or it lies on a disk without leave.
    pub fn open(directory: &Path, quota: usize, allow_disk: bool) -> Result<Self, OpenError> {
        let failed = |source: io::Error| OpenError::Io {
            path: directory.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        if !allow_disk && !on_memory(directory).map_err(failed)? {
            return Err(OpenError::OnDisk {
                path: directory.to_owned(),
            });
        }
        // One that others made is not ours to change: it may be /run itself.
        let mode = fs::metadata(directory).map_err(failed)?.permissions();
        if mode.mode() & 0o077 != 0 {
            let open = "it is open to others; make it 0700, or name one that does not exist yet";
            return Err(failed(io::Error::other(open)));
        }
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(failed)?;
        let lock = OwnedFd::from(lock);
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::Locked {
                    path: directory.to_owned(),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
        Ok(Self {
            open: Some(Open {
                directory: directory.to_owned(),
                boot_id: boot_id.trim().to_owned(),
                quota,
                _lock: lock,
            }),
        })
    }

    /// Whether there is one.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.open.is_some()
    }

    /// Reads every file. One that is torn or not ours is set aside with a loud error; the others load.
    /// One that breaks `try_out`, or the process with it, twice is set aside as well: see [`loading`].
    pub(super) fn replay(
        &self,
        now: Moment,
        metrics: &Metrics,
        try_out: &dyn Fn(&Volume),
    ) -> Replayed {
        let mut volumes = Vec::new();
        let Some(open) = &self.open else {
            return Replayed { volumes };
        };
        let entries = match fs::read_dir(&open.directory) {
            Ok(entries) => entries,
            Err(error) => {
                metrics.journal_error("read");
                error!(%error, directory = %open.directory.display(), "the journal cannot be read: volumes mounted before this start are not known");
                return Replayed { volumes };
            }
        };
        let mut files = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let suffix = path.extension().unwrap_or_default();
            if suffix == TEMPORARY
                && let Err(error) = fs::remove_file(&path)
            {
                warn!(%error, file = %path.display(), "what a kill left of a write cannot be erased");
            }
            if suffix == SUFFIX {
                files.push(path);
            }
        }
        let mut load = |path: &Path, found: &mut dyn FnMut(String)| match open.read(path) {
            Ok((record, same_boot)) => {
                let volume = record.into_volume(same_boot, now);
                found(format!("{}/{}", volume.pod.namespace, volume.pod.name));
                try_out(&volume);
                Some(volume)
            }
            Err(reason) => {
                metrics.journal_error("corrupt");
                let aside = path.with_extension("corrupt");
                let moved = fs::rename(path, &aside);
                error!(%reason, file = %aside.display(), moved = moved.is_ok(), "a journal file is unusable and was set aside: its volume's credentials live to their own end");
                None
            }
        };
        let mut loading = Loading::of(&open.directory);
        let loaded = loading.load_all(files, metrics, &mut load);
        volumes.extend(loaded.into_iter().flatten());
        Replayed { volumes }
    }

    /// Starts the writer. The second value ends when the first is dropped and all is written.
    pub(super) fn writer(self, metrics: Metrics) -> (Writer, impl Future<Output = ()> + Send) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let used = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            orders,
            used: Arc::clone(&used),
            quota: self.open.as_ref().map_or(usize::MAX, |open| open.quota),
        };
        (writer, write(self.open.map(Arc::new), inbox, used, metrics))
    }
}

/// Takes the orders, in their order.
pub(super) struct Writer {
    orders: mpsc::UnboundedSender<Order>,
    used: Arc<AtomicUsize>,
    quota: usize,
}

struct Order {
    file: String,
    /// `None` erases the file.
    bytes: Option<Zeroizing<Vec<u8>>>,
    /// In place of that: set it aside.
    aside: bool,
    /// Told when the order was carried out.
    done: Vec<oneshot::Sender<()>>,
}

impl Writer {
    /// Whether replies, and not only sessions, have room.
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.quota
    }

    /// Writes a volume's record, or erases its file.
    pub fn put(
        &self,
        volume: &VolumeId,
        bytes: Option<Zeroizing<Vec<u8>>>,
        done: Option<oneshot::Sender<()>>,
    ) {
        // Fails only when the writer has ended, and it ends after the worker.
        let _ = self.orders.send(Order {
            file: file_name(volume),
            bytes,
            aside: false,
            done: done.into_iter().collect(),
        });
    }

    /// Sets a volume's file aside: what it holds broke the daemon.
    pub fn quarantine(&self, volume: &VolumeId) {
        // As above.
        let _ = self.orders.send(Order {
            file: file_name(volume),
            bytes: None,
            aside: true,
            done: Vec::new(),
        });
    }
}

async fn write(
    open: Option<Arc<Open>>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    used: Arc<AtomicUsize>,
    metrics: Metrics,
) {
    let mut failed: HashMap<String, Order> = HashMap::new();
    let mut retry_at = Instant::now();
    let mut sizes: HashMap<String, usize> = HashMap::new();
    let mut closed = false;
    while !closed {
        let mut batch = Vec::new();
        tokio::select! {
            received = inbox.recv_many(&mut batch, 256) => closed = received == 0,
            () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {}
        }
        if closed || retry_at <= Instant::now() {
            batch.splice(0..0, failed.drain().map(|(_, order)| order));
            retry_at = Instant::now() + RETRY;
        }
        let orders = newest(batch);
        for order in &orders {
            failed.remove(&order.file);
            let size = order.bytes.as_ref().map_or(0, |bytes| bytes.len());
            let before = sizes.insert(order.file.clone(), size).unwrap_or_default();
            if size == 0 {
                sizes.remove(&order.file);
            }
            used.fetch_add(size, Ordering::Relaxed);
            used.fetch_sub(before, Ordering::Relaxed);
        }
        let Some(open) = open.clone() else {
            orders.into_iter().for_each(Order::acknowledge);
            continue;
        };
        let counted = metrics.clone();
        let carried_out = tokio::task::spawn_blocking(move || {
            let orders = orders.into_iter();
            let failed = orders.filter_map(|order| open.carry_out(order, &counted));
            failed.collect::<Vec<Order>>()
        });
        match carried_out.await {
            Ok(orders) => failed.extend(orders.into_iter().map(|it| (it.file.clone(), it))),
            Err(_) => error!("the journal's writer panicked; the next order is tried again"),
        }
        metrics.degraded("journal_writes_fail", !failed.is_empty());
    }
}

/// Of several orders for one file only the newest is carried out; it answers for the others.
fn newest(batch: Vec<Order>) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::with_capacity(batch.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    for order in batch {
        match places
            .get(&order.file)
            .and_then(|place| orders.get_mut(*place))
        {
            Some(earlier) => {
                earlier.bytes = order.bytes;
                earlier.aside = order.aside;
                earlier.done.extend(order.done);
            }
            None => {
                places.insert(order.file.clone(), orders.len());
                orders.push(order);
            }
        }
    }
    orders
}

impl Order {
    fn acknowledge(mut self) {
        self.tell_done();
    }

    fn tell_done(&mut self) {
        for done in self.done.drain(..) {
            // The Mount that waited may have gone away.
            let _ = done.send(());
        }
    }
}

impl Open {
    /// Carries an order out, and gives back what failed: it is tried again. Whoever waits for it goes on
    /// even so: a disk that is full must not keep a node's pods from starting.
    fn carry_out(&self, mut order: Order, metrics: &Metrics) -> Option<Order> {
        let path = self.directory.join(&order.file);
        let result = match &order.bytes {
            Some(bytes) => self.replace(&path, bytes),
            None if order.aside => loading::set_aside(&path),
            None => erase(&path),
        };
        order.tell_done();
        let error = result.err()?;
        metrics.journal_error("write");
        warn!(%error, file = %path.display(), "a journal file could not be written and is tried again: a restart now would forget the last change of its volume");
        Some(order)
    }

    /// No fsync: the file outlives our process in any case, and the node's memory it need not.
    fn replace(&self, path: &Path, record: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension(TEMPORARY);
        steps::reached("before a write");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let checksum = checksum(record);
        writeln!(file, "{FORMAT} {} {checksum}", self.boot_id)?;
        steps::reached("in the middle of a write");
        file.write_all(record)?;
        drop(file);
        steps::reached("before a rename");
        fs::rename(&temporary, path)?;
        steps::reached("after a rename");
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<(Record, bool), String> {
        let bytes = Zeroizing::new(fs::read(path).map_err(|error| error.to_string())?);
        let (record, boot_id) = parsed(&bytes)?;
        Ok((record, boot_id == self.boot_id))
    }
}

/// The record of a file's bytes, and the boot that they were written in.
pub(super) fn parsed(bytes: &[u8]) -> Result<(Record, &str), String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("no header line")?;
    let (header, record) = bytes.split_at(end);
    let record = record.get(1..).unwrap_or_default();
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let fields = header
        .strip_prefix(FORMAT)
        .ok_or_else(|| format!("not of the format `{FORMAT}`"))?;
    let (boot_id, sum) = fields.trim().split_once(' ').ok_or("a short header")?;
    if sum != checksum(record) {
        return Err("the checksum does not fit: a torn or altered file".to_owned());
    }
    // The parser's message could quote what it read: only the place is told.
    let record: Record = serde_json::from_slice(record).map_err(|error| {
        format!(
            "not a record, at line {} column {}",
            error.line(),
            error.column()
        )
    })?;
    Ok((record, boot_id))
}

fn erase(path: &Path) -> io::Result<()> {
    steps::reached("before an erasure");
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => {
            steps::reached("after an erasure");
            result
        }
    }
}

fn checksum(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn file_name(volume: &VolumeId) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(volume.pod_uid.as_bytes());
    context.update(&[0]);
    context.update(volume.target_path.as_os_str().as_encoded_bytes());
    let name = hex::encode(context.finish());
    format!("{}.{SUFFIX}", name.get(..32).unwrap_or(&name))
}

/// Whether a directory's files live in memory (tmpfs or ramfs, by their magic numbers of statfs(2)).
fn on_memory(directory: &Path) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(directory)?.f_type;
    let kind = u64::try_from(kind).unwrap_or_default() & 0xffff_ffff;
    Ok(kind == TMPFS || kind == RAMFS)
}
