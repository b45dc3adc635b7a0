//! Cases 47–50: states of the whole server, and routing.

use serde_json::json;

use crate::client::{Call, Reply};
use crate::fixtures::{engine, token_with};
use crate::server::Server;

pub async fn case_47_sealed(server: &Server) {
    let mount = engine(server, "kv", json!({ "version": "1" })).await;
    let path = format!("{mount}/app");
    server.set_up(&path, json!({ "password": "p4ss" })).await;
    let health = server.call(Call::get("sys/health")).await.expect(200);
    health.is("/sealed", false);

    server.set_up("sys/seal", json!({})).await;
    // Whoever asks, and for whatever.
    for call in [
        Call::get(&path).token(server.root_token()),
        Call::get(&path),
        Call::post("auth/kubernetes/login", json!({})),
        Call::get("nope/nope").token("s.unknown"),
    ] {
        server.call(call).await.refuses(503, "Vault is sealed");
    }
    let health = server.call(Call::get("sys/health")).await.expect(503);
    health.is("/sealed", true);
    health.is("/initialized", true);
    let asked = Call::get("sys/health?sealedcode=218");
    server.call(asked).await.expect(218);

    server.unseal().await;
    // A real server serves a moment after its last key share.
    for _ in 0..200 {
        if server.call(Call::get("sys/health")).await.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let reply = server.root(Call::get(&path)).await.expect(200);
    reply.is("/data/password", "p4ss");
}

pub async fn case_48_namespace(server: &Server) {
    let call = Call::get("secret/app").header("X-Vault-Namespace", "nowhere");
    let reply = server.root(call).await;
    reply.refuses(404, "namespace not found");
    assert_eq!(header(&reply, "x-vault-namespace"), Some("nowhere"));
    // Before the token is looked at.
    let call =
        Call::post("auth/kubernetes/login", json!({})).header("X-Vault-Namespace", "nowhere");
    let reply = server.call(call).await;
    reply.refuses(404, "namespace not found");
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// Asks until the limit answers.
async fn until_limited(server: &Server, path: &str) -> Reply {
    for _ in 0..50 {
        let reply = server.root(Call::get(path)).await;
        if reply.status != 200 {
            return reply;
        }
    }
    panic!("fifty requests in a row were let through a limit of three a second");
}

pub async fn case_49_rate_limit(server: &Server) {
    let path = "auth/token/lookup-self";
    let limit = json!({ "path": "auth/token/", "rate": 3, "interval": "1s" });
    server.set_up("sys/quotas/rate-limit/tokens", limit).await;
    let reply = until_limited(server, path).await;
    let text = format!("request path \"{path}\": rate limit quota exceeded");
    reply.refuses(429, &text);
    for name in ["retry-after", "x-ratelimit-limit"] {
        assert_eq!(header(&reply, name), None, "{name}: {reply}");
    }

    let headers = json!({ "enable_rate_limit_response_headers": true });
    server.set_up("sys/quotas/config", headers).await;
    let reply = until_limited(server, path).await;
    reply.refuses(429, &text);
    for name in [
        "retry-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ] {
        let value = header(&reply, name).unwrap_or_else(|| panic!("no {name}: {reply}"));
        assert!(value.parse::<u64>().is_ok(), "{name} is {value:?}");
    }
    assert_eq!(header(&reply, "x-ratelimit-limit"), Some("3"));
    assert_eq!(header(&reply, "x-ratelimit-remaining"), Some("0"));
    // One path is throttled, and these are exempt in any case.
    for path in ["sys/health", "sys/seal-status"] {
        server.call(Call::get(path)).await.expect(200);
    }
}

pub async fn case_50_routing(server: &Server) {
    let kv = engine(server, "kv", json!({ "version": "2" })).await;
    let pki = engine(server, "pki", json!({})).await;
    let call = Call::delete(format!("{pki}/issue/web"));
    server
        .root(call)
        .await
        .refuses(405, "1 error occurred:\n\t* unsupported operation\n\n");
    let patch = || Call::patch(format!("{kv}/data/app"), json!({ "data": {} }));
    let json = patch().header("Content-Type", "application/json");
    server.root(json).await.refuses(
        415,
        "PATCH requires Content-Type of application/merge-patch+json, provided application/json",
    );
    let untyped = server.root(patch()).await;
    untyped.refuses(400, "mime: no media type");
    let nowhere = server.unique("nope");
    let reply = server.root(Call::get(format!("{nowhere}/app"))).await;
    reply.refuses(
        404,
        &format!("no handler for route \"{nowhere}/app\". route entry not found."),
    );
    // A caller without policy does not learn it.
    let app = token_with(server, &["default"]).await;
    let call = Call::get(format!("{nowhere}/app")).token(&app.id);
    server.call(call).await.refuses_for_policy();
    let call = Call::delete(format!("{pki}/issue/web")).token(&app.id);
    server.call(call).await.refuses_for_policy();
    let reply = server.root(Call::post("secret/", json!({}))).await;
    reply.refuses(400, "cannot write to a path ending in '/'");
}
