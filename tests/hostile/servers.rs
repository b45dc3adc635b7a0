//! A tenant's own server speaks HTTP in bad faith.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::scene::{Scene, none, own_server};
use crate::support::client::{CONTINUATION, END_HEADERS, HEADERS, PING, SETTINGS, frame, literal};
use crate::support::hostile::{Asked, Hostile, Raw, Reply};

const OBJECT: &str = "- {objectName: k, secretPath: x/y, secretKey: key}";
const SECOND: Duration = Duration::from_secs(1);

/// What a server says to any request at first, and then after each pause, so many times at once, for ever.
struct Way {
    name: &'static str,
    first: &'static [u8],
    piece: &'static [u8],
    times: usize,
    pause: Duration,
}

const fn way(name: &'static str, first: &'static [u8], piece: &'static [u8], times: usize) -> Way {
    let pause = if times == 1 {
        SECOND
    } else {
        Duration::from_millis(1)
    };
    Way {
        name,
        first,
        piece,
        times,
        pause,
    }
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const WAYS: &[Way] = &[
    way(
        "a byte of the body a second",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n",
        b" ",
        1,
    ),
    way(
        "a byte of the head a second",
        b"HTTP/1.1 200 OK\r\nx: ",
        b"x",
        1,
    ),
    way(
        "headers without end",
        b"HTTP/1.1 200 OK\r\n",
        b"x-more: and more\r\n",
        500,
    ),
    way(
        "one header without end",
        b"HTTP/1.1 200 OK\r\nx-more: ",
        b"x",
        8192,
    ),
    way(
        "100 Continue without end",
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        100,
    ),
    way(
        "103 Early Hints without end",
        b"",
        b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n",
        100,
    ),
    way(
        "chunks of one byte without end",
        CHUNKED,
        b"1\r\n \r\n",
        100,
    ),
    way(
        "chunk extensions without end",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"x",
        8192,
    ),
    way(
        "trailers without end",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        b"x-more: and more\r\n",
        500,
    ),
    way(
        "a body without end",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b" ",
        65536,
    ),
    way("noise", b"", b"\xff", 65536),
    way(
        "another protocol",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"x",
        1,
    ),
];

/// Reads a request's beginning.
async fn asked(stream: &mut TcpStream) -> io::Result<()> {
    let mut some = [0; 512];
    stream.read(&mut some).await.map(drop)
}

async fn on_and_on(mut stream: TcpStream, way: &Way) -> io::Result<()> {
    let piece = way.piece.repeat(way.times);
    asked(&mut stream).await?;
    stream.write_all(way.first).await?;
    loop {
        stream.write_all(&piece).await?;
        tokio::time::sleep(way.pause).await;
    }
}

/// A redirect to the same place, again and again.
async fn in_a_circle(mut stream: TcpStream) -> io::Result<()> {
    loop {
        asked(&mut stream).await?;
        let own = stream.local_addr()?;
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{own}/v1/auth/kubernetes/login\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// What an HTTP/2 server sends after its first SETTINGS: once, and then again and again.
fn floods() -> Vec<(&'static str, [Vec<u8>; 2])> {
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let ping = frame(PING, 0, 0, &[7; 8]);
    // WINDOW_UPDATE of one byte, and frames of an unknown type.
    let window = frame(8, 0, 0, &[0, 0, 0, 1]);
    let unknown = frame(0xfa, 0, 0, &[0; 100]);
    let continued = {
        // An interim answer, `:status: 100` (HPACK: literal with an indexed name).
        let block = [0x08, 0x03, b'1', b'0', b'0'];
        frame(HEADERS, END_HEADERS, 1, &block)
    };
    // A head that never ends: no END_HEADERS, and CONTINUATION after CONTINUATION.
    let block = literal(0, b"x-more", b"and more");
    let begun = frame(HEADERS, 0, 1, &block);
    let more = frame(CONTINUATION, 0, 1, &block);
    let again = |frames: Vec<u8>| [Vec::new(), frames];
    vec![
        ("SETTINGS", again(settings.repeat(200))),
        ("PING", again(ping.repeat(200))),
        ("WINDOW_UPDATE", again(window.repeat(200))),
        ("unknown frames", again(unknown.repeat(100))),
        ("interim answers", again(continued.repeat(100))),
        ("CONTINUATION", [begun, more.repeat(200)]),
    ]
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn flood(acceptor: TlsAcceptor, stream: TcpStream, frames: [Vec<u8>; 2]) -> io::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = async {
        let mut some = vec![0; 65536];
        while read.read(&mut some).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    let writing = async {
        write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        write.write_all(&frames[0]).await?;
        loop {
            write.write_all(&frames[1]).await?;
            write.flush().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

async fn from_the_first_byte() -> Vec<String> {
    let mut scene = Scene::new("servers in bad faith").await;
    let mut servers = Vec::new();
    for way in WAYS {
        servers.push((
            way.name,
            Raw::start(move |stream| on_and_on(stream, way)).await,
        ));
    }
    servers.push(("a redirect to itself", Raw::start(in_a_circle).await));
    servers.push(("the end at once", Raw::start(|_| async { Ok(()) }).await));
    for (at, (_, server)) in servers.iter().enumerate() {
        let class = own_server(&format!("http://{}", server.address), OBJECT);
        for pod in 0..2 {
            let volume = scene.volume("greedy", &format!("way-{at}-{pod}"));
            scene.begin(&volume, &class);
        }
    }
    let tls = acceptor();
    for (at, (name, frames)) in floods().into_iter().enumerate() {
        let tls = tls.clone();
        let server = Raw::start(move |stream| flood(tls.clone(), stream, frames.clone())).await;
        let mut class = own_server(&format!("https://{}", server.address), OBJECT);
        class["vaultSkipTLSVerify"] = json!("true");
        for pod in 0..2 {
            let volume = scene.volume("greedy", &format!("flood-{at}-{pod}"));
            scene.begin(&volume, &class);
        }
        servers.push((name, server));
    }
    scene.watch(Duration::from_millis(4500)).await;
    for (name, server) in &servers {
        let asked = server.connections();
        scene.expect(asked > 0, || format!("{name}: nobody came"));
    }
    scene.figure(format!("{} servers", servers.len()));
    scene.end(Duration::from_secs(6)).await
}

async fn after_a_good_login() -> Vec<String> {
    let mut scene = Scene::new("reads without end").await;
    let ways: Vec<fn() -> Reply> = vec![
        || Reply::Endless(Bytes::from_static(b" "), Duration::from_secs(1)),
        || Reply::Endless(Bytes::from_static(b"[1,"), Duration::from_millis(1)),
        || Reply::Endless(Bytes::from_static(&[b' '; 65536]), Duration::from_millis(1)),
        || Reply::Answer(200, Vec::new(), Bytes::from(vec![b' '; 5 * 1024 * 1024])),
        || Reply::Answer(500, Vec::new(), Bytes::from(vec![b' '; 5 * 1024 * 1024])),
        || Reply::Hang,
    ];
    let mut servers = Vec::new();
    for (at, way) in ways.into_iter().enumerate() {
        let server = Hostile::start(move |asked: &Asked| match asked.path.as_str() {
            "auth/kubernetes/login" => Reply::login("s.own", &json!(3600)),
            _ => way(),
        })
        .await;
        for pod in 0..3 {
            let volume = scene.volume("greedy", &format!("way-{at}-{pod}"));
            scene.begin(&volume, &own_server(&server.url, OBJECT));
        }
        servers.push(server);
    }
    scene.watch(Duration::from_secs(3)).await;
    scene.end(Duration::from_secs(10)).await
}

#[tokio::test]
async fn servers_in_bad_faith_hold_up_their_own_tenant_alone() {
    let (first, later) = tokio::join!(from_the_first_byte(), after_a_good_login());
    none([first, later]);
}
