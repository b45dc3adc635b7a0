//! A journal record whose loading ends the daemon is set aside at the third start; the others load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;

use support::world::{DATABASE, World, class};

/// How many of the state directory's files end in this.
fn count(world: &World, suffix: &str) -> usize {
    let files = fs::read_dir(world.node.state()).unwrap().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|is| is == suffix))
        .count()
}

#[tokio::test]
async fn a_record_that_ends_the_daemon_twice_is_set_aside_and_the_others_load() {
    let mut world = World::new().await;
    let volumes = [world.volume("web"), world.volume("api")];
    for volume in &volumes {
        world.mount(volume, &class(DATABASE)).await;
    }
    let users = volumes.each_ref().map(|volume| volume.text("username"));
    world.kill();
    // The first record ends it; at the next start that one comes last.
    for step in ["1", "2"] {
        let mut daemon = world.node.spawn_with(&[("LEASEHOLD_DIE_AT_STEP", step)]);
        assert!(!daemon.ended().await.success());
    }
    assert_eq!(count(&world, "json"), 2, "both were tried");
    world.restart().await;
    assert_eq!(
        (count(&world, "json"), count(&world, "quarantined")),
        (1, 1)
    );
    let daemon = world.daemon.as_ref().unwrap();
    let metrics = daemon.get("/metrics").await.unwrap();
    assert!(
        metrics.contains("leasehold_quarantined_total 1"),
        "{metrics}"
    );
    let log = world.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("has broken the daemon twice"));
    let told: Vec<&str> = lines.collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(
        told[0].contains("/web") || told[0].contains("/api"),
        "{told:?}"
    );
    // Its credentials live, and a poll gets new ones.
    for volume in &volumes {
        world.mount(volume, &class(DATABASE)).await;
    }
    let kept = volumes.iter().zip(&users);
    let kept = kept.filter(|(volume, user)| volume.text("username") == **user);
    assert_eq!(kept.count(), 1);
    assert_eq!((world.logins(), world.vault.live_users().len()), (3, 3));
    for volume in &volumes {
        volume.unmount();
    }
    world
        .until("only what was set aside lives", || {
            world.vault.live_users().len() == 1
        })
        .await;
}
