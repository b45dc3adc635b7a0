//! The books: what the journal says against what the server says is alive; what should have been renewed or
//! revoked by now; what the daemon uses while nobody calls it.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Asks, Ending, Life, TENANTS};
use super::process;
use super::report::Violation;
use super::site::Site;
use super::troubles::{Effect, Reach};
use super::{Pod, Settings};
use crate::support::driver::Driver;

/// A live volume's lease is renewed before so much of its term is left, while all is well.
const LEFT: f64 = 0.1;
/// The bound of the CPU, in parts of a core, while volumes are mounted and nobody calls. Leases of the shortest
/// term are renewed all the time (debug build).
const LULL_CPU: f64 = 0.3;
/// The bound of the same when nothing is due.
const IDLE_CPU: f64 = 0.05;
/// How many volumes are mounted then.
const IDLE_VOLUMES: u64 = 30;

/// Whatever the journal's files name: tokens of letters, digits and what accessors have besides.
fn journalled(site: &Site) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut folders = vec![site.node.state()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
            // The files' formats are the daemon's own; an accessor is longer than any of its keywords.
            names.extend(words.filter(|word| word.len() >= 20).map(str::to_owned));
        }
    }
    names
}

/// What the server has and the journal has not.
#[derive(Default)]
struct Unknown {
    /// Tokens without a lease: logins that were lost.
    logins: Vec<String>,
    /// Tokens with leases, and leases without a token.
    leases: Vec<String>,
}

async fn unknown(site: &Site) -> Unknown {
    let tokens = site.server.tokens(&site.wire.shared.ledger).await;
    let known = journalled(site);
    let mut unknown = Unknown::default();
    for token in tokens {
        if known.contains(&token.accessor) {
            continue;
        }
        // Its first use would have been a read, of which a lease or nothing remains.
        if token.leases.is_empty() {
            unknown.logins.push(token.accessor);
        } else {
            let text = format!("{}: {:?}", token.accessor, token.leases);
            unknown.leases.push(text);
        }
    }
    unknown.leases.extend(site.server.forsaken());
    unknown
}

/// While nobody calls: nothing may be alive at the server that the journal does not know.
pub async fn compare(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(5);
    site.report.count("comparisons of the books");
    loop {
        let leases = unknown(site).await.leases;
        if leases.is_empty() {
            return;
        }
        // A revocation may be between token and leases.
        if Instant::now() > deadline {
            for orphan in leases {
                site.report.violation(Violation::OrphanedLease, || orphan);
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Looks all the time for what should have happened by now, and gives the static secrets new values.
pub async fn watch(site: &Site, over: &AtomicBool) {
    let tick = Duration::from_millis(100);
    let mut reported = HashSet::new();
    let mut last = Instant::now();
    let mut ticks = 0_u64;
    while !over.load(Ordering::SeqCst) {
        tokio::time::sleep(tick).await;
        ticks += 1;
        if ticks.is_multiple_of(7) {
            site.rotate().await;
        }
        if ticks.is_multiple_of(100) {
            site.server.tidy();
        }
        late_renewals(site, &mut reported);
        late_revocations(site, last.elapsed()).await;
        last = Instant::now();
    }
}

fn late_renewals(site: &Site, reported: &mut HashSet<String>) {
    for late in site.wire.shared.ledger.late(LEFT) {
        let Some(reach) = site.live.lock().unwrap().get(&late.pod).copied() else {
            continue;
        };
        if site.troubles.explain(Effect::LateRenewal, &reach, late.due)
            || !reported.insert(late.lease.clone())
        {
            continue;
        }
        let text = || {
            let lines = site.lines_about(&format!("/pod-{}/", late.pod));
            let troubles = site.troubles.since(late.due);
            format!(
                "pod-{} {}\n  at the time: {troubles}\n{lines}",
                late.pod, late.lease
            )
        };
        site.report.violation(Violation::LateRenewal, text);
        if site.troubles.with_others(&reach, late.due) {
            let text = || format!("pod-{} (late renewal)", late.pod);
            site.report.violation(Violation::WrongTenant, text);
        }
    }
}

async fn late_revocations(site: &Site, passed: Duration) {
    let bound = site.settings.revocation;
    let ledger = &site.wire.shared.ledger;
    let mut overdue = Vec::new();
    site.departed.lock().unwrap().retain_mut(|departed| {
        if !site.troubles.hinders_revocation(departed.tenant) {
            departed.well += passed;
        }
        let left = ledger.unrevoked(departed.pod);
        // A call that was cut off may log in yet.
        if left.is_empty() && departed.well < bound / 4 {
            return true;
        }
        if !left.is_empty() && departed.well < bound {
            return true;
        }
        overdue.extend(
            left.into_iter()
                .map(|token| (departed.tenant, departed.pod, token)),
        );
        ledger.forget(departed.pod);
        false
    });
    for (tenant, pod, token) in overdue {
        let born = ledger.birth(&token).map(|(born, _)| born);
        // Its daemon was killed before it could journal it.
        if born.is_some_and(|born| site.troubles.loses_login(born))
            || site.server.token_is_alive(tenant, &token).await != Some(true)
        {
            continue;
        }
        let text = || {
            let lines = site.lines_about(&format!("/pod-{pod}/"));
            format!("pod-{pod} of {}: {token}\n{lines}", TENANTS[tenant].name)
        };
        site.report.violation(Violation::LateRevocation, text);
        let reach = Reach {
            tenant,
            backends: &[],
            edited: false,
        };
        let since = Instant::now()
            .checked_sub(bound)
            .unwrap_or_else(Instant::now);
        if site.troubles.with_others(&reach, since) {
            let text = || format!("pod-{pod} (late revocation)");
            site.report.violation(Violation::WrongTenant, text);
        }
    }
}

/// The daemon's CPU over a window in which nobody calls it.
async fn cpu(site: &Site, window: Duration, bound: f64, what: &'static str) {
    let pid = site.pid().await;
    let Some(before) = process::cpu(pid) else {
        return;
    };
    let began = Instant::now();
    tokio::time::sleep(window).await;
    let (Some(after), took) = (process::cpu(pid), began.elapsed()) else {
        return;
    };
    let used = (after - before).as_secs_f64() / took.as_secs_f64();
    site.report.peak(what, (used * 1000.0).round() as u64);
    if used > bound {
        site.report.violation(Violation::IdleCpu, || {
            format!("{what}: {:.3}, above {bound}", used)
        });
    }
}

/// The calls pause: the books are compared, and CPU is counted.
pub async fn lull(site: &Site) {
    let work = async {
        compare(site).await;
        let what = "thousandths of a core: CPU while nobody called";
        cpu(site, Duration::from_secs(1), LULL_CPU, what).await;
    };
    site.paused(work).await;
    site.check_daemon().await;
}

/// Some volumes are mounted, and nothing is due: what the daemon uses then.
pub async fn idle(site: &Site) {
    // No life's number.
    let first = 1 << 40;
    let driver = Driver::dial(&site.socket());
    let mut pods = Vec::new();
    for number in first..first + IDLE_VOLUMES {
        let life = Life {
            tenant: usize::try_from(number).unwrap() % TENANTS.len(),
            asks: Asks::Whole,
            steps: Vec::new(),
            ending: Ending::Removed,
        };
        let mut pod = Pod::new(site, &driver, number, &life);
        pod.begin().await;
        pods.push(pod);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let what = "thousandths of a core: CPU while nothing was due";
    cpu(site, Duration::from_secs(4), IDLE_CPU, what).await;
    for mut pod in pods {
        pod.look().await;
        pod.end(Ending::Removed);
    }
}

/// After all lives have ended: the journal is empty, and so are the server's lists.
pub async fn close(site: &Site) {
    site.check_daemon().await;
    let deadline = Instant::now() + site.settings.closing;
    while Instant::now() < deadline {
        let leases = unknown(site).await.leases;
        if site.node.journalled() == 0 && leases.is_empty() && site.server.leases().await.is_empty()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let journalled = site.node.journalled();
    if journalled > 0 {
        let text = || format!("{journalled} volumes are still journalled");
        site.report.violation(Violation::OrphanedLease, text);
    }
    let found = unknown(site).await;
    for orphan in found.leases.into_iter().chain(site.server.leases().await) {
        site.report.violation(Violation::OrphanedLease, || orphan);
    }
    lost_logins(site, &found.logins);
    site.weigh(site.pid().await);
}

/// Each lost login has a mischief that lost it: its reply never went out, or the daemon ended with it.
fn lost_logins(site: &Site, logins: &[String]) {
    site.report
        .add("logins lost in flight", logins.len().try_into().unwrap());
    for accessor in logins {
        let birth = site.wire.shared.ledger.birth(accessor);
        let explained = match birth {
            Some((born, true)) => site.troubles.loses_login(born),
            Some((born, false)) => {
                site.troubles.loses_login(born) || site.settings.sabotage.is_some()
            }
            None => false,
        };
        if !explained {
            let text = || {
                let told = birth.map(|(born, delivered)| (born.elapsed(), delivered));
                format!("{accessor}: {told:?}")
            };
            site.report.violation(Violation::LostLogin, text);
        }
    }
    let at_once = usize::try_from(site.settings.at_once).unwrap();
    let most = site.troubles.losing() * at_once;
    if logins.len() > most && site.settings.sabotage.is_none() {
        site.report.violation(Violation::LostLogin, || {
            format!("{} of them, {most} at the most", logins.len())
        });
    }
}

/// The least shares of good answers, in mischief and all.
pub fn shares(site: &Site, settings: &Settings) {
    let of = |what| site.report.of(what);
    let right = of("pods whose class is right");
    let polls = of("polls");
    let least = |what: &str, is: u64, least: u64| {
        if is < least {
            let text = || format!("{is} {what}, {least} at the least");
            site.report.violation(Violation::TooFewGood, text);
        }
    };
    least("pods mounted", of("pods mounted"), right);
    let good = polls.saturating_sub(of("polls that failed"));
    least("polls that succeeded", good, polls / 2);
    least(
        "polls while all was well",
        of("polls while all was well"),
        (settings.cycles / 4).max(1),
    );
    least(
        "polls whose cost was weighed",
        of("polls whose cost was weighed"),
        (settings.cycles / 10).max(1),
    );
}
