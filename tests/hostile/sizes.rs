//! Replies and answers that are too large, together or by what is made of them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::scene::{Differs, Scene, none, objects, own_server};
use crate::support::driver::Volume;
use crate::support::hostile::{Asked, Hostile, Reply};

const MIB: usize = 1024 * 1024;
const CPU: Duration = Duration::from_secs(60);

/// A server of a tenant's own that logs everybody in and answers every read so.
async fn large(body: impl Into<Bytes>) -> Hostile {
    let body = body.into();
    answering(move |_| Reply::Answer(200, Vec::new(), body.clone())).await
}

async fn answering(read: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Hostile {
    Hostile::start(move |asked: &Asked| match asked.path.as_str() {
        "auth/kubernetes/login" => Reply::login("s.own", &json!(3600)),
        path if path.starts_with("auth/") || path.starts_with("sys/") => Reply::json(&json!({})),
        _ => read(asked),
    })
    .await
}

/// A reply whose one key has this value.
fn reply(value: &str) -> String {
    json!({ "lease_duration": 0, "data": { "key": value, "small": "s" } }).to_string()
}

/// The beginning of what kubelet would show.
fn told(status: &tonic::Status) -> String {
    let words = status
        .message()
        .split(" at http")
        .next()
        .unwrap_or_default();
    let after = status.message().rsplit("/v1").next().unwrap_or_default();
    let message: String = words.chars().take(60).collect();
    let after: String = after
        .chars()
        .rev()
        .take(80)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    format!("{:?}: {message} … {after}", status.code())
}

/// Mounts of many pods at once, beside the healthy tenant's.
async fn load(name: &str, servers: Vec<(Arc<Hostile>, String)>, pods: usize) -> Vec<String> {
    let flags = &["-mount-timeout=8s"];
    let mut scene = Scene::with(
        name,
        None,
        Differs {
            flags,
            ..Differs::default()
        },
    )
    .await;
    let mut calls = Vec::new();
    for (at, (server, objects)) in servers.iter().enumerate() {
        for pod in 0..pods {
            let volume = scene.volume(&format!("greedy-{at}"), &format!("pod-{at}-{pod}"));
            calls.push(tokio::spawn(
                scene.call(&volume, &own_server(&server.url, objects)),
            ));
        }
    }
    let under_way = async {
        let (mut good, mut bad) = (0, Vec::new());
        for call in calls {
            match tokio::time::timeout(Duration::from_secs(20), call).await {
                Ok(Ok(Ok(_))) => good += 1,
                Ok(Ok(Err(status))) => bad.push(told(&status)),
                _ => bad.push("no answer".to_owned()),
            }
        }
        bad.sort();
        bad.dedup();
        format!("{good} mounted, others {bad:?}")
    };
    let (watched, told) = tokio::join!(scene.watch(Duration::from_secs(2)), under_way);
    let () = watched;
    scene.figure(told);
    scene.end(CPU).await
}

#[tokio::test]
async fn five_hundred_objects_of_one_value_of_a_mebibyte() {
    let server = Arc::new(large(reply(&"x".repeat(MIB))).await);
    let one = (0..500)
        .map(|at| format!("\n- {{objectName: file-{at}, secretPath: x/y, secretKey: key}}"));
    let whole = (0..500).map(|at| format!("\n- {{objectName: file-{at}, secretPath: x/y}}"));
    let servers = vec![
        (Arc::clone(&server), one.collect()),
        (server, whole.collect()),
    ];
    none([load("500 objects of one value of 1 MiB", servers, 1).await]);
}

#[tokio::test]
async fn replies_of_four_mebibytes_by_the_dozen() {
    let value = "x".repeat(4 * MIB - 200);
    let server = Arc::new(large(reply(&value)).await);
    // Each file is small: all of the weight is on the way. Five tenants of four pods each, and many in one.
    let mut servers = vec![(Arc::clone(&server), objects(1, "x/y", "small")); 5];
    servers.push((Arc::clone(&server), objects(2, "x/y", "small")));
    servers.push((server, objects(500, "x/y", "small")));
    none([load("replies of 4 MiB, to 28 pods", servers, 4).await]);
}

#[tokio::test]
async fn replies_that_grow_in_memory_or_by_escaping() {
    let mut keys = String::from(r#"{"data":{"small":"s""#);
    for key in 0..380_000 {
        write!(keys, r#","{key:x}":1"#).unwrap();
    }
    keys.push_str("}}");
    let brackets = "[".repeat(4 * MIB - 10);
    let nested = format!(
        r#"{{"data":{{"small":"s","key":{}{}}}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let closed = format!(
        r#"{{"data":{{"key":{}1{}}}}}"#,
        "[".repeat(2 * MIB - 20),
        "]".repeat(2 * MIB - 20)
    );
    // Go writes `<` as six bytes.
    let escapes = reply(&"<".repeat(3 * MIB));
    let empty = format!(
        r#"{{"data":{{"small":"s","key":[{}1]}}}}"#,
        "{},".repeat(MIB)
    );
    let page = Bytes::from(vec![b'<'; 4 * MIB]);
    let pages = answering(move |_| Reply::Answer(500, Vec::new(), page.clone())).await;
    let mut servers = vec![(Arc::new(pages), objects(8, "x/y", "key"))];
    for body in [keys, brackets, nested, closed, escapes, empty] {
        let server = Arc::new(large(body).await);
        for key in ["", "small"] {
            servers.push((Arc::clone(&server), objects(4, "x/y", key)));
        }
    }
    none([load("keys, brackets, escapes, pages", servers, 1).await]);
}

/// A poll of each volume, four at a time.
async fn poll_all(scene: &Scene, volumes: &[Volume], class: &Value) -> Vec<String> {
    use futures::StreamExt;
    let calls = volumes.iter().map(|volume| async {
        let answer = scene.mount(volume, class).await;
        answer
            .err()
            .map(|status| format!("{}: {status}", volume.pod))
    });
    let failed: Vec<Option<String>> = futures::stream::iter(calls)
        .buffer_unordered(4)
        .collect()
        .await;
    failed.into_iter().flatten().collect()
}

#[tokio::test]
async fn sixty_volumes_with_replies_that_are_kept_stay_within_the_pods_memory() {
    let mut scene = Scene::new("60 volumes with PUT replies of 1.6 MiB").await;
    let own = large(reply(&"x".repeat(MIB + MIB * 3 / 5))).await;
    let class = own_server(
        &own.url,
        "- {objectName: whole, secretPath: x/sign, method: PUT}",
    );
    let volumes: Vec<Volume> = (0..60)
        .map(|number| scene.volume(&format!("greedy-{}", number % 3), &format!("pod-{number}")))
        .collect();
    let mounted = poll_all(&scene, &volumes, &class).await;
    scene.expect(mounted.is_empty(), || format!("mounts: {mounted:?}"));
    let polled = poll_all(&scene, &volumes, &class).await;
    scene.expect(polled.is_empty(), || format!("polls: {polled:?}"));
    scene.watch(Duration::from_secs(1)).await;
    scene.restart_after(Duration::ZERO).await;
    let polled = poll_all(&scene, &volumes, &class).await;
    scene.expect(polled.is_empty(), || {
        format!("polls after the restart: {polled:?}")
    });
    let writes = own.asked(|asked| asked.path == "x/sign").len();
    scene.figure(format!("{writes} writes for 180 mounts and polls"));
    let bytes: u64 = std::fs::read_dir(scene.world.node.state())
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|about| about.len())
        .sum();
    scene.figure(format!("journal {} MiB", bytes / MIB as u64));
    // A file of each volume is written beside the old one before it takes its place.
    scene.expect(bytes <= 68 * MIB as u64, || {
        format!("the journal has {bytes} bytes")
    });
    scene.watch_another().await;
    scene.watch(Duration::from_secs(1)).await;
    none([scene.end(CPU).await]);
}
