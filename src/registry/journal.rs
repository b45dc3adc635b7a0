//! The registry on memory-backed disk: one owner-only file per volume, and one for each reply that is kept.
//!
//! | file | content |
//! |---|---|
//! | `<volume>.json` | `leasehold-journal 2 <boot id> <SHA-256 of the rest>`, then the volume's record as JSON: tokens, deadlines, what each reply is. Small; replaced at each change |
//! | `<volume>.<key>.body` | `leasehold-body 2 <SHA-256 of the rest>`, then a line with the request's arguments, then the reply. Written once, before the first record that names it; erased after the first one that does not |
//! | `….tmp` | a file that is being written |
//! | `<volume>.corrupt` | a record that could not be used |
//! | `<volume>.quarantined` | a record that broke the daemon twice |
//! | `loading` | the records that are being loaded: see [`loading`] |
//!
//! `<volume>` is a hash of the pod's UID and the target path. Every other file in the directory is left alone.
//! Every reply that is not a static read is kept, private keys included, because the next poll must be answered
//! without issuing anything anew. A record whose body file is missing or torn is used without it: what it grants
//! is renewed and revoked, and read anew by the next poll.
//!
//! Format 1 (version 0.1) had the replies in the record. It is read, and replaced by format 2.

mod files;
mod loading;
mod replay;
mod steps;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use self::files::Files;
#[cfg(any(test, fuzzing))]
pub(super) use self::files::{parsed_body, parsed_record};
pub(super) use self::replay::{Found, Replayed};
pub(super) use self::writer::{Snapshot, Writer};
use super::task::ItemKey;
use crate::clock::Moment;
use crate::metrics::Metrics;

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
    files: Option<Arc<Files>>,
}

/// The bodies that have files, by volume. Shared, because the replay takes unusable ones away and the writer adds
/// new ones.
#[derive(Clone, Default)]
struct BodyFiles(Arc<Mutex<BTreeMap<String, BTreeSet<ItemKey>>>>);

impl BodyFiles {
    /// Nothing is left half-done in it by a panic.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<ItemKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, volume: &str) -> BTreeSet<ItemKey> {
        self.lock().get(volume).cloned().unwrap_or_default()
    }

    fn note(&self, volume: &str, key: ItemKey, exists: bool) {
        let mut all = self.lock();
        let keys = all.entry(volume.to_owned()).or_default();
        if exists {
            keys.insert(key);
        } else {
            keys.remove(&key);
        }
        if keys.is_empty() {
            all.remove(volume);
        }
    }
}

impl Journal {
    /// No journal: a restart forgets.
    #[must_use]
    pub const fn none() -> Self {
        Self { files: None }
    }

    /// Takes a directory, making it where it is missing.
    ///
    /// # Errors
    /// The directory cannot be used, another daemon holds it, or it lies on a disk without leave.
    pub fn open(directory: &Path, allow_disk: bool) -> Result<Self, OpenError> {
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
        let files = Files::new(directory.to_owned(), boot_id.trim().to_owned(), lock);
        Ok(Self {
            files: Some(Arc::new(files)),
        })
    }

    /// Reads what is there, one volume after the other as the first value is asked for them, and starts the writer.
    /// The third value ends when the second is dropped and all is written.
    pub(super) fn start(
        self,
        now: Moment,
        metrics: &Metrics,
    ) -> (Replayed, Writer, impl Future<Output = ()> + Send + 'static) {
        let bodies = BodyFiles::default();
        let replayed = Replayed::over(self.files.clone(), bodies.clone(), now, metrics);
        let (writer, written) = writer::start(self.files, bodies, metrics.clone());
        (replayed, writer, written)
    }
}

/// Whether a directory's files live in memory (tmpfs or ramfs, by their magic numbers of statfs(2)).
fn on_memory(directory: &Path) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(directory)?.f_type;
    let kind = u64::try_from(kind).unwrap_or_default() & 0xffff_ffff;
    Ok(kind == TMPFS || kind == RAMFS)
}
