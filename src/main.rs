//! The daemon: parse, start, run, exit.

use std::process::ExitCode;

use leasehold::app::{self, App};
use leasehold::check;
use leasehold::config::{Command, Config};
use leasehold::provider::socket;
use leasehold::telemetry;
use tracing::{debug, error, info, warn};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("check") => return check::run(std::env::args().skip(1)),
        Some("schema") => {
            println!("{:#}", check::schema::objects());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let config = match Config::from_args(std::env::args()) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(2);
        }
    };
    telemetry::init(&config.telemetry);
    if let Err(fault) = app::harden() {
        error!(%fault, "the process could not be closed against core dumps");
        return ExitCode::FAILURE;
    }
    match app::raise_open_files() {
        Ok(limit) => debug!(?limit, "open files"),
        Err(fault) => warn!(%fault, "the limit of open files could not be raised"),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(fault) => {
            error!(%fault, "the runtime could not be started");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(async {
        let endpoint = config.endpoint.clone();
        let app = match App::build(*config).await {
            Ok(app) => app,
            Err(fault) => {
                socket::remove_stale(&endpoint).await;
                return Err(fault.to_string());
            }
        };
        app.run(app::terminated())
            .await
            .map_err(|fault| fault.to_string())
    });
    match served {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            error!(%fault, "stopped by a fault");
            ExitCode::FAILURE
        }
    }
}
