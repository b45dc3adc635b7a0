//! What replacing `:authority` costs: calls a second to a bare gRPC server over a Unix socket, with and
//! without `AnyAuthority` between the socket and `h2`. Prints ratios; asserts nothing about time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use leasehold::provider::authority::AnyAuthority;
use leasehold::provider::proto::csi_driver_provider_client::CsiDriverProviderClient;
use leasehold::provider::proto::csi_driver_provider_server::{
    CsiDriverProvider, CsiDriverProviderServer,
};
use leasehold::provider::proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

const ROUNDS: usize = 9;
const LARGEST: usize = 4 * 1024 * 1024;

struct Answers;

#[tonic::async_trait]
impl CsiDriverProvider for Answers {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse::default()))
    }

    async fn mount(&self, _: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        Ok(Response::new(MountResponse::default()))
    }
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let bare = directory.path().join("bare.sock");
    let wrapped = directory.path().join("wrapped.sock");
    let service = || CsiDriverProviderServer::new(Answers).max_decoding_message_size(LARGEST);
    let accepted = UnixListenerStream::new(UnixListener::bind(&bare).expect("a socket"));
    let server = Server::builder().add_service(service());
    tokio::spawn(server.serve_with_incoming(accepted));
    let accepted = UnixListenerStream::new(UnixListener::bind(&wrapped).expect("a socket"));
    let closing = CancellationToken::new();
    let accepted =
        accepted.map(move |stream| stream.map(|stream| AnyAuthority::new(stream, &closing)));
    let server = Server::builder().add_service(service());
    tokio::spawn(server.serve_with_incoming(accepted));

    let clients = [dial(&bare), dial(&wrapped)];
    for (what, at_once, count, size) in [
        ("small calls", 1, 1_000, 0),
        ("small calls", 16, 4_000, 0),
        ("requests of 2.5 MiB", 1, 40, 2_500_000),
    ] {
        // Alternately, so that the machine's other work falls on both; the medians are compared.
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (client, took) in clients.iter().zip(&mut took) {
                took.push(calls(client, at_once, count, size).await);
            }
        }
        let [bare, wrapped] = took.map(|mut took| {
            took.sort_unstable();
            count as f64 / took.get(ROUNDS / 2).expect("a median").as_secs_f64()
        });
        println!(
            "{what}, {at_once:>2} at once: bare {bare:>6.0}/s   any authority {wrapped:>6.0}/s   ratio {:.3}",
            wrapped / bare
        );
    }
}

fn dial(socket: &Path) -> CsiDriverProviderClient<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    CsiDriverProviderClient::new(channel)
}

async fn calls(
    client: &CsiDriverProviderClient<Channel>,
    at_once: usize,
    count: usize,
    size: usize,
) -> Duration {
    let attributes = "x".repeat(size);
    let started = Instant::now();
    let callers = (0..at_once).map(|_| {
        let (mut client, attributes) = (client.clone(), attributes.clone());
        tokio::spawn(async move {
            for _ in 0..count / at_once {
                if attributes.is_empty() {
                    client
                        .version(VersionRequest::default())
                        .await
                        .expect("an answer");
                } else {
                    let request = MountRequest {
                        attributes: attributes.clone(),
                        ..MountRequest::default()
                    };
                    client.mount(request).await.expect("an answer");
                }
            }
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller.expect("a caller ends");
    }
    started.elapsed()
}
