//! `kill -9` at every step of the journal: after each, what the server says is alive must be what is
//! mounted, with the credentials that the pod has had from its first answer on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::driver::{Driver, Volume};
use support::world::{CERTIFICATE, DATABASE, KV, Setup, World, class};
use tonic::{Code, Status};

/// Walked side by side; each has a server and a node of its own.
const WALKERS: usize = 6;

/// More database credentials, by another role.
const REPORTS: &str = "
- objectName: reports
  secretPath: database/creds/reports
  secretKey: username
";
/// Fails after its login and its first read.
const BROKEN: &str = "
- objectName: username
  secretPath: database/creds/app
  secretKey: username
- objectName: absent
  secretPath: secret/data/absent
  secretKey: any
";

/// One life, during which the daemon dies once.
struct Life {
    world: World,
    died: bool,
}

impl Life {
    async fn new(step: u32) -> Self {
        let short = ["-path-check-interval=100ms", "-path-confirm=100ms"];
        let more = ["-drain-after=100ms", "-park=1s"];
        let flags = [short, more].concat();
        let mut world = World::with(Setup {
            flags: &flags,
            ..Setup::default()
        })
        .await;
        let reports = json!({ "db_name": "db", "default_ttl": "1h", "max_ttl": "24h" });
        world.admin.write("database/roles/reports", reports).await;
        world.kill();
        let step = step.to_string();
        let daemon = world.node.spawn_with(&[("LEASEHOLD_DIE_AT_STEP", &step)]);
        world.daemon = Some(world.node.until_ready(daemon).await);
        Self { world, died: false }
    }

    /// As kubelet does: again, until it is answered otherwise than by the daemon's death.
    async fn mount(&mut self, volume: &Volume, objects: &str) -> Result<(), Status> {
        let class: Value = class(objects);
        for _ in 0..10 {
            let answer = self.world.try_mount(volume, &class).await;
            // The answer may have been given before the end, or broken by it.
            if let Err(status) = &answer
                && status.code() == Code::Unknown
            {
                let daemon = self.world.daemon.as_mut().unwrap();
                assert!(!daemon.ended().await.success(), "{status}");
            }
            let ended = self.revive().await;
            match answer {
                Ok(_) => return Ok(()),
                Err(status) if ended || status.code() == Code::Internal => {}
                Err(status) => return Err(status),
            }
        }
        panic!("never answered: {}", self.world.log());
    }

    async fn revive(&mut self) -> bool {
        // One that is about to die at this step is dead in a moment.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let ended = self.world.daemon.as_mut().unwrap().has_ended();
        if ended {
            assert!(!self.died, "it dies once: {}", self.world.log());
            self.died = true;
            self.world.restart().await;
            self.world.driver = Driver::dial(&self.world.node.socket());
        }
        ended
    }

    /// Whether nothing is left, but for a login whose reply never came to be journalled.
    fn is_settled(&self) -> bool {
        let tokens = self.world.vault.live_tokens();
        let lost = usize::from(self.died);
        self.world.node.journalled() == 0
            && self.world.vault.live_leases().is_empty()
            && self.world.vault.live_users().is_empty()
            && tokens.len() <= lost
            && tokens.iter().all(|token| token.leases.is_empty())
    }

    async fn run(mut self) -> bool {
        let (web, broken) = (self.world.volume("web"), self.world.volume("broken"));
        let whole = format!("{DATABASE}{CERTIFICATE}{KV}");
        self.mount(&web, &whole).await.unwrap();
        let files = || ["username", "password", "tls.crt"].map(|file| web.text(file));
        let first = files();
        // Something is added, and taken away again: it drains.
        for objects in [&format!("{whole}{REPORTS}"), &whole, &whole] {
            self.mount(&web, objects).await.unwrap();
            assert_eq!(
                files(),
                first,
                "nothing is issued anew: {}",
                self.world.log()
            );
        }
        let refused = self.mount(&broken, BROKEN).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        broken.unmount();
        tokio::time::sleep(Duration::from_millis(400)).await;
        self.revive().await;
        assert!(self.world.vault.verify_user(&first[0], &first[1]));
        web.unmount();
        for _ in 0..400 {
            self.revive().await;
            if self.is_settled() {
                // Whatever step comes last has been taken by then, or never is.
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.revive().await;
                if self.is_settled() {
                    return self.died;
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!(
            "something is left: {:?} {:?}\n{}",
            self.world.vault.live_tokens(),
            self.world.vault.live_leases(),
            self.world.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_nothing_is_lost_and_nothing_is_left() {
    if !cfg!(debug_assertions) {
        println!("SKIPPED: only a debug build can be killed at its steps; run without --release");
        return;
    }
    let (next, over) = (
        Arc::new(AtomicU32::new(1)),
        Arc::new(AtomicBool::new(false)),
    );
    let walkers: Vec<_> = (0..WALKERS)
        .map(|_| {
            let (next, over) = (Arc::clone(&next), Arc::clone(&over));
            tokio::spawn(async move {
                let mut walked = 0;
                while !over.load(Ordering::SeqCst) {
                    let step = next.fetch_add(1, Ordering::SeqCst);
                    if Life::new(step).await.run().await {
                        walked += 1;
                    } else {
                        // There are fewer steps than that.
                        over.store(true, Ordering::SeqCst);
                    }
                }
                walked
            })
        })
        .collect();
    let mut walked = 0;
    for walker in walkers {
        walked += walker.await.unwrap();
    }
    println!("killed at {walked} steps");
    assert!(walked > 40, "{walked} steps: does the daemon listen?");
}
