//! The client of HashiCorp Vault and OpenBao: logs in as a pod, reads, and keeps what was given alive.
//!
//! It meets the registry through [`LeaseKeeper`] alone. Calls that keep or end things have places of
//! their own at each address, so that they never queue behind Mounts.

mod api;
mod bare;
mod breaker;
mod classify;
mod connect;
mod connections;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gates;
mod lifetime;
mod look_up;
mod pools;
mod raw;
mod read;
mod redirect;
mod request;
mod room;
mod tenant;
mod tls;
mod transport;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tracing::warn;

use self::breaker::{Breakers, Sign};
use self::gates::Gates;
use self::pools::Pools;
use self::room::Rooms;

pub use self::error::{VaultError, VaultErrorKind};
pub use self::redirect::Redirects;
pub use self::room::Room;
pub use self::transport::Cache;
use self::transport::Transport;
use crate::clock::{Clock, Moment};
use crate::grant::{Grant, KeepError, LeaseKeeper, Renewal, Revoked, Session, Term};
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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            login_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(180),
            mounts_in_flight: 64,
            health_timeout: Duration::from_secs(3),
            proxies: Proxies::default(),
            redirects: Redirects::default(),
            max_connection_age: Duration::from_secs(120),
            max_connections: 1024,
            refresh: Duration::from_secs(3600),
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
    breakers: Breakers,
    /// The places for Mounts' calls.
    gates: Gates,
    /// The memory for what they read.
    rooms: Arc<Rooms>,
}

impl Vault {
    /// A client without connections: they are made when they are needed.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            breakers: Breakers::new(settings.request_timeout, metrics.clone()),
            transport: Transport::new(
                settings.request_timeout,
                settings.redirects.clone(),
                Pools::new(
                    settings.connect_timeout,
                    settings.max_connection_age,
                    settings.proxies.clone(),
                    settings.max_connections,
                ),
            ),
            gates: Gates::new(settings.mounts_in_flight),
            rooms: Rooms::new(),
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
        let gates = &self.0.gates;
        let _place = gates
            .enter(&endpoint.address, tenant(service_account), &path)
            .await;
        self.admitted(endpoint, &api::login_name(login))?;
        let sent = self.0.clock.now();
        let timeout = self.0.settings.login_timeout;
        let call = api::login(&self.0.transport, endpoint, login, jwt, timeout, cache);
        let given = self
            .timed(endpoint, tenant(service_account), "login", call)
            .await?;
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
            term: Term {
                sent: sent.minus(given.age),
                granted: given.granted,
            },
        })
    }

    /// The room for what one Mount reads, of a pod in this namespace. It is the Mount's to keep until its
    /// answer is on the wire.
    #[must_use]
    pub fn room(&self, namespace: &str) -> Arc<Room> {
        self.0.rooms.of(namespace)
    }

    /// Reads once, under a session.
    ///
    /// # Errors
    /// The server refuses, has nothing there, cannot be reached, or its reply cannot be used.
    pub async fn read(
        &self,
        session: &Session,
        request: &Request,
        room: &Room,
        cache: Cache,
    ) -> Result<Grant, VaultError> {
        let endpoint = &session.endpoint;
        let tenant = tenant(&session.service_account);
        let gates = &self.0.gates;
        let mut place = gates.enter(&endpoint.address, tenant, &request.path).await;
        self.admitted(endpoint, &read::name(request))?;
        let call = read::read(
            &self.0.transport,
            session,
            request,
            room,
            self.0.clock.now(),
            &self.0.settings,
            cache,
        );
        let call = self.timed(endpoint, tenant, "read", call);
        let mut call = std::pin::pin!(call);
        let usual = self.0.settings.request_timeout;
        match tokio::time::timeout(usual, &mut call).await {
            Ok(read) => read,
            Err(_) => {
                place.leave_address();
                call.await
            }
        }
    }

    /// Whether the server knows a session's token, after it has refused what the session asked for.
    pub async fn token_state(&self, session: &Session) -> TokenState {
        let endpoint = &session.endpoint;
        let path = "auth/token";
        let tenant = tenant(&session.service_account);
        let _place = self.0.gates.enter(&endpoint.address, tenant, path).await;
        if self
            .admitted(endpoint, "GET auth/token/lookup-self")
            .is_err()
        {
            return TokenState::Unknown;
        }
        let patience = self.0.settings.request_timeout;
        let call = look_up::token(&self.0.transport, endpoint, &session.token, patience);
        match self.timed(endpoint, tenant, "lookup_token", call).await {
            Ok(()) => TokenState::Alive,
            Err(error) if error.is_dead_token() => TokenState::Dead,
            // A dead token has no policies that could be missing.
            Err(error) if error.kind() == VaultErrorKind::Denied => TokenState::Alive,
            Err(_) => TokenState::Unknown,
        }
    }

    /// Leave to ask a server, which may be away. A Mount that is refused costs neither time nor a place.
    fn admitted(&self, endpoint: &Endpoint, call: &str) -> Result<(), VaultError> {
        let now = self.0.clock.now();
        let admitted = self.0.breakers.admit(&endpoint.address, None, now);
        admitted.map_err(|(until, since)| {
            VaultError::away(
                api::asked(call, endpoint),
                now.since(since),
                until.since(now),
            )
        })
    }

    /// How long a renewal's or revocation's answer is waited for: never longer than any other call's.
    fn patience(&self, asked: Duration) -> Duration {
        asked.min(self.0.settings.request_timeout)
    }

    /// Tells the breaker what a call has shown.
    async fn observe(&self, endpoint: &Endpoint, sign: Sign) {
        let address = &endpoint.address;
        let sign = if sign == Sign::Unclear {
            self.cleared_up(endpoint).await
        } else {
            sign
        };
        let now = self.0.clock.now();
        self.0.breakers.note(address, sign, now, rand::random());
    }

    async fn cleared_up(&self, endpoint: &Endpoint) -> Sign {
        let now = self.0.clock.now();
        let known = self.0.breakers.checked(&endpoint.address, now);
        let well = match known {
            Some(well) => well,
            None => {
                let check = api::healthy(&self.0.transport, endpoint);
                let check = tokio::time::timeout(self.0.settings.health_timeout, check).await;
                let well = check.unwrap_or(false);
                let now = self.0.clock.now();
                self.0.breakers.remember(&endpoint.address, well, now);
                well
            }
        };
        if well {
            Sign::Well
        } else {
            Sign::Unwell { retry_after: None }
        }
    }

    async fn timed<T>(
        &self,
        endpoint: &Endpoint,
        tenant: &str,
        operation: &'static str,
        call: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        let started = Instant::now();
        let result = tenant::on_behalf_of(tenant, call).await;
        let status = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error
                .status()
                .map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        self.0
            .metrics
            .vault_call(operation, &status, started.elapsed());
        let sign = result.as_ref().err().map_or(Sign::Well, classify::sign);
        self.observe(endpoint, sign).await;
        result
    }
}

/// Whose calls share a place: the namespace of `namespace/name`.
fn tenant(service_account: &str) -> &str {
    let (namespace, _) = service_account
        .split_once('/')
        .unwrap_or((service_account, ""));
    namespace
}

impl LeaseKeeper for Vault {
    fn admit(&self, address: &str, end: Moment) -> Result<(), Moment> {
        let now = self.0.clock.now();
        let admitted = self.0.breakers.admit(address, Some(end), now);
        admitted.map_err(|(until, _)| until)
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
            let renewed = vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "renew_token",
                    call,
                )
                .await;
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
            let renewed = vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "renew_lease",
                    call,
                )
                .await;
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
            let found = vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "lookup_token",
                    call,
                )
                .await;
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
            let found = vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "lookup_lease",
                    call,
                )
                .await;
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
            match vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "revoke_token",
                    call,
                )
                .await
            {
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
            match vault
                .timed(
                    endpoint,
                    tenant(&session.service_account),
                    "revoke_lease",
                    call,
                )
                .await
            {
                Ok(()) => Ok(Revoked::Accepted),
                Err(error) => classify::revocation(&error),
            }
        })
    }
}
