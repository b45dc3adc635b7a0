//! A stand-in for the API server: mints service-account tokens as kubelet projects them, and reviews them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::lock;
use crate::jwt::Jwt;
use crate::text;

/// The wait after an accept that failed, which it does while no file descriptor is to be had.
const BREATH: Duration = Duration::from_millis(20);

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Why the stand-in does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No loopback port.
    #[error("no loopback port: {0}")]
    Listen(#[from] io::Error),
    /// No key.
    #[error("no key: {0}")]
    Key(#[from] rcgen::Error),
    /// The key cannot sign.
    #[error("the key cannot sign")]
    Sign,
}

/// What the stand-in says of a genuine token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// That it is genuine.
    #[default]
    Genuine,
    /// That it is not, as of a deleted pod's.
    Unauthenticated,
    /// That its account has another UID by now: it was deleted and made again.
    OtherUid,
}

/// A review that was asked for; holds no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The path of the request.
    pub path: String,
    /// The audiences that were asked about.
    pub audiences: Vec<String>,
    /// Whether the token under review was also the one that the asker showed for itself.
    pub own_bearer: bool,
}

#[derive(Default)]
struct Reviews {
    verdict: Verdict,
    seen: Vec<Reviewed>,
}

/// The stand-in; it ends when this is dropped.
pub struct ServiceAccounts {
    address: SocketAddr,
    public_key: String,
    signer: EcdsaKeyPair,
    uids: Mutex<HashMap<String, String>>,
    reviews: Arc<Mutex<Reviews>>,
    task: JoinHandle<()>,
}

impl ServiceAccounts {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// There is no port, or no key can be made.
    pub async fn start() -> Result<Self, StartError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der())
                .map_err(|_| StartError::Sign)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let public_key = key.public_key_pem();
        let reviews = Arc::new(Mutex::new(Reviews::default()));
        let reviewer = Reviewer {
            pem: public_key.clone().into(),
            reviews: Arc::clone(&reviews),
        };
        Ok(Self {
            address,
            public_key,
            signer,
            uids: Mutex::default(),
            reviews,
            task: tokio::spawn(serve(listener, reviewer)),
        })
    }

    /// What it says of genuine tokens from now on.
    pub fn says(&self, verdict: Verdict) {
        lock(&self.reviews).verdict = verdict;
    }

    /// The reviews so far.
    #[must_use]
    pub fn reviews(&self) -> Vec<Reviewed> {
        lock(&self.reviews).seen.clone()
    }

    /// The address for a kubernetes mount's `kubernetes_host`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key for a jwt mount's `jwt_validation_pubkeys`, PEM.
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        &self.public_key
    }

    /// A token of an account for one audience, good for `ttl` from now, as of its pod `<name>-0`. The UIDs stay
    /// the same.
    #[must_use]
    pub fn mint(&self, namespace: &str, name: &str, audience: &str, ttl: Duration) -> String {
        self.mint_until(namespace, name, audience, now() + ttl)
    }

    /// A token that ended `ago` before now.
    #[must_use]
    pub fn mint_expired(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
        ago: Duration,
    ) -> String {
        self.mint_until(namespace, name, audience, now().saturating_sub(ago))
    }

    /// The same UID for the same object each time.
    fn uid(&self, object: String) -> String {
        let mut uids = lock(&self.uids);
        uids.entry(object).or_insert_with(text::uuid).clone()
    }

    fn mint_until(&self, namespace: &str, name: &str, audience: &str, end: Duration) -> String {
        let uid = self.uid(format!("{namespace}/{name}"));
        let pod_uid = self.uid(format!("pod {namespace}/{name}"));
        let issued = now().as_secs().min(end.as_secs());
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": [audience],
            "iat": issued,
            "nbf": issued,
            "exp": end.as_secs(),
            "jti": text::uuid(),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": { "name": format!("{name}-0"), "uid": pod_uid },
                "serviceaccount": { "name": name, "uid": uid },
            },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({ "alg": "ES256", "typ": "JWT" })),
            part(&claims)
        );
        // Signing fails only for want of randomness; such a token is refused like a forged one.
        let signature = self.signer.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map(|signature| URL_SAFE_NO_PAD.encode(signature));
        format!("{signed}.{}", signature.unwrap_or_default())
    }
}

impl Drop for ServiceAccounts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Answers reviews, with all that takes.
#[derive(Clone)]
struct Reviewer {
    pem: Arc<str>,
    reviews: Arc<Mutex<Reviews>>,
}

/// Serves until it is dropped, which breaks every connection.
async fn serve(listener: TcpListener, reviewer: Reviewer) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let reviewer = reviewer.clone();
        connections.spawn(async move {
            // Small replies to small requests: waiting to fill a packet would cost 40 ms each.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| reviewer.clone().review(request));
            // A connection that breaks is its client's to notice.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Reviewer {
    async fn review(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = asked.pointer("/spec/token").and_then(Value::as_str);
        let bearer = parts.headers.get(http::header::AUTHORIZATION);
        let bearer = bearer.and_then(|value| value.to_str().ok());
        let verdict = {
            let mut reviews = lock(&self.reviews);
            reviews.seen.push(Reviewed {
                path: parts.uri.path().to_owned(),
                audiences: audiences(&asked).unwrap_or_default(),
                own_bearer: bearer.and_then(|text| text.strip_prefix("Bearer ")) == token,
            });
            reviews.verdict
        };
        let status = token.and_then(|token| status(&self.pem, token, &asked, verdict));
        let answer = json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "status": status.unwrap_or_else(|| json!({ "authenticated": false })),
        });
        Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
    }
}

/// The audiences that a review asks about; nothing where it asks about none.
fn audiences(review: &Value) -> Option<Vec<String>> {
    let wanted = review.pointer("/spec/audiences")?.as_array()?;
    let wanted = wanted.iter().filter_map(Value::as_str);
    Some(wanted.map(str::to_owned).collect())
}

/// The status of a genuine token.
fn status(pem: &str, token: &str, review: &Value, verdict: Verdict) -> Option<Value> {
    let token = Jwt::parse(token)?;
    let ended = token.claims.get("exp")?.as_u64()? < now().as_secs();
    if ended || !token.signed_by(pem) || verdict == Verdict::Unauthenticated {
        return None;
    }
    let given = token.audiences();
    let audiences: Vec<String> = match audiences(review) {
        Some(wanted) => given
            .into_iter()
            .filter(|audience| wanted.contains(audience))
            .collect(),
        None => given,
    };
    let uid = match verdict {
        Verdict::OtherUid => json!(text::uuid()),
        Verdict::Genuine | Verdict::Unauthenticated => {
            let uid = token.claims.pointer("/kubernetes.io/serviceaccount/uid")?;
            uid.clone()
        }
    };
    Some(json!({
        "authenticated": !audiences.is_empty(),
        "audiences": audiences,
        "user": { "username": token.text("sub"), "uid": uid },
    }))
}
