//! The health server, and the parts of the daemon whose progress it tells.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tracing::info;

use super::BuildError;
use crate::admin::{self, Health};
use crate::config::Config;
use crate::liveness::{Heartbeat, OnStall, Watchdog};
use crate::metrics::Metrics;
use crate::paths::{self, Sight};
use crate::registry::Registry;
use crate::spec::VolumeId;
use crate::supervisor::Supervisor;

/// How often the runtime shows that it makes progress.
const BEAT: Duration = Duration::from_secs(5);
/// After this, with nothing to show, they have stalled for good: a restart brings them back.
const STALLED_AFTER: Duration = Duration::from_secs(120);
/// A look at all paths takes milliseconds; one that hangs hides the ends of volumes.
const LOOK_STALLED_AFTER: Duration = Duration::from_secs(30);

pub async fn serve_health(
    config: &Config,
    health: Health,
) -> Result<Option<admin::Server>, BuildError> {
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
    let server = admin::Server::start(listener, health).map_err(failed)?;
    info!(address = %server.address(), "health and metrics are served");
    Ok(Some(server))
}

/// Lets the runtime and the registry's worker show that they make progress.
pub fn watch_over(supervisor: &mut Supervisor, watchdog: &Watchdog, registry: &Registry) {
    let worker = registry.heartbeat().clone();
    let progress = move || Some(worker.turns());
    watchdog.add("registry-worker", STALLED_AFTER, OnStall::Restart, progress);
    let runtime = Heartbeat::default();
    let beats = runtime.clone();
    let progress = move || beats.progress();
    watchdog.add("runtime", STALLED_AFTER, OnStall::Restart, progress);
    supervisor.keep("runtime-heartbeat", move || {
        let runtime = runtime.clone();
        async move {
            loop {
                runtime.beat();
                tokio::time::sleep(BEAT).await;
            }
        }
    });
}

/// Looks at the volumes' paths, and lets that show its progress.
pub fn watch_paths(
    supervisor: &mut Supervisor,
    watchdog: &Watchdog,
    settings: paths::Settings,
    looks: mpsc::UnboundedReceiver<VolumeId>,
    (sight, registry, metrics): (Sight, Registry, Metrics),
) {
    let (heartbeat, looks) = (Heartbeat::default(), Arc::new(Mutex::new(looks)));
    let beats = heartbeat.clone();
    let on_stall = OnStall::Degrade("path_watch_stalled");
    watchdog.add("path-watch", LOOK_STALLED_AFTER, on_stall, move || {
        beats.progress()
    });
    supervisor.keep("path-watch", move || {
        let (settings, sight, looks) = (settings.clone(), sight.clone(), Arc::clone(&looks));
        let (registry, heartbeat, metrics) = (registry.clone(), heartbeat.clone(), metrics.clone());
        async move {
            let mut looks = looks.lock().await;
            paths::watch(settings, sight, registry, &mut looks, &heartbeat, metrics).await;
        }
    });
}
