//! The client of HashiCorp Vault and OpenBao: logs in as a pod, reads, and keeps what was given alive.
//!
//! It meets the registry through [`LeaseKeeper`] alone. Calls that keep or end things have places of
//! their own at each address, so that they never queue behind Mounts.

mod api;
mod bare;
mod classify;
mod connect;
mod connections;
mod dispatcher;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod health;
mod lifetime;
mod look_up;
mod pools;
mod raw;
mod read;
mod redirect;
mod request;
mod tenant;
mod tls;
mod transport;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tracing::warn;

use self::dispatcher::{Class, Dispatcher, Limits, Permit, Waiter};
use self::health::{HealthSignal, Scope};
use self::pools::Pools;

pub use self::error::{VaultError, VaultErrorKind};
pub use self::read::Read;
pub use self::redirect::Redirects;
pub use self::tls::TlsFiles;
pub use self::transport::Cache;
use self::transport::Transport;
use crate::blocking::BlockingPool;
use crate::clock::{Clock, Moment};
use crate::grant::{
    Admitted, KeepError, LeaseKeeper, PlannedCall, Purpose, Renewal, Revoked, Session, Term,
};
use crate::memory::MountMemory;
use crate::metrics::Metrics;
use crate::proxy::Proxies;
use crate::redacted::Secret;
use crate::spec::{Endpoint, Login, Request};

/// Bounds of the client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For a connection with its TLS handshake.
    pub connect_timeout: Duration,
    /// For a call as a whole, but a login or a read.
    pub request_timeout: Duration,
    /// For a login: as long as the incumbents' client waits. One whose answer nobody awaits leaves a token that
    /// nobody revokes, at each attempt.
    pub login_timeout: Duration,
    /// For a read: an engine may have to make a cloud's principal first, which takes up to two minutes
    /// (Azure), and one whose answer nobody awaits would be made again at each attempt.
    pub read_timeout: Duration,
    /// Logins and reads under way at once, for each address.
    pub mounts_in_flight: usize,
    /// Renewals, revocations and look-ups under way at once, for each address.
    pub keeping_in_flight: usize,
    /// Renewals, revocations and look-ups started in a second, for each address.
    pub keeping_rate: u32,
    /// For a health check of a server whose answer leaves its health open.
    pub health_timeout: Duration,
    /// What stands before addresses.
    pub proxies: Proxies,
    /// Which redirects are followed.
    pub redirects: Redirects,
    /// How old a connection may grow before another is made in its place.
    pub max_connection_age: Duration,
    /// Connections at once, to all servers together; half of them for one tenant.
    pub max_connections: usize,
    /// How long the reply of a write without a life of its own is good.
    pub refresh: Duration,
    /// Which files of TLS settings are read.
    pub tls_files: TlsFiles,
    /// Where large replies are parsed.
    pub processor: BlockingPool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            login_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(180),
            mounts_in_flight: 64,
            keeping_in_flight: 16,
            keeping_rate: 50,
            health_timeout: Duration::from_secs(3),
            proxies: Proxies::default(),
            redirects: Redirects::default(),
            max_connection_age: Duration::from_secs(120),
            max_connections: 1024,
            refresh: Duration::from_secs(3600),
            tls_files: TlsFiles::default(),
            processor: BlockingPool::for_processor(),
        }
    }
}

/// What the server says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It knows it.
    Alive,
    /// It does not know it any more.
    Dead,
    /// It could not be asked.
    Unknown,
}

/// The client; clones share pools and bounds.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    settings: Settings,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    transport: Transport,
    dispatcher: Dispatcher,
}

impl Vault {
    /// A client without connections: they are made when they are needed.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            dispatcher: Dispatcher::new(
                Limits {
                    mounts: settings.mounts_in_flight,
                    keeping: settings.keeping_in_flight,
                    per_second: settings.keeping_rate,
                },
                settings.request_timeout,
                Arc::clone(&clock),
                metrics.clone(),
            ),
            transport: Transport::new(
                settings.request_timeout,
                settings.redirects.clone(),
                Pools::new(
                    settings.connect_timeout,
                    settings.max_connection_age,
                    settings.proxies.clone(),
                    settings.max_connections,
                    settings.tls_files.clone(),
                ),
            ),
            settings,
            clock,
            metrics,
        }))
    }

    /// Logs in once: a repetition could leave a token behind that nobody knows.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or its address or TLS settings cannot be used.
    pub async fn login(
        &self,
        endpoint: &Endpoint,
        login: &Login,
        service_account: &str,
        jwt: &Secret,
        cache: Cache,
    ) -> Result<Session, VaultError> {
        let path = format!("auth/{}", login.mount);
        let scope = Scope::new(
            tenant(service_account),
            endpoint.namespace.as_deref(),
            &path,
        );
        let _permit = self.permit(endpoint, &scope).await;
        self.admitted(endpoint, &scope, &api::login_name(login))?;
        let sent = self.0.clock.now();
        let timeout = self.0.settings.login_timeout;
        let call = api::login(&self.0.transport, endpoint, login, jwt, timeout, cache);
        let given = self.timed(endpoint, &scope, "login", call).await?;
        if !given.policies.iter().any(|policy| policy == "default") {
            warn!(
                role = login.role,
                mount = login.mount,
                "the role's tokens lack the `default` policy: unless another one grants renew-self, revoke-self and sys/leases/renew, nothing can be renewed or revoked"
            );
        }
        if given.uses > 0 {
            warn!(
                role = login.role,
                mount = login.mount,
                uses = given.uses,
                "the role's tokens may be used so often only: they are not renewed, each rotation poll logs in anew, and leased credentials change with it; set token_num_uses to 0"
            );
        }
        Ok(Session {
            id: hex::encode(rand::random::<[u8; 16]>()),
            endpoint: endpoint.clone(),
            login: login.clone(),
            service_account: service_account.to_owned(),
            token: given.token,
            accessor: given.accessor,
            kind: given.kind,
            policies: given.policies,
            renewable: given.renewable,
            counted: given.uses > 0,
            term: Term::aged(sent, given.age, given.granted),
        })
    }

    /// Reads once, under a session.
    ///
    /// # Errors
    /// The server refuses, has nothing there, cannot be reached, or its reply cannot be used.
    pub async fn read(
        &self,
        session: &Session,
        request: &Request,
        memory: &MountMemory,
        cache: Cache,
    ) -> Result<Read, VaultError> {
        let endpoint = &session.endpoint;
        let scope = scope(session, &request.path);
        let mut permit = self.permit(endpoint, &scope).await;
        self.admitted(endpoint, &scope, &read::name(request))?;
        let call = read::read(
            &self.0.transport,
            session,
            request,
            memory,
            self.0.clock.now(),
            &self.0.settings,
            cache,
        );
        let call = self.timed(endpoint, &scope, "read", call);
        let mut call = std::pin::pin!(call);
        let usual = self.0.settings.request_timeout;
        match tokio::time::timeout(usual, &mut call).await {
            Ok(read) => read,
            Err(_) => {
                permit.leave_address();
                call.await
            }
        }
    }

    /// Whether the server knows a session's token, after it has refused what the session asked for.
    pub async fn token_state(&self, session: &Session) -> TokenState {
        let endpoint = &session.endpoint;
        let scope = scope(session, TOKENS);
        let _permit = self.permit(endpoint, &scope).await;
        let name = "GET auth/token/lookup-self";
        if self.admitted(endpoint, &scope, name).is_err() {
            return TokenState::Unknown;
        }
        let patience = self.0.settings.request_timeout;
        let call = look_up::token(&self.0.transport, endpoint, &session.token, patience);
        match self.timed(endpoint, &scope, "lookup_token", call).await {
            Ok(()) => TokenState::Alive,
            Err(error) if error.is_dead_token() => TokenState::Dead,
            // A dead token has no policies that could be missing.
            Err(error) if error.kind() == VaultErrorKind::Denied => TokenState::Alive,
            Err(_) => TokenState::Unknown,
        }
    }

    /// A Mount's turn at an address.
    async fn permit(&self, endpoint: &Endpoint, scope: &Scope) -> Permit {
        let now = self.0.clock.now();
        let waiter = Waiter {
            scope: scope.clone(),
            class: Class::Mount,
            // First come, first served.
            end: now,
            urgent_from: Moment::NEVER,
        };
        let dispatcher = &self.0.dispatcher;
        dispatcher.permit(&endpoint.address, waiter).await
    }

    /// Leave to ask a server, which may be away. A Mount that is refused costs no time.
    fn admitted(&self, endpoint: &Endpoint, scope: &Scope, call: &str) -> Result<(), VaultError> {
        let admitted = self.0.dispatcher.admit(&endpoint.address, scope);
        admitted
            .map_err(|open| VaultError::away(api::asked(call, endpoint), open, self.0.clock.now()))
    }

    /// How long a renewal's or revocation's answer is waited for: never longer than any other call's.
    fn patience(&self, asked: Duration) -> Duration {
        asked.min(self.0.settings.request_timeout)
    }

    /// Tells the dispatcher what a call has shown, and asks the server about its health where that leaves it open.
    async fn observe(&self, endpoint: &Endpoint, scope: &Scope, signal: HealthSignal) {
        let (dispatcher, address) = (&self.0.dispatcher, &endpoint.address);
        if !dispatcher.note(address, scope, signal) {
            return;
        }
        if let Some(healthy) = dispatcher.last_check(address) {
            if healthy {
                dispatcher.checked(address, true);
            }
            return;
        }
        let check = api::healthy(&self.0.transport, endpoint);
        let check = tokio::time::timeout(self.0.settings.health_timeout, check).await;
        dispatcher.checked(address, check.unwrap_or(false));
    }

    async fn timed<T>(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        operation: &'static str,
        call: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        let started = Instant::now();
        let result = tenant::on_behalf_of(&scope.tenant, call).await;
        let status = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error
                .status()
                .map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        self.0
            .metrics
            .vault_call(operation, &status, started.elapsed());
        let error = result.as_ref().err();
        let signal = error.map_or(HealthSignal::Healthy, classify::signal);
        self.observe(endpoint, scope, signal).await;
        result
    }
}

/// The path of the calls for a session's own token.
const TOKENS: &str = "auth/token";

/// The scope of a call under a session.
fn scope(session: &Session, path: &str) -> Scope {
    let tenant = tenant(&session.service_account);
    Scope::new(tenant, session.endpoint.namespace.as_deref(), path)
}

/// Whose calls share a place: the namespace of `namespace/name`.
fn tenant(service_account: &str) -> &str {
    let (namespace, _) = service_account
        .split_once('/')
        .unwrap_or((service_account, ""));
    namespace
}

impl LeaseKeeper for Vault {
    fn admit(&self, call: PlannedCall) -> BoxFuture<'static, Admitted> {
        let vault = self.clone();
        Box::pin(async move {
            let path = call.lease_id.as_deref().unwrap_or(TOKENS);
            let waiter = Waiter {
                scope: scope(&call.session, path),
                class: match call.purpose {
                    Purpose::Renewal => Class::Renewal,
                    Purpose::Revocation => Class::Revocation,
                    Purpose::LookUp => Class::LookUp,
                },
                end: call.end,
                urgent_from: call.urgent_from,
            };
            let address = &call.session.endpoint.address;
            Admitted::holding(vault.0.dispatcher.permit(address, waiter).await)
        })
    }

    fn renew_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let (sent, patience) = (vault.0.clock.now(), vault.patience(patience));
            let (endpoint, token) = (&session.endpoint, &session.token);
            let call = api::renew_self(&vault.0.transport, endpoint, token, sent, patience);
            let scope = scope(&session, TOKENS);
            let renewed = vault.timed(endpoint, &scope, "renew_token", call).await;
            renewed.map_err(|error| classify::renewal(&error))
        })
    }

    fn renew_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Renewal, KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let (sent, patience) = (vault.0.clock.now(), vault.patience(patience));
            let transport = &vault.0.transport;
            let (endpoint, token) = (&session.endpoint, &session.token);
            let call = api::renew_lease(transport, endpoint, token, &lease_id, sent, patience);
            let scope = scope(&session, &lease_id);
            let renewed = vault.timed(endpoint, &scope, "renew_lease", call).await;
            renewed.map_err(|error| classify::renewal(&error))
        })
    }

    fn look_up_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let patience = vault.patience(patience);
            let (endpoint, token) = (&session.endpoint, &session.token);
            let call = look_up::token(&vault.0.transport, endpoint, token, patience);
            let scope = scope(&session, TOKENS);
            let found = vault.timed(endpoint, &scope, "lookup_token", call).await;
            found.map_err(|error| classify::look_up(&error))
        })
    }

    fn look_up_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let (endpoint, token) = (&session.endpoint, &session.token);
            let (transport, patience) = (&vault.0.transport, vault.patience(patience));
            let call = look_up::lease(transport, endpoint, token, &lease_id, patience);
            let scope = scope(&session, &lease_id);
            let found = vault.timed(endpoint, &scope, "lookup_lease", call).await;
            found.map_err(|error| classify::look_up(&error))
        })
    }

    fn revoke_session(
        &self,
        session: Arc<Session>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let patience = vault.patience(patience);
            let (endpoint, token) = (&session.endpoint, &session.token);
            let call = api::revoke_self(&vault.0.transport, endpoint, token, patience);
            let scope = scope(&session, TOKENS);
            match vault.timed(endpoint, &scope, "revoke_token", call).await {
                Ok(()) => Ok(Revoked::Accepted),
                Err(error) => classify::revocation(&error),
            }
        })
    }

    fn revoke_lease(
        &self,
        session: Arc<Session>,
        lease_id: String,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revoked, KeepError>> {
        let vault = self.clone();
        Box::pin(async move {
            let (endpoint, token) = (&session.endpoint, &session.token);
            let (transport, patience) = (&vault.0.transport, vault.patience(patience));
            let call = api::revoke_lease(transport, endpoint, token, &lease_id, patience);
            let scope = scope(&session, &lease_id);
            match vault.timed(endpoint, &scope, "revoke_lease", call).await {
                Ok(()) => Ok(Revoked::Accepted),
                Err(error) => classify::revocation(&error),
            }
        })
    }
}
