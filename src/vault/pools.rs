//! Connection pools: one per address and TLS setting, shared by all tokens.
//!
//! No connection is kept for ever. A node that was sealed or demoted behind a Service, a load balancer that
//! was changed, a name that points elsewhere since: an old connection would go on to the old place for as
//! long as it is used. So a pool is replaced as a whole when it has grown old, or when its server has shown
//! that it does not serve. Requests under way finish on the old one, which ends with the last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
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

use super::connect::Connector;
use super::tls;
use super::transport::SendError;
use crate::proxy::Proxies;
use crate::spec::Tls;

/// Settings that no Mount has used for this many others are forgotten with their connections.
const POOLS: usize = 256;

/// What one reply, and all of a connection, may have on the way unread, in bytes: room for more replies than
/// there are places at an address.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// The connections to one address under one set of TLS settings.
pub struct Pool {
    pub client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    /// What a proxy wants to see in each request.
    pub proxy_authorization: Option<HeaderValue>,
}

/// The pools.
pub struct Pools {
    connect_timeout: Duration,
    max_age: Duration,
    proxies: Proxies,
    pools: Mutex<HashMap<(String, Tls), Made>>,
}

/// A pool, and the state of the files that it was made of.
struct Made {
    pool: Arc<Pool>,
    files: Vec<(u64, u64, u64, i64)>,
    since: Instant,
    /// When it is replaced; earlier for a pool that is retired.
    until: Instant,
}

impl Pools {
    /// No pool yet. Connections grow no older than `max_age`.
    pub fn new(connect_timeout: Duration, max_age: Duration, proxies: Proxies) -> Self {
        Self {
            connect_timeout,
            max_age,
            proxies,
            pools: Mutex::new(HashMap::new()),
        }
    }

    /// The pool of an address, made where there is none that may be used.
    pub fn get(&self, address: &str, settings: &Tls) -> Result<Arc<Pool>, SendError> {
        let key = (address.to_owned(), settings.clone());
        let locked = || self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let files = tls::fingerprint(settings);
        let now = Instant::now();
        let known = locked().get(&key).map(|made| {
            let is_current = made.files == files && now < made.until;
            (Arc::clone(&made.pool), is_current)
        });
        if let Some((pool, true)) = known {
            return Ok(pool);
        }
        // Files are read here: not while others wait for the lock.
        let pool = match (self.connect(address, settings), known) {
            (Ok(pool), _) => Arc::new(pool),
            // Caught in the middle of their rotation: what is known serves until they can be read.
            (Err(error), Some((pool, _))) => {
                warn!(address, %error, "rotated TLS files cannot be used yet; those of before serve on");
                return Ok(pool);
            }
            (Err(error), None) => return Err(error),
        };
        let mut pools = locked();
        if pools.len() >= POOLS {
            // Tenants choose addresses: their number is bounded, and a pool is cheap to make again.
            pools.clear();
        }
        // Not all at once: the pools of many tenants were made together, at the start.
        let age = self.max_age.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let made = Made {
            pool: Arc::clone(&pool),
            files,
            since: now,
            until: now + age,
        };
        pools.insert(key, made);
        Ok(pool)
    }

    /// Lets the next request dial anew, unless one has since: this pool's server takes no more requests.
    pub fn retire(&self, address: &str, settings: &Tls, pool: &Arc<Pool>) {
        self.replace(address, settings, |made| Arc::ptr_eq(&made.pool, pool));
    }

    /// Lets the next request dial anew, where the pool is of this age at least: a shorter one would cost a
    /// handshake with each request that meets the same trouble.
    pub fn retire_older(&self, address: &str, settings: &Tls, age: Duration) {
        self.replace(address, settings, |made| made.since.elapsed() >= age);
    }

    fn replace(&self, address: &str, settings: &Tls, which: impl Fn(&Made) -> bool) {
        let key = (address.to_owned(), settings.clone());
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = pools.get_mut(&key).filter(|made| which(made)) {
            made.until = Instant::now();
        }
    }

    fn connect(&self, address: &str, settings: &Tls) -> Result<Pool, SendError> {
        let (connector, proxy_authorization) =
            Connector::new(address, &self.proxies, self.connect_timeout);
        // Plain http uses no certificate: none is read, and a missing file is no fault.
        let config = if address.starts_with("https:") {
            tls::config(settings).map_err(|error| SendError::Settings(error.to_string()))?
        } else {
            tls::unused().map_err(|error| SendError::Settings(error.to_string()))?
        };
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
        Ok(Pool {
            client,
            proxy_authorization,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "http://127.0.0.1:9";

    fn pools() -> Pools {
        let second = Duration::from_secs(1);
        Pools::new(second, 100 * second, Proxies::default())
    }

    fn get(pools: &Pools) -> Arc<Pool> {
        pools.get(ADDRESS, &Tls::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_replaced_before_it_has_grown_too_old() {
        let pools = pools();
        let first = get(&pools);
        tokio::time::advance(Duration::from_secs(49)).await;
        assert!(Arc::ptr_eq(&first, &get(&pools)));
        tokio::time::advance(Duration::from_secs(51)).await;
        assert!(!Arc::ptr_eq(&first, &get(&pools)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_whose_server_does_not_serve_is_replaced_once() {
        let pools = pools();
        let first = get(&pools);
        pools.retire(ADDRESS, &Tls::default(), &first);
        let second = get(&pools);
        assert!(!Arc::ptr_eq(&first, &second));
        // The others that were on their way to the first one.
        pools.retire(ADDRESS, &Tls::default(), &first);
        assert!(Arc::ptr_eq(&second, &get(&pools)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_replaces_no_young_pool() {
        let pools = pools();
        let first = get(&pools);
        let age = Duration::from_secs(10);
        pools.retire_older(ADDRESS, &Tls::default(), age);
        assert!(Arc::ptr_eq(&first, &get(&pools)));
        tokio::time::advance(age).await;
        pools.retire_older(ADDRESS, &Tls::default(), age);
        assert!(!Arc::ptr_eq(&first, &get(&pools)));
    }
}
