//! From a request's strings to a [`MountSpec`]: once, at the door, before anything is done. Every fault
//! of a class is found in one go.
//!
//! Names and meanings follow hashicorp/vault-csi-provider 1.7 (`internal/config/config.go`) and
//! openbao/openbao-csi-provider 2.0.

mod fault;
mod names;
mod objects;
mod path;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

pub use self::fault::{Fault, Faults};
use crate::redacted::Secret;
use crate::spec::{Endpoint, Login, MountSpec, Pod, Tls, VolumeId};

/// The largest attributes or secrets, in bytes.
const LARGEST: usize = 1024 * 1024;
/// Where Vault's own clients look when nobody tells them (`api.DefaultConfig`).
const USUAL_ADDRESS: &str = "https://127.0.0.1:8200";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// Keys with these beginnings come from the driver, not from the class.
const DRIVERS: &[&str] = &["csi.storage.k8s.io/", "secretProviderClass"];
/// A token that has just expired may still be taken: servers allow for a minute of skew.
const LEEWAY_SECONDS: i64 = 60;

/// The parameters of a class. Those with `vault` in front may bear `bao` or `openbao` instead.
pub const PARAMETERS: &[&str] = &[
    "roleName",
    "vaultAddress",
    "vaultNamespace",
    "vaultAuthMountPath",
    "vaultKubernetesMountPath",
    "audience",
    "vaultSkipTLSVerify",
    "vaultCACert",
    "vaultCACertPath",
    "vaultCADirectory",
    "vaultTLSServerName",
    "vaultTLSClientCertPath",
    "vaultTLSClientKeyPath",
    "objects",
];

/// How we are served: names and the usual audience follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `provider: vault`.
    Vault,
    /// `provider: openbao`.
    OpenBao,
}

impl Flavour {
    /// The provider's name, which is also the audience of a class that names none.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::OpenBao => "openbao",
        }
    }
}

/// What holds where a class says nothing.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How we are served.
    pub flavour: Flavour,
    /// The server's address.
    pub address: Option<String>,
    /// The server's namespace.
    pub namespace: Option<String>,
    /// The auth mount.
    pub auth_mount: String,
    /// TLS settings.
    pub tls: Tls,
}

/// A Mount's message, as it came.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// JSON: the class' parameters and the volume's context.
    pub attributes: &'a str,
    /// JSON: the content of `nodePublishSecretRef`.
    pub secrets: &'a str,
    /// Where the volume is mounted.
    pub target_path: &'a str,
    /// JSON: the files' mode where an object names none.
    pub permission: &'a str,
}

/// The pod's service-account token.
pub struct PodToken {
    /// The token.
    pub jwt: Secret,
}

/// The token that a Mount came with, or what there was instead.
pub struct PodTokens {
    /// The token for the wanted audience.
    pub wanted: Option<PodToken>,
    /// The audiences there were tokens for.
    pub offered: Vec<String>,
    /// The audience that the class names itself.
    pub named_audience: Option<String>,
}

/// A request that was understood.
pub struct Parsed {
    /// What is asked for.
    pub spec: MountSpec,
    /// Who asks.
    pub tokens: PodTokens,
    /// Legal, but probably not meant.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
struct OfferedToken {
    #[serde(deserialize_with = "secret")]
    token: Secret,
    #[serde(rename = "expirationTimestamp", default)]
    expires: Option<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::from)
}

/// Parses a request. `now` is the wall clock's time, for the token's expiry.
///
/// # Errors
/// All faults of the request and its class together.
pub fn parse(
    message: &Attributes<'_>,
    defaults: &Defaults,
    now: SystemTime,
) -> Result<Parsed, Faults> {
    let mut reader = Reader::new(message.attributes)?;
    let (mount, role) = (reader.auth_mount(defaults), reader.required("roleName"));
    let named_audience = reader.take("audience");
    let audience = named_audience
        .clone()
        .unwrap_or_else(|| defaults.flavour.name().to_owned());
    let endpoint = reader.endpoint(defaults);
    let mode = reader.permission(message.permission);
    let objects = reader.take("objects").unwrap_or_default();
    let objects = objects::parse(&objects, mode, &mut reader.faults, &mut reader.warnings);
    let pod = Pod {
        name: reader.context("csi.storage.k8s.io/pod.name"),
        namespace: reader.context("csi.storage.k8s.io/pod.namespace"),
        service_account: reader.context("csi.storage.k8s.io/serviceAccount.name"),
    };
    let volume = reader.volume(message.target_path);
    let class = reader.values.remove("secretProviderClass");
    let in_attributes = reader.values.remove(TOKENS);
    let tokens = match in_attributes.filter(|tokens| !tokens.is_empty()) {
        Some(tokens) => Some(tokens),
        None => reader.tokens_in(message.secrets),
    };
    let mut offered = reader.offered(tokens.as_deref());
    let wanted = offered.remove(&audience);
    reader.warn_unknown();
    if !reader.faults.is_empty() {
        return Err(Faults {
            faults: reader.faults,
            expired_token: false,
        });
    }
    if let Some(token) = &wanted {
        unexpired(token, &audience, now)?;
    }
    let mut audiences: Vec<String> = offered.into_keys().collect();
    audiences.extend(wanted.as_ref().map(|_| audience.clone()));
    Ok(Parsed {
        spec: MountSpec {
            volume,
            pod,
            class: class.unwrap_or_default(),
            endpoint,
            login: Login {
                mount,
                role,
                audience,
            },
            objects,
        },
        tokens: PodTokens {
            wanted: wanted.map(|token| PodToken { jwt: token.token }),
            offered: audiences,
            named_audience,
        },
        warnings: reader.warnings,
    })
}

fn unexpired(token: &OfferedToken, audience: &str, now: SystemTime) -> Result<(), Faults> {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let expires = token.expires.as_ref();
    // A time that cannot be read tells nothing: the server knows the token's own.
    let Some(expires) = expires.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return Ok(());
    };
    if expires.as_second() + LEEWAY_SECONDS >= now.as_second() {
        return Ok(());
    }
    Err(Faults {
        faults: vec![Fault::new(
            TOKENS,
            format!("the token for audience {audience:?} expired at {expires}"),
            "set `requiresRepublish: true` on the CSIDriver object, so that kubelet sends fresh ones, and check the node's clock",
        )],
        expired_token: true,
    })
}

/// The attributes, with what was found wrong so far.
struct Reader {
    values: BTreeMap<String, String>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl Reader {
    fn new(attributes: &str) -> Result<Self, Faults> {
        let only = |problem: String, fix: &str| Faults {
            faults: vec![Fault::new("attributes", problem, fix)],
            expired_token: false,
        };
        let broken = "this is for the CSI driver to write; see its log";
        if attributes.len() > LARGEST {
            let problem = format!("{} bytes are more than {LARGEST}", attributes.len());
            return Err(only(problem, "shorten the class"));
        }
        let values: BTreeMap<String, Value> =
            serde_json::from_str(attributes).map_err(|error| {
                let place = (error.line(), error.column());
                only(
                    format!("no JSON map (line {}, column {})", place.0, place.1),
                    broken,
                )
            })?;
        let mut reader = Self {
            values: BTreeMap::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        for (name, value) in values {
            match value {
                Value::String(text) => {
                    reader.values.insert(name, text);
                }
                _ => reader.fault(&name, "is no string", "quote it in the class"),
            }
        }
        Ok(reader)
    }

    fn fault(&mut self, field: &str, problem: impl Into<String>, fix: &str) {
        self.faults.push(Fault::new(field, problem, fix));
    }

    /// A parameter, under whichever of its names it was given. Empty counts as absent.
    fn take(&mut self, name: &str) -> Option<String> {
        let mut found: Option<String> = None;
        for spelling in spellings(name) {
            let Some(value) = self.values.remove(&spelling) else {
                continue;
            };
            if found.as_ref().is_some_and(|other| *other != value) {
                let problem = format!("is given again as {spelling:?}, with another value");
                self.fault(name, problem, "keep one of them");
            }
            found = Some(value);
        }
        found.filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.take(name).unwrap_or_else(|| {
            self.fault(name, "is missing", "set it in the class' parameters");
            String::new()
        })
    }

    fn context(&mut self, name: &str) -> String {
        self.values.remove(name).unwrap_or_default()
    }

    fn auth_mount(&mut self, defaults: &Defaults) -> String {
        let kubernetes = self.take("vaultKubernetesMountPath");
        let auth = self.take("vaultAuthMountPath");
        if kubernetes.is_some() && auth.is_some() {
            self.fault(
                "vaultAuthMountPath",
                "is set together with vaultKubernetesMountPath",
                "keep vaultAuthMountPath alone",
            );
        }
        let given = auth.or(kubernetes);
        let text = given.unwrap_or_else(|| defaults.auth_mount.clone());
        path::mount(&text).unwrap_or_else(|problem| {
            let problem = format!("{text:?} {problem}");
            self.fault(
                "vaultAuthMountPath",
                problem,
                "give the mount's path, e.g. kubernetes or teams/a/kubernetes",
            );
            String::new()
        })
    }

    fn endpoint(&mut self, defaults: &Defaults) -> Endpoint {
        let given = self
            .take("vaultAddress")
            .or_else(|| defaults.address.clone());
        let address = given.unwrap_or_else(|| USUAL_ADDRESS.to_owned());
        let address = address.trim_end_matches('/').to_owned();
        if let Err(problem) = check_address(&address) {
            self.fault(
                "vaultAddress",
                format!("{address:?} {problem}"),
                "write it as https://vault.example:8200 (class, -vault-addr, or VAULT_ADDR)",
            );
        }
        let given = self.take("vaultNamespace");
        let namespace = given.or_else(|| defaults.namespace.clone());
        if namespace
            .as_ref()
            .is_some_and(|namespace| namespace.chars().any(|c| c.is_control() || !c.is_ascii()))
        {
            self.fault(
                "vaultNamespace",
                "has a control character or one beyond ASCII, which no header may carry",
                "write it as team/sub",
            );
        }
        Endpoint {
            address,
            namespace,
            tls: self.tls(&defaults.tls),
        }
    }

    /// The class' settings over the defaults, field by field; one way to name CAs replaces the others.
    fn tls(&mut self, defaults: &Tls) -> Tls {
        let mut tls = defaults.clone();
        let ca_pem = self.take("vaultCACert");
        let ca_file = self.take("vaultCACertPath").map(PathBuf::from);
        let ca_directory = self.take("vaultCADirectory").map(PathBuf::from);
        if ca_pem.is_some() || ca_file.is_some() || ca_directory.is_some() {
            (tls.ca_pem, tls.ca_file, tls.ca_directory) = (ca_pem, ca_file, ca_directory);
        }
        tls.server_name = self.take("vaultTLSServerName").or(tls.server_name);
        let certificate = self.take("vaultTLSClientCertPath").map(PathBuf::from);
        tls.client_certificate = certificate.or(tls.client_certificate);
        let key = self.take("vaultTLSClientKeyPath").map(PathBuf::from);
        tls.client_key = key.or(tls.client_key);
        if let Some(text) = self.take("vaultSkipTLSVerify") {
            match boolean(&text) {
                Some(value) => tls.skip_verify = value,
                None => self.fault(
                    "vaultSkipTLSVerify",
                    format!("{text:?} is neither true nor false"),
                    "write \"true\" or \"false\"",
                ),
            }
        }
        tls
    }

    fn permission(&mut self, text: &str) -> u32 {
        let bits = serde_json::from_str::<u32>(text).ok();
        bits.filter(|bits| *bits <= 0o777).unwrap_or_else(|| {
            self.fault(
                "permission",
                format!("{:?} is no number from 0 to 511", cut(text)),
                "this is for the CSI driver to write; see its log",
            );
            0
        })
    }

    fn volume(&mut self, target_path: &str) -> VolumeId {
        let pod_uid = self.context("csi.storage.k8s.io/pod.uid");
        if pod_uid.is_empty() {
            self.fault(
                "csi.storage.k8s.io/pod.uid",
                "is missing",
                "set `podInfoOnMount: true` on the CSIDriver object",
            );
        }
        let clean = target_path.starts_with('/')
            && !target_path.chars().any(char::is_control)
            && !target_path
                .split('/')
                .any(|part| matches!(part, "." | ".."));
        if !clean {
            self.fault(
                "target_path",
                format!("{:?} is no absolute, clean path", cut(target_path)),
                "this is for the CSI driver to write; see its log",
            );
        }
        VolumeId {
            pod_uid,
            target_path: PathBuf::from(target_path),
        }
    }

    /// The tokens, where a cluster hands them over with the secrets (`serviceAccountTokenInSecrets`).
    fn tokens_in(&mut self, secrets: &str) -> Option<String> {
        if secrets.is_empty() || secrets == "null" {
            return None;
        }
        if secrets.len() > LARGEST {
            self.fault(
                "secrets",
                format!("{} bytes are more than {LARGEST}", secrets.len()),
                "shorten the Secret of nodePublishSecretRef",
            );
            return None;
        }
        match serde_json::from_str::<BTreeMap<String, String>>(secrets) {
            Ok(mut secrets) => secrets.remove(TOKENS),
            Err(_) => {
                self.fault(
                    "secrets",
                    "no JSON map of strings",
                    "this is for the CSI driver to write; see its log",
                );
                None
            }
        }
    }

    fn offered(&mut self, tokens: Option<&str>) -> BTreeMap<String, OfferedToken> {
        let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) else {
            return BTreeMap::new();
        };
        serde_json::from_str(tokens).unwrap_or_else(|_| {
            // The parser's message could quote a token.
            self.fault(
                TOKENS,
                "no JSON map of audiences to tokens",
                "this is for kubelet to write; see its log",
            );
            BTreeMap::new()
        })
    }

    fn warn_unknown(&mut self) {
        for name in self.values.keys() {
            if !DRIVERS.iter().any(|own| name.starts_with(own)) {
                self.warnings
                    .push(names::unknown("parameter", name, PARAMETERS));
            }
        }
    }
}

/// `vaultAddress`, `baoAddress`, `openbaoAddress`.
fn spellings(name: &str) -> Vec<String> {
    match name.strip_prefix("vault") {
        Some(rest) => ["vault", "bao", "openbao"]
            .map(|prefix| format!("{prefix}{rest}"))
            .to_vec(),
        None => vec![name.to_owned()],
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let Some(rest) = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
    else {
        return Err("has no https:// or http:// before the host".to_owned());
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return Err("has no host".to_owned());
    }
    if host.contains('@') {
        return Err("has a user name, which is not used".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or fragment".to_owned());
    }
    match address.parse::<http::Uri>() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("is no URL ({error})")),
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
