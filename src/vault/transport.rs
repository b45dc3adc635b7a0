//! Our own HTTP transport, with HTTP/2 where the server offers it.
//!
//! It sends a request once. A login or a leased read that a server may have processed is never repeated
//! here: the repetition would leave a token or a credential that nobody knows. One that was not written,
//! or that a server has refused to process, goes to a new connection.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AGE, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::uri::Scheme;
use http::{Method, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::pools::{Pool, Pools};
use super::redirect::{self, Redirects};
use super::{request, tls};
use crate::memory::{MemoryError, MountMemory, Reservation};
use crate::redacted::{Secret, SecretBytes};
use crate::spec::Endpoint;

/// The largest reply to a class' own read, in bytes.
const LARGEST_READ: usize = 4 * 1024 * 1024;
/// The largest reply to any other call, in bytes. A login's names each policy of its token three times.
const LARGEST_OTHER: usize = 512 * 1024;
/// What is read of the reply to a call that failed, in bytes: a proxy's error page may be of any size, and no
/// message shows more of it.
const LARGEST_ERROR: usize = 64 * 1024;
/// What is made room for before a reply's size is known, in bytes.
const FIRST: usize = 4 * 1024;
/// What `bare.rs` may put around a reply, in bytes.
pub const ENVELOPE: usize = 9;
/// Connections that are tried for a request that none of them has taken. A server that wants another client
/// certificate ends each after the handshake, and says why only to a request that was on its way by then.
const CONNECTIONS: u32 = 3;
/// The same for a server that says that it did not process the request. A proxy that closes each connection after some
/// requests (nginx, `keepalive_requests`) says so to all that come at once and find the same connection.
const REFUSALS: u32 = 12;
/// The pause before another connection is tried then, times the tries so far, and drawn: all that were refused
/// together would meet on the next connection again.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// From this age on a pool is replaced when a reply says that its server does not serve, and when one says
/// nothing of the kind but may have the same cause: it is late, or comes from a standby.
const AGE_WHEN_DOWN: Duration = Duration::from_secs(1);
const AGE_WHEN_UNCLEAR: Duration = Duration::from_secs(10);

/// Whether a cache before the server may answer a call.
///
/// An Agent or Proxy with `cache {}` keeps every reply that has `auth` or a lease, renewals too, by the whole
/// request with its headers (`computeIndexID` in `command/agentproxyshared/cache/lease_cache.go`). The second of
/// two equal renewals then renews nothing, and what was revoked comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It may: equal first logins and reads share a token and a lease.
    Allowed,
    /// The server itself must answer.
    Bypassed,
}

/// One call.
pub struct Call<'a> {
    pub cache: Cache,
    pub method: Method,
    /// Below `/v1/`, not encoded.
    pub path: &'a str,
    pub query: &'a [(String, String)],
    /// JSON.
    pub body: Option<Vec<u8>>,
    pub token: Option<&'a Secret>,
    /// How long its answer is waited for, where that is not the usual time.
    pub patience: Option<Duration>,
    /// The memory of the Mount whose own read it is.
    pub memory: Option<&'a MountMemory>,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// How long ago the server answered, where a cache gave its reply (`Age`).
    pub age: Duration,
    /// Its media type in lower case, without parameters; nothing where it names none that could be one.
    pub content_type: Option<String>,
    pub body: SecretBytes,
    /// What the body takes, where it is counted.
    pub memory: Option<Reservation>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request cannot be made.
    #[error("{0}")]
    Settings(String),
    /// No connection.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Connections end before a request is taken: a server that closes each after some requests.
    #[error("no connection has taken the request: {0}")]
    NotTaken(String),
    /// The connection broke when the request was on its way.
    #[error("the connection broke: {0}")]
    Interrupted(String),
    /// The TLS handshake failed: a certificate or a name does not fit.
    #[error("TLS: {0}")]
    Untrusted(String),
    /// It speaks TLS where we do not, or the other way round.
    #[error("{0}")]
    Scheme(&'static str),
    /// No reply in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The server redirects, and it is not followed.
    #[error("{0}")]
    Redirected(String),
    /// The reply is too large, or all of a Mount's are.
    #[error("{what} larger than {limit} bytes")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The Mounts under way take too much memory just now.
    #[error("the reply is large: {0}")]
    Crowded(MemoryError),
}

/// Sends calls, by the pools.
pub struct Transport {
    request_timeout: Duration,
    redirects: Redirects,
    pools: Pools,
}

impl Transport {
    pub fn new(request_timeout: Duration, redirects: Redirects, pools: Pools) -> Self {
        Self {
            request_timeout,
            redirects,
            pools,
        }
    }

    /// Sends once. A redirect (a standby that names its leader, an ingress that names https) is followed
    /// once, where `redirect.rs` allows it: with method, body and token, under the same TLS settings.
    pub async fn send(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Reply, SendError> {
        let patience = call.patience.unwrap_or(self.request_timeout);
        let until = Instant::now() + patience;
        let exchange = tokio::time::timeout_at(until, self.exchange(endpoint, call)).await;
        let Ok(response) = exchange else {
            // The node at the end of the connection may be the one that hangs.
            let (address, settings) = (&endpoint.address, &endpoint.tls);
            self.pools.retire_older(address, settings, AGE_WHEN_UNCLEAR);
            return Err(SendError::TimedOut(patience));
        };
        let (pool, response) = response?;
        let (version, status) = (response.version(), response.status());
        let reply = read(response, until, patience, call.memory).await;
        // A pool that was replaced meanwhile lives until its last reply was read.
        drop(pool);
        // An end of TLS before the server says so too, where it speaks plain http on. Go's closes without having
        // read the request, so that its words are often lost, and its HTTP/1.0 is all that is left of them.
        let is_plain = !endpoint.address.starts_with("https:");
        let wants_tls = match &reply {
            Ok(reply) => tls::wants_tls(reply.status, reply.body.expose()),
            Err(SendError::Interrupted(_)) => {
                version == Version::HTTP_10 && status == StatusCode::BAD_REQUEST
            }
            Err(_) => false,
        };
        if is_plain && wants_tls {
            return Err(SendError::Scheme(
                "the server speaks TLS on this port: use https:// in vaultAddress",
            ));
        }
        reply
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
    ) -> Result<(Arc<Pool>, http::Response<Incoming>), SendError> {
        let address = &endpoint.address;
        let uri = request::uri(address, call.path, call.query)?;
        let (pool, response) = self.ask(address, endpoint, call, &uri).await?;
        let (status, headers) = (response.status(), response.headers());
        let Some(target) = self.redirects.leads(address, &uri, status, headers)? else {
            return Ok((pool, response));
        };
        // It may be a leader no more.
        self.pools
            .retire_older(address, &endpoint.tls, AGE_WHEN_UNCLEAR);
        let uri = request::uri(&target, call.path, call.query)?;
        let (pool, response) = self.ask(&target, endpoint, call, &uri).await?;
        match response.status().is_redirection() {
            true => Err(redirect::again(response.status(), response.headers())),
            false => Ok((pool, response)),
        }
    }

    /// Sends a request, again where no server has processed it.
    async fn ask(
        &self,
        address: &str,
        endpoint: &Endpoint,
        call: &Call<'_>,
        uri: &Uri,
    ) -> Result<(Arc<Pool>, http::Response<Incoming>), SendError> {
        let mut tried = 0;
        let (pool, response) = loop {
            let pool = self.pools.get(address, &endpoint.tls).await?;
            let mut request = request::of(endpoint, call, uri)?;
            if let Some(value) = &pool.proxy_authorization {
                let headers = request.headers_mut();
                headers.insert(PROXY_AUTHORIZATION, value.clone());
            }
            tried += 1;
            let error = match pool.client.request(request).await {
                Ok(response) => break (pool, response),
                Err(error) => error,
            };
            let (unsent, unprocessed) = (is_unsent(&error), is_unprocessed(&error));
            if unprocessed {
                self.pools.retire(address, &endpoint.tls, &pool);
            }
            if unprocessed && tried < REFUSALS {
                let pause = REFUSED_PAUSE.saturating_mul(tried);
                tokio::time::sleep(pause.mul_f64(rand::random())).await;
                continue;
            }
            if unsent && tried < CONNECTIONS {
                continue;
            }
            let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
            return Err(match (unsent, unprocessed) {
                (true, _) if is_tls => SendError::Untrusted(format!(
                    "the server ends each connection after the handshake, as one does that does not accept our client certificate or asks for one: {}",
                    causes(&error)
                )),
                (_, true) => SendError::NotTaken(causes(&error)),
                (true, _) => SendError::Unreachable(causes(&error)),
                _ if !is_tls && is_no_http(&error) => SendError::Scheme(
                    "the server's answer is no HTTP: where it speaks TLS on this port, use https:// in vaultAddress",
                ),
                _ => broken(&error),
            });
        };
        let age = match response.status().as_u16() {
            472 | 473 | 501..=504 => Some(AGE_WHEN_DOWN),
            // A tenant's broken role, or a node that has lost its leader.
            500 => Some(AGE_WHEN_UNCLEAR),
            _ => None,
        };
        if let Some(age) = age {
            self.pools.retire_older(address, &endpoint.tls, age);
        }
        match response.status() {
            // No server says so: it is the proxy's own answer.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(SendError::Unreachable(
                "the proxy wants a user name and a password, as in http://user:password@proxy:3128"
                    .to_owned(),
            )),
            _ => Ok((pool, response)),
        }
    }
}

/// Whether a connection broke before its request was written: hyper cancels these alone, or finds the
/// connection's channel closed.
fn is_unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    let unsent = |error: &hyper::Error| error.is_canceled() || error.is_closed();
    error.downcast_ref().is_some_and(unsent) || error.source().is_some_and(is_unsent)
}

/// Whether a server has said that it did not process a request and will not: a stream that it refused, or one
/// behind the last that it took before it went away (RFC 9113 §8.7; h2 gives the error of a GOAWAY to such
/// streams alone). Whatever the method, it may be sent again.
fn is_unprocessed(error: &(dyn std::error::Error + 'static)) -> bool {
    let refused = |error: &h2::Error| {
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_refused || error.is_go_away())
    };
    error.downcast_ref().is_some_and(refused) || error.source().is_some_and(is_unprocessed)
}

/// Whether an answer came that is no HTTP, such as the alert of a server of TLS.
fn is_no_http(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_unparsable = error
        .downcast_ref()
        .is_some_and(|error: &hyper::Error| error.is_parse());
    is_unparsable || error.source().is_some_and(is_no_http)
}

impl From<MemoryError> for SendError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::TooMuch(limit) => Self::TooLarge {
                what: "the replies of this mount, with the files made of them, are together",
                limit,
            },
            MemoryError::Crowded(_) => Self::Crowded(error),
        }
    }
}

/// Why an exchange broke off: the network, or TLS, which speaks of the caller's settings as well.
fn broken(error: &(dyn std::error::Error + 'static)) -> SendError {
    let text = causes(error);
    match tls::fault(error) {
        Some(fault) if tls::is_plain(fault) => SendError::Scheme(
            "the server speaks no TLS on this port, but plain http: use http:// in vaultAddress",
        ),
        Some(fault) => SendError::Untrusted(tls::told(fault)),
        None if text.contains(tls::ALERT) => SendError::Untrusted(tls::told_text(&text)),
        None if connects(error) => SendError::Unreachable(text),
        None => SendError::Interrupted(text),
    }
}

/// Whether no connection came about, so that nothing was sent.
fn connects(error: &(dyn std::error::Error + 'static)) -> bool {
    let client = error.downcast_ref::<hyper_util::client::legacy::Error>();
    client.is_some_and(hyper_util::client::legacy::Error::is_connect)
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
    response: http::Response<Incoming>,
    until: Instant,
    patience: Duration,
    memory: Option<&MountMemory>,
) -> Result<Reply, SendError> {
    let status = response.status();
    let seconds = |name: HeaderName| {
        let text = response.headers().get(name)?.to_str().ok()?;
        let span = text.trim().parse().ok().map(Duration::from_secs);
        span.map(crate::clock::clamped)
    };
    let retry_after = seconds(RETRY_AFTER);
    let age = seconds(AGE).unwrap_or_default();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(media_type);
    let limit = match (status.is_success(), memory) {
        (false, _) => LARGEST_ERROR,
        (true, None) => LARGEST_OTHER,
        (true, Some(_)) => LARGEST_READ,
    };
    let mut body = Body {
        bytes: Zeroizing::new(Vec::new()),
        memory: memory.map(MountMemory::reservation),
        limit,
        until,
    };
    let mut frames = response.into_body();
    let expected = frames.size_hint().exact();
    let expected = expected.and_then(|size| usize::try_from(size).ok());
    let fits = |size: &usize| *size <= limit;
    let first = expected.filter(fits).unwrap_or(FIRST.min(limit));
    if status.is_success() && expected.is_some_and(|size| size > limit) {
        return Err(too_large(limit));
    }
    body.make_room(first).await?;
    loop {
        let frame = tokio::time::timeout_at(body.until, frames.frame()).await;
        let Some(frame) = frame.map_err(|_| SendError::TimedOut(patience))? else {
            break;
        };
        let Ok(bytes) = frame.map_err(|error| broken(&error))?.into_data() else {
            continue;
        };
        let left = limit - body.bytes.len();
        match bytes.get(..left) {
            Some(begin) if bytes.len() > left => {
                if status.is_success() {
                    return Err(too_large(limit));
                }
                body.add(begin).await?;
                // The rest is left to the connection, which ends with it.
                break;
            }
            _ => body.add(&bytes).await?,
        }
    }
    Ok(Reply {
        status: status.as_u16(),
        retry_after,
        age,
        content_type,
        body: SecretBytes::from(mem::take(&mut *body.bytes)),
        memory: body.memory,
    })
}

const fn too_large(limit: usize) -> SendError {
    SendError::TooLarge {
        what: "the reply is",
        limit,
    }
}

/// A body as it comes in. Its memory is reserved before it is allocated.
struct Body {
    bytes: Zeroizing<Vec<u8>>,
    memory: Option<Reservation>,
    limit: usize,
    until: Instant,
}

impl Body {
    async fn add(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let size = self.bytes.len() + bytes.len();
        if size + ENVELOPE > self.bytes.capacity() {
            self.make_room(size.saturating_mul(2).min(self.limit))
                .await?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes room for a body of this size. It is moved into it by us: a buffer that grows by itself leaves its
    /// old content behind, unwiped.
    async fn make_room(&mut self, size: usize) -> Result<(), SendError> {
        let (before, size) = (self.bytes.capacity(), size + ENVELOPE);
        if let Some(memory) = &mut self.memory {
            let asked = Instant::now();
            memory.grow_reply(size).await?;
            // The server is not to blame for this.
            self.until += asked.elapsed();
        }
        let mut larger = Zeroizing::new(Vec::with_capacity(size));
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
        if let Some(memory) = &mut self.memory {
            memory.shrink(before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Proxies;
    use crate::spec::Tls;

    #[tokio::test]
    async fn a_newline_in_a_header_is_an_error() {
        let endpoint = Endpoint {
            address: "http://127.0.0.1:9".to_owned(),
            namespace: Some("a\nb".to_owned()),
            tls: Tls::default(),
        };
        let call = Call {
            cache: Cache::Allowed,
            method: Method::GET,
            path: "x",
            query: &[],
            body: None,
            token: None,
            patience: None,
            memory: None,
        };
        let second = Duration::from_secs(1);
        let pools = Pools::new(
            second,
            second,
            Proxies::default(),
            8,
            tls::TlsFiles::default(),
        );
        let sent = Transport::new(second, Redirects::default(), pools)
            .send(&endpoint, &call)
            .await;
        assert!(matches!(sent, Err(SendError::Settings(_))));
    }
}
