//! Whatever has happened to a volume: settled, nothing is left to do at that moment, and the next one is later.

use proptest::prelude::*;

use super::super::schedule::Settled;
use super::super::task::Task;
use super::super::upkeep::{self, Outcome};
use super::super::volume::Volume;
use super::world::ABSURD;
use super::*;

/// What happens, and the numbers that it takes.
type Event = (u8, u64, u64);

struct Played {
    volume: Volume,
    now: Moment,
    next_key: u64,
    /// Calls that were handed over and have not ended.
    calls: Vec<Task>,
    settings: Settings,
    metrics: Metrics,
    notices: Notices,
    _told: mpsc::Receiver<notice::Notice>,
}

impl Played {
    fn new() -> Self {
        let metrics = Metrics::new();
        let (notices, told) = Notices::channel(metrics.clone());
        Self {
            volume: Volume::new(&spec()),
            now: Moment::from_boot(HOUR),
            next_key: 0,
            calls: Vec::new(),
            settings: Settings::default(),
            metrics,
            notices,
            _told: told,
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn hold(&mut self, term: Term, flags: u64) {
        let key = self.key();
        let spec = spec();
        let session = Session {
            id: key.to_string(),
            accessor: (flags % 3).to_string(),
            endpoint: spec.endpoint.clone(),
            login: spec.login.clone(),
            service_account: spec.pod.service_account_id(),
            token: Secret::from("token".to_owned()),
            kind: if flags & 1 == 0 {
                TokenKind::Service
            } else {
                TokenKind::Batch
            },
            policies: Vec::new(),
            renewable: flags & 2 == 0,
            counted: flags & 12 == 12,
            term,
        };
        self.volume.hold(key, Arc::new(session), self.now);
    }

    fn read(&mut self, term: Term, flags: u64) {
        let key = self.key();
        let Some(session) = self.volume.sessions.keys().last().copied() else {
            return;
        };
        let keep = match flags % 8 {
            0 => Keep::Certificate,
            1 => Keep::Expiring,
            2 => Keep::Written,
            _ => Keep::Lease {
                id: (flags % 5).to_string(),
                renewable: flags & 16 == 0,
            },
        };
        let grant = Arc::new(Grant {
            request: request(),
            body: SecretBytes::from(b"{}".to_vec()),
            raw: false,
            keep,
            term,
        });
        self.volume.add_grant(key, session, &grant);
    }

    fn complete(&mut self, flags: u64) {
        let Some(session) = self.volume.sessions.keys().last().copied() else {
            return;
        };
        let grants = self.volume.grants.values().skip((flags % 4) as usize);
        let grants: Vec<Arc<Grant>> = grants.map(|held| Arc::clone(&held.grant)).collect();
        self.volume.mounting = false;
        self.volume.complete(session, &grants, HOUR, self.now);
    }

    fn call_ends(&mut self, term: Term, flags: u64) {
        if self.calls.is_empty() {
            return;
        }
        let task = self
            .calls
            .remove((flags % self.calls.len() as u64) as usize);
        let why = "as the test wants".to_owned();
        let error = match flags % 7 {
            0 => Some(KeepError::TokenDead { why }),
            1 => Some(KeepError::Gone { why }),
            2 => Some(KeepError::NotRenewable { why }),
            3 => Some(KeepError::Forbidden { why }),
            4 => Some(KeepError::Transient {
                why,
                retry_after: Some(term.granted()),
            }),
            _ => None,
        };
        let renewal = Renewal {
            term,
            renewable: flags & 64 == 0,
            capped: flags & 128 == 0,
        };
        use super::super::task::CallKind::{LookUp, Renew, Revoke};
        let outcome = match task.kind() {
            Renew => Outcome::Renewed(error.map_or(Ok(renewal), Err)),
            Revoke => Outcome::Revoked(error.map_or(Ok(Revoked::Accepted), Err)),
            LookUp => Outcome::LookedUp(error.map_or(Ok(()), Err)),
        };
        let (volume, now) = (&mut self.volume, self.now);
        let every = self.settings.look_up;
        upkeep::apply(
            volume,
            task,
            outcome,
            every,
            now,
            &self.metrics,
            &self.notices,
        );
    }

    fn play(&mut self, (what, number, other): Event) {
        let absurd = |number: u64| match number % 4 {
            0 => Duration::from_secs(number),
            1 => Duration::from_secs(number % 7200),
            2 => Duration::from_millis(number % 100_000),
            _ => Duration::from_secs(ABSURD[(number / 4 % ABSURD.len() as u64) as usize]),
        };
        let term = Term::aged(self.now, absurd(other / 3), absurd(number));
        match what {
            0 => self.hold(term, other),
            1 => self.read(term, other),
            2 => self.complete(other),
            3 => drop(self.volume.answered(self.now)),
            4 | 5 => self.call_ends(term, other),
            6 => drop(self.volume.begin(&spec(), number % 2 == 0, self.now)),
            7 => self.volume.forsaken_at = Some(self.now.plus(absurd(number))),
            8 if number % 8 == 0 => self.volume.release(self.now),
            9 if number % 8 == 0 => {
                let poll = self.volume.polls.interval(self.settings.poll);
                self.volume.resume(poll, HOUR, self.now);
            }
            10 => {
                let found = self.volume.sessions.keys().next().copied();
                if let Some(key) = found.filter(|_| number % 8 == 0) {
                    self.volume.token_dead(key, self.now);
                }
            }
            11 => self.volume.doubted = number % 2 == 0,
            _ => self.now = self.now.plus(absurd(number)),
        }
    }

    fn settle(&mut self) -> Settled {
        let (now, settings) = (self.now, self.settings);
        let settled = self.volume.settle(1, now, &settings);
        assert!(settled.wake.is_none_or(|wake| wake > now), "{settled:?}");
        for task in &settled.calls {
            assert!(self.volume.wants(*task, &settings, now), "{task:?}");
            assert!(!self.calls.contains(task), "{task:?} twice");
        }
        let again = self.volume.settle(1, now, &settings);
        let wake = settled.wake;
        assert_eq!(
            again,
            Settled {
                wake,
                ..Settled::default()
            }
        );
        self.calls.extend(&settled.calls);
        settled
    }
}

proptest! {
    #[test]
    fn nothing_is_left_to_do_and_the_next_moment_is_later(
        events in prop::collection::vec((0_u8..16, any::<u64>(), any::<u64>()), 1..120),
    ) {
        let mut played = Played::new();
        for event in events {
            played.play(event);
            played.settle();
        }
    }

    /// Woken when it asks to be, and with answers to its calls, a volume that has left comes to its end.
    #[test]
    fn a_volume_that_has_left_comes_to_its_end(
        events in prop::collection::vec((0_u8..12, any::<u64>(), any::<u64>()), 1..60),
    ) {
        let mut played = Played::new();
        for event in events {
            played.play(event);
            played.settle();
        }
        played.volume.mounting = false;
        played.volume.release(played.now);
        for _ in 0..1000 {
            let settled = played.settle();
            while !played.calls.is_empty() {
                // It is accepted.
                played.call_ends(Term::endless(played.now), 6);
            }
            if played.volume.is_empty() {
                return Ok(());
            }
            let wake = settled.wake.unwrap_or(played.now);
            played.now = wake.max(played.now);
        }
        prop_assert!(false, "something is left for ever");
    }
}
