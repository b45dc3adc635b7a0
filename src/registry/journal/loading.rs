//! Records that break the daemon while they are loaded, by a panic or by its very end, are set aside.
//!
//! Before a record is touched its file's name is written down, in the file `loading` beside the journal's own; it is
//! struck out once the record has proved to be sound. A name that is there at a start is that of a record whose
//! loading has ended the daemon, or was cut short by something else: it is tried once more, after all others, and
//! set aside when that does not come to an end either.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use tracing::{debug, error, warn};

use crate::metrics::Metrics;

/// The extension of what is set aside.
const QUARANTINED: &str = "quarantined";
const FILE: &str = "loading";
/// A record may break down this often.
const TRIES: u32 = 2;

/// What is known of a record that has broken down.
#[derive(Clone, Default)]
struct Tried {
    times: u32,
    /// `namespace/pod`; empty where loading did not come that far.
    pod: String,
}

/// The records that were being loaded when something broke.
pub struct Loading {
    file: PathBuf,
    tried: BTreeMap<String, Tried>,
}

/// A record's way of being loaded. It tells which pod it is of as soon as it knows, as `namespace/pod`.
pub type Load<'a, T> = dyn FnMut(&Path, &mut dyn FnMut(String)) -> T + 'a;

impl Loading {
    /// What earlier starts have left in this directory.
    pub fn of(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let line = |line: &str| {
            let mut fields = line.splitn(3, '\t');
            let times = fields.next()?.parse().ok()?;
            let name = fields.next()?.to_owned();
            let pod = fields.next().unwrap_or_default().to_owned();
            Some((name, Tried { times, pod }))
        };
        let tried = text.lines().filter_map(line).collect();
        Self { file, tried }
    }

    /// Loads every file, those that have broken down last. What breaks down twice is set aside.
    pub fn load_all<T>(
        &mut self,
        files: Vec<PathBuf>,
        metrics: &Metrics,
        load: &mut Load<'_, T>,
    ) -> Vec<T> {
        self.tried
            .retain(|name, _| files.iter().any(|file| name_of(file) == *name));
        let suspected = |file: &PathBuf| self.tried.contains_key(&name_of(file));
        let (mut again, first): (Vec<PathBuf>, _) = files.into_iter().partition(suspected);
        let mut loaded = Vec::new();
        for file in first {
            match self.load(&file, load) {
                Some(it) => loaded.push(it),
                None => again.push(file),
            }
        }
        for file in again {
            loop {
                let tried = self.tried.get(&name_of(&file)).cloned();
                if let Some(tried) = tried.filter(|tried| tried.times >= TRIES) {
                    self.set_aside(&file, &tried, metrics);
                    break;
                }
                if let Some(it) = self.load(&file, load) {
                    loaded.push(it);
                    break;
                }
            }
        }
        loaded
    }

    /// `None`: it has broken down, which is written down.
    fn load<T>(&mut self, file: &Path, load: &mut Load<'_, T>) -> Option<T> {
        let name = name_of(file);
        self.tried.entry(name.clone()).or_default().times += 1;
        self.write();
        let mut found = |pod: String| {
            if let Some(tried) = self.tried.get_mut(&name) {
                // A tab or a line's end would break the file's form.
                tried.pod = pod.replace(char::is_control, " ");
                self.write();
            }
            super::steps::reached("while a record is loaded");
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| load(file, &mut found)));
        if loaded.is_ok() {
            self.tried.remove(&name);
            self.write();
        } else {
            warn!(file = %file.display(), "a journal record broke the loading of it; it is tried once more, after all others");
        }
        loaded.ok()
    }

    fn set_aside(&mut self, file: &Path, tried: &Tried, metrics: &Metrics) {
        metrics.journal_error("quarantined");
        metrics.quarantined();
        let aside = file.with_extension(QUARANTINED);
        let moved = set_aside(file);
        let pod = if tried.pod.is_empty() {
            "unknown"
        } else {
            &tried.pod
        };
        error!(
            file = %aside.display(),
            pod,
            moved = moved.is_ok(),
            "a journal record has broken the daemon twice and was set aside: the credentials of its volume are renewed and revoked no more and live to their own end; the next rotation poll issues new ones, without polls restart the pod; please report this (the file holds secrets: delete it when it is of no more use)"
        );
        self.tried.remove(&name_of(file));
        self.write();
    }

    /// Without room for it the records are loaded even so, unprotected.
    fn write(&self) {
        let lines = self.tried.iter();
        let lines = lines.map(|(name, tried)| format!("{}\t{name}\t{}\n", tried.times, tried.pod));
        let text: String = lines.collect();
        let written = if text.is_empty() {
            fs::remove_file(&self.file)
        } else {
            fs::write(&self.file, text)
        };
        if let Err(error) = written
            && error.kind() != io::ErrorKind::NotFound
        {
            debug!(%error, file = %self.file.display(), "which record is loaded could not be written down");
        }
    }
}

/// Moves a file out of the journal; one that was never written need not be.
pub fn set_aside(file: &Path) -> io::Result<()> {
    match fs::rename(file, file.with_extension(QUARANTINED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn directory(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let files = names.iter().map(|name| directory.path().join(name));
        let files: Vec<PathBuf> = files.collect();
        for file in &files {
            fs::write(file, "x").unwrap();
        }
        (directory, files)
    }

    #[test]
    fn what_panics_twice_is_set_aside_and_the_others_load() {
        let (directory, files) = directory(&["a.json", "b.json", "c.json"]);
        let mut seen = Vec::new();
        let mut loading = Loading::of(directory.path());
        let mut load = |file: &Path, _: &mut dyn FnMut(String)| {
            seen.push(name_of(file));
            assert!(!file.ends_with("b.json"), "as the test wants");
            name_of(file)
        };
        let loaded = loading.load_all(files, &Metrics::new(), &mut load);
        assert_eq!(loaded, ["a.json", "c.json"]);
        assert_eq!(seen, ["a.json", "b.json", "c.json", "b.json"]);
        assert!(directory.path().join("b.quarantined").exists());
        assert!(!directory.path().join("b.json").exists());
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn what_ends_the_process_twice_is_not_touched_a_third_time() {
        let (directory, files) = directory(&["a.json", "b.json"]);
        fs::write(
            directory.path().join(FILE),
            "2\ta.json\tshop/web\n1\tb.json\t\n1\tgone.json\t\n",
        )
        .unwrap();
        let mut loading = Loading::of(directory.path());
        let metrics = Metrics::new();
        let mut load = |file: &Path, found: &mut dyn FnMut(String)| {
            found("shop/api".to_owned());
            let written = fs::read_to_string(directory.path().join(FILE)).unwrap();
            assert!(written.contains("2\tb.json\tshop/api\n"), "{written}");
            name_of(file)
        };
        let loaded = loading.load_all(files, &metrics, &mut load);
        assert_eq!(loaded, ["b.json"], "once more, and this time it was well");
        assert!(directory.path().join("a.quarantined").exists());
        assert!(metrics.encode().contains("leasehold_quarantined_total 1"));
        assert!(!directory.path().join(FILE).exists());
    }
}
