//! A tenant's classes name addresses by the hundred: some refuse, some hang.

use std::net::TcpListener;
use std::time::Duration;

use crate::scene::{Scene, none, own_server};

/// Addresses of each sort.
const EACH: usize = 300;
/// Open files and sockets of the daemon, whatever tenants name.
const DESCRIPTORS: usize = 512;
/// Connections of the healthy tenant's own, at most, while others name their addresses.
const CONNECTIONS: usize = 12;

#[tokio::test]
async fn addresses_by_the_hundred_cost_nobody_else_a_connection() {
    let mut scene = Scene::fronted("addresses by the hundred").await;
    // They accept by the kernel alone and answer nothing.
    let silent: Vec<TcpListener> = (0..EACH)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let hanging = silent
        .iter()
        .map(|silent| silent.local_addr().unwrap().to_string());
    let refusing = (0..EACH).map(|at| format!("127.9.{}.{}:9", at / 200, 1 + at % 200));
    let object = "- {objectName: k, secretPath: x/y, secretKey: key}";
    let before = scene.front().connections();
    for (number, address) in hanging
        .zip(refusing)
        .flat_map(|(one, two)| [one, two])
        .enumerate()
    {
        let volume = scene.volume("greedy", &format!("pod-{number}"));
        scene.begin(&volume, &own_server(&format!("http://{address}"), object));
    }
    let meter = scene.meter();
    let most = async {
        let mut most = 0;
        for _ in 0..200 {
            most = most.max(meter.descriptors());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        most
    };
    let watched = scene.watch(Duration::from_millis(3500));
    let (most, ()) = tokio::join!(most, watched);
    let connections = scene.front().connections() - before;
    scene.figure(format!(
        "{most} descriptors, {connections} connections of others"
    ));
    scene.expect(most < DESCRIPTORS, || format!("{most} descriptors"));
    scene.expect(connections < CONNECTIONS, || {
        format!("{connections} new connections")
    });
    none([scene.end(Duration::from_secs(15)).await]);
}
