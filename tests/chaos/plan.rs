//! What happens, drawn from a seed: the same seed gives the same lives and the same mischief.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a pod's class asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Database credentials, a certificate, a static secret.
    Whole,
    /// Database credentials of a term so short that it is renewed all the time.
    Short,
    /// Database credentials whose maximum is near: replaced again and again.
    Capped,
    /// The second object is not there.
    Absent,
    /// The second object is forbidden.
    Forbidden,
}

/// How a volume ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The driver unmounts, kubelet removes the pod's directory later.
    Unmounted,
    /// All at once.
    Removed,
}

/// One step of a pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A rotation poll.
    Poll,
    /// A poll whose caller goes away in the middle.
    Cancelled(Duration),
    /// Two equal polls at once.
    Twice,
    /// The class gets another object, or loses it again.
    Edited,
    /// The class logs in by another role.
    OtherRole,
    /// The path is away for a moment: kubelet restarts.
    Blink(Duration),
}

/// A pod's life.
#[derive(Clone, Debug)]
pub struct Life {
    pub asks: Asks,
    /// Its steps, each after a pause.
    pub steps: Vec<(Duration, Step)>,
    pub ending: Ending,
}

/// What is done to the daemon and to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mischief {
    Kill,
    Restart,
    Throttled,
    ThrottledWithPause,
    Status500,
    Status502,
    Status503,
    Lost502,
    Reset,
    ResetAfterCommit,
    Hang,
    Slow,
    Sealed,
    Gone,
}

const MISCHIEF: [Mischief; 14] = [
    Mischief::Kill,
    Mischief::Restart,
    Mischief::Throttled,
    Mischief::ThrottledWithPause,
    Mischief::Status500,
    Mischief::Status502,
    Mischief::Status503,
    Mischief::Lost502,
    Mischief::Reset,
    Mischief::ResetAfterCommit,
    Mischief::Hang,
    Mischief::Slow,
    Mischief::Sealed,
    Mischief::Gone,
];

fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

/// The life of a cycle. One in forty is long.
pub fn life(seed: u64, cycle: u64) -> Life {
    let random = &mut StdRng::seed_from_u64(seed ^ cycle.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let asks = match random.random_range(0..20) {
        0..=9 => Asks::Whole,
        10..=13 => Asks::Short,
        14..=16 => Asks::Capped,
        17..=18 => Asks::Absent,
        _ => Asks::Forbidden,
    };
    let count = if cycle % 40 == 7 {
        random.random_range(20..30)
    } else {
        random.random_range(1..5)
    };
    let steps = (0..count).map(|_| {
        let pause = millis(random, 50, 900);
        let step = match random.random_range(0..20) {
            0..=10 => Step::Poll,
            11..=13 => Step::Cancelled(millis(random, 0, 15)),
            14..=15 => Step::Twice,
            16 => Step::Edited,
            17 => Step::OtherRole,
            _ => Step::Blink(millis(random, 5, 60)),
        };
        (pause, step)
    });
    let steps = steps.collect();
    let ending = if random.random_bool(0.5) {
        Ending::Unmounted
    } else {
        Ending::Removed
    };
    Life {
        asks,
        steps,
        ending,
    }
}

/// The mischief, without end: what, for how long, and the calm after it.
pub fn mischief(seed: u64) -> impl FnMut() -> (Mischief, Duration, Duration) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x6D69_7363_6869_6566);
    move || {
        let what = MISCHIEF[random.random_range(0..MISCHIEF.len())];
        let during = millis(&mut random, 50, 900);
        let calm = millis(&mut random, 600, 1800);
        (what, during, calm)
    }
}
