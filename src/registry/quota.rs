//! How much of the replies that are kept for the next poll a node has room for, and whose goes first. Pure.
//!
//! One quota covers memory and journal alike, because a kept reply is in both: replies may take half of it, the other
//! half is for the volumes' records, which are small and never refused. It is shared max-min fairly between
//! namespaces: past it, the namespace that uses most, records included, loses its largest reply, so that one tenant
//! never pushes out the replies of another who uses less.

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
    /// By replies and records.
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

    /// The records take more than their half. They are written in any case: they say what is alive.
    pub const fn is_exceeded(&self) -> bool {
        self.records > self.limit / 2
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
        if !unchanged {
            let record = known.map_or(0, |kept| kept.record);
            self.set(volume, Kept::of(namespace, bodies, record));
        }
    }

    /// Takes in the size of a volume's record, in bytes; zero: it has none.
    pub fn set_record(&mut self, volume: VolumeKey, namespace: &str, size: usize) {
        let known = self.volumes.get(&volume);
        if known.map_or(0, |kept| kept.record) != size {
            let bodies = known.map_or_else(BTreeMap::new, |kept| kept.bodies.clone());
            self.set(volume, Kept::of(namespace, bodies, size));
        }
    }

    /// A volume is gone.
    pub fn forget(&mut self, volume: VolumeKey) {
        self.set(volume, Kept::default());
    }

    /// The reply that is to go next, taken out; `None`: there is room for all.
    pub fn excess(&mut self) -> Option<(VolumeKey, ItemKey)> {
        if self.bodies <= self.limit / 2 {
            return None;
        }
        let with_replies = self.by_namespace.values();
        let with_replies = with_replies.filter(|of| !of.by_size.is_empty());
        let most = with_replies.max_by_key(|of| of.used)?;
        let (_, item, volume) = most.by_size.last().copied()?;
        let kept = self.volumes.get(&volume)?;
        let mut bodies = kept.bodies.clone();
        bodies.remove(&item);
        let kept = Kept::of(&kept.namespace, bodies, kept.record);
        self.set(volume, kept);
        Some((volume, item))
    }

    fn set(&mut self, volume: VolumeKey, after: Kept) {
        let before = self.volumes.remove(&volume).unwrap_or_default();
        let of = self.by_namespace.entry(before.namespace).or_default();
        for (item, size) in before.bodies {
            of.used = of.used.saturating_sub(size);
            of.by_size.remove(&(size, item, volume));
            self.bodies = self.bodies.saturating_sub(size);
        }
        of.used = of.used.saturating_sub(before.record);
        self.records = self.records.saturating_sub(before.record);
        let of = self
            .by_namespace
            .entry(after.namespace.clone())
            .or_default();
        for (item, size) in &after.bodies {
            of.used = of.used.saturating_add(*size);
            of.by_size.insert((*size, *item, volume));
            self.bodies = self.bodies.saturating_add(*size);
        }
        of.used = of.used.saturating_add(after.record);
        self.records = self.records.saturating_add(after.record);
        self.by_namespace.retain(|_, of| of.used > 0);
        if !after.bodies.is_empty() || after.record > 0 {
            self.volumes.insert(volume, after);
        }
    }
}

impl Kept {
    fn of(namespace: &str, bodies: BTreeMap<ItemKey, usize>, record: usize) -> Self {
        Self {
            namespace: namespace.to_owned(),
            bodies,
            record,
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
        quota.set_bodies(1, "a", kept(&[(1, 30), (2, 20)]));
        quota.set_bodies(2, "b", kept(&[(3, 50)]));
        quota.set_record(3, "a", 100);
        assert_eq!(excess(&mut quota), []);
        assert!(!quota.is_exceeded());
        // Whose records are large has less room for replies, and nobody else.
        quota.set_bodies(4, "b", kept(&[(4, 10)]));
        assert_eq!(excess(&mut quota), [(1, 1)]);
        quota.set_record(5, "c", 1);
        assert!(quota.is_exceeded());
        assert_eq!(excess(&mut quota), []);
        for volume in 1..=5 {
            quota.forget(volume);
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

    type All = BTreeMap<VolumeKey, (String, BTreeMap<ItemKey, usize>, usize)>;

    /// What a namespace has of replies, and of replies and records.
    fn used(all: &All, namespace: &str) -> (usize, usize) {
        let those = all.values().filter(|(of, _, _)| of == namespace);
        those.fold((0, 0), |(bodies, sum), (_, more, record)| {
            let more: usize = more.values().sum();
            (bodies + more, sum + more + record)
        })
    }

    /// Against a quota that is worked out anew from all there is.
    #[test]
    fn its_sums_are_those_of_what_is_there() {
        let namespaces = ["a", "b", "c", "d"];
        for _ in 0..200 {
            let limit = rand::random_range(0..2_000);
            let (mut quota, mut all) = (Quota::new(limit), All::new());
            for _ in 0..100 {
                let volume = rand::random_range(0..12);
                let namespace = namespaces[rand::random_range(0..4)];
                let bodies: BTreeMap<_, _> = (0..rand::random_range(0..4))
                    .map(|_| (rand::random_range(0..1000), rand::random_range(1..400)))
                    .collect();
                let record = rand::random_range(0..50);
                if rand::random_ratio(1, 8) {
                    quota.forget(volume);
                    all.remove(&volume);
                } else {
                    quota.set_bodies(volume, namespace, bodies.clone());
                    quota.set_record(volume, namespace, record);
                    all.insert(volume, (namespace.to_owned(), bodies, record));
                }
                while let Some((volume, item)) = quota.excess() {
                    let (loser, bodies, _) = &all[&volume];
                    let most = namespaces.map(|namespace| used(&all, namespace));
                    let most = most.into_iter().filter(|(bodies, _)| *bodies > 0);
                    assert_eq!(Some(used(&all, loser).1), most.map(|(_, sum)| sum).max());
                    let largest = all.values().filter(|(of, _, _)| of == loser);
                    let largest = largest.flat_map(|(_, bodies, _)| bodies.values()).max();
                    assert_eq!(Some(&bodies[&item]), largest);
                    all.get_mut(&volume).unwrap().1.remove(&item);
                }
                let sums = namespaces.map(|namespace| used(&all, namespace));
                let bodies: usize = sums.iter().map(|(bodies, _)| bodies).sum();
                let total: usize = sums.iter().map(|(_, sum)| sum).sum();
                assert_eq!((quota.bodies(), quota.records()), (bodies, total - bodies));
                assert!(bodies <= limit / 2);
            }
        }
    }
}
