//! Classes name files: pipes, devices, loops, ten thousand at once, others' directories.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dev_vault::{DevVault, Options};
use serde_json::{Value, json};

use crate::scene::{Scene, none};

/// Within what time a Mount that names such a file is refused.
const REFUSED: Duration = Duration::from_secs(15);

fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["vault".to_owned()]).unwrap();
    made.cert.pem()
}

/// Certificates that differ, this many bytes of PEM: one with other serial numbers, whose signature nobody checks.
fn certificates(bytes: usize) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["vault".to_owned()]).unwrap();
    let mut der = made.cert.der().to_vec();
    // Certificate, TBSCertificate, version; then the serial number.
    let serial = der.windows(3).position(|part| part == [2, 1, 2]).unwrap() + 5;
    let mut pem = String::new();
    let mut number = 0_u32;
    while pem.len() + 2000 < bytes {
        der[serial + 4..serial + 8].copy_from_slice(&number.to_be_bytes());
        number += 1;
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(&der);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).unwrap());
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// A class that names a file by one of its fields. Its server is away: the files come first.
fn naming(field: &str, path: &Path) -> Value {
    let mut class = json!({
        "roleName": "hostile",
        "vaultAddress": "https://127.0.0.1:9",
        "objects": "- {objectName: k, secretPath: x/y, secretKey: key}",
    });
    class[field] = json!(path);
    class
}

/// Every field, with every file; a client's certificate and key go together.
fn classes(places: &[(String, String)], good: &Path) -> Vec<(String, Value)> {
    let fields = [
        "vaultCACertPath",
        "vaultCADirectory",
        "vaultTLSClientKeyPath",
        "vaultTLSClientCertPath",
    ];
    let mut classes = Vec::new();
    for (name, place) in places {
        for field in fields {
            let mut class = naming(field, Path::new(place));
            match field {
                "vaultTLSClientKeyPath" => class["vaultTLSClientCertPath"] = json!(good),
                "vaultTLSClientCertPath" => class["vaultTLSClientKeyPath"] = json!(good),
                _ => {}
            }
            classes.push((format!("{field} {name}"), class));
        }
    }
    classes
}

/// The places that a hostile class names, by what they are.
fn places(base: &Path, pem: &str) -> Vec<(String, String)> {
    let at = |name: &str| base.join(name);
    pipe(&at("pipe"));
    fs::create_dir(at("pipes")).unwrap();
    for number in 0..100 {
        pipe(&at("pipes").join(number.to_string()));
    }
    symlink(at("loop"), at("loop")).unwrap();
    fs::create_dir(at("circle")).unwrap();
    symlink(at("circle"), at("circle").join("again")).unwrap();
    // Links cost no space. Each is a file of some fifty certificates.
    fs::write(at("bundle"), pem.repeat(50)).unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..10_000 {
        fs::hard_link(at("bundle"), at("many").join(number.to_string())).unwrap();
    }
    fs::create_dir(at("some")).unwrap();
    for number in 0..500 {
        fs::hard_link(at("bundle"), at("some").join(number.to_string())).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    File::create(at("growing")).unwrap();
    let names = [
        "pipe", "pipes", "loop", "circle", "many", "some", "sparse", "growing",
    ];
    let own = names.map(|name| (name.to_owned(), at(name).display().to_string()));
    let others = [
        "/dev/zero",
        "/dev/random",
        "/dev/tty",
        "/dev/ptmx",
        "/proc",
        "/proc/self/mem",
        "/sys",
        "/proc/kmsg",
    ];
    let others = others.map(|place| (place.to_owned(), place.to_owned()));
    own.into_iter().chain(others).collect()
}

#[tokio::test]
async fn files_that_block_or_never_end_hold_up_nobody() {
    // Made first: the healthy tenant's server runs on this thread.
    let base = tempfile::tempdir().unwrap();
    let pem = certificate();
    let good = base.path().join("good.pem");
    fs::write(&good, &pem).unwrap();
    let places = places(base.path(), &pem);
    let mut scene = Scene::new("files that block or never end").await;
    let growing = base.path().join("growing");
    let grows = std::thread::spawn(move || {
        let file = File::options().append(true).open(growing).unwrap();
        for length in 1..2000 {
            file.set_len(length * 64 * 1024).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let mut calls = Vec::new();
    for (at, (name, class)) in classes(&places, &good).into_iter().enumerate() {
        let volume = scene.volume("greedy", &format!("file-{at}"));
        let call = scene.call(&volume, &class);
        calls.push((
            name,
            Instant::now(),
            tokio::spawn(tokio::time::timeout(REFUSED, call)),
        ));
    }
    scene.watch(Duration::from_secs(3)).await;
    for (name, _, call) in calls {
        match call.await.unwrap() {
            Ok(Err(_)) => {}
            Ok(Ok(_)) => scene.fault(format!("{name}: mounted")),
            Err(_) => scene.fault(format!("{name}: no answer in {REFUSED:?}")),
        }
    }
    grows.join().unwrap();
    none([scene.end(Duration::from_secs(15)).await]);
}

#[tokio::test]
async fn neither_pods_nor_the_state_are_a_place_of_certificates() {
    let mut scene = Scene::new("pods and state as places of CAs").await;
    // A server that is trusted by a certificate in another pod's volume, or in the journal's directory.
    let own = DevVault::start(Options {
        tls: true,
        ..Options::default()
    })
    .await
    .unwrap();
    let victim = scene.volume("shop", "victim").target();
    let state = scene.world.node.state();
    let outside = tempfile::tempdir().unwrap();
    for place in [&victim, &state] {
        fs::write(place.join("ca.pem"), own.ca_pem()).unwrap();
    }
    symlink(&victim, outside.path().join("link")).unwrap();
    symlink(state.join("ca.pem"), outside.path().join("link.pem")).unwrap();
    let up = victim.join("../../v/mount");
    let places = [
        ("vaultCACertPath", victim.join("ca.pem")),
        ("vaultCADirectory", victim.clone()),
        ("vaultCACertPath", up.join("ca.pem")),
        ("vaultCADirectory", up),
        ("vaultCACertPath", state.join("ca.pem")),
        ("vaultCADirectory", state.clone()),
        ("vaultCADirectory", outside.path().join("link")),
        (
            "vaultCACertPath",
            outside.path().join("link").join("ca.pem"),
        ),
        ("vaultCACertPath", outside.path().join("link.pem")),
    ];
    for (at, (field, place)) in places.iter().enumerate() {
        let mut class = naming(field, place);
        class["vaultAddress"] = json!(own.url());
        let volume = scene.volume("greedy", &format!("place-{at}"));
        let mounted = scene.mount(&volume, &class).await;
        let asked = own.calls().len();
        scene.expect(mounted.is_err() && asked == 0, || {
            format!("{field} {} is trusted", place.display())
        });
        own.clear_calls();
    }
    // The same certificate elsewhere is.
    let good = outside.path().join("good.pem");
    fs::write(&good, own.ca_pem()).unwrap();
    let mut class = naming("vaultCACertPath", &good);
    class["vaultAddress"] = json!(own.url());
    let volume = scene.volume("greedy", "elsewhere");
    let _ = scene.mount(&volume, &class).await;
    scene.expect(!own.calls().is_empty(), || {
        "a certificate elsewhere is not trusted".to_owned()
    });
    scene.watch(Duration::from_millis(500)).await;
    none([scene.end(Duration::from_secs(15)).await]);
}

/// One certificate of very many names, of just below 2 MiB of PEM: parsed, it takes many times that.
fn of_many_names() -> String {
    let name = rcgen::SanType::DnsName("a".try_into().unwrap());
    let mut parameters = rcgen::CertificateParams::default();
    parameters.subject_alt_names = vec![name; 500_000];
    let key = rcgen::KeyPair::generate().unwrap();
    parameters.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn places_full_of_certificates_stay_within_the_pods_memory() {
    let base = tempfile::tempdir().unwrap();
    let pem = certificates(1024 * 1024 - 1024);
    let whole = base.path().join("whole");
    fs::write(&whole, pem).unwrap();
    let names = of_many_names();
    assert!(names.len() <= 2 * 1024 * 1024, "{}", names.len());
    let many = base.path().join("names");
    fs::write(&many, names).unwrap();
    let mut scene =
        Scene::new("8 directories of 4 MiB of certificates, 24 of two of many names").await;
    let mut calls = Vec::new();
    for number in 0..32 {
        let directory = base.path().join(format!("d{number}"));
        fs::create_dir(&directory).unwrap();
        for part in 0..4 {
            let file = if number % 4 == 0 { &whole } else { &many };
            // Two of them are the most of one directory.
            if number % 4 == 0 || part < 2 {
                fs::hard_link(file, directory.join(part.to_string())).unwrap();
            }
        }
        let volume = scene.volume(&format!("greedy-{}", number % 4), &format!("pod-{number}"));
        let call = scene.call(&volume, &naming("vaultCADirectory", &directory));
        calls.push(tokio::spawn(tokio::time::timeout(REFUSED, call)));
    }
    scene.watch(Duration::from_secs(2)).await;
    for call in calls {
        let ended = call.await.unwrap();
        scene.expect(ended.is_ok(), || format!("no answer in {REFUSED:?}"));
    }
    none([scene.end(Duration::from_secs(60)).await]);
}
