//! A tenant's own server, of absurd numbers: every number that a reply may have is foreign.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;

use crate::scene::{Scene, none, own_server};
use crate::support::hostile::{Asked, Hostile, Reply};

/// As they stand in the JSON.
const NUMBERS: &[&str] = &[
    "18446744073709551615",
    "18446744073709551616",
    // The largest that a double has below it.
    "18446744073709549568",
    "9223372036854775807",
    "9223372036854775808",
    "9007199254740993",
    "999999999999",
    "-1",
    "-9223372036854775808",
    "0",
    "0.5",
    "1e400",
    "-1e400",
    "1e18",
    "1e-400",
    "\"∞\"",
    "\"18446744073709551615\"",
    "\"9999999h\"",
    "\"-5s\"",
    "\"2262-04-12T00:00:00Z\"",
    "\"9999-12-31T23:59:59Z\"",
    "\"0001-01-01T00:00:00Z\"",
    "\"\"",
    "null",
    "[]",
    "{}",
    "true",
];

/// What each stands for in a reply; `#` is the number.
const PLACES: &[(&str, &str)] = &[
    (
        "lease",
        r##"{"lease_id":"x/lease/1","renewable":true,"lease_duration":#,"data":{"key":"v"}}"##,
    ),
    (
        "fixed",
        r##"{"lease_id":"x/fixed/1","renewable":false,"lease_duration":#,"data":{"key":"v"}}"##,
    ),
    (
        "plain",
        r##"{"lease_id":"","renewable":false,"lease_duration":#,"data":{"key":"v","ttl":#}}"##,
    ),
    (
        "creds/session",
        r##"{"lease_duration":0,"data":{"key":"v","access_key":"a","secret_key":"s","security_token":"t","ttl":#,"expiration":#}}"##,
    ),
    (
        "token/a",
        r##"{"lease_duration":0,"data":{"key":"v","token":"t","token_ttl":#,"expires_at_seconds":#}}"##,
    ),
    (
        "static-creds/a",
        r##"{"lease_duration":0,"data":{"key":"v","ttl":#,"rotation_period":#,"last_vault_rotation":#}}"##,
    ),
    (
        "sign",
        r##"{"lease_duration":#,"data":{"key":"v","ttl":#,"expiration":#,"not_before":#,"expires_in":#,"expires_on":#}}"##,
    ),
];

/// A login's, or a token's renewal's reply.
fn auth(name: &str, number: &str) -> String {
    format!(
        r#"{{"auth":{{"client_token":"s.{name}","accessor":"a-{name}","policies":["default"],"token_policies":["default"],"lease_duration":{number},"renewable":true,"num_uses":0,"token_type":"service","orphan":true}}}}"#
    )
}

fn token(asked_role: &str) -> Reply {
    let number = asked_role
        .strip_prefix("number-")
        .and_then(|number| number.parse::<usize>().ok())
        .map_or("3600", |number| NUMBERS[number]);
    Reply::Answer(200, Vec::new(), Bytes::from(auth(asked_role, number)))
}

/// `x/<number>/<place>`, and what renews the lease of it.
fn answer(asked: &Asked) -> Reply {
    let lease = |number: &str| {
        let body = PLACES[0].1.replace('#', number);
        Reply::Answer(200, Vec::new(), Bytes::from(body))
    };
    match asked.path.as_str() {
        "auth/kubernetes/login" => token(asked.role()),
        "sys/leases/renew" => lease("18446744073709551615"),
        "auth/token/renew-self" => token("number-0"),
        path => {
            let Some((number, place)) = path
                .strip_prefix("x/")
                .and_then(|path| path.split_once('/'))
            else {
                return Reply::error(400, "no such thing");
            };
            let number = NUMBERS[number.parse::<usize>().unwrap()];
            let headers = ["retry-after", "age", "date"].map(|name| {
                let plain = number.replace(['"', '∞'], "x");
                (name, plain)
            });
            match place {
                // In the headers of a refusal, and of a reply.
                "throttled" => Reply::Answer(429, headers.to_vec(), Bytes::from("{}")),
                "aged" => Reply::Answer(
                    200,
                    headers.to_vec(),
                    Bytes::from(PLACES[0].1.replace('#', "60")),
                ),
                place => {
                    let known = PLACES.iter().find(|(name, _)| *name == place).unwrap();
                    Reply::Answer(200, Vec::new(), Bytes::from(known.1.replace('#', number)))
                }
            }
        }
    }
}

/// No time of day is that far from now.
const BEYOND: [&str; 3] = [
    "18446744073709551615",
    "18446744073709549568",
    "9223372036854775808",
];

/// Where a number comes from, on a node with nothing else: the nearest end of all is then an absurd one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Login,
    Read,
    Renewal,
}

async fn nothing_but(number: &'static str, from: From) -> Vec<String> {
    let mut scene = Scene::new(&format!("nothing but {number}, from a {from:?}")).await;
    scene.leave().await;
    let answer = |body: String| Reply::Answer(200, Vec::new(), Bytes::from(body));
    let own = Hostile::start(move |asked: &Asked| {
        let lease = |number| answer(PLACES[0].1.replace('#', number));
        match asked.path.as_str() {
            "auth/kubernetes/login" if from == From::Login => answer(auth("own", number)),
            "auth/kubernetes/login" if from == From::Renewal => answer(auth("own", "2")),
            // A token without end.
            "auth/kubernetes/login" => answer(auth("own", "0")),
            "auth/token/renew-self" => answer(auth("own", number)),
            "sys/leases/renew" => lease(number),
            "x/lease" if from == From::Read => lease(number),
            _ => Reply::json(&serde_json::json!({ "lease_duration": 0, "data": { "key": "v" } })),
        }
    })
    .await;
    let object = "- {objectName: k, secretPath: x/lease, secretKey: key}";
    let volume = scene.volume("greedy", "alone");
    let mounted = scene.mount(&volume, &own_server(&own.url, object)).await;
    let told = if mounted.is_ok() {
        "mounted"
    } else {
        "refused"
    };
    scene.figure(told);
    // The gauges are made once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    scene.serves_all().await;
    scene.restart_after(Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    scene
        .is_idle(Duration::from_secs(1), Duration::from_millis(300))
        .await;
    scene.serves_all().await;
    scene.end(Duration::from_secs(5)).await
}

async fn every_number_at_every_place() -> Vec<String> {
    let mut scene = Scene::new("absurd numbers").await;
    let own = Hostile::start(answer).await;
    let mut calls = Vec::new();
    let places = PLACES
        .iter()
        .map(|(place, _)| *place)
        .chain(["aged", "throttled"]);
    for place in places {
        for number in 0..NUMBERS.len() {
            let method = if place == "sign" { "PUT" } else { "GET" };
            let object = format!(
                "- {{objectName: k, secretPath: x/{number}/{place}, secretKey: key, method: {method}}}"
            );
            let mut class = own_server(&own.url, &object);
            if place == "fixed" {
                class["roleName"] = format!("number-{number}").into();
            }
            let volume = scene.volume("greedy", &format!("{}-{number}", place.replace('/', "-")));
            calls.push((
                place,
                scene.call(&volume, &class),
                scene.call(&volume, &class),
            ));
        }
    }
    // Each is mounted and polled.
    let mounts = calls.into_iter().map(|(place, first, second)| async move {
        let mounted = first.await.is_ok();
        (place, mounted, second.await.is_ok())
    });
    let mounted: Vec<_> = futures::stream::iter(mounts)
        .buffer_unordered(8)
        .collect()
        .await;
    let good = mounted
        .iter()
        .filter(|(_, mounted, polled)| *mounted && *polled)
        .count();
    scene.figure(format!("{good} of {} mounted and polled", mounted.len()));
    scene.watch(Duration::from_secs(1)).await;
    scene.restart_after(Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    scene
        .is_idle(Duration::from_millis(1500), Duration::from_millis(500))
        .await;
    scene.watch_another().await;
    scene.watch(Duration::from_secs(1)).await;
    let lost = scene.world.log().contains("set aside");
    scene.expect(!lost, || "the journal was set aside".to_owned());
    scene.end(Duration::from_secs(15)).await
}

#[tokio::test]
async fn absurd_numbers_cost_their_own_tenant_alone_and_a_restart_nothing() {
    let sources = [From::Login, From::Read, From::Renewal];
    let alone = BEYOND
        .into_iter()
        .flat_map(|number| sources.map(|from| (number, from)));
    let alone = join_all(alone.map(|(number, from)| nothing_but(number, from)));
    let (alone, beside) = tokio::join!(alone, every_number_at_every_place());
    none(alone.into_iter().chain([beside]));
}
