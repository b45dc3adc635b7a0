//! The gRPC edge: `v1alpha1.CSIDriverProvider` on a Unix socket, as every driver from 1.0 to 1.6 calls it.
//!
//! Unpacks a message, has it parsed and mounted, and packs the answer. No decision is taken here.

mod answer;
pub mod authority;
mod deadline;
pub mod proto;
pub mod socket;
pub mod status;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tower::util::MapResponseLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::mount::Mounter;
use crate::params::{self, Attributes, Defaults};
use crate::policy::Policy;
use crate::spec::MountSpec;
use authority::AnyAuthority;
use proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};

/// The protocol's version, as driver and incumbents name it.
const PROTOCOL: &str = "v1alpha1";
/// The name that the driver logs at its health checks.
const RUNTIME_NAME: &str = "leasehold";
/// Requests in hand at once. Those above wait, unread: their bodies take no memory.
const REQUESTS_AT_ONCE: usize = 1024;
/// A request above this is large, in bytes: what is made of it takes several times as much.
const LARGE_REQUEST: usize = 64 * 1024;
/// Large requests in hand at once.
const LARGE_AT_ONCE: usize = 4;
/// How many warnings are remembered as told.
const REMEMBERED: usize = 4096;
/// The largest request: attributes and secrets are bounded to 1 MiB each when they are parsed.
const LARGEST_REQUEST: usize = 3 * 1024 * 1024;

/// The service.
#[derive(Clone)]
pub struct Provider {
    mounter: Arc<Mounter>,
    defaults: Arc<Defaults>,
    policy: Arc<Policy>,
    metrics: Metrics,
    /// Warnings that were told already: a class is parsed at every poll of every pod.
    told: Arc<Mutex<HashSet<String>>>,
    /// Places for large requests.
    large: Arc<Semaphore>,
}

impl Provider {
    /// A service over a mounter. `defaults` holds for what a class leaves out, `policy` bounds what it says.
    #[must_use]
    pub fn new(
        mounter: Arc<Mounter>,
        defaults: Defaults,
        policy: Policy,
        metrics: Metrics,
    ) -> Self {
        Self {
            mounter,
            defaults: Arc::new(defaults),
            policy: Arc::new(policy),
            metrics,
            told: Arc::default(),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
        }
    }

    /// Serves until `shutdown`, then until the requests in hand are answered.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn serve(
        self,
        incoming: impl Stream<Item = std::io::Result<UnixStream>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let closing = CancellationToken::new();
        let shutdown = {
            let closing = closing.clone();
            async move {
                shutdown.await;
                closing.cancel();
            }
        };
        let incoming = incoming
            .map(move |accepted| accepted.map(|stream| AnyAuthority::new(stream, &closing)));
        let service = CsiDriverProviderServer::new(self).max_decoding_message_size(LARGEST_REQUEST);
        tonic::transport::Server::builder()
            .layer(tower::limit::GlobalConcurrencyLimitLayer::new(
                REQUESTS_AT_ONCE,
            ))
            .layer(CatchPanicLayer::new())
            .layer(MapResponseLayer::new(answer::until_sent))
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await
    }

    fn tell(&self, spec: &MountSpec, warnings: &[String]) {
        for warning in warnings {
            let namespace = &spec.pod.namespace;
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() >= REMEMBERED {
                told.clear();
            }
            if told.insert(format!("{namespace}/{}: {warning}", spec.class)) {
                warn!(namespace, class = spec.class, warning);
            }
        }
    }

    async fn mounted(
        &self,
        request: &MountRequest,
        within: Duration,
    ) -> Result<Response<MountResponse>, Status> {
        let size = request.attributes.len() + request.secrets.len();
        let _place = if size > LARGE_REQUEST {
            self.large.acquire().await.ok()
        } else {
            None
        };
        let attributes = Attributes {
            attributes: &request.attributes,
            secrets: &request.secrets,
            target_path: &request.target_path,
            permission: &request.permission,
        };
        let parsed = params::parse(&attributes, &self.defaults);
        let parsed = parsed.map_err(|faults| {
            warn!(target_path = request.target_path, %faults, warnings = ?faults.warnings, "request refused");
            status::of_faults(&faults)
        })?;
        self.tell(&parsed.spec, &parsed.warnings);
        self.policy.check(&parsed.spec).map_err(|violation| {
            let (namespace, class) = (&parsed.spec.pod.namespace, &parsed.spec.class);
            warn!(namespace, class, %violation, "request refused");
            status::of_violation(&violation)
        })?;
        let outcome = self.mounter.mount(parsed.spec, parsed.tokens, within).await;
        match outcome.as_ref() {
            Ok(mounted) => Ok(answer::of(&outcome, mounted)),
            Err(error) => Err(status::of_mount(error)),
        }
    }
}

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: PROTOCOL.to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let started = Instant::now();
        let within = deadline::answer_within(request.metadata());
        let result = self.mounted(request.get_ref(), within).await;
        let code = result.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.metrics.mount(&format!("{code:?}"), started.elapsed());
        debug!(code = ?code, seconds = started.elapsed().as_secs_f64(), "Mount answered");
        result
    }
}
