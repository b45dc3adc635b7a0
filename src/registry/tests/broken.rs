//! A volume whose state breaks the worker: it alone is set aside.

use super::ends::Host;
use super::*;
use crate::registry::schedule::BREAKS;

fn files(host: &Host, suffix: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(host.directory.path().join("state")).unwrap();
    let files = files.flatten().map(|file| file.path());
    files
        .filter(|path| path.extension().is_some_and(|is| is == suffix))
        .collect()
}

/// Replaces texts in the record that holds `which`, and makes its checksum right.
fn alter(host: &Host, which: &str, texts: &[(&str, &str)]) {
    let all = files(host, "json");
    let holds = |path: &&PathBuf| std::fs::read_to_string(path).unwrap().contains(which);
    let path = all.iter().find(holds).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let (header, record) = text.split_once('\n').unwrap();
    let mut record = record.to_owned();
    for (from, to) in texts {
        assert!(record.contains(from), "{from} in {record}");
        record = record.replace(from, to);
    }
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, record.as_bytes());
    let (start, _) = header.rsplit_once(' ').unwrap();
    std::fs::write(path, format!("{start} {}\n{record}", hex::encode(sum))).unwrap();
}

async fn written(host: &Host, suffix: &str, count: usize) {
    while files(host, suffix).len() != count {
        pass(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_breaks_the_worker_is_set_aside_and_the_others_go_on() {
    let host = Host::new();
    let (node, worker) = host.start();
    let other = Arc::new(spec_of("other"));
    node.mount().await;
    node.mount_of(&other).await;
    written(&host, "json", 2).await;
    // An edited class.
    let mut breaking = spec();
    breaking.class = BREAKS.to_owned();
    let breaking = Arc::new(breaking);
    // Its Mount does not go on to a login that nobody would keep.
    assert!(node.registry.begin(breaking, true).await.is_err());
    written(&host, "quarantined", 1).await;
    assert_eq!(
        node.registry.paths().await.as_slice(),
        std::slice::from_ref(&other.volume)
    );
    let renewed = node.server.count("renew lease");
    pass(5 * HOUR).await;
    assert!(node.server.count("renew lease") > renewed + 5);
    assert_eq!(node.mount_of(&other).await, (false, false));
    // The pod gets new ones at its next poll.
    assert_eq!(node.mount().await, (true, true));
    node.registry.stop().await;
    worker.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_breaks_the_worker_is_set_aside_and_the_others_load() {
    let host = Host::new();
    let (node, worker) = host.start();
    let other = Arc::new(spec_of("other"));
    node.mount().await;
    node.mount_of(&other).await;
    node.registry.stop().await;
    worker.await.unwrap();
    alter(
        &host,
        "/pods/uid/",
        &[(r#""class":"app""#, &format!(r#""class":"{BREAKS}""#))],
    );
    let (node, worker) = host.start();
    assert_eq!(
        node.registry.paths().await.as_slice(),
        std::slice::from_ref(&other.volume)
    );
    assert_eq!(
        (
            files(&host, "json").len(),
            files(&host, "quarantined").len()
        ),
        (1, 1)
    );
    assert_eq!(node.mount_of(&other).await, (false, false));
    node.registry.stop().await;
    worker.await.unwrap();
    let (node, _worker) = host.start();
    assert_eq!(node.registry.paths().await.len(), 1, "and it is over");
}

#[tokio::test(start_paused = true)]
async fn a_record_of_what_no_call_can_be_made_for_leaves_the_worker_idle() {
    let certificate = r#""nature":"certificate","#;
    let lease = r#""nature":"lease","#;
    let open = r#""duty":"open""#;
    let releasing = r#""duty":"releasing""#;
    for texts in [
        // To be revoked, without a lease.
        vec![(open, releasing)],
        // Renewable, without a lease.
        vec![
            (certificate, lease),
            (r#""renewable":false"#, r#""renewable":true"#),
        ],
        // A session that is not there.
        vec![(r#""grants":[{"session":0"#, r#""grants":[{"session":9"#)],
    ] {
        let host = Host::new();
        let (node, worker) = host.start();
        super::ends::mount_certificate(&node).await;
        node.registry.stop().await;
        worker.await.unwrap();
        let grants = std::fs::read_to_string(&files(&host, "json")[0]).unwrap();
        let session = grants.split(r#""grants":[{"session":"#).nth(1).unwrap();
        let session = session.split(',').next().unwrap();
        let from = format!(r#""grants":[{{"session":{session}"#);
        let texts: Vec<(&str, &str)> = texts
            .iter()
            .map(|(text, to)| {
                if text.contains("session") {
                    (from.as_str(), *to)
                } else {
                    (*text, *to)
                }
            })
            .collect();
        alter(&host, "/pods/uid/", &texts);
        let (node, worker) = host.start();
        pass(10 * HOUR).await;
        let turns = node.registry.heartbeat().turns();
        assert!(turns < 10_000, "{turns} turns");
        node.registry.stop().await;
        worker.await.unwrap();
    }
}
