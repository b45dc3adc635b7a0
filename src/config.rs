//! Flags and environment to a validated configuration. Seen by the wiring alone.
//!
//! Names and meanings are those of hashicorp/vault-csi-provider 1.7 and openbao/openbao-csi-provider 2.0;
//! what is ours has names of its own. Flags win over the environment, a class over both.

pub mod arguments;
pub mod duration;
mod flags;

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use tracing::level_filters::LevelFilter;

pub use self::flags::TokenRequest;
use self::flags::{Flags, LogFormat};
use crate::params::{Defaults, Flavour};
use crate::policy::{Own, Policy};
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
        let mut policy = flags.policy();
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
        let defaults = Defaults {
            flavour,
            address: flags.vault_addr.or_else(|| variable("ADDR")),
            namespace: flags.vault_namespace.or_else(|| variable("NAMESPACE")),
            auth_mount: flags.vault_mount,
            tls,
        };
        policy.own = Own {
            address: defaults.address.clone(),
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
