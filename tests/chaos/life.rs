//! A pod's life: mounted, polled, edited, cut off, and gone; watched all the time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Code, Status};

use super::ledger::{Cost, Death, hash};
use super::plan::{Asks, Ending, Life, Step, TENANTS};
use super::report::Violation;
use super::site::{Departed, Site};
use super::troubles::{Effect, Reach};
use crate::support::driver::{Driver, Volume, request, written};

/// As kubelet: again, this much later.
const AGAIN: Duration = Duration::from_millis(150);
/// The confirmation period of [`crate::support::daemon::Node::new`].
const CONFIRM: Duration = Duration::from_millis(200);
/// The bound of an answer while nothing is wrong with what it needs.
pub const SLOW: Duration = Duration::from_secs(5);
/// The term of a capped lease at its longest: what was wrong before is no reason for its end.
const LONGEST_CAPPED: Duration = Duration::from_secs(12);
/// How long a lease that the class no longer names may live on after the second answer without it.
const DRAINED: Duration = Duration::from_secs(4);
/// The pods' tokens: longer than a run, and than what a node sleeps in it.
const TOKEN: Duration = Duration::from_secs(100 * 3600);

/// A pod with its volume.
pub struct Pod<'a> {
    site: &'a Site,
    number: u64,
    tenant: usize,
    driver: &'a Driver,
    token: String,
    volume: Volume,
    asks: Asks,
    role: &'static str,
    /// The role has changed, perhaps back again, since the files were written: the next answer may be read
    /// under a new login.
    role_changed: bool,
    edited: bool,
    /// How many good answers have come since the class names the additional object no more, and when the second of
    /// them came.
    unedited: Option<(u32, Instant)>,
    /// The credentials of the first answer: they stay while the login stays.
    expected: Option<String>,
    /// When they were looked at last.
    looked: Instant,
    /// They had an absurd duration then.
    was_absurd: bool,
    mounted: bool,
    /// Its path was away for so long that it was an unmount; the next answer begins anew.
    unmounted: bool,
    /// A call that was given up may be under way still: its answer shows the static secret of then.
    cancelled: Option<u64>,
    /// How many calls were given up since the last good answer. The daemon may have answered each before it could
    /// know, and after the second answer it takes the files for what it said.
    given_up: u32,
    /// When the last good answer's call began, and what the pod had cost by then; nothing where it is changed.
    settled: Option<(Instant, Cost)>,
}

/// A call that was begun.
struct Begun {
    at: Instant,
    /// The static secret's value then.
    value: u64,
}

impl<'a> Pod<'a> {
    pub fn new(site: &'a Site, driver: &'a Driver, number: u64, life: &Life) -> Self {
        let name = format!("pod-{number}");
        let tenant = TENANTS[life.tenant].name;
        let token = site.accounts.mint(tenant, "web", "vault", TOKEN);
        site.wire.shared.ledger.minted(number, &token);
        Self {
            driver,
            number,
            tenant: life.tenant,
            token,
            volume: Volume::new(&site.node.pods(), tenant, &name, &name, "secrets"),
            site,
            asks: life.asks,
            role: "app",
            role_changed: false,
            edited: false,
            unedited: None,
            expected: None,
            looked: Instant::now(),
            was_absurd: false,
            mounted: false,
            unmounted: false,
            cancelled: None,
            given_up: 0,
            settled: None,
        }
    }

    fn reach(&self) -> Reach {
        Reach {
            tenant: self.tenant,
            backends: self.asks.backends(),
            edited: self.edited || self.unedited.is_some(),
        }
    }

    /// Lives until its end.
    pub async fn live(mut self, life: &Life) {
        self.begin().await;
        for (pause, step) in &life.steps {
            if !self.mounted {
                break;
            }
            tokio::time::sleep(*pause).await;
            let _step = self.site.step().await;
            self.look().await;
            self.step(*step).await;
            self.look().await;
        }
        self.end(life.ending);
    }

    /// Mounted at last, or given up.
    pub async fn begin(&mut self) {
        self.volume.prepare();
        let reach = self.reach();
        self.site.live.lock().unwrap().insert(self.number, reach);
        let began = Instant::now();
        let mut tried = Duration::ZERO;
        while !self.mounted && tried < self.site.settings.patience {
            {
                let _step = self.site.step().await;
                let began = Instant::now();
                self.mount().await;
                tried += began.elapsed() + AGAIN;
            }
            if self.asks.is_broken() && tried > Duration::from_secs(1) {
                break;
            }
            if !self.mounted {
                tokio::time::sleep(AGAIN).await;
            }
        }
        if self.asks.is_broken() {
            return;
        }
        self.site.report.count("pods whose class is right");
        if self.mounted {
            self.site.report.count("pods mounted");
        } else {
            self.complain(Violation::NeverMounted, began, "never mounted");
        }
    }

    pub fn end(self, ending: Ending) {
        self.site.report.count("unmounts");
        self.site.live.lock().unwrap().remove(&self.number);
        self.site.wire.shared.ledger.hides(self.number);
        self.volume.unmount();
        if ending == Ending::Removed {
            self.volume.remove_pod();
        }
        self.site.departed.lock().unwrap().push(Departed {
            pod: self.number,
            tenant: self.tenant,
            well: Duration::ZERO,
        });
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Poll => self.mount().await,
            Step::Cancelled(after) => {
                self.site.report.count("cancelled calls");
                let value = self.begun().value;
                self.cancelled = Some(self.cancelled.unwrap_or(value).min(value));
                self.given_up += 1;
                if self.in_doubt() {
                    self.site.wire.shared.ledger.hides(self.number);
                }
                let call = self.driver.call(self.request());
                let _ = tokio::time::timeout(after, call).await;
            }
            Step::Twice => {
                let begun = self.begun();
                let (one, two) = (self.driver.clone(), self.driver.clone());
                let (one, two) = tokio::join!(one.call(self.request()), two.call(self.request()));
                for answer in [one, two] {
                    let written = answer.map(|answer| {
                        written(&self.volume, &answer);
                    });
                    self.answered(&begun, written).await;
                }
            }
            Step::Edited => {
                self.edited = !self.edited;
                self.unedited = (!self.edited).then(|| (0, Instant::now()));
                self.settled = None;
                let reach = self.reach();
                self.site.live.lock().unwrap().insert(self.number, reach);
                self.mount().await;
            }
            Step::OtherRole => {
                self.role = if self.role == "app" { "other" } else { "app" };
                self.role_changed = true;
                self.settled = None;
                self.mount().await;
            }
            Step::Blink(away) => self.blink(away).await,
        }
    }

    /// Two answers in a row may never have become files.
    fn in_doubt(&self) -> bool {
        self.given_up >= 2
    }

    async fn blink(&mut self, away: Duration) {
        self.site.wire.shared.ledger.hides(self.number);
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
            self.settled = None;
        }
    }

    fn request(&self) -> leasehold::provider::proto::MountRequest {
        let tokens = BTreeMap::from([("vault".to_owned(), self.token.clone())]);
        let attributes = self.volume.attributes(&self.class(), &tokens);
        request(&self.volume, &attributes, "")
    }

    fn begun(&self) -> Begun {
        Begun {
            at: Instant::now(),
            value: self.site.statics[self.tenant].load(Ordering::SeqCst),
        }
    }

    async fn mount(&mut self) {
        let begun = self.begun();
        let answer = self.driver.call(self.request()).await;
        let written = answer.map(|answer| {
            written(&self.volume, &answer);
        });
        self.answered(&begun, written).await;
    }

    async fn answered(&mut self, begun: &Begun, answer: Result<(), Status>) {
        let report = &self.site.report;
        let first = !self.mounted;
        let name = if first { "mounts" } else { "polls" };
        report.count(name);
        let took = u64::try_from(begun.at.elapsed().as_millis()).unwrap();
        let reach = self.reach();
        let is_well = !self.site.troubles.explain(Effect::Failed, &reach, begun.at)
            && !self.site.troubles.explain(Effect::Slow, &reach, begun.at);
        if is_well && !self.asks.is_broken() {
            report.count(if first {
                "mounts while all was well"
            } else {
                "polls while all was well"
            });
            report.peak("ms: the slowest answer while all was well", took);
            if begun.at.elapsed() > SLOW {
                self.complain(Violation::SlowAnswer, begun.at, &format!("{took} ms"));
            }
        }
        match answer {
            Ok(()) if self.asks.is_broken() => {
                self.complain(Violation::WrongCode, begun.at, "a broken class was mounted");
            }
            Ok(()) => self.good(begun).await,
            Err(status) => {
                self.site.report.count(if first {
                    "mounts that failed"
                } else {
                    "polls that failed"
                });
                self.failed(begun, &status);
                self.look().await;
            }
        }
    }

    async fn good(&mut self, begun: &Begun) {
        self.mounted = true;
        self.given_up = 0;
        if self.role_changed || self.unmounted {
            // Nothing that was read under the old login is served any more.
            (self.role_changed, self.unmounted) = (false, false);
            self.expected = None;
        }
        let least = self
            .cancelled
            .take()
            .unwrap_or(begun.value)
            .min(begun.value);
        if let Some(shown) = self.value()
            && shown < least
        {
            let text = format!("the static secret {shown}, not {least}");
            self.complain(Violation::StaleFile, begun.at, &text);
        }
        self.weigh_cost(begun);
        self.look().await;
        self.check_drained().await;
    }

    /// A poll of a settled volume costs no login and no credential.
    fn weigh_cost(&mut self, begun: &Begun) {
        let ledger = &self.site.wire.shared.ledger;
        let cost = ledger.cost(self.number);
        if let Some((since, before)) = self.settled
            && self.asks != Asks::Capped
            && !self.was_absurd
            && !ledger.is_absurd(self.number)
            && !self.explained(Effect::Cost, since)
        {
            self.site.report.count("polls whose cost was weighed");
            if cost.logins > before.logins {
                self.complain(Violation::NeedlessLogin, since, "a login");
            }
            if cost.credentials > before.credentials {
                self.complain(Violation::NeedlessCredential, since, "a credential");
            }
        }
        self.settled = Some((begun.at, cost));
    }

    fn explained(&self, effect: Effect, since: Instant) -> bool {
        self.site.troubles.explain(effect, &self.reach(), since)
    }

    fn failed(&self, begun: &Begun, status: &Status) {
        let expected = match self.asks {
            Asks::Absent => status.code() == Code::NotFound,
            Asks::Forbidden => status.code() == Code::PermissionDenied,
            _ => false,
        };
        if expected {
            return;
        }
        // A broken transport is the daemon's end: tonic has no one code for it, and a front passes on a code alone.
        let broken = std::error::Error::source(status).is_some()
            || self.site.is_fronted() && status.code() != Code::Internal;
        let effect = match status.code() {
            _ if broken => Effect::Broken,
            Code::Internal => Effect::Failed,
            _ => Effect::OddCode,
        };
        if effect == Effect::Failed
            && !self.explained(effect, begun.at)
            && self.site.troubles.are_several(begun.at)
        {
            self.site
                .report
                .count("errors of others while three or more backends were in trouble");
            return;
        }
        if !self.explained(effect, begun.at) {
            self.complain(Violation::WrongCode, begun.at, &format!("{status}"));
        }
    }

    /// The lease of an object that the class names no more is revoked.
    async fn check_drained(&mut self) {
        let Some((answers, since)) = &mut self.unedited else {
            return;
        };
        *answers += 1;
        if *answers <= 2 {
            *since = Instant::now();
        }
        let since = *since;
        if since.elapsed() < DRAINED {
            return;
        }
        if self.explained(Effect::LateRevocation, since) {
            return;
        }
        self.unedited = None;
        self.site
            .report
            .count("objects that went, and were looked for");
        for lease in self
            .site
            .wire
            .shared
            .ledger
            .leases_of(self.number, "reports")
        {
            if self.site.server.lease_is_alive(self.tenant, &lease).await == Some(true) {
                let text = format!("{lease}, which the class names no more, is alive");
                self.complain(Violation::LateRevocation, since, &text);
            }
        }
    }

    /// The static secret's value that the files show.
    fn value(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.volume.target().join("value")).ok()?;
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    /// Compares the files with what they should be.
    pub async fn look(&mut self) {
        if !self.mounted || self.unmounted || self.in_doubt() {
            return;
        }
        let now = Instant::now();
        let looked = std::mem::replace(&mut self.looked, now);
        let Some(credential) = self.site.server.credential(&self.volume) else {
            self.complain(Violation::WrongFile, now, "no credential");
            return;
        };
        let name = credential.lines().next().unwrap_or_default().to_owned();
        let ledger = &self.site.wire.shared.ledger;
        if ledger.owner(&name) != Some(self.number) {
            let text = format!("{name} is of {:?}", ledger.owner(&name));
            self.complain(Violation::MixedFiles, now, &text);
            return;
        }
        self.look_at_others();
        ledger.shows(self.number, &name);
        let was_absurd = self.was_absurd;
        self.was_absurd = ledger.is_absurd(self.number);
        let alive = self.site.server.is_alive(self.tenant, &credential).await;
        let effect = match self.asks {
            Asks::Capped => Effect::CappedLost,
            Asks::Short => Effect::ShortLost,
            _ => Effect::Lost,
        };
        if alive == Some(false) {
            self.dead(&name, effect);
        }
        if self.asks == Asks::Capped {
            return;
        }
        let since = looked
            .checked_sub(self.site.settings.short)
            .unwrap_or(looked);
        if let Some(expected) = &self.expected
            && *expected != credential
            && !was_absurd
            && !self.was_absurd
            && !self.explained(effect, since)
        {
            let was = expected.lines().next().unwrap_or_default();
            let text = format!("{was} became {name}");
            self.complain(Violation::ReplacedLease, looked, &text);
        }
        self.expected = Some(credential);
    }

    fn dead(&self, name: &str, effect: Effect) {
        let now = Instant::now();
        let term = match self.asks {
            Asks::Capped => LONGEST_CAPPED,
            _ => self.site.settings.short,
        };
        let what = match self.site.wire.shared.ledger.death(name) {
            Death::Absurd => return,
            Death::Revoked => Violation::RevokedEarly,
            Death::Ended => Violation::LostLease,
        };
        let since = now.checked_sub(term).unwrap_or(now);
        if !self.explained(effect, since) {
            self.complain(what, since, &format!("{name} is dead"));
        }
    }

    /// The files beside the credential.
    fn look_at_others(&self) {
        let now = Instant::now();
        if self.value().is_none() {
            self.complain(Violation::WrongFile, now, "no static secret");
        }
        if self.asks != Asks::Whole {
            return;
        }
        let certificate = std::fs::read_to_string(self.volume.target().join("tls.crt"));
        let certificate = certificate.unwrap_or_default();
        if !certificate.contains("BEGIN CERTIFICATE") {
            self.complain(Violation::WrongFile, now, &format!("{certificate:?}"));
            return;
        }
        let name = hash(certificate.trim()).to_string();
        if self.site.wire.shared.ledger.owner(&name) != Some(self.number) {
            self.complain(Violation::MixedFiles, now, "another volume's certificate");
        }
    }

    fn complain(&self, what: Violation, since: Instant, text: &str) {
        let troubles = &self.site.troubles;
        let trace = || {
            let lines = self.site.lines_about(&format!("/{}/", self.volume.uid));
            format!(
                "{} ({} {:?}, role {}, edited {}): {text}\n  at the time: {}\n{lines}",
                self.volume.uid,
                TENANTS[self.tenant].name,
                self.asks,
                self.role,
                self.edited,
                troubles.since(since)
            )
        };
        self.site.report.violation(what, trace);
        if troubles.with_others(&self.reach(), since) {
            let text = || format!("{} ({what:?}): {text}", self.volume.uid);
            self.site.report.violation(Violation::WrongTenant, text);
        }
    }

    fn class(&self) -> Value {
        let server = &self.site.server;
        let mut objects = server.credential_objects(self.asks.engine());
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
        if !self.asks.is_broken() {
            objects.push_str(server.static_object());
        }
        if self.edited {
            objects.push_str(server.further_object());
        }
        let mut class = json!({ "roleName": self.role, "objects": objects });
        let namespace = TENANTS[self.tenant].namespace;
        if !namespace.is_empty() {
            class["vaultNamespace"] = Value::from(namespace);
        }
        class
    }
}
