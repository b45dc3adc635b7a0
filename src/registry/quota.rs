//! How much of the replies that are kept for the next poll a node has room for, and whose goes first. Pure.
//!
//! One quota covers memory and journal alike, because a kept reply is in both: replies take half of it at the most,
//! and what the records leave. It is shared max-min fairly between namespaces: past it, the namespace that uses most
//! loses its largest reply, so that one tenant's replies never push out those of another who uses less.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::task::{ItemKey, VolumeKey};

/// What is kept, by namespace and volume.
pub struct Quota {
    /// For replies and records together, in bytes.
    limit: usize,
    volumes: HashMap<VolumeKey, Kept>,
    /// Every reply: the largest of a namespace is its last one.
    by_namespace: BTreeMap<String, Namespace>,
    bodies: usize,
    records: usize,
}

/// What is kept of one volume.
#[derive(Default)]
struct Kept {
    namespace: String,
    bodies: BTreeMap<ItemKey, usize>,
    record: usize,
}

#[derive(Default)]
struct Namespace {
    used: usize,
    /// Of several of one size the newest goes first: those that were there stay.
    by_size: BTreeSet<(usize, ItemKey, VolumeKey)>,
}

impl Quota {
    /// Nothing is kept yet.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            volumes: HashMap::new(),
            by_namespace: BTreeMap::new(),
            bodies: 0,
            records: 0,
        }
    }

    /// The bytes of all replies.
    pub const fn bodies(&self) -> usize {
        self.bodies
    }

    /// The bytes of all records.
    pub const fn records(&self) -> usize {
        self.records
    }

    /// The records alone take more than there is. They are written in any case: they say what is alive.
    pub const fn is_exceeded(&self) -> bool {
        self.records > self.limit
    }

    /// Takes in the replies that a volume has now, and their sizes in bytes.
    pub fn set_bodies(
        &mut self,
        volume: VolumeKey,
        namespace: &str,
        bodies: BTreeMap<ItemKey, usize>,
    ) {
        let known = self.volumes.get(&volume);
        let unchanged = known.map_or(bodies.is_empty(), |kept| {
            kept.namespace == namespace && kept.bodies == bodies
        });
        if unchanged {
            return;
        }
        let before = self.volumes.remove(&volume).unwrap_or_default();
        for (item, size) in &before.bodies {
            self.take_out(&before.namespace, volume, *item, *size);
        }
        for (item, size) in &bodies {
            let of = self.by_namespace.entry(namespace.to_owned()).or_default();
            of.used = of.used.saturating_add(*size);
            of.by_size.insert((*size, *item, volume));
            self.bodies = self.bodies.saturating_add(*size);
        }
        let after = Kept {
            namespace: namespace.to_owned(),
            bodies,
            record: before.record,
        };
        self.put_back(volume, after);
    }

    /// Takes in the size of a volume's record, in bytes; zero: it has none.
    pub fn set_record(&mut self, volume: VolumeKey, size: usize) {
        let mut kept = self.volumes.remove(&volume).unwrap_or_default();
        self.records = self
            .records
            .saturating_sub(kept.record)
            .saturating_add(size);
        kept.record = size;
        self.put_back(volume, kept);
    }

    /// The reply that is to go next, taken out; `None`: there is room for all.
    pub fn excess(&mut self) -> Option<(VolumeKey, ItemKey)> {
        let room = (self.limit / 2).min(self.limit.saturating_sub(self.records));
        if self.bodies <= room {
            return None;
        }
        // Of two that use as much the one that is named first stays.
        let most = self.by_namespace.iter().max_by_key(|(_, of)| of.used);
        let (namespace, of) = most?;
        let (size, item, volume) = of.by_size.last().copied()?;
        let namespace = namespace.clone();
        self.take_out(&namespace, volume, item, size);
        let mut kept = self.volumes.remove(&volume).unwrap_or_default();
        kept.bodies.remove(&item);
        self.put_back(volume, kept);
        Some((volume, item))
    }

    fn put_back(&mut self, volume: VolumeKey, kept: Kept) {
        if !kept.bodies.is_empty() || kept.record > 0 {
            self.volumes.insert(volume, kept);
        }
    }

    fn take_out(&mut self, namespace: &str, volume: VolumeKey, item: ItemKey, size: usize) {
        self.bodies = self.bodies.saturating_sub(size);
        let Some(of) = self.by_namespace.get_mut(namespace) else {
            return;
        };
        of.used = of.used.saturating_sub(size);
        of.by_size.remove(&(size, item, volume));
        if of.by_size.is_empty() {
            self.by_namespace.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bodies: &[(ItemKey, usize)]) -> BTreeMap<ItemKey, usize> {
        bodies.iter().copied().collect()
    }

    fn excess(quota: &mut Quota) -> Vec<(VolumeKey, ItemKey)> {
        std::iter::from_fn(|| quota.excess()).collect()
    }

    #[test]
    fn the_namespace_that_uses_most_loses_its_largest() {
        let mut quota = Quota::new(200);
        quota.set_bodies(1, "small", kept(&[(1, 20), (2, 10)]));
        quota.set_bodies(2, "large", kept(&[(3, 30), (4, 40)]));
        assert_eq!(excess(&mut quota), [], "half of it, and no more");
        quota.set_bodies(3, "large", kept(&[(5, 40)]));
        assert_eq!(excess(&mut quota), [(3, 5)], "the newest of the largest");
        quota.set_bodies(4, "small", kept(&[(6, 25)]));
        assert_eq!(excess(&mut quota), [(2, 4)]);
        assert_eq!(quota.bodies(), 85);
        // Whoever uses less than its share loses nothing, whatever the others have.
        quota.set_bodies(5, "huge", kept(&[(7, 5_000), (8, 5_000), (9, 12)]));
        assert_eq!(excess(&mut quota), [(5, 8), (5, 7)]);
        assert_eq!(quota.bodies(), 97);
    }

    #[test]
    fn records_count_and_never_go() {
        let mut quota = Quota::new(200);
        quota.set_bodies(1, "a", kept(&[(1, 50), (2, 40)]));
        quota.set_record(1, 100);
        assert_eq!(excess(&mut quota), []);
        quota.set_record(2, 20);
        assert_eq!(excess(&mut quota), [(1, 1)]);
        assert!(!quota.is_exceeded());
        quota.set_record(3, 100);
        assert!(quota.is_exceeded());
        assert_eq!(excess(&mut quota), [(1, 2)]);
        for volume in 1..=3 {
            quota.set_record(volume, 0);
        }
        assert_eq!((quota.bodies(), quota.records()), (0, 0));
        assert!(quota.volumes.is_empty() && quota.by_namespace.is_empty());
    }

    #[test]
    fn without_a_quota_nothing_is_kept() {
        let mut quota = Quota::new(0);
        quota.set_bodies(1, "a", kept(&[(1, 1)]));
        assert_eq!(excess(&mut quota), [(1, 1)]);
    }

    /// Against a quota that is worked out anew from all there is.
    #[test]
    fn its_sums_are_those_of_what_is_there() {
        for _ in 0..200 {
            let limit = rand::random_range(0..2_000);
            let mut quota = Quota::new(limit);
            let mut all: BTreeMap<VolumeKey, (String, BTreeMap<ItemKey, usize>)> = BTreeMap::new();
            for _ in 0..100 {
                let volume = rand::random_range(0..12);
                let namespace = format!("n{}", rand::random_range(0..4));
                let bodies = (0..rand::random_range(0..4))
                    .map(|_| (rand::random_range(0..1000), rand::random_range(1..400)))
                    .collect::<BTreeMap<_, _>>();
                quota.set_bodies(volume, &namespace, bodies.clone());
                all.insert(volume, (namespace, bodies));
                let used = |all: &BTreeMap<VolumeKey, (String, BTreeMap<ItemKey, usize>)>,
                            of: &str| {
                    let those = all.values().filter(|(namespace, _)| namespace == of);
                    those.flat_map(|(_, bodies)| bodies.values()).sum::<usize>()
                };
                while let Some((volume, item)) = quota.excess() {
                    let (loser, _) = all[&volume].clone();
                    let most = (0..4).map(|n| used(&all, &format!("n{n}"))).max();
                    assert_eq!(Some(used(&all, &loser)), most);
                    assert!(all.get_mut(&volume).unwrap().1.remove(&item).is_some());
                }
                let total: usize = (0..4).map(|n| used(&all, &format!("n{n}"))).sum();
                assert_eq!(quota.bodies(), total);
                assert!(total <= limit / 2);
            }
        }
    }
}
