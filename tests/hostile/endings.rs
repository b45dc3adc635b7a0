//! What ended while the daemon was down costs it nothing when it is back.

use std::time::Duration;

use serde_json::json;

use crate::scene::{Scene, TERM, hostile, none, own_server};
use crate::support::hostile::{Asked, Hostile, Reply};

#[tokio::test]
async fn what_ended_while_the_daemon_was_down_makes_it_neither_spin_nor_deaf() {
    let mut scene = Scene::new("ends while the daemon is down").await;
    let short = json!({
        "bound_service_account_namespaces": ["*"],
        "token_policies": ["app", "hostile"],
        "token_ttl": "2s",
    });
    scene.world.admin.role("kubernetes", "short", short).await;
    let lease = "- {objectName: u, secretPath: hostile/creds/app, secretKey: username}";
    let mut token = hostile(lease);
    token["roleName"] = json!("short");
    // A server of the tenant's own, with a lifetime told in each way.
    let own = Hostile::start(|asked: &Asked| {
        let lease = |id: &str, renewable: bool, data| {
            json!({ "lease_id": id, "renewable": renewable, "lease_duration": 2, "data": data })
        };
        match asked.path.as_str() {
            "auth/kubernetes/login" => Reply::login("s.own", &json!(3)),
            "x/fixed" => Reply::json(&lease("x/fixed/1", false, json!({ "key": "v" }))),
            "x/creds/session" => Reply::json(&json!({ "lease_duration": 0, "data": {
                "access_key": "a", "secret_key": "s", "security_token": "t", "ttl": 2 } })),
            "x/sign" => Reply::json(&json!({ "lease_duration": 0, "data": { "key": "v", "ttl": 2 } })),
            path if path.starts_with("x/") => Reply::json(&lease("x/lease/1", true, json!({ "key": "v" }))),
            _ => Reply::error(404, ""),
        }
    })
    .await;
    let fixed = own_server(&own.url, "- {objectName: k, secretPath: x/fixed, secretKey: key}");
    let session = own_server(&own.url, "- {objectName: k, secretPath: x/creds/session, secretKey: access_key}");
    let sign = own_server(&own.url, "- {objectName: k, secretPath: x/sign, secretKey: key, method: PUT}");
    let leased = own_server(&own.url, "- {objectName: k, secretPath: x/lease, secretKey: key}");
    let classes = [hostile(lease), token, fixed, session, sign, leased];
    for (at, class) in classes.iter().enumerate() {
        let volume = scene.volume("greedy", &format!("short-{at}"));
        let mounted = scene.mount(&volume, class).await;
        scene.expect(mounted.is_ok(), || format!("{at}: {mounted:?}"));
        // A second answer, after which what was replaced drains.
        let polled = scene.mount(&volume, class).await;
        scene.expect(polled.is_ok(), || format!("{at}: {polled:?}"));
    }
    own.script(|_| Reply::Hang);
    scene.restart_after(TERM + Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.is_idle(Duration::from_secs(2), Duration::from_millis(400)).await;
    // Its own lease has ended too: nobody was there to renew it.
    scene.watch_another().await;
    scene.watch(Duration::from_secs(1)).await;
    none([scene.end(Duration::from_secs(5)).await]);
}
