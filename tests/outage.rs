//! The server in trouble: who waits, who does not, and what is left of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use serde_json::json;
use support::driver::request;
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};
use tonic::Code;

fn status(code: u16, text: &str, headers: &[(&str, &str)]) -> Action {
    Action::Status {
        code,
        body: json!({ "errors": [text] }).to_string(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

async fn scrape(world: &World) -> String {
    world
        .daemon
        .as_ref()
        .unwrap()
        .get("/metrics")
        .await
        .unwrap()
}

#[tokio::test]
async fn one_tenants_broken_role_stops_nobody_else() {
    let world = World::new().await;
    let broken = status(500, "failed to create user: connection refused", &[]);
    world
        .vault
        .faults()
        .push(Fault::at("database/creds", broken));
    let (bad, good) = (world.volume("bad"), world.volume("good"));
    for _ in 0..6 {
        let attributes = bad.attributes(&class(DATABASE), &world.tokens());
        bad.prepare();
        let answer = world.driver.call(request(&bad, &attributes, "")).await;
        assert_eq!(answer.err().unwrap().code(), Code::Internal);
    }
    let started = Instant::now();
    world.mount(&good, &class(KV)).await;
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "it need not be repeated"
    );
    assert!(!scrape(&world).await.contains("leasehold_breaker_open{"));
    assert!(
        world.vault.count("GET", "sys/health") > 0,
        "the server itself was asked"
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_by_one_at_a_time_and_comes_back_by_itself() {
    let mut world = World::new().await;
    let kept = world.volume("kept");
    world.mount(&kept, &class(DATABASE)).await;
    let user = kept.text("username");
    world.vault.stop_listening();
    let volumes: Vec<_> = (0..20)
        .map(|pod| world.volume(&format!("web-{pod}")))
        .collect();
    let mut told = Vec::new();
    for volume in &volumes {
        volume.prepare();
        let attributes = volume.attributes(&class(KV), &world.tokens());
        let answer = world.driver.call(request(volume, &attributes, "")).await;
        let status = answer.err().unwrap();
        assert_eq!(status.code(), Code::Internal, "{status}");
        told.push(status.message().to_owned());
    }
    let refused = told
        .iter()
        .filter(|text| text.contains("not asked"))
        .count();
    assert!(refused >= 12, "most are told at once: {told:?}");
    assert!(
        scrape(&world)
            .await
            .contains("leasehold_breaker_open{address=")
    );
    world.vault.resume_listening().await.unwrap();
    let started = Instant::now();
    for volume in &volumes {
        // The driver's own three attempts may all fall into the pause; kubelet's next one does not.
        while world.try_mount(volume, &class(KV)).await.is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{}",
                world.log()
            );
        }
    }
    assert!(!scrape(&world).await.contains("leasehold_breaker_open{"));
    world.mount(&kept, &class(DATABASE)).await;
    assert_eq!(kept.text("username"), user);
    kept.unmount();
    volumes.iter().for_each(support::driver::Volume::unmount);
    world.until_nothing_lives().await;
    world.kill();
}

#[tokio::test]
async fn a_throttling_server_gets_the_pause_it_asks_for_and_no_lease_is_lost() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "12s" }),
        role: json!({ "token_ttl": "12s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    world.vault.clear_calls();
    let slow_down = status(429, "rate limit quota exceeded", &[("Retry-After", "2")]);
    world.vault.faults().push(Fault::at("", slow_down));
    // Both renewals are due after six seconds; for two of the twelve nothing gets through.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let asked = world.vault.calls().len();
    assert!(
        (1..=6).contains(&asked),
        "{asked} calls in about two seconds"
    );
    world.vault.faults().clear();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(world.vault.verify_user(&user, &password), "{}", world.log());
    world.mount(&volume, &class(DATABASE)).await;
    assert_eq!(volume.text("username"), user);
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_server_that_hangs_leaves_time_for_another_attempt() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "9s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    let (user, password) = (volume.text("username"), volume.text("password"));
    // The renewal at 4.5 s gets no answer, ever; the connection stays.
    let fault = Fault::at("sys/leases/renew", Action::Hang).times(1);
    world.vault.faults().push(fault);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(world.vault.verify_user(&user, &password), "{}", world.log());
    assert!(world.log().contains("no reply within"), "{}", world.log());
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_read_whose_answer_is_lost_leaves_nothing_behind_the_volume() {
    for lost in [
        Action::ResetAfterCommit,
        Action::StatusAfterCommit {
            code: 502,
            body: String::new(),
        },
    ] {
        let world = World::with(Setup {
            flags: &["-mount-retry-timeout=15s"],
            ..Setup::default()
        })
        .await;
        let volume = world.volume("web");
        world
            .vault
            .faults()
            .push(Fault::at("database/creds", lost).times(1));
        // The next attempt gets credentials; those of the lost answer live, unseen, by the session.
        world.mount(&volume, &class(DATABASE)).await;
        let (user, password) = (volume.text("username"), volume.text("password"));
        assert!(world.vault.verify_user(&user, &password));
        assert_eq!(world.vault.live_users().len(), 2, "{}", world.log());
        assert_eq!(
            world.logins(),
            1,
            "the session is kept for the next attempt"
        );
        volume.unmount();
        world.until_nothing_lives().await;
    }
}

#[tokio::test]
async fn a_second_replacement_that_fails_costs_the_first_one_nothing() {
    let world = World::with(Setup {
        role: json!({ "token_ttl": "1h" }),
        ..Setup::default()
    })
    .await;
    let reports = json!({ "db_name": "db", "default_ttl": "1h", "max_ttl": "24h" });
    world.admin.write("database/roles/reports", reports).await;
    let volume = world.volume("web");
    world.mount(&volume, &class(KV)).await;
    let more = class(&format!(
        "{DATABASE}{CERTIFICATE}
- objectName: reports
  secretPath: database/creds/reports
  secretKey: username
"
    ));
    let refused = status(500, "no such host", &[]);
    let fault = Fault::at("database/creds/reports", refused);
    world.vault.faults().push(fault);
    world.refused(&volume, &more, Code::Internal).await;
    assert_eq!(volume.text("api-key"), "k3y", "the old files stay");
    world.vault.faults().clear();
    world.mount(&volume, &more).await;
    assert_eq!(
        (
            world.logins(),
            world.vault.count("GET", "database/creds/app")
        ),
        (1, 1),
        "what had been read was kept"
    );
    assert_eq!(world.vault.count("PUT", "pki/issue/web"), 1);
    volume.unmount();
    world.until_nothing_lives().await;
}
