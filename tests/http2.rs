//! Whatever a client's HTTP/2 looks like: any authority, any encoding, many frames, and bytes that are none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use loona_hpack::Encoder;
use support::client::{self, Client, Ended, call, frame, is_version, literal, mounted, version};
use support::driver;
use support::world::{DATABASE, KV, World, class};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const PATH: &[u8] = b"/etc/kubernetes/secrets-store-csi-providers/vault.sock";

/// The block of a `Version` call with this authority field.
fn with_authority(field: &[u8]) -> Vec<u8> {
    [field, &call("Version")].concat()
}

#[tokio::test]
async fn every_authority_in_every_encoding_is_answered() {
    let world = World::new().await;
    let long = [b"/".as_slice(), &[b'a'; 5000]].concat();
    let authorities: &[&[u8]] = &[
        PATH,
        b"%2Fetc%2Fkubernetes%2Fvault.sock",
        b"etc%2Fkubernetes%2Fvault.sock",
        b"",
        b"localhost",
        b"unix:/run/vault.sock",
        b"unix:///run/vault.sock",
        b"@/abstract",
        b"[::1",
        b"a:b:c",
        b"a b#c?d\\e",
        "/run/g\u{e4}ste/vault.sock".as_bytes(),
        b"\xff\x80",
        &long,
    ];
    for authority in authorities {
        let who = String::from_utf8_lossy(authority);
        for representation in [0x00, 0x10, 0x40] {
            let mut client = Client::connect(&world.node.socket(), &[]).await;
            let field = literal(representation, b":authority", authority);
            let answer = client.call(&with_authority(&field), &version()).await;
            assert!(
                is_version(&answer),
                "{who} as {representation:#x}: {answer:?}"
            );
            if representation == 0x40 && authority.len() < 4000 {
                // The field again, by its index alone.
                let answer = client.call(&with_authority(&[0x80 | 62]), &version()).await;
                assert!(is_version(&answer), "{who} by its index: {answer:?}");
            }
        }
        let mut client = Client::connect(&world.node.socket(), &[]).await;
        let by_name = [vec![0x41], client::text(authority)].concat();
        let answer = client.call(&with_authority(&by_name), &version()).await;
        assert!(is_version(&answer), "{who} by its name's index: {answer:?}");
        let host = [call("Version"), literal(0x40, b"host", authority)].concat();
        let answer = client.call(&host, &version()).await;
        assert!(is_version(&answer), "{who} as host: {answer:?}");
    }
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    // `:authority` without a value is the static table's first entry; and there may be none at all.
    for field in [&[0x81][..], &[]] {
        let answer = client.call(&with_authority(field), &version()).await;
        assert!(is_version(&answer), "{field:?}: {answer:?}");
    }
}

#[tokio::test]
async fn tables_stay_in_step_over_many_requests() {
    let world = World::new().await;
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    let mut encoder = Encoder::new();
    for turn in 0..200_usize {
        let mut block = Vec::new();
        if turn % 50 == 49 {
            // The client shrinks its table to nothing and lets it grow again: the entries are gone.
            let size = [0, 300, 4096][turn % 3];
            encoder.set_max_table_size(0);
            encoder.set_max_table_size(size);
            block.push(0x20);
            loona_hpack::encoder::encode_integer_into(size, 5, 0x20, &mut block).unwrap();
        }
        let (odd, long) = (format!("value-{turn}"), "x".repeat(turn * 7));
        let authority = if turn % 10 == 3 {
            b"/run/other.sock"
        } else {
            PATH
        };
        block.extend(encoder.encode([
            (&b":method"[..], &b"POST"[..]),
            (b":scheme", b"http"),
            (b":path", b"/v1alpha1.CSIDriverProvider/Version"),
            (b":authority", authority),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (format!("x-{}", turn % 7).as_bytes(), odd.as_bytes()),
            (format!("x-long-{turn}").as_bytes(), long.as_bytes()),
        ]));
        let answer = client.call(&block, &version()).await;
        assert!(is_version(&answer), "turn {turn}: {answer:?}");
    }
}

#[tokio::test]
async fn blocks_in_many_frames_padding_priority_and_trailers_are_answered() {
    let world = World::new().await;
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    let block = with_authority(&literal(0x40, b":authority", PATH));
    let (priority, padding) = ([0_u8, 0, 0, 0, 15], [0_u8; 200]);
    for size in [1, 7, 60, 10_000] {
        // At most 60 frames, the first one padded and with a priority.
        let head = block
            .len()
            .saturating_sub(size * 59)
            .max(1)
            .min(block.len());
        let (first, rest) = block.split_at(head);
        let stream = client.open();
        let mut bytes = frame(
            client::HEADERS,
            client::PADDED
                | client::PRIORITY
                | if rest.is_empty() {
                    client::END_HEADERS
                } else {
                    0
                },
            stream,
            &[&[200], &priority[..], first, &padding].concat(),
        );
        let mut parts = rest.chunks(size).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() {
                client::END_HEADERS
            } else {
                0
            };
            bytes.extend(frame(client::CONTINUATION, flags, stream, part));
        }
        client.send(&bytes).await;
        client.body(stream, &version()).await;
        let answer = client.ended(stream).await;
        assert!(is_version(&answer), "frames of {size}: {answer:?}");
    }
    // Everything byte by byte, with frames that HTTP/2 tells to ignore between them, and trailers.
    let stream = client.open();
    let bytes = [
        frame(0x77, 0xff, 0, b"unknown"),
        frame(client::HEADERS, client::END_HEADERS, stream, &block),
        frame(2, 0, stream, &priority),
        frame(client::DATA, 0, stream, &version()),
        frame(
            client::HEADERS,
            client::END_HEADERS | client::END_STREAM,
            stream,
            &literal(0x40, b"x-checksum", b"1"),
        ),
    ]
    .concat();
    for byte in &bytes {
        client.send(std::slice::from_ref(byte)).await;
    }
    let answer = client.ended(stream).await;
    assert!(is_version(&answer), "byte by byte: {answer:?}");
}

#[tokio::test]
async fn fields_beside_the_authority_reach_the_server() {
    let world = World::new().await;
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    let volume = world.volume("deadline");
    volume.prepare();
    let attributes = volume.attributes(&class(DATABASE), &world.tokens());
    let body = client::message(&driver::request(&volume, &attributes, "{}"));
    let authority = literal(0x40, b":authority", PATH);
    let mount = |more: Vec<u8>| [authority.clone(), call("Mount"), more].concat();
    // Compressed by an algorithm that the server does not have: it says so only if it sees the field.
    let block = mount(literal(0x40, b"grpc-encoding", b"lzma"));
    let compressed = [&[1], &body[1..]].concat();
    let answer = client.call(&block, &compressed).await;
    assert!(matches!(answer, Ended::Answered(12, _)), "{answer:?}");
    // And a field that HTTP/2 forbids is still refused by the server.
    let block = mount(literal(0x40, b"connection", b"close"));
    assert_eq!(client.call(&block, &body).await, Ended::Reset(1));
    let answer = client.call(&mount(Vec::new()), &body).await;
    assert_eq!(mounted(&answer, "after these").files.len(), 2);
}

#[tokio::test]
async fn what_is_no_http2_ends_its_connection_and_nothing_else() {
    let world = World::new().await;
    let mut bystander = Client::connect(&world.node.socket(), &[]).await;
    let block = with_authority(&literal(0x40, b":authority", PATH));
    assert!(is_version(&bystander.call(&block, &version()).await));
    for foreign in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\nmore",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client's hello, of any length at all",
        &[0; 4096],
        &[0xff; 70_000],
    ] {
        let mut stream = UnixStream::connect(world.node.socket()).await.unwrap();
        // Either side may close first.
        let _ = stream.write_all(foreign).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        assert!(read.await.is_ok(), "{foreign:?} is not ended");
    }
    let broken: &[(&str, Vec<u8>)] = &[
        (
            "a frame above 16 KiB",
            frame(client::HEADERS, 4, 1, &[0; 16_385]),
        ),
        (
            "padding above the frame",
            frame(client::HEADERS, 0xc, 1, &[9, 0x83, 0x86]),
        ),
        (
            "a priority cut short",
            frame(client::HEADERS, 0x24, 1, &[0; 3]),
        ),
        (
            "CONTINUATION first",
            frame(client::CONTINUATION, 4, 1, &block),
        ),
        (
            "another frame within a block",
            [
                frame(client::HEADERS, 0, 1, &block),
                frame(client::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            "another stream within a block",
            [
                frame(client::HEADERS, 0, 1, &block),
                frame(client::CONTINUATION, 4, 3, &[]),
            ]
            .concat(),
        ),
        (
            "a block without an end",
            [
                frame(client::HEADERS, 0, 1, &[]),
                frame(client::CONTINUATION, 0, 1, &[]).repeat(200),
            ]
            .concat(),
        ),
        (
            "an index of nothing",
            frame(client::HEADERS, 4, 1, &[0xff, 0x80, 0x01]),
        ),
        (
            "a table above the server's",
            frame(client::HEADERS, 4, 1, &[0x3f, 0xe2, 0x1f, 0x83]),
        ),
        (
            "a string cut short",
            frame(client::HEADERS, 4, 1, &[0x00, 0x7f]),
        ),
        (
            "an integer without an end",
            frame(client::HEADERS, 4, 1, &[0xff; 40]),
        ),
        (
            "a wrong Huffman code",
            frame(client::HEADERS, 4, 1, &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("headers on stream 0", frame(client::HEADERS, 4, 0, &block)),
        (
            "a hundred thousand bytes of header",
            [
                frame(
                    client::HEADERS,
                    0,
                    1,
                    &[0x00, 0x01, b'a', 0x7f, 0xa1, 0x8c, 0x06],
                ),
                frame(client::CONTINUATION, 0, 1, &[b'x'; 16_384]).repeat(7),
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in broken {
        let mut client = Client::connect(&world.node.socket(), &[]).await;
        client.send(bytes).await;
        let code = client.closed().await;
        assert!(code.is_none_or(|code| code != 0), "{what}: {code:?}");
        assert!(
            is_version(&bystander.call(&block, &version()).await),
            "{what}"
        );
    }
    assert!(!world.log().contains("panicked"), "{}", world.log());
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_and_the_connection_serves_on() {
    let world = World::new().await;
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    // A table entry of 4,000 bytes, named again and again: 16 bytes that mean 64 KiB.
    let entry = literal(0x40, b"x-large", &[b'x'; 3900]);
    let authority = literal(0x00, b":authority", PATH);
    let block = [authority.clone(), call("Version"), entry].concat();
    assert!(is_version(&client.call(&block, &version()).await));
    let block = [authority.clone(), call("Version"), vec![0x80 | 62; 6]].concat();
    let stream = client.open();
    client
        .send(&frame(client::HEADERS, 5, stream, &block))
        .await;
    let refused = tokio::time::timeout(Duration::from_secs(20), client.refused(stream)).await;
    assert_eq!(refused.unwrap(), Some("431".to_owned()));
    let block = [authority, call("Version")].concat();
    assert!(is_version(&client.call(&block, &version()).await));
    // Sixteen thousand times: 64 MiB, of which nothing is made.
    let stream = client.open();
    let block = [vec![0x82, 0x86, 0x84], vec![0x80 | 62; 16_000]].concat();
    client
        .send(&frame(client::HEADERS, 5, stream, &block))
        .await;
    assert_ne!(client.closed().await, Some(0));
}

#[tokio::test]
async fn a_client_that_says_nothing_holds_up_nobody() {
    let mut world = World::new().await;
    let mut silent = Vec::new();
    for said in [
        &b""[..],
        b"PRI * HT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        for _ in 0..25 {
            let mut stream = UnixStream::connect(world.node.socket()).await.unwrap();
            stream.write_all(said).await.unwrap();
            silent.push(stream);
        }
    }
    // One has shut down its half, in the middle of a frame.
    silent.last_mut().unwrap().shutdown().await.unwrap();
    let volume = world.volume("web");
    assert_eq!(world.mount(&volume, &class(KV)).await.files.len(), 1);
    let started = Instant::now();
    let ended = world.daemon.take().unwrap().terminate().await;
    assert!(
        ended.success(),
        "{ended} after {:?}: {}",
        started.elapsed(),
        world.node.logs()
    );
    drop(silent);
}

/// `provider::authority` holds clients to HTTP/2's defaults: were larger ones announced, it would lose step.
#[tokio::test]
async fn the_server_announces_the_default_frame_and_table_sizes() {
    let world = World::new().await;
    let mut client = Client::connect(&world.node.socket(), &[]).await;
    let block = with_authority(&[0x81]);
    assert!(is_version(&client.call(&block, &version()).await));
    let settings: BTreeMap<u16, u32> = client
        .settings
        .chunks(6)
        .map(|setting| {
            let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
            (u16::from_be_bytes([setting[0], setting[1]]), value)
        })
        .collect();
    assert_eq!(
        settings.get(&0x1).copied().unwrap_or(4096),
        4096,
        "HEADER_TABLE_SIZE"
    );
    assert_eq!(
        settings.get(&0x5).copied().unwrap_or(16_384),
        16_384,
        "MAX_FRAME_SIZE"
    );
    assert!(settings[&0x6] <= 16_384, "MAX_HEADER_LIST_SIZE");
}
