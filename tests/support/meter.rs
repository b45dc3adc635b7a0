//! What a process costs, by Linux' own books (`proc_pid_status(5)`, `proc_pid_stat(5)`).

use std::fs;
use std::time::Duration;

/// `USER_HZ`, which is 100 wherever Linux runs us.
const TICKS_PER_SECOND: u64 = 100;

/// A process under measurement.
#[derive(Clone, Copy)]
pub struct Meter {
    pid: u32,
}

impl Meter {
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// The most memory that it has had so far, in MiB; `None` where it runs no more.
    pub fn peak(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024)
    }

    /// The processor time that it has used so far, of user and of system.
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name stands in parentheses and may hold blanks.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        Duration::from_millis(fields.iter().sum::<u64>() * 1000 / TICKS_PER_SECOND)
    }

    /// Its open files and sockets.
    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }
}
