//! Two tenants behind one Vault Agent with a cache.

use std::time::Duration;

use crate::scene::{Scene, hostile, none};
use crate::support::agent::Agent;
use crate::support::driver::{Driver, Volume};

#[tokio::test]
async fn behind_an_agents_cache_the_end_of_one_tenant_costs_the_other_nothing() {
    let mut scene = Scene::new("an Agent's cache").await;
    let agent = Agent::start(&scene.world.vault.url()).await;
    scene.world.kill();
    let environment = [("VAULT_AGENT_ADDR", agent.url.as_str())];
    let daemon = scene.world.node.spawn_with(&environment);
    scene.world.daemon = Some(scene.world.node.until_ready(daemon).await);
    scene.world.driver = Driver::dial(&scene.world.node.socket());
    // One pod of the other tenant, two volumes of which share token and leases; and a second pod.
    let class = hostile("- {objectName: u, secretPath: hostile/creds/app, secretKey: username}");
    let one = scene.volume("greedy", "one");
    let twin = Volume::new(&scene.world.node.pods(), "greedy", "one", "uid-one", "twin");
    twin.prepare();
    let two = scene.volume("greedy", "two");
    for volume in [&one, &twin, &two] {
        let mounted = scene.mount(volume, &class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
    }
    scene.watch_another().await;
    one.unmount();
    two.unmount();
    scene.watch(Duration::from_millis(6500)).await;
    twin.unmount();
    scene.until_revoked(0, "all of one tenant").await;
    none([scene.end(Duration::from_secs(15)).await]);
}
