//! The chaos harness: the real binary through random mounts, polls, edits, unmounts, kills, stops and faults, of
//! everybody or of one tenant's or one backend's; and books that must agree: what the files say, what the journal
//! says, what the server says, what went over the wire between.
//!
//! ```sh
//! cargo test --test chaos -- --scoped --cycles 10000 --seed 7 --at-once 160
//! LEASEHOLD_TEST_VAULT=/usr/local/bin/bao cargo test --test chaos -- --scoped --cycles 3000 --seed 7 --at-once 64
//! ```
//!
//! `--scoped` adds mischief of one tenant, or of one engine of one tenant, which must harm nobody else.
//!
//! Without arguments a short run on `dev-vault`. `--log debug` makes the daemon tell more (hundreds of megabytes in a
//! long run). A seed reproduces lives and mischief; how they meet is up to the machine. Where
//! `LEASEHOLD_TEST_VAULT` names a `bao` or `vault`, it happens to a real server, whose leases are those of its KV
//! engine. `tests/sabotage.rs` shows that each figure can fail.
//!
//! Mischief comes in storms. After each, when its stated aftermath is over, everything must be well for some
//! seconds; then the calls pause, and the books are compared. An error is forgiven only where mischief that could
//! cause it for this pod explains it (`troubles.rs`). The closing lines have a verdict for each figure.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "mod.rs"]
mod chaos;
#[path = "../../dev-vault/tests/contract/client.rs"]
mod client;
#[path = "../../dev-vault/tests/contract/real_process.rs"]
mod real_process;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use chaos::Settings;

fn settings() -> Settings {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| {
        let at = given.iter().position(|argument| argument == name)?;
        given.get(at + 1).cloned()
    };
    let number =
        |name: &str, usual: u64| text(name).map_or(usual, |value| value.parse().expect(name));
    let mut settings = Settings::new(
        number("--cycles", 150),
        number("--seed", 1),
        number("--at-once", 32),
    );
    settings.scoped = given.iter().any(|argument| argument == "--scoped");
    if let Some(level) = text("--log") {
        settings.log = level;
    }
    settings
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(chaos::run(settings()));
    println!("{}", outcome.text);
    if let Some(logs) = outcome.logs {
        println!("the daemon's logs: {}", logs.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
