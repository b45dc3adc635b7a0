//! The flags, as they are given: names, defaults and help.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

use super::{arguments, duration};
use crate::addresses::AllowedAddresses;
use crate::params::Flavour;
use crate::pattern::Pattern;
use crate::policy::{Own, Policy};
use crate::spec::{Method, Tls};

/// Whether pod tokens may be minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRequest {
    /// Where the driver sent none and RBAC allows it.
    Auto,
    /// Never.
    Never,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

/// A Secrets Store CSI driver provider for HashiCorp Vault and OpenBao that keeps every lease alive while
/// its volume is mounted and revokes it afterwards.
#[derive(Parser)]
#[command(name = "leasehold", disable_version_flag = true)]
pub struct Flags {
    /// Unix socket on which the driver's calls are served [default: /tmp/vault.sock or /tmp/openbao.sock]
    #[arg(long)]
    pub endpoint: Option<PathBuf>,
    /// Serve as this provider [default: openbao where the socket's or program's name says so, else vault]
    #[arg(long, value_parser = flavour)]
    pub provider: Option<Flavour>,
    /// Log at debug level (use -log-level=debug)
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    pub debug: bool,
    /// Log level: off, error, warn, info, debug, trace [default: info]
    #[arg(long)]
    pub log_level: Option<String>,
    /// Log format
    #[arg(long, value_enum, default_value = "json")]
    pub log_format: LogFormat,
    /// Print the version and end
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    pub version: bool,
    /// Format of the version: json, json-pretty, yaml
    #[arg(long, default_value = "json")]
    pub output: String,
    /// Address of the health and metrics server; empty serves none
    #[arg(long, default_value = ":8080")]
    pub health_addr: String,
    /// Kubernetes Secret with the key for object versions [default: <provider>-csi-provider-hmac-key]
    #[arg(long)]
    pub hmac_secret_name: Option<String>,
    /// Accepted for the incumbent's sake, without effect: every mounted volume's token is kept
    #[arg(long)]
    pub cache_size: Option<String>,
    /// Address of the server
    #[arg(long, alias = "openbao-addr")]
    pub vault_addr: Option<String>,
    /// Auth mount of the kubernetes or jwt method
    #[arg(long, alias = "openbao-mount", default_value = "kubernetes")]
    pub vault_mount: String,
    /// Namespace of the server
    #[arg(long, alias = "openbao-namespace")]
    pub vault_namespace: Option<String>,
    /// File of CA certificates, PEM
    #[arg(long, alias = "openbao-tls-ca-cert")]
    pub vault_tls_ca_cert: Option<PathBuf>,
    /// Directory of such files
    #[arg(long, alias = "openbao-tls-ca-directory")]
    pub vault_tls_ca_directory: Option<PathBuf>,
    /// Name that the server's certificate must bear
    #[arg(long, alias = "openbao-tls-server-name")]
    pub vault_tls_server_name: Option<String>,
    /// Our certificate, PEM
    #[arg(long, alias = "openbao-tls-client-cert")]
    pub vault_tls_client_cert: Option<PathBuf>,
    /// Our certificate's key, PEM
    #[arg(long, alias = "openbao-tls-client-key")]
    pub vault_tls_client_key: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, alias = "openbao-tls-skip-verify", action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    pub vault_tls_skip_verify: bool,
    /// Addresses a class may name, besides -vault-addr; `*` stands for a part of a host. Given several
    /// times or with commas; unset: any
    #[arg(long, value_delimiter = ',', action = clap::ArgAction::Append)]
    pub allow_vault_address: Option<Vec<String>>,
    /// Namespaces a class may name, besides -vault-namespace
    #[arg(long, value_delimiter = ',', action = clap::ArgAction::Append)]
    pub allow_namespace: Option<Vec<String>>,
    /// Auth mounts a class may name, besides -vault-mount
    #[arg(long, value_delimiter = ',', action = clap::ArgAction::Append)]
    pub allow_auth_mount: Option<Vec<String>>,
    /// Methods a class may use: GET, LIST, POST, PUT
    #[arg(long, value_delimiter = ',', action = clap::ArgAction::Append, value_parser = method)]
    pub allow_method: Option<Vec<Method>>,
    /// Directory that a class' CA and client certificate files must lie in
    #[arg(long)]
    pub allow_tls_files: Option<PathBuf>,
    /// Whether a class may turn the check of certificates off
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "true", hide_possible_values = true)]
    pub allow_skip_tls_verify: bool,
    /// Directory of the journal, on tmpfs [default: /run/leasehold/<provider>]
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Let the journal lie on a disk (tokens are then written to it)
    #[arg(long, action = clap::ArgAction::Set, value_parser = arguments::boolean, default_value = "false", hide_possible_values = true)]
    pub allow_disk_state_dir: bool,
    /// Largest size of the journal, in MiB
    #[arg(long, default_value_t = 64)]
    pub state_quota: usize,
    /// kubelet's directory of pods as this process sees it, for target paths whose own is not visible
    #[arg(long, default_value = "/var/lib/kubelet/pods")]
    pub kubelet_pods_dir: PathBuf,
    /// Time between two looks at every mounted path
    #[arg(long, value_parser = duration::parse, default_value = "5s")]
    pub path_check_interval: Duration,
    /// How long a path must be gone before its credentials are revoked
    #[arg(long, value_parser = duration::parse, default_value = "2s")]
    pub path_confirm: Duration,
    /// How long a replaced credential lives on, at least
    #[arg(long, value_parser = duration::parse, default_value = "60s")]
    pub drain_after: Duration,
    /// How long the result of a first mount that came too late for its caller is kept for kubelet's next attempt
    #[arg(long, value_parser = duration::parse, default_value = "5m")]
    pub park: Duration,
    /// How long a first mount is tried again while its server is away, sealed or throttling; kubelet, which tries
    /// again at ever longer intervals, is told the reason then
    #[arg(long, value_parser = duration::parse, default_value = "15s")]
    pub mount_retry_timeout: Duration,
    /// How long a mount may take as a whole before it is given up, and what it has got is revoked
    #[arg(long, value_parser = duration::parse, default_value = "4m")]
    pub mount_timeout: Duration,
    /// The driver's rotation poll interval, assumed until two polls were seen
    #[arg(long, value_parser = duration::parse, default_value = "2m")]
    pub poll_interval: Duration,
    /// Within what time a lease or token is noticed that an administrator has revoked; 0s: when it is
    /// renewed next
    #[arg(long, value_parser = duration::parse, default_value = "10m")]
    pub lookup_interval: Duration,
    /// Deadline of the drain at shutdown
    #[arg(long, value_parser = duration::parse, default_value = "25s")]
    pub shutdown_timeout: Duration,
    /// Renewals and revocations under way at once, for each address
    #[arg(long, default_value_t = 16)]
    pub renew_concurrency: usize,
    /// Renewals and revocations started in a second at each address; 50 carry about 29 leases for each
    /// second of their TTL
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    pub renew_rate: u32,
    /// How old a connection to a server may grow before another is made in its place
    #[arg(long, value_parser = duration::parse, default_value = "2m")]
    pub max_connection_age: Duration,
    /// Whether a pod's token may be minted where the driver sent none
    #[arg(long, value_enum, default_value = "auto")]
    pub token_request: TokenRequest,
    /// A kubeconfig to reach the API server by; for a daemon that runs outside of its cluster
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

impl Flags {
    /// What is wrong with single flags of ours.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.renew_concurrency == 0 {
            faults.push("-renew-concurrency: 0 would renew nothing; give at least 1".to_owned());
        }
        if self.path_check_interval.is_zero() {
            faults.push(
                "-path-check-interval: 0s would look without pause; give at least 100ms".to_owned(),
            );
        }
        if self.poll_interval.is_zero() {
            faults.push(
                "-poll-interval: 0s is no interval; give the driver's --rotation-poll-interval"
                    .to_owned(),
            );
        }
        faults
    }

    /// The TLS settings among them.
    pub fn tls(&self) -> Tls {
        Tls {
            ca_pem: None,
            ca_file: self.vault_tls_ca_cert.clone(),
            ca_directory: self.vault_tls_ca_directory.clone(),
            server_name: self.vault_tls_server_name.clone(),
            client_certificate: self.vault_tls_client_cert.clone(),
            client_key: self.vault_tls_client_key.clone(),
            skip_verify: self.vault_tls_skip_verify,
        }
    }

    /// What a class may choose, besides what we are configured with.
    pub fn policy(&self) -> Policy {
        let patterns = |texts: &Option<Vec<String>>| {
            let texts = texts.as_ref()?;
            let given = texts.iter().filter(|text| !text.trim().is_empty());
            Some(given.map(|text| Pattern::new(text)).collect())
        };
        Policy {
            addresses: AllowedAddresses {
                own: None,
                patterns: patterns(&self.allow_vault_address),
            },
            namespaces: patterns(&self.allow_namespace),
            auth_mounts: patterns(&self.allow_auth_mount),
            methods: self.allow_method.clone(),
            tls_files: self.allow_tls_files.clone(),
            forbid_skip_verify: !self.allow_skip_tls_verify,
            own: Own::default(),
        }
    }
}

/// How we are served where nobody says so: a socket's name tells, else the flags or the program's name.
pub fn guessed(program: &str, socket: Option<&OsStr>, openbaos_flags: bool) -> Flavour {
    let program = program.rsplit('/').next().unwrap_or_default();
    let socket = socket.unwrap_or_default().to_string_lossy();
    let openbao = if socket.contains("bao") {
        true
    } else {
        !socket.contains("vault") && (openbaos_flags || program.contains("bao"))
    };
    if openbao {
        Flavour::OpenBao
    } else {
        Flavour::Vault
    }
}

/// The log's level. An unknown one is `info`, as in the incumbent: a slip here must not stop a node.
pub fn level(named: Option<&str>, debug: bool, notes: &mut Vec<String>) -> LevelFilter {
    let Some(named) = named else {
        return if debug {
            LevelFilter::DEBUG
        } else {
            LevelFilter::INFO
        };
    };
    match named.trim().to_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            notes.push(format!(
                "-log-level: {named:?} is none of off, error, warn, info, debug, trace, so info holds"
            ));
            LevelFilter::INFO
        }
    }
}

fn flavour(text: &str) -> Result<Flavour, String> {
    match text {
        "vault" => Ok(Flavour::Vault),
        "openbao" | "bao" => Ok(Flavour::OpenBao),
        _ => Err(format!("{text:?} is neither vault nor openbao")),
    }
}

fn method(text: &str) -> Result<Method, String> {
    match text.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::Get),
        "LIST" => Ok(Method::List),
        "POST" => Ok(Method::Post),
        "PUT" => Ok(Method::Put),
        _ => Err(format!("{text:?} is none of GET, LIST, POST, PUT")),
    }
}
