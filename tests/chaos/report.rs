//! What was done, and what was found.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::plan::Mischief;

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A token or lease at the server that belongs to no volume.
    OrphanedLease,
    /// A credential of a mounted volume that is dead, or was issued anew without need.
    LostLease,
    /// Files that are not what they should be.
    WrongFile,
    /// An error that nothing explains.
    WrongCode,
}

/// Counts, shared by all lives.
#[derive(Default)]
pub struct Report {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    mischief: Mutex<BTreeMap<Mischief, u64>>,
    violations: Mutex<Vec<(Violation, String)>>,
}

impl Report {
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += more;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    pub fn mischief(&self, what: Mischief) {
        *self.mischief.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn mischiefs(&self, wanted: &[Mischief]) -> u64 {
        let mischief = self.mischief.lock().unwrap();
        wanted.iter().filter_map(|what| mischief.get(what)).sum()
    }

    pub fn violation(&self, what: Violation, trace: String) {
        eprintln!("VIOLATION {what:?}: {trace}");
        self.violations.lock().unwrap().push((what, trace));
    }

    pub fn violations(&self) -> usize {
        self.violations.lock().unwrap().len()
    }

    /// Prints everything.
    pub fn print(&self, server: &str, seed: u64, seconds: f64) {
        println!("{server}, seed {seed}, {seconds:.0} s");
        for (what, count) in self.counts.lock().unwrap().iter() {
            println!("{count:>8}  {what}");
        }
        for (what, count) in self.mischief.lock().unwrap().iter() {
            println!("{count:>8}  {what:?}");
        }
        let violations = self.violations.lock().unwrap();
        let of = |wanted| {
            let found = violations.iter().filter(|(what, _)| *what == wanted);
            found.count()
        };
        println!(
            "{:>8}  logins lost in flight, each unused and leaseless",
            self.of("logins lost in flight")
        );
        println!("{:>8}  orphaned leases", of(Violation::OrphanedLease));
        println!("{:>8}  lost leases", of(Violation::LostLease));
        println!("{:>8}  wrong files", of(Violation::WrongFile));
        println!("{:>8}  wrong codes", of(Violation::WrongCode));
    }
}
