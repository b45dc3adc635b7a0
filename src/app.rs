//! The wiring: what is built from the configuration, in which order it starts, and in which it stops.
//!
//! Build binds and locks everything that can fail; run serves. A shutdown is a drain within a deadline:
//! the socket closes, Mounts under way finish, the journal is written. It revokes nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client};
use rustix::process::DumpableBehavior;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use crate::admin::{self, Pending, Readiness};
use crate::clock::{BootClock, Clock};
use crate::config::{Config, TokenRequest};
use crate::events;
use crate::metrics::Metrics;
use crate::missing::{self, Missing};
use crate::mount::{Mounter, Parts};
use crate::paths::{self, Sight};
use crate::pods;
use crate::provider::Provider;
use crate::provider::socket::{Socket, SocketError};
use crate::registry::journal::{Journal, OpenError};
use crate::registry::notice::Notices;
use crate::registry::{self, Registry};
use crate::service_account::TokenMinter;
use crate::spec::VolumeId;
use crate::vault::{self, Redirects, Vault};
use crate::version_key::{self, VersionKey};

/// Within what time the pods are watched again after a first failure.
const POD_RETRY: Duration = Duration::from_secs(5);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The state directory was asked for by name and cannot be used.
    #[error(transparent)]
    State(#[from] OpenError),
    /// The socket cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The health server's address cannot be served.
    #[error("health address {address}: {source}")]
    Health {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kubeconfig that was given cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
}

/// Why a running daemon stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The gRPC server broke.
    #[error("the gRPC server broke: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The registry's worker ended though nobody asked it to.
    #[error("the registry's worker broke down; the journal has what it held")]
    Worker,
    /// The drain's deadline passed.
    #[error("the drain took longer than its deadline; the journal has what was finished")]
    Deadline,
}

/// A daemon that is ready to run: everything that can be refused has been granted.
pub struct App {
    config: Config,
    metrics: Metrics,
    readiness: Readiness,
    serving: Pending,
    health: Option<TcpListener>,
    socket: Socket,
    registry: Registry,
    worker: JoinHandle<()>,
    looks: mpsc::UnboundedReceiver<VolumeId>,
    sight: Sight,
    mounter: Arc<Mounter>,
    background: JoinSet<()>,
}

impl App {
    /// Takes the state directory, replays the journal, and binds socket and health address.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        // kube's client asks for the process' own; fails where a test or an earlier build has said it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for note in &config.notes {
            warn!("{note}");
        }
        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let serving = readiness.pending("socket");
        let replaying = readiness.pending("journal");
        let health = bind_health(&config).await?;
        let journal = open_journal(&config, &metrics)?;
        // Before the registry starts: a second daemon must not renew what the first one holds.
        let socket = Socket::bind(&config.endpoint).await?;
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let vault = Vault::new(vault_settings(&config), Arc::clone(&clock), metrics.clone());
        let keeper = Arc::new(vault.clone());
        let settings = registry_settings(&config);
        let (notices, noticed) = Notices::channel(metrics.clone());
        let (registry, looks, worker) =
            Registry::start(settings, keeper, clock, journal, metrics.clone(), notices);
        drop(replaying);
        let mut background = JoinSet::new();
        let kubernetes = kubernetes(&config).await?;
        let versions = version_key(&config, kubernetes.as_ref(), &metrics, &mut background);
        if let Some(client) = &kubernetes {
            let own_pod = config.pod_name.clone();
            let published = events::publish(client.clone(), own_pod, noticed, metrics.clone());
            background.spawn(published);
        }
        match (&kubernetes, &config.node_name) {
            (Some(client), Some(node)) => {
                let (client, node) = (client.clone(), node.clone());
                let watched =
                    pods::watch(client, node, registry.clone(), metrics.clone(), POD_RETRY);
                background.spawn(watched);
            }
            (Some(_), None) => Missing::node_name().tell(&metrics),
            (None, _) => {
                metrics.degraded("no_pod_watch", true);
                Missing::api_server().tell(&metrics);
            }
        }
        if !config.kubelet_pods_dir.is_dir() {
            Missing::pods_directory(&config.kubelet_pods_dir).tell(&metrics);
        }
        if let Some(client) = &kubernetes {
            let namespace = namespace(&config, client);
            let secret = config.hmac_secret_name.clone();
            let asked = missing::rights(client.clone(), namespace, secret, metrics.clone());
            background.spawn(asked);
        }
        let minter = kubernetes
            .filter(|_| config.token_request == TokenRequest::Auto)
            .map(TokenMinter::new);
        let sight = Sight::new(&path_settings(&config));
        let mounter = Mounter::new(Parts {
            registry: registry.clone(),
            vault,
            versions,
            sight: sight.clone(),
            minter,
            retry_for: config.mount_retry_timeout,
        });
        Ok(Self {
            config,
            metrics,
            readiness,
            serving,
            health,
            socket,
            registry,
            worker: tokio::spawn(worker),
            looks,
            sight,
            mounter,
            background,
        })
    }

    /// Where the health server listens.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref()?.local_addr().ok()
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// The server broke, the worker ended, or the drain's deadline passed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let mut background = self.background;
        if let Some(listener) = self.health {
            let (readiness, metrics) = (self.readiness.clone(), self.metrics.clone());
            background.spawn(admin::serve(listener, readiness, metrics));
        }
        background.spawn(paths::watch(
            path_settings(&self.config),
            self.sight,
            self.registry.clone(),
            self.looks,
            self.metrics.clone(),
        ));
        let (closing, mut closed) = watch::channel(false);
        let defaults = self.config.defaults.clone();
        let policy = self.config.policy.clone();
        let provider = Provider::new(Arc::clone(&self.mounter), defaults, policy, self.metrics);
        let server = provider.serve(self.socket, async move {
            // Fails when the sender is gone, which means the same.
            let _ = closed.wait_for(|closing| *closing).await;
        });
        let mut server = std::pin::pin!(server);
        info!(endpoint = %self.config.endpoint.display(), provider = self.config.flavour.name(), version = env!("CARGO_PKG_VERSION"), "serving");
        drop(self.serving);
        let mut worker = self.worker;
        tokio::select! {
            () = shutdown => {}
            served = &mut server => return Ok(served?),
            _ = &mut worker => return Err(RunError::Worker),
        }
        info!("shutting down: Mounts under way are finished, nothing is revoked");
        let _draining = self.readiness.pending("draining");
        closing.send_replace(true);
        // What is left of the time is for the journal, also where a driver that has stopped reading keeps its
        // connection open.
        let timeout = self.config.shutdown_timeout;
        let drain = async {
            let mounts = self.mounter.drain(timeout.mul_f64(0.8));
            let served = async { tokio::join!(server, mounts).0 };
            let served = tokio::time::timeout(timeout.mul_f64(0.9), served).await;
            self.registry.stop().await;
            if worker.await.is_err() {
                error!("the registry's worker broke down at the end");
            }
            served.unwrap_or_else(|_| {
                warn!("a driver's connection did not end; it is cut");
                Ok(())
            })
        };
        let drained = tokio::time::timeout(timeout, drain).await;
        background.shutdown().await;
        Ok(drained.map_err(|_| RunError::Deadline)??)
    }
}

/// Comes back at SIGTERM or SIGINT. A second one ends the process at once.
pub async fn terminated() {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        warn!(
            "signals cannot be caught: the daemon ends only by SIGKILL, which its journal survives"
        );
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("a second signal: ended at once");
        std::process::exit(1);
    });
}

/// Forbids core dumps and ptrace by others: the process' memory is full of secrets.
///
/// # Errors
/// The kernel refuses.
pub fn harden() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

async fn bind_health(config: &Config) -> Result<Option<TcpListener>, BuildError> {
    let Some(address) = &config.health_addr else {
        return Ok(None);
    };
    let bound = match TcpListener::bind(address).await {
        // A node without IPv6: every address then means every IPv4 one.
        Err(_) if address.starts_with("[::]:") => {
            TcpListener::bind(address.replacen("[::]", "0.0.0.0", 1)).await
        }
        bound => bound,
    };
    let failed = |source| BuildError::Health {
        address: address.clone(),
        source,
    };
    let listener = bound.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    info!(%address, "health and metrics are served");
    Ok(Some(listener))
}

fn open_journal(config: &Config, metrics: &Metrics) -> Result<Journal, BuildError> {
    match Journal::open(
        &config.state_dir,
        config.state_quota,
        config.allow_disk_state_dir,
    ) {
        Ok(journal) => Ok(journal),
        Err(fault @ OpenError::Locked { .. }) => Err(fault.into()),
        Err(fault) if config.state_dir_given => Err(fault.into()),
        Err(fault) => {
            Missing::journal(&config.state_dir, &fault).tell(metrics);
            Ok(Journal::none())
        }
    }
}

fn registry_settings(config: &Config) -> registry::Settings {
    registry::Settings {
        confirm: config.path_confirm,
        drain: config.drain_after,
        park: config.park,
        poll: config.poll_interval,
        rate: config.renew_rate,
        look_up: config.lookup_interval,
        ..registry::Settings::default()
    }
}

fn vault_settings(config: &Config) -> vault::Settings {
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
        keeping_in_flight: config.renew_concurrency,
        keeping_rate: config.renew_rate,
        ..usual
    }
}

fn path_settings(config: &Config) -> paths::Settings {
    paths::Settings {
        pods_dir: config.kubelet_pods_dir.clone(),
        own_pod_uid: config.pod_uid.clone(),
        interval: config.path_check_interval,
        confirm: config.path_confirm,
    }
}

/// A client of the cluster we run in, or of the one that a kubeconfig names; none outside of one.
async fn kubernetes(config: &Config) -> Result<Option<Client>, BuildError> {
    let cluster = match &config.kubeconfig {
        None => kube::Config::incluster().ok(),
        Some(path) => {
            let options = KubeConfigOptions::default();
            let read = async {
                let kubeconfig = Kubeconfig::read_from(path)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await
            };
            Some(read.await.map_err(|source| BuildError::Kubeconfig {
                path: path.clone(),
                source,
            })?)
        }
    };
    Ok(cluster.and_then(|cluster| match Client::try_from(cluster) {
        Ok(client) => Some(client),
        Err(error) => {
            warn!(%error, "the API server's client cannot be made: the daemon runs without it");
            None
        }
    }))
}

/// The namespace that we run in.
fn namespace(config: &Config, client: &Client) -> String {
    let usual = || client.default_namespace().to_owned();
    config.pod_namespace.clone().unwrap_or_else(usual)
}

fn version_key(
    config: &Config,
    kubernetes: Option<&Client>,
    metrics: &Metrics,
    background: &mut JoinSet<()>,
) -> VersionKey {
    let Some(client) = kubernetes else {
        return VersionKey::own(metrics.clone());
    };
    let (key, publisher) = VersionKey::shared(metrics.clone());
    let namespace = namespace(config, client);
    let secrets: Api<SecretObject> = Api::namespaced(client.clone(), &namespace);
    let name = config.hmac_secret_name.clone();
    background.spawn(version_key::keep(secrets, name, publisher));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_leaves_no_core() {
        harden().unwrap();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
