//! Cases 15–25: tokens.

use std::time::Duration;

use serde_json::json;

use crate::client::{Call, Reply};
use crate::cluster::Claims;
use crate::fixtures::{Kubernetes, LeasedKv, engine, policy, token, token_of, token_with};
use crate::server::Server;

async fn lookup_self(server: &Server, token: &str) -> Reply {
    server
        .call(Call::get("auth/token/lookup-self").token(token))
        .await
}

async fn renew_self(server: &Server, token: &str, increment: u64) -> Reply {
    let body = json!({ "increment": increment });
    server
        .call(Call::post("auth/token/renew-self", body).token(token))
        .await
}

async fn revoke_self(server: &Server, token: &str) -> Reply {
    server
        .call(Call::post("auth/token/revoke-self", json!({})).token(token))
        .await
}

pub async fn case_15_lookup_self(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let login = kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    let app = token_of(&login);
    let reply = lookup_self(server, &app.id).await.expect(200);
    reply.is("/data/id", app.id.as_str());
    reply.is("/data/accessor", app.accessor.as_str());
    reply.is("/data/policies", json!(["app", "default"]));
    reply.is("/data/path", format!("auth/{}/login", kubernetes.mount));
    reply.is("/data/meta/service_account_name", "web");
    reply.is_filled("/data/display_name");
    reply.is("/data/num_uses", 0);
    reply.is("/data/orphan", true);
    assert!(reply.seconds("/data/creation_time") > 0, "{reply}");
    reply.is("/data/creation_ttl", 3600);
    reply.is_filled("/data/issue_time");
    reply.is_filled("/data/expire_time");
    reply.is_within("/data/ttl", 3597, 3600);
    reply.is("/data/explicit_max_ttl", 0);
    reply.is("/data/entity_id", login.string("/auth/entity_id"));
    reply.is("/data/type", "service");
    reply.is("/data/renewable", true);
    assert!(!reply.has("/data", "period"), "{reply}");

    let call = Call::post("auth/token/lookup-self", json!({})).token(&app.id);
    server.call(call).await.refuses_for_policy();
}

pub async fn case_16_bad_token(server: &Server) {
    let mount = engine(server, "kv", json!({ "version": "1" })).await;
    let paths = [
        "auth/token/lookup-self".to_owned(),
        format!("{mount}/app"),
        format!("{}/app", server.unique("nope")),
    ];
    for path in paths {
        let unknown = "s.0123456789abcdefghijklmn";
        let reply = server.call(Call::get(&path).token(unknown)).await;
        reply.refuses(403, "permission denied");
        let reply = server.call(Call::get(&path).token("b.garbage")).await;
        reply.refuses(403, "permission denied");
        let reply = server.call(Call::get(&path)).await;
        reply.refuses(403, "permission denied");
    }
}

pub async fn case_17_denied(server: &Server) {
    let mount = engine(server, "kv", json!({ "version": "1" })).await;
    server
        .set_up(format!("{mount}/app"), json!({ "password": "p4ss" }))
        .await;
    let app = token_with(server, &["default"]).await;
    // Whether the mount or the key exists stays hidden.
    for path in ["app", "nothing"] {
        let call = Call::get(format!("{mount}/{path}")).token(&app.id);
        server.call(call).await.refuses_for_policy();
    }
    let call = Call::get(format!("{}/app", server.unique("nope"))).token(&app.id);
    server.call(call).await.refuses_for_policy();

    // The most specific rule decides, and deny beats what else the same token may.
    let rules = format!(
        r#"path "{mount}/*" {{ capabilities = ["read"] }}
           path "{mount}/deep/+/key" {{ capabilities = ["deny"] }}"#
    );
    let policy = policy(server, &rules).await;
    let reader = token_with(server, &[&policy]).await;
    let call = Call::get(format!("{mount}/app")).token(&reader.id);
    server.call(call).await.expect(200);
    let call = Call::get(format!("{mount}/deep/a/key")).token(&reader.id);
    server.call(call).await.refuses_for_policy();
    let call = Call::post(format!("{mount}/app"), json!({ "a": "b" })).token(&reader.id);
    server.call(call).await.refuses_for_policy();
}

pub async fn case_18_renew_short(server: &Server) {
    let app = token(server, json!({ "ttl": "60s", "policies": ["default"] })).await;
    let reply = renew_self(server, &app.id, 5).await.expect(200);
    reply.is("/auth/lease_duration", 5);
    reply.is("/auth/client_token", app.id.as_str());
    reply.is("/auth/accessor", app.accessor.as_str());
    reply.is("/auth/renewable", true);
    let reply = lookup_self(server, &app.id).await.expect(200);
    reply.is_within("/data/ttl", 3, 5);
}

pub async fn case_19_renew_capped(server: &Server) {
    let limits = json!({ "token_ttl": "10s", "token_max_ttl": "12s" });
    let kubernetes = Kubernetes::new(server, limits).await;
    let login = kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    login.is("/auth/lease_duration", 10);
    let app = token_of(&login);
    server.pass(Duration::from_secs(5)).await;
    let reply = renew_self(server, &app.id, 60).await.expect(200);
    reply.is_within("/auth/lease_duration", 6, 7);
    reply.warns(&format!(
        r#"TTL of "1m" exceeded the effective max_ttl of "{}s"; TTL value is capped accordingly"#,
        reply.seconds("/auth/lease_duration")
    ));
}

pub async fn case_20_renew_periodic(server: &Server) {
    let app = token(server, json!({ "period": "30s", "policies": ["default"] })).await;
    let reply = lookup_self(server, &app.id).await.expect(200);
    reply.is("/data/period", 30);
    for increment in [999, 2] {
        let reply = renew_self(server, &app.id, increment).await.expect(200);
        reply.is("/auth/lease_duration", 30);
    }
}

pub async fn case_21_batch_ops(server: &Server) {
    let batch = json!({ "type": "batch", "ttl": "1m", "policies": ["default"] });
    let batch = token(server, batch).await;
    let reply = renew_self(server, &batch.id, 60).await;
    reply.refuses(400, "batch tokens cannot be renewed");
    let reply = revoke_self(server, &batch.id).await;
    reply.refuses(400, "batch tokens cannot be revoked");
    lookup_self(server, &batch.id).await.expect(200);
    server.pass(Duration::from_millis(1)).await;
    // Renewal of what has no end is refused as well, in other words.
    let root = server.root_token().to_owned();
    let reply = renew_self(server, &root, 60).await;
    reply.refuses(400, "lease is not renewable");
}

pub async fn case_22_revoke_self(server: &Server) {
    let app = token_with(server, &["default"]).await;
    lookup_self(server, &app.id).await.expect(200);
    revoke_self(server, &app.id).await.expect(204).is_empty();
    let reply = revoke_self(server, &app.id).await;
    reply.refuses(403, "permission denied");
    let reply = lookup_self(server, &app.id).await;
    reply.refuses(403, "permission denied");
}

pub async fn case_23_cascade(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let create = policy(
        server,
        r#"path "auth/token/create" { capabilities = ["update"] }"#,
    )
    .await;
    let parent = token_with(server, &[&kv.policy, &create]).await;
    let body = json!({ "policies": [kv.policy], "ttl": "1h" });
    let call = Call::post("auth/token/create", body).token(&parent.id);
    let child = token_of(&server.call(call).await.expect(200));
    let leases = [
        kv.lease(server, &parent.id).await,
        kv.lease(server, &child.id).await,
    ];

    revoke_self(server, &parent.id).await.expect(204);
    for token in [&parent, &child] {
        let reply = lookup_self(server, &token.id).await;
        reply.refuses(403, "permission denied");
    }
    for lease in leases {
        server.until_lease_is_gone(&lease).await;
    }
}

pub async fn case_24_expiry(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let app = token(server, json!({ "ttl": "2s", "policies": [kv.policy] })).await;
    let lease = kv.lease(server, &app.id).await;
    lookup_self(server, &app.id).await.expect(200);
    server.pass(Duration::from_secs(3)).await;
    let reply = lookup_self(server, &app.id).await;
    reply.refuses(403, "permission denied");
    server.until_lease_is_gone(&lease).await;
}

pub async fn case_25_accessor(server: &Server) {
    let app = token_with(server, &["default"]).await;
    let of = |accessor: &str| json!({ "accessor": accessor });
    let call = Call::post("auth/token/lookup-accessor", of(&app.accessor));
    let reply = server.root(call).await.expect(200);
    reply.is("/data/id", "");
    reply.is("/data/accessor", app.accessor.as_str());
    reply.is_within("/data/ttl", 3597, 3600);

    let unknown = "0123456789abcdefghijklmn";
    let call = Call::post("auth/token/lookup-accessor", of(unknown));
    server
        .root(call)
        .await
        .refuses(400, "1 error occurred:\n\t* invalid accessor\n\n");

    let listed = server.root(Call::list("auth/token/accessors")).await;
    let keys = listed.at("/data/keys").as_array().expect("a list of keys");
    assert!(keys.contains(&json!(app.accessor)), "{listed}");

    // `default` does not allow it.
    let call = Call::post("auth/token/revoke-accessor", of(&app.accessor)).token(&app.id);
    server.call(call).await.refuses_for_policy();
    let call = Call::post("auth/token/revoke-accessor", of(&app.accessor));
    server.root(call).await.expect(204).is_empty();
    let reply = lookup_self(server, &app.id).await;
    reply.refuses(403, "permission denied");

    let call = Call::post("auth/token/revoke-accessor", of(unknown));
    let reply = server.root(call).await.expect(200);
    reply.warns("No token found with this accessor");
}
