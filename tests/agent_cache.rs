//! Behind a Vault Agent or Proxy with a cache: volumes of one pod share tokens and leases without knowing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::agent::Agent;
use support::driver::{Driver, Volume};
use support::world::{DATABASE, KV, Setup, World, class};
use tonic::Code;

/// A world whose daemon reaches its server through an agent, as the incumbent's chart sets it up.
async fn behind_an_agent() -> (World, Agent) {
    with_an_agent(Setup::default()).await
}

async fn with_an_agent(setup: Setup<'_>) -> (World, Agent) {
    let mut world = World::with(setup).await;
    let agent = Agent::start(&world.vault.url()).await;
    world.kill();
    let environment = [("VAULT_AGENT_ADDR", agent.url.as_str())];
    let daemon = world.node.spawn_with(&environment);
    world.daemon = Some(world.node.until_ready(daemon).await);
    world.driver = Driver::dial(&world.node.socket());
    (world, agent)
}

#[tokio::test]
async fn the_end_of_one_volume_costs_the_other_nothing() {
    let (world, _agent) = behind_an_agent().await;
    // One pod, two volumes: kubelet hands the same token over for both.
    let tokens = world.tokens();
    let one = world.volume("web");
    let two = Volume::new(&world.node.pods(), "shop", "web", "uid-web", "more");
    let both = class(&format!("{DATABASE}{KV}"));
    for volume in [&one, &two] {
        let mounted = world.driver.mount(volume, &both, &tokens).await;
        assert!(mounted.is_ok());
    }
    assert_eq!(
        one.text("username"),
        two.text("username"),
        "the agent's doing"
    );
    assert_eq!((world.logins(), world.creds()), (1, 1));

    // A third one fails, and what it has had is undone.
    let three = Volume::new(&world.node.pods(), "shop", "web", "uid-web", "wrong");
    let wrong = class("- {objectName: a, secretPath: kv/nothing}");
    let refused = world.driver.mount(&three, &wrong, &tokens).await;
    assert_eq!(refused.err().unwrap().code(), Code::NotFound);
    three.unmount();
    one.unmount();
    world
        .until("the first volume is forgotten", || {
            world.node.journalled() == 1
        })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (user, password) = (two.text("username"), two.text("password"));
    assert!(world.vault.verify_user(&user, &password));
    let poll = world.driver.mount(&two, &both, &tokens).await;
    assert!(poll.is_ok());
    assert_eq!((world.logins(), two.text("username")), (1, user));

    two.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_restart_remembers_what_is_shared() {
    let (mut world, agent) = behind_an_agent().await;
    let tokens = world.tokens();
    let one = world.volume("web");
    let two = Volume::new(&world.node.pods(), "shop", "web", "uid-web", "more");
    for volume in [&one, &two] {
        let mounted = world.driver.mount(volume, &class(DATABASE), &tokens).await;
        assert!(mounted.is_ok());
    }
    world.kill();
    one.unmount();
    let environment = [("VAULT_AGENT_ADDR", agent.url.as_str())];
    let daemon = world.node.spawn_with(&environment);
    world.daemon = Some(world.node.until_ready(daemon).await);
    world
        .until("the first volume is forgotten", || {
            world.node.journalled() == 1
        })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        world
            .vault
            .verify_user(&two.text("username"), &two.text("password"))
    );
    two.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_tenants_own_server_keeps_nobodys_token_alive() {
    let world = World::new().await;
    let volume = world.volume("web");
    world.mount(&volume, &class(DATABASE)).await;
    // It names the accessor of a token that is not its own.
    let accessor = world.vault.live_tokens()[0].accessor.clone();
    let stranger = World::new().await;
    let login = json!({ "auth": {
        "client_token": "s.another-token-of-its-own", "accessor": accessor, "policies": ["default"],
        "token_policies": ["default"], "metadata": null, "lease_duration": 3600, "renewable": true,
        "entity_id": "", "token_type": "service", "orphan": true,
    } });
    let action = dev_vault::Action::Status {
        code: 200,
        body: login.to_string(),
        headers: Vec::new(),
    };
    let fault = dev_vault::Fault::at("auth/kubernetes/login", action);
    stranger.vault.faults().push(fault);
    let body = json!({ "data": { "api-key": "x" } }).to_string();
    let action = dev_vault::Action::Status {
        code: 200,
        body,
        headers: Vec::new(),
    };
    stranger
        .vault
        .faults()
        .push(dev_vault::Fault::at("secret/", action));
    let mut other = class(KV);
    other["vaultAddress"] = json!(stranger.vault.url());
    world.mount(&world.volume("stranger"), &other).await;
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn renewals_and_replacements_are_the_servers_own() {
    let setup = Setup {
        database: json!({ "default_ttl": "4s", "max_ttl": "1h" }),
        role: json!({ "token_ttl": "5s" }),
        ..Setup::default()
    };
    let (world, _agent) = with_an_agent(setup).await;
    let tokens = world.tokens();
    let volume = world.volume("web");
    let both = class(&format!("{DATABASE}{KV}"));
    let mounted = world.driver.mount(&volume, &both, &tokens).await;
    assert!(mounted.is_ok());
    let (user, password) = (volume.text("username"), volume.text("password"));
    // Three terms: the second of two equal renewals would be answered by the cache, and renew nothing.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.vault.verify_user(&user, &password), "{}", world.log());
    }
    // What an administrator revokes does not come back out of the cache, with the same pod token.
    let accessor = json!({ "accessor": world.vault.live_tokens()[0].accessor });
    world
        .admin
        .write("auth/token/revoke-accessor", accessor)
        .await;
    let poll = world.driver.mount(&volume, &both, &tokens).await;
    assert!(poll.is_ok(), "{}", world.log());
    let (user, password) = (volume.text("username"), volume.text("password"));
    assert!(world.vault.verify_user(&user, &password));
    volume.unmount();
    world.until_nothing_lives().await;
}

#[tokio::test]
async fn a_first_mount_does_not_take_a_dead_token_out_of_the_cache() {
    let (world, _agent) = behind_an_agent().await;
    let tokens = world.tokens();
    let one = world.volume("web");
    let two = Volume::new(&world.node.pods(), "shop", "web", "uid-web", "more");
    assert!(world.driver.mount(&one, &class(KV), &tokens).await.is_ok());
    let accessor = json!({ "accessor": world.vault.live_tokens()[0].accessor });
    world
        .admin
        .write("auth/token/revoke-accessor", accessor)
        .await;
    let second = world.driver.mount(&two, &class(DATABASE), &tokens).await;
    assert!(second.is_ok(), "{}", world.log());
    assert!(
        world
            .vault
            .verify_user(&two.text("username"), &two.text("password"))
    );
}
