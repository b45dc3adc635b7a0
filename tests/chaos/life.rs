//! A pod's life: mounted, polled, edited, cut off, and gone; watched all the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Code, Status};

use super::plan::{Asks, Ending, Life, Step};
use super::report::Violation;
use super::site::Site;
use crate::support::driver::{Driver, Volume, request, written};

/// As kubelet: again, this much later.
const AGAIN: Duration = Duration::from_millis(150);
/// The confirmation period of [`crate::support::daemon::Node::new`].
const CONFIRM: Duration = Duration::from_millis(200);
/// A first mount that is not answered by then is given up, as its pod is deleted.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pod with its volume.
pub struct Pod<'a> {
    site: &'a Site,
    driver: Driver,
    volume: Volume,
    asks: Asks,
    role: &'static str,
    /// The role has changed, perhaps back again, since the files were written: the next answer may be read
    /// under a new login.
    role_changed: bool,
    edited: bool,
    /// The credentials of the first answer: they stay while the login stays.
    expected: Option<String>,
    mounted: bool,
    /// Its path was away for so long that it was an unmount; the next answer begins anew.
    unmounted: bool,
}

impl<'a> Pod<'a> {
    pub fn new(site: &'a Site, cycle: u64, asks: Asks) -> Self {
        let name = format!("pod-{cycle}");
        Self {
            driver: Driver::dial(&site.node.socket()),
            volume: Volume::new(&site.node.pods(), "shop", &name, &name, "secrets"),
            site,
            asks,
            role: "app",
            role_changed: false,
            edited: false,
            expected: None,
            mounted: false,
            unmounted: false,
        }
    }

    /// Lives until its end.
    pub async fn live(mut self, life: &Life) {
        self.volume.prepare();
        let began = Instant::now();
        while !self.mounted && began.elapsed() < PATIENCE {
            self.mount().await;
            if matches!(self.asks, Asks::Absent | Asks::Forbidden)
                && began.elapsed() > Duration::from_secs(1)
            {
                break;
            }
            if !self.mounted {
                tokio::time::sleep(AGAIN).await;
            }
        }
        for (pause, step) in &life.steps {
            if !self.mounted {
                break;
            }
            tokio::time::sleep(*pause).await;
            self.step(*step).await;
            self.look().await;
        }
        self.site.report.count("unmounts");
        self.volume.unmount();
        if life.ending == Ending::Removed {
            self.volume.remove_pod();
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Poll => self.mount().await,
            Step::Cancelled(after) => {
                self.site.report.count("cancelled calls");
                let call = self.driver.call(self.request());
                let _ = tokio::time::timeout(after, call).await;
            }
            Step::Twice => {
                let began = Instant::now();
                let (one, two) = (self.driver.clone(), self.driver.clone());
                let (one, two) = tokio::join!(one.call(self.request()), two.call(self.request()));
                for answer in [one, two] {
                    self.answered(
                        began,
                        answer.map(|answer| {
                            written(&self.volume, &answer);
                        }),
                    )
                    .await;
                }
            }
            Step::Edited => {
                self.edited = !self.edited;
                self.mount().await;
            }
            Step::OtherRole => {
                self.role = if self.role == "app" { "other" } else { "app" };
                self.role_changed = true;
                self.mount().await;
            }
            Step::Blink(away) => {
                let (there, aside) = (self.volume.target(), self.volume.directory.join("aside"));
                std::fs::rename(&there, &aside).unwrap();
                let gone = Instant::now();
                tokio::time::sleep(away).await;
                std::fs::rename(&aside, &there).unwrap();
                self.site.report.count("blinks");
                // A machine that stood still in between has made an unmount of it.
                if gone.elapsed() > CONFIRM / 2 {
                    self.site
                        .report
                        .count("blinks that took too long to be one");
                    self.unmounted = true;
                }
            }
        }
    }

    fn request(&self) -> leasehold::provider::proto::MountRequest {
        let token = self
            .site
            .accounts
            .mint("shop", "web", "vault", Duration::from_secs(600));
        let tokens = BTreeMap::from([("vault".to_owned(), token)]);
        request(
            &self.volume,
            &self.volume.attributes(&self.class(), &tokens),
            "",
        )
    }

    async fn mount(&mut self) {
        let began = Instant::now();
        let answer = self.driver.call(self.request()).await;
        let written = answer.map(|answer| {
            written(&self.volume, &answer);
        });
        self.answered(began, written).await;
    }

    async fn answered(&mut self, began: Instant, answer: Result<(), Status>) {
        let first = !self.mounted;
        self.site
            .report
            .count(if first { "mounts" } else { "polls" });
        match answer {
            Ok(()) if matches!(self.asks, Asks::Absent | Asks::Forbidden) => {
                self.complain(
                    Violation::WrongCode,
                    "a broken class was mounted".to_owned(),
                );
            }
            Ok(()) => {
                self.mounted = true;
                if self.role_changed || self.unmounted {
                    // Nothing that was read under the old login is served any more.
                    (self.role_changed, self.unmounted) = (false, false);
                    self.expected = None;
                }
                self.look().await;
            }
            Err(status) => {
                self.site.report.count(if first {
                    "mounts that failed"
                } else {
                    "polls that failed"
                });
                let expected = match self.asks {
                    Asks::Absent => status.code() == Code::NotFound,
                    Asks::Forbidden => status.code() == Code::PermissionDenied,
                    _ => false,
                };
                // A broken transport is the daemon's end: tonic has no one code for it.
                let broken = std::error::Error::source(&status).is_some();
                let passing = broken || status.code() == Code::Internal;
                let explained = expected || passing && self.site.troubled_since(began);
                if !explained {
                    self.complain(Violation::WrongCode, format!("{status}"));
                }
                self.look().await;
            }
        }
    }

    /// Compares the files with what they should be.
    pub async fn look(&mut self) {
        if !self.mounted || self.unmounted {
            return;
        }
        let credential = self.site.server.credential(&self.volume);
        let Some(is_alive) = self.site.server.is_alive(&credential).await else {
            return;
        };
        let name = credential.lines().next().unwrap_or_default().to_owned();
        if !is_alive {
            // A maximum may be reached while nobody can be asked for a replacement.
            if self.asks != Asks::Capped || !self.site.troubled_since(Instant::now()) {
                self.complain(Violation::LostLease, format!("{name} is dead"));
            }
            return;
        }
        if self.asks == Asks::Capped {
            return;
        }
        match &self.expected {
            Some(expected) if *expected != credential => {
                let was = expected.lines().next().unwrap_or_default();
                self.complain(Violation::LostLease, format!("{was} became {name}"));
                self.expected = Some(credential);
            }
            Some(_) => {}
            None => self.expected = Some(credential),
        }
        if self.asks == Asks::Whole {
            let key = self.volume.text("api-key");
            let certificate = self.volume.text("tls.crt");
            if key != "k3y" || !certificate.contains("BEGIN CERTIFICATE") {
                self.complain(Violation::WrongFile, format!("{key:?} {certificate:?}"));
            }
        }
    }

    fn complain(&self, what: Violation, text: String) {
        let lines = self.site.lines_about(&format!("/{}/", self.volume.uid));
        let trace = format!(
            "{} ({:?}, role {}, edited {}): {text}\n{lines}",
            self.volume.uid, self.asks, self.role, self.edited
        );
        self.site.report.violation(what, trace);
    }

    fn class(&self) -> Value {
        let server = &self.site.server;
        let mut objects = server.credential_objects(match self.asks {
            Asks::Short => "short",
            Asks::Capped => "capped",
            _ => "app",
        });
        objects.push_str(match self.asks {
            Asks::Whole => {
                "- objectName: tls.crt
  secretPath: pki/issue/web
  method: PUT
  secretArgs: {common_name: web.shop.example}
  secretKey: certificate
"
            }
            Asks::Absent => server.absent_object(),
            Asks::Forbidden => "- {objectName: x, secretPath: sys/mounts, secretKey: x}\n",
            Asks::Short | Asks::Capped => "",
        });
        if self.asks == Asks::Whole {
            objects.push_str(server.static_object());
        }
        if self.edited {
            objects.push_str(server.further_object());
        }
        json!({ "roleName": self.role, "objects": objects })
    }
}
