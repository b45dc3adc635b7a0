//! The one deadline queue: what is to be done, and when.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Moment;

/// Names a volume within the worker.
pub type VolumeKey = u64;
/// Names a session or a grant within the worker.
pub type ItemKey = u64;

/// Something to be done at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Revoke a session's token.
    RevokeSession(VolumeKey, ItemKey),
    /// Revoke one lease.
    RevokeLease(VolumeKey, ItemKey),
    /// Renew a session's token.
    RenewSession(VolumeKey, ItemKey),
    /// Renew a lease.
    RenewLease(VolumeKey, ItemKey),
    /// Ask whether the server still knows a session's token.
    LookUpSession(VolumeKey, ItemKey),
    /// Ask whether the server still knows a lease.
    LookUpLease(VolumeKey, ItemKey),
    /// Retire what a later Mount has replaced.
    Retire(VolumeKey),
    /// Take note of what has reached its end.
    Expire(VolumeKey),
    /// Say that no poll comes to replace what nears its end.
    Warn(VolumeKey),
    /// Give up a volume that waits for the driver's retry, or whose pod is gone and path unseen.
    GiveUp(VolumeKey),
}

impl Task {
    /// The volume it is about.
    pub const fn volume(self) -> VolumeKey {
        match self {
            Self::RevokeSession(volume, _)
            | Self::RevokeLease(volume, _)
            | Self::RenewSession(volume, _)
            | Self::RenewLease(volume, _)
            | Self::LookUpSession(volume, _)
            | Self::LookUpLease(volume, _)
            | Self::Retire(volume)
            | Self::Expire(volume)
            | Self::Warn(volume)
            | Self::GiveUp(volume) => volume,
        }
    }
}

/// Tasks in the order of their times; each is in it at most once.
#[derive(Default)]
pub struct Agenda {
    by_time: BTreeSet<(Moment, Task)>,
    by_task: HashMap<Task, Moment>,
}

impl Agenda {
    /// Puts a task down for `at`, in place of the time it had.
    pub fn set(&mut self, task: Task, at: Moment) {
        self.cancel(task);
        self.by_time.insert((at, task));
        self.by_task.insert(task, at);
    }

    /// Strikes a task out.
    pub fn cancel(&mut self, task: Task) {
        if let Some(at) = self.by_task.remove(&task) {
            self.by_time.remove(&(at, task));
        }
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest task whose time has come.
    pub fn pop(&mut self, now: Moment) -> Option<Task> {
        let (at, task) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_task.remove(&task);
        Some(task)
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
    fn tasks_come_in_the_order_of_their_times_and_once() {
        let mut agenda = Agenda::default();
        agenda.set(Task::RenewLease(1, 1), at(20));
        agenda.set(Task::RenewSession(1, 2), at(10));
        agenda.set(Task::RenewLease(1, 1), at(5));
        agenda.set(Task::GiveUp(9), at(1));
        agenda.cancel(Task::GiveUp(9));
        assert_eq!(agenda.next(), Some(at(5)));
        assert_eq!(agenda.pop(at(4)), None);
        assert_eq!(agenda.pop(at(30)), Some(Task::RenewLease(1, 1)));
        assert_eq!(agenda.pop(at(30)), Some(Task::RenewSession(1, 2)));
        assert_eq!(agenda.pop(at(30)), None);
    }
}
