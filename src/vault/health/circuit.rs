//! One circuit breaker.

use std::time::Duration;

use crate::clock::Moment;

/// The first pause; it doubles with every failed probe.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of our own choice: what is back is noticed within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The shortest pause, for calls whose end is near.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server's `Retry-After` is granted.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Closed, or open with its probes.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
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

impl Circuit {
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a probe is under way.
    pub fn is_probed(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.probing)
    }

    /// Since when it is open.
    pub fn since(&self) -> Option<Moment> {
        self.open.as_ref().map(|open| open.since)
    }

    /// Until when no call is let through, and since when it is open.
    pub fn open(&self, end: Option<Moment>, now: Moment) -> Option<(Moment, Moment)> {
        let open = self.open.as_ref()?;
        let mut until = open.until;
        if let Some(end) = end {
            // Nor does a probe that hangs.
            let pause = (end.since(now) / 4).max(SHORTEST_PAUSE);
            until = until.min(open.tried_at.plus(pause).max(open.asked_until));
        }
        (now < until).then_some((until, open.since))
    }

    /// A call was let through: where the circuit is open, it is the probe.
    pub fn probe(&mut self, timeout: Duration, now: Moment) {
        if let Some(open) = &mut self.open {
            open.probing = true;
            open.tried_at = now;
            open.until = now.plus(timeout);
        }
    }

    /// The probe has shown nothing: another one may be made after the usual pause.
    pub fn is_inconclusive(&mut self, since: Moment, now: Moment) {
        if let Some(open) = &mut self.open
            && open.probing
            && open.tried_at >= since
        {
            open.probing = false;
            open.until = now.plus(open.pause).max(open.asked_until);
        }
    }

    /// A call has failed, one of `consecutive` that open it. Tells whether it has opened.
    pub fn fails(
        &mut self,
        consecutive: u32,
        retry_after: Option<Duration>,
        now: Moment,
        jitter: f64,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let (since, pause) = match &self.open {
            None if self.failures < consecutive => return false,
            None => (now, FIRST_PAUSE),
            // A call that was under way when it opened: no news.
            Some(open) if !open.probing => return false,
            Some(open) => (open.since, open.pause.saturating_mul(2).min(LONGEST_PAUSE)),
        };
        let opens = self.open.is_none();
        let jitter = if jitter.is_finite() { jitter } else { 0.5 };
        let drawn = pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        self.open = Some(Open {
            since,
            tried_at: now,
            until: now.plus(drawn.max(asked)),
            asked_until: now.plus(asked),
            pause,
            probing: false,
        });
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    fn at(millis: u64) -> Moment {
        Moment::from_boot(Duration::from_millis(millis))
    }

    fn until(circuit: &Circuit, end: Option<Moment>, now: u64) -> Option<Moment> {
        circuit.open(end, at(now)).map(|(until, _)| until)
    }

    fn opened(jitter: f64) -> Circuit {
        let mut circuit = Circuit::default();
        assert!(!circuit.fails(3, None, at(0), jitter));
        assert!(!circuit.fails(3, None, at(0), jitter));
        assert!(!circuit.is_open());
        assert!(circuit.fails(3, None, at(0), jitter), "three in a row");
        circuit
    }

    #[test]
    fn one_probe_at_a_time_and_its_failure_doubles_the_pause() {
        let mut circuit = opened(1.0);
        // Those that were under way when it opened are no news.
        (0..16).for_each(|_| assert!(!circuit.fails(3, None, at(500), 1.0)));
        assert_eq!(circuit.open(None, at(999)), Some((at(1000), at(0))));
        assert_eq!(until(&circuit, None, 1000), None);
        circuit.probe(TIMEOUT, at(1000));
        assert_eq!(until(&circuit, None, 1001), Some(at(16_000)));
        circuit.fails(3, None, at(2000), 1.0);
        assert_eq!(until(&circuit, None, 3999), Some(at(4000)));
        assert_eq!(until(&circuit, None, 4000), None, "the next probe");
    }

    #[test]
    fn a_probe_that_never_comes_back_gives_way_to_another() {
        let mut circuit = opened(0.0);
        circuit.probe(TIMEOUT, at(500));
        assert!(until(&circuit, None, 15_499).is_some());
        assert_eq!(until(&circuit, None, 15_500), None);
    }

    #[test]
    fn a_probe_that_shows_nothing_gives_way_after_a_pause() {
        let mut circuit = opened(0.0);
        circuit.probe(TIMEOUT, at(500));
        circuit.is_inconclusive(at(501), at(600));
        assert_eq!(until(&circuit, None, 600), Some(at(15_500)), "another's");
        circuit.is_inconclusive(at(500), at(600));
        assert_eq!(until(&circuit, None, 600), Some(at(1600)));
        assert!(!circuit.is_probed());
    }

    #[test]
    fn a_pause_leaves_a_short_term_time_for_more_attempts() {
        let mut circuit = opened(1.0);
        let ask = |circuit: &Circuit, end, now| until(circuit, Some(at(end)), now);
        assert_eq!(ask(&circuit, 100_000, 0), Some(at(1000)), "ours is shorter");
        assert_eq!(
            ask(&circuit, 2_000, 0),
            Some(at(500)),
            "a quarter of two seconds"
        );
        assert_eq!(ask(&circuit, 600, 0), Some(at(250)), "and not too often");
        assert_eq!(ask(&circuit, 600, 250), None);
        circuit.probe(TIMEOUT, at(250));
        assert_eq!(ask(&circuit, 100_000, 300), Some(at(15_250)), "it is out");
        assert_eq!(ask(&circuit, 900, 300), Some(at(500)));
        assert_eq!(
            ask(&circuit, 900, 500),
            None,
            "it hangs, and this cannot wait"
        );
    }

    #[test]
    fn a_wish_for_a_pause_is_obeyed_within_a_minute() {
        let mut circuit = Circuit::default();
        let asks = |seconds| Some(Duration::from_secs(seconds));
        circuit.fails(1, asks(7), at(0), 0.0);
        assert_eq!(until(&circuit, None, 0), Some(at(7000)));
        assert_eq!(until(&circuit, Some(at(8000)), 0), Some(at(7000)));
        circuit.probe(TIMEOUT, at(7000));
        circuit.fails(1, asks(u64::MAX), at(7000), 0.0);
        assert_eq!(until(&circuit, None, 7000), Some(at(67_000)));
    }
}
