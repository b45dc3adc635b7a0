//! The journal's files: their names, what stands in them, and how one is replaced.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::record::{Body, Record};
use super::super::task::ItemKey;
use super::steps;
use crate::grant::Grant;
use crate::spec::VolumeId;

const RECORD: &str = "leasehold-journal 2";
/// As version 0.1 wrote it.
const FIRST_RECORD: &str = "leasehold-journal 1";
const BODY: &str = "leasehold-body 2";
/// So many unusable records are kept, for people to look into; they hold tokens.
const SET_ASIDE_AT_MOST: usize = 16;
/// No longer than a token lives that was in one when it was last written: Vault's usual maximum TTL (768 h).
const SET_ASIDE_FOR: Duration = Duration::from_secs(768 * 3600);

/// What a file of ours is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// A volume's record. The volume.
    Record(String),
    /// A body. The volume, and the grant's key.
    Body(String, ItemKey),
    /// On its way to being written: what a kill leaves of it is erased.
    Temporary,
    /// An unusable record.
    SetAside,
}

impl Name {
    /// `None`: it is not ours.
    pub fn of(file: &str) -> Option<Self> {
        let (volume, rest) = file.split_at_checked(32)?;
        let is_hash = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if !volume.bytes().all(is_hash) {
            return None;
        }
        let key = |text: &str| {
            let key: ItemKey = text.parse().ok()?;
            (key.to_string() == text).then_some(key)
        };
        let parts: Vec<&str> = rest.split('.').collect();
        match parts.as_slice() {
            ["", "json"] => Some(Self::Record(volume.to_owned())),
            ["", "tmp"] => Some(Self::Temporary),
            ["", "corrupt" | "quarantined"] => Some(Self::SetAside),
            ["", number, "body"] => Some(Self::Body(volume.to_owned(), key(number)?)),
            ["", number, "tmp"] => key(number).map(|_| Self::Temporary),
            _ => None,
        }
    }
}

/// How a volume's files are called: by a hash of its pod's UID and its target path.
pub fn name(volume: &VolumeId) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(volume.pod_uid.as_bytes());
    context.update(&[0]);
    context.update(volume.target_path.as_os_str().as_encoded_bytes());
    let mut name = hex::encode(context.finish());
    name.truncate(32);
    name
}

/// The directory.
pub struct Files {
    directory: PathBuf,
    boot_id: String,
    /// Holds the lock until the process ends.
    _lock: OwnedFd,
}

impl Files {
    pub const fn new(directory: PathBuf, boot_id: String, lock: OwnedFd) -> Self {
        Self {
            directory,
            boot_id,
            _lock: lock,
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn record_path(&self, volume: &str) -> PathBuf {
        self.directory.join(format!("{volume}.json"))
    }

    fn body_path(&self, volume: &str, key: ItemKey) -> PathBuf {
        self.directory.join(format!("{volume}.{key}.body"))
    }

    /// Replaces a volume's record.
    pub fn write_record(&self, volume: &str, record: &[u8]) -> io::Result<()> {
        let header = format!("{RECORD} {} {}\n", self.boot_id, checksum(&[record]));
        replace(&self.record_path(volume), &[header.as_bytes(), record])
    }

    /// Writes a grant's body, which never changes.
    pub fn write_body(&self, volume: &str, key: ItemKey, grant: &Grant) -> io::Result<()> {
        let preface = Body::preface(grant)?;
        let body = grant.body.expose();
        let header = format!("{BODY} {}\n", checksum(&[&preface, body]));
        replace(
            &self.body_path(volume, key),
            &[header.as_bytes(), &preface, body],
        )
    }

    /// A volume's record, whether it was written in this boot, and its size in bytes.
    pub fn read_record(&self, volume: &str) -> Result<(Record, bool, usize), String> {
        let path = self.record_path(volume);
        let bytes = Zeroizing::new(fs::read(path).map_err(|error| error.to_string())?);
        let (record, boot_id) = parsed_record(&bytes)?;
        if name(&record.volume) != volume {
            return Err("it is named for another volume".to_owned());
        }
        Ok((record, boot_id == self.boot_id, bytes.len()))
    }

    pub fn read_body(&self, volume: &str, key: ItemKey) -> Result<Body, String> {
        let path = self.body_path(volume, key);
        let bytes = Zeroizing::new(fs::read(path).map_err(|error| error.to_string())?);
        parsed_body(&bytes)
    }

    pub fn erase_record(&self, volume: &str) -> io::Result<()> {
        erase(&self.record_path(volume))
    }

    pub fn erase_body(&self, volume: &str, key: ItemKey) -> io::Result<()> {
        erase(&self.body_path(volume, key))
    }

    /// Puts an unusable record out of the way. The path it has then.
    pub fn set_aside(&self, volume: &str) -> (PathBuf, io::Result<()>) {
        let path = self.record_path(volume);
        let aside = path.with_extension("corrupt");
        let moved = fs::rename(&path, &aside);
        (aside, moved)
    }

    /// Erases the unusable records that nobody has looked into in time, for they hold tokens: old ones, and all
    /// but the latest.
    pub fn forget_set_aside(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut all: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_one = name.to_str().and_then(Name::of) == Some(Name::SetAside);
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            if let Ok(written) = written
                && is_one
            {
                all.push((written, entry.path()));
            }
        }
        all.sort_by(|one, other| other.cmp(one));
        for (place, (written, path)) in all.into_iter().enumerate() {
            let age = now.duration_since(written).unwrap_or_default();
            if place < SET_ASIDE_AT_MOST && age < SET_ASIDE_FOR {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => {
                    warn!(file = %path.display(), "an unusable journal file was erased: nobody has looked into it in time");
                }
                Err(error) => {
                    warn!(%error, file = %path.display(), "an unusable journal file cannot be erased");
                }
            }
        }
    }
}

/// Replaces a file by its parts, of which the first is its header. No fsync: the file outlives our process in any
/// case, and the node's memory it need not.
fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    steps::reached("before a write");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let mut write = || {
        for part in parts {
            file.write_all(part)?;
            steps::reached("in the middle of a write");
        }
        Ok(())
    };
    let written = write().and_then(|()| fs::rename(&temporary, path));
    if written.is_err()
        && let Err(error) = fs::remove_file(&temporary)
    {
        // What there is of it holds secrets, and takes room on a disk that is full perhaps.
        warn!(%error, file = %temporary.display(), "what was written of a journal file cannot be erased");
    }
    steps::reached("after a rename");
    written
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

/// The record of a file's bytes, and the boot that they were written in.
pub fn parsed_record(bytes: &[u8]) -> Result<(Record, &str), String> {
    let (header, record) = split(bytes)?;
    let fields = [RECORD, FIRST_RECORD]
        .iter()
        .find_map(|format| header.strip_prefix(format))
        .ok_or_else(|| format!("not of the format `{RECORD}` or `{FIRST_RECORD}`"))?;
    let (boot_id, sum) = fields.trim().split_once(' ').ok_or("a short header")?;
    verify(sum, record)?;
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

/// The body of a file's bytes.
pub fn parsed_body(bytes: &[u8]) -> Result<Body, String> {
    let (header, body) = split(bytes)?;
    let sum = header
        .strip_prefix(BODY)
        .ok_or_else(|| format!("not of the format `{BODY}`"))?;
    verify(sum.trim(), body)?;
    Ok(Body::parse(body)?)
}

fn split(bytes: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (header, rest) = bytes.split_at(end.ok_or("no header line")?);
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    Ok((header, rest.get(1..).unwrap_or_default()))
}

fn verify(sum: &str, bytes: &[u8]) -> Result<(), &'static str> {
    if sum == checksum(&[bytes]) {
        Ok(())
    } else {
        Err("the checksum does not fit: a torn or altered file")
    }
}

fn checksum(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    hex::encode(context.finish())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn directory() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let lock = fs::File::create(directory.path().join("lock")).unwrap();
        let files = Files::new(directory.path().to_owned(), "boot".to_owned(), lock.into());
        (directory, files)
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }

    const VOLUME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_names_that_we_give_are_ours() {
        let record = || Some(Name::Record(VOLUME.to_owned()));
        let body = |key| Some(Name::Body(VOLUME.to_owned(), key));
        for (rest, name) in [
            (".json", record()),
            (".0.body", body(0)),
            (".18446744073709551615.body", body(u64::MAX)),
            (".tmp", Some(Name::Temporary)),
            (".7.tmp", Some(Name::Temporary)),
            (".corrupt", Some(Name::SetAside)),
            (".07.body", None),
            (".+7.body", None),
            (".18446744073709551616.body", None),
            (".x.tmp", None),
            (".7.json", None),
            ("0.json", None),
            ("", None),
        ] {
            assert_eq!(Name::of(&format!("{VOLUME}{rest}")), name, "{rest}");
        }
        let upper = VOLUME.to_uppercase() + ".json";
        for name in ["notes.json", "lock", "é".repeat(20).as_str(), &upper] {
            assert_eq!(Name::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let (directory, files) = directory();
        // Nothing can be renamed over a directory that is not empty.
        let in_the_way = files.record_path(VOLUME);
        fs::create_dir_all(in_the_way.join("x")).unwrap();
        assert!(
            files
                .write_record(VOLUME, b"{\"token\":\"hvs.x\"}")
                .is_err()
        );
        assert_eq!(names(&directory), [format!("{VOLUME}.json")]);
        fs::remove_dir_all(&in_the_way).unwrap();
        files.write_record(VOLUME, b"{}").unwrap();
        assert!(fs::read_to_string(in_the_way).unwrap().ends_with("\n{}"));
    }

    #[test]
    fn unusable_records_are_kept_for_a_while_and_not_too_many() {
        let (directory, files) = directory();
        let all = SET_ASIDE_AT_MOST + 4;
        for at in 0..all {
            let path = directory.path().join(format!("{at:032x}.corrupt"));
            let file = fs::File::create(path).unwrap();
            let written = UNIX_EPOCH + Duration::from_secs(1_000_000 + at as u64);
            file.set_modified(written).unwrap();
        }
        fs::write(directory.path().join("theirs.corrupt"), "x").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000 + 60);
        files.forget_set_aside(now);
        let left = names(&directory);
        assert_eq!(left.len(), SET_ASIDE_AT_MOST + 1);
        assert!(
            left.contains(&format!("{:032x}.corrupt", all - 1)),
            "{left:?}"
        );
        files.forget_set_aside(now + SET_ASIDE_FOR);
        assert_eq!(names(&directory), ["theirs.corrupt"]);
    }
}
