//! A stand-in for the API server: mints service-account tokens as kubelet projects them, and reviews them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::jwt::Jwt;
use crate::text;

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

/// The stand-in; it ends when this is dropped.
pub struct ServiceAccounts {
    address: SocketAddr,
    public_key: String,
    signer: EcdsaKeyPair,
    uids: Arc<Mutex<HashMap<String, String>>>,
    task: JoinHandle<()>,
}

impl ServiceAccounts {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// There is no port, or no key can be made.
    pub async fn start() -> Result<Self, StartError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signer = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &SystemRandom::new(),
        )
        .map_err(|_| StartError::Sign)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let public_key = key.public_key_pem();
        let pem = Arc::new(public_key.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let pem = Arc::clone(&pem);
                tokio::spawn(async move {
                    let service = service_fn(move |request| review(Arc::clone(&pem), request));
                    // A connection that breaks is its client's to notice.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self {
            address,
            public_key,
            signer,
            uids: Arc::default(),
            task,
        })
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

    /// A token of an account for one audience, good for `ttl` from now. The account's UID stays the same.
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

    fn mint_until(&self, namespace: &str, name: &str, audience: &str, end: Duration) -> String {
        let account = format!("{namespace}/{name}");
        let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = uids.entry(account).or_insert_with(text::uuid).clone();
        drop(uids);
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

async fn review(
    pem: Arc<String>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let spec: Value = serde_json::from_slice(&body).unwrap_or_default();
    let status = status(&pem, &spec).unwrap_or_else(|| json!({ "authenticated": false }));
    let answer = json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "status": status,
    });
    Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
}

fn status(pem: &str, review: &Value) -> Option<Value> {
    let token = Jwt::parse(review.pointer("/spec/token")?.as_str()?)?;
    let ended = token.claims.get("exp")?.as_u64()? < now().as_secs();
    if ended || !token.signed_by(pem) {
        return None;
    }
    let wanted = review.pointer("/spec/audiences").and_then(Value::as_array);
    let given = token.audiences();
    let audiences: Vec<String> = match wanted {
        Some(wanted) => given
            .into_iter()
            .filter(|audience| wanted.iter().any(|one| one == audience))
            .collect(),
        None => given,
    };
    let account = token.claims.pointer("/kubernetes.io/serviceaccount/uid")?;
    Some(json!({
        "authenticated": !audiences.is_empty(),
        "audiences": audiences,
        "user": { "username": token.text("sub"), "uid": account },
    }))
}
