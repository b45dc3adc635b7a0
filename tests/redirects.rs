//! Redirects, as the incumbents' clients follow them. `recorded/redirects.json` holds what vault/api 1.23 and
//! openbao/api 2.7 make of each; they agree. Where we differ, the table below says why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request as HttpRequest, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use leasehold::clock::{BootClock, Moment};
use leasehold::grant::{Session, Term, TokenKind};
use leasehold::metrics::Metrics;
use leasehold::redacted::Secret;
use leasehold::spec::{Endpoint, Login, Method, Request, Tls};
use leasehold::vault::{Cache, Redirects, Settings, Vault, VaultErrorKind};
use serde_json::{Value, json};
use support::ca::Ca;
use support::front::Front;
use tokio::net::TcpListener;

/// Where they follow, and we do not: the path is another one.
const OTHER_PATH: &str = "{other http}/v1/kv/other?x=y#z";

/// What all places answer.
#[derive(Default)]
struct Plan {
    status: u16,
    location: String,
    /// The second place redirects as well.
    twice: bool,
    asked: Vec<Value>,
}

type Shared = Arc<Mutex<Plan>>;

/// A place that redirects the first request, or every one.
async fn place(name: &'static str, plan: &Shared) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plan = Arc::clone(plan);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let plan = Arc::clone(&plan);
            let service = service_fn(move |request| answer(name, Arc::clone(&plan), request));
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await
            });
        }
    });
    address
}

async fn answer(
    name: &'static str,
    plan: Shared,
    request: HttpRequest<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| {
        let value = head.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    let seen = json!({
        "at": name, "method": head.method.as_str(), "uri": head.uri.path_and_query().unwrap().as_str(),
        "token": header("x-vault-token"), "namespace": header("x-vault-namespace"),
        "body": String::from_utf8(body.to_vec()).unwrap(),
    });
    let mut plan = plan.lock().unwrap();
    plan.asked.push(seen);
    let mut response = Response::new(Full::default());
    if plan.asked.len() == 1 || plan.twice {
        *response.status_mut() = StatusCode::from_u16(plan.status).unwrap();
        if !plan.location.is_empty() {
            let location = plan.location.parse().unwrap();
            response.headers_mut().insert("location", location);
        }
    } else {
        *response.body_mut() = Full::from(r#"{"data":{"key":"value"}}"#);
    }
    Ok(response)
}

fn session(address: String) -> Session {
    Session {
        id: "session".to_owned(),
        endpoint: Endpoint {
            address,
            namespace: Some("team".to_owned()),
            tls: Tls {
                skip_verify: true,
                ..Tls::default()
            },
        },
        login: Login {
            mount: "kubernetes".to_owned(),
            role: "app".to_owned(),
            audience: "vault".to_owned(),
        },
        service_account: "shop/web".to_owned(),
        token: Secret::from("token".to_owned()),
        accessor: String::new(),
        kind: TokenKind::Service,
        policies: Vec::new(),
        renewable: true,
        counted: false,
        term: Term::new(Moment::from_boot(Duration::ZERO), Duration::from_secs(3600)),
    }
}

fn request(method: &str) -> Request {
    let method = match method {
        "GET" => Method::Get,
        "LIST" => Method::List,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        other => panic!("{other}"),
    };
    let writes = matches!(method, Method::Post | Method::Put);
    Request {
        method,
        path: "kv/app".to_owned(),
        query: vec![("version".to_owned(), "1".to_owned())],
        args: writes.then(|| r#"{"role":"app"}"#.to_owned()),
    }
}

fn client(follow: bool) -> Vault {
    let settings = Settings {
        redirects: Redirects {
            follow,
            ..Redirects::default()
        },
        ..Settings::default()
    };
    Vault::new(settings, Arc::new(BootClock), Metrics::new())
}

#[tokio::test]
async fn each_is_followed_as_the_incumbents_follow_it() {
    let plan = Shared::default();
    let (first, second) = (place("http", &plan).await, place("other http", &plan).await);
    let behind = [
        place("https", &plan).await,
        place("other https", &plan).await,
    ];
    let own = Ca::new("ours").server(&["127.0.0.1"]);
    let first_tls = Front::tls(behind[0], "127.0.0.1:0", &own, None).await;
    let second_tls = Front::tls(behind[1], "127.0.0.1:0", &own, None).await;
    let places = [
        ("{http}", format!("http://{first}")),
        ("{https}", format!("https://{}", first_tls.address)),
        ("{other http}", format!("http://{second}")),
        ("{other https}", format!("https://{}", second_tls.address)),
        ("{other http host}", second.to_string()),
    ];
    let resolved = |text: &str| {
        let places = places.iter();
        places.fold(text.to_owned(), |text, (name, at)| text.replace(name, at))
    };
    let recorded = fs::read_to_string("tests/recorded/redirects.json").unwrap();
    let recorded: Vec<Value> = serde_json::from_str(&recorded).unwrap();
    let (mut followed, mut refused) = (0, 0);
    for row in recorded {
        let (from, location) = (
            row["from"].as_str().unwrap(),
            row["location"].as_str().unwrap(),
        );
        *plan.lock().unwrap() = Plan {
            status: row["status"].as_u64().unwrap().try_into().unwrap(),
            location: resolved(location),
            twice: row["twice"] == true,
            asked: Vec::new(),
        };
        let vault = client(row["disabled"] != true);
        let session = session(resolved(&format!("{{{from}}}")));
        let request = request(row["method"].as_str().unwrap());
        let room = vault.room("shop");
        let given = vault.read(&session, &request, &room, Cache::Allowed).await;
        let asked = std::mem::take(&mut plan.lock().unwrap().asked);
        if location == OTHER_PATH {
            let told = given.err().unwrap();
            assert_eq!(told.kind(), VaultErrorKind::Redirected, "{told}");
            assert_eq!(asked.len(), 1, "nothing is asked for at another path");
            refused += 1;
            continue;
        }
        assert_eq!(Value::from(asked), row["asked"], "{row}");
        if row["answered"] == 200 {
            assert!(given.is_ok(), "{row}: {}", given.err().unwrap());
            followed += 1;
        } else {
            let told = given.err().unwrap();
            assert_eq!(told.kind(), VaultErrorKind::Redirected, "{row}: {told}");
            assert!(told.to_string().contains("redirects"), "{told}");
            assert!(!told.to_string().contains("version"), "no query: {told}");
            refused += 1;
        }
    }
    assert_eq!((followed, refused), (36, 44));
}
