//! When each volume is settled next: one moment for each.

use std::collections::{BTreeSet, HashMap};

use super::task::VolumeKey;
use crate::clock::Moment;

/// Volumes in the order of their moments.
#[derive(Default)]
pub struct DeadlineQueue {
    by_time: BTreeSet<(Moment, VolumeKey)>,
    by_volume: HashMap<VolumeKey, Moment>,
}

impl DeadlineQueue {
    /// Wakes a volume at this moment, in place of the one it had; `None`: not any more.
    pub fn set(&mut self, volume: VolumeKey, at: Option<Moment>) {
        if let Some(before) = self.by_volume.remove(&volume) {
            self.by_time.remove(&(before, volume));
        }
        if let Some(at) = at {
            self.by_time.insert((at, volume));
            self.by_volume.insert(volume, at);
        }
    }

    /// Wakes a volume at this moment at the latest.
    pub fn advance(&mut self, volume: VolumeKey, at: Moment) {
        let earlier = self.by_volume.get(&volume).filter(|before| **before <= at);
        if earlier.is_none() {
            self.set(volume, Some(at));
        }
    }

    /// The earliest moment.
    pub fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the first volume whose moment has come.
    pub fn pop(&mut self, now: Moment) -> Option<VolumeKey> {
        let (_, volume) = self.by_time.first().filter(|(at, _)| *at <= now).copied()?;
        self.set(volume, None);
        Some(volume)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn volumes_come_in_the_order_of_their_moments_and_once() {
        let mut queue = DeadlineQueue::default();
        queue.set(1, Some(at(20)));
        queue.set(2, Some(at(10)));
        queue.set(1, Some(at(5)));
        queue.set(9, Some(at(1)));
        queue.set(9, None);
        queue.advance(2, at(30));
        assert_eq!(queue.next(), Some(at(5)));
        assert_eq!(queue.pop(at(4)), None);
        assert_eq!(queue.pop(at(30)), Some(1));
        assert_eq!(queue.pop(at(30)), Some(2));
        assert_eq!(queue.pop(at(30)), None);
        queue.advance(3, at(7));
        queue.advance(3, at(6));
        assert_eq!(queue.next(), Some(at(6)));
    }
}
