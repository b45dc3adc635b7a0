//! The log: one line per outcome, JSON or text, on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The least important level that is written.
    pub level: LevelFilter,
    /// JSON, else text for people.
    pub json: bool,
}

/// Starts the log of this process. A second call changes nothing.
pub fn init(telemetry: &Telemetry) {
    let builder = fmt::Subscriber::builder()
        .with_env_filter(filter(telemetry.level))
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Fails where a log was started already, as by a test before this one.
    let _ = if telemetry.json {
        tracing::subscriber::set_global_default(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .finish(),
        )
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    };
}

/// Our own lines at the asked level. Libraries say little: at debug they would print requests.
fn filter(level: LevelFilter) -> EnvFilter {
    let libraries = level.min(LevelFilter::WARN);
    EnvFilter::new(format!(
        "{libraries},leasehold={level},vaultrs=off,rustify=off,kube_client=off,kube_runtime=off"
    ))
}
