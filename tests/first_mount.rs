//! No pod starts without its files: what a first Mount may meet, the codes it ends with, and what its next
//! attempt finds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::{Duration, Instant};

use dev_vault::{Action, Fault};
use serde_json::{Value, json};
use support::driver::{Volume, request};
use support::world::{DATABASE, KV, Setup, World, class};
use tonic::{Code, Status};

/// kubelet keeps the target path after these, and driver 1.6 then takes its next attempt for a poll.
const NOT_FINAL: [Code; 5] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Unavailable,
    Code::ResourceExhausted,
    Code::Aborted,
];

fn sealed() -> Action {
    Action::Status {
        code: 503,
        body: "{\"errors\":[\"Vault is sealed\"]}".to_owned(),
        headers: Vec::new(),
    }
}

async fn world(flags: &[&str]) -> World {
    World::with(Setup {
        flags,
        ..Setup::default()
    })
    .await
}

/// One call, as the driver makes it for kubelet; it writes the files.
async fn call(
    world: &World,
    volume: &Volume,
    class: &Value,
    within: Duration,
) -> Result<(), Status> {
    volume.prepare();
    let attributes = volume.attributes(class, &world.tokens());
    let answer = world
        .driver
        .call_within(request(volume, &attributes, ""), within)
        .await?;
    support::driver::written(volume, &answer);
    Ok(())
}

/// What kubelet does between two attempts, once a code is final.
fn removed(volume: &Volume) {
    volume.unmount();
}

/// What a first Mount meets: in the class, or at the server.
struct Meets {
    what: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    fault: Option<(&'static str, Action)>,
    told: &'static str,
}

const LOGIN: &str = "auth/kubernetes/login";

fn faults() -> Vec<Meets> {
    let status = |code: u16, text: &str| Action::Status {
        code,
        body: json!({ "errors": [text] }).to_string(),
        headers: Vec::new(),
    };
    let class = |what, parameters, told| Meets {
        what,
        parameters,
        fault: None,
        told,
    };
    let server = |what, prefix, action, told| Meets {
        what,
        parameters: &[],
        fault: Some((prefix, action)),
        told,
    };
    vec![
        class(
            "refused",
            &[("vaultAddress", "http://127.0.0.1:9")],
            "127.0.0.1:9",
        ),
        class(
            "a name that is unknown",
            &[("vaultAddress", "http://vault.invalid:8200")],
            "vault.invalid",
        ),
        class(
            "too large",
            &[("objects", "- {objectName: large, secretPath: kv/large}")],
            "larger than 4194304 bytes",
        ),
        server(
            "hangs",
            LOGIN,
            Action::Hang,
            "still waiting for the login at auth/kubernetes",
        ),
        server("sealed", LOGIN, sealed(), "Vault is sealed"),
        server(
            "throttled",
            LOGIN,
            status(429, "rate limit quota exceeded"),
            "quota exceeded",
        ),
        server("a proxy's 502", LOGIN, status(502, ""), "status 502"),
        server("a proxy's 504", LOGIN, status(504, ""), "status 504"),
        server(
            "a backend's 500",
            "secret/",
            status(500, "no backend"),
            "no backend",
        ),
        server("a reset", LOGIN, Action::Reset, "the connection broke"),
        server(
            "a reset read",
            "secret/",
            Action::ResetAfterCommit,
            "the connection broke",
        ),
        server(
            "a read that hangs",
            "secret/",
            Action::Hang,
            "still waiting for GET secret/data/app",
        ),
    ]
}

#[tokio::test]
async fn every_fault_is_answered_before_the_deadline_with_a_code_that_is_final() {
    for met in faults() {
        let what = met.what;
        let world = world(&["-mount-retry-timeout=1s"]).await;
        let large = json!({ "value": "x".repeat(5_000_000) });
        world.admin.write("kv/large", large).await;
        if let Some((prefix, action)) = met.fault {
            world.vault.faults().push(Fault::at(prefix, action));
        }
        let mut class = class(KV);
        for (name, value) in met.parameters {
            class[*name] = json!(value);
        }
        let volume = world.volume("web");
        let answer = call(&world, &volume, &class, Duration::from_secs(4)).await;
        let status = answer.expect_err(what);
        assert!(!NOT_FINAL.contains(&status.code()), "{what}: {status}");
        assert!(status.message().contains(met.told), "{what}: {status}");
        removed(&volume);
    }
}

#[tokio::test]
async fn a_server_that_is_back_within_seconds_costs_the_pod_seconds() {
    let world = world(&["-mount-retry-timeout=15s"]).await;
    for (pod, prefix) in [
        ("login", "auth/kubernetes/login"),
        ("read", "database/creds"),
    ] {
        let volume = world.volume(pod);
        let fault = Fault::at(prefix, sealed()).times(2);
        world.vault.faults().push(fault);
        world.vault.clear_calls();
        let kv = "- {objectName: kv, secretPath: kv/app}";
        let both = class(&format!("{DATABASE}{kv}"));
        call(&world, &volume, &both, Duration::from_secs(20))
            .await
            .unwrap();
        let issued = world.vault.live_tokens().len();
        assert_eq!(world.vault.count("GET", "kv/app"), 1, "{prefix}");
        assert_eq!(
            issued, 1,
            "{prefix}: what an attempt has got is kept for the next"
        );
        removed(&volume);
        world.until_nothing_lives().await;
    }
}

#[tokio::test]
async fn a_login_that_may_have_been_carried_out_is_not_repeated() {
    let world = world(&["-mount-retry-timeout=15s"]).await;
    let volume = world.volume("web");
    let fault = Fault::at("auth/kubernetes/login", Action::ResetAfterCommit);
    world.vault.faults().push(fault);
    let answer = call(&world, &volume, &class(KV), Duration::from_secs(20)).await;
    let status = answer.expect_err("no reply");
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert_eq!(world.logins(), 1);
}

#[tokio::test]
async fn a_poll_is_answered_at_once() {
    let world = world(&["-mount-retry-timeout=1m"]).await;
    let volume = world.volume("web");
    world.mount(&volume, &class(KV)).await;
    world.vault.faults().push(Fault::at("secret/", sealed()));
    let started = Instant::now();
    let status = call(&world, &volume, &class(KV), Duration::from_secs(40))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "its files stay, and the next poll comes"
    );
}

#[tokio::test]
async fn an_engine_slower_than_its_caller_makes_one_credential() {
    let world = world(&["-park=1m"]).await;
    let volume = world.volume("web");
    let slow = Action::DelayAfterCommit(Duration::from_secs(4));
    world.vault.faults().push(Fault::at("database/creds", slow));
    let within = Duration::from_secs(2);
    let status = call(&world, &volume, &class(DATABASE), within)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        status
            .message()
            .contains("still waiting for GET database/creds/app"),
        "{status}"
    );
    removed(&volume);
    // The second attempt finds the read under way; the path is gone when its answer comes.
    let second = call(
        &world,
        &volume,
        &class(DATABASE),
        Duration::from_millis(500),
    )
    .await;
    assert!(second.is_err());
    removed(&volume);
    world
        .until("the engine has answered", || {
            world.log().contains("\"message\":\"mounted\"")
        })
        .await;
    // Long enough for an unmount to be seen and confirmed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    call(&world, &volume, &class(DATABASE), within)
        .await
        .unwrap();
    assert_eq!((world.logins(), world.creds()), (1, 1));
    let (user, password) = (volume.text("username"), volume.text("password"));
    assert!(world.vault.verify_user(&user, &password));
    // From now on its path is its life.
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_login_slower_than_its_caller_opens_one_session() {
    let world = world(&["-park=1m"]).await;
    let volume = world.volume("web");
    let slow = Action::DelayAfterCommit(Duration::from_secs(17));
    world.vault.faults().push(Fault::at(LOGIN, slow));
    let mut attempts = 0;
    loop {
        attempts += 1;
        let answer = call(&world, &volume, &class(KV), Duration::from_secs(8)).await;
        match answer {
            Ok(()) => break,
            Err(status) => assert!(status.message().contains("still waiting"), "{status}"),
        }
        assert!(attempts < 10, "never mounted");
        removed(&volume);
    }
    assert_eq!((world.logins(), world.vault.live_tokens().len()), (1, 1));
}

#[tokio::test]
async fn a_result_that_nobody_comes_for_is_revoked() {
    let world = world(&["-park=2s"]).await;
    let volume = world.volume("web");
    let slow = Action::DelayAfterCommit(Duration::from_secs(2));
    world.vault.faults().push(Fault::at("database/creds", slow));
    let answer = call(&world, &volume, &class(DATABASE), Duration::from_secs(1)).await;
    assert!(answer.is_err());
    removed(&volume);
    volume.remove_pod();
    world
        .until("the credential is there", || {
            !world.vault.live_users().is_empty()
        })
        .await;
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_volume_that_goes_during_a_poll_does_not_wait_for_it() {
    let world = World::new().await;
    let volume = world.volume("web");
    world
        .mount(&volume, &class(&format!("{DATABASE}{KV}")))
        .await;
    let slow = Action::DelayAfterCommit(Duration::from_secs(30));
    world
        .vault
        .faults()
        .push(Fault::at("secret/", slow).times(1));
    let attributes = volume.attributes(&class(&format!("{DATABASE}{KV}")), &world.tokens());
    let (driver, poll) = (world.driver.clone(), request(&volume, &attributes, ""));
    let polling = tokio::spawn(async move { driver.call(poll).await });
    world
        .until("the poll reads", || world.vault.faults().is_empty())
        .await;
    volume.unmount();
    world.until_nothing_lives().await;
    let answer = polling.await.unwrap();
    let code = answer.err().map(|status| status.code());
    assert_eq!(code, Some(Code::Internal), "and is told so");
}

#[tokio::test]
async fn a_first_mount_that_fails_leaves_nothing() {
    let world = World::new().await;
    let volume = world.volume("web");
    let fault = Fault::at("database/creds", Action::ResetAfterCommit);
    world.vault.faults().push(fault);
    let answer = call(&world, &volume, &class(DATABASE), Duration::from_secs(10)).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert_eq!(world.creds(), 1, "a credential that we never saw");
    // It goes with its session, while the path is still there.
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_drain_answers_those_whose_server_is_slow() {
    let mut world = world(&["-shutdown-timeout=3s"]).await;
    let volume = world.volume("web");
    world
        .vault
        .faults()
        .push(Fault::at("secret/", Action::Hang));
    volume.prepare();
    let attributes = volume.attributes(&class(KV), &world.tokens());
    let (driver, first) = (world.driver.clone(), request(&volume, &attributes, ""));
    let calling = tokio::spawn(async move { driver.call(first).await });
    world
        .until("the login is done", || world.vault.live_tokens().len() == 1)
        .await;
    let daemon = world.daemon.take().unwrap();
    assert!(daemon.terminate().await.success());
    let status = calling.await.unwrap().err().unwrap();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("successor"), "{status}");
    assert_eq!(
        world.node.journalled(),
        1,
        "its session is known to the successor"
    );
    world.vault.faults().clear();
    world.restart().await;
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_mount_that_our_end_has_cut_short_is_answered_at_once() {
    let mut world = World::new().await;
    let volume = world.volume("web");
    let fault = Fault::at("secret/", Action::Hang).times(1);
    world.vault.faults().push(fault);
    volume.prepare();
    let attributes = volume.attributes(&class(KV), &world.tokens());
    let (driver, first) = (world.driver.clone(), request(&volume, &attributes, ""));
    tokio::spawn(async move { driver.call(first).await });
    world
        .until("it reads", || world.vault.faults().is_empty())
        .await;
    world.kill();
    world.restart().await;
    world.driver = support::driver::Driver::dial(&world.node.socket());
    // The driver's own repetition, within kubelet's one attempt.
    let within = Duration::from_secs(10);
    let status = call(&world, &volume, &class(KV), within).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("was killed"), "{status}");
    assert_eq!(world.logins(), 1);
    // kubelet's next one.
    call(&world, &volume, &class(KV), within).await.unwrap();
    world
        .until("one token lives", || world.vault.live_tokens().len() == 1)
        .await;
}

#[tokio::test]
async fn an_answer_shows_nothing_that_was_revoked_meanwhile() {
    let world = world(&[]).await;
    let volume = world.volume("web");
    let both = class(&format!("{DATABASE}{KV}"));
    let within = Duration::from_secs(10);
    call(&world, &volume, &both, within).await.unwrap();
    // The driver fails after the answer: kubelet removes the path and comes again, and the server is slow.
    removed(&volume);
    let slow = Action::DelayAfterCommit(Duration::from_secs(6));
    world
        .vault
        .faults()
        .push(Fault::at("secret/", slow).times(1));
    let second = call(&world, &volume, &both, Duration::from_secs(2)).await;
    assert!(second.is_err());
    removed(&volume);
    world
        .until("its end was seen", || world.log().contains("volume ended"))
        .await;
    let third = call(&world, &volume, &both, within).await;
    if let Err(status) = &third {
        assert!(status.message().contains("was unmounted"), "{status}");
        removed(&volume);
        call(&world, &volume, &both, within).await.unwrap();
    }
    let (user, password) = (volume.text("username"), volume.text("password"));
    assert!(world.vault.verify_user(&user, &password));
}

#[tokio::test]
async fn an_attempt_reuses_no_lease_of_a_session_that_died_between_attempts() {
    let world = world(&["-mount-retry-timeout=15s", "-park=1m"]).await;
    let volume = world.volume("web");
    let both = class(&format!("{DATABASE}{KV}"));
    let slow = Action::DelayAfterCommit(Duration::from_secs(3));
    world
        .vault
        .faults()
        .push(Fault::at("database/creds", slow).times(1));
    let first = call(&world, &volume, &both, Duration::from_secs(1)).await;
    assert!(first.is_err());
    removed(&volume);
    world
        .until("the engine has answered", || {
            world.log().contains("\"message\":\"mounted\"")
        })
        .await;
    let accessor = world.vault.live_tokens()[0].accessor.clone();
    let accessor = json!({ "accessor": accessor });
    world
        .admin
        .write("auth/token/revoke-accessor", accessor)
        .await;
    world
        .until("its lease is gone", || world.vault.live_users().is_empty())
        .await;
    let fault = Fault::at("database/creds", sealed()).times(1);
    world.vault.faults().push(fault);
    call(&world, &volume, &both, Duration::from_secs(20))
        .await
        .unwrap();
    let (user, password) = (volume.text("username"), volume.text("password"));
    assert!(world.vault.verify_user(&user, &password));
}

#[tokio::test]
async fn a_first_mount_that_hangs_keeps_no_release_waiting() {
    let world = world(&["-park=10m"]).await;
    let volume = world.volume("web");
    let hang = Action::DelayAfterCommit(Duration::from_secs(40));
    world
        .vault
        .faults()
        .push(Fault::at("secret/", hang).times(1));
    let both = class(&format!("{DATABASE}{KV}"));
    let driver = world.driver.clone();
    volume.prepare();
    let first = request(&volume, &volume.attributes(&both, &world.tokens()), "");
    let calling = tokio::spawn(async move { driver.call(first).await });
    world
        .until("it has a credential, and reads on", || {
            !world.vault.live_users().is_empty() && world.vault.faults().is_empty()
        })
        .await;
    // Its pod goes: nobody will ask for its result.
    removed(&volume);
    volume.remove_pod();
    world.until_nothing_lives().await;
    let status = calling.await.unwrap().err().unwrap();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("was unmounted"), "{status}");
}

#[tokio::test]
async fn a_mount_is_given_up_at_its_own_deadline_and_what_comes_later_is_kept() {
    let world = world(&["-mount-timeout=2s"]).await;
    let volume = world.volume("web");
    // A poll whose read is slow: the session lives on, and so would the lease that nobody knows.
    world.mount(&volume, &class(KV)).await;
    let slow = Action::DelayAfterCommit(Duration::from_secs(5));
    let fault = Fault::at("database/creds", slow).times(1);
    world.vault.faults().push(fault);
    let both = class(&format!("{DATABASE}{KV}"));
    let within = Duration::from_secs(20);
    let status = call(&world, &volume, &both, within).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    let told = "given up: after 2 s it was still waiting for GET database/creds/app";
    assert!(status.message().contains(told), "{status}");
    world
        .until("the read has ended", || {
            world.log().contains("a reply came after its mount")
        })
        .await;
    call(&world, &volume, &both, within).await.unwrap();
    assert_eq!(
        (world.logins(), world.creds()),
        (1, 1),
        "it serves the next poll"
    );
    let (user, password) = (volume.text("username"), volume.text("password"));
    assert!(world.vault.verify_user(&user, &password));
}
