//! Stand-in for a cluster: signs service-account tokens and answers TokenReview on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use serde_json::{Value, json};

/// What the API server says of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Genuine,
    Unauthenticated,
    /// The account was deleted and made again: same name, other UID.
    OtherUid,
}

/// A request the API server saw.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub bearer: String,
    pub body: Value,
}

struct Shared {
    verdict: Mutex<Verdict>,
    seen: Mutex<Vec<Seen>>,
}

/// Claims of a token; the defaults are those of `shop/web` for the audience `vault`, good for an hour.
pub struct Claims {
    pub namespace: &'static str,
    pub name: &'static str,
    pub uid: &'static str,
    pub audience: &'static str,
    /// Seconds from now to `exp`; negative in the past.
    pub expires_in: i64,
}

impl Default for Claims {
    fn default() -> Claims {
        Claims {
            namespace: "shop",
            name: "web",
            uid: "6f1c1d0e-0000-4000-8000-000000000001",
            audience: "vault",
            expires_in: 3600,
        }
    }
}

pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The running stand-in; dropping it closes its port.
pub struct Cluster {
    address: SocketAddr,
    shared: Arc<Shared>,
    key: KeyPair,
    task: tokio::task::JoinHandle<()>,
}

impl Cluster {
    pub async fn start() -> Cluster {
        let shared = Arc::new(Shared {
            verdict: Mutex::new(Verdict::Genuine),
            seen: Mutex::new(Vec::new()),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free loopback port");
        let address = listener.local_addr().expect("a bound address");
        let router = axum::Router::new()
            .fallback(review)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("the API server stand-in serves");
        });
        Cluster {
            address,
            shared,
            key: KeyPair::generate().expect("a P-256 key"),
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn says(&self, verdict: Verdict) {
        *self.shared.verdict.lock().unwrap() = verdict;
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The key that verifies the tokens, for the jwt method.
    pub fn public_key_pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// A signed token with the claims of kubelet's projected tokens.
    pub fn token(&self, claims: &Claims) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock past 1970")
            .as_secs() as i64;
        let payload = json!({
            "aud": [claims.audience],
            "exp": now + claims.expires_in,
            // Long before both: an expired token was once a valid one.
            "iat": now - 7200,
            "nbf": now - 7200,
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.name),
            "kubernetes.io": {
                "namespace": claims.namespace,
                "pod": { "name": "web-0", "uid": "6f1c1d0e-0000-4000-8000-0000000000ff" },
                "serviceaccount": { "name": claims.name, "uid": claims.uid },
            },
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "typ": "JWT" }).to_string()),
            URL_SAFE_NO_PAD.encode(payload.to_string()),
        );
        let random = SystemRandom::new();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.key.serialize_der())
                .expect("a PKCS#8 key");
        let signature = key.sign(&random, signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers any request as `TokenReview` does, and records it.
async fn review(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, axum::Json<Value>) {
    let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let status = verdict(*shared.verdict.lock().unwrap(), &body);
    shared.seen.lock().unwrap().push(Seen {
        method: method.to_string(),
        path: uri.path().to_owned(),
        bearer: headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default()
            .to_owned(),
        body,
    });
    let answer = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": status,
    });
    (StatusCode::CREATED, axum::Json(answer))
}

fn verdict(verdict: Verdict, review: &Value) -> Value {
    let claims = review["spec"]["token"]
        .as_str()
        .and_then(|token| token.split('.').nth(1))
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match (verdict, claims) {
        (Verdict::Unauthenticated, _) | (_, None) => {
            json!({ "authenticated": false, "error": "invalid bearer token" })
        }
        (verdict, Some(claims)) => {
            let uid = match verdict {
                Verdict::OtherUid => json!("6f1c1d0e-0000-4000-8000-000000000999"),
                _ => claims["kubernetes.io"]["serviceaccount"]["uid"].clone(),
            };
            json!({
                "authenticated": true,
                "user": { "username": claims["sub"], "uid": uid, "groups": ["system:serviceaccounts"] },
                "audiences": review["spec"]["audiences"],
            })
        }
    }
}
