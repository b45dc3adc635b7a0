//! How a connection comes about: over TCP, through a proxy of HTTP or SOCKS, or to a Unix socket.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tower::{BoxError, Service};

use super::connections::{Connections, Place};
use super::tenant;
use crate::proxy::Proxies;

/// What stands before the path of a Unix socket (`ParseAddress` of vault/api).
const UNIX: &str = "unix://";

/// Makes the connections of one address.
#[derive(Clone)]
pub struct Connector {
    way: Way,
    connections: Connections,
    /// How many of them are open.
    open: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Way {
    Tcp(HttpConnector),
    /// Plain http: the proxy gets the requests, with the whole URI in each.
    Forward(HttpConnector, Uri),
    /// https: the proxy makes a way through for TLS, which ends at the server alone.
    Tunnel(Tunnel<HttpConnector>, Uri),
    /// The proxy makes a way through for anything. It looks the server's name up, as for Go's client.
    Socks(SocksV5<HttpConnector>, Uri),
    Unix(Arc<Path>),
}

/// No connection came about, by the way that was taken.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the socket {path}")]
    Unix { path: PathBuf, source: io::Error },
    #[error("the proxy {proxy}")]
    Proxy { proxy: Uri, source: BoxError },
}

/// What requests to an address begin with: a Unix socket has no host, but HTTP wants one.
pub fn base(address: &str) -> &str {
    match address.starts_with(UNIX) {
        true => "http://localhost",
        false => address.trim_end_matches('/'),
    }
}

impl Connector {
    /// Counts its own of all connections in `open`. Also answers what the address' proxy wants to see in each
    /// request.
    pub fn new(
        address: &str,
        proxies: &Proxies,
        timeout: Duration,
        connections: Connections,
        open: Arc<AtomicUsize>,
    ) -> (Self, Option<HeaderValue>) {
        let (way, authorization) = Way::to(address, proxies, timeout);
        let connector = Self {
            way,
            connections,
            open,
        };
        (connector, authorization)
    }
}

impl Way {
    /// The way to an address, and what its proxy wants to see in each request.
    fn to(address: &str, proxies: &Proxies, timeout: Duration) -> (Self, Option<HeaderValue>) {
        if let Some(path) = address.strip_prefix(UNIX) {
            return (Self::Unix(Path::new(path).into()), None);
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        let proxy = address.parse().ok().and_then(|uri| proxies.before(&uri));
        let Some(proxy) = proxy else {
            return (Self::Tcp(tcp), None);
        };
        let (at, auth) = (proxy.uri().clone(), proxy.basic_auth().cloned());
        if at
            .scheme_str()
            .is_some_and(|scheme| scheme.starts_with("socks5"))
        {
            let socks = SocksV5::new(with_port(&at, 1080), tcp);
            let socks = match proxy.raw_auth() {
                Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
                None => socks,
            };
            return (Self::Socks(socks, at), None);
        }
        if !address.starts_with("https:") {
            return (Self::Forward(tcp, at), auth);
        }
        let tunnel = Tunnel::new(at.clone(), tcp);
        let tunnel = match auth {
            Some(auth) => tunnel.with_auth(auth),
            None => tunnel,
        };
        (Self::Tunnel(tunnel, at), None)
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // No way waits for anything before it is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let way = self.way.clone();
        // Of the request that wants the connection: another task may finish it.
        let tenant = tenant::current();
        let (connections, open) = (self.connections.clone(), Arc::clone(&self.open));
        Box::pin(async move {
            let place = connections.place(tenant, open).await?;
            match way {
                Way::Tcp(mut tcp) => Ok(Stream::tcp(tcp.call(server).await?, false, place)),
                Way::Forward(mut tcp, proxy) => match tcp.call(proxy.clone()).await {
                    Ok(stream) => Ok(Stream::tcp(stream, true, place)),
                    Err(error) => Err(by(proxy, error)),
                },
                Way::Tunnel(mut tunnel, proxy) => match tunnel.call(server).await {
                    Ok(stream) => Ok(Stream::tcp(stream, false, place)),
                    Err(error) => Err(by(proxy, error)),
                },
                Way::Socks(mut socks, proxy) => {
                    let implied = if server.scheme() == Some(&Scheme::HTTP) {
                        80
                    } else {
                        443
                    };
                    match socks.call(with_port(&server, implied)).await {
                        Ok(stream) => Ok(Stream::tcp(stream, false, place)),
                        Err(error) => Err(by(proxy, error)),
                    }
                }
                Way::Unix(path) => match UnixStream::connect(&path).await {
                    Ok(stream) => Ok(Stream {
                        io: TokioIo::new(Either::Right(stream)),
                        is_proxied: false,
                        _place: place,
                    }),
                    Err(source) => {
                        let path = path.to_path_buf();
                        Err(ConnectError::Unix { path, source }.into())
                    }
                },
            }
        })
    }
}

/// A URI with the port that it implies: the connector of SOCKS takes 80 for every proxy's, and 443 for every
/// server's.
fn with_port(uri: &Uri, implied: u16) -> Uri {
    let host = match uri.port_u16() {
        None => uri.host(),
        Some(_) => None,
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    let named = host.and_then(|host| format!("{scheme}://{host}:{implied}/").parse().ok());
    named.unwrap_or_else(|| uri.clone())
}

fn by(proxy: Uri, error: impl Into<BoxError>) -> BoxError {
    let source = error.into();
    ConnectError::Proxy { proxy, source }.into()
}

/// A connection.
pub struct Stream {
    io: TokioIo<Either<TcpStream, UnixStream>>,
    is_proxied: bool,
    _place: Place,
}

impl Stream {
    fn tcp(stream: TokioIo<TcpStream>, is_proxied: bool, place: Place) -> Self {
        Self {
            io: TokioIo::new(Either::Left(stream.into_inner())),
            is_proxied,
            _place: place,
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_not_named_is_the_schemes() {
        for (uri, implied, named) in [
            ("http://vault/v1/x", 80, "http://vault:80/"),
            ("https://[::1]/", 443, "https://[::1]:443/"),
            ("socks5://proxy", 1080, "socks5://proxy:1080/"),
            ("http://vault:8200/", 80, "http://vault:8200/"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(with_port(&uri, implied).to_string(), named);
        }
    }
}
