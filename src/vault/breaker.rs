//! One circuit breaker for each address: a server that is away is asked by one call at a time, not by all.
//!
//! It opens after [`CONSECUTIVE`] failures in a row that speak of the server and not of the request, and
//! lets one probe through when its pause is over. Any proper answer closes it. What a single tenant can
//! cause (a 500 of a broken role, a timeout of a dead database, a sealed namespace) counts only where the
//! server's own health check fails as well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Moment;
use crate::metrics::Metrics;

/// Failures in a row that open it: one answer lost on the way must not stop a node.
const CONSECUTIVE: u32 = 3;
/// The first pause; it doubles with every failed probe.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of our own choice: a server that is back is noticed within it, and a thousand nodes
/// make 200 probes a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The shortest pause, for calls whose end is near.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server's `Retry-After` is granted.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// A health check's result holds this long for the next call that fails ambiguously.
const CHECK_HOLDS: Duration = Duration::from_secs(1);
/// Tenants choose addresses: so many are remembered.
const ADDRESSES: usize = 256;

/// What a call has shown about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered.
    Well,
    /// It did not, or said that it cannot.
    Unwell {
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The request's own trouble, perhaps: the health check decides.
    Unclear,
    /// The call says nothing about the server: it was never sent.
    None,
}

/// The breakers of all addresses.
pub struct Breakers {
    by_address: Mutex<HashMap<String, Breaker>>,
    /// How long a probe may take; after that the next one is let through.
    patience: Duration,
    metrics: Metrics,
}

#[derive(Default)]
struct Breaker {
    failures: u32,
    open: Option<Open>,
    checked: Option<(Moment, bool)>,
}

struct Open {
    since: Moment,
    /// The last failure that counted, or the start of the last probe.
    tried_at: Moment,
    until: Moment,
    /// The server itself has asked for this much.
    asked_until: Moment,
    pause: Duration,
    probing: bool,
}

impl Breakers {
    pub fn new(patience: Duration, metrics: Metrics) -> Self {
        Self {
            by_address: Mutex::default(),
            patience,
            metrics,
        }
    }

    /// Whether a call may be made now; if not, when to ask again, and since when the address is away. A
    /// caller that gets leave while the breaker is open is the probe: it must make its call.
    ///
    /// `end` is when that which the call keeps alive ends: no pause of ours takes more than a quarter of
    /// what is left until then.
    pub fn admit(
        &self,
        address: &str,
        end: Option<Moment>,
        now: Moment,
    ) -> Result<(), (Moment, Moment)> {
        let mut breakers = self.lock();
        let Some(open) = breakers.get_mut(address).and_then(|it| it.open.as_mut()) else {
            return Ok(());
        };
        let mut until = open.until;
        if let Some(end) = end {
            // Nor does a probe that hangs.
            let pause = (end.since(now) / 4).max(SHORTEST_PAUSE);
            until = until.min(open.tried_at.plus(pause).max(open.asked_until));
        }
        if now < until {
            return Err((until, open.since));
        }
        open.probing = true;
        open.tried_at = now;
        open.until = now.plus(self.patience);
        Ok(())
    }

    /// Takes in what a call has shown. [`Sign::Unclear`] is to be cleared up by a health check first.
    pub fn note(&self, address: &str, sign: Sign, now: Moment, jitter: f64) {
        let retry_after = match sign {
            Sign::Well => return self.well(address, now),
            Sign::Unwell { retry_after } => retry_after,
            Sign::Unclear | Sign::None => return,
        };
        let mut breakers = self.lock();
        if breakers.len() >= ADDRESSES && !breakers.contains_key(address) {
            breakers.retain(|_, breaker| breaker.open.is_some());
        }
        let breaker = breakers.entry(address.to_owned()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        let (since, pause) = match &breaker.open {
            None if breaker.failures < CONSECUTIVE => return,
            None => {
                warn!(
                    address,
                    "the server is away: calls to it wait, one at a time tries"
                );
                self.metrics.breaker_open(address, true);
                (now, FIRST_PAUSE)
            }
            // A call that was under way when it opened: no news.
            Some(open) if !open.probing => return,
            Some(open) => (open.since, open.pause.saturating_mul(2).min(LONGEST_PAUSE)),
        };
        let drawn = pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        breaker.open = Some(Open {
            since,
            tried_at: now,
            until: now.plus(drawn.max(asked)),
            asked_until: now.plus(asked),
            pause,
            probing: false,
        });
    }

    /// What the last health check said, if that was just now.
    pub fn checked(&self, address: &str, now: Moment) -> Option<bool> {
        let (at, well) = self.lock().get(address)?.checked?;
        (now.since(at) < CHECK_HOLDS).then_some(well)
    }

    /// Remembers a health check's result.
    pub fn remember(&self, address: &str, well: bool, now: Moment) {
        let mut breakers = self.lock();
        breakers.entry(address.to_owned()).or_default().checked = Some((now, well));
    }

    fn well(&self, address: &str, now: Moment) {
        let mut breakers = self.lock();
        let Some(breaker) = breakers.get_mut(address) else {
            return;
        };
        breaker.failures = 0;
        if let Some(open) = breaker.open.take() {
            let seconds = now.since(open.since).as_secs();
            info!(
                address,
                seconds, "the server answers again: the earliest deadlines come first"
            );
            self.metrics.breaker_open(address, false);
        }
    }

    /// A panic while the lock is held cannot leave the map half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Breaker>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "http://vault";
    const AWAY: Sign = Sign::Unwell { retry_after: None };

    fn at(millis: u64) -> Moment {
        Moment::from_boot(Duration::from_millis(millis))
    }

    fn breakers() -> Breakers {
        Breakers::new(Duration::from_secs(15), Metrics::new())
    }

    #[test]
    fn three_in_a_row_open_it_and_an_answer_in_between_does_not() {
        let breakers = breakers();
        for sign in [
            AWAY,
            AWAY,
            Sign::Well,
            AWAY,
            AWAY,
            Sign::None,
            Sign::Unclear,
        ] {
            breakers.note(HERE, sign, at(0), 1.0);
            assert_eq!(breakers.admit(HERE, None, at(0)), Ok(()));
        }
        breakers.note(HERE, AWAY, at(0), 1.0);
        assert_eq!(breakers.admit(HERE, None, at(999)), Err((at(1000), at(0))));
        assert_eq!(breakers.admit("http://other", None, at(0)), Ok(()));
    }

    #[test]
    fn one_probe_at_a_time_and_its_failure_doubles_the_pause() {
        let breakers = breakers();
        (0..3).for_each(|_| breakers.note(HERE, AWAY, at(0), 1.0));
        // Those that were under way when it opened are no news.
        (0..16).for_each(|_| breakers.note(HERE, AWAY, at(500), 1.0));
        assert_eq!(breakers.admit(HERE, None, at(1000)), Ok(()), "the probe");
        assert_eq!(
            breakers.admit(HERE, None, at(1001)),
            Err((at(16_000), at(0)))
        );
        breakers.note(HERE, AWAY, at(2000), 1.0);
        assert_eq!(breakers.admit(HERE, None, at(3999)), Err((at(4000), at(0))));
        assert_eq!(
            breakers.admit(HERE, None, at(4000)),
            Ok(()),
            "the next probe"
        );
        breakers.note(HERE, Sign::Well, at(4100), 1.0);
        assert_eq!(breakers.admit(HERE, None, at(4100)), Ok(()));
    }

    #[test]
    fn a_probe_that_never_comes_back_gives_way_to_another() {
        let breakers = breakers();
        (0..3).for_each(|_| breakers.note(HERE, AWAY, at(0), 0.0));
        assert_eq!(breakers.admit(HERE, None, at(500)), Ok(()));
        assert!(breakers.admit(HERE, None, at(15_499)).is_err());
        assert_eq!(breakers.admit(HERE, None, at(15_500)), Ok(()));
    }

    #[test]
    fn a_pause_leaves_a_short_term_time_for_more_attempts() {
        let breakers = breakers();
        (0..3).for_each(|_| breakers.note(HERE, AWAY, at(0), 1.0));
        let ask = |end, now| breakers.admit(HERE, Some(at(end)), at(now));
        assert_eq!(ask(100_000, 0), Err((at(1000), at(0))), "ours is shorter");
        assert_eq!(
            ask(2_000, 0),
            Err((at(500), at(0))),
            "a quarter of two seconds"
        );
        assert_eq!(ask(600, 0), Err((at(250), at(0))), "and not too often");
        assert_eq!(ask(600, 250), Ok(()));
        assert_eq!(ask(100_000, 300), Err((at(15_250), at(0))), "it is out");
        assert_eq!(ask(900, 300), Err((at(500), at(0))));
        assert_eq!(ask(900, 500), Ok(()), "it hangs, and this cannot wait");
    }

    #[test]
    fn a_wish_for_a_pause_is_obeyed_within_a_minute() {
        let breakers = breakers();
        let asks = |seconds| Sign::Unwell {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        (0..3).for_each(|_| breakers.note(HERE, asks(7), at(0), 0.0));
        assert_eq!(breakers.admit(HERE, None, at(0)), Err((at(7000), at(0))));
        assert_eq!(breakers.admit(HERE, None, at(7000)), Ok(()));
        breakers.note(HERE, asks(86_400), at(7000), 0.0);
        assert_eq!(
            breakers.admit(HERE, None, at(7000)),
            Err((at(67_000), at(0)))
        );
    }
}
