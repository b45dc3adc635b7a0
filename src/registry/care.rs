//! How one living thing is looked after, and how often polls come.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::task::HandedOver;
use crate::clock::Moment;
use crate::grant::Renewal;
use crate::grant::timing::{Life, Nature};

/// So many renewals in a row must fail before a poll replaces a thing for it: one lost answer is no reason.
const FAILING: u32 = 2;
/// The longest pause after a renewal that no policy allows.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);
/// What of the interval passes before the server is asked whether it still knows a thing, at least and at most.
const LOOK_UP_FROM: f64 = 0.4;
const LOOK_UP_TO: f64 = 0.9;
/// How soon a token's first denial is checked once more.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);

/// A time that has come in any case.
pub const AT_ONCE: Moment = Moment::from_boot(Duration::ZERO);

/// How a living thing is looked after.
#[derive(Clone)]
pub struct Care {
    /// Its life.
    pub life: Life,
    /// Where in the allowed span its times lie; drawn once, so that recomputing moves nothing.
    pub jitter: f64,
    /// Failed attempts since the last good one.
    pub failures: u32,
    /// The time of the next attempt where that is not the planned one: a retry, a resumption.
    pub attempt_at: Option<Moment>,
    /// The calls that are queued or under way.
    pub calls: HandedOver,
    /// The server has denied the token at the last renewal. It may be a standby that lags, or a firewall: asked again
    /// before it counts.
    pub denied: bool,
    /// That no poll comes to replace it has been said.
    pub warned: bool,
    /// When the server was last seen to know it.
    pub seen_alive_at: Moment,
    /// How it is looked up between renewals.
    pub look_ups: LookUps,
}

/// Whether, and when, the server is asked whether it still knows a thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookUps {
    /// When it was not seen for most of the interval.
    #[default]
    Paced,
    /// The last one failed: not before this moment.
    From(Moment),
    /// The server has denied this token once, then. It may be a standby that lags: asked again before it counts.
    Suspected(Moment),
    /// No policy allows the question.
    Refused,
}

impl Care {
    pub fn new(life: Life) -> Self {
        Self {
            life,
            jitter: rand::random(),
            failures: 0,
            attempt_at: None,
            calls: HandedOver::default(),
            denied: false,
            warned: false,
            seen_alive_at: life.term.sent(),
            look_ups: LookUps::default(),
        }
    }

    /// The server has shown that it knows it.
    pub const fn seen_alive(&mut self, now: Moment) {
        self.seen_alive_at = now;
        if !matches!(self.look_ups, LookUps::Refused) {
            self.look_ups = LookUps::Paced;
        }
    }

    /// When the server is asked whether it still knows it; `None` where it need not be, because the next
    /// renewal or its end comes within the interval, and where it may not be.
    pub fn look_up_at(&self, poll: Duration, every: Duration) -> Option<Moment> {
        let paced = LOOK_UP_FROM + (LOOK_UP_TO - LOOK_UP_FROM) * self.jitter.clamp(0.0, 1.0);
        let planned = self.seen_alive_at.plus(every.mul_f64(paced));
        let limit = self.seen_alive_at.plus(every);
        let renewal = self.renew_at(poll).filter(|at| *at <= limit);
        let end = self.life.term.end().filter(|end| *end <= limit);
        match self.look_ups {
            _ if every.is_zero() => None,
            LookUps::Refused => None,
            LookUps::Suspected(since) => Some(since.plus(CONFIRM_AFTER)),
            _ if renewal.or(end).is_some() => None,
            LookUps::Paced => Some(planned),
            LookUps::From(earliest) => Some(planned.max(earliest)),
        }
    }

    /// No policy allows its renewal. It is asked again, for somebody may add one; until then its renewals fail.
    pub fn forbidden(&mut self, now: Moment) {
        let left = self
            .life
            .term
            .end()
            .map_or(Duration::MAX, |end| end.since(now));
        let pause = (left / 4).clamp(Duration::from_secs(1), FORBIDDEN_PAUSE);
        self.failures = self.failures.saturating_add(1).max(FAILING);
        self.attempt_at = Some(now.plus(pause));
    }

    /// The server has denied the token; true: not for the first time.
    pub fn denied_again(&mut self, now: Moment) -> bool {
        self.attempt_at = Some(now.plus(CONFIRM_AFTER));
        std::mem::replace(&mut self.denied, true)
    }

    /// Whether its renewals fail, and not just once.
    const fn failing(&self) -> bool {
        self.failures >= FAILING
    }

    /// From when on a poll replaces it.
    fn replace_from(&self, poll: Duration) -> Option<Moment> {
        if self.life.renews() {
            let from = self.life.replace_failing_from(poll);
            from.filter(|_| self.failing())
        } else {
            self.life.replace_from(poll, self.jitter)
        }
    }

    /// Takes a good renewal in.
    pub fn renewed(&mut self, renewal: Option<Renewal>) {
        // What was said of its failing renewals is over.
        self.warned &= !self.failing();
        self.failures = 0;
        self.denied = false;
        self.attempt_at = None;
        if let Some(renewal) = renewal {
            self.life.renewed(&renewal);
            self.seen_alive(renewal.term.sent());
            self.jitter = rand::random();
        }
    }

    /// When it is said that no poll comes to replace it: a poll late, or once polls have plainly stopped.
    /// `None` for what renews, was said to be too short for the rotation, or has been told.
    pub fn warn_at(&self, polls: &Polls, assumed: Duration) -> Option<Moment> {
        let poll = polls.interval(assumed);
        let ends = self.ends() && !self.life.too_short_for(poll);
        if self.warned || !ends {
            return None;
        }
        let from = self.replace_from(poll)?;
        let late = from.plus(poll.saturating_add(poll / 4));
        let at = polls.stopped_at(assumed).map_or(late, |at| late.min(at));
        // Renewals that fail may succeed again: an outage is no reason to complain as long as there is time.
        Some(if self.life.renews() { at.max(from) } else { at })
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
            Nature::Token | Nature::Lease | Nature::Certificate | Nature::Expiring
        )
    }

    /// Whether a poll at `now` replaces it.
    pub fn due(&self, poll: Duration, now: Moment) -> bool {
        self.replace_from(poll).is_some_and(|from| from <= now) || (self.ends() && self.ended(now))
    }
}

/// The rotation polls seen so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Polls {
    pub last: Option<Moment>,
    #[serde(deserialize_with = "crate::clock::foreign::spans")]
    gaps: VecDeque<Duration>,
}

impl Polls {
    const KEPT: usize = 5;
    const NEEDED: usize = 2;
    /// So many times the second largest gap is an outage.
    const OUTAGE: u32 = 3;
    /// No poll for so long means that rotation is off.
    const SILENCE: Duration = Duration::from_secs(600);

    pub fn note(&mut self, now: Moment) {
        if let Some(last) = self.last.replace(now) {
            self.gaps.push_back(now.since(last));
            if self.gaps.len() > Self::KEPT {
                self.gaps.pop_front();
            }
        }
    }

    /// The largest of the last gaps, or `assumed` until two polls were seen. One gap that is far larger than all others
    /// is an outage (kubelet or the driver was down), and no interval; when a second one comes, it is.
    pub fn interval(&self, assumed: Duration) -> Duration {
        if self.gaps.len() < Self::NEEDED {
            return assumed;
        }
        let mut gaps: Vec<Duration> = self.gaps.iter().copied().collect();
        gaps.sort_unstable_by(|one, other| other.cmp(one));
        match gaps.as_slice() {
            [outage, usual, _, ..] if *outage > usual.saturating_mul(Self::OUTAGE) => *usual,
            [largest, ..] => *largest,
            [] => assumed,
        }
    }

    /// When it is plain that no further poll comes, unless one does.
    pub fn stopped_at(&self, assumed: Duration) -> Option<Moment> {
        let silence = self.interval(assumed).saturating_mul(2).max(Self::SILENCE);
        Some(self.last?.plus(silence))
    }
}
