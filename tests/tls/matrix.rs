//! Every way to name a CA and to show a certificate, with its failing twin. The table is printed by each run.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};

use rcgen::date_time_ymd;
use tonic::Code;

use super::support::ca::{Ca, Identity};
use super::support::front::Front;
use super::{LOOKED_AT_AGAIN, Mounted, Served, World};

pub type Parameters = Vec<(&'static str, String)>;

/// What must work, and what must not, with the words that tell why.
pub struct Row {
    pub what: &'static str,
    pub good: Parameters,
    pub twin: &'static str,
    pub bad: Parameters,
    pub code: Code,
    pub told: &'static str,
}

pub const UNTRUSTED: (Code, &str) = (Code::Internal, "invalid peer certificate: UnknownIssuer");

pub fn https(front: &Front) -> (&'static str, String) {
    ("vaultAddress", format!("https://{}", front.address))
}

/// Files for classes to name.
pub struct Files(pub tempfile::TempDir);

impl Files {
    pub fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// As kubelet mounts a ConfigMap: `..data`, and links through it.
    fn config_map(&self, name: &str, ca: &str) -> String {
        self.put(&format!("{name}/..2026/ca.crt"), ca);
        let directory = self.0.path().join(name);
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, directory.join(from));
        link("..2026", "..data").unwrap();
        link("..data/ca.crt", "ca.crt").unwrap();
        directory.display().to_string()
    }
}

/// Keeps the rows' outcomes, for the table.
#[derive(Default)]
pub struct Table(String);

impl Table {
    pub fn good(&mut self, what: &str, mounted: &Mounted) {
        assert_eq!(*mounted, Ok(1), "{what}");
        write!(self.0, "| {what} | served ").unwrap();
    }

    pub fn bad(&mut self, twin: &str, mounted: Mounted, (code, told): (Code, &str)) {
        let (got, message) = mounted.expect_err(twin);
        assert_eq!(got, code, "{twin}: {message}");
        assert!(message.contains(told), "{twin}: {told:?} in {message:?}");
        writeln!(self.0, "| {twin} | {got:?}: {told} |").unwrap();
    }

    /// Past the capture of a passing test's output.
    pub fn print(self) {
        let head = "| way | outcome | twin | its message holds |\n|---|---|---|---|\n";
        io::stderr()
            .write_all(format!("\n{head}{}", self.0).as_bytes())
            .unwrap();
    }
}

pub async fn run(world: &World, served: &Served, rows: Vec<Row>) {
    let mut table = Table::default();
    for row in rows {
        table.good(row.what, &world.mount(served, &row.good).await);
        let refused = world.mount(served, &row.bad).await;
        table.bad(row.twin, refused, (row.code, row.told));
    }
    table.print();
}

/// A mount that a server's TLS refuses, as the driver asks for it: again after a timeout. hyper now and then
/// never answers a request that it takes just while its connection ends; our own timeout does.
async fn refused(world: &World, served: &Served, parameters: &[(&str, String)]) -> Mounted {
    let mut mounted = world.mount(served, parameters).await;
    for _ in 0..3 {
        match &mounted {
            Err((Code::Internal, message)) if message.contains("no reply within 3s") => {
                mounted = world.mount(served, parameters).await;
            }
            _ => break,
        }
    }
    mounted
}

#[tokio::test]
async fn every_way_to_trust_a_server_has_its_failing_twin() {
    let world = World::new(false).await;
    let served = world.serve(&[], &[]).await;
    let files = Files(tempfile::tempdir().unwrap());
    let (ca, other) = (Ca::new("ours"), Ca::new("another"));
    let front = |identity: Identity, listen: &'static str| {
        let to = world.address();
        async move { Front::tls(to, listen, &identity, None).await }
    };
    let here = front(ca.server(&["127.0.0.1", "localhost"]), "127.0.0.1:0").await;
    let named = front(ca.server(&["vault.internal"]), "127.0.0.1:0").await;
    let six = front(ca.server(&["::1"]), "[::1]:0").await;
    let unnamed_six = front(ca.server(&["localhost"]), "[::1]:0").await;
    let expired = ca.changed(&["127.0.0.1"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let expired = front(expired, "127.0.0.1:0").await;
    let early = ca.changed(&["127.0.0.1"], |params| {
        params.not_before = date_time_ymd(2090, 1, 1);
    });
    let early = front(early, "127.0.0.1:0").await;
    let bundle = files.put("bundle.crt", &format!("{}\n{}", other.pem, ca.pem));
    let wrong = files.put("other.crt", &other.pem);
    let row = |what, good: Parameters, twin, bad: Parameters, (code, told)| Row {
        what,
        good: [vec![https(&here)], good].concat(),
        twin,
        bad: [vec![https(&here)], bad].concat(),
        code,
        told,
    };
    let inline = || ("vaultCACert", ca.pem.clone());
    let skip = || ("vaultSkipTLSVerify", "true".to_owned());
    let name = |name: &str| ("vaultTLSServerName", name.to_owned());
    let to = |front: &Front| vec![inline(), https(front)];
    let rows = vec![
        row(
            "vaultCACertPath: a bundle",
            vec![("vaultCACertPath", bundle)],
            "another CA",
            vec![("vaultCACertPath", wrong)],
            UNTRUSTED,
        ),
        row(
            "vaultCACertPath: relative links and all",
            vec![(
                "vaultCACertPath",
                files.config_map("file", &ca.pem) + "/ca.crt",
            )],
            "no such file",
            vec![("vaultCACertPath", "/nowhere/ca.crt".to_owned())],
            (Code::InvalidArgument, "vaultCACertPath /nowhere/ca.crt"),
        ),
        row(
            "vaultCADirectory: as a ConfigMap is mounted",
            vec![("vaultCADirectory", files.config_map("right", &ca.pem))],
            "another CA in it",
            vec![("vaultCADirectory", files.config_map("wrong", &other.pem))],
            UNTRUSTED,
        ),
        row(
            "vaultCADirectory: beside what is none",
            vec![("vaultCADirectory", {
                files.put("mixed/README", "not PEM");
                files.put("mixed/0a1b2c.0", &ca.pem);
                files.at("mixed")
            })],
            "no certificate in it",
            vec![("vaultCADirectory", {
                files.put("none/README", "not PEM");
                files.at("none")
            })],
            (Code::InvalidArgument, "vaultCADirectory: no usable CA"),
        ),
        row(
            "vaultCACert",
            vec![inline()],
            "not PEM",
            vec![("vaultCACert", "nothing".to_owned())],
            (Code::InvalidArgument, "vaultCACert: no usable CA"),
        ),
        row(
            "vaultTLSServerName",
            vec![inline(), https(&named), name("vault.internal")],
            "another name",
            vec![inline(), https(&named), name("vault.example")],
            (Code::Internal, "not valid for name \"vault.example\""),
        ),
        row(
            "the host of the address as name",
            vec![inline()],
            "a certificate for another",
            to(&named),
            (Code::Internal, "not valid for name \"127.0.0.1\""),
        ),
        row(
            "an IPv6 address",
            to(&six),
            "a certificate without it",
            to(&unnamed_six),
            (Code::Internal, "not valid for name \"::1\""),
        ),
        row(
            "vaultSkipTLSVerify: true",
            vec![skip(), https(&expired)],
            "false, and another CA",
            vec![
                ("vaultSkipTLSVerify", "false".to_owned()),
                ("vaultCACert", other.pem.clone()),
            ],
            UNTRUSTED,
        ),
        row(
            "a certificate in its time",
            vec![inline()],
            "expired",
            to(&expired),
            (Code::Internal, "certificate expired"),
        ),
        row(
            "a certificate in its time",
            vec![inline()],
            "not valid yet",
            to(&early),
            (Code::Internal, "certificate not valid yet"),
        ),
    ];
    run(&world, &served, rows).await;
    // What one class trusts says nothing of the server: it stays open to the others.
    for _ in 0..5 {
        let bad = [https(&here), ("vaultCACert", other.pem.clone())];
        assert!(world.mount(&served, &bad).await.is_err());
        assert_eq!(world.mount(&served, &to(&here)).await, Ok(1));
        assert!(world.mount(&served, &bad).await.is_err());
        assert!(world.mount(&served, &bad).await.is_err());
    }
    assert_eq!(world.mount(&served, &to(&here)).await, Ok(1));
}

const KEYS: &[(&str, &str, &str)] = &[
    (
        "PKCS#1 (RSA)",
        include_str!("../fixtures/keys/rsa.pkcs1.pem"),
        include_str!("../fixtures/keys/rsa.pkcs8.pem"),
    ),
    (
        "PKCS#8 (RSA)",
        include_str!("../fixtures/keys/rsa.pkcs8.pem"),
        include_str!("../fixtures/keys/rsa.pkcs8.pem"),
    ),
    (
        "SEC1 (EC, behind its parameters)",
        include_str!("../fixtures/keys/p256.sec1.pem"),
        include_str!("../fixtures/keys/p256.pkcs8.pem"),
    ),
    (
        "PKCS#8 (EC)",
        include_str!("../fixtures/keys/p256.pkcs8.pem"),
        include_str!("../fixtures/keys/p256.pkcs8.pem"),
    ),
];

#[tokio::test]
async fn a_client_certificate_is_shown_with_a_key_of_any_form() {
    let world = World::new(false).await;
    let served = world.serve(&[], &[("VAULT_CLIENT_TIMEOUT", "3s")]).await;
    let files = Files(tempfile::tempdir().unwrap());
    let (ca, clients, others) = (Ca::new("ours"), Ca::new("clients"), Ca::new("others"));
    let own = ca.server(&["127.0.0.1"]);
    let front = Front::tls(world.address(), "127.0.0.1:0", &own, Some(&clients.pem)).await;
    let made = Cell::new(0);
    let shown = |certificate: &str, key: &str| {
        // Files of their own: under an old name, a pair that does not fit is half a rotation.
        let at = |name: &str| format!("{}/{name}", made.get());
        made.set(made.get() + 1);
        vec![
            https(&front),
            ("vaultCACert", ca.pem.clone()),
            (
                "vaultTLSClientCertPath",
                files.put(&at("tls.crt"), certificate),
            ),
            ("vaultTLSClientKeyPath", files.put(&at("tls.key"), key)),
        ]
    };
    let mut table = Table::default();
    let (_, ec, _) = KEYS[3];
    for (form, key, pkcs8) in KEYS {
        let certificate = clients.client(pkcs8).pem;
        let good = world.mount(&served, &shown(&certificate, key)).await;
        table.good(&format!("mTLS, key in {form}"), &good);
        let other = KEYS.iter().find(|(_, _, other)| other != pkcs8).unwrap().1;
        let bad = world.mount(&served, &shown(&certificate, other)).await;
        let told = (Code::InvalidArgument, "do not belong together");
        table.bad("the key of another", bad, told);
    }
    let certificate = clients.client(ec).pem;
    let good = [certificate.as_str(), &clients.pem].concat();
    let good = world.mount(&served, &shown(&good, ec)).await;
    table.good("mTLS, certificate with its chain", &good);
    let stranger = others.client(ec).pem;
    let bad = refused(&world, &served, &shown(&stranger, ec)).await;
    // By an alert, or, where that comes before the request, by ending the connection.
    let told_stranger = "does not accept our client certificate";
    table.bad("of another CA", bad, (Code::Internal, told_stranger));
    table.good(
        "mTLS",
        &world.mount(&served, &shown(&certificate, ec)).await,
    );
    let none = &shown(&certificate, ec)[..2];
    let told = "client certificate";
    let bad = refused(&world, &served, none).await;
    table.bad("no client certificate", bad, (Code::Internal, told));
    table.good(
        "mTLS",
        &world.mount(&served, &shown(&certificate, ec)).await,
    );
    let half = &shown(&certificate, ec)[..3];
    let told = (
        Code::InvalidArgument,
        "is set without vaultTLSClientKeyPath",
    );
    table.bad("no key", world.mount(&served, half).await, told);
    table.good(
        "mTLS",
        &world.mount(&served, &shown(&certificate, ec)).await,
    );
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let told = (Code::InvalidArgument, "this private key is encrypted");
    let bad = world.mount(&served, &shown(&certificate, locked)).await;
    table.bad("an encrypted key", bad, told);
    // Rotated under the same names.
    let files = |certificate: &str, key: &str| {
        vec![
            https(&front),
            ("vaultCACert", ca.pem.clone()),
            ("vaultTLSClientCertPath", files.put("tls.crt", certificate)),
            ("vaultTLSClientKeyPath", files.put("tls.key", key)),
        ]
    };
    let bad = refused(&world, &served, &files(&stranger, ec)).await;
    let rotated = files(&certificate, ec);
    tokio::time::sleep(LOOKED_AT_AGAIN).await;
    let good = world.mount(&served, &rotated).await;
    table.good("mTLS, after the rotation", &good);
    table.bad("before", bad, (Code::Internal, told_stranger));
    table.print();
}

#[tokio::test]
async fn the_systems_roots_hold_where_nothing_else_is_named() {
    let world = World::new(false).await;
    let files = Files(tempfile::tempdir().unwrap());
    let ca = Ca::new("system");
    let own = ca.server(&["127.0.0.1"]);
    let front = Front::tls(world.address(), "127.0.0.1:0", &own, None).await;
    let mut table = Table::default();
    for (environment, found) in [
        (("SSL_CERT_FILE", files.put("roots.crt", &ca.pem)), "roots"),
        (
            ("VAULT_CACERT", files.put("vault.crt", &ca.pem)),
            "VAULT_CACERT",
        ),
    ] {
        let (name, value) = &environment;
        let served = world.serve(&[], &[(name, value)]).await;
        let good = world.mount(&served, &[https(&front)]).await;
        table.good(&format!("the daemon's {found} ({name})"), &good);
        let other = Ca::new("another").pem;
        let bad = [https(&front), ("vaultCACert", other)];
        let bad = world.mount(&served, &bad).await;
        table.bad("another CA in the class", bad, UNTRUSTED);
    }
    table.print();
}
