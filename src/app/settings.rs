//! The configuration as each part wants it, and the limit of open files.

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit};

use crate::blocking::BlockingPool;
use crate::config::Config;
use crate::vault::{Redirects, TlsFiles};
use crate::{paths, registry, vault};

/// Bounds of the connections to servers at once: each takes a file and some tens of KiB.
const MOST_CONNECTIONS: usize = 1024;
const FEWEST_CONNECTIONS: usize = 64;

pub fn registry_settings(config: &Config) -> registry::Settings {
    registry::Settings {
        confirm: config.path_confirm,
        drain: config.drain_after,
        park: config.park,
        poll: config.poll_interval,
        rate: config.renew_rate,
        look_up: config.lookup_interval,
        quota: config.state_quota,
        ..registry::Settings::default()
    }
}

pub fn vault_settings(config: &Config, processor: &BlockingPool) -> vault::Settings {
    let usual = vault::Settings::default();
    vault::Settings {
        request_timeout: config.client_timeout.unwrap_or(usual.request_timeout),
        login_timeout: config.client_timeout.unwrap_or(usual.login_timeout),
        read_timeout: config.client_timeout.unwrap_or(usual.read_timeout),
        proxies: config.proxies.clone(),
        redirects: Redirects {
            follow: config.follow_redirects,
            addresses: config.policy.addresses.clone(),
        },
        max_connection_age: config.max_connection_age,
        max_connections: most_connections(rustix::process::getrlimit(Resource::Nofile).current),
        keeping_in_flight: config.renew_concurrency,
        tls_files: TlsFiles {
            own: config.defaults.tls.clone(),
            forbidden: forbidden(config),
        },
        processor: processor.clone(),
        keeping_rate: config.renew_rate,
        ..usual
    }
}

/// Where other tenants' secrets lie: kubelet's directory, with all pods' volumes, and our own state.
fn forbidden(config: &Config) -> Vec<PathBuf> {
    let pods = &config.kubelet_pods_dir;
    let root = pods.parent().filter(|root| root.ends_with("kubelet"));
    let kubelets = root.unwrap_or(pods).to_owned();
    vec![
        kubelets,
        config.state_dir.clone(),
        "/var/lib/kubelet".into(),
    ]
}

pub fn path_settings(config: &Config) -> paths::Settings {
    paths::Settings {
        pods_dir: config.kubelet_pods_dir.clone(),
        own_pod_uid: config.pod_uid.clone(),
        interval: config.path_check_interval,
        confirm: config.path_confirm,
    }
}

/// Raises the limit of open files to what the process may have, and answers it.
///
/// The usual soft limit, 1,024, is for programs that use select(2). A node's connections need more, and one that cannot
/// be made is a Mount or a renewal that fails.
///
/// # Errors
/// The kernel refuses.
pub fn raise_open_files() -> std::io::Result<Option<u64>> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(limit.maximum)
}

/// Connections to servers at once: of the files that may be open, half are for everything else.
fn most_connections(open_files: Option<u64>) -> usize {
    let half = open_files.map_or(u64::MAX, |limit| limit / 2);
    usize::try_from(half)
        .unwrap_or(usize::MAX)
        .clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_half_of_the_open_files() {
        for (files, connections) in [
            (Some(1024), 512),
            (Some(20), FEWEST_CONNECTIONS),
            (Some(1_048_576), MOST_CONNECTIONS),
            (None, MOST_CONNECTIONS),
        ] {
            assert_eq!(most_connections(files), connections, "{files:?}");
        }
    }
}
