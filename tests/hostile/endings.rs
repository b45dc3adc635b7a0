//! What ended while the daemon was down costs it nothing when it is back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::journals;
use crate::scene::{Scene, hostile, none, own_server};
use crate::support::hostile::{Asked, Hostile, Reply};

const LEASE: &str = "- {objectName: u, secretPath: hostile/creds/short, secretKey: username}";

/// A server of the tenant's own, with a lifetime told in each way.
fn short_lives(asked: &Asked) -> Reply {
    let lease = |id: &str, renewable: bool| {
        let data = json!({ "key": "v" });
        Reply::json(
            &json!({ "lease_id": id, "renewable": renewable, "lease_duration": 2, "data": data }),
        )
    };
    match asked.path.as_str() {
        "auth/kubernetes/login" => Reply::login("s.own", &json!(3)),
        "x/fixed" => lease("x/fixed/1", false),
        "x/creds/session" => Reply::json(&json!({ "lease_duration": 0, "data": {
            "key": "v", "access_key": "a", "secret_key": "s", "security_token": "t", "ttl": 2 } })),
        "x/sign" => Reply::json(&json!({ "lease_duration": 0, "data": { "key": "v", "ttl": 2 } })),
        path if path.starts_with("x/") => lease("x/lease/1", true),
        _ => Reply::error(404, ""),
    }
}

/// Classes of things that last two seconds, one of each kind.
fn classes(own: &str) -> Vec<Value> {
    let object = |path: &str, method: &str| {
        let object =
            format!("- {{objectName: k, secretPath: {path}, secretKey: key, method: {method}}}");
        own_server(own, &object)
    };
    let mut short = hostile(LEASE);
    short["roleName"] = json!("short");
    let mut expire = hostile(LEASE);
    expire["onUnmount"] = json!("expire");
    vec![
        hostile(LEASE),
        short,
        expire,
        object("x/lease", "GET"),
        object("x/fixed", "GET"),
        object("x/creds/session", "GET"),
        object("x/sign", "PUT"),
    ]
}

async fn ends_meanwhile(name: &str, is_away_afterwards: bool) -> Vec<String> {
    let mut scene = Scene::fronted(name).await;
    let short = json!({
        "bound_service_account_namespaces": ["*"],
        "token_policies": ["app", "hostile"],
        "token_ttl": "2s",
    });
    scene.world.admin.role("kubernetes", "short", short).await;
    let role = json!({ "db_name": "db", "default_ttl": "2s", "max_ttl": "24h" });
    scene.world.admin.write("hostile/roles/short", role).await;
    let own = Hostile::start(short_lives).await;
    let classes = classes(&own.url);
    let mut ending = Vec::new();
    for (at, class) in classes.iter().enumerate() {
        for kind in ["stays", "drains", "ends", "ends-meanwhile"] {
            let volume = scene.volume("greedy", &format!("{kind}-{at}"));
            let mounted = scene.mount(&volume, class).await;
            scene.expect(mounted.is_ok(), || format!("{kind} {at}: {mounted:?}"));
            match kind {
                "drains" => {
                    // Another role, after whose login all of the first one drains; confirmed by a second poll.
                    let mut other = class.clone();
                    let role = if class["roleName"] == "short" {
                        "hostile"
                    } else {
                        "short"
                    };
                    other["roleName"] = json!(role);
                    for _ in 0..2 {
                        let polled = scene.mount(&volume, &other).await;
                        scene.expect(polled.is_ok(), || format!("{kind} {at}: {polled:?}"));
                    }
                }
                "ends" | "ends-meanwhile" => ending.push(volume),
                _ => {}
            }
        }
    }
    // What ends now is owed its revocation at the kill.
    scene.front().script(|_| Reply::Hang);
    own.script(|_| Reply::Hang);
    let (now, later): (Vec<_>, Vec<_>) = ending
        .into_iter()
        .partition(|volume| !volume.pod.contains("meanwhile"));
    for volume in now {
        volume.unmount();
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    scene.note_peak();
    scene.world.kill();
    for volume in later {
        volume.unmount();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    if !is_away_afterwards {
        scene.front().script(|_| Reply::Pass);
    }
    scene.restarted().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    scene
        .is_idle(Duration::from_millis(1500), Duration::from_millis(400))
        .await;
    scene.front().script(|_| Reply::Pass);
    scene.comes_back().await;
    scene.watch_another().await;
    scene.watch(Duration::from_millis(500)).await;
    scene.end(Duration::from_secs(5)).await
}

#[tokio::test]
async fn what_ended_while_the_daemon_was_down_and_a_journal_of_absurd_numbers_make_it_neither_spin_nor_deaf()
 {
    let (well, away, journals) = tokio::join!(
        ends_meanwhile("ends while the daemon is down", false),
        ends_meanwhile(
            "ends while the daemon is down, and then the server is",
            true
        ),
        journals::taken_over(),
    );
    none([well, away, journals]);
}
