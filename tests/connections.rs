//! How long a connection is kept, and what becomes of requests that a server did not process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use leasehold::clock::BootClock;
use leasehold::metrics::Metrics;
use leasehold::proxy::{Proxies, Said};
use leasehold::redacted::Secret;
use leasehold::spec::{Endpoint, Login, Tls};
use leasehold::vault::{Cache, Settings, Vault, VaultError};
use serde_json::{Value, json};
use support::ca::Ca;
use support::driver::Driver;
use support::front::Front;
use support::world::{KV, Setup, World, class};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tonic::Code;

/// What a server of HTTP/2 does with the first request of a connection. It is written in frames here: no
/// library's server goes away in these ways on demand.
#[derive(Clone, Copy)]
enum Refusal {
    /// RST_STREAM with REFUSED_STREAM: it did not process it.
    RefusedStream,
    /// RST_STREAM with CANCEL: it may have.
    Cancel,
    /// GOAWAY that names an earlier stream as the last: it did not.
    GoAwayBefore,
    /// GOAWAY that names this stream, and the end of the connection: it may have.
    GoAwayWith,
}

/// A server that refuses on its first connections, and passes the others on. Tells how many requests it
/// has refused.
async fn refusing(refusals: &[Refusal], to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let mut refusals: VecDeque<Refusal> = refusals.iter().copied().collect();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            match refusals.pop_front() {
                Some(refusal) => {
                    let count = Arc::clone(&count);
                    tokio::spawn(async move { refuse(stream, refusal, &count).await });
                }
                None => {
                    tokio::spawn(async move {
                        let mut server = TcpStream::connect(to).await?;
                        copy_bidirectional(&mut stream, &mut server).await
                    });
                }
            }
        }
    });
    (address, refused)
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

async fn refuse(mut stream: TcpStream, refusal: Refusal, count: &AtomicUsize) -> io::Result<()> {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const NO_ERROR: u32 = 0;
    const CODE_REFUSED: u32 = 7;
    const CODE_CANCEL: u32 = 8;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut body = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut body).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let goaway = |last: u32| {
            let body = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
            frame(GOAWAY, 0, 0, &body)
        };
        match head[3] {
            SETTINGS if head[4] == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            HEADERS => {
                count.fetch_add(1, Ordering::Relaxed);
                let reset = |code: u32| frame(RST_STREAM, 0, id, &code.to_be_bytes());
                match refusal {
                    Refusal::RefusedStream => stream.write_all(&reset(CODE_REFUSED)).await?,
                    Refusal::Cancel => stream.write_all(&reset(CODE_CANCEL)).await?,
                    Refusal::GoAwayBefore => stream.write_all(&goaway(id - 1)).await?,
                    Refusal::GoAwayWith => {
                        stream.write_all(&goaway(id)).await?;
                        return stream.shutdown().await;
                    }
                }
            }
            _ => {}
        }
    }
}

/// Where the world's server listens.
fn listens(world: &World) -> SocketAddr {
    world
        .vault
        .url()
        .trim_start_matches("http://")
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_login_that_the_server_did_not_process_goes_to_a_new_connection() {
    let world = World::new().await;
    let ca = Ca::new("ours");
    let own = ca.server(&["127.0.0.1"]);
    for refusals in [
        [Refusal::RefusedStream, Refusal::GoAwayBefore],
        [Refusal::GoAwayBefore, Refusal::RefusedStream],
    ] {
        let (behind, refused) = refusing(&refusals, listens(&world)).await;
        let front = Front::tls(behind, "127.0.0.1:0", &own, None).await;
        let mut class = class(KV);
        class["vaultAddress"] = json!(format!("https://{}", front.address));
        class["vaultCACert"] = json!(ca.pem);
        let before = world.logins();
        let volume = world.volume("web");
        world.mount(&volume, &class).await;
        assert_eq!(volume.text("api-key"), "k3y");
        assert_eq!(world.logins() - before, 1, "one login, one token");
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        volume.unmount();
        world.until_nothing_lives().await;
    }
}

/// One login by the client itself, and how many requests came.
async fn login(refusals: &[Refusal]) -> (usize, VaultError) {
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let (behind, refused) = refusing(refusals, nowhere).await;
    let own = Ca::new("ours").server(&["127.0.0.1"]);
    let front = Front::tls(behind, "127.0.0.1:0", &own, None).await;
    let vault = Vault::new(Settings::default(), Arc::new(BootClock), Metrics::new());
    let endpoint = Endpoint {
        address: format!("https://{}", front.address),
        namespace: None,
        tls: Tls {
            skip_verify: true,
            ..Tls::default()
        },
    };
    let login = Login {
        mount: "kubernetes".to_owned(),
        role: "app".to_owned(),
        audience: "vault".to_owned(),
    };
    let jwt = Secret::from("jwt".to_owned());
    let given = vault
        .login(&endpoint, &login, "shop/web", &jwt, Cache::Allowed)
        .await;
    let error = given.err().expect("nobody answers");
    (refused.load(Ordering::Relaxed), error)
}

#[tokio::test]
async fn it_goes_to_twelve_connections_and_no_more() {
    for refusal in [Refusal::RefusedStream, Refusal::GoAwayBefore] {
        let (asked, error) = login(&[refusal; 20]).await;
        assert_eq!(asked, 12, "{error}");
        assert!(error.passes_by_itself(), "{error}");
    }
}

#[tokio::test]
async fn a_login_that_the_server_may_have_processed_is_not_repeated() {
    for refusal in [Refusal::Cancel, Refusal::GoAwayWith] {
        let (asked, error) = login(&[refusal; 9]).await;
        assert_eq!(asked, 1, "{error}");
    }
}

/// A Service: what a new connection leads to may change, the old ones stay where they are.
struct Service {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
}

impl Service {
    async fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(Mutex::new(node));
        let current = Arc::clone(&to);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let node = *current.lock().unwrap();
                tokio::spawn(async move {
                    let mut node = TcpStream::connect(node).await?;
                    copy_bidirectional(&mut stream, &mut node).await
                });
            }
        });
        Self { address, to }
    }

    fn moves(&self, node: SocketAddr) {
        *self.to.lock().unwrap() = node;
    }

    fn class(&self) -> Value {
        let mut class = class(KV);
        class["vaultAddress"] = json!(format!("http://{}", self.address));
        class
    }
}

type Node = (Front, Arc<Mutex<Option<Action>>>);

/// A node before the one storage.
async fn node(world: &World) -> Node {
    let state = Arc::default();
    let front = Front::faulty(listens(world), "127.0.0.1:0", Arc::clone(&state)).await;
    (front, state)
}

fn sealed() -> Action {
    Action::Status {
        code: 503,
        body: json!({"errors": ["Vault is sealed"]}).to_string(),
        headers: Vec::new(),
    }
}

#[tokio::test]
async fn a_node_that_was_sealed_is_left_at_once() {
    let world = World::new().await;
    let (old, state) = node(&world).await;
    let (new, _state) = node(&world).await;
    let service = Service::to(old.address).await;
    let volume = world.volume("web");
    world.mount(&volume, &service.class()).await;
    *state.lock().unwrap() = Some(sealed());
    service.moves(new.address);
    // The usual age is two minutes. The old connection never breaks by itself.
    let started = Instant::now();
    while let Err(status) = world.try_mount(&volume, &service.class()).await {
        assert!(started.elapsed() < Duration::from_secs(30), "{status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_connection_in_use_is_replaced_when_it_has_grown_old() {
    let world = World::with(Setup {
        flags: &["-max-connection-age=2s"],
        ..Setup::default()
    })
    .await;
    let (old, _state) = node(&world).await;
    let service = Service::to(old.address).await;
    let volume = world.volume("web");
    world.mount(&volume, &service.class()).await;
    // A balancer was changed: the old node answers on, on the old connections. The new one shows that it
    // was asked by being unable to answer.
    let (new, state) = node(&world).await;
    *state.lock().unwrap() = Some(sealed());
    service.moves(new.address);
    let started = Instant::now();
    while world.try_mount(&volume, &service.class()).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(30), "nobody came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_request_under_way_finishes_on_a_connection_that_has_grown_old() {
    let world = World::with(Setup {
        flags: &["-max-connection-age=1s"],
        ..Setup::default()
    })
    .await;
    let ca = Ca::new("ours");
    let own = ca.server(&["127.0.0.1"]);
    // HTTP/2: all requests of a pool share one connection.
    let front = Front::tls(listens(&world), "127.0.0.1:0", &own, None).await;
    let mut class = class(KV);
    class["vaultAddress"] = json!(format!("https://{}", front.address));
    class["vaultCACert"] = json!(ca.pem);
    let mut slow = Fault::at("secret/data/app", Action::Delay(Duration::from_secs(4)));
    slow.times = Some(1);
    world.vault.faults().push(slow);
    let (late, other) = (world.volume("late"), world.volume("other"));
    let driver = Driver::dial(&world.node.socket());
    let tokens = world.tokens();
    let mounted = driver.mount(&late, &class, &tokens);
    let others = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..15 {
            world.mount(&other, &class).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (mounted, ()) = tokio::join!(mounted, others);
    if let Err(status) = mounted {
        panic!("{status}");
    }
    assert_eq!(late.text("api-key"), "k3y");
    assert_eq!(world.logins(), 2, "one for each volume");
}

/// A server that gives a token to everybody, over HTTP/1.1, and counts its connections by the address that they came to.
/// With `hangs`, it answers none but the first request of each.
#[derive(Clone, Default)]
struct Tokens {
    connections: Arc<Mutex<BTreeMap<String, usize>>>,
    hangs: bool,
}

impl Tokens {
    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut stream: S,
        to: String,
    ) -> io::Result<()> {
        self.count(to);
        let body = json!({"auth": {"client_token": "t", "accessor": "a", "policies": ["default"], "lease_duration": 3600, "renewable": true}}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut seen = Vec::new();
        loop {
            // A login is short: its end is the end of its JSON.
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await?;
            if count == 0 {
                return Ok(());
            }
            seen.extend(&part[..count]);
            if seen.ends_with(b"}") {
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                seen.clear();
                stream.write_all(answer.as_bytes()).await?;
            }
        }
    }

    fn count(&self, to: String) {
        *self.connections.lock().unwrap().entry(to).or_default() += 1;
    }

    /// Serves every loopback address at one port, which it answers.
    async fn everywhere(&self) -> u16 {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tokens = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let to = stream.local_addr().unwrap().ip().to_string();
                tokio::spawn(tokens.clone().answer(stream, to));
            }
        });
        port
    }

    fn at(&self, to: &str) -> usize {
        let connections = self.connections.lock().unwrap();
        connections.get(to).copied().unwrap_or_default()
    }
}

fn client(settings: Settings) -> Vault {
    Vault::new(settings, Arc::new(BootClock), Metrics::new())
}

async fn log_in(vault: &Vault, address: &str, pod: &str) -> Result<(), VaultError> {
    let endpoint = Endpoint {
        address: address.to_owned(),
        namespace: None,
        tls: Tls {
            skip_verify: true,
            ..Tls::default()
        },
    };
    let login = Login {
        mount: "kubernetes".to_owned(),
        role: "app".to_owned(),
        audience: "vault".to_owned(),
    };
    let jwt = Secret::from("jwt".to_owned());
    let given = vault
        .login(&endpoint, &login, pod, &jwt, Cache::Allowed)
        .await;
    given.map(|_| ())
}

#[tokio::test]
async fn a_tenants_hundreds_of_addresses_cost_another_not_its_one_connection() {
    let tokens = Tokens::default();
    let port = tokens.everywhere().await;
    let vault = client(Settings::default());
    let own = format!("http://127.0.0.1:{port}");
    log_in(&vault, &own, "shop/web").await.unwrap();
    for round in 0..2 {
        for at in 0..400 {
            let crowd = format!("http://127.1.{}.{}:{port}", at / 200, 1 + at % 200);
            log_in(&vault, &crowd, "crowd/web").await.unwrap();
        }
        log_in(&vault, &own, "shop/web").await.unwrap();
        assert_eq!(tokens.at("127.0.0.1"), 1, "round {round}");
    }
    // The crowd pays itself: more addresses than pools are kept.
    assert!(tokens.at("127.1.0.1") > 1);
}

#[tokio::test]
async fn a_tenants_addresses_that_hang_leave_the_others_their_connections() {
    let (tokens, hanging) = (
        Tokens::default(),
        Tokens {
            hangs: true,
            ..Tokens::default()
        },
    );
    let (port, hangs) = (tokens.everywhere().await, hanging.everywhere().await);
    let vault = client(Settings {
        max_connections: 32,
        connect_timeout: Duration::from_millis(200),
        login_timeout: Duration::from_secs(60),
        ..Settings::default()
    });
    let mut waiting = JoinSet::new();
    for at in 0..64 {
        let vault = vault.clone();
        let crowd = format!("http://127.1.0.{}:{hangs}", 1 + at);
        waiting.spawn(async move { log_in(&vault, &crowd, "crowd/web").await });
    }
    // Half of all connections is the crowd's; the rest of it is told why it has none.
    for _ in 0..48 {
        let told = waiting.join_next().await.unwrap().unwrap().err().unwrap();
        assert!(
            told.to_string()
                .contains("all 16 connections that a namespace may have"),
            "{told}"
        );
    }
    for pod in 0..8 {
        let own = format!("http://127.0.0.{}:{port}", 1 + pod);
        log_in(&vault, &own, "shop/web").await.unwrap();
    }
}

#[tokio::test]
async fn idle_connections_give_way_to_new_ones() {
    let tokens = Tokens::default();
    let port = tokens.everywhere().await;
    let vault = client(Settings {
        max_connections: 16,
        ..Settings::default()
    });
    let own = format!("http://127.0.0.1:{port}");
    log_in(&vault, &own, "shop/web").await.unwrap();
    for at in 0..100 {
        let crowd = format!("http://127.1.0.{}:{port}", 1 + at);
        log_in(&vault, &crowd, "crowd/web").await.unwrap();
    }
    log_in(&vault, &own, "shop/web").await.unwrap();
    assert_eq!(tokens.at("127.0.0.1"), 1);
}

/// By whatever way: how many connections a busy client makes in some time.
async fn made_by(address: &str, proxies: Proxies, tokens: &Tokens) -> usize {
    let vault = client(Settings {
        max_connection_age: Duration::from_millis(200),
        proxies,
        ..Settings::default()
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        if let Err(error) = log_in(&vault, address, "shop/web").await {
            assert!(!error.passes_by_itself(), "{error}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokens.connections.lock().unwrap().values().sum()
}

#[tokio::test]
async fn a_connection_grows_no_older_by_whatever_way_it_was_made() {
    let world = World::new().await;
    let ca = Ca::new("ours");
    let own = ca.server(&["127.0.0.1"]);
    for way in ["plain", "tls", "unix", "proxy"] {
        let tokens = Tokens::default();
        let port = tokens.everywhere().await;
        let plain = format!("http://127.0.0.1:{port}");
        let directory = tempfile::tempdir().unwrap();
        let mut fronts = Vec::new();
        let mut proxies = Proxies::default();
        let address = match way {
            "unix" => {
                let path = directory.path().join("vault.sock");
                let listener = UnixListener::bind(&path).unwrap();
                let tokens = tokens.clone();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(tokens.clone().answer(stream, "socket".to_owned()));
                    }
                });
                format!("unix://{}", path.display())
            }
            "tls" => {
                // HTTP/2, to a server that knows no such role: an answer.
                fronts.push(Front::tls(listens(&world), "127.0.0.1:0", &own, None).await);
                let (counted, to) = (tokens.clone(), fronts[0].address);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = format!("https://{}", listener.local_addr().unwrap());
                tokio::spawn(async move {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        counted.count("tls".to_owned());
                        tokio::spawn(async move {
                            let mut server = TcpStream::connect(to).await?;
                            copy_bidirectional(&mut stream, &mut server).await
                        });
                    }
                });
                address
            }
            "proxy" => {
                let said = Said {
                    http: Some(("HTTP_PROXY".to_owned(), plain)),
                    ..Said::default()
                };
                proxies = Proxies::new(said).unwrap();
                "http://vault.example:8200".to_owned()
            }
            _ => plain,
        };
        let made = made_by(&address, proxies, &tokens).await;
        assert!(made >= 4, "{way}: {made}");
    }
}

#[tokio::test]
async fn the_daemon_takes_as_many_open_files_as_it_may_have() {
    let world = World::new().await;
    let mut node = world.node;
    drop(world.daemon);
    node.flags.push("-log-level=info".to_owned());
    // A container's usual soft limit.
    let daemon = node.until_ready(node.spawn_limited(256)).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
    assert_ne!(numbers[0], "256");
}

/// What Go's server of TLS does with plain http: it reads what a TLS record could be, says so by HTTP/1.0, and
/// closes with the rest of the request unread, which resets the connection.
async fn goes_answer(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut record = [0; 300];
        stream.read_exact(&mut record).await.unwrap();
        let answer =
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn http_to_a_port_of_tls_is_told_though_the_server_hangs_up() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut class = class(KV);
    class["vaultAddress"] = json!(format!("http://{}", listener.local_addr().unwrap()));
    let serving = tokio::spawn(goes_answer(listener));
    let volume = world.volume("web");
    let told = world.refused(&volume, &class, Code::Internal).await;
    assert!(
        told.contains("speaks TLS on this port: use https://"),
        "{told}"
    );
    serving.abort();
}
