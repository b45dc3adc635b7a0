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

#[tokio::test]
async fn gauges_are_right_after_a_restart_before_anything_changes() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    world.kill();
    world.restart().await;
    let daemon = world.daemon.as_ref().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let metrics = daemon.get("/metrics").await.unwrap();
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        let held = [
            "leasehold_volumes",
            "leasehold_alive{kind=\"token\"}",
            "leasehold_alive{kind=\"lease\"}",
        ];
        let nearest = value("leasehold_nearest_end_timestamp_seconds").unwrap();
        let right = held.iter().all(|name| value(name).as_deref() == Some("1"));
        if right
            && nearest
                .parse::<f64>()
                .is_ok_and(|at| at.is_finite() && at > 0.0)
        {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
