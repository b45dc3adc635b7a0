//! Drivers of every release and clients of other languages, by the header blocks that they really send.
//!
//! `recorded/clients.json` has what each sent on its first connection: the SETTINGS and the header blocks of
//! `Version`, `Mount` and two polls, through the dial code of the driver's own tags (`"client"`) and the
//! gRPC library named beside it. Blocks refer to fields of earlier ones, so they are sent in order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;

use leasehold::provider::proto::ObjectVersion;
use serde::Deserialize;
use serde_json::json;
use support::client::{self, Client, is_version, mounted, version};
use support::driver;
use support::world::{DATABASE, KV, Setup, World, class};

#[derive(Deserialize)]
struct Recorded {
    client: String,
    grpc: String,
    authority: String,
    settings: String,
    blocks: Vec<String>,
}

#[tokio::test]
async fn every_recorded_client_mounts_and_polls() {
    let recorded = include_str!("recorded/clients.json");
    let recorded: Vec<Recorded> = serde_json::from_str(recorded).unwrap();
    assert!(recorded.len() >= 13, "{} clients", recorded.len());
    let world = World::new().await;
    for (index, recorded) in recorded.iter().enumerate() {
        let who = format!("{} with {}", recorded.client, recorded.grpc);
        let settings = hex::decode(&recorded.settings).unwrap();
        let mut blocks = recorded
            .blocks
            .iter()
            .map(|block| hex::decode(block).unwrap());
        let mut client = Client::connect(&world.node.socket(), &settings).await;
        let answer = client.call(&blocks.next().unwrap(), &version()).await;
        assert!(
            is_version(&answer),
            "{who} ({}): {answer:?}",
            recorded.authority
        );

        let volume = world.volume(&format!("recorded-{index}"));
        volume.prepare();
        let attributes = volume.attributes(&class(&format!("{DATABASE}{KV}")), &world.tokens());
        let mut request = driver::request(&volume, &attributes, "{}");
        let (logins, creds) = (world.logins(), world.creds());
        let answer = client
            .call(&blocks.next().unwrap(), &client::message(&request))
            .await;
        let first = mounted(&answer, &who);
        assert_eq!(first.files.len(), 3, "{who}");
        // Drivers before 1.6 tell a poll which versions they hold.
        request
            .current_object_version
            .clone_from(&first.object_version);
        for block in blocks {
            let answer = client.call(&block, &client::message(&request)).await;
            assert!(mounted(&answer, &who) == first, "{who}: another answer");
        }
        assert_eq!(
            (world.logins() - logins, world.creds() - creds),
            (1, 1),
            "{who}"
        );
    }
}

#[tokio::test]
async fn versions_that_a_driver_holds_change_no_answer() {
    let world = World::new().await;
    let volume = world.volume("holds");
    let class = class(DATABASE);
    let first = world.mount(&volume, &class).await;
    let held = |id: &str, version: &str| ObjectVersion {
        id: id.to_owned(),
        version: version.to_owned(),
    };
    let attributes = volume.attributes(&class, &world.tokens());
    for versions in [
        vec![held("username", &first.versions["username"])],
        vec![held("username", "stale"), held("gone", "1")],
        vec![held("", ""), held("", "")],
    ] {
        let mut request = driver::request(&volume, &attributes, "{}");
        request.current_object_version = versions;
        let answer = driver::written(&volume, &world.driver.call(request).await.unwrap());
        assert_eq!(answer.versions, first.versions);
        assert_eq!(answer.files, first.files);
    }
    assert_eq!(world.creds(), 1);
}

/// What the rotation loop of drivers 1.0 to 1.5 sends (`pkg/rotation/reconciler.go`): the class' parameters and
/// the pod, but neither the class' name nor `ephemeral`; 1.0 sends no token either.
#[tokio::test]
async fn polls_of_a_driver_before_1_6_change_nothing() {
    let world = World::with(Setup {
        database: json!({ "default_ttl": "2s", "max_ttl": "5s" }),
        ..Setup::default()
    })
    .await;
    let volume = world.volume("web");
    let class = class(&format!("{DATABASE}{KV}"));
    let first = world.mount(&volume, &class).await;
    let calls = (world.logins(), world.creds());
    for tokens in [world.tokens(), BTreeMap::new()] {
        let mut attributes = volume.attributes(&class, &tokens);
        let map = attributes.as_object_mut().unwrap();
        map.remove("secretProviderClass").unwrap();
        map.remove("csi.storage.k8s.io/ephemeral").unwrap();
        for secrets in ["{}", "null"] {
            let mut request = driver::request(&volume, &attributes, secrets);
            request.current_object_version = first
                .versions
                .iter()
                .map(|(id, version)| ObjectVersion {
                    id: id.clone(),
                    version: version.clone(),
                })
                .collect();
            let answer = world.driver.call(request).await.unwrap();
            let answer = driver::written(&volume, &answer);
            assert_eq!(answer.versions, first.versions);
        }
    }
    assert_eq!((world.logins(), world.creds()), calls);
    // What is said of the volume still names its class.
    let ended = "reached its end while mounted";
    let told = || {
        world
            .log()
            .lines()
            .find(|line| line.contains(ended))
            .map(str::to_owned)
    };
    world.until("its end is told", || told().is_some()).await;
    let told = told().unwrap();
    assert!(told.contains(r#""class":"class""#), "{told}");
}
