//! Flags and environment to a validated configuration. Seen by the wiring alone.
//!
//! Names and meanings are those of hashicorp/vault-csi-provider 1.7 and openbao/openbao-csi-provider 2.0;
//! what is ours has names of its own. Flags win over the environment, a class over both.

pub mod arguments;
pub mod duration;
mod environment;
mod flags;
#[cfg(test)]
mod tests;
mod version;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};

use self::environment::Environment;
pub use self::flags::TokenRequest;
use self::flags::{Flags, LogFormat, guessed, level};
use crate::params;
use crate::params::{Defaults, Flavour};
use crate::policy::{Own, Policy};
use crate::proxy::Proxies;
use crate::spec::Tls;
use crate::telemetry::Telemetry;

/// What the command line asks for.
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Print this and end.
    Print(String),
}

/// A command line that cannot be served: every fault of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The daemon's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Unix socket.
    pub endpoint: PathBuf,
    /// How we are served: as `vault` or as `openbao`.
    pub flavour: Flavour,
    /// The log.
    pub telemetry: Telemetry,
    /// The health server's address; `None` serves none.
    pub health_addr: Option<String>,
    /// The Secret with the key for object versions.
    pub hmac_secret_name: String,
    /// What holds for a class that says nothing else.
    pub defaults: Defaults,
    /// What a class may choose.
    pub policy: Policy,
    /// The journal's directory.
    pub state_dir: PathBuf,
    /// It was asked for by name: failing to use it is then an error.
    pub state_dir_given: bool,
    /// It may lie on a disk.
    pub allow_disk_state_dir: bool,
    /// The journal's quota, in bytes.
    pub state_quota: usize,
    /// kubelet's directory of pods, as we see it.
    pub kubelet_pods_dir: PathBuf,
    /// The time between two looks at every path.
    pub path_check_interval: Duration,
    /// How long a path must be gone.
    pub path_confirm: Duration,
    /// How long what was replaced lives on.
    pub drain_after: Duration,
    /// How long the result of a first mount that nobody waited for is kept.
    pub park: Duration,
    /// How long a first mount is tried again while its server cannot serve.
    pub mount_retry_timeout: Duration,
    /// How long a Mount may take as a whole.
    pub mount_timeout: Duration,
    /// The rotation poll interval assumed until two polls were seen.
    pub poll_interval: Duration,
    /// The deadline of a shutdown's drain.
    pub shutdown_timeout: Duration,
    /// Renewals and revocations under way at once at each address.
    pub renew_concurrency: usize,
    /// Renewals and revocations started in a second at each address.
    pub renew_rate: u32,
    /// Within what time a lease or token is noticed that somebody else has revoked; zero: when it is renewed.
    pub lookup_interval: Duration,
    /// How long a reply of the server is waited for, where the environment says so.
    pub client_timeout: Option<Duration>,
    /// The proxies of the environment.
    pub proxies: Proxies,
    /// Whether a server's redirect is followed.
    pub follow_redirects: bool,
    /// How old a connection to a server may grow before another takes its place.
    pub max_connection_age: Duration,
    /// Whether pod tokens may be minted.
    pub token_request: TokenRequest,
    /// A kubeconfig in place of the cluster we run in.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name (`NODE_NAME`).
    pub node_name: Option<String>,
    /// Our own pod's name (`POD_NAME`).
    pub pod_name: Option<String>,
    /// Our own pod's UID (`POD_UID`).
    pub pod_uid: Option<String>,
    /// Our own namespace (`POD_NAMESPACE`), else that of our service account.
    pub pod_namespace: Option<String>,
    /// Things accepted that mean nothing any more, to be said once.
    pub notes: Vec<String>,
}

impl Config {
    /// Reads the command line (with the program's name) and this process' environment.
    ///
    /// # Errors
    /// Every fault of them in one.
    pub fn from_args(arguments: impl IntoIterator<Item = String>) -> Result<Command, ConfigError> {
        Self::read(arguments, |name| std::env::var(name).ok())
    }

    /// Reads the command line and the environment given.
    ///
    /// # Errors
    /// Every fault of them in one.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Command, ConfigError> {
        let mut given = arguments.into_iter();
        let program = given.next().unwrap_or_else(|| "leasehold".to_owned());
        let arguments = arguments::as_clap_reads(given);
        let matches = Flags::command()
            .args_override_self(true)
            .try_get_matches_from(std::iter::once(program.clone()).chain(arguments.flags));
        let matches = match matches {
            Ok(matches) => matches,
            Err(fault) if !fault.use_stderr() => return Ok(Command::Print(fault.to_string())),
            Err(fault) => return Err(ConfigError(fault.to_string())),
        };
        let flags =
            Flags::from_arg_matches(&matches).map_err(|fault| ConfigError(fault.to_string()))?;
        let flavour = flags.provider.unwrap_or_else(|| {
            let socket = flags.endpoint.as_deref().and_then(Path::file_name);
            guessed(&program, socket, arguments.openbaos)
        });
        if flags.version {
            let text = version::text(flavour, &flags.output).map_err(ConfigError)?;
            return Ok(Command::Print(text));
        }
        let environment = Environment::new(flavour, environment);
        let config = Self::validated(flags, flavour, &environment, arguments.left_out)?;
        Ok(Command::Serve(Box::new(config)))
    }

    fn validated(
        flags: Flags,
        flavour: Flavour,
        environment: &Environment<impl Fn(&str) -> Option<String>>,
        left_out: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let mut faults = flags.faults();
        let mut policy = flags.policy();
        let mut notes = environment.idle(&mut faults);
        if let Some(first) = left_out.first() {
            // The others may be anybody's secrets.
            let first = first.split('=').next().unwrap_or_default();
            notes.push(format!(
                "{} arguments from {first:?} on have no effect: it is no flag, and no flag is read after it",
                left_out.len()
            ));
        }
        if flags.cache_size.is_some() {
            notes.push(
                "-cache-size has no effect: the token of every mounted volume is kept, and no other"
                    .to_owned(),
            );
        }
        let level = level(flags.log_level.as_deref(), flags.debug, &mut notes);
        let tls = flags.tls();
        let tls = environment::over(tls, environment.tls(&mut faults));
        let client_timeout = environment.client_timeout(&mut faults, &mut notes);
        let follow_redirects = environment.follows_redirects(&mut faults);
        let proxies = environment.proxies(&mut faults);
        let tls = tls.unwrap_or_else(|fault| {
            faults.push(fault);
            Tls::default()
        });
        if !faults.is_empty() {
            return Err(ConfigError(faults.join("\n")));
        }
        let flag = flags.vault_addr.clone();
        let flag = flag.map(|address| ("-vault-addr".to_owned(), address));
        let address = flag.or_else(|| environment.named("ADDR"));
        let agent = environment.named("AGENT_ADDR");
        notes.extend(unusable(agent.as_ref(), "every mount fails"));
        let fails = "every mount fails whose class names no vaultAddress of its own";
        notes.extend(unusable(
            address.as_ref().filter(|_| agent.is_none()),
            fails,
        ));
        let name = flavour.name();
        let health_addr = Some(flags.health_addr).filter(|address| !address.is_empty());
        let defaults = Defaults {
            flavour,
            address: address.map(|(_, address)| address),
            agent_address: agent.map(|(_, address)| address),
            namespace: flags
                .vault_namespace
                .or_else(|| environment.variable("NAMESPACE")),
            auth_mount: flags.vault_mount,
            tls,
        };
        policy.addresses.own = defaults.agent_address.clone().or(defaults.address.clone());
        policy.own = Own {
            namespace: defaults.namespace.clone(),
            auth_mount: defaults.auth_mount.clone(),
            tls: defaults.tls.clone(),
        };
        Ok(Self {
            endpoint: flags
                .endpoint
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/{name}.sock"))),
            flavour,
            telemetry: Telemetry {
                level,
                json: flags.log_format == LogFormat::Json,
            },
            // Go's `:8080` means every address, of both families.
            health_addr: health_addr.map(|address| match address.strip_prefix(':') {
                Some(port) => format!("[::]:{port}"),
                None => address,
            }),
            hmac_secret_name: flags
                .hmac_secret_name
                .unwrap_or_else(|| format!("{name}-csi-provider-hmac-key")),
            defaults,
            policy,
            state_dir_given: flags.state_dir.is_some(),
            state_dir: flags
                .state_dir
                .unwrap_or_else(|| PathBuf::from(format!("/run/leasehold/{name}"))),
            allow_disk_state_dir: flags.allow_disk_state_dir,
            state_quota: flags.state_quota.saturating_mul(1024 * 1024),
            kubelet_pods_dir: flags.kubelet_pods_dir,
            path_check_interval: flags.path_check_interval,
            path_confirm: flags.path_confirm,
            drain_after: flags.drain_after,
            park: flags.park,
            mount_retry_timeout: flags.mount_retry_timeout,
            mount_timeout: flags.mount_timeout,
            poll_interval: flags.poll_interval,
            shutdown_timeout: flags.shutdown_timeout,
            renew_concurrency: flags.renew_concurrency,
            renew_rate: flags.renew_rate,
            lookup_interval: flags.lookup_interval,
            client_timeout,
            proxies,
            follow_redirects,
            max_connection_age: flags.max_connection_age,
            token_request: flags.token_request,
            kubeconfig: flags.kubeconfig,
            node_name: environment.own("NODE_NAME"),
            pod_name: environment.own("POD_NAME"),
            pod_uid: environment.own("POD_UID"),
            pod_namespace: environment.own("POD_NAMESPACE"),
            notes,
        })
    }
}

/// What follows where a server's address cannot be used. As for the incumbents it is no reason not to start: classes
/// may name others.
fn unusable(given: Option<&(String, String)>, follows: &str) -> Option<String> {
    let (name, address) = given?;
    let problem = params::address_problem(address)?;
    Some(format!(
        "{name}: {problem}: {follows}; write it as https://vault.example:8200"
    ))
}
