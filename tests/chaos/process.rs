//! The daemon as a process: run, stopped and continued, started after the node has slept, and measured.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::daemon::{Daemon, Node};

/// The kernel's clock ticks in a second, as it tells them to programs on every architecture.
const TICKS: u64 = 100;

/// What starts a program at another boot-time clock, without root.
const UNSHARE: [&str; 6] = ["unshare", "-U", "-r", "-T", "--boottime", "0"];

/// Starts daemons on one node; they find the boot-time clock ahead by what the node has slept.
pub struct Starter {
    slept: Mutex<Duration>,
    /// What of it has not passed at the server yet.
    unpassed: Mutex<Duration>,
    can_sleep: bool,
}

impl Starter {
    pub fn new() -> Self {
        let asked = Command::new(UNSHARE[0])
            .args(&UNSHARE[1..])
            .args(["cat", "/proc/self/timens_offsets"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let can_sleep = asked.is_ok_and(|asked| asked.status.success());
        if !can_sleep {
            eprintln!(
                "*** SKIPPED: no clock jumps, for this machine gives no time namespace without root."
            );
        }
        Self {
            slept: Mutex::default(),
            unpassed: Mutex::default(),
            can_sleep,
        }
    }

    /// The node sleeps: whether that can be played.
    pub fn sleep(&self, during: Duration) -> bool {
        if self.can_sleep {
            *self.slept.lock().unwrap() += during;
            *self.unpassed.lock().unwrap() += during;
        }
        self.can_sleep
    }

    /// The sleep that has not passed at the server yet.
    pub fn take_unpassed(&self) -> Duration {
        std::mem::take(&mut *self.unpassed.lock().unwrap())
    }

    pub async fn start(&self, node: &Node) -> Daemon {
        let slept = self.slept.lock().unwrap().as_secs().to_string();
        let daemon = if slept == "0" {
            node.spawn()
        } else {
            let mut before = UNSHARE;
            before[5] = &slept;
            node.spawn_under(&before)
        };
        node.until_ready(daemon).await
    }
}

pub fn signal(daemon: &Daemon, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    // It may have ended by itself, which is found elsewhere.
    let _ = kill_process(pid, signal);
}

/// The most memory that a process has ever used, in KiB.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The CPU time that a process has used.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Duration::from_millis(
        (ticks(11)? + ticks(12)?) * 1000 / TICKS,
    ))
}
