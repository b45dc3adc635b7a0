//! Ours held against what Go's client answered (`tests/recorded/tls.json`): the chains, the bundles, the
//! directories and the key pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Record {
    now: u64,
    certificates: BTreeMap<String, String>,
    cases: Vec<Case>,
    bundles: Vec<Bundle>,
    directories: Vec<Directory>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Case {
    what: String,
    trusted: Vec<String>,
    chain: Vec<String>,
    server: String,
    accepted: bool,
}

#[derive(Deserialize)]
struct Answer {
    trusted: BTreeSet<String>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Bundle {
    what: String,
    text: String,
    vault: Answer,
    openbao: Answer,
}

#[derive(Deserialize)]
struct Directory {
    what: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    vault: Answer,
    openbao: Answer,
}

#[derive(Deserialize)]
struct Pair {
    what: String,
    certificate: String,
    key: String,
    accepted: bool,
}

/// Where we differ on purpose: why, and in which inputs. `docs/compatibility.md` says so too.
const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "RSA of less than 2048 bits, and P-224, are broken or unused",
        &["signature: RSA 1024", "signature: P-224", "an RSA 1024 key"],
    ),
    (
        "policies are not checked, so what requires that is refused",
        &[
            "policyConstraints with policies",
            "strict: policyConstraints big",
        ],
    ),
    (
        "no URL has such a host",
        &[
            "name star for *",
            "name odd for a..b",
            "name odd for -a.x",
            "name odd for a-.x",
            "name odd for a@b.x",
        ],
    ),
    (
        "they fail at a link in a directory that leads to no file, and so at every ConfigMap",
        &[
            "a link to a directory",
            "a dangling link",
            "as a ConfigMap is mounted",
        ],
    ),
    ("they trust nothing then, without a word", &["empty"]),
    (
        "an excluded range of IPv4 holds for its addresses in IPv6 form too",
        &[
            "strict: IP excluded 10/8, SAN mapped 16 bytes",
            "strict: IP excluded ::ffff:10.0.0.0/104, SAN 4 bytes",
        ],
    ),
];

fn record() -> Record {
    serde_json::from_slice(&fs::read("tests/recorded/tls.json").unwrap()).unwrap()
}

impl Record {
    fn der(&self, name: &str) -> CertificateDer<'static> {
        let text = &self.certificates[name];
        BASE64_STANDARD.decode(text).unwrap().into()
    }

    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.now))
    }

    fn verified(&self, case: &Case) -> Result<(), String> {
        let mut trusted = Trusted::default();
        for name in &case.trusted {
            trusted.add(&self.der(name));
        }
        let verifier = Verifier {
            trusted: Some(trusted),
            algorithms: provider().signature_verification_algorithms,
        };
        let sent: Vec<_> = case.chain.iter().map(|name| self.der(name)).collect();
        let name = ServerName::try_from(case.server.as_str()).map_err(|error| error.to_string())?;
        verifier
            .verify_server_cert(&sent[0], &sent[1..], &name, &[], self.now())
            .map(drop)
            .map_err(|error| told(&error))
    }

    /// Which of some certificates settings trust.
    fn trusted_by(&self, settings: &Tls) -> Result<BTreeSet<String>, String> {
        let trusted =
            files::trusted(settings, &TlsFiles::default()).map_err(|error| error.to_string())?;
        let asked = ["root", "root2", "p521ca", "selfca"].into_iter();
        Ok(asked
            .filter(|name| {
                let der = self.der(name);
                trusted.contains(&certificate::parse(&der).unwrap())
            })
            .map(str::to_owned)
            .collect())
    }
}

/// Compares, and complains of all differences at once. A reason that holds no more is a difference too.
fn compare(part: &[&str], differences: BTreeMap<String, String>) {
    let mut reasons: BTreeSet<&str> = DIFFERENT
        .iter()
        .flat_map(|(_, inputs)| inputs.iter().copied())
        .filter(|input| part.contains(input))
        .collect();
    let unknown: Vec<_> = differences
        .into_iter()
        .filter(|(what, _)| !reasons.remove(what.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(reasons.is_empty(), "no difference any more: {reasons:?}");
}

#[test]
fn chains_are_trusted_as_go_trusts_them() {
    let record = record();
    let mut differences = BTreeMap::new();
    for case in &record.cases {
        let ours = record.verified(case);
        if ours.is_ok() != case.accepted {
            let told = format!("theirs {}, ours {ours:?}", case.accepted);
            differences.insert(case.what.clone(), told);
        }
    }
    let asked: Vec<_> = record.cases.iter().map(|case| case.what.as_str()).collect();
    assert!(asked.len() > 500, "{}", asked.len());
    compare(&asked, differences);
}

#[test]
fn bundles_are_read_as_go_reads_them() {
    let record = record();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    let mut differences = BTreeMap::new();
    for bundle in &record.bundles {
        fs::write(&file, &bundle.text).unwrap();
        let by_file = record.trusted_by(&Tls {
            ca_file: Some(file.clone()),
            ..Tls::default()
        });
        let inline = record.trusted_by(&Tls {
            ca_pem: Some(bundle.text.clone()),
            ..Tls::default()
        });
        for ours in [by_file, inline] {
            for theirs in [&bundle.vault, &bundle.openbao] {
                let is_equal = match &ours {
                    Ok(trusted) => theirs.error.is_empty() && *trusted == theirs.trusted,
                    Err(_) => !theirs.error.is_empty(),
                };
                // Nothing is trusted by accident: `DIFFERENT` holds of directories alone.
                if !is_equal {
                    let told = format!("theirs {:?}, ours {ours:?}", theirs.trusted);
                    differences.insert(bundle.what.clone(), told);
                }
            }
        }
    }
    assert!(record.bundles.len() > 50);
    compare(&[], differences);
}

#[test]
fn directories_are_read_as_one_of_both_reads_them() {
    let record = record();
    let mut differences = BTreeMap::new();
    for directory in &record.directories {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in &directory.files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for (name, target) in &directory.links {
            symlink(target, root.path().join(name)).unwrap();
        }
        let ours = record.trusted_by(&Tls {
            ca_directory: Some(root.path().to_owned()),
            ..Tls::default()
        });
        let is_equal = |theirs: &Answer| match &ours {
            Ok(trusted) => theirs.error.is_empty() && *trusted == theirs.trusted,
            Err(_) => !theirs.error.is_empty(),
        };
        // OpenBao's passes over files without a certificate, Vault's fails at them.
        if !is_equal(&directory.vault) && !is_equal(&directory.openbao) {
            differences.insert(directory.what.clone(), format!("{ours:?}"));
        }
    }
    let asked = record.directories.iter();
    compare(
        &asked.map(|of| of.what.as_str()).collect::<Vec<_>>(),
        differences,
    );
}

/// A tenant names the directory.
#[test]
fn a_directory_of_any_size_costs_a_bounded_memory() {
    let root = tempfile::tempdir().unwrap();
    let settings = Tls {
        ca_directory: Some(root.path().to_owned()),
        ..Tls::default()
    };
    let refused = |settings: &Tls| {
        files::trusted(settings, &TlsFiles::default())
            .unwrap_err()
            .to_string()
    };
    for at in 0..5 {
        let file = fs::File::create(root.path().join(format!("{at}"))).unwrap();
        file.set_len(1024 * 1024).unwrap();
    }
    assert!(refused(&settings).contains("more than 4 MiB"));
    for at in 1..5 {
        fs::write(root.path().join(format!("{at}")), "").unwrap();
    }
    let file = fs::File::create(root.path().join("0")).unwrap();
    file.set_len(2 * 1024 * 1024 + 1).unwrap();
    assert!(refused(&settings).contains("is larger than 2 MiB"));
    assert_eq!(files::listed(root.path(), 5).unwrap().len(), 5);
    let told = files::listed(root.path(), 4).unwrap_err().to_string();
    assert!(told.contains("more than 4 files"), "{told}");
}

/// Whoever names a file may change it for a pipe between a look at it and its opening.
#[test]
fn a_pipe_is_refused_without_a_wait() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let told = files::open(&pipe).unwrap_err().to_string();
    assert!(told.contains("no regular file"), "{told}");
    let settings = Tls {
        ca_file: Some(pipe),
        ..Tls::default()
    };
    let told = files::trusted(&settings, &TlsFiles::default())
        .unwrap_err()
        .to_string();
    assert!(told.contains("no regular file"), "{told}");
}

#[test]
fn a_rewrite_that_keeps_length_and_time_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    fs::write(&file, "one").unwrap();
    let settings = Tls {
        ca_file: Some(file.clone()),
        ..Tls::default()
    };
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let before = fingerprint(&settings);
    assert_eq!(fingerprint(&settings), before);
    // A file system's clock may tick as seldom as 100 times a second.
    std::thread::sleep(Duration::from_millis(50));
    fs::write(&file, "two").unwrap();
    let opened = fs::File::options().write(true).open(&file).unwrap();
    opened.set_modified(modified).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), modified);
    assert_ne!(fingerprint(&settings), before);
}

#[test]
fn key_pairs_are_taken_as_go_takes_them() {
    let record = record();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut differences = BTreeMap::new();
    for pair in &record.pairs {
        fs::write(at("crt"), &pair.certificate).unwrap();
        fs::write(at("key"), &pair.key).unwrap();
        let ours = files::identity(&provider(), &at("crt"), &at("key"), &TlsFiles::default());
        let ours = ours.map(drop).map_err(|error| error.to_string());
        if pair.what.contains("encrypted") {
            let told = ours.clone().unwrap_err();
            assert!(told.contains("vaultTLSClientKeyPath: this private key is encrypted"));
        }
        if ours.is_ok() != pair.accepted {
            let told = format!("theirs {}, ours {ours:?}", pair.accepted);
            differences.insert(pair.what.clone(), told);
        }
    }
    let asked: Vec<_> = record.pairs.iter().map(|pair| pair.what.as_str()).collect();
    compare(&asked, differences);
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    let record = record();
    for (what, words) in [
        ("no such CA", "UnknownIssuer"),
        (
            "another CA of the same subject",
            "the signature is not by its key",
        ),
        (
            "wrong name",
            "not valid for name \"vault.other.svc\"; it is valid for vault.shop.svc",
        ),
        ("expired", "certificate expired"),
        ("not valid yet", "certificate not valid yet"),
        ("an intermediate that has expired", "certificate expired"),
        (
            "name cn-only for vault.shop.svc",
            "a common name does not count",
        ),
        ("signed with SHA-1", "algorithm is not supported (SHA-1"),
        (
            "extendedKeyUsage client",
            "extendedKeyUsage does not allow a server",
        ),
        (
            "an intermediate whose keyUsage has no keyCertSign",
            "does not allow it to sign",
        ),
        (
            "signed by CA:FALSE that is sent",
            "not a CA's (basicConstraints)",
        ),
        (
            "constraints: not permitted",
            "\"vault.shop.svc\" is not among the names",
        ),
    ] {
        let case = record.cases.iter().find(|case| case.what == what).unwrap();
        let told = record.verified(case).err().unwrap_or_default();
        assert!(told.contains(words), "{what}: {told}");
    }
}

/// A CA whose certificates lead to one another in every possible way, and names and constraints by the
/// thousand: a tenant's server may send what it likes.
#[test]
fn a_chain_without_end_costs_a_bounded_time() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let params = |subject: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, subject);
        params
    };
    let keys: Vec<_> = (0..12).map(|_| KeyPair::generate().unwrap()).collect();
    let mut sent = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        for (by, issuer) in keys.iter().enumerate().filter(|(by, _)| *by != at) {
            let by = params(&format!("ca {by}"));
            let issuer = Issuer::from_params(&by, issuer);
            let made = params(&format!("ca {at}")).signed_by(key, &issuer).unwrap();
            sent.push(made.der().clone());
        }
    }
    let mut own = CertificateParams::new(vec!["vault".to_owned()]).unwrap();
    own.distinguished_name.push(DnType::CommonName, "server");
    let by = params("ca 0");
    let issuer = Issuer::from_params(&by, &keys[0]);
    let own = own
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let mut trusted = Trusted::default();
    trusted.add(&record().der("root"));
    let verifier = Verifier {
        trusted: Some(trusted),
        algorithms: provider().signature_verification_algorithms,
    };
    let started = Instant::now();
    let name = ServerName::try_from("vault").unwrap();
    let refused = verifier
        .verify_server_cert(own.der(), &sent, &name, &[], UnixTime::now())
        .unwrap_err();
    assert!(
        told(&refused).contains("more than 100 signatures"),
        "{}",
        told(&refused)
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn names_and_constraints_by_the_thousand_are_refused() {
    let domains: Vec<String> = (0..1000).map(|at| format!("d{at}.x")).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    let names = extensions::Names {
        dns: domains.clone(),
        ..extensions::Names::default()
    };
    let permitted = extensions::Subtrees {
        dns: domains,
        ..extensions::Subtrees::default()
    };
    let none = extensions::Subtrees::default();
    let refused = constraints::check(&names, &permitted, &none, &mut 0).unwrap_err();
    assert!(refused.contains("too many"), "{refused}");
}

/// A tenant's CA with more names than bytes that a handshake could bring, and a server that sends CAs of the
/// same name, so that it would be looked at again for each.
#[test]
fn a_certificate_of_any_size_costs_a_bounded_memory() {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair};
    let with = |names: usize| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let list = [0x82, 0].repeat(names);
        let [.., high, low] = list.len().to_be_bytes();
        let value = [&[0x30, 0x82, high, low][..], &list].concat();
        let alternatives = CustomExtension::from_oid_content(&[2, 5, 29, 17], value);
        params.custom_extensions.push(alternatives);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        made.der().clone()
    };
    let (small, large) = (with(32_000), with(32_700));
    assert!(small.len() < certificate::LARGEST && certificate::LARGEST < large.len());
    let mut trusted = Trusted::default();
    trusted.add(&large);
    assert!(trusted.is_empty());
    trusted.add(&small);
    trusted.add(&small);
    assert!((small.len()..2 * small.len()).contains(&trusted.bytes()));
    // Each of these is signed by the next, and may be by the trusted one, by its name.
    let params = || {
        let mut params = CertificateParams::new(vec!["vault".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let keys: Vec<_> = (0..60).map(|_| KeyPair::generate().unwrap()).collect();
    let sent: Vec<_> = std::iter::zip(&keys, keys.iter().skip(1))
        .map(|(key, by)| {
            let named = params();
            let by = rcgen::Issuer::from_params(&named, by);
            params().signed_by(key, &by).unwrap().der().clone()
        })
        .collect();
    let verifier = Verifier {
        trusted: Some(trusted),
        algorithms: provider().signature_verification_algorithms,
    };
    let name = ServerName::try_from("vault").unwrap();
    let started = Instant::now();
    let refused = verifier.verify_server_cert(&sent[0], &sent[1..], &name, &[], UnixTime::now());
    assert!(told(&refused.unwrap_err()).contains("more than 100 signatures"));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn nothing_is_verified_that_go_does_not_verify() {
    let algorithms = provider().signature_verification_algorithms;
    let schemes = format!("{:?}", algorithms.supported_schemes());
    assert!(!schemes.contains("ML_DSA"), "{schemes}");
    assert!(schemes.contains("ED25519") && schemes.contains("ECDSA_NISTP521_SHA512"));
    let mut all = algorithms.all.iter();
    assert!(!all.any(|algorithm| algorithm.signature_alg_id() == alg_id::ML_DSA_65));
}

/// What a server said of itself yesterday is not taken for what it says today.
#[test]
fn each_handshake_verifies_the_server() {
    let made = rcgen::generate_simple_self_signed(vec!["vault".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der();
    let chain = vec![made.cert.der().clone()];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone().try_into().unwrap())
            .unwrap();
        let server = Arc::new(server);
        let settings = Tls {
            ca_pem: Some(made.cert.pem()),
            ..Tls::default()
        };
        let client = Arc::new(config(&settings, &TlsFiles::default()).unwrap().config);
        for _ in 0..2 {
            let name = ServerName::try_from("vault").unwrap();
            let mut client = rustls::ClientConnection::new(Arc::clone(&client), name).unwrap();
            let mut server = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
            while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
                let mut sent = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut sent).unwrap();
                }
                while server.wants_read() && !sent.is_empty() {
                    let mut rest = sent.as_slice();
                    server.read_tls(&mut rest).unwrap();
                    sent = rest.to_vec();
                    server.process_new_packets().unwrap();
                }
                let mut sent = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut sent).unwrap();
                }
                let mut rest = sent.as_slice();
                while !rest.is_empty() {
                    client.read_tls(&mut rest).unwrap();
                    client.process_new_packets().unwrap();
                }
            }
            assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
    }
}

/// Whatever bytes a server or a bundle brings, nothing panics.
#[test]
fn certificates_of_any_bytes_are_refused_or_read() {
    let record = record();
    let mut state = 7_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap()
    };
    let name = ServerName::try_from("vault.shop.svc").unwrap();
    for der in record.certificates.keys().map(|name| record.der(name)) {
        for _ in 0..20 {
            let mut bytes = der.to_vec();
            for _ in 0..=random() % 3 {
                let at = random() % bytes.len();
                bytes[at] = u8::try_from(random() % 256).unwrap();
            }
            bytes.truncate(bytes.len() - random() % 2 * (random() % 20));
            if let Some(parsed) = certificate::parse(&bytes) {
                let _ = parsed.names.fit(&name);
                let _ =
                    constraints::check(&parsed.names, &parsed.permitted, &parsed.excluded, &mut 0);
            }
        }
    }
}

#[test]
fn a_client_certificate_of_version_1_is_taken_with_its_own_key_alone() {
    let with = |certificate: &str, key: &str| {
        let at = |name: &str| Some(Path::new("tests/fixtures/keys").join(name));
        let settings = Tls {
            client_certificate: at(certificate),
            client_key: at(key),
            skip_verify: true,
            ..Tls::default()
        };
        config(&settings, &TlsFiles::default())
    };
    assert!(with("p256.v1.crt", "p256.sec1.pem").is_ok());
    let told = with("p256.v1.crt", "rsa.pkcs1.pem")
        .unwrap_err()
        .to_string();
    assert!(told.contains("do not belong together"), "{told}");
}
