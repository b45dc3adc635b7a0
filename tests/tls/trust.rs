//! What Go's client accepts of a server, in real handshakes. The rules themselves are held against Go's own
//! answers by the unit tests of `vault::tls`.

use std::fs;
use std::net::SocketAddr;

use dev_vault::{DevVault, Options};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;

use super::World;
use super::matrix::{Files, Parameters, Row, Table, UNTRUSTED, https, run};
use super::support::ca::{Ca, Identity};
use super::support::front::Front;

/// A key of some kind, and a certificate as `openssl req -x509` makes it: self-signed, CA:TRUE, a server's.
fn self_signed(kind: &str) -> Identity {
    let read = |end: &str| fs::read_to_string(format!("tests/fixtures/tls/{kind}.{end}")).unwrap();
    Identity::read(&read("crt"), &read("key"))
}

#[tokio::test]
async fn every_kind_of_key_serves_in_both_versions_of_tls() {
    let world = World::new(false).await;
    let served = world.serve(&[], &[]).await;
    let record: Value =
        serde_json::from_slice(&fs::read("tests/recorded/tls.json").unwrap()).unwrap();
    let mut table = Table::default();
    let mut asked = 0;
    for handshake in record["handshakes"].as_array().unwrap() {
        let kind = handshake["what"].as_str().unwrap();
        assert_eq!(handshake["accepted"], true, "Go's client takes {kind}");
        // The server of our tests has no such key; we would refuse it.
        if kind == "rsa1024" {
            continue;
        }
        let version = match handshake["version"].as_str().unwrap() {
            "TLS 1.2" => &TLS12,
            _ => &TLS13,
        };
        let own = self_signed(kind);
        let to = world.address();
        let front = Front::tls_of(to, "127.0.0.1:0", &own, None, &[version]).await;
        let trusting = |pem: &str| vec![https(&front), ("vaultCACert", pem.to_owned())];
        let skipping = [https(&front), ("vaultSkipTLSVerify", "true".to_owned())];
        let what = format!("{kind}, {}", handshake["version"]);
        table.good(
            &format!("{what}, itself trusted"),
            &world.mount(&served, &trusting(&own.pem)).await,
        );
        let other = if kind == "p256" { "p384" } else { "p256" };
        let bad = world
            .mount(&served, &trusting(&self_signed(other).pem))
            .await;
        table.bad("another", bad, UNTRUSTED);
        table.good(
            &format!("{what}, skip-verify"),
            &world.mount(&served, &skipping).await,
        );
        table.bad(
            "another",
            world
                .mount(&served, &trusting(&self_signed(other).pem))
                .await,
            UNTRUSTED,
        );
        asked += 1;
    }
    assert_eq!(asked, 16);
    table.print();
}

#[tokio::test]
async fn what_go_trusts_is_trusted_and_its_twin_is_not() {
    let world = World::new(false).await;
    let served = world.serve(&[], &[]).await;
    let files = Files(tempfile::tempdir().unwrap());
    let (ca, twin) = (Ca::new("one name"), Ca::new("one name"));
    let front = async |own: &Identity| Front::tls(world.address(), "127.0.0.1:0", own, None).await;
    let leaf = ca.server(&["127.0.0.1"]);
    let internal = ca.server(&["*.vault-internal"]);
    let (here, stars) = (front(&leaf).await, front(&internal).await);
    let read = |name: &str| fs::read_to_string(format!("tests/fixtures/keys/{name}")).unwrap();
    let version_1 = Identity::read(&read("p256.v1.crt"), &read("p256.pkcs8.pem"));
    let old = front(&version_1).await;
    let trusting = |front: &Front, pem: &str| -> Parameters {
        vec![https(front), ("vaultCACert", pem.to_owned())]
    };
    let named = |name: &str| -> Parameters {
        let name = ("vaultTLSServerName", name.to_owned());
        [trusting(&stars, &ca.pem), vec![name]].concat()
    };
    let from =
        |name: &str, text: &str| vec![https(&here), ("vaultCACertPath", files.put(name, text))];
    let damaged = twin.pem.replacen("MI", "M!", 1);
    let untrusted = |what, good, twin, bad| Row {
        what,
        good,
        twin,
        bad,
        code: UNTRUSTED.0,
        told: UNTRUSTED.1,
    };
    let rows = vec![
        untrusted(
            "a pinned certificate, its CA not trusted",
            trusting(&here, &leaf.pem),
            "another of the same CA",
            trusting(&here, &internal.pem),
        ),
        Row {
            told: "the signature is not by its key",
            ..untrusted(
                "the CA",
                trusting(&here, &ca.pem),
                "another CA of the same name",
                trusting(&here, &twin.pem),
            )
        },
        Row {
            told: "not valid for name \"a.b.vault-internal\"",
            ..untrusted(
                "*.vault-internal for vault-0.vault-internal",
                named("vault-0.vault-internal"),
                "for a.b.vault-internal",
                named("a.b.vault-internal"),
            )
        },
        untrusted(
            "a bundle with a damaged block, CRLF, text, and the CA twice",
            from(
                "bundle",
                &format!("# ours\n{damaged}x\n{0}\n{0}", ca.pem).replace('\n', "\r\n"),
            ),
            "a damaged block beside another CA",
            from("other", &format!("{damaged}{}", self_signed("p256").pem)),
        ),
        Row {
            told: "a common name does not count",
            ..untrusted(
                "X.509 version 1, skip-verify",
                vec![https(&old), ("vaultSkipTLSVerify", "true".to_owned())],
                "trusted itself",
                trusting(&old, &version_1.pem),
            )
        },
        Row {
            code: Code::InvalidArgument,
            told: "vaultCACertPath: no usable CA",
            ..untrusted(
                "a bundle without a newline at its end",
                from("trimmed", ca.pem.trim()),
                "nothing but a damaged block",
                from("damaged", &damaged),
            )
        },
    ];
    run(&world, &served, rows).await;
}

/// A server that has one answer to everything.
async fn says(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Not closed before it is read: a reset would overtake the answer.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn http_to_a_port_of_tls_and_https_to_a_plain_one_are_told() {
    let (world, secure) = (
        World::new(false).await,
        DevVault::start(Options {
            tls: true,
            ..Options::default()
        })
        .await
        .unwrap(),
    );
    let served = world.serve(&[], &[]).await;
    let to = |address: String| vec![("vaultAddress", address)];
    let plain = secure.url().replace("https:", "http:");
    let (_, told) = world.mount(&served, &to(plain)).await.unwrap_err();
    assert!(
        told.contains("TLS on this port, use https:// in vaultAddress"),
        "an alert: {told}"
    );
    // As Go's server and nginx say it.
    for (head, words) in [
        (
            "HTTP/1.0 400 Bad Request\r\n\r\n",
            "Client sent an HTTP request to an HTTPS server.\n",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
            "<html><center>The plain HTTP request was sent to HTTPS port</center></html>",
        ),
    ] {
        let address = format!("http://{}", says(format!("{head}{words}")).await);
        let (_, told) = world.mount(&served, &to(address)).await.unwrap_err();
        assert!(
            told.contains("the server speaks TLS on this port: use https:// in vaultAddress"),
            "{told}"
        );
    }
    let tls = world.vault.url().replace("http:", "https:");
    let parameters = [to(tls), vec![("vaultSkipTLSVerify", "true".to_owned())]].concat();
    let (_, told) = world.mount(&served, &parameters).await.unwrap_err();
    assert!(
        told.contains("plain http: use http:// in vaultAddress"),
        "{told}"
    );
}
