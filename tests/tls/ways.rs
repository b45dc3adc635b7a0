//! Every way to reach a server, with its failing twin.

use std::net::SocketAddr;
use std::path::Path;

use tonic::Code;

use super::World;
use super::matrix::{Row, Table, run};
use super::support::ca::Ca;
use super::support::front::{Front, Proxy};

#[tokio::test]
async fn a_unix_socket_and_a_path_prefix_are_addresses() {
    let world = World::new(false).await;
    let served = world.serve(&[], &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let _agent = Front::unix(world.address(), &socket);
    let prefixed = Front::prefixed(world.address(), "/team/vault").await;
    let address = |text: String| vec![("vaultAddress", text)];
    let unix = |path: &Path| address(format!("unix://{}", path.display()));
    let rows = vec![
        Row {
            what: "unix://",
            good: unix(&socket),
            twin: "nobody listens",
            bad: unix(&directory.path().join("none.sock")),
            code: Code::Unavailable,
            told: "the socket /",
        },
        Row {
            what: "unix://",
            good: unix(&socket),
            twin: "no absolute path",
            bad: unix(Path::new("agent.sock")),
            code: Code::InvalidArgument,
            told: "has no absolute path behind unix://",
        },
        Row {
            what: "a path before /v1",
            good: address(format!("http://{}/team/vault/", prefixed.address)),
            twin: "without it",
            bad: address(format!("http://{}", prefixed.address)),
            code: Code::NotFound,
            told: "404",
        },
    ];
    run(&world, &served, rows).await;
}

/// An address that only the proxy knows the way to.
const BEYOND: &str = "vault.beyond.test:8200";

#[tokio::test]
async fn a_proxy_of_the_environment_is_the_way_to_the_server() {
    let world = World::new(false).await;
    let ca = Ca::new("ours");
    let own = ca.server(&["vault.beyond.test"]);
    let front = Front::tls(world.address(), "127.0.0.1:0", &own, None).await;
    let http = || vec![("vaultAddress", format!("http://{BEYOND}"))];
    let https = || {
        let address = ("vaultAddress", format!("https://{BEYOND}"));
        vec![address, ("vaultCACert", ca.pem.clone())]
    };
    let gone = "127.0.0.1:9".parse().unwrap();
    let url = |proxy: SocketAddr| format!("http://{proxy}");
    let known = |proxy: SocketAddr| format!("http://user:secret@{proxy}");
    let mut table = Table::default();
    for (name, to, parameters, line) in [
        (
            "http_proxy",
            world.address(),
            http(),
            format!("POST http://{BEYOND}/v1/auth/kubernetes/login"),
        ),
        (
            "HTTPS_PROXY",
            front.address,
            https(),
            format!("CONNECT {BEYOND}"),
        ),
        (
            "VAULT_PROXY_ADDR",
            front.address,
            https(),
            format!("CONNECT {BEYOND}"),
        ),
    ] {
        let proxy = Proxy::start(to, false).await;
        let served = world.serve(&[], &[(name, &url(proxy.address()))]).await;
        table.good(name, &world.mount(&served, &parameters).await);
        assert!(proxy.asked().contains(&line), "{:?}", proxy.asked());
        let served = world.serve(&[], &[(name, &url(gone))]).await;
        let bad = world.mount(&served, &parameters).await;
        let told = (Code::Unavailable, "the proxy http://127.0.0.1:9/");
        table.bad("the proxy is away", bad, told);

        let proxy = Proxy::start(to, true).await;
        let served = world.serve(&[], &[(name, &known(proxy.address()))]).await;
        let what = format!("{name} with a password");
        table.good(&what, &world.mount(&served, &parameters).await);
        let served = world.serve(&[], &[(name, &url(proxy.address()))]).await;
        let bad = world.mount(&served, &parameters).await;
        table.bad("without", bad, (Code::Unavailable, "proxy"));
    }
    let proxy = Proxy::start(world.address(), false).await;
    let served = world
        .serve(
            &[],
            &[
                ("HTTP_PROXY", &url(proxy.address())),
                ("NO_PROXY", "beyond.test"),
            ],
        )
        .await;
    let local = [("vaultAddress", world.vault.url())];
    table.good(
        "HTTP_PROXY and a server on this node",
        &world.mount(&served, &local).await,
    );
    let bad = world.mount(&served, &http()).await;
    table.bad("NO_PROXY", bad, (Code::Unavailable, "dns error"));
    assert_eq!(
        proxy.asked(),
        Vec::<String>::new(),
        "neither goes by the proxy"
    );
    table.print();
}
