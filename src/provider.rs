//! The gRPC edge: `v1alpha1.CSIDriverProvider` on a Unix socket, as every driver from 1.0 to 1.6 calls it.
//!
//! Unpacks a message, has it parsed and mounted, and packs the answer. No decision is taken here.

mod admission;
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
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tower::util::{MapRequestLayer, MapResponseLayer};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, warn};

use crate::blocking::BlockingError;
use crate::metrics::Metrics;
use crate::mount::Mounter;
use crate::params::{self, Attributes, Defaults, Parsed};
use crate::policy::Policy;
use crate::spec::MountSpec;
use admission::{Admission, Asked};
use authority::AnyAuthority;
use proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};

/// The protocol's version, as driver and incumbents name it.
const PROTOCOL: &str = "v1alpha1";
/// The name that the driver logs at its health checks.
const RUNTIME_NAME: &str = "leasehold";
/// Requests in hand at once. Those above wait, unread: their bodies take no memory.
const REQUESTS_AT_ONCE: usize = 1024;
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
        let memory = self.mounter.memory().clone();
        let admitted = move |request| admission::admitted(&memory, request);
        let service = CsiDriverProviderServer::new(self).max_decoding_message_size(LARGEST_REQUEST);
        tonic::transport::Server::builder()
            .initial_stream_window_size(admission::STREAM_WINDOW)
            .initial_connection_window_size(admission::CONNECTION_WINDOW)
            .layer(tower::limit::GlobalConcurrencyLimitLayer::new(
                REQUESTS_AT_ONCE,
            ))
            .layer(CatchPanicLayer::new())
            .layer(MapResponseLayer::new(answer::until_sent))
            .layer(MapRequestLayer::new(admitted))
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

    /// Parses a request; a large one off the runtime's threads.
    async fn parsed(
        &self,
        request: MountRequest,
        asked: Option<&Asked>,
        within: Duration,
    ) -> Result<Parsed, Status> {
        let defaults = Arc::clone(&self.defaults);
        let parse = move || {
            let attributes = Attributes {
                attributes: &request.attributes,
                secrets: &request.secrets,
                target_path: &request.target_path,
                permission: &request.permission,
            };
            let parsed = params::parse(&attributes, &defaults);
            parsed.map_err(|faults| {
                warn!(target_path = request.target_path, %faults, warnings = ?faults.warnings, "request refused");
                status::of_faults(&faults)
            })
        };
        let Some(asked) = asked else {
            return parse();
        };
        let parsed = self.mounter.processor().run(asked.memory.tenant(), parse);
        match tokio::time::timeout(within, parsed).await {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(error)) => Err(status::of_parsing(&error)),
            Err(_) => Err(status::of_parsing(&BlockingError::TimedOut(within))),
        }
    }

    async fn mounted(
        &self,
        request: MountRequest,
        mut asked: Option<Asked>,
        within: Duration,
    ) -> Result<Response<MountResponse>, Status> {
        let started = Instant::now();
        let size = request.attributes.len();
        let parsed = self.parsed(request, asked.as_ref(), within).await?;
        if let Some(asked) = &mut asked {
            asked.parsed(size);
        }
        self.tell(&parsed.spec, &parsed.warnings);
        self.policy.check(&parsed.spec).map_err(|violation| {
            let (namespace, class) = (&parsed.spec.pod.namespace, &parsed.spec.class);
            warn!(namespace, class, %violation, "request refused");
            status::of_violation(&violation)
        })?;
        let within = within.saturating_sub(started.elapsed());
        let asked = asked.map(|asked| (asked.memory, asked.reserved));
        let (spec, tokens) = (parsed.spec, parsed.tokens);
        let outcome = self.mounter.mount(spec, tokens, asked, within).await;
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
        let admission = request.extensions().get::<Admission>();
        let waited = admission.map(Admission::waited).unwrap_or_default();
        let asked = admission.and_then(Admission::take);
        let within = deadline::answer_within(request.metadata()).saturating_sub(waited);
        let result = self.mounted(request.into_inner(), asked, within).await;
        let code = result.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.metrics.mount(&format!("{code:?}"), started.elapsed());
        debug!(code = ?code, seconds = started.elapsed().as_secs_f64(), "Mount answered");
        result
    }
}
