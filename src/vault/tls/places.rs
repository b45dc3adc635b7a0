//! Where files of TLS settings may lie. A class names them, and this process reads as root what it names.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::spec::Tls;

/// Files of the kernel's, of which some block, and some act, when they are read.
const KERNELS: [&str; 2] = ["/proc", "/sys"];

/// Which files are read, and how.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// What the daemon's own flags and environment name. Their reading never waits for a tenant's.
    pub own: Tls,
    /// Directories whose files are never read: kubelet's, with other pods' secrets, and our own state.
    pub forbidden: Vec<PathBuf>,
}

impl TlsFiles {
    /// Whether settings name no files but the daemon's own.
    pub fn are_own(&self, settings: &Tls) -> bool {
        let files = |settings: &Tls| {
            [
                settings.ca_file.clone(),
                settings.ca_directory.clone(),
                settings.client_certificate.clone(),
                settings.client_key.clone(),
            ]
        };
        let mut pairs = files(settings).into_iter().zip(files(&self.own));
        pairs.all(|(named, own)| named.is_none() || named == own)
    }

    /// Refuses what was opened where it lies in a forbidden directory. By the file, not by its name: a link may
    /// have been put into a name's place meanwhile.
    pub fn check_opened(&self, file: &File, path: &Path) -> io::Result<()> {
        let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let opened = opened.or_else(|_| fs::canonicalize(path))?;
        self.check_resolved(&opened)
    }

    /// Refuses a path that leads into a forbidden directory.
    pub fn check(&self, path: &Path) -> io::Result<()> {
        self.check_resolved(&fs::canonicalize(path)?)
    }

    fn check_resolved(&self, path: &Path) -> io::Result<()> {
        let refused = |why: &str| Err(io::Error::other(why.to_owned()));
        if KERNELS.iter().any(|kernels| path.starts_with(kernels)) {
            return refused("is the kernel's: name a file or directory elsewhere");
        }
        let lies_in = |directory: &PathBuf| {
            let resolved = fs::canonicalize(directory);
            path.starts_with(directory) || resolved.is_ok_and(|resolved| path.starts_with(resolved))
        };
        match self.forbidden.iter().any(lies_in) {
            true => refused(
                "lies in kubelet's directory or in the provider's own state, which hold others' secrets: name a file or directory elsewhere",
            ),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_way_leads_into_a_forbidden_directory() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for directory in ["pods", "pods/a", "pods-of-mine"] {
            fs::create_dir(at(directory)).unwrap();
            fs::write(at(directory).join("ca.pem"), "x").unwrap();
        }
        symlink(at("pods"), at("link")).unwrap();
        symlink(at("link/a/ca.pem"), at("link.pem")).unwrap();
        symlink("/proc/self", at("process")).unwrap();
        let files = TlsFiles {
            forbidden: vec![at("link"), at("state")],
            ..TlsFiles::default()
        };
        for refused in [
            "pods/ca.pem",
            "pods/a",
            "link/a/ca.pem",
            "link.pem",
            "pods-of-mine/../pods/ca.pem",
            "process/environ",
        ] {
            let path = at(refused);
            assert!(files.check(&path).is_err(), "{refused}");
            let opened = File::open(&path).unwrap();
            assert!(files.check_opened(&opened, &path).is_err(), "{refused}");
        }
        assert!(files.check(&at("pods-of-mine/ca.pem")).is_ok());
        assert!(files.check(&at("absent")).is_err(), "it cannot be resolved");
    }
}
