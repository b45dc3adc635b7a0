//! The books: what the journal says against what the server says is alive.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::plan::Mischief;
use super::report::Violation;
use super::site::Site;

/// How long the books may take to agree once all is quiet: revocations that failed are tried again at
/// most a minute later.
const PATIENCE: Duration = Duration::from_secs(75);

/// The accessors of all journalled sessions.
fn journalled(site: &Site) -> BTreeSet<String> {
    let Ok(files) = fs::read_dir(site.node.state()) else {
        return BTreeSet::new();
    };
    let records = files.flatten().filter_map(|file| {
        let text = fs::read_to_string(file.path()).ok()?;
        let (_, record) = text.split_once('\n')?;
        serde_json::from_str::<Value>(record).ok()
    });
    let sessions = records.flat_map(|record| {
        let sessions = record["sessions"].as_array().cloned();
        sessions.unwrap_or_default()
    });
    sessions
        .filter_map(|session| Some(session["accessor"].as_str()?.to_owned()))
        .collect()
}

/// Tokens that the server has and the journal has not: they must be logins that were lost in flight.
async fn unknown(site: &Site) -> (usize, Vec<String>) {
    let known = journalled(site);
    let tokens = site.server.tokens().await;
    let unknown = tokens
        .iter()
        .filter(|token| !known.contains(&token.accessor));
    let mut lost = 0;
    let mut orphans = Vec::new();
    for token in unknown {
        // Its first use would have been a read, of which a lease or nothing remains.
        if token.leases.is_empty() {
            lost += 1;
        } else {
            orphans.push(format!("{}: {:?}", token.accessor, token.leases));
        }
    }
    orphans.extend(site.server.forsaken());
    (lost, orphans)
}

/// While lives go on and all is quiet: nothing may be alive at the server that the journal does not know.
pub async fn compare(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let (_, orphans) = unknown(site).await;
        if orphans.is_empty() {
            return;
        }
        // A mount may be between its login and its journal, a revocation between token and leases.
        if Instant::now() > deadline {
            for orphan in orphans {
                site.report.violation(Violation::OrphanedLease, orphan);
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// After all lives have ended: the journal is empty, and so are the server's lists.
pub async fn close(site: &Site) {
    let deadline = Instant::now() + PATIENCE;
    let left = async || {
        let (_, orphans) = unknown(site).await;
        let leases = site.server.leases().await;
        (site.node.journalled(), orphans, leases)
    };
    while Instant::now() < deadline {
        let (journalled, orphans, leases) = left().await;
        if journalled == 0 && orphans.is_empty() && leases.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (journalled, orphans, leases) = left().await;
    if journalled > 0 {
        let text = format!("{journalled} volumes are still journalled");
        site.report.violation(Violation::OrphanedLease, text);
    }
    for orphan in orphans.into_iter().chain(leases) {
        site.report.violation(Violation::OrphanedLease, orphan);
    }
    let (lost, _) = unknown(site).await;
    let lost = u64::try_from(lost).unwrap();
    site.report.add("logins lost in flight", lost);
    let causes = [
        Mischief::Kill,
        Mischief::Lost502,
        Mischief::ResetAfterCommit,
        Mischief::Hang,
        Mischief::Slow,
        Mischief::Gone,
    ];
    if lost > 0 && site.report.mischiefs(&causes) == 0 {
        let text = format!("{lost} logins lost though nothing could lose them");
        site.report.violation(Violation::OrphanedLease, text);
    }
}
