//! What a class that cannot mount costs the backend behind it, retry by retry.

use std::time::Duration;

use crate::scene::{Scene, hostile, none};

/// Objects of database credentials, each a request of its own, and one name that no role has.
fn with_a_typo(number: usize, at: usize) -> String {
    let objects = (0..number).map(|index| {
        let role = if index == at { "typo" } else { "app" };
        format!("\n- {{objectName: file-{index}, secretPath: \"hostile/creds/{role}?n={index}\", secretKey: username}}")
    });
    objects.collect()
}

#[tokio::test]
async fn a_class_with_a_typo_makes_few_credentials_however_often_it_is_retried() {
    const OBJECTS: usize = 30;
    const RETRIES: usize = 10;
    let mut scene = Scene::new("30 credentials and a typo").await;
    // What is read before the typo is found out about, and what was under way then: eight at a time.
    let places = [
        ("first", 0, 10),
        ("middle", OBJECTS / 2, OBJECTS / 2 + 10),
        ("last", OBJECTS - 1, OBJECTS),
    ];
    for (place, at, most) in places {
        let class = hostile(&with_a_typo(OBJECTS, at));
        let before = scene.world.vault.count("GET", "hostile/creds/app");
        for retry in 0..RETRIES {
            let volume = scene.volume("greedy", &format!("typo-{place}"));
            let mounted = scene.mount(&volume, &class).await;
            scene.expect(mounted.is_err(), || format!("retry {retry}: {mounted:?}"));
            // As kubelet does between two attempts.
            volume.unmount();
        }
        let issued = scene.world.vault.count("GET", "hostile/creds/app") - before;
        scene.figure(format!(
            "typo {place}: {issued} credentials in {RETRIES} retries"
        ));
        scene.expect(issued <= most * RETRIES, || {
            format!("typo {place}: {issued} credentials")
        });
    }
    scene.until_revoked(0, "what the retries left").await;
    scene.watch(Duration::from_secs(1)).await;
    none([scene.end(Duration::from_secs(20)).await]);
}
