//! Notices as Events on pods, against a small API server on a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use leasehold::events;
use leasehold::metrics::Metrics;
use leasehold::registry::notice::{Notice, NoticeKind};
use leasehold::spec::Pod;
use serde_json::Value;
use support::api_server::ApiServer;
use support::held::until;
use tokio::sync::mpsc;

fn notice(pod: &str, kind: NoticeKind) -> Notice {
    Notice {
        pod: Pod {
            name: pod.to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        },
        pod_uid: format!("uid-{pod}"),
        kind,
        text: "the lease ends in 300 s".to_owned(),
    }
}

fn publish(server: &ApiServer) -> (mpsc::Sender<Notice>, Metrics) {
    let (sender, mut notices) = mpsc::channel(16);
    let metrics = Metrics::new();
    let own = Some("leasehold-x".to_owned());
    let (client, counted) = (server.client(), metrics.clone());
    tokio::spawn(async move { events::publish(client, own, &mut notices, counted).await });
    (sender, metrics)
}

#[tokio::test]
async fn a_notice_becomes_an_event_on_its_pod_and_a_repetition_a_series() {
    let server = ApiServer::start().await;
    let (sender, _) = publish(&server);
    for _ in 0..2 {
        let notice = notice("web-0", NoticeKind::CannotRenew);
        sender.send(notice).await.unwrap();
    }
    server.until("patch events", 1).await;
    assert_eq!(server.count("create events"), 1);
    let told = server.details("create events");
    let (path, body) = told.split_once(' ').unwrap();
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/shop/events");
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "CannotRenew");
    assert_eq!(event["note"], "the lease ends in 300 s");
    assert_eq!(event["regarding"]["kind"], "Pod");
    assert_eq!(event["regarding"]["name"], "web-0");
    assert_eq!(event["regarding"]["uid"], "uid-web-0");
    assert_eq!(event["reportingController"], "leasehold");
    let (_, patch) = server
        .details("patch events")
        .split_once(' ')
        .map(|(path, body)| (path.to_owned(), body.to_owned()))
        .unwrap();
    let patch: Value = serde_json::from_str(&patch).unwrap();
    assert_eq!(patch["series"]["count"], 2);
}

#[tokio::test]
async fn what_the_api_server_refuses_is_counted_and_the_next_one_goes_on() {
    let server = ApiServer::start().await;
    server.forbid(&["create"]);
    let (sender, metrics) = publish(&server);
    sender
        .send(notice("web-0", NoticeKind::Expired))
        .await
        .unwrap();
    let shows = |text: &str| metrics.encode().contains(text);
    until(
        || shows("leasehold_degraded{reason=\"no_events\"} 1"),
        || metrics.encode(),
    )
    .await;
    server.forbid(&[]);
    sender
        .send(notice("web-1", NoticeKind::Rotated))
        .await
        .unwrap();
    until(
        || shows("leasehold_degraded{reason=\"no_events\"} 0"),
        || metrics.encode(),
    )
    .await;
    assert!(shows("leasehold_events_total{outcome=\"failed\"} 1"));
    assert!(shows("leasehold_events_total{outcome=\"written\"} 1"));
    assert!(server.details("create events").contains("uid-web-1"));
}
