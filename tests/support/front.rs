//! What stands before a server: an end of TLS, a Unix socket, a path prefix, a proxy. Each is a real
//! listener that passes bytes or requests on to a `dev-vault`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dev_vault::Action;
use http::header::{HeaderName, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite, copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::ca::Identity;

/// A listener; it ends when this is dropped, with all its connections.
pub struct Front {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Front {
    /// Ends TLS, of clients with a certificate of a CA (PEM) alone where one is given.
    pub async fn tls(to: SocketAddr, listen: &str, own: &Identity, clients: Option<&str>) -> Self {
        Self::tls_of(to, listen, own, clients, rustls::ALL_VERSIONS).await
    }

    /// Ends TLS of some versions alone.
    pub async fn tls_of(
        to: SocketAddr,
        listen: &str,
        own: &Identity,
        clients: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                let ca = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
                roots.add(ca).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        // Not by `with_single_cert`, which refuses certificates of X.509 version 1.
        let key = any_supported_type(&own.key()).unwrap();
        let shown = CertifiedKey::new(vec![own.chain.clone()], key);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        // As real servers do; HTTP/2 keeps less of an error.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    match acceptor.accept(stream).into_fallible().await {
                        Ok(stream) => pass(stream, to).await,
                        // Until the client has gone: a reset could overtake the alert that says why.
                        Err((_, mut stream)) => copy(&mut stream, &mut sink()).await.map(drop),
                    }
                });
            }
        });
        Self { address, serving }
    }

    /// Listens on a Unix socket.
    pub fn unix(to: SocketAddr, path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, to));
            }
        });
        let address = to;
        Self { address, serving }
    }

    /// Knows the server below a prefix alone.
    pub async fn prefixed(to: SocketAddr, prefix: &'static str) -> Self {
        Self::http("127.0.0.1:0", move |client, request| {
            let below = request.uri().path_and_query().unwrap().as_str();
            let below = below.strip_prefix(prefix).map(|below| at(to, below));
            async move {
                match below {
                    Some(below) => forward(client, request, below).await,
                    None => Ok(answer(StatusCode::NOT_FOUND, "")),
                }
            }
        })
        .await
    }

    /// Passes everything on, as well as what is wrong just now allows.
    pub async fn faulty(to: SocketAddr, listen: &str, fault: Arc<Mutex<Option<Action>>>) -> Self {
        Self::http(listen, move |client, request| {
            let fault = fault.lock().unwrap().clone();
            async move {
                let below = at(to, request.uri().path_and_query().unwrap().as_str());
                match fault {
                    Some(Action::Status {
                        code,
                        body,
                        headers,
                    }) => {
                        let status = StatusCode::from_u16(code).unwrap();
                        let mut answer = answer(status, &body);
                        for (name, value) in headers {
                            let name: HeaderName = name.parse().unwrap();
                            answer.headers_mut().insert(name, value.parse().unwrap());
                        }
                        Ok(answer)
                    }
                    Some(Action::StatusAfterCommit { code, body }) => {
                        forward(client, request, below).await?;
                        Ok(answer(StatusCode::from_u16(code).unwrap(), &body))
                    }
                    Some(Action::Delay(later)) => {
                        tokio::time::sleep(later).await;
                        forward(client, request, below).await
                    }
                    Some(Action::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
                    Some(Action::ResetAfterCommit) => {
                        forward(client, request, below).await?;
                        Err(io::ErrorKind::ConnectionReset.into())
                    }
                    Some(Action::Hang) => std::future::pending().await,
                    Some(other) => panic!("{other:?} is not made here"),
                    None => forward(client, request, below).await,
                }
            }
        })
        .await
    }

    /// Redirects every request to the same path of another place, as an ingress of plain http does.
    pub async fn redirecting(status: StatusCode, place: String) -> Self {
        Self::http("127.0.0.1:0", move |_, request| {
            let path = request.uri().path_and_query().unwrap().as_str();
            let mut answer = answer(status, "");
            let location = format!("{place}{path}").parse().unwrap();
            answer.headers_mut().insert(LOCATION, location);
            async move { Ok(answer) }
        })
        .await
    }

    /// Answers each request by a function; its error breaks the connection.
    async fn http<F, A>(listen: &str, respond: F) -> Self
    where
        F: Fn(Upstream, Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = io::Result<Response<Full<Bytes>>>> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client: Upstream = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (respond, client) = (respond.clone(), client.clone());
                let service = service_fn(move |request| respond(client.clone(), request));
                let builder = hyper::server::conn::http1::Builder::new();
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection.with_upgrades());
            }
        });
        Self { address, serving }
    }
}

fn at(to: SocketAddr, path: &str) -> Uri {
    format!("http://{to}{path}").parse().unwrap()
}

type Upstream = Client<HttpConnector, Full<Bytes>>;

async fn forward(
    client: Upstream,
    request: Request<Incoming>,
    to: Uri,
) -> io::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    head.uri = to;
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(head, Full::new(body));
    let response = client.request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}

fn answer(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_owned())));
    *answer.status_mut() = status;
    answer
}

async fn pass(mut stream: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

/// A forward proxy that knows one server, whatever the name it is asked for by.
pub struct Proxy {
    front: Front,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy before a server, open to whom knows `user:secret` alone where it is closed.
    pub async fn start(to: SocketAddr, is_closed: bool) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        let front = Front::http("127.0.0.1:0", move |client, mut request| {
            let known = request.headers_mut().remove(PROXY_AUTHORIZATION);
            // user:secret
            let is_known = known.is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=");
            let line = format!("{} {}", request.method(), request.uri());
            told.lock().unwrap().push(line);
            async move {
                if is_closed && !is_known {
                    let mut answer = answer(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "");
                    let basic = "Basic realm=\"proxy\"".parse().unwrap();
                    answer.headers_mut().insert(PROXY_AUTHENTICATE, basic);
                    return Ok(answer);
                }
                if request.method() == Method::CONNECT {
                    tokio::spawn(async move {
                        let stream = hyper::upgrade::on(request).await.unwrap();
                        pass(TokioIo::new(stream), to).await
                    });
                    return Ok(answer(StatusCode::OK, ""));
                }
                let below = at(to, request.uri().path_and_query().unwrap().as_str());
                forward(client, request, below).await
            }
        });
        Self {
            front: front.await,
            asked,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.front.address
    }

    /// The request lines that it got.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
