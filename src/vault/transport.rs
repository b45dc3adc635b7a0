//! Our own HTTP transport: one connection pool per address and TLS setting, shared by all tokens, with
//! HTTP/2 where the server offers it.
//!
//! It sends a request once. A login or a leased read that may have reached the server is never repeated
//! here: the repetition would leave a token or a credential that nobody knows.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::uri::Scheme;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tracing::warn;
use zeroize::Zeroizing;

use super::connect::Connector;
use super::room::{self, Room};
use super::{request, tls};
use crate::proxy::Proxies;
use crate::redacted::{Secret, SecretBytes};
use crate::spec::{Endpoint, Tls};

/// The largest reply that is read.
pub const LARGEST_REPLY: usize = 4 * 1024 * 1024;
/// Settings that no Mount has used for this many others are forgotten with their connections.
const POOLS: usize = 256;

/// Connections that are tried for a request that none of them has taken. A server that wants another client
/// certificate ends each after the handshake, and says why only to a request that was on its way by then.
const CONNECTIONS: u32 = 3;

/// What one reply, and all of a connection, may have on the way unread, in bytes: room for more replies than
/// there are places at an address.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// The connections to one address under one set of TLS settings.
struct Pool {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    /// What a proxy wants to see in each request.
    proxy_authorization: Option<HeaderValue>,
}

/// One call.
pub struct Call<'a> {
    pub method: Method,
    /// Below `/v1/`, not encoded.
    pub path: &'a str,
    pub query: &'a [(String, String)],
    /// JSON.
    pub body: Option<Vec<u8>>,
    pub token: Option<&'a Secret>,
    /// How long its answer is waited for, where that is less than usual.
    pub patience: Option<Duration>,
    /// Where its answer's bytes are counted.
    pub room: Option<&'a Room>,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// Its media type in lower case, without parameters; nothing where it names none that could be one.
    pub content_type: Option<String>,
    pub body: SecretBytes,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request cannot be made.
    #[error("{0}")]
    Settings(String),
    /// No connection, or it broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The TLS handshake failed: a certificate or a name does not fit.
    #[error("TLS: {0}")]
    Untrusted(String),
    /// No reply in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The reply is too large, or all of a Mount's are.
    #[error("{what} larger than {limit} bytes")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Too many Mounts have large replies just now.
    #[error("the reply is large, and other large ones have taken all room in memory for {0:?}")]
    Crowded(Duration),
}

/// The pools.
pub struct Transport {
    connect_timeout: Duration,
    request_timeout: Duration,
    proxies: Proxies,
    pools: Mutex<HashMap<(String, Tls), Made>>,
}

/// A pool, and the state of the files that it was made of.
struct Made {
    pool: Arc<Pool>,
    files: Vec<(u64, u64, u64, i64)>,
}

impl Transport {
    pub fn new(connect_timeout: Duration, request_timeout: Duration, proxies: Proxies) -> Self {
        Self {
            connect_timeout,
            request_timeout,
            proxies,
            pools: Mutex::new(HashMap::new()),
        }
    }

    /// Sends once. A redirect (a standby that names its leader) is followed once, from https to https
    /// alone, and the token goes with it; the leader's certificate is checked by the same CA.
    pub async fn send(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Reply, SendError> {
        let uri = request::uri(&endpoint.address, call.path, call.query)?;
        let pool = self.pool(&endpoint.address, &endpoint.tls)?;
        let usual = self.request_timeout;
        let patience = call.patience.map_or(usual, |asked| asked.min(usual));
        let exchange = async {
            let response = once(&pool, request::of(endpoint, call, &uri)?).await?;
            if response.status() != StatusCode::TEMPORARY_REDIRECT {
                return Ok(response);
            }
            let target = request::redirected(&uri, &response)?;
            // Another host, perhaps, so another pool: its name is checked by the same CA.
            let leader = request::address_of(&target);
            let pool = self.pool(&leader, &endpoint.tls)?;
            once(&pool, request::of(endpoint, call, &target)?).await
        };
        let until = Instant::now() + patience;
        let response = tokio::time::timeout_at(until, exchange).await;
        let response = response.unwrap_or(Err(SendError::TimedOut(patience)))?;
        read(response, until, patience, call.room).await
    }

    fn pool(&self, address: &str, settings: &Tls) -> Result<Arc<Pool>, SendError> {
        let key = (address.to_owned(), settings.clone());
        let locked = || self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let files = tls::fingerprint(settings);
        let known = locked().get(&key).map(|made| {
            let is_current = made.files == files;
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
        let made = Made {
            pool: Arc::clone(&pool),
            files,
        };
        pools.insert(key, made);
        Ok(pool)
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

async fn once(
    pool: &Pool,
    mut request: http::Request<Full<Bytes>>,
) -> Result<http::Response<hyper::body::Incoming>, SendError> {
    if let Some(value) = &pool.proxy_authorization {
        let headers = request.headers_mut();
        headers.insert(PROXY_AUTHORIZATION, value.clone());
    }
    let is_tls = request.uri().scheme() == Some(&Scheme::HTTPS);
    let mut response = pool.client.request(request.clone()).await;
    for _ in 1..CONNECTIONS {
        if !response.as_ref().is_err_and(|error| is_unsent(error)) {
            break;
        }
        response = pool.client.request(request.clone()).await;
    }
    let response = response.map_err(|error| match is_unsent(&error) {
        true if is_tls => SendError::Untrusted(format!(
            "the server ends each connection after the handshake, as one does that does not accept our client certificate or asks for one: {}",
            causes(&error)
        )),
        _ => broken(&error),
    })?;
    match response.status() {
        // No server says so: it is the proxy's own answer.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(SendError::Unreachable(
            "the proxy wants a user name and a password, as in http://user:password@proxy:3128"
                .to_owned(),
        )),
        _ => Ok(response),
    }
}

/// Whether a connection broke before its request was written: hyper cancels these alone, or finds the
/// connection's channel closed.
fn is_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    let unsent = |error: &hyper::Error| error.is_canceled() || error.is_closed();
    error.downcast_ref().is_some_and(unsent) || error.source().is_some_and(is_unsent)
}

impl From<room::Full> for SendError {
    fn from(full: room::Full) -> Self {
        match full {
            room::Full::TooMuch(limit) => Self::TooLarge {
                what: "the replies of this mount together are",
                limit,
            },
            room::Full::Crowded(waited) => Self::Crowded(waited),
        }
    }
}

/// Why an exchange broke off: the network, or TLS, which speaks of the caller's settings as well.
fn broken(error: &(dyn std::error::Error + 'static)) -> SendError {
    let text = causes(error);
    match tls::fault(error) {
        Some(fault) => SendError::Untrusted(tls::told(&fault.to_string())),
        None if text.contains(tls::ALERT) => SendError::Untrusted(tls::told(&text)),
        None => SendError::Unreachable(text),
    }
}

/// The media type of a `Content-Type`. It may be shown, so nothing else that a server writes there passes.
fn media_type(value: &HeaderValue) -> Option<String> {
    const LONGEST: usize = 64;
    let text = value.to_str().ok()?.split(';').next()?.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '+' | '-');
    (text.len() <= LONGEST && text.contains('/') && text.chars().all(plain))
        .then(|| text.to_ascii_lowercase())
}

/// An error with its causes: hyper's own text says little more than `client error`.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

async fn read(
    response: http::Response<hyper::body::Incoming>,
    mut until: Instant,
    patience: Duration,
    room: Option<&Room>,
) -> Result<Reply, SendError> {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    let content_type = response.headers().get(CONTENT_TYPE).and_then(media_type);
    let mut frames = Limited::new(response.into_body(), LARGEST_REPLY);
    // Told beforehand, it is never moved in memory, which would leave copies that are not wiped.
    let expected = frames.size_hint().exact().map(usize::try_from);
    let mut body = Zeroizing::new(Vec::with_capacity(match expected {
        Some(Ok(size)) => size.min(LARGEST_REPLY),
        _ => 0,
    }));
    loop {
        let frame = tokio::time::timeout_at(until, frames.frame()).await;
        let Some(frame) = frame.map_err(|_| SendError::TimedOut(patience))? else {
            break;
        };
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => SendError::TooLarge {
                what: "the reply is",
                limit: LARGEST_REPLY,
            },
            false => broken(error.as_ref()),
        })?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        if let Some(room) = room {
            let asked = Instant::now();
            room.take(bytes.len()).await?;
            // The server is not to blame for this.
            until += asked.elapsed();
        }
        body.extend_from_slice(&bytes);
    }
    Ok(Reply {
        status,
        retry_after,
        content_type,
        body: SecretBytes::from(mem::take(&mut *body)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newline_in_a_header_is_an_error() {
        let endpoint = Endpoint {
            address: "http://127.0.0.1:9".to_owned(),
            namespace: Some("a\nb".to_owned()),
            tls: Tls::default(),
        };
        let call = Call {
            method: Method::GET,
            path: "x",
            query: &[],
            body: None,
            token: None,
            patience: None,
            room: None,
        };
        let second = Duration::from_secs(1);
        let sent = Transport::new(second, second, Proxies::default())
            .send(&endpoint, &call)
            .await;
        assert!(matches!(sent, Err(SendError::Settings(_))));
    }
}
