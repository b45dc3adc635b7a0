//! How one living thing is looked after, and how often polls come.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::grant::timing::{Life, Nature};

/// A time that has come in any case.
pub const AT_ONCE: Moment = Moment::from_boot(Duration::ZERO);

/// How a living thing is looked after.
pub struct Care {
    /// Its life.
    pub life: Life,
    /// Where in the allowed span its times lie; drawn once, so that recomputing moves nothing.
    pub jitter: f64,
    /// Failed attempts since the last good one.
    pub failures: u32,
    /// The time of the next attempt where that is not the planned one: a retry, a resumption.
    pub attempt_at: Option<Moment>,
    /// An attempt is under way.
    pub busy: bool,
}

impl Care {
    pub fn new(life: Life) -> Self {
        Self {
            life,
            jitter: rand::random(),
            failures: 0,
            attempt_at: None,
            busy: false,
        }
    }

    pub fn renew_at(&self, poll: Duration) -> Option<Moment> {
        let planned = self.life.renew_at(poll, self.jitter)?;
        Some(self.attempt_at.unwrap_or(planned))
    }

    pub fn ended(&self, now: Moment) -> bool {
        self.life.term.end().is_some_and(|end| end <= now)
    }

    /// Its renewals are over: the next attempt is its revocation, now.
    pub const fn at_once(&mut self) {
        self.attempt_at = Some(AT_ONCE);
        self.failures = 0;
    }

    /// Whether its end is one: the others are only read again after their term.
    pub fn ends(&self) -> bool {
        matches!(
            self.life.nature,
            Nature::Token | Nature::Lease | Nature::Certificate
        )
    }

    /// Whether a poll at `now` replaces it.
    pub fn due(&self, poll: Duration, now: Moment) -> bool {
        self.life
            .replace_from(poll, self.jitter)
            .is_some_and(|from| from <= now)
            || (self.ends() && self.ended(now))
    }
}

/// The rotation polls seen so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Polls {
    pub last: Option<Moment>,
    gaps: VecDeque<Duration>,
}

impl Polls {
    const KEPT: usize = 5;
    const NEEDED: usize = 2;

    pub fn note(&mut self, now: Moment) {
        if let Some(last) = self.last.replace(now) {
            self.gaps.push_back(now.since(last));
            if self.gaps.len() > Self::KEPT {
                self.gaps.pop_front();
            }
        }
    }

    /// The largest of the last gaps, or `assumed` until two polls were seen.
    pub fn interval(&self, assumed: Duration) -> Duration {
        if self.gaps.len() < Self::NEEDED {
            return assumed;
        }
        self.gaps.iter().max().copied().unwrap_or(assumed)
    }
}
