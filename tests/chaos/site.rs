//! The place where it happens: a server, a node, its daemon, and what is being done to them just now.

use std::sync::Mutex as Locked;
use std::time::{Duration, Instant};

use dev_vault::{Action, ServiceAccounts};
use serde_json::json;
use tokio::sync::Mutex;

use super::plan::Mischief;
use super::report::Report;
use super::server::Server;
use crate::support::daemon::{Daemon, Node};

/// How long after its end a mischief may still explain an error: a breaker's longest pause, a client's
/// last attempt.
const AFTERMATH: Duration = Duration::from_secs(8);

pub struct Site {
    pub server: Server,
    pub accounts: ServiceAccounts,
    pub node: Node,
    pub report: Report,
    daemon: Mutex<Option<Daemon>>,
    /// From when to when there was mischief.
    troubled: Locked<Vec<(Instant, Option<Instant>)>>,
}

impl Site {
    pub async fn new() -> Self {
        let accounts = ServiceAccounts::start().await.expect("an API server");
        let server = Server::start(&accounts.url()).await;
        let node = Node::new(
            &server.url(),
            &["-path-check-interval=100ms", "-state-quota=1073741824"],
        );
        let daemon = Mutex::new(Some(node.start().await));
        Self {
            server,
            accounts,
            node,
            report: Report::default(),
            daemon,
            troubled: Locked::default(),
        }
    }

    /// Does something bad, and undoes it.
    pub async fn suffer(&self, what: Mischief, during: Duration) {
        self.report.mischief(what);
        self.troubled.lock().unwrap().push((Instant::now(), None));
        match what {
            Mischief::Kill => {
                let mut daemon = self.daemon.lock().await;
                daemon.take().expect("a daemon").kill();
                tokio::time::sleep(during).await;
                *daemon = Some(self.node.start().await);
            }
            Mischief::Restart => {
                let mut daemon = self.daemon.lock().await;
                let status = daemon.take().expect("a daemon").terminate().await;
                assert!(status.success(), "a clean end");
                *daemon = Some(self.node.start().await);
            }
            Mischief::Sealed => {
                self.server.seal(during).await;
            }
            Mischief::Gone => {
                self.server.vanish(during).await;
            }
            fault => {
                self.server.inflict(action(fault));
                tokio::time::sleep(during).await;
                self.server.relieve();
            }
        }
        if let Some(last) = self.troubled.lock().unwrap().last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Whether mischief may explain an error of a call that began then.
    pub fn troubled_since(&self, began: Instant) -> bool {
        let troubled = self.troubled.lock().unwrap();
        troubled
            .iter()
            .any(|(_, end)| end.is_none_or(|end| end + AFTERMATH > began))
    }

    /// What the daemon has said; of all its starts, the lines that name something.
    pub fn lines_about(&self, name: &str) -> String {
        let log = self.node.logs();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(name)).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn action(mischief: Mischief) -> Action {
    let status = |code: u16, text: &str| Action::Status {
        code,
        body: json!({ "errors": [text] }).to_string(),
        headers: Vec::new(),
    };
    match mischief {
        Mischief::Throttled => status(429, "rate limit quota exceeded"),
        Mischief::ThrottledWithPause => Action::Status {
            code: 429,
            body: json!({ "errors": ["rate limit quota exceeded"] }).to_string(),
            headers: vec![("Retry-After".to_owned(), "1".to_owned())],
        },
        Mischief::Status500 => status(500, "internal error"),
        Mischief::Status502 => status(502, "bad gateway"),
        Mischief::Status503 => status(503, "Vault is sealed"),
        Mischief::Lost502 => Action::StatusAfterCommit {
            code: 502,
            body: String::new(),
        },
        Mischief::Reset => Action::Reset,
        Mischief::ResetAfterCommit => Action::ResetAfterCommit,
        Mischief::Hang => Action::Hang,
        _ => Action::Delay(Duration::from_millis(300)),
    }
}
