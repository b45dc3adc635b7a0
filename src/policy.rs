//! What this installation lets a class choose. A class is written by a tenant; an administrator pins, by
//! flags, which servers it may name, which of our files it may point at, and how it may ask.
//!
//! Checked before anything is read or sent. What the daemon's own flags and environment set is always
//! allowed, and without any `-allow-…` flag everything is, as with the incumbents.

use std::path::{Path, PathBuf};

use crate::addresses::AllowedAddresses;
use crate::pattern::Pattern;
use crate::spec::{Method, MountSpec, Tls};

/// The rules. Each is in force where its flag was given.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `-allow-vault-address`: patterns of addresses, besides the daemon's own.
    pub addresses: AllowedAddresses,
    /// `-allow-namespace`: patterns of namespaces; the outermost one is `root`.
    pub namespaces: Option<Vec<Pattern>>,
    /// `-allow-auth-mount`: patterns of auth mounts.
    pub auth_mounts: Option<Vec<Pattern>>,
    /// `-allow-method`: request methods.
    pub methods: Option<Vec<Method>>,
    /// `-allow-tls-files`: the directory that files named by a class must lie in.
    pub tls_files: Option<PathBuf>,
    /// `-allow-skip-tls-verify=false`: a class may not turn the check of certificates off.
    pub forbid_skip_verify: bool,
    /// What the daemon itself is configured with.
    pub own: Own,
}

/// The daemon's own settings: a class that names the same says nothing new.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The namespace.
    pub namespace: Option<String>,
    /// The auth mount.
    pub auth_mount: String,
    /// TLS settings.
    pub tls: Tls,
}

/// A class wants what this installation's policy forbids.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "policy {flag} of this installation forbids {what}: {value}; use what it allows, or ask its administrator"
)]
pub struct Violation {
    /// The flag.
    pub flag: &'static str,
    /// The field.
    pub what: &'static str,
    /// Its value.
    pub value: String,
}

impl Policy {
    /// Whether a request is within the policy.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, spec: &MountSpec) -> Result<(), Violation> {
        let violation = |flag, what, value: &str| Violation {
            flag,
            what,
            value: format!("{value:?}"),
        };
        let forbids = |patterns: &Option<Vec<Pattern>>, text: &str| {
            let patterns = patterns.as_ref();
            patterns.is_some_and(|patterns| !patterns.iter().any(|pattern| pattern.fits(text)))
        };
        let address = spec.endpoint.address.as_str();
        if !self.addresses.allow(address) {
            return Err(violation("-allow-vault-address", "vaultAddress", address));
        }
        let given = spec.endpoint.namespace.as_deref();
        let namespace = given.unwrap_or("root").trim_matches('/');
        if given != self.own.namespace.as_deref() && forbids(&self.namespaces, namespace) {
            return Err(violation("-allow-namespace", "vaultNamespace", namespace));
        }
        let mount = spec.login.mount.as_str();
        if mount != self.own.auth_mount && forbids(&self.auth_mounts, mount) {
            return Err(violation("-allow-auth-mount", "vaultAuthMountPath", mount));
        }
        for object in &spec.objects {
            let method = object.request.method;
            let methods = self.methods.as_ref();
            if methods.is_some_and(|allowed| !allowed.contains(&method)) {
                let value = format!("{} of object {}", method.as_str(), object.name);
                return Err(violation("-allow-method", "method", &value));
            }
        }
        self.check_tls(&spec.endpoint.tls)
    }

    fn check_tls(&self, tls: &Tls) -> Result<(), Violation> {
        let own = &self.own.tls;
        if self.forbid_skip_verify && tls.skip_verify && !own.skip_verify {
            return Err(Violation {
                flag: "-allow-skip-tls-verify",
                what: "vaultSkipTLSVerify",
                value: "\"true\"".to_owned(),
            });
        }
        let Some(directory) = &self.tls_files else {
            return Ok(());
        };
        let files = [
            ("vaultCACertPath", &tls.ca_file, &own.ca_file),
            ("vaultCADirectory", &tls.ca_directory, &own.ca_directory),
            (
                "vaultTLSClientCertPath",
                &tls.client_certificate,
                &own.client_certificate,
            ),
            ("vaultTLSClientKeyPath", &tls.client_key, &own.client_key),
        ];
        for (what, file, own) in files {
            if let Some(file) = file
                && file.as_path() != own.as_deref().unwrap_or(Path::new(""))
                && !lies_in(file, directory)
            {
                return Err(Violation {
                    flag: "-allow-tls-files",
                    what,
                    value: format!("{:?}", file.display().to_string()),
                });
            }
        }
        Ok(())
    }
}

/// Whether a file lies below a directory once every link is followed: a ConfigMap's files are links. One
/// that is not there is judged by its name, which may then not go up.
fn lies_in(file: &Path, directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else {
        return false;
    };
    match file.canonicalize() {
        Ok(file) => file.starts_with(&directory),
        Err(_) => {
            let up = std::path::Component::ParentDir;
            file.starts_with(&directory) && !file.components().any(|part| part == up)
        }
    }
}

#[cfg(test)]
mod tests;
