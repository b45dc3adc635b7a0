//! The wiring: what is built from the configuration, in which order it starts, and in which it stops.
//!
//! Build binds and locks everything that can fail; run serves. A shutdown is a drain within a deadline:
//! the socket closes, Mounts under way finish, the journal is written. It revokes nothing.

mod health;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client};
use rustix::process::DumpableBehavior;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{info, warn};

pub use self::settings::raise_open_files;
use self::settings::{path_settings, registry_settings, vault_settings};
use crate::admin::{self, Health, Pending, Readiness};
use crate::blocking::BlockingPool;
use crate::clock::{BootClock, Clock};
use crate::config::{Config, TokenRequest};
use crate::events;
use crate::liveness::Watchdog;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::missing::{self, Missing};
use crate::mount::{Mounter, Parts};
use crate::paths::Sight;
use crate::pods;
use crate::provider::Provider;
use crate::provider::socket::{Socket, SocketError};
use crate::registry::Registry;
use crate::registry::journal::{Journal, OpenError};
use crate::registry::notice::Notices;
use crate::service_account::TokenMinter;
use crate::spec::VolumeId;
use crate::supervisor::{Required, Supervisor, TaskEnded};
use crate::vault::Vault;
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
    /// The gRPC server ended though nobody asked it to.
    #[error("the gRPC server ended by itself: the process ends, so that it is started anew")]
    Served,
    /// The registry's worker ended though nobody asked it to. The journal has what it held.
    #[error(transparent)]
    Task(#[from] TaskEnded),
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
    health: Option<admin::Server>,
    watchdog: Watchdog,
    socket: Socket,
    registry: Registry,
    worker: Required,
    looks: mpsc::UnboundedReceiver<VolumeId>,
    sight: Sight,
    mounter: Arc<Mounter>,
    supervisor: Supervisor,
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
        let watchdog = Watchdog::new(metrics.clone());
        let health = Health {
            readiness: readiness.clone(),
            watchdog: watchdog.clone(),
            metrics: metrics.clone(),
        };
        // Before the journal is replayed: a probe that nobody answers meanwhile would end the process.
        let health = health::serve_health(&config, health).await?;
        let journal = open_journal(&config, &metrics)?;
        // Before the registry starts: a second daemon must not renew what the first one holds.
        let socket = Socket::bind(&config.endpoint).await?;
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let processor = BlockingPool::for_processor();
        let settings = vault_settings(&config, &processor);
        let vault = Vault::new(settings, Arc::clone(&clock), metrics.clone());
        let keeper = Arc::new(vault.clone());
        let settings = registry_settings(&config);
        let (notices, noticed) = Notices::channel(metrics.clone());
        let (registry, looks, worker) =
            Registry::start(settings, keeper, clock, journal, metrics.clone(), notices);
        drop(replaying);
        let mut supervisor = Supervisor::new(metrics.clone());
        let worker = supervisor.require("registry-worker", worker);
        let kubernetes = kubernetes(&config).await?;
        let versions = version_key(&config, kubernetes.as_ref(), &metrics, &mut supervisor);
        if let Some(client) = &kubernetes {
            let (client, own_pod) = (client.clone(), config.pod_name.clone());
            let (noticed, metrics) = (Arc::new(Mutex::new(noticed)), metrics.clone());
            // It ends with the registry.
            supervisor.complete("events", move || {
                let (client, own_pod) = (client.clone(), own_pod.clone());
                let (noticed, metrics) = (Arc::clone(&noticed), metrics.clone());
                async move {
                    events::publish(client, own_pod, &mut *noticed.lock().await, metrics).await
                }
            });
        }
        match (&kubernetes, &config.node_name) {
            (Some(client), Some(node)) => {
                let (client, node) = (client.clone(), node.clone());
                let own = config.pod_uid.clone();
                let (registry, metrics) = (registry.clone(), metrics.clone());
                supervisor.keep("pod-watch", move || {
                    pods::watch(
                        client.clone(),
                        node.clone(),
                        own.clone(),
                        registry.clone(),
                        metrics.clone(),
                        POD_RETRY,
                    )
                });
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
            let (client, namespace) = (client.clone(), namespace(&config, client));
            let (secret, metrics) = (config.hmac_secret_name.clone(), metrics.clone());
            supervisor.complete("rights-check", move || {
                missing::rights(
                    client.clone(),
                    namespace.clone(),
                    secret.clone(),
                    metrics.clone(),
                    missing::AGAIN_WHILE_MISSING,
                )
            });
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
            timeout: config.mount_timeout,
            memory: MemoryBudget::default(),
            processor,
        });
        Ok(Self {
            config,
            metrics,
            readiness,
            serving,
            health,
            watchdog,
            socket,
            registry,
            worker,
            looks,
            sight,
            mounter,
            supervisor,
        })
    }

    /// Where the health server listens.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(admin::Server::address)
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// The server broke or ended, the worker ended, or the drain's deadline passed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let mut supervisor = self.supervisor;
        health::watch_over(&mut supervisor, &self.watchdog, &self.registry);
        health::watch_paths(
            &mut supervisor,
            &self.watchdog,
            path_settings(&self.config),
            self.looks,
            (self.sight, self.registry.clone(), self.metrics.clone()),
        );
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
            served = &mut server => {
                served?;
                return Err(RunError::Served);
            }
            ended = worker.failed() => return Err(ended.into()),
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
            worker.finished().await;
            served.unwrap_or_else(|_| {
                warn!("a driver's connection did not end; it is cut");
                Ok(())
            })
        };
        let drained = tokio::time::timeout(timeout, drain).await;
        supervisor.shutdown().await;
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

fn open_journal(config: &Config, metrics: &Metrics) -> Result<Journal, BuildError> {
    match Journal::open(&config.state_dir, config.allow_disk_state_dir) {
        Ok(journal) => Ok(journal),
        Err(fault @ OpenError::Locked { .. }) => Err(fault.into()),
        Err(fault) if config.state_dir_given => Err(fault.into()),
        Err(fault) => {
            Missing::journal(&config.state_dir, &fault).tell(metrics);
            Ok(Journal::none())
        }
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
    supervisor: &mut Supervisor,
) -> VersionKey {
    let Some(client) = kubernetes else {
        return VersionKey::own(metrics.clone());
    };
    let (key, publisher) = VersionKey::shared(metrics.clone());
    let namespace = namespace(config, client);
    let secrets: Api<SecretObject> = Api::namespaced(client.clone(), &namespace);
    let name = config.hmac_secret_name.clone();
    supervisor.keep("version-key", move || {
        let timing = version_key::Timing::default();
        version_key::keep(secrets.clone(), name.clone(), publisher.clone(), timing)
    });
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
