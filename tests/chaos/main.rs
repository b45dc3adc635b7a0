//! The chaos harness: the real binary through random mounts, polls, unmounts, kills and faults, and in the
//! end three books that must agree: what the files say, what the journal says, what the server says.
//!
//! `cargo test --test chaos -- --cycles 10000 --seed 7 --at-once 96`; without arguments a short run. A
//! seed reproduces lives and mischief; how they meet is up to the machine. Where `LEASEHOLD_TEST_VAULT` names
//! a `bao` or `vault`, it happens to a real server, whose leases are those of its KV engine.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../dev-vault/tests/contract/client.rs"]
mod client;
#[path = "../../dev-vault/tests/contract/real_process.rs"]
mod real_process;
#[path = "../support/mod.rs"]
mod support;

mod books;
mod life;
mod plan;
mod report;
mod server;
mod site;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use life::Pod;
use site::Site;

/// Cycles between two comparisons of the books.
const WAVE: u64 = 200;

struct Arguments {
    cycles: u64,
    seed: u64,
    at_once: u64,
}

impl Arguments {
    fn read() -> Self {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let number = |name: &str, usual: u64| {
            let at = given.iter().position(|argument| argument == name);
            let value = at.and_then(|at| given.get(at + 1));
            value.map_or(usual, |value| value.parse().expect(name))
        };
        Self {
            cycles: number("--cycles", 150),
            seed: number("--seed", 1),
            at_once: number("--at-once", 32),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if runtime.block_on(run(&arguments)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let site = Site::new().await;
    let next = AtomicU64::new(0);
    let mut mischief = plan::mischief(arguments.seed);
    while next.load(Ordering::SeqCst) < arguments.cycles {
        let until = arguments
            .cycles
            .min(next.load(Ordering::SeqCst) + WAVE.max(arguments.at_once));
        let over = AtomicBool::new(false);
        let lives = async {
            let lanes = (0..arguments.at_once).map(|_| async {
                loop {
                    let cycle = next.fetch_add(1, Ordering::SeqCst);
                    if cycle >= until {
                        break;
                    }
                    let life = plan::life(arguments.seed, cycle);
                    Pod::new(&site, cycle, life.asks).live(&life).await;
                    site.report.count("cycles");
                }
            });
            futures::future::join_all(lanes).await;
            over.store(true, Ordering::SeqCst);
        };
        let troubles = async {
            while !over.load(Ordering::SeqCst) {
                let (what, during, calm) = mischief();
                site.suffer(what, during).await;
                tokio::time::sleep(calm).await;
            }
        };
        tokio::join!(lives, troubles);
        next.store(until, Ordering::SeqCst);
        books::compare(&site).await;
    }
    books::close(&site).await;
    site.report.print(
        site.server.name(),
        arguments.seed,
        started.elapsed().as_secs_f64(),
    );
    if site.report.violations() > 0 {
        println!("FAILED; the daemon's logs: {}", site.node.keep().display());
        return false;
    }
    true
}
