//! The steps of writing the journal, at each of which the crash test kills us (`tests/crash.rs`).
//!
//! Only a debug build listens: `LEASEHOLD_DIE_AT_STEP=7` ends the process, as `kill -9` would, when it
//! comes to its seventh step. A release build has no such door.

/// A step is reached.
#[cfg(debug_assertions)]
pub fn reached(step: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static LEFT: OnceLock<Option<AtomicI64>> = OnceLock::new();
    let asked = || std::env::var("LEASEHOLD_DIE_AT_STEP").ok()?.parse().ok();
    let Some(left) = LEFT.get_or_init(|| asked().map(AtomicI64::new)) else {
        return;
    };
    if left.fetch_sub(1, Ordering::SeqCst) == 1 {
        eprintln!("killed as asked: {step}");
        // Fails never: a process may always end itself.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// A step is reached.
#[cfg(not(debug_assertions))]
pub const fn reached(_: &'static str) {}
