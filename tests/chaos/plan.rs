//! What happens, drawn from a seed: the same seed gives the same lives and the same mischief.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::troubles::Target;

/// A tenant: a Kubernetes namespace, and the server's namespace that its classes name (empty: the root).
pub struct Tenant {
    pub name: &'static str,
    pub namespace: &'static str,
}

/// All tenants. Each has engines and an auth mount of its own.
pub const TENANTS: [Tenant; 3] = [
    Tenant {
        name: "shop",
        namespace: "",
    },
    Tenant {
        name: "bank",
        namespace: "bank",
    },
    Tenant {
        name: "mill",
        namespace: "mill",
    },
];

/// The engines that give leases, which are the backends that scoped mischief picks from.
pub const LEASED: [&str; 4] = ["app", "short", "capped", "reports"];

/// What a pod's class asks for. All but the broken ones have a static secret besides, which is read at each poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A leased credential and a certificate.
    Whole,
    /// A leased credential of a term so short that it is renewed all the time.
    Short,
    /// A leased credential whose maximum is near: replaced again and again.
    Capped,
    /// The second object is not there.
    Absent,
    /// The second object is forbidden.
    Forbidden,
}

impl Asks {
    /// The class cannot be mounted.
    pub fn is_broken(self) -> bool {
        matches!(self, Self::Absent | Self::Forbidden)
    }

    /// The engine of its credential.
    pub fn engine(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Capped => "capped",
            _ => "app",
        }
    }

    /// The engines that its objects are read from.
    pub fn backends(self) -> &'static [&'static str] {
        match self {
            Self::Whole => &["app", "pki", "static"],
            Self::Short => &["short", "static"],
            Self::Capped => &["capped", "static"],
            Self::Absent => &["app", "static"],
            Self::Forbidden => &["app"],
        }
    }
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
    /// Index into [`TENANTS`].
    pub tenant: usize,
    pub asks: Asks,
    /// Its steps, each after a pause.
    pub steps: Vec<(Duration, Step)>,
    pub ending: Ending,
}

/// What is done to the daemon and to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mischief {
    /// `kill -9`, and a start.
    Kill,
    /// SIGTERM, and a start.
    Restart,
    /// `kill -9`, and a start after the node has slept for some time.
    Jump,
    /// SIGSTOP, for longer than a path's confirmation, and SIGCONT.
    Stopped,
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
    /// 429 for one tenant's namespace.
    TenantThrottled,
    TenantThrottledWithPause,
    /// 429 for one engine of one tenant.
    BackendThrottled,
    BackendThrottledWithPause,
    /// 504 by a proxy, for one engine of one tenant.
    BackendTimesOut,
    /// Renewals of one engine of one tenant are not answered.
    RenewalsHang,
    /// A proxy's 403 page for renewals of one engine of one tenant.
    RenewalsRefused,
    /// Replies of one engine of one tenant tell durations that no server should.
    AbsurdDurations,
    /// Nobody polls for some seconds: no storm has it, the harness makes it to compare the books.
    NoPolls,
}

/// What befalls everybody.
const WIDE: [Mischief; 16] = [
    Mischief::Kill,
    Mischief::Restart,
    Mischief::Jump,
    Mischief::Stopped,
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

/// What befalls a tenant, or one engine of a tenant.
const SCOPED: [Mischief; 8] = [
    Mischief::TenantThrottled,
    Mischief::TenantThrottledWithPause,
    Mischief::BackendThrottled,
    Mischief::BackendThrottledWithPause,
    Mischief::BackendTimesOut,
    Mischief::RenewalsHang,
    Mischief::RenewalsRefused,
    Mischief::AbsurdDurations,
];

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    pub what: Mischief,
    pub target: Target,
    /// How long it lasts.
    pub during: Duration,
    /// The pause after it.
    pub calm: Duration,
    /// Picks one of several variants.
    pub variant: usize,
}

fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

/// The life of a cycle. One in forty is long.
pub fn life(seed: u64, cycle: u64) -> Life {
    let random = &mut StdRng::seed_from_u64(seed ^ cycle.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let tenant = random.random_range(0..TENANTS.len());
    let asks = match random.random_range(0..20) {
        0..=8 => Asks::Whole,
        9..=13 => Asks::Short,
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
            16..=17 => Step::Edited,
            18 => Step::OtherRole,
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
        tenant,
        asks,
        steps,
        ending,
    }
}

/// A plain life: polled `polls` times, every 250 ms. What sabotage is shown on.
pub fn plain(cycle: u64, polls: usize) -> Life {
    let tenant = usize::try_from(cycle).unwrap_or(0) % TENANTS.len();
    Life {
        tenant,
        asks: if cycle % 4 == 3 {
            Asks::Whole
        } else {
            Asks::Short
        },
        steps: vec![(Duration::from_millis(250), Step::Poll); polls],
        ending: Ending::Removed,
    }
}

/// The mischief, storm after storm. The acts of a storm's inner list begin together; lists follow each other.
pub fn storms(seed: u64, with_scoped: bool) -> impl FnMut() -> Vec<Vec<Act>> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x6D69_7363_6869_6566);
    move || {
        let random = &mut random;
        let count = random.random_range(4..8);
        let storm = (0..count).map(|_| {
            if random.random_bool(0.5) || !with_scoped {
                vec![wide(random)]
            } else {
                let first = random.random_range(0..TENANTS.len());
                let many = random.random_range(1..TENANTS.len());
                let tenants = (0..many).map(|more| (first + more) % TENANTS.len());
                tenants.map(|tenant| scoped(random, tenant)).collect()
            }
        });
        storm.collect()
    }
}

fn wide(random: &mut StdRng) -> Act {
    let what = WIDE[random.random_range(0..WIDE.len())];
    let during = match what {
        Mischief::Stopped => millis(random, 300, 3500),
        _ => millis(random, 50, 900),
    };
    Act {
        what,
        target: Target::default(),
        during,
        calm: millis(random, 200, 1200),
        variant: random.random_range(0..1000),
    }
}

fn scoped(random: &mut StdRng, tenant: usize) -> Act {
    let what = SCOPED[random.random_range(0..SCOPED.len())];
    let backend = match what {
        Mischief::TenantThrottled | Mischief::TenantThrottledWithPause => None,
        // Renewals of the others are not due within a life.
        Mischief::RenewalsHang | Mischief::RenewalsRefused => {
            Some(["short", "capped"][random.random_range(0..2)])
        }
        // A login's too.
        Mischief::AbsurdDurations => {
            Some(["app", "short", "capped", "reports", "auth"][random.random_range(0..5)])
        }
        _ => Some(LEASED[random.random_range(0..LEASED.len())]),
    };
    Act {
        what,
        target: Target {
            tenant: Some(tenant),
            backend,
        },
        during: millis(random, 200, 3000),
        calm: millis(random, 200, 1200),
        variant: random.random_range(0..1000),
    }
}
