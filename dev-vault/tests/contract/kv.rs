//! Cases 39–44: both KV engines and cubbyhole.

use serde_json::{Value, json};

use crate::client::Call;
use crate::fixtures::{engine, token, token_with};
use crate::server::Server;

async fn kv1(server: &Server) -> String {
    engine(server, "kv", json!({ "version": "1" })).await
}

/// A KV v2 mount whose key `app` has the versions one and two.
async fn kv2(server: &Server) -> String {
    let mount = engine(server, "kv", json!({ "version": "2" })).await;
    for password in ["first", "second"] {
        let body = json!({ "data": { "password": password } });
        server.set_up(format!("{mount}/data/app"), body).await;
    }
    mount
}

pub async fn case_39_kv1(server: &Server) {
    let mount = kv1(server).await;
    server
        .set_up(format!("{mount}/plain"), json!({ "password": "p4ss" }))
        .await;
    let timed = json!({ "password": "p4ss", "ttl": "30s" });
    server.set_up(format!("{mount}/timed"), timed.clone()).await;
    // An escape is undone once: `%252f` names the percent sign, `%2f` the separator.
    for (sent, value) in [("my%252fname", "literal"), ("my%2fname", "below")] {
        let path = format!("{mount}/{sent}");
        server.set_up(&path, json!({ "k": value })).await;
        let reply = server.root(Call::get(path)).await.expect(200);
        reply.is("/data/k", value);
    }
    let below = server.root(Call::get(format!("{mount}/my/name"))).await;
    below.expect(200).is("/data/k", "below");

    let reply = server.root(Call::get(format!("{mount}/plain"))).await;
    let reply = reply.expect(200);
    reply.is("/lease_id", "");
    reply.is("/renewable", false);
    reply.is("/lease_duration", 2_764_800);
    reply.is("/data", json!({ "password": "p4ss" }));
    let reply = server.root(Call::get(format!("{mount}/timed"))).await;
    let reply = reply.expect(200);
    reply.is("/lease_id", "");
    reply.is("/lease_duration", 30);
    reply.is("/data", timed);
}

pub async fn case_40_kv_404(server: &Server) {
    for mount in [kv1(server).await, kv2(server).await] {
        let (missing, empty) = match mount.as_str() {
            v2 if is_v2(server, v2).await => ("data/missing", "metadata/empty/"),
            _ => ("missing", "empty/"),
        };
        for call in [
            Call::get(format!("{mount}/{missing}")),
            Call::list(format!("{mount}/{empty}")),
            Call::get(format!("{mount}/{empty}?list=true")),
        ] {
            let reply = server.root(call).await.expect(404);
            assert_eq!(reply.body, json!({ "errors": [] }), "of {reply}");
        }
    }
}

/// By the endpoint with which a client finds the engine's version.
async fn is_v2(server: &Server, mount: &str) -> bool {
    let path = format!("sys/internal/ui/mounts/{mount}/some/key");
    let reply = server.root(Call::get(path)).await.expect(200);
    reply.is("/data/path", format!("{mount}/"));
    reply.is("/data/type", "kv");
    reply.string("/data/options/version") == "2"
}

pub async fn case_41_kv2(server: &Server) {
    let mount = kv2(server).await;
    let path = format!("{mount}/data/app");
    let reply = server.root(Call::get(&path)).await.expect(200);
    reply.is("/lease_id", "");
    reply.is("/renewable", false);
    reply.is("/lease_duration", 0);
    reply.is("/data/data", json!({ "password": "second" }));
    reply.is("/data/metadata/version", 2);
    reply.is_filled("/data/metadata/created_time");
    reply.is("/data/metadata/deletion_time", "");
    reply.is("/data/metadata/destroyed", false);
    assert!(reply.has("/data/metadata", "custom_metadata"), "{reply}");
    reply.is("/data/metadata/custom_metadata", Value::Null);

    let first = server.root(Call::get(format!("{path}?version=1"))).await;
    let first = first.expect(200);
    first.is("/data/data", json!({ "password": "first" }));
    first.is("/data/metadata/version", 1);
    let absent = server.root(Call::get(format!("{path}?version=99"))).await;
    assert_eq!(absent.expect(404).body, json!({ "errors": [] }));
    let strange = server.root(Call::get(format!("{path}?version=one"))).await;
    strange.refuses_with(400, "Field validation failed: ");

    let listed = server.root(Call::list(format!("{mount}/metadata/"))).await;
    listed.expect(200).is("/data/keys", json!(["app"]));
}

pub async fn case_42_kv2_gone(server: &Server) {
    let mount = kv2(server).await;
    let path = format!("{mount}/data/app");
    let versions = |first: u64| json!({ "versions": [first] });
    let destroy = Call::put(format!("{mount}/destroy/app"), versions(1));
    server.root(destroy).await.expect(204);
    server.root(Call::delete(&path)).await.expect(204);

    let deleted = server.root(Call::get(&path)).await.expect(404);
    assert!(deleted.has("/data", "data"), "{deleted}");
    deleted.is("/data/data", Value::Null);
    deleted.is("/data/metadata/version", 2);
    deleted.is("/data/metadata/destroyed", false);
    deleted.is_filled("/data/metadata/deletion_time");
    deleted.is_filled("/request_id");
    let destroyed = server.root(Call::get(format!("{path}?version=1"))).await;
    let destroyed = destroyed.expect(404);
    assert!(destroyed.has("/data", "data"), "{destroyed}");
    destroyed.is("/data/data", Value::Null);
    destroyed.is("/data/metadata/version", 1);
    destroyed.is("/data/metadata/destroyed", true);

    let undelete = Call::post(format!("{mount}/undelete/app"), versions(2));
    server.root(undelete).await.expect(204);
    let back = server.root(Call::get(&path)).await.expect(200);
    back.is("/data/data/password", "second");
}

pub async fn case_43_kv2_path(server: &Server) {
    let mount = kv2(server).await;
    let reply = server.root(Call::get(format!("{mount}/app"))).await;
    let reply = reply.expect(404);
    reply.warns("Invalid path for a versioned K/V secrets engine");
    assert!(!reply.has("", "errors"), "{reply}");
}

pub async fn case_44_cubbyhole(server: &Server) {
    let first = token_with(server, &["default"]).await;
    let second = token_with(server, &["default"]).await;
    let write = Call::post("cubbyhole/note", json!({ "text": "mine" }));
    server.call(write.token(&first.id)).await.expect(204);
    let read = Call::get("cubbyhole/note").token(&first.id);
    let reply = server.call(read).await.expect(200);
    reply.is("/data/text", "mine");
    reply.is("/lease_id", "");
    let read = Call::get("cubbyhole/note").token(&second.id);
    let reply = server.call(read).await.expect(404);
    assert_eq!(reply.body, json!({ "errors": [] }));

    let batch = json!({ "type": "batch", "ttl": "1m", "policies": ["default"] });
    let batch = token(server, batch).await;
    let read = Call::get("cubbyhole/note").token(&batch.id);
    server.call(read).await.refuses(
        400,
        "cubbyhole operations are only supported by 'service' type tokens",
    );
}
