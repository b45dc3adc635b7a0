//! What shows that a volume is still there: its path, its pod, its polls; and what follows when nothing does.
//!
//! Each of the three grows old. A volume that nothing has shown for several minutes, although a source that could have
//! shown it works for others, is in doubt: it is not renewed any more, which is said aloud, and its credentials run
//! out by themselves. Nothing is revoked for a doubt, and the first sign of life ends it. When every source is silent,
//! that is our trouble, and renewals go on. Why: `docs/adr/0006-evidence-of-life.md`.

use std::time::Duration;

use super::Settings;
use super::volume::{Stage, Volume};
use crate::clock::Moment;

/// A sign of life is fresh for so long: sixty looks at paths, ten rolls of the pod watch, two to three polls.
const FRESH: Duration = Duration::from_secs(300);
/// A pod that is younger may be missing in what the API server has in its cache.
const YOUNG: Duration = Duration::from_secs(120);
/// How long renewals go on when every source that there was is silent.
const ALL_SILENT: Duration = Duration::from_secs(24 * 3600);

/// When each source last worked, for whichever volume.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    started_at: Moment,
    swept_at: Option<Moment>,
    rolled_at: Option<Moment>,
    polled_at: Option<Moment>,
    /// Since when polls come without a longer break.
    polling_since: Option<Moment>,
}

impl Sources {
    /// None has worked yet.
    pub const fn new(now: Moment) -> Self {
        Self {
            started_at: now,
            swept_at: None,
            rolled_at: None,
            polled_at: None,
            polling_since: None,
        }
    }

    /// Paths were looked at, with proven sight.
    pub const fn swept(&mut self, now: Moment) {
        self.swept_at = Some(now);
    }

    /// The pod watch has told who is there.
    pub const fn rolled(&mut self, now: Moment) {
        self.rolled_at = Some(now);
    }

    /// A mounted volume was polled.
    pub fn polled(&mut self, now: Moment) {
        let goes_on = self.polled_at.is_some_and(|at| now.since(at) < FRESH);
        if !goes_on {
            self.polling_since = Some(now);
        }
        self.polled_at = Some(now);
    }

    /// Whether others have been polled for so long that this one would have been.
    fn polls_others(&self, for_so_long: Duration, now: Moment) -> bool {
        self.polled_at.is_some_and(|at| now.since(at) < FRESH)
            && self
                .polling_since
                .is_some_and(|since| now.since(since) >= for_so_long)
    }

    fn worked_at(&self) -> [Option<Moment>; 3] {
        [self.swept_at, self.rolled_at, self.polled_at]
    }
}

/// What was seen of one volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// When it was registered, or taken over from the journal.
    since: Option<Moment>,
    path_seen_at: Option<Moment>,
    pod_seen_at: Option<Moment>,
    pod_missing_since: Option<Moment>,
}

/// What the pod watch's roll has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNews {
    /// Nothing that was not known.
    None,
    /// It is missing, for the first time.
    Missing,
    /// It was missing, and is there.
    Back,
}

impl Evidence {
    /// It is known from now on.
    pub const fn begin(&mut self, now: Moment) {
        self.since = Some(now);
    }

    /// Its path was seen.
    pub const fn path_seen(&mut self, now: Moment) {
        self.path_seen_at = Some(now);
    }

    /// The roll names its pod, or does not.
    pub fn roll(&mut self, named: bool, now: Moment) -> PodNews {
        if named {
            self.pod_seen_at = Some(now);
            return match self.pod_missing_since.take() {
                Some(_) => PodNews::Back,
                None => PodNews::None,
            };
        }
        let is_young = self.since.is_none_or(|since| now.since(since) < YOUNG);
        if is_young || self.pod_missing_since.is_some() {
            return PodNews::None;
        }
        self.pod_missing_since = Some(now);
        PodNews::Missing
    }

    /// Whether its pod is known to be missing.
    pub const fn is_missed(&self) -> bool {
        self.pod_missing_since.is_some()
    }

    /// The watch has told that its pod is gone.
    pub fn pod_gone(&mut self, now: Moment) {
        self.pod_missing_since.get_or_insert(now);
    }
}

/// Whether a volume is believed to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is renewed.
    Alive,
    /// It is not renewed, and why.
    Doubtful(&'static str),
}

impl Volume {
    /// Whether it is believed to be there.
    pub fn verdict(&self, sources: &Sources, settings: &Settings, now: Moment) -> Verdict {
        let evidence = &self.evidence;
        let is_fresh = |at: Option<Moment>| at.is_some_and(|at| now.since(at) < FRESH);
        let begun = evidence
            .since
            .map_or(sources.started_at, |since| since.max(sources.started_at));
        if self.stage != Stage::Mounted || self.mounting || is_fresh(Some(begun)) {
            return Verdict::Alive;
        }
        let polls = self
            .polls
            .interval(settings.poll)
            .saturating_mul(3)
            .max(FRESH);
        let polled = self.polls.last;
        if polled.is_some_and(|at| now.since(at) < polls) || is_fresh(evidence.pod_seen_at) {
            return Verdict::Alive;
        }
        let is_missing = is_fresh(sources.rolled_at)
            && evidence
                .pod_missing_since
                .is_some_and(|since| now.since(since) >= FRESH);
        let silent = polled.map_or(Duration::MAX, |at| now.since(at));
        let knows_pods = is_fresh(sources.rolled_at);
        match (is_fresh(evidence.path_seen_at), is_missing) {
            (true, false)
                if !knows_pods && silent >= ALL_SILENT && sources.polls_others(polls, now) =>
            {
                return Verdict::Doubtful(
                    "its path is there, but nothing has polled it for a day, while others are polled",
                );
            }
            (true, false) => return Verdict::Alive,
            (true, true) => {
                return Verdict::Doubtful(
                    "its path is there, but its pod is gone and nothing polls it",
                );
            }
            (false, true) => {
                return Verdict::Doubtful(
                    "its pod is gone, its path is out of sight, and nothing polls it",
                );
            }
            (false, false) => {}
        }
        if sources.polls_others(polls, now) {
            return Verdict::Doubtful("other volumes are polled, and this one is not");
        }
        if is_fresh(sources.swept_at) && self.seen {
            return Verdict::Doubtful("its path is out of sight, other paths are not");
        }
        let last = [
            Some(begun),
            polled,
            evidence.path_seen_at,
            evidence.pod_seen_at,
        ];
        let silent_for = last
            .into_iter()
            .flatten()
            .max()
            .map_or(Duration::ZERO, |at| now.since(at));
        let had_any = sources.worked_at().iter().any(Option::is_some);
        match had_any {
            true if silent_for >= ALL_SILENT => Verdict::Doubtful(
                "for a day no path was seen, no pod was told of, and nothing was polled",
            ),
            false if silent_for >= settings.unattested => Verdict::Doubtful(
                "there is no view of paths, no watch of pods, and nothing is polled",
            ),
            _ => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::{OnUnmount, Pod, VolumeId};

    const MINUTE: u64 = 60;

    fn at(minutes: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(100_000 + minutes * MINUTE))
    }

    fn volume() -> Volume {
        let mut volume = Volume::of(
            VolumeId {
                pod_uid: "uid".to_owned(),
                target_path: "/pods/uid/mount".into(),
            },
            Pod {
                name: "web".to_owned(),
                namespace: "shop".to_owned(),
                service_account: "web".to_owned(),
            },
            OnUnmount::default(),
        );
        volume.stage = Stage::Mounted;
        volume.evidence.begin(at(0));
        volume.polls.note(at(0));
        volume
    }

    fn is_alive(volume: &Volume, sources: &Sources, minutes: u64) -> bool {
        volume.verdict(sources, &Settings::default(), at(minutes)) == Verdict::Alive
    }

    /// Everything works, for other volumes, up to a minute.
    fn working(minutes: u64) -> Sources {
        let mut sources = Sources::new(at(0));
        (0..minutes).for_each(|minute| sources.polled(at(minute)));
        sources.swept(at(minutes));
        sources.rolled(at(minutes));
        sources.polled(at(minutes));
        sources
    }

    #[test]
    fn any_fresh_sign_is_enough() {
        for sign in ["path", "pod", "poll"] {
            let mut volume = volume();
            match sign {
                "path" => volume.evidence.path_seen(at(60)),
                "pod" => {
                    volume.evidence.roll(true, at(60));
                }
                _ => volume.polls.last = Some(at(60)),
            }
            assert!(is_alive(&volume, &working(64), 64), "{sign}");
            assert!(!is_alive(&volume, &working(70), 70), "{sign}: it is old");
        }
    }

    #[test]
    fn an_orphaned_path_whose_pod_is_gone_is_no_sign_of_life() {
        let mut volume = volume();
        volume.seen = true;
        assert_eq!(volume.evidence.roll(false, at(10)), PodNews::Missing);
        assert_eq!(volume.evidence.roll(false, at(11)), PodNews::None);
        volume.evidence.path_seen(at(60));
        assert!(!is_alive(&volume, &working(60), 60));
        volume.evidence.path_seen(at(12));
        assert!(is_alive(&volume, &working(12), 12), "not at once");
        // A kubelet that has lost its API server polls on.
        volume.polls.last = Some(at(59));
        assert!(is_alive(&volume, &working(60), 60));
        assert_eq!(volume.evidence.roll(true, at(60)), PodNews::Back);
    }

    #[test]
    fn when_every_source_is_silent_renewals_go_on_for_a_day() {
        let mut volume = volume();
        volume.seen = true;
        volume.evidence.path_seen(at(60));
        let sources = working(60);
        assert!(is_alive(&volume, &sources, 60 + 23 * 60));
        assert!(!is_alive(&volume, &sources, 60 + 25 * 60));
    }

    #[test]
    fn where_there_is_no_source_at_all_renewals_end_after_an_hour() {
        let volume = volume();
        let sources = Sources::new(at(0));
        assert!(is_alive(&volume, &sources, 59));
        assert!(!is_alive(&volume, &sources, 61));
    }

    #[test]
    fn a_long_poll_interval_is_no_doubt() {
        let mut volume = volume();
        for hour in 1..=4 {
            volume.polls.note(at(hour * 60));
        }
        let mut sources = Sources::new(at(0));
        (0..=6 * 60).for_each(|minute| sources.polled(at(minute)));
        assert!(is_alive(&volume, &sources, 6 * 60 + 2));
        (6 * 60..=8 * 60).for_each(|minute| sources.polled(at(minute)));
        assert!(!is_alive(&volume, &sources, 8 * 60));
    }

    #[test]
    fn the_first_poll_after_an_outage_puts_nobody_else_in_doubt() {
        let mut volume = volume();
        volume.polls.last = Some(at(60));
        let mut sources = Sources::new(at(0));
        (0..=60).for_each(|minute| sources.polled(at(minute)));
        // kubelet is away for an hour; another one is polled first.
        sources.polled(at(120));
        assert!(is_alive(&volume, &sources, 120));
        (121..=127).for_each(|minute| sources.polled(at(minute)));
        assert!(!is_alive(&volume, &sources, 127));
    }

    #[test]
    fn a_path_without_a_pod_watch_is_enough_for_a_day() {
        let mut volume = volume();
        let mut sources = Sources::new(at(0));
        let day = 24 * 60;
        (0..=2 * day).for_each(|minute| sources.polled(at(minute)));
        volume.evidence.path_seen(at(day - 1));
        assert!(is_alive(&volume, &sources, day - 1));
        volume.evidence.path_seen(at(2 * day));
        assert!(!is_alive(&volume, &sources, 2 * day));
    }

    #[test]
    fn a_young_pod_is_not_missed() {
        let mut evidence = Evidence::default();
        evidence.begin(at(0));
        assert_eq!(evidence.roll(false, at(1)), PodNews::None);
        assert_eq!(evidence.roll(false, at(2)), PodNews::Missing);
    }

    proptest! {
        #[test]
        fn a_verdict_is_total(
            path in proptest::option::of(any::<u64>()),
            pod in proptest::option::of(any::<u64>()),
            poll in proptest::option::of(any::<u64>()),
            swept in any::<u64>(),
            now in any::<u64>(),
            assumed in any::<u64>(),
        ) {
            let moment = |seconds| Moment::from_boot(Duration::from_secs(seconds));
            let mut volume = volume();
            volume.evidence.path_seen_at = path.map(moment);
            volume.evidence.pod_seen_at = pod.map(moment);
            volume.polls.last = poll.map(moment);
            let mut sources = Sources::new(moment(0));
            sources.swept(moment(swept));
            let settings = Settings {
                poll: Duration::from_secs(assumed),
                ..Settings::default()
            };
            let verdict = volume.verdict(&sources, &settings, moment(now));
            let fresh = |at: Option<u64>| at.is_some_and(|at| now.saturating_sub(at) < 300);
            if fresh(path) || fresh(pod) || fresh(poll) {
                prop_assert_eq!(verdict, Verdict::Alive);
            }
        }
    }
}
