//! A real server as a child process: started in dev mode on a loopback port, ended with the test run.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::client::{Call, Client};

/// Names the program: an OpenBao `bao` or a `vault`.
pub const VARIABLE: &str = "LEASEHOLD_TEST_VAULT";

/// Runs the program of its arguments, and when the pipe on its own input closes, kills it by its pid
/// and removes its directory (`$0`). The pipe closes however the test run ends, so no server outlives
/// it: a static in a test binary is never dropped, and an aborted run drops nothing at all. A server
/// that ends unasked has its output shown.
const GUARD: &str = r#"exec 3<&0
"$@" >"$0/log" 2>&1 3<&- & server=$!
{ cat <&3 >/dev/null; : >"$0/asked"; kill "$server"; } & watcher=$!
wait "$server"
[ -e "$0/asked" ] || { cat "$0/log" >&2; kill "$watcher"; }
rm -rf "$0""#;

/// The wanted program, when the environment names one.
pub fn program() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Says once for the whole run, past the capture of test output, that the real half was skipped.
pub fn say_skipped(case: &str, cases: usize) {
    static ONCE: Once = Once::new();
    println!("SKIPPED {case}: {VARIABLE} is not set");
    ONCE.call_once(|| {
        let line = format!(
            "\n*** SKIPPED: the {cases} `real::` cases of the contract did not run, only dev-vault was asked.\n\
             *** Set {VARIABLE} to a `bao` (OpenBao 2.6) or `vault` program to run them.\n\n"
        );
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("standard error takes a line");
    });
}

/// A running server.
pub struct Process {
    pub base: String,
    pub root_token: String,
    directory: PathBuf,
    guard: Child,
}

impl Process {
    /// Starts it and waits until it answers. `leased_kv` replaces its KV engine by one that gives
    /// renewable leases, which is the only way to one without a database.
    pub async fn start(program: PathBuf, leased_kv: bool) -> Process {
        let directory = tempfile::tempdir().expect("a temporary directory").keep();
        // Another process could take the port before the server does; the token of this very server,
        // asked for below, shows that we are not talking to that one.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free loopback port")
            .port();
        let root_token = format!("root-{}-{port}", std::process::id());
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARD])
            .arg(&directory)
            .arg(&program)
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={root_token}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .args(leased_kv.then_some("-dev-leased-kv"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &directory)
            .stdin(Stdio::piped());
        let guard = command.spawn().expect("a shell to guard the server");
        let mut process = Process {
            base: format!("http://127.0.0.1:{port}"),
            root_token,
            directory,
            guard,
        };
        process.wait_until_it_answers().await;
        process
    }

    async fn wait_until_it_answers(&mut self) {
        let client = Client::new(self.base.clone());
        let start = Instant::now();
        loop {
            let call = Call::get("auth/token/lookup-self").token(&self.root_token);
            let answer = client.send(call).await;
            if answer.as_ref().is_ok_and(|reply| reply.status == 200) {
                return;
            }
            let ended = self.guard.try_wait().expect("the guard is our child");
            assert!(
                ended.is_none(),
                "the server of {VARIABLE} ended before it answered; its output is on standard error"
            );
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the server of {VARIABLE} did not come up: {}\n{}",
                answer.map_or_else(|error| error, |reply| reply.to_string()),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The key of a dev server, which it tells only in its output.
    pub fn unseal_key(&self) -> String {
        let log = self.log();
        log.lines()
            .find_map(|line| line.strip_prefix("Unseal Key: "))
            .unwrap_or_else(|| panic!("no unseal key in the server's output:\n{log}"))
            .to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log"))
            .unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            println!("the guard of the server under test: {error}");
        }
    }
}
