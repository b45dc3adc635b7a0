//! Cases 26–38: leases.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Call, Reply};
use crate::cluster::Claims;
use crate::engines::Pki;
use crate::fixtures::{Kubernetes, LeasedKv, policy, token, token_with};
use crate::server::Server;

async fn renew(server: &Server, token: &str, lease: &str, increment: u64) -> Reply {
    let body = json!({ "lease_id": lease, "increment": increment });
    server
        .call(Call::post("sys/leases/renew", body).token(token))
        .await
}

async fn lookup(server: &Server, lease: &str) -> Reply {
    let body = json!({ "lease_id": lease });
    server.root(Call::post("sys/leases/lookup", body)).await
}

async fn revoke(server: &Server, body: Value) -> Reply {
    server.root(Call::post("sys/leases/revoke", body)).await
}

pub async fn case_26_lease_shape(server: &Server) {
    let kv = LeasedKv::new(server, "45s").await;
    let app = kv.reader(server).await;
    let reply = kv.read(server, &app.id).await;
    let lease = reply.string("/lease_id");
    let random = lease
        .strip_prefix(&format!("{}/app/", kv.mount))
        .unwrap_or_else(|| panic!("the lease id does not start with the path: {reply}"));
    assert_eq!(random.len(), 24, "{reply}");
    assert!(
        random.chars().all(|letter| letter.is_ascii_alphanumeric()),
        "{reply}"
    );
    reply.is("/renewable", true);
    reply.is("/lease_duration", 45);
    reply.is("/data/password", "p4ss");
    reply.is("/auth", Value::Null);
    // Each read is a lease of its own.
    assert_ne!(kv.lease(server, &app.id).await, lease);
}

pub async fn case_27_lease_renew(server: &Server) {
    let kv = LeasedKv::new(server, "45s").await;
    let lease = kv.lease(server, &kv.reader(server).await.id).await;
    let in_body = json!({ "lease_id": lease, "increment": 60 });
    let increment = json!({ "increment": 60 });
    let in_path = format!("sys/leases/renew/{lease}");
    // Where both name a lease, the body wins.
    let nowhere = format!("sys/leases/renew/{}/app/0123456789abcdefghijklmn", kv.mount);
    let calls = [
        Call::put("sys/leases/renew", in_body.clone()),
        Call::post("sys/leases/renew", in_body.clone()),
        Call::put(&in_path, increment.clone()),
        Call::post(&in_path, increment),
        Call::post(nowhere, in_body),
    ];
    for call in calls {
        let reply = server.root(call).await.expect(200);
        reply.is("/lease_id", lease.as_str());
        reply.is("/renewable", true);
        reply.is("/lease_duration", 60);
        reply.is("/auth", Value::Null);
    }
}

pub async fn case_28_default_only(server: &Server) {
    let kv = LeasedKv::new(server, "45s").await;
    let app = kv.reader(server).await;
    let lease = kv.lease(server, &app.id).await;
    let reply = renew(server, &app.id, &lease, 60).await.expect(200);
    reply.is("/lease_id", lease.as_str());
    let by_path = Call::post(format!("sys/leases/renew/{lease}"), json!({}));
    server
        .call(by_path.token(&app.id))
        .await
        .refuses_for_policy();
    let revoke = Call::post("sys/leases/revoke", json!({ "lease_id": lease }));
    server
        .call(revoke.token(&app.id))
        .await
        .refuses_for_policy();
    let lookup = Call::post("sys/leases/lookup", json!({ "lease_id": lease }));
    server.call(lookup.token(&app.id)).await.expect(200);
}

pub async fn case_29_renew_unknown(server: &Server) {
    let app = token_with(server, &["default"]).await;
    let lease = "database/creds/app/0123456789abcdefghijklmn";
    let reply = renew(server, &app.id, lease, 0).await;
    reply.refuses(400, "lease not found");
}

pub async fn case_30_renew_fixed(server: &Server) {
    let pki = Pki::new(server, json!({ "generate_lease": true })).await;
    let issued = pki.issue(server).await;
    let lease = issued.string("/lease_id");
    assert!(
        lease.starts_with(&format!("{}/issue/web/", pki.mount)),
        "{issued}"
    );
    issued.is("/renewable", false);
    // About the certificate's life, an hour.
    issued.is_within("/lease_duration", 3590, 3600);
    let root = server.root_token().to_owned();
    let reply = renew(server, &root, &lease, 60).await;
    reply.refuses(400, "lease is not renewable");
}

pub async fn case_31_renew_token(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    let path = format!("auth/{}/login", kubernetes.mount);
    let listed = server
        .root(Call::list(format!("sys/leases/lookup/{path}")))
        .await
        .expect(200);
    let id = listed.string("/data/keys/0");
    let root = server.root_token().to_owned();
    let reply = renew(server, &root, &format!("{path}/{id}"), 60).await;
    reply.refuses(400, "tokens cannot be renewed through this endpoint");
}

pub async fn case_32_renew_foreign(server: &Server) {
    let kv = LeasedKv::new(server, "45s").await;
    let owner = kv.reader(server).await;
    let lease = kv.lease(server, &owner.id).await;
    let stranger = token_with(server, &["default"]).await;
    let reply = renew(server, &stranger.id, &lease, 60).await.expect(200);
    reply.is("/lease_id", lease.as_str());
    reply.is("/lease_duration", 60);
}

pub async fn case_33_lease_capped(server: &Server) {
    let kv = LeasedKv::new(server, "8s").await;
    server
        .set_up(
            format!("sys/mounts/{}/tune", kv.mount),
            json!({ "max_lease_ttl": "10s" }),
        )
        .await;
    let app = kv.reader(server).await;
    let read = kv.read(server, &app.id).await;
    read.is("/lease_duration", 8);
    server.pass(Duration::from_secs(4)).await;
    let lease = read.string("/lease_id");
    let reply = renew(server, &app.id, &lease, 60).await.expect(200);
    reply.is_within("/lease_duration", 5, 6);
    reply.warns(&format!(
        r#"TTL of "1m" exceeded the effective max_ttl of "{}s"; TTL value is capped accordingly"#,
        reply.seconds("/lease_duration")
    ));
}

pub async fn case_34_lease_short(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let app = kv.reader(server).await;
    let lease = kv.lease(server, &app.id).await;
    let reply = renew(server, &app.id, &lease, 2).await.expect(200);
    reply.is("/lease_duration", 2);
    lookup(server, &lease).await.expect(200);
    server.pass(Duration::from_secs(3)).await;
    server.until_lease_is_gone(&lease).await;
}

pub async fn case_35_batch_lease(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let batch = json!({ "type": "batch", "ttl": "5s", "policies": [kv.policy] });
    let batch = token(server, batch).await;
    let read = kv.read(server, &batch.id).await;
    read.is_within("/lease_duration", 4, 5);
    server.pass(Duration::from_secs(2)).await;
    let lease = read.string("/lease_id");
    let root = server.root_token().to_owned();
    let reply = renew(server, &root, &lease, 60).await.expect(200);
    reply.is_within("/lease_duration", 2, 3);
    server.pass(Duration::from_secs(4)).await;
    server.until_lease_is_gone(&lease).await;
}

pub async fn case_36_revoke(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let app = kv.reader(server).await;
    let lease = kv.lease(server, &app.id).await;
    let now = json!({ "lease_id": lease, "sync": true });
    revoke(server, now.clone()).await.expect(204).is_empty();
    lookup(server, &lease).await.refuses(400, "invalid lease");
    // Again: revocation of what is gone is done.
    revoke(server, now).await.expect(204).is_empty();
    let by_default = kv.lease(server, &app.id).await;
    let reply = revoke(server, json!({ "lease_id": by_default })).await;
    reply.expect(204).is_empty();

    let lease = kv.lease(server, &app.id).await;
    let later = json!({ "lease_id": lease, "sync": false });
    revoke(server, later).await.expect(202).is_empty();
    server.until_lease_is_gone(&lease).await;

    let reply = revoke(server, json!({})).await;
    reply.refuses(400, "lease_id must be specified");
}

pub async fn case_37_revoke_prefix(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let lease = kv.lease(server, &kv.reader(server).await.id).await;
    let path = format!("sys/leases/revoke-prefix/{}", kv.mount);
    let allow = |capabilities: &str| {
        format!(r#"path "sys/leases/revoke-prefix/*" {{ capabilities = [{capabilities}] }}"#)
    };
    let without = policy(server, &allow(r#""update""#)).await;
    let without = token_with(server, &[&without]).await;
    let body = json!({ "sync": true });
    let call = Call::post(&path, body.clone()).token(&without.id);
    server.call(call).await.refuses_for_policy();
    lookup(server, &lease).await.expect(200);

    let with = policy(server, &allow(r#""update", "sudo""#)).await;
    let with = token_with(server, &[&with]).await;
    let call = Call::post(&path, body).token(&with.id);
    server.call(call).await.expect(204).is_empty();
    lookup(server, &lease).await.refuses(400, "invalid lease");
}

pub async fn case_38_lease_lookup(server: &Server) {
    let kv = LeasedKv::new(server, "1h").await;
    let app = kv.reader(server).await;
    let lease = kv.lease(server, &app.id).await;
    let reply = lookup(server, &lease).await.expect(200);
    reply.is("/data/id", lease.as_str());
    reply.is_filled("/data/issue_time");
    reply.is_filled("/data/expire_time");
    reply.is("/data/last_renewal", Value::Null);
    reply.is("/data/renewable", true);
    reply.is_within("/data/ttl", 3597, 3600);
    reply.is("/data/path", format!("{}/app", kv.mount));

    renew(server, &app.id, &lease, 60).await.expect(200);
    let reply = lookup(server, &lease).await.expect(200);
    reply.is_filled("/data/last_renewal");
    reply.is_within("/data/ttl", 57, 60);

    let unknown = format!("{}/app/0123456789abcdefghijklmn", kv.mount);
    lookup(server, &unknown).await.refuses(400, "invalid lease");
}
