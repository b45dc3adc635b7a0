//! Flags and environment to a validated configuration. Seen by the wiring alone.
//!
//! Names and meanings are those of hashicorp/vault-csi-provider 1.7 and openbao/openbao-csi-provider 2.0;
//! what is ours has names of its own. Flags win over the environment, a class over both.

pub mod arguments;
pub mod duration;

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::params::{Defaults, Flavour};
use crate::spec::Tls;
use crate::telemetry::Telemetry;

/// What the command line asks for.
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Print this and end.
    Print(String),
}

/// Whether pod tokens may be minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRequest {
    /// Where the driver sent none and RBAC allows it.
    Auto,
    /// Never.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

/// A command line that cannot be served: every fault of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The daemon's configuration.
#[derive(Debug)]
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
    /// How long a first mount that failed waits for its retry.
    pub park: Duration,
    /// The rotation poll interval assumed until two polls were seen.
    pub poll_interval: Duration,
    /// The deadline of a shutdown's drain.
    pub shutdown_timeout: Duration,
    /// Renewals and revocations under way at once at each address.
    pub renew_concurrency: usize,
    /// Renewals and revocations started in a second at each address.
    pub renew_rate: u32,
    /// Whether pod tokens may be minted.
    pub token_request: TokenRequest,
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

/// A Secrets Store CSI driver provider for HashiCorp Vault and OpenBao that keeps every lease alive while
/// its volume is mounted and revokes it afterwards.
#[derive(Parser)]
#[command(name = "leasehold", disable_version_flag = true)]
struct Flags {
    /// Unix socket on which the driver's calls are served [default: /tmp/vault.sock or /tmp/openbao.sock]
    #[arg(long)]
    endpoint: Option<PathBuf>,
    /// Serve as this provider [default: openbao where the socket's or program's name says so, else vault]
    #[arg(long, value_parser = flavour)]
    provider: Option<Flavour>,
    /// Log at debug level (use -log-level=debug)
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    debug: bool,
    /// Log level: off, error, warn, info, debug, trace
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Log format
    #[arg(long, value_enum, default_value = "json")]
    log_format: LogFormat,
    /// Print the version and end
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    version: bool,
    /// Format of the version: json, json-pretty, yaml
    #[arg(long, default_value = "json")]
    output: String,
    /// Address of the health and metrics server; empty serves none
    #[arg(long, default_value = ":8080")]
    health_addr: String,
    /// Kubernetes Secret with the key for object versions [default: <provider>-csi-provider-hmac-key]
    #[arg(long)]
    hmac_secret_name: Option<String>,
    /// Accepted for the incumbent's sake, without effect: every mounted volume's token is kept
    #[arg(long)]
    cache_size: Option<i64>,
    /// Address of the server
    #[arg(long, alias = "openbao-addr")]
    vault_addr: Option<String>,
    /// Auth mount of the kubernetes or jwt method
    #[arg(long, alias = "openbao-mount", default_value = "kubernetes")]
    vault_mount: String,
    /// Namespace of the server
    #[arg(long, alias = "openbao-namespace")]
    vault_namespace: Option<String>,
    /// File of CA certificates, PEM
    #[arg(long, alias = "openbao-tls-ca-cert")]
    vault_tls_ca_cert: Option<PathBuf>,
    /// Directory of such files
    #[arg(long, alias = "openbao-tls-ca-directory")]
    vault_tls_ca_directory: Option<PathBuf>,
    /// Name that the server's certificate must bear
    #[arg(long, alias = "openbao-tls-server-name")]
    vault_tls_server_name: Option<String>,
    /// Our certificate, PEM
    #[arg(long, alias = "openbao-tls-client-cert")]
    vault_tls_client_cert: Option<PathBuf>,
    /// Our certificate's key, PEM
    #[arg(long, alias = "openbao-tls-client-key")]
    vault_tls_client_key: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, alias = "openbao-tls-skip-verify", action = clap::ArgAction::Set, value_parser = arguments::boolean, hide_possible_values = true)]
    vault_tls_skip_verify: Option<bool>,
    /// Directory of the journal, on tmpfs [default: /run/leasehold/<provider>]
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Let the journal lie on a disk (tokens are then written to it)
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    allow_disk_state_dir: bool,
    /// Largest size of the journal, in MiB
    #[arg(long, default_value_t = 64)]
    state_quota: usize,
    /// kubelet's directory of pods, as this process sees it
    #[arg(long, default_value = "/var/lib/kubelet/pods")]
    kubelet_pods_dir: PathBuf,
    /// Time between two looks at every mounted path
    #[arg(long, value_parser = duration::parse, default_value = "5s")]
    path_check_interval: Duration,
    /// How long a path must be gone before its credentials are revoked
    #[arg(long, value_parser = duration::parse, default_value = "2s")]
    path_confirm: Duration,
    /// How long a replaced credential lives on, at least
    #[arg(long, value_parser = duration::parse, default_value = "60s")]
    drain_after: Duration,
    /// How long the session of a failed first mount waits for the driver's retry
    #[arg(long, value_parser = duration::parse, default_value = "5m")]
    park: Duration,
    /// The driver's rotation poll interval, assumed until two polls were seen
    #[arg(long, value_parser = duration::parse, default_value = "2m")]
    poll_interval: Duration,
    /// Deadline of the drain at shutdown
    #[arg(long, value_parser = duration::parse, default_value = "25s")]
    shutdown_timeout: Duration,
    /// Renewals and revocations under way at once, for each address
    #[arg(long, default_value_t = 16)]
    renew_concurrency: usize,
    /// Renewals and revocations started in a second at each address; 50 carry about 29 leases for each
    /// second of their TTL
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    renew_rate: u32,
    /// Whether a pod's token may be minted where the driver sent none
    #[arg(long, value_enum, default_value = "auto")]
    token_request: TokenRequest,
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
        let rewritten = arguments::as_clap_reads(given);
        let matches = Flags::command()
            .args_override_self(true)
            .try_get_matches_from(std::iter::once(program.clone()).chain(rewritten));
        let matches = match matches {
            Ok(matches) => matches,
            Err(fault) if !fault.use_stderr() => return Ok(Command::Print(fault.to_string())),
            Err(fault) => return Err(ConfigError(fault.to_string())),
        };
        let flags =
            Flags::from_arg_matches(&matches).map_err(|fault| ConfigError(fault.to_string()))?;
        if flags.version {
            return version(&flags.output).map(Command::Print);
        }
        Self::validated(flags, &program, environment).map(|config| Command::Serve(Box::new(config)))
    }

    fn validated(
        flags: Flags,
        program: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let flavour = flags.provider.unwrap_or_else(|| {
            let socket = flags.endpoint.as_ref().and_then(|path| path.file_name());
            let socket = socket.unwrap_or_default().to_string_lossy();
            let program = program.rsplit('/').next().unwrap_or_default();
            if socket.contains("bao") || program.contains("bao") {
                Flavour::OpenBao
            } else {
                Flavour::Vault
            }
        });
        let variable = |name: &str| {
            // OpenBao's client asks for its own name first.
            environment(&format!("BAO_{name}"))
                .or_else(|| environment(&format!("VAULT_{name}")))
                .filter(|value| !value.is_empty())
        };
        let level = if flags.debug && flags.log_level == "info" {
            Ok(LevelFilter::DEBUG)
        } else {
            flags.log_level.to_lowercase().parse()
        };
        let level = level.unwrap_or_else(|_| {
            faults.push(format!(
                "-log-level: {:?} is none of off, error, warn, info, debug, trace",
                flags.log_level
            ));
            LevelFilter::INFO
        });
        let skip_verify = flags.vault_tls_skip_verify.or_else(|| {
            let text = variable("SKIP_VERIFY")?;
            match arguments::boolean(&text) {
                Ok(value) => Some(value),
                Err(fault) => {
                    faults.push(format!("VAULT_SKIP_VERIFY: {fault}"));
                    None
                }
            }
        });
        if flags.renew_concurrency == 0 {
            faults.push("-renew-concurrency: 0 would renew nothing; give at least 1".to_owned());
        }
        if flags.path_check_interval.is_zero() {
            faults.push(
                "-path-check-interval: 0s would look without pause; give at least 100ms".to_owned(),
            );
        }
        if flags.poll_interval.is_zero() {
            faults.push(
                "-poll-interval: 0s is no interval; give the driver's --rotation-poll-interval"
                    .to_owned(),
            );
        }
        if !faults.is_empty() {
            return Err(ConfigError(faults.join("\n")));
        }
        let name = flavour.name();
        let file =
            |flag: Option<PathBuf>, name: &str| flag.or_else(|| variable(name).map(PathBuf::from));
        let tls = Tls {
            ca_pem: None,
            ca_file: file(flags.vault_tls_ca_cert, "CACERT"),
            ca_directory: file(flags.vault_tls_ca_directory, "CAPATH"),
            server_name: flags
                .vault_tls_server_name
                .or_else(|| variable("TLS_SERVER_NAME")),
            client_certificate: file(flags.vault_tls_client_cert, "CLIENT_CERT"),
            client_key: file(flags.vault_tls_client_key, "CLIENT_KEY"),
            skip_verify: skip_verify.unwrap_or_default(),
        };
        let own = |name: &str| environment(name).filter(|value| !value.is_empty());
        let notes = flags.cache_size.map(|_| {
            "-cache-size has no effect: the token of every mounted volume is kept, and no other"
                .to_owned()
        });
        let health_addr = Some(flags.health_addr).filter(|address| !address.is_empty());
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
            defaults: Defaults {
                flavour,
                address: flags.vault_addr.or_else(|| variable("ADDR")),
                namespace: flags.vault_namespace.or_else(|| variable("NAMESPACE")),
                auth_mount: flags.vault_mount,
                tls,
            },
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
            poll_interval: flags.poll_interval,
            shutdown_timeout: flags.shutdown_timeout,
            renew_concurrency: flags.renew_concurrency,
            renew_rate: flags.renew_rate,
            token_request: flags.token_request,
            node_name: own("NODE_NAME"),
            pod_name: own("POD_NAME"),
            pod_uid: own("POD_UID"),
            pod_namespace: own("POD_NAMESPACE"),
            notes: notes.into_iter().collect(),
        })
    }
}

fn flavour(text: &str) -> Result<Flavour, String> {
    match text {
        "vault" => Ok(Flavour::Vault),
        "openbao" | "bao" => Ok(Flavour::OpenBao),
        _ => Err(format!("{text:?} is neither vault nor openbao")),
    }
}

/// The fields that the incumbents print (`internal/version`).
fn version(output: &str) -> Result<String, ConfigError> {
    let fields = [
        ("major", env!("CARGO_PKG_VERSION_MAJOR")),
        ("minor", env!("CARGO_PKG_VERSION_MINOR")),
        ("patch", env!("CARGO_PKG_VERSION_PATCH")),
        ("gitVersion", env!("CARGO_PKG_VERSION")),
        ("platform", env!("LEASEHOLD_TARGET")),
        ("minDriverVersion", "v1.4.0"),
    ];
    let object: serde_json::Map<String, serde_json::Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(*value)))
        .collect();
    match output {
        "" | "json" => Ok(serde_json::Value::from(object).to_string()),
        "json-pretty" => Ok(format!("{:#}", serde_json::Value::from(object))),
        "yaml" => Ok(fields
            .map(|(name, value)| format!("{name}: {value}"))
            .join("\n")),
        _ => Err(ConfigError(format!(
            "-output: {output:?} is none of json, json-pretty, yaml"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, ConfigError> {
        let arguments = std::iter::once("leasehold").chain(arguments.iter().copied());
        Config::read(arguments.map(str::to_owned), |name| {
            let found = environment.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn served(arguments: &[&str], environment: &[(&str, &str)]) -> Config {
        match read(arguments, environment).unwrap() {
            Command::Serve(config) => *config,
            Command::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn the_incumbents_command_line_works_unchanged() {
        let config = served(
            &[
                "-endpoint=/provider/vault.sock",
                "-debug=true",
                "--vault-addr",
                "https://vault:8200",
                "-vault-tls-ca-cert=/mnt/tls/ca.crt",
                "-vault-tls-skip-verify",
                "-cache-size=10",
            ],
            &[("VAULT_ADDR", "http://other"), ("VAULT_NAMESPACE", "team")],
        );
        assert_eq!(config.endpoint, PathBuf::from("/provider/vault.sock"));
        assert_eq!(config.telemetry.level, LevelFilter::DEBUG);
        let defaults = config.defaults;
        assert_eq!(defaults.address.as_deref(), Some("https://vault:8200"));
        assert_eq!(defaults.namespace.as_deref(), Some("team"));
        assert_eq!(defaults.tls.ca_file, Some(PathBuf::from("/mnt/tls/ca.crt")));
        assert!(defaults.tls.skip_verify);
        assert_eq!(config.notes.len(), 1);
        assert_eq!(config.hmac_secret_name, "vault-csi-provider-hmac-key");
        assert_eq!(config.health_addr.as_deref(), Some("[::]:8080"));
    }

    #[test]
    fn served_as_openbao() {
        let config = served(
            &[
                "-endpoint=/provider/openbao.sock",
                "-openbao-addr=http://bao",
            ],
            &[("BAO_NAMESPACE", "a"), ("VAULT_NAMESPACE", "b")],
        );
        assert_eq!(config.flavour, Flavour::OpenBao);
        assert_eq!(config.defaults.address.as_deref(), Some("http://bao"));
        assert_eq!(config.defaults.namespace.as_deref(), Some("a"));
        assert_eq!(config.hmac_secret_name, "openbao-csi-provider-hmac-key");
    }

    #[test]
    fn an_empty_flag_leaves_the_environment_in_force() {
        let given = [
            "-vault-addr=",
            "-vault-namespace",
            "",
            "-log-level=",
            "-vault-mount=",
        ];
        let environment = [("VAULT_ADDR", "http://env"), ("VAULT_NAMESPACE", "team")];
        let config = served(&given, &environment);
        assert_eq!(config.defaults.address.as_deref(), Some("http://env"));
        assert_eq!(config.defaults.namespace.as_deref(), Some("team"));
        assert_eq!(config.defaults.auth_mount, "kubernetes");
        assert_eq!(config.telemetry.level, LevelFilter::INFO);
        assert_eq!(served(&["-health-addr="], &[]).health_addr, None);
    }

    #[test]
    fn faults_are_told_together() {
        let faults = read(
            &["-log-level=loud", "-renew-concurrency=0"],
            &[("VAULT_SKIP_VERIFY", "maybe")],
        );
        let text = faults.err().unwrap().to_string();
        assert!(text.contains("-log-level"), "{text}");
        assert!(text.contains("-renew-concurrency"), "{text}");
        assert!(text.contains("VAULT_SKIP_VERIFY"), "{text}");
    }

    #[test]
    fn the_version_is_printed() {
        for (output, part) in [("json", "\"gitVersion\":\""), ("yaml", "gitVersion: ")] {
            match read(&["-version", "-output", output], &[]).unwrap() {
                Command::Print(text) => assert!(text.contains(part), "{text}"),
                Command::Serve(_) => panic!("serves"),
            }
        }
        assert!(read(&["-version", "-output=xml"], &[]).is_err());
    }
}
