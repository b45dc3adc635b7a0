//! What the health server says of a running daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::world::{DATABASE, World, class};

#[tokio::test]
async fn ready_once_the_socket_serves_and_what_happens_is_counted() {
    let world = World::new().await;
    let daemon = world.daemon.as_ref().unwrap();
    assert!(world.node.socket().exists(), "ready means served");
    assert!(daemon.get("/health/live").await.unwrap().contains("200 OK"));
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let metrics = daemon.get("/metrics").await.unwrap();
    for line in [
        "leasehold_mounts_total{code=\"Ok\"} 1",
        "leasehold_volumes 1",
        "leasehold_vault_calls_total{operation=\"login\",status=\"ok\"} 1",
        "leasehold_vault_calls_total{operation=\"read\",status=\"ok\"} 1",
        "leasehold_degraded{reason=\"no_shared_version_key\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    volume.unmount();
    world.until_nothing_lives().await;
    let metrics = daemon.get("/metrics").await.unwrap();
    assert!(
        metrics.contains("leasehold_releases_total{kind=\"token\",outcome=\"ok\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("leasehold_volumes 0"), "{metrics}");
}
