//! Connection pools: one per address and TLS setting, shared by all tokens.
//!
//! No connection is kept for ever. A node that was sealed or demoted behind a Service, a load balancer that
//! was changed, a name that points elsewhere since: an old connection would go on to the old place for as
//! long as it is used. So a pool is replaced as a whole when it has grown old, or when its server has shown
//! that it does not serve. Requests under way finish on the old one, which ends with the last of them.
//!
//! Tenants choose addresses, and a pool costs memory and file descriptors. Which pool has to go is decided by tenants:
//! a thousand addresses of one cost it its own pools, and nobody else's (`entries.rs`).
//!
//! The files of TLS settings are looked at and read off the runtime's threads, by one request at a time per
//! pool: a directory of thousands of files, or a file system that hangs, holds up its own users alone.

mod entries;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tracing::warn;

use self::entries::{Entries, Key, MOST_BYTES};
use super::connect::Connector;
use super::connections::Connections;
use super::tls::TlsFiles;
use super::transport::SendError;
use super::{tenant, tls};
use crate::blocking::BlockingPool;
use crate::proxy::Proxies;
use crate::spec::Tls;

/// What one reply, and all of a connection, may have on the way unread, in bytes: room for more replies than
/// there are places at an address.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// Settings whose files are read at once, of which a tenant has one: each may take several MiB while it is read.
const READINGS: usize = 4;
/// How long files are waited for. What hangs keeps its place until it comes back.
const READING: Duration = Duration::from_secs(10);

/// The connections to one address under one set of TLS settings.
pub struct Pool {
    pub client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    /// What a proxy wants to see in each request.
    pub proxy_authorization: Option<HeaderValue>,
    /// How many connections it has.
    open: Arc<AtomicUsize>,
}

/// The pools.
pub struct Pools(Arc<Inner>);

struct Inner {
    connect_timeout: Duration,
    max_age: Duration,
    proxies: Proxies,
    connections: Connections,
    files: TlsFiles,
    /// Where files are read that a class names: their file system may hang.
    reading: BlockingPool,
    /// Where pools are made without those.
    making: BlockingPool,
    entries: Mutex<Entries>,
}

impl Pools {
    /// No pool yet. Connections grow no older than `max_age`, and a pool whose files cannot be used any more
    /// serves for no longer than that. There are at most `most_connections` at once.
    pub fn new(
        connect_timeout: Duration,
        max_age: Duration,
        proxies: Proxies,
        most_connections: usize,
        files: TlsFiles,
    ) -> Self {
        Self(Arc::new(Inner {
            connect_timeout,
            max_age,
            proxies,
            connections: Connections::new(most_connections, connect_timeout),
            files,
            reading: BlockingPool::new(READINGS, 1, READING),
            making: BlockingPool::new(READINGS, READINGS / 2, READING),
            entries: Mutex::default(),
        }))
    }

    /// The pool of an address, made where there is none that may be used.
    ///
    /// # Errors
    /// The settings, or the files that they name, cannot be used.
    pub async fn get(&self, address: &str, settings: &Tls) -> Result<Arc<Pool>, SendError> {
        let key = (address.to_owned(), settings.clone());
        let tenant = tenant::current();
        let (now, scarce) = (
            Instant::now(),
            self.0.connections.are_scarce(tenant.as_ref()),
        );
        {
            let mut entries = self.0.locked();
            entries.used(&key, tenant.clone(), now);
            if scarce {
                entries.close_idle(&key, now);
            }
        }
        if let Some(outcome) = self.0.known(&key) {
            return outcome;
        }
        let turn = self.0.locked().entry(&key, now).turn();
        let turn = match Arc::clone(&turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => match self.0.in_use(&key) {
                // Another request looks at the files.
                Some(pool) => return Ok(pool),
                None => turn.lock_owned().await,
            },
        };
        let (inner, wanted) = (Arc::clone(&self.0), key.clone());
        let refresh = move || {
            // It may have waited for its turn.
            let known = inner.known(&wanted);
            let outcome = known.unwrap_or_else(|| inner.refresh(&wanted));
            // Not when the request gives up: the next one would start beside this.
            drop(turn);
            outcome
        };
        let by_class = has_files(&key) && !self.0.files.are_own(settings);
        let places = if by_class {
            &self.0.reading
        } else {
            &self.0.making
        };
        let refreshed = places.run(tenant.as_deref().unwrap_or_default(), refresh);
        match refreshed.await {
            Ok(outcome) => outcome,
            // The files were usable a moment ago.
            Err(error) => self.0.in_use(&key).ok_or_else(|| {
                SendError::Settings(format!(
                    "the certificates and keys that the TLS settings name were not read: {error}; see their file system on this node"
                ))
            }),
        }
    }

    /// Lets the next request dial anew, unless one has since: this pool's server takes no more requests.
    pub fn retire(&self, address: &str, settings: &Tls, pool: &Arc<Pool>) {
        self.replace(address, settings, |made, _| Arc::ptr_eq(made, pool));
    }

    /// Lets the next request dial anew, where the pool is of this age at least: a shorter one would cost a
    /// handshake with each request that meets the same trouble.
    pub fn retire_older(&self, address: &str, settings: &Tls, age: Duration) {
        self.replace(address, settings, |_, since| since >= age);
    }

    fn replace(&self, address: &str, settings: &Tls, which: impl Fn(&Arc<Pool>, Duration) -> bool) {
        let key = (address.to_owned(), settings.clone());
        self.0.locked().retire(&key, Instant::now(), which);
    }
}

impl Inner {
    fn locked(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request gets without a look at the files, where they were looked at lately.
    fn known(&self, key: &Key) -> Option<Result<Arc<Pool>, SendError>> {
        let (now, mut entries) = (Instant::now(), self.locked());
        let entry = entries.entry(key, now);
        match entry.is_settled(now, has_files(key)) {
            true => entry.outcome(now, self.max_age),
            false => None,
        }
    }

    /// A pool that may serve while another request looks at the files.
    fn in_use(&self, key: &Key) -> Option<Arc<Pool>> {
        let (now, mut entries) = (Instant::now(), self.locked());
        entries.entry(key, now).outcome(now, self.max_age)?.ok()
    }

    /// Looks at the files, and makes a pool of them where they have changed, or the old one is to be replaced.
    fn refresh(&self, key: &Key) -> Result<Arc<Pool>, SendError> {
        let (address, settings) = key;
        let files = match has_files(key) {
            true => tls::fingerprint(settings),
            false => tls::Fingerprint::default(),
        };
        let now = Instant::now();
        if self.locked().entry(key, now).looked(&files, now)
            && let Some(outcome) = self.known(key)
        {
            return outcome;
        }
        // Not while others wait for the lock.
        let connected = self.connect(address, settings);
        let mut entries = self.locked();
        let entry = entries.entry(key, now);
        let outcome = match connected {
            Ok((pool, bytes)) => {
                let pool = Arc::new(pool);
                // Not all at once: the pools of many tenants were made together, at the start.
                let age = self.max_age.mul_f64(0.5 + rand::random::<f64>() / 2.0);
                entry.succeeded(Arc::clone(&pool), files, bytes, now, now + age);
                Ok(pool)
            }
            Err(error) => {
                let text = error.to_string();
                let is_news = entry.failed(files, text, now, self.max_age);
                let outcome = entry.outcome(now, self.max_age).unwrap_or(Err(error));
                if let (Ok(_), Some(error)) = (&outcome, entry.failure().filter(|_| is_news)) {
                    let at_most = self.max_age;
                    warn!(
                        address,
                        error,
                        ?at_most,
                        "rotated TLS files cannot be used; those of before serve on"
                    );
                }
                outcome
            }
        };
        entries.evict(MOST_BYTES, key, now);
        outcome
    }

    /// A pool, and the memory that its trusted certificates take, in bytes.
    fn connect(&self, address: &str, settings: &Tls) -> Result<(Pool, usize), SendError> {
        let open = Arc::<AtomicUsize>::default();
        let (connector, proxy_authorization) = Connector::new(
            address,
            &self.proxies,
            self.connect_timeout,
            self.connections.clone(),
            Arc::clone(&open),
        );
        // Plain http uses no certificate: none is read, and a missing file is no fault.
        let prepared = match is_tls(address) {
            true => tls::config(settings, &self.files),
            false => tls::unused(),
        };
        let tls::Prepared { config, bytes } =
            prepared.map_err(|error| SendError::Settings(error.to_string()))?;
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http();
        let connector = match &settings.server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| {
                    SendError::Settings(format!(
                        "vaultTLSServerName {name:?} is no DNS name or IP address"
                    ))
                })?;
                builder
                    .with_server_name_resolver(FixedServerNameResolver::new(name))
                    .enable_all_versions()
                    .wrap_connector(connector)
            }
            None => builder.enable_all_versions().wrap_connector(connector),
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            // A dead connection would be handed out again until TCP itself gives up.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            // Replies that wait for room must not fill the connection before the others.
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // Repeats only what was not written yet: a pooled connection that the server closed.
            .retry_canceled_requests(true)
            .build(connector);
        let pool = Pool {
            client,
            proxy_authorization,
            open,
        };
        Ok((pool, bytes))
    }
}

fn is_tls(address: &str) -> bool {
    address.starts_with("https:")
}

/// Whether files may change what a pool is made of.
fn has_files((address, settings): &Key) -> bool {
    is_tls(address) && tls::names_files(settings)
}

#[cfg(test)]
mod tests;
