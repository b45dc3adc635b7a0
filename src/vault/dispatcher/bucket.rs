//! How many calls may start: a token bucket, and its slow start after an outage.

use std::time::Duration;

use crate::clock::Moment;

/// As many calls may start at one moment before the rate holds the next ones back.
const BURST: f64 = 10.0;
/// The rate with which a server that was away is met at first.
const SLOWEST: f64 = 5.0;
/// How long it takes to come to the full rate, at least and at most: a fleet's nodes must not keep step.
const SLOW_START: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(40));

/// A token bucket. The server throttles our node as one client: rate limit quotas are keyed by its address.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: f64,
    left: f64,
    counted_at: Moment,
    /// The slow start: since when, and how long it takes.
    slow: Option<(Moment, Duration)>,
}

impl TokenBucket {
    /// So many calls a second.
    pub fn new(per_second: u32, now: Moment) -> Self {
        Self {
            per_second: f64::from(per_second.max(1)),
            left: BURST,
            counted_at: now,
            slow: None,
        }
    }

    /// The server was away, and is back.
    pub fn start_slowly(&mut self, now: Moment, jitter: f64) {
        let (shortest, longest) = SLOW_START;
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.5
        };
        self.slow = Some((now, shortest + (longest - shortest).mul_f64(jitter)));
        self.left = 1.0;
        self.counted_at = now;
    }

    /// Whether the slow start is under way.
    pub fn is_slow(&mut self, now: Moment) -> bool {
        if self
            .slow
            .is_some_and(|(since, over)| now.since(since) >= over)
        {
            self.slow = None;
        }
        self.slow.is_some()
    }

    /// When the next call may start: now, or later.
    pub fn next(&mut self, now: Moment) -> Moment {
        let rate = self.rate(now);
        let earned = now.since(self.counted_at).as_secs_f64() * rate;
        self.left = (self.left + earned).min(BURST);
        self.counted_at = now;
        if self.left >= 1.0 {
            return now;
        }
        // Up to the next nanosecond: one that is a hair too early would turn in a circle.
        let missing = Duration::from_secs_f64((1.0 - self.left) / rate);
        now.plus(missing + Duration::from_nanos(1))
    }

    /// Whether to forget it would give nothing away.
    pub fn is_full(&mut self, now: Moment) -> bool {
        self.next(now) <= now && self.left >= BURST && !self.is_slow(now)
    }

    /// Whether urgent calls have taken more than there was.
    pub const fn is_overdrawn(&self) -> bool {
        self.left < 0.0
    }

    /// A call starts.
    pub const fn take(&mut self) {
        self.left -= 1.0;
    }

    /// An urgent call starts. It is not held back by the slow start, but counts, up to a burst ahead.
    pub const fn take_ahead(&mut self) {
        self.left = (self.left - 1.0).max(-BURST);
    }

    /// Whether an urgent call may start.
    pub fn has_ahead(&mut self, now: Moment) -> Result<(), Moment> {
        let next = self.next(now);
        if self.left > -BURST + 1.0 {
            return Ok(());
        }
        Err(next.max(now.plus(Duration::from_millis(20))))
    }

    fn rate(&mut self, now: Moment) -> f64 {
        if !self.is_slow(now) {
            return self.per_second;
        }
        let Some((since, over)) = self.slow else {
            return self.per_second;
        };
        let grown = now.since(since).as_secs_f64() / over.as_secs_f64();
        (self.per_second * grown).max(SLOWEST).min(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many calls start within a time.
    fn started(bucket: &mut TokenBucket, from: Moment, within: Duration) -> u32 {
        let (mut now, mut started) = (from, 0);
        loop {
            let at = bucket.next(now);
            if at.since(from) >= within {
                return started;
            }
            now = at;
            assert!(bucket.next(now) <= now, "the time it named was enough");
            bucket.take();
            started += 1;
        }
    }

    #[test]
    fn a_burst_and_then_an_even_stream() {
        let from = Moment::from_boot(Duration::from_secs(100));
        let mut bucket = TokenBucket::new(50, from);
        let started = started(&mut bucket, from, Duration::from_secs(10));
        assert!((508..=511).contains(&started), "{started}");
    }

    #[test]
    fn a_server_that_is_back_is_met_slowly() {
        let from = Moment::from_boot(Duration::from_secs(100));
        let mut bucket = TokenBucket::new(50, from);
        bucket.start_slowly(from, 0.5);
        let first = started(&mut bucket, from, Duration::from_secs(1));
        assert!((4..=7).contains(&first), "{first}");
        let then = started(
            &mut bucket,
            from.plus(Duration::from_secs(1)),
            Duration::from_secs(29),
        );
        assert!((650..=850).contains(&then), "{then}: half of the full rate");
        let full = started(
            &mut bucket,
            from.plus(Duration::from_secs(31)),
            Duration::from_secs(10),
        );
        assert!((495..=515).contains(&full), "{full}");
    }
}
