//! What was done, what was found, and whether that is a pass.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::plan::Mischief;

/// What must never be. Each has its own closing line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    NeverMounted,
    WrongCode,
    SlowAnswer,
    TooFewGood,
    WrongFile,
    MixedFiles,
    StaleFile,
    LostLease,
    ReplacedLease,
    RevokedEarly,
    LateRenewal,
    LateRevocation,
    OrphanedLease,
    LostLogin,
    NeedlessLogin,
    NeedlessCredential,
    WrongTenant,
    DaemonEnded,
    Memory,
    IdleCpu,
}

/// All of them, with what they mean, in the order of the closing lines.
const FIGURES: [(Violation, &str); 20] = [
    (
        Violation::NeverMounted,
        "pods never mounted though their class is right",
    ),
    (
        Violation::WrongCode,
        "errors that no mischief explains, or wrong codes",
    ),
    (
        Violation::SlowAnswer,
        "answers later than 5 s while all was well",
    ),
    (
        Violation::TooFewGood,
        "shares or counts of good answers below their minimum",
    ),
    (
        Violation::WrongFile,
        "files that are missing or not what they should be",
    ),
    (
        Violation::MixedFiles,
        "files with what was given to another volume",
    ),
    (
        Violation::StaleFile,
        "files of a good answer that show an older value of a static secret",
    ),
    (
        Violation::LostLease,
        "lost leases: ended while a mounted volume showed them",
    ),
    (
        Violation::ReplacedLease,
        "credentials replaced without need",
    ),
    (
        Violation::RevokedEarly,
        "credentials revoked while a mounted volume showed them",
    ),
    (
        Violation::LateRenewal,
        "late renewals: within 10 % of the end while all was well",
    ),
    (
        Violation::LateRevocation,
        "late revocations: alive past the stated time while the server was reachable",
    ),
    (Violation::OrphanedLease, "orphaned leases"),
    (
        Violation::LostLogin,
        "lost logins that no mischief explains",
    ),
    (Violation::NeedlessLogin, "polls that cost a needless login"),
    (
        Violation::NeedlessCredential,
        "polls that cost a needless credential",
    ),
    (
        Violation::WrongTenant,
        "live volumes harmed by mischief of others",
    ),
    (Violation::DaemonEnded, "daemons that ended by themselves"),
    (Violation::Memory, "daemons above the bound of peak memory"),
    (Violation::IdleCpu, "quiet windows above the bound of CPU"),
];

/// How many traces of a kind are printed; the others are counted.
const TOLD: u64 = 8;

/// Counts, shared by all lives.
#[derive(Default)]
pub struct Report {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    peaks: Mutex<BTreeMap<&'static str, u64>>,
    mischief: Mutex<BTreeMap<Mischief, u64>>,
    violations: Mutex<BTreeMap<Violation, u64>>,
    /// Violations are counted and not printed: they are wanted.
    quiet: bool,
}

impl Report {
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            ..Self::default()
        }
    }

    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += more;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// Keeps the largest of a figure.
    pub fn peak(&self, what: &'static str, value: u64) {
        let mut peaks = self.peaks.lock().unwrap();
        let peak = peaks.entry(what).or_default();
        *peak = value.max(*peak);
    }

    pub fn mischief(&self, what: Mischief) {
        *self.mischief.lock().unwrap().entry(what).or_default() += 1;
    }

    /// Counts a violation; the trace is made for the first few of a kind alone.
    pub fn violation(&self, what: Violation, trace: impl FnOnce() -> String) {
        let count = {
            let mut violations = self.violations.lock().unwrap();
            let count = violations.entry(what).or_default();
            *count += 1;
            *count
        };
        if count <= TOLD && !self.quiet {
            eprintln!("VIOLATION {what:?}: {}", trace());
        }
    }

    pub fn violations(&self, what: Violation) -> u64 {
        let violations = self.violations.lock().unwrap();
        violations.get(&what).copied().unwrap_or(0)
    }

    pub fn passes(&self) -> bool {
        self.violations.lock().unwrap().is_empty()
    }

    /// Everything, with a line for each figure.
    pub fn text(&self, server: &str, seed: u64, seconds: f64) -> String {
        let mut lines = vec![format!("{server}, seed {seed}, {seconds:.0} s")];
        for (what, count) in self.counts.lock().unwrap().iter() {
            lines.push(format!("{count:>8}  {what}"));
        }
        for (what, count) in self.mischief.lock().unwrap().iter() {
            lines.push(format!("{count:>8}  {what:?}"));
        }
        for (what, peak) in self.peaks.lock().unwrap().iter() {
            lines.push(format!("{peak:>8}  {what}"));
        }
        for (what, text) in FIGURES {
            let count = self.violations(what);
            let verdict = if count == 0 { "PASS" } else { "FAIL" };
            lines.push(format!("{verdict} {count:>8}  {text}"));
        }
        let verdict = if self.passes() { "PASSED" } else { "FAILED" };
        lines.push(verdict.to_owned());
        lines.join("\n")
    }
}
