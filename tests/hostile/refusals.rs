//! A renewal that something before the server refuses, once or for a while, is asked again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use serde_json::json;

use crate::scene::{Scene, TENANT, hostile, in_tenant, none};
use crate::support::hostile::{Asked, Reply};

/// Renewed at its half, so that there are three seconds after the first refusal.
const TERM: &str = "6s";
/// How long the refusals go on, where it is not one alone.
const WHILE: Duration = Duration::from_millis(1500);

/// What firewalls and proxies say.
fn refusals() -> Vec<fn() -> Reply> {
    fn json(status: u16, body: &'static str) -> Reply {
        let headers = vec![("content-type", "application/json".to_owned())];
        Reply::Answer(status, headers, Bytes::from(body))
    }
    vec![
        || Reply::page(403),
        || json(403, r#"{"message":"Forbidden"}"#),
        || json(403, r#"{"errors":["Request blocked"]}"#),
        || {
            json(
                403,
                r#"{"errors":[{"code":"WAF-1020","message":"blocked"}]}"#,
            )
        },
        || json(403, r#"{"error":"denied","support_id":"1"}"#),
        // A policy that is missing for a while.
        || {
            json(
                403,
                r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
            )
        },
        || {
            Reply::Answer(
                403,
                vec![("content-type", "text/plain".to_owned())],
                "permission denied".into(),
            )
        },
        || json(401, r#"{"message":"Unauthorized"}"#),
        || Reply::page(407),
        || Reply::Answer(403, Vec::new(), Bytes::new()),
    ]
}

/// Whether the refusals that began then go on.
fn goes_on(since: &mut Option<Instant>, once: bool) -> bool {
    match since {
        None => {
            *since = Some(Instant::now());
            true
        }
        Some(since) => !once && since.elapsed() < WHILE,
    }
}

async fn leases_are_renewed_afterwards() -> Vec<String> {
    let mut scene = Scene::fronted("403, 401, 407 at renewals of leases").await;
    let mut names = Vec::new();
    let mut objects = String::new();
    for (at, _) in refusals().iter().enumerate() {
        for often in ["once", "while"] {
            let name = format!("{often}-{at}");
            let role = json!({ "db_name": "db", "default_ttl": TERM, "max_ttl": "24h" });
            scene
                .world
                .admin
                .write(&format!("hostile/roles/{name}"), role)
                .await;
            objects.push_str(&format!(
                "\n- {{objectName: {name}, secretPath: hostile/creds/{name}, secretKey: username}}"
            ));
            names.push(name);
        }
    }
    let volume = scene.volume("shop", "refused");
    let mounted = scene.mount(&volume, &hostile(&objects)).await;
    scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
    let known = names.clone();
    let since = Mutex::new(vec![None; names.len()]);
    scene.front().script(move |asked: &Asked| {
        let of = |name: &String| asked.renews(&format!("hostile/creds/{name}/"));
        match known.iter().position(of) {
            Some(at) if goes_on(&mut since.lock().unwrap()[at], at % 2 == 0) => {
                refusals()[at / 2]()
            }
            _ => Reply::Pass,
        }
    });
    scene.watch(Duration::from_millis(6500)).await;
    let users = scene.world.vault.live_users();
    for name in names {
        let lives = users.iter().any(|user| user.contains(&format!("-{name}-")));
        scene.expect(lives, || format!("the lease refused as {name} is dead"));
    }
    scene.end(Duration::from_secs(15)).await
}

async fn tokens_are_renewed_afterwards() -> Vec<String> {
    let refused = [true, false].map(|once| async move {
        let mut scene = Scene::fronted(&format!("403 at a token's renewal, once: {once}")).await;
        let tenant = scene.world.admin.in_namespace(TENANT).await;
        let short = json!({
            "bound_service_account_namespaces": ["*"],
            "token_policies": ["hostile"],
            "token_ttl": TERM,
        });
        tenant.role("kubernetes", "hostile", short).await;
        let class =
            in_tenant("- {objectName: u, secretPath: hostile/creds/app, secretKey: username}");
        let volume = scene.volume("shop", "refused");
        let mounted = scene.mount(&volume, &class).await;
        scene.expect(mounted.is_ok(), || format!("{mounted:?}"));
        let since = Mutex::new(None);
        scene.front().script(move |asked: &Asked| {
            let is_it = asked.namespace == TENANT && asked.path == "auth/token/renew-self";
            if is_it && goes_on(&mut since.lock().unwrap(), once) {
                Reply::page(403)
            } else {
                Reply::Pass
            }
        });
        scene.watch(Duration::from_millis(6500)).await;
        let tokens = scene.hostile_tokens();
        scene.expect(tokens == 1, || "the token is dead".to_owned());
        scene.end(Duration::from_secs(15)).await
    });
    join_all(refused).await.concat()
}

#[tokio::test]
async fn a_renewal_that_a_proxy_refuses_is_asked_again() {
    let (leases, tokens) = tokio::join!(
        leases_are_renewed_afterwards(),
        tokens_are_renewed_afterwards(),
    );
    none([leases, tokens]);
}
