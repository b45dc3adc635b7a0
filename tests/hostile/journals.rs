//! Journals that no daemon of ours would write today: absurd numbers, and every state of a thing whose end has
//! passed while the daemon was down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest;
use leasehold::clock::{BootClock, Clock};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::support::driver::Volume;
use crate::support::hostile::{Hostile, Reply};

/// One session and one grant, in the journal's first format (`tests/fixtures/journal-1.json`).
struct Record<'a> {
    address: &'a str,
    stage: Value,
    session: Value,
    grant: Value,
    keep: Value,
    nature: &'a str,
    term: Value,
    is_lost: bool,
    renews: bool,
}

impl Record<'_> {
    fn write(&self, state: &Path, volume: &Volume, last_poll: &Value, name: usize) {
        let target = volume.target();
        let life = |nature: &str| json!({ "nature": nature, "term": self.term, "renewable": self.renews, "capped": !self.renews });
        let tls = json!({
            "ca_pem": null, "ca_file": null, "ca_directory": null, "server_name": null,
            "client_certificate": null, "client_key": null, "skip_verify": false,
        });
        let record = json!({
            "volume": { "pod_uid": volume.uid, "target_path": target },
            "pod": { "name": volume.pod, "namespace": volume.namespace, "service_account": "web" },
            "class": "class",
            "stage": self.stage,
            "seen": true,
            "forsaken_at": null,
            "polls": { "last": last_poll, "gaps": [] },
            "sessions": [{
                "key": 1,
                "id": format!("{name:032x}"),
                "endpoint": { "address": self.address, "namespace": null, "tls": tls },
                "login": { "mount": "kubernetes", "role": "app", "audience": "vault" },
                "service_account": format!("{}/web", volume.namespace),
                "token": format!("s.token-{name}"),
                "accessor": format!("accessor-{name}"),
                "kind": "service",
                "policies": ["default"],
                "renewable": self.renews,
                "term": self.term,
                "life": life("token"),
                "duty": self.session,
                "dead": self.is_lost,
            }],
            "grants": [{
                "session": 1,
                "request": { "method": "GET", "path": "database/creds/app", "query": [], "args": null },
                "body": "{\"data\":{\"key\":\"v\"}}",
                "keep": self.keep,
                "term": self.term,
                "life": life(self.nature),
                "duty": self.grant,
                "lost": self.is_lost,
            }],
        });
        let record = record.to_string();
        let sum = hex::encode(digest::digest(&digest::SHA256, record.as_bytes()));
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let whole = format!("leasehold-journal 1 {} {sum}\n{record}", boot.trim());
        let named = [
            volume.uid.as_bytes(),
            &[0],
            target.to_str().unwrap().as_bytes(),
        ]
        .concat();
        let named = hex::encode(digest::digest(&digest::SHA256, &named));
        let path = state.join(&named[..32]).with_extension("json");
        fs::write(&path, whole).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn moment(before_now: u64) -> Value {
    let now = serde_json::to_value(BootClock.now()).unwrap();
    let mut earlier = now;
    let seconds = earlier["secs"].as_u64().unwrap();
    earlier["secs"] = json!(seconds.saturating_sub(before_now));
    earlier
}

fn keeps(name: usize) -> Vec<(&'static str, Value)> {
    let lease = |renewable: bool| json!({ "lease": { "id": format!("x/lease/{name}"), "renewable": renewable } });
    vec![
        ("lease", lease(true)),
        ("lease", lease(false)),
        ("certificate", json!("certificate")),
        ("expiring", json!("expiring")),
        ("written", json!("written")),
    ]
}

/// The daemon of a scene takes a journal over, while its server hangs.
async fn takes_over(name: &str, write: impl FnOnce(&Scene, &str)) -> Vec<String> {
    let mut scene = Scene::new(name).await;
    let own = Hostile::start(|_| Reply::Hang).await;
    // What the journal holds is all that there is: the nearest end of all is one of these.
    scene.leave().await;
    scene.world.kill();
    write(&scene, &own.url);
    scene.restarted().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    scene
        .is_idle(Duration::from_millis(1500), Duration::from_millis(400))
        .await;
    scene.figure(format!("{} calls in the end", own.asked(|_| true).len()));
    scene.watch_another().await;
    scene.watch(Duration::from_millis(500)).await;
    scene.end(Duration::from_secs(10)).await
}

async fn every_state_past_its_end() -> Vec<String> {
    takes_over("every state of a thing past its end", |scene, url| {
        let now = moment(0);
        let stages = [json!("opening"), json!("mounted"), json!("leaving"), json!({ "parked": { "until": moment(5) } })];
        let drains = |confirmed: bool| json!({ "draining": { "since": moment(5), "answered": true, "confirmed": confirmed } });
        let duties = [json!("open"), drains(true), drains(false), json!("releasing")];
        let mut name = 0;
        let [open, drains, waits, releasing] = &duties;
        let pairs = [
            (open, open),
            (open, drains),
            (drains, drains),
            (waits, waits),
            (releasing, releasing),
            (releasing, open),
        ];
        let fates = [(false, true), (false, false), (true, true)];
        for stage in &stages {
            for (session, grant) in pairs {
                for (is_lost, renews) in fates {
                    for (nature, keep) in keeps(name) {
                        name += 1;
                        let pods = scene.world.node.pods();
                        let volume = Volume::new(&pods, "greedy", "past", "uid-past", &name.to_string());
                        // One in three has gone meanwhile.
                        if name % 3 > 0 {
                            volume.prepare();
                        }
                        let seconds = 2 + name % 5;
                        let record = Record {
                            address: url,
                            stage: stage.clone(),
                            session: session.clone(),
                            grant: grant.clone(),
                            keep,
                            nature,
                            term: json!({ "sent": moment(7), "granted": { "secs": seconds, "nanos": 0 } }),
                            is_lost,
                            renews,
                        };
                        record.write(&scene.world.node.state(), &volume, &now, name);
                    }
                }
            }
        }
    })
    .await
}

async fn absurd_terms(number: u64) -> Vec<String> {
    takes_over(&format!("journals with {number}"), |scene, url| {
        let state = scene.world.node.state();
        let secs = |secs: u64| json!({ "secs": secs, "nanos": 999_999_999 });
        let terms = [
            json!({ "sent": moment(1), "granted": secs(number) }),
            json!({ "sent": secs(number), "granted": secs(1) }),
            json!({ "sent": secs(number), "granted": secs(number) }),
        ];
        let duties = [
            json!("open"),
            json!({ "draining": { "since": secs(number), "answered": true, "confirmed": true } }),
        ];
        let mut name = 0;
        for term in &terms {
            for duty in &duties {
                for (nature, keep) in keeps(name) {
                    name += 1;
                    let volume = scene.volume("greedy", &format!("absurd-{name}"));
                    let record = Record {
                        address: url,
                        stage: json!("mounted"),
                        session: duty.clone(),
                        grant: duty.clone(),
                        keep,
                        nature,
                        term: term.clone(),
                        is_lost: false,
                        renews: name % 2 == 0,
                    };
                    let last_poll = if name % 3 == 0 {
                        secs(number)
                    } else {
                        moment(1)
                    };
                    record.write(&state, &volume, &last_poll, name);
                }
            }
        }
    })
    .await
}

/// The worst of the numbers that a duration can hold, and every state of a thing past its end.
pub async fn taken_over() -> Vec<String> {
    let numbers = [u64::MAX, i64::MAX as u64, 1 << 62];
    let absurd = futures::future::join_all(numbers.map(absurd_terms));
    let (past, absurd) = tokio::join!(every_state_past_its_end(), absurd);
    absurd.into_iter().chain([past]).flatten().collect()
}
