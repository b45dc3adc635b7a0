//! The real binary as a process: started, asked, killed, started again on the same directories.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// The directories of a node, and the flags that point at them.
pub struct Node {
    directory: TempDir,
    pub flags: Vec<String>,
    starts: AtomicU32,
}

impl Node {
    /// A node of its own, with waiting times that suit a test. The last of several equal flags wins.
    pub fn new(vault: &str, more: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("lh")
            .tempdir()
            .expect("a directory");
        fs::create_dir(directory.path().join("pods")).expect("kubelet's directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut flags = vec![
            format!("-endpoint={}", at("vault.sock")),
            format!("-vault-addr={vault}"),
            format!("-kubelet-pods-dir={}", at("pods")),
            format!("-state-dir={}", at("state")),
            "-allow-disk-state-dir".to_owned(),
            "-health-addr=127.0.0.1:0".to_owned(),
            "-log-level=debug".to_owned(),
            "-path-check-interval=200ms".to_owned(),
            "-path-confirm=200ms".to_owned(),
            "-drain-after=300ms".to_owned(),
            "-park=2s".to_owned(),
            "-poll-interval=1s".to_owned(),
            // What fails is told at once; `tests/first_mount.rs` has the retries.
            "-mount-retry-timeout=0s".to_owned(),
        ];
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        Self {
            directory,
            flags,
            starts: AtomicU32::new(0),
        }
    }

    pub fn pods(&self) -> PathBuf {
        self.directory.path().join("pods")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("vault.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// What the daemon has said, at all its starts.
    pub fn logs(&self) -> String {
        let starts = 0..self.starts.load(Ordering::Relaxed);
        let logs = starts.map(|start| self.directory.path().join(format!("log-{start}")));
        logs.filter_map(|log| fs::read_to_string(log).ok())
            .collect()
    }

    /// Leaves the directory behind for a look at it, and says where.
    pub fn keep(mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// How many volumes the journal holds.
    pub fn journalled(&self) -> usize {
        let Ok(entries) = fs::read_dir(self.state()) else {
            return 0;
        };
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
            .count()
    }

    /// Starts the daemon and waits until it is ready.
    pub async fn start(&self) -> Daemon {
        self.until_ready(self.spawn()).await
    }

    /// Waits until a daemon is ready.
    pub async fn until_ready(&self, mut daemon: Daemon) -> Daemon {
        let deadline = Instant::now() + PATIENCE;
        while !daemon.ready().await {
            let ended = daemon.child.try_wait().expect("the daemon can be asked");
            assert!(ended.is_none(), "the daemon ended: {}", daemon.log());
            assert!(Instant::now() < deadline, "not ready: {}", daemon.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        daemon
    }

    /// Starts the daemon.
    pub fn spawn(&self) -> Daemon {
        self.spawn_with(&[])
    }

    /// Starts the daemon with a soft limit of open files.
    pub fn spawn_limited(&self, files: u32) -> Daemon {
        let command = format!("ulimit -Sn {files}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &command, env!("CARGO_BIN_EXE_leasehold")]);
        self.spawn_by(shell, &[])
    }

    /// Starts the daemon such that a file that grows beyond its limit is an error for it, not its end (`SIGXFSZ`).
    pub fn spawn_ignoring_file_sizes(&self) -> Daemon {
        let command = "trap '' XFSZ; exec \"$0\" \"$@\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command, env!("CARGO_BIN_EXE_leasehold")]);
        self.spawn_by(shell, &[])
    }

    /// Starts the daemon with an environment.
    pub fn spawn_with(&self, environment: &[(&str, &str)]) -> Daemon {
        self.spawn_by(Command::new(env!("CARGO_BIN_EXE_leasehold")), environment)
    }

    /// Starts the daemon by a program that becomes it: `before` with its arguments.
    pub fn spawn_under(&self, before: &[&str]) -> Daemon {
        let mut command = Command::new(before[0]);
        command.args(&before[1..]);
        command.arg(env!("CARGO_BIN_EXE_leasehold"));
        let path = std::env::var("PATH").unwrap_or_default();
        self.spawn_by(command, &[("PATH", &path)])
    }

    fn spawn_by(&self, mut command: Command, environment: &[(&str, &str)]) -> Daemon {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("log-{start}"));
        let said = File::create(&log).expect("a log");
        let child = command
            .args(&self.flags)
            .env_clear()
            // As in the manifest.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("the same log"))
            .stderr(said)
            .spawn()
            .expect("the daemon starts");
        Daemon { child, log }
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon can be awaited");
    }

    /// SIGTERM, and its end.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal();
        self.ended().await
    }

    /// SIGTERM.
    pub fn signal(&self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    /// Its end, which it must come to by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the daemon can be asked") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon does not end: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has come to its end.
    pub fn has_ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the daemon can be asked")
            .is_some()
    }

    pub async fn ready(&self) -> bool {
        self.get("/health/ready")
            .await
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// What the health server answers.
    pub async fn get(&self, path: &str) -> io::Result<String> {
        // It says where it listens: a port chosen beforehand could be another's by then.
        let log = self.log();
        let told = log
            .lines()
            .find(|line| line.contains("health and metrics are served"));
        let address =
            told.and_then(|line| line.split('"').find(|part| part.starts_with("127.0.0.1:")));
        let address = address.ok_or(io::ErrorKind::NotConnected)?;
        ask(address, path).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether any file below a directory holds this text.
pub fn holds(directory: &Path, text: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read(entry.path()).is_ok_and(|bytes| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    })
}

/// What a health server answers.
pub async fn ask(address: impl tokio::net::ToSocketAddrs, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
