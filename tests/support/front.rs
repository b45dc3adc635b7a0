//! What stands before a server: an end of TLS, a Unix socket, a path prefix, a proxy. Each is a real
//! listener that passes bytes or requests on to a `dev-vault`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A certificate authority.
pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate, and its key as it was made.
pub struct Identity {
    pub pem: String,
    chain: CertificateDer<'static>,
    key: KeyPair,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A server's certificate for these names.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.changed(names, |_| {})
    }

    /// A server's certificate, changed before it is signed.
    pub fn changed(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.signed(params, KeyPair::generate().unwrap())
    }

    /// A client's certificate for a key (PKCS#8, PEM).
    pub fn client(&self, key: &str) -> Identity {
        let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.signed(params, KeyPair::from_pem(key).unwrap())
    }

    fn signed(&self, params: CertificateParams, key: KeyPair) -> Identity {
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            pem: made.pem(),
            chain: made.der().clone(),
            key,
        }
    }
}

/// A listener; it ends when this is dropped.
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
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
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
        let config = builder.with_single_cert(vec![own.chain.clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
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
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, to));
            }
        });
        let address = to;
        Self { address, serving }
    }

    /// Knows the server below a prefix alone.
    pub async fn prefixed(to: SocketAddr, prefix: &'static str) -> Self {
        Self::http(move |request| {
            let below = request.uri().path_and_query()?.as_str();
            let below: PathAndQuery = below.strip_prefix(prefix)?.parse().ok()?;
            Some(at(to, &below))
        })
        .await
    }

    /// Answers requests by what stands behind the URI that a function gives; 404 where it gives none.
    async fn http(
        route: impl Fn(&Request<Incoming>) -> Option<Uri> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let route = Arc::new(route);
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (route, client) = (Arc::clone(&route), client.clone());
                let service = service_fn(move |request| {
                    let to = route(&request);
                    forward(client.clone(), request, to)
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { address, serving }
    }
}

fn at(to: SocketAddr, path: &PathAndQuery) -> Uri {
    format!("http://{to}{path}").parse().unwrap()
}

type Upstream = Client<HttpConnector, Full<Bytes>>;

async fn forward(
    client: Upstream,
    request: Request<Incoming>,
    to: Option<Uri>,
) -> Result<Response<Full<Bytes>>, hyper_util::client::legacy::Error> {
    let Some(to) = to else {
        return Ok(answer(StatusCode::NOT_FOUND));
    };
    let (mut head, body) = request.into_parts();
    head.uri = to;
    let body = body.collect().await.unwrap().to_bytes();
    let request = Request::from_parts(head, Full::new(body));
    let (head, body) = client.request(request).await?.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
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
    pub address: SocketAddr,
    serving: JoinHandle<()>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// A proxy before a server, open to whom knows `user:secret` alone where it is closed.
    pub async fn start(to: SocketAddr, is_closed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let client: Upstream = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let told = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, told) = (client.clone(), Arc::clone(&told));
                let service = service_fn(move |mut request: Request<Incoming>| {
                    let known = request.headers_mut().remove(PROXY_AUTHORIZATION);
                    // user:secret
                    let is_known = known.is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=");
                    assert!(!request.headers().contains_key(AUTHORIZATION));
                    let line = format!("{} {}", request.method(), request.uri());
                    told.lock().unwrap().push(line);
                    let client = client.clone();
                    async move {
                        if is_closed && !is_known {
                            let mut answer = answer(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
                            let basic = "Basic realm=\"proxy\"".parse().unwrap();
                            answer.headers_mut().insert(PROXY_AUTHENTICATE, basic);
                            return Ok(answer);
                        }
                        if request.method() == Method::CONNECT {
                            tokio::spawn(async move {
                                let stream = hyper::upgrade::on(request).await.unwrap();
                                pass(TokioIo::new(stream), to).await
                            });
                            return Ok(answer(StatusCode::OK));
                        }
                        let path = request.uri().path_and_query().unwrap();
                        let to = at(to, path);
                        forward(client, request, Some(to)).await
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        Self {
            address,
            serving,
            asked,
        }
    }

    /// The request lines that it got.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
