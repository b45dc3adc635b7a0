//! When next? Pure functions of what was granted, of the poll interval and of a jitter in `[0, 1)`.
//!
//! Three questions: when is a thing renewed ([`Life::renew_at`]), from when on does a poll replace it
//! ([`Life::replace_from`]), and how long is a failed call left alone ([`retry_delay`]). The earliest of
//! the rules that apply always wins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Grant, Keep, Renewal, Session, Term};
use crate::clock::Moment;

/// Grants shorter than this are renewed at half of their time: jitter would eat their margin.
const SHORT: Duration = Duration::from_secs(30);
/// The server floors durations to whole seconds, on both sides of a subtraction.
const FLOORED: Duration = Duration::from_secs(2);
/// A longer grant (30 years, say) is treated as this: no arithmetic overflows, no timer either.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest pause between two attempts.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What kind of thing lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nature {
    /// A session's token.
    Token,
    /// A lease.
    Lease,
    /// A certificate without a lease.
    Certificate,
    /// A credential without a lease whose reply tells its end.
    Expiring,
    /// A write's reply that is repeated after its refresh time.
    Written,
    /// A read that is repeated at every poll.
    #[serde(alias = "rotated")]
    Static,
}

/// How a granted thing goes on living.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// What it is.
    pub nature: Nature,
    /// Its present term.
    pub term: Term,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// A renewal has shown that its end will not move any more.
    pub capped: bool,
}

impl Life {
    /// The life of a session's token.
    #[must_use]
    pub const fn of_session(session: &Session) -> Self {
        Self {
            nature: Nature::Token,
            term: session.term,
            renewable: session.renewable && !session.counted,
            capped: false,
        }
    }

    /// The life of a grant.
    #[must_use]
    pub const fn of_grant(grant: &Grant) -> Self {
        let (nature, renewable) = match &grant.keep {
            Keep::Static => (Nature::Static, false),
            Keep::Lease { renewable, .. } => (Nature::Lease, *renewable),
            Keep::Certificate => (Nature::Certificate, false),
            Keep::Expiring => (Nature::Expiring, false),
            Keep::Written => (Nature::Written, false),
        };
        Self {
            nature,
            term: grant.term,
            renewable,
            capped: false,
        }
    }

    /// Whether renewals still move its end.
    #[must_use]
    pub const fn renews(&self) -> bool {
        self.renewable && !self.capped
    }

    /// Its end, when nothing moves it any more; `None` while it renews in full or never ends.
    #[must_use]
    pub fn final_end(&self) -> Option<Moment> {
        if self.renews() { None } else { self.term.end() }
    }

    /// When its next renewal is due; `None` for what is not renewed.
    #[must_use]
    pub fn renew_at(&self, poll: Duration, jitter: f64) -> Option<Moment> {
        if !self.renews() || self.term.granted().is_zero() {
            return None;
        }
        let granted = self.term.granted().min(LONGEST);
        let (from, to) = match self.nature {
            Nature::Token => (0.40, 0.55),
            _ => (0.50, 0.67),
        };
        let planned = if granted < SHORT {
            granted / 2
        } else {
            granted.mul_f64(between(from, to, jitter))
        };
        Some(self.term.sent().plus(planned.min(latest(granted, poll))))
    }

    /// From when on a poll replaces it; `None` for what lives on. Static reads are due at once.
    #[must_use]
    pub fn replace_from(&self, poll: Duration, jitter: f64) -> Option<Moment> {
        let granted = self.term.granted().min(LONGEST);
        let before_end = granted.saturating_sub(poll.saturating_mul(2));
        match self.nature {
            Nature::Static => return Some(self.term.sent()),
            _ if self.term.granted().is_zero() => return None,
            Nature::Written => return Some(self.term.sent().plus(granted)),
            Nature::Token | Nature::Lease if self.renews() => return None,
            Nature::Token => return Some(self.term.sent().plus(before_end)),
            // Once renewed and then capped: its last grant may be tiny, only its end counts.
            Nature::Lease if self.renewable => return Some(self.term.sent().plus(before_end)),
            Nature::Lease | Nature::Certificate | Nature::Expiring => {}
        }
        let planned = granted.mul_f64(between(0.66, 0.80, jitter));
        Some(self.term.sent().plus(planned.min(before_end)))
    }

    /// From when on a poll replaces what should renew and whose renewals fail: at the second-to-last poll
    /// before its end, or at the last one where its term has no room for two. `None` for what does not renew.
    #[must_use]
    pub fn replace_failing_from(&self, poll: Duration) -> Option<Moment> {
        let granted = self.term.granted().min(LONGEST);
        if !self.renews() || granted.is_zero() {
            return None;
        }
        let margin = if granted > poll.saturating_mul(3) {
            poll.saturating_mul(2)
        } else {
            poll.saturating_add(poll / 4)
        };
        Some(self.term.sent().plus(granted.saturating_sub(margin)))
    }

    /// Takes a renewal in. The end is final (`capped`) when the server says so, or when it has moved by
    /// less than half of the time that has passed since the last one.
    pub fn renewed(&mut self, renewal: &Renewal) {
        let stalled = match (self.term.end(), renewal.term.end()) {
            (Some(before), Some(after)) => {
                let passed = renewal.term.sent().since(self.term.sent());
                after.since(before).saturating_add(FLOORED) < passed / 2
            }
            _ => false,
        };
        self.capped = renewal.capped || stalled;
        self.renewable = renewal.renewable;
        self.term = renewal.term;
    }

    /// Whether the rotation interval is too long for anyone to promise a swap in time: the grant ends
    /// within three polls and cannot be prolonged.
    #[must_use]
    pub fn too_short_for(&self, poll: Duration) -> bool {
        let ends = match self.nature {
            Nature::Token | Nature::Lease => !self.renews(),
            Nature::Certificate | Nature::Expiring => true,
            Nature::Written | Nature::Static => false,
        };
        ends && !self.term.granted().is_zero() && self.term.granted() <= poll.saturating_mul(3)
    }
}

/// When a renewal that was planned before a restart is made after it: spread, so that a node's leases
/// do not come all at once, but never later than it was planned.
#[must_use]
pub fn resume_at(planned: Moment, end: Option<Moment>, now: Moment, jitter: f64) -> Moment {
    let remaining = end.map_or(LONGEST, |end| end.since(now));
    planned.min(now.plus(remaining.mul_f64(0.5 * unit(jitter))))
}

/// How long to wait before the attempt after `failures` failed ones: full jitter below a bound that
/// doubles from 1 s to 60 s and leaves at least three further attempts before the end.
#[must_use]
pub fn retry_delay(
    failures: u32,
    remaining: Option<Duration>,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(1 << failures.min(6));
    let mut bound = doubled.min(LONGEST_RETRY);
    if let Some(remaining) = remaining {
        bound = bound.min(remaining / 4);
    }
    let delay = bound.mul_f64(unit(jitter)).max(Duration::from_millis(100));
    retry_after.map_or(delay, |asked| delay.max(asked.min(LONGEST_RETRY)))
}

/// The latest time of a renewal that leaves two polls for a replacement, where there is room for that.
fn latest(granted: Duration, poll: Duration) -> Duration {
    if granted > poll.saturating_mul(3) {
        granted.saturating_sub(poll.saturating_mul(2))
    } else {
        granted
    }
}

fn between(from: f64, to: f64, jitter: f64) -> f64 {
    from + (to - from) * unit(jitter)
}

/// Keeps a foreign number within `[0, 1]`: `Duration::mul_f64` panics on a negative or infinite one.
fn unit(jitter: f64) -> f64 {
    if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const START: Moment = Moment::from_boot(secs(1_000));
    const POLL: Duration = secs(120);

    fn life(nature: Nature, granted: u64, renewable: bool) -> Life {
        Life {
            nature,
            term: Term::new(START, secs(granted)),
            renewable,
            capped: false,
        }
    }

    fn renewal(after: u64, granted: u64) -> Renewal {
        Renewal {
            term: Term::new(START.plus(secs(after)), secs(granted)),
            renewable: true,
            capped: false,
        }
    }

    #[test]
    fn tokens_are_renewed_before_their_leases() {
        let token = life(Nature::Token, 3600, true);
        let lease = life(Nature::Lease, 3600, true);
        assert_eq!(token.renew_at(POLL, 0.0), Some(START.plus(secs(1440))));
        assert_eq!(token.renew_at(POLL, 1.0), Some(START.plus(secs(1980))));
        assert_eq!(lease.renew_at(POLL, 0.0), Some(START.plus(secs(1800))));
        assert_eq!(lease.renew_at(POLL, 1.0), Some(START.plus(secs(2412))));
        assert_eq!(lease.replace_from(POLL, 0.5), None);
    }

    #[test]
    fn short_grants_are_renewed_at_half_their_time() {
        let lease = life(Nature::Lease, 20, true);
        assert_eq!(lease.renew_at(POLL, 0.9), Some(START.plus(secs(10))));
    }

    #[test]
    fn a_full_renewal_is_not_capped_even_when_floored() {
        let mut lease = life(Nature::Lease, 60, true);
        lease.renewed(&renewal(30, 59));
        assert!(!lease.capped);
        assert_eq!(lease.replace_from(POLL, 0.5), None);
    }

    #[test]
    fn an_end_that_stalls_is_final() {
        let mut lease = life(Nature::Lease, 60, true);
        lease.renewed(&renewal(40, 30));
        assert!(lease.capped);
        assert_eq!(lease.renew_at(POLL, 0.5), None);
        assert_eq!(lease.final_end(), Some(START.plus(secs(70))));
        assert_eq!(
            lease.replace_from(secs(10), 0.5),
            Some(START.plus(secs(50)))
        );
    }

    #[test]
    fn a_warning_of_the_maximum_is_believed() {
        let mut token = life(Nature::Token, 60, true);
        token.renewed(&Renewal {
            capped: true,
            ..renewal(30, 60)
        });
        assert_eq!(token.final_end(), Some(START.plus(secs(90))));
    }

    #[test]
    fn certificates_are_replaced_two_polls_before_their_end() {
        let long = life(Nature::Certificate, 72 * 3600, false);
        assert_eq!(
            long.replace_from(POLL, 0.0),
            Some(START.plus(secs(72 * 3600 * 66 / 100)))
        );
        let short = life(Nature::Certificate, 600, false);
        assert_eq!(short.replace_from(POLL, 1.0), Some(START.plus(secs(360))));
        assert!(!short.too_short_for(POLL));
        assert!(life(Nature::Certificate, 300, false).too_short_for(POLL));
    }

    #[test]
    fn what_fails_to_renew_is_replaced_two_polls_before_its_end() {
        let from = |granted| life(Nature::Lease, granted, true).replace_failing_from(POLL);
        assert_eq!(from(3600), Some(START.plus(secs(3600 - 240))));
        assert_eq!(from(361), Some(START.plus(secs(121))));
        // No room for two: at the last poll before the end.
        assert_eq!(from(360), Some(START.plus(secs(210))));
        assert_eq!(from(60), Some(START));
        assert_eq!(
            life(Nature::Lease, 3600, false).replace_failing_from(POLL),
            None
        );
        assert_eq!(
            life(Nature::Token, 0, true).replace_failing_from(POLL),
            None
        );
    }

    #[test]
    fn a_credential_that_tells_its_end_is_replaced_in_its_last_third() {
        let session = life(Nature::Expiring, 3600, false);
        assert_eq!(
            session.replace_from(POLL, 0.0),
            Some(START.plus(secs(2376)))
        );
        assert_eq!(
            session.replace_from(POLL, 1.0),
            Some(START.plus(secs(2880)))
        );
        assert!(life(Nature::Expiring, 300, false).too_short_for(POLL));
    }

    #[test]
    fn a_term_without_end_is_left_alone() {
        let root = life(Nature::Token, 0, false);
        assert_eq!(root.renew_at(POLL, 0.5), None);
        assert_eq!(root.replace_from(POLL, 0.5), None);
    }

    proptest! {
        #[test]
        fn never_too_late(
            granted in 1_u64..1_000_000_000,
            poll in 0_u64..100_000,
            jitter in 0.0_f64..1.0,
            lease in any::<bool>(),
        ) {
            let nature = if lease { Nature::Lease } else { Nature::Token };
            let granted = secs(granted);
            let poll = secs(poll);
            let life = Life { term: Term::new(START, granted), ..life(nature, 1, true) };
            let at = life.renew_at(poll, jitter).unwrap().since(START);
            // A third of the time is left for retries, and two polls where there is room for them.
            prop_assert!(at <= granted.mul_f64(0.67) + Duration::from_millis(1));
            if granted <= LONGEST && granted > poll * 3 {
                prop_assert!(at + poll * 2 <= granted);
            }
            let fixed = Life { renewable: false, ..life };
            prop_assert!(fixed.replace_from(poll, jitter).unwrap() <= fixed.term.end().unwrap());
        }

        #[test]
        fn no_number_breaks_it(granted in any::<u64>(), poll in any::<u64>(), jitter in any::<f64>()) {
            let life = life(Nature::Lease, granted, true);
            let _ = life.renew_at(secs(poll), jitter);
            let _ = life.replace_failing_from(secs(poll));
            let _ = Life { renewable: false, ..life }.replace_from(secs(poll), jitter);
            let _ = retry_delay(u32::MAX, Some(secs(poll)), Some(secs(granted)), jitter);
            let _ = resume_at(START, life.term.end(), START, jitter);
        }

        #[test]
        fn retries_leave_room(failures in 0_u32..40, remaining in 1_u64..100_000, jitter in 0.0_f64..1.0) {
            let delay = retry_delay(failures, Some(secs(remaining)), None, jitter);
            prop_assert!(delay <= LONGEST_RETRY);
            prop_assert!(delay <= secs(remaining) / 4 + Duration::from_millis(100));
        }

        #[test]
        fn a_restart_never_delays(planned in 0_u64..5000, end in 0_u64..5000, now in 0_u64..5000, jitter in 0.0_f64..1.0) {
            let (planned, end, now) = (Moment::from_boot(secs(planned)), Moment::from_boot(secs(end)), Moment::from_boot(secs(now)));
            let at = resume_at(planned, Some(end), now, jitter);
            prop_assert!(at <= planned);
            prop_assert!(at <= now.plus(end.since(now) / 2).max(planned));
        }
    }
}
