//! Every way to reach a server, with its failing twin.

use std::net::SocketAddr;
use std::path::Path;

use http::StatusCode;
use tonic::Code;

use super::World;
use super::matrix::{Row, Table, run};
use super::support::ca::Ca;
use super::support::front::{Front, Proxy};
use super::support::socks::Socks;

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
            code: Code::Internal,
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
        let told = (Code::Internal, "the proxy http://127.0.0.1:9/");
        table.bad("the proxy is away", bad, told);

        let proxy = Proxy::start(to, true).await;
        let served = world.serve(&[], &[(name, &known(proxy.address()))]).await;
        let what = format!("{name} with a password");
        table.good(&what, &world.mount(&served, &parameters).await);
        let served = world.serve(&[], &[(name, &url(proxy.address()))]).await;
        let bad = world.mount(&served, &parameters).await;
        table.bad("without", bad, (Code::Internal, "proxy"));
    }
    let proxy = Proxy::start(world.address(), false).await;
    let every = url(proxy.address());
    for none in ["beyond.test", "*.beyond.test", ".beyond.test", BEYOND] {
        let environment = [("HTTP_PROXY", every.as_str()), ("NO_PROXY", none)];
        let served = world.serve(&[], &environment).await;
        let bad = world.mount(&served, &http()).await;
        let what = format!("NO_PROXY={none}");
        table.bad(&what, bad, (Code::Internal, "dns error"));
    }
    let served = world.serve(&[], &[("HTTP_PROXY", &every)]).await;
    let local = [("vaultAddress", world.vault.url())];
    table.good(
        "HTTP_PROXY and a server on this node",
        &world.mount(&served, &local).await,
    );
    assert_eq!(
        proxy.asked(),
        Vec::<String>::new(),
        "none of them goes by the proxy"
    );
    table.print();
}

#[tokio::test]
async fn a_socks_proxy_is_a_way_to_the_server() {
    let world = World::new(false).await;
    let ca = Ca::new("ours");
    let own = ca.server(&["vault.beyond.test"]);
    let front = Front::tls(world.address(), "127.0.0.1:0", &own, None).await;
    let http = vec![("vaultAddress", format!("http://{BEYOND}"))];
    let address = ("vaultAddress", format!("https://{BEYOND}"));
    let https = vec![address, ("vaultCACert", ca.pem.clone())];
    let mut table = Table::default();
    for (name, scheme, to, parameters) in [
        ("HTTP_PROXY", "socks5", world.address(), &http),
        ("HTTPS_PROXY", "socks5", front.address, &https),
        ("https_proxy", "socks5h", front.address, &https),
        ("VAULT_PROXY_ADDR", "socks5", front.address, &https),
    ] {
        let what = format!("{name}={scheme}://");
        let told = (Code::Internal, "the proxy socks5");
        let open = Socks::start(to, false).await;
        let url = format!("{scheme}://{}", open.address);
        let served = world.serve(&[], &[(name, &url)]).await;
        table.good(&what, &world.mount(&served, parameters).await);
        assert!(
            open.asked().contains(&BEYOND.to_owned()),
            "{:?}",
            open.asked()
        );
        if name == "HTTP_PROXY" {
            let bare = [("vaultAddress", "http://vault.beyond.test")];
            table.good("no port", &world.mount(&served, &bare).await);
            let port = "vault.beyond.test:80".to_owned();
            assert!(open.asked().contains(&port), "{:?}", open.asked());
        }
        let gone = format!("{scheme}://127.0.0.1:9");
        let served = world.serve(&[], &[(name, &gone)]).await;
        let bad = world.mount(&served, parameters).await;
        table.bad("the proxy is away", bad, told);

        let closed = Socks::start(to, true).await;
        let url = |user: &str| format!("{scheme}://{user}{}", closed.address);
        let served = world.serve(&[], &[(name, &url("user:secret@"))]).await;
        let what = format!("{what} with a password");
        table.good(&what, &world.mount(&served, parameters).await);
        let served = world.serve(&[], &[(name, &url("user:wrong@"))]).await;
        let bad = world.mount(&served, parameters).await;
        assert!(!format!("{bad:?}").contains("wrong"), "{bad:?}");
        table.bad("another", bad, told);
        let served = world.serve(&[], &[(name, &url(""))]).await;
        let bad = world.mount(&served, parameters).await;
        table.bad("without", bad, told);
    }
    table.print();
}

#[tokio::test]
async fn an_ingress_that_redirects_to_https_is_a_way_to_the_server() {
    let world = World::new(false).await;
    let ca = Ca::new("ours");
    let own = ca.server(&["127.0.0.1"]);
    let front = Front::tls(world.address(), "127.0.0.1:0", &own, None).await;
    let https = format!("https://{}", front.address);
    let any = world.serve(&[], &[]).await;
    let pinned = format!("-allow-vault-address=http://127.0.0.1:*,{https}");
    let pinned = world.serve(&[&pinned], &[]).await;
    let strict = world
        .serve(&["-allow-vault-address=http://127.0.0.1:*"], &[])
        .await;
    let disabled = world
        .serve(&[], &[("VAULT_DISABLE_REDIRECTS", "true")])
        .await;
    let mut table = Table::default();
    for status in [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::TEMPORARY_REDIRECT,
    ] {
        let ingress = Front::redirecting(status, https.clone()).await;
        let parameters = [
            ("vaultAddress", format!("http://{}", ingress.address)),
            ("vaultCACert", ca.pem.clone()),
        ];
        table.good(status.as_str(), &world.mount(&any, &parameters).await);
        let refused = |told| (Code::FailedPrecondition, told);
        let bad = world.mount(&strict, &parameters).await;
        table.bad("not allowed", bad, refused("-allow-vault-address"));
        table.good("allowed", &world.mount(&pinned, &parameters).await);
        let bad = world.mount(&disabled, &parameters).await;
        table.bad("disabled", bad, refused("VAULT_DISABLE_REDIRECTS"));
        let loops = Front::redirecting(status, format!("http://{}", ingress.address)).await;
        let address = ("vaultAddress", format!("http://{}", loops.address));
        let bad = world.mount(&any, &[address]).await;
        table.bad("twice", bad, refused("redirects again"));
    }
    let ingress = Front::redirecting(StatusCode::PERMANENT_REDIRECT, https).await;
    let address = ("vaultAddress", format!("http://{}", ingress.address));
    let bad = world.mount(&any, &[address]).await;
    table.bad("308", bad, (Code::FailedPrecondition, "status 308"));
    table.print();
}
