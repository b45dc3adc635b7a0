//! How long a token or a lease gets: pure (OpenBao `sdk/framework/lease.go`, `CalculateTTL`).

use std::time::Duration;

use crate::text;

/// What is asked for, and what stands against it.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The increment, else the role's TTL, else the mount's default.
    pub asked: Duration,
    /// Of a periodic token; beats `asked`, and leaves no maximum but the explicit one.
    pub period: Option<Duration>,
    /// The least of the mount's and the role's maximum, counted from issue.
    pub max: Duration,
    /// The explicit maximum, counted from issue.
    pub explicit_max: Option<Duration>,
    /// Since issue, as [`age`] counts it.
    pub age: Duration,
}

/// What is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub ttl: Duration,
    /// That something was cut, in the server's words.
    pub warning: Option<String>,
}

/// The maximum has come: nothing more can be had.
pub const PAST_MAX: &str = "past the max TTL, cannot renew";

/// The time since `issued`. Both clocks are cut to seconds first, so that it may be off by one either way,
/// as the real server's is.
pub fn age(issued: Duration, now: Duration) -> Duration {
    Duration::from_secs(now.as_secs().saturating_sub(issued.as_secs()))
}

impl Term {
    /// The TTL from now, or nothing where the maximum has come.
    pub fn granted(&self) -> Option<Granted> {
        let max = self
            .explicit_max
            .map_or(self.max, |explicit| explicit.min(self.max));
        let (ttl, end, mut warning) = match self.period {
            Some(period) => {
                let warning = (period > max).then(|| exceeded("period", period, max));
                (period.min(max), self.explicit_max, warning)
            }
            None => (self.asked, Some(max), None),
        };
        let Some(end) = end else {
            return Some(Granted { ttl, warning });
        };
        let left = end.saturating_sub(self.age);
        if left.is_zero() {
            return None;
        }
        if ttl > left {
            warning = Some(exceeded("TTL", ttl, left));
        }
        let ttl = ttl.min(left);
        Some(Granted { ttl, warning })
    }
}

fn exceeded(what: &str, asked: Duration, max: Duration) -> String {
    let (asked, max) = (text::shown(asked), text::shown(max));
    format!(
        "{what} of \"{asked}\" exceeded the effective max_ttl of \"{max}\"; {what} value is capped accordingly"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const TERM: Term = Term {
        asked: secs(60),
        period: None,
        max: secs(100),
        explicit_max: None,
        age: Duration::ZERO,
    };

    fn ttl(term: Term) -> Option<u64> {
        term.granted().map(|granted| granted.ttl.as_secs())
    }

    #[test]
    fn what_is_asked_is_given_until_the_maximum_is_near() {
        assert_eq!(ttl(TERM), Some(60));
        assert_eq!(
            ttl(Term {
                age: secs(40),
                ..TERM
            }),
            Some(60)
        );
        let near = Term {
            age: secs(93),
            ..TERM
        };
        let granted = near.granted().unwrap();
        assert_eq!(granted.ttl, secs(7));
        assert_eq!(
            granted.warning.unwrap(),
            "TTL of \"1m\" exceeded the effective max_ttl of \"7s\"; TTL value is capped accordingly"
        );
        assert_eq!(
            ttl(Term {
                age: secs(100),
                ..TERM
            }),
            None
        );
    }

    #[test]
    fn a_period_has_no_end_but_an_explicit_one() {
        let period = Term {
            period: Some(secs(30)),
            age: secs(1_000_000),
            ..TERM
        };
        assert_eq!(
            ttl(period),
            Some(30),
            "what is asked for counts for nothing"
        );
        let bounded = Term {
            explicit_max: Some(secs(90)),
            age: secs(75),
            ..period
        };
        assert_eq!(ttl(bounded), Some(15));
        assert_eq!(
            ttl(Term {
                age: secs(90),
                ..bounded
            }),
            None
        );
    }

    #[test]
    fn a_period_is_cut_at_the_mounts_maximum() {
        let long = Term {
            period: Some(secs(900)),
            ..TERM
        };
        let granted = long.granted().unwrap();
        assert_eq!(granted.ttl, secs(100));
        assert_eq!(
            granted.warning.unwrap(),
            "period of \"15m\" exceeded the effective max_ttl of \"1m40s\"; period value is capped accordingly"
        );
    }

    #[test]
    fn the_explicit_maximum_counts_where_it_is_less() {
        let explicit = Term {
            explicit_max: Some(secs(20)),
            ..TERM
        };
        assert_eq!(ttl(explicit), Some(20));
        let more = Term {
            explicit_max: Some(secs(500)),
            age: secs(90),
            ..TERM
        };
        assert_eq!(ttl(more), Some(10));
    }

    #[test]
    fn ages_are_counted_in_whole_seconds() {
        let (issued, now) = (Duration::from_millis(1_900), Duration::from_millis(3_100));
        assert_eq!(age(issued, now), secs(2));
        assert_eq!(age(now, issued), Duration::ZERO);
    }
}
