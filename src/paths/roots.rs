//! Which pods directory a target path lies in, and where this process sees that directory.
//!
//! A node's kubelet may have its root anywhere (`--root-dir`: `/var/lib/docker/kubelet`, MicroK8s', k3s'). The
//! target path names it: `<root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`. The name alone proves
//! nothing: a directory is believed only when it shows what kubelet's own must show.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Presence, Settings};

/// The most pods directories besides the configured one. A node has one kubelet, a test bench two.
const MOST: usize = 8;

/// The pods directories that are known.
pub struct Roots {
    configured: Arc<Root>,
    /// By the name that kubelet has for them.
    others: Mutex<HashMap<PathBuf, Arc<Root>>>,
}

/// A pods directory, as this process sees it.
struct Root {
    pods_dir: PathBuf,
    own_pod_uid: Option<String>,
    /// Device and inode when it was first seen.
    identity: Mutex<Option<(u64, u64)>>,
}

/// Where a target path is to be looked for.
pub struct Place {
    root: Arc<Root>,
    path: PathBuf,
}

impl Roots {
    pub fn new(settings: &Settings) -> Self {
        let configured = Root::new(settings.pods_dir.clone(), settings.own_pod_uid.clone());
        let _: Result<(), String> = configured.prove();
        Self {
            configured: Arc::new(configured),
            others: Mutex::new(HashMap::new()),
        }
    }

    /// Whether an absence below the configured directory would mean something just now.
    pub fn prove_configured(&self) -> Result<(), String> {
        self.configured.prove()
    }

    /// Where a target path is to be looked for.
    ///
    /// # Errors
    /// It is below no directory that we see, and why.
    pub fn find(&self, path: &Path) -> Result<Place, String> {
        let configured = &self.configured;
        let outside = || {
            let (path, root) = (path.display(), configured.pods_dir.display());
            format!("{path} is not below {root}")
        };
        let clean = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.components().all(clean) {
            return Err(outside());
        }
        if path.starts_with(&configured.pods_dir) {
            return Ok(Place {
                root: Arc::clone(configured),
                path: path.to_owned(),
            });
        }
        let named = pods_directory(path).ok_or_else(outside)?;
        let below = path.strip_prefix(named).map_err(|_| outside())?;
        let known = self.others().get(named).cloned();
        let root = match known {
            Some(root) => root,
            None => self.discover(named, below).map_err(|reason| {
                let why = outside();
                format!("{why}, nor is its own pods directory visible here: {reason}")
            })?,
        };
        let path = root.pods_dir.join(below);
        Ok(Place { root, path })
    }

    /// Where this process sees the directory that kubelet calls `named`: there, or at the configured place,
    /// where a container may have it mounted. Decided once, so that a directory that goes out of sight is
    /// never looked for elsewhere, where its volumes would seem to be gone.
    fn discover(&self, named: &Path, below: &Path) -> Result<Arc<Root>, String> {
        let own_pod_uid = self.configured.own_pod_uid.clone();
        let there = Arc::new(Root::new(named.to_owned(), own_pod_uid));
        let found = there.shows(below, true).map(|()| there).or_else(|reason| {
            let configured = &self.configured;
            let translated = configured.shows(below, false);
            translated
                .map(|()| Arc::clone(configured))
                .map_err(|_| reason)
        })?;
        let mut others = self.others();
        if others.len() >= MOST && !others.contains_key(named) {
            return Err(format!("{MOST} others are watched already"));
        }
        let found = others.entry(named.to_owned()).or_insert(found);
        Ok(Arc::clone(found))
    }

    fn others(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Root>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pods directory of a volume's target path.
fn pods_directory(path: &Path) -> Option<&Path> {
    let mut up = path.ancestors();
    let mut named = |name: &str| {
        up.next()?
            .file_name()
            .filter(|found| *found == name)
            .map(drop)
    };
    named("mount")?;
    let _volume = up.next()?;
    let mut named = |name: &str| {
        up.next()?
            .file_name()
            .filter(|found| *found == name)
            .map(drop)
    };
    named("kubernetes.io~csi")?;
    named("volumes")?;
    let _uid = up.next()?;
    let pods = up.next()?;
    (pods.file_name()? == "pods").then_some(pods)
}

impl Root {
    fn new(pods_dir: PathBuf, own_pod_uid: Option<String>) -> Self {
        Self {
            pods_dir,
            own_pod_uid,
            identity: Mutex::new(None),
        }
    }

    /// Why an absence below it would mean nothing just now: it is not readable, not the one of the start, or
    /// does not show our own pod.
    fn prove(&self) -> Result<(), String> {
        let directory = &self.pods_dir;
        let shown = directory.display();
        fs::read_dir(directory).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let metadata = fs::metadata(directory).map_err(|error| format!("{shown}: {error}"))?;
        if let Some(uid) = &self.own_pod_uid
            && !directory.join(uid).exists()
        {
            return Err(format!("{shown} does not show our own pod {uid}"));
        }
        // Only now: the empty directory under a mount that is not there yet would else be taken for
        // the true one, and the true one then be refused for good.
        let identity = (metadata.dev(), metadata.ino());
        let known = &self.identity;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known.get_or_insert(identity) == identity {
            Ok(())
        } else {
            Err(format!(
                "{shown} is not the directory that was there at the start"
            ))
        }
    }

    /// Whether it is the directory that a path with this end was named in. Where it bears the name, our own
    /// pod's directory shows it, or for a process that is no pod some pod's: the place of a disk that is not
    /// mounted is empty. Elsewhere the path itself must have been seen.
    fn shows(&self, below: &Path, bears_the_name: bool) -> Result<(), String> {
        self.prove()?;
        let shown = self.pods_dir.display();
        let inhabited = || fs::read_dir(&self.pods_dir).is_ok_and(|mut pods| pods.next().is_some());
        if self.pods_dir.join(below).exists() {
            Ok(())
        } else if !bears_the_name {
            Err(format!("{shown} does not show it"))
        } else if self.own_pod_uid.is_some() || inhabited() {
            Ok(())
        } else {
            Err(format!("{shown} shows no pod"))
        }
    }
}

impl Place {
    /// Its pods directory, to be told from others.
    pub fn pods_dir(&self) -> &Path {
        &self.root.pods_dir
    }

    /// Whether an absence at it would mean something just now.
    pub fn prove(&self) -> Result<(), String> {
        self.root.prove()
    }

    pub fn into_path(self) -> PathBuf {
        self.path
    }

    /// Whether the directory of the path's pod is gone as well: `<pods>/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
    fn pod_is_absent(&self) -> bool {
        let pod = self.path.ancestors().nth(4);
        let pod = pod.filter(|pod| pod.parent() == Some(self.pods_dir()));
        let looked = pod.map(fs::symlink_metadata);
        matches!(looked, Some(Err(error)) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Looks. Blocks for as long as the file system does.
    pub fn look(&self) -> Presence {
        match fs::symlink_metadata(&self.path) {
            Ok(_) => Presence::Present,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                let absent = match self.pod_is_absent() {
                    true => Presence::PodAbsent,
                    false => Presence::Absent,
                };
                // After the look, not before: sight lost in between must not count.
                self.prove().map_or_else(Presence::Blind, |()| absent)
            }
            Err(error) => Presence::Blind(format!("{}: {error}", self.path.display())),
        }
    }
}
