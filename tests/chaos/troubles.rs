//! What is wrong, with whom, since when; and what that may explain. An error is explained by mischief alone that
//! could cause this error for this pod, while it lasts and for a stated time after it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::plan::Mischief;

/// How long after its end a server's trouble may still cost an answer: an address that was away is asked again
/// at most every 5 s (`docs/outages.md`).
pub const AFTER_SERVER: Duration = Duration::from_secs(6);
/// The same of the daemon's own ends: a start, and one answer for a Mount that the end has cut short.
pub const AFTER_DAEMON: Duration = Duration::from_secs(3);
/// From when on a daemon that is stopped may lose a lease of the shortest term.
const LONG_STOP: Duration = Duration::from_secs(1);

/// So many backends that fail speak for their address.
const SEVERAL: usize = 3;

/// Whom a mischief is meant for; nothing: everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Index into [`super::plan::TENANTS`].
    pub tenant: Option<usize>,
    /// The first part of the engine's paths.
    pub backend: Option<&'static str>,
}

/// What a pod depends on.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    pub tenant: usize,
    pub backends: &'static [&'static str],
    /// Its class names the additional object.
    pub edited: bool,
}

/// What wants an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call broke: no answer came.
    Broken,
    /// A Mount failed with `Internal`.
    Failed,
    /// A Mount failed with another code.
    OddCode,
    /// An answer came late.
    Slow,
    /// A lease of the shortest term ended, or was replaced.
    ShortLost,
    /// A lease at its maximum ended before it was replaced.
    CappedLost,
    /// A lease of the usual term ended, or was replaced.
    Lost,
    /// A poll cost a login or a credential.
    Cost,
    /// A renewal came late.
    LateRenewal,
    /// A revocation came late.
    LateRevocation,
    /// A file shows an old value.
    Stale,
}

#[derive(Clone, Debug)]
struct Episode {
    what: Mischief,
    target: Target,
    from: Instant,
    to: Option<Instant>,
}

impl Mischief {
    /// It ends, stops or starts the daemon.
    pub fn is_of_daemon(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Restart | Self::Jump | Self::Stopped
        )
    }

    /// A login's reply may be lost to it, or what it told before it was journalled.
    pub fn loses_logins(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Jump
                | Self::Lost502
                | Self::ResetAfterCommit
                | Self::Hang
                | Self::Slow
                | Self::Gone
                | Self::Stopped
        )
    }

    fn aftermath(self) -> Duration {
        if self.is_of_daemon() {
            AFTER_DAEMON
        } else {
            AFTER_SERVER
        }
    }

    /// Whether it can have such an effect on whom it is meant for, having lasted so long.
    fn causes(self, effect: Effect, lasted: Duration) -> bool {
        if self == Self::NoPolls {
            return matches!(effect, Effect::CappedLost | Effect::Cost);
        }
        let renewals = matches!(self, Self::RenewalsHang | Self::RenewalsRefused);
        match effect {
            Effect::Broken => matches!(self, Self::Kill | Self::Restart | Self::Jump),
            // A stopped daemon answers later, and nothing else; renewals are nothing that a Mount waits for.
            Effect::Failed => self != Self::Stopped && !renewals,
            Effect::OddCode => self == Self::AbsurdDurations,
            Effect::Slow => !renewals,
            Effect::ShortLost => match self {
                Self::Jump | Self::AbsurdDurations => true,
                Self::Stopped => lasted >= LONG_STOP,
                _ => renewals && lasted >= LONG_STOP,
            },
            Effect::Lost => self == Self::AbsurdDurations,
            Effect::Stale => false,
            Effect::CappedLost | Effect::Cost | Effect::LateRenewal | Effect::LateRevocation => {
                true
            }
        }
    }
}

impl Episode {
    fn touches(&self, reach: &Reach) -> bool {
        let tenant = self
            .target
            .tenant
            .is_none_or(|tenant| tenant == reach.tenant);
        let backend = self.target.backend.is_none_or(|backend| {
            backend == "auth"
                || reach.backends.contains(&backend)
                || reach.edited && backend == "reports"
        });
        tenant && backend
    }

    fn overlaps(&self, since: Instant, slack: Duration) -> bool {
        self.to.is_none_or(|to| to + slack > since)
    }

    fn lasted(&self) -> Duration {
        self.to.unwrap_or_else(Instant::now) - self.from
    }
}

/// Everything that was and is wrong.
#[derive(Default)]
pub struct Troubles(Mutex<Vec<Episode>>);

impl Troubles {
    /// Begins an episode; [`Self::end`] takes what this gives.
    pub fn begin(&self, what: Mischief, target: Target) -> usize {
        let mut episodes = self.0.lock().unwrap();
        episodes.push(Episode {
            what,
            target,
            from: Instant::now(),
            to: None,
        });
        episodes.len() - 1
    }

    pub fn end(&self, episode: usize) {
        self.0.lock().unwrap()[episode].to = Some(Instant::now());
    }

    /// Whether something explains this effect on this pod, in the time since.
    pub fn explain(&self, effect: Effect, reach: &Reach, since: Instant) -> bool {
        self.any(|episode| {
            episode.overlaps(since, episode.what.aftermath())
                && episode.touches(reach)
                && episode.what.causes(effect, episode.lasted())
        })
    }

    /// Whether something was wrong at the time with others alone: what is unexplained is then harm done to the
    /// wrong ones.
    pub fn with_others(&self, reach: &Reach, since: Instant) -> bool {
        self.any(|episode| {
            episode.target != Target::default()
                && episode.overlaps(since, episode.what.aftermath())
                && !episode.touches(reach)
        })
    }

    /// Whether so many backends were in trouble that the daemon may take their address for away
    /// (`docs/adr/0005-one-scheduler.md`).
    pub fn are_several(&self, since: Instant) -> bool {
        let episodes = self.0.lock().unwrap();
        let troubled = episodes.iter().filter(|episode| {
            episode.target != Target::default()
                && episode.overlaps(since, episode.what.aftermath())
                && episode.what.causes(Effect::Failed, episode.lasted())
        });
        let targets: BTreeSet<_> = troubled
            .map(|episode| (episode.target.tenant, episode.target.backend))
            .collect();
        targets.len() >= SEVERAL
    }

    /// Whether a tenant's tokens cannot be revoked, or could not be until just now. Trouble of one engine is no
    /// reason.
    pub fn hinders_revocation(&self, tenant: usize) -> bool {
        let now = Instant::now();
        let reach = Reach {
            tenant,
            backends: &[],
            edited: false,
        };
        self.any(|episode| {
            episode.target.backend.is_none()
                && episode.overlaps(now, episode.what.aftermath())
                && episode.touches(&reach)
        })
    }

    /// Whether a login of then may have been lost with the daemon, or on its way.
    pub fn loses_login(&self, born: Instant) -> bool {
        let slack = Duration::from_secs(2);
        self.any(|episode| {
            episode.what.loses_logins()
                && episode.from < born + slack
                && episode.overlaps(born, slack)
        })
    }

    /// How many episodes could lose logins.
    pub fn losing(&self) -> usize {
        let episodes = self.0.lock().unwrap();
        let losing = episodes
            .iter()
            .filter(|episode| episode.what.loses_logins());
        losing.count()
    }

    /// What was wrong since, for a trace.
    pub fn since(&self, since: Instant) -> String {
        let episodes = self.0.lock().unwrap();
        let recent = episodes
            .iter()
            .filter(|episode| episode.overlaps(since, AFTER_SERVER * 2));
        let told = recent.map(|episode| {
            let ended = episode.to.map_or_else(
                || "still on".to_owned(),
                |to| format!("ended {:.1} s ago", to.elapsed().as_secs_f64()),
            );
            format!(
                "{:?} {:?} for {:.1} s, {ended}",
                episode.what,
                episode.target,
                episode.lasted().as_secs_f64()
            )
        });
        told.collect::<Vec<_>>().join("; ")
    }

    fn any(&self, fits: impl Fn(&Episode) -> bool) -> bool {
        // The recent ones explain most.
        self.0.lock().unwrap().iter().rev().any(fits)
    }
}
