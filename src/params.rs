//! From a request's strings to a [`MountSpec`]: once, at the door, before anything is done. Every fault
//! of a class is found in one go.
//!
//! Names and meanings follow hashicorp/vault-csi-provider 1.7 (`internal/config/config.go`) and
//! openbao/openbao-csi-provider 2.0.

mod args;
mod endpoint;
mod fault;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod names;
mod object;
mod objects;
mod path;
mod shared_args;
mod tokens;
mod unmount;
mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

pub use self::endpoint::address_problem;
pub use self::fault::{Fault, Faults};
pub use self::names::not_text;
pub use self::object::FIELDS;
pub use self::tokens::{ExpiredToken, PodToken, PodTokens};
use crate::spec::{Login, MountSpec, Pod, Tls, VolumeId};

/// The largest attributes or secrets, in bytes.
const LARGEST: usize = 1024 * 1024;
/// The longest name that a class may give a role, an audience, a namespace or an address, in bytes: no server
/// takes them longer, and each ends up in messages.
const LONGEST: usize = 4096;
const ROLE: &str = "roleName";
const ON_UNMOUNT: &str = "onUnmount";
/// The most warnings that are told of one class.
const WARNINGS: usize = 40;
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// Keys with this beginning come from the driver, not from the class.
const CONTEXT: &str = "csi.storage.k8s.io/";
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
    "onUnmount",
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

    /// A parameter's names; of several that are given the first counts. Vault's provider knows one prefix
    /// and no prefixed role, so what it knows goes before what it does not.
    fn spellings(self, name: &str) -> Vec<String> {
        let prefixes = match self {
            Self::Vault => ["vault", "bao", "openbao"],
            Self::OpenBao => ["bao", "openbao", "vault"],
        };
        let prefixed = |rest: &str| prefixes.map(|prefix| format!("{prefix}{rest}"));
        match (name.strip_prefix("vault"), self) {
            (Some(rest), _) => prefixed(rest).to_vec(),
            (None, Self::Vault) if name == ROLE => {
                let mut names = vec![name.to_owned()];
                names.extend(prefixed("RoleName"));
                names
            }
            (None, Self::OpenBao) if name == ROLE => {
                let mut names = prefixed("RoleName").to_vec();
                names.push(name.to_owned());
                names
            }
            (None, _) => vec![name.to_owned()],
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
    /// An agent's address, which takes the place of every other, a class' too (`VAULT_AGENT_ADDR`).
    pub agent_address: Option<String>,
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

/// A request that was understood.
pub struct Parsed {
    /// What is asked for.
    pub spec: MountSpec,
    /// Who asks.
    pub tokens: PodTokens,
    /// Legal, but probably not meant.
    pub warnings: Vec<String>,
}

/// What could be understood of a request, and what is wrong with it. Where there are faults it must not be carried
/// out: what is faulty is empty or left out.
pub struct Examined {
    /// As far as it was understood.
    pub parsed: Parsed,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
}

/// Parses a request.
///
/// # Errors
/// All faults of the request and its class together.
pub fn parse(message: &Attributes<'_>, defaults: &Defaults) -> Result<Parsed, Faults> {
    let Examined { parsed, faults } = examine(message, defaults)?;
    if faults.is_empty() {
        return Ok(parsed);
    }
    Err(Faults {
        faults,
        warnings: parsed.warnings,
    })
}

/// Parses a request as far as it goes.
///
/// # Errors
/// The attributes cannot be read at all.
pub fn examine(message: &Attributes<'_>, defaults: &Defaults) -> Result<Examined, Faults> {
    let mut reader = Reader::new(message.attributes, defaults.flavour)?;
    let (mount, role) = (reader.auth_mount(defaults), reader.role());
    let named_audience = reader.bounded("audience");
    if let Some(listed) = named_audience
        .as_ref()
        .filter(|name| name.contains(['[', ',']))
    {
        reader.warnings.push(format!(
            "audience: {:?} looks like a list, and is taken for one name: one token is sent at a login",
            cut(listed)
        ));
    }
    let audience = named_audience
        .clone()
        .unwrap_or_else(|| defaults.flavour.name().to_owned());
    let endpoint = reader.endpoint(defaults);
    let mode = reader.permission(message.permission);
    let on_unmount = reader.on_unmount();
    let objects = reader.take("objects").unwrap_or_default();
    let objects = objects::parse(
        &objects,
        mode,
        message.target_path,
        &mut reader.faults,
        &mut reader.warnings,
    );
    let pod = Pod {
        name: reader.context("pod.name"),
        namespace: reader.context("pod.namespace"),
        service_account: reader.context("serviceAccount.name"),
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
    reader.bound_warnings();
    let mut audiences: Vec<String> = offered.into_keys().collect();
    audiences.extend(wanted.as_ref().map(|_| audience.clone()));
    let parsed = Parsed {
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
            on_unmount,
        },
        tokens: PodTokens {
            wanted: wanted.map(PodToken::from),
            offered: audiences,
            named_audience,
        },
        warnings: reader.warnings,
    };
    Ok(Examined {
        parsed,
        faults: reader.faults,
    })
}

/// A JSON map with every pair it has: a map type would keep the last of two without a word.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// The attributes, with what was found wrong so far.
struct Reader {
    flavour: Flavour,
    values: BTreeMap<String, String>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl Reader {
    fn new(attributes: &str, flavour: Flavour) -> Result<Self, Faults> {
        let only = |problem: String, fix: &str| Faults {
            faults: vec![Fault::new("attributes", problem, fix)],
            warnings: Vec::new(),
        };
        let broken = "this is for the CSI driver to write; see its log";
        if attributes.len() > LARGEST {
            let problem = format!("{} bytes are more than {LARGEST}", attributes.len());
            return Err(only(problem, "shorten the class"));
        }
        let Pairs(values) = serde_json::from_str(attributes).map_err(|error| {
            let place = (error.line(), error.column());
            only(
                format!("no JSON map (line {}, column {})", place.0, place.1),
                broken,
            )
        })?;
        let mut reader = Self {
            flavour,
            values: BTreeMap::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        for (name, value) in values {
            match value {
                Value::String(text) => {
                    if reader.values.insert(name.clone(), text).is_some() {
                        reader.fault(&name, "is there twice", "keep one of them");
                    }
                }
                other => {
                    let (problem, fix) = not_text(&name, &other);
                    reader.fault(&name, problem, fix);
                }
            }
        }
        Ok(reader)
    }

    fn fault(&mut self, field: &str, problem: impl Into<String>, fix: &str) {
        self.faults.push(Fault::new(field, problem, fix));
    }

    /// A parameter, under whichever of its names it was given. Empty counts as absent.
    fn take(&mut self, name: &str) -> Option<String> {
        self.take_given(name).filter(|value| !value.is_empty())
    }

    /// The same, where an empty one is something that was given. Of several that say different things the
    /// first counts, as for the incumbents, and that is told.
    fn take_given(&mut self, name: &str) -> Option<String> {
        let mut found: Option<(String, String)> = None;
        for name in self.flavour.spellings(name) {
            let Some(value) = self.values.remove(&name) else {
                continue;
            };
            match &found {
                None => found = Some((name, value)),
                Some((first, known)) if *known != value => self.warnings.push(format!(
                    "{name:?} has no effect beside {first:?}: keep one of them"
                )),
                Some(_) => {}
            }
        }
        found.map(|(_, value)| value)
    }

    fn role(&mut self) -> String {
        self.bounded(ROLE).unwrap_or_else(|| {
            self.fault(ROLE, "is missing", "set it in the class' parameters");
            String::new()
        })
    }

    /// A parameter that names something at the server.
    fn bounded(&mut self, name: &str) -> Option<String> {
        let value = self.take(name)?;
        if value.len() > LONGEST {
            let problem = path::too_long(value.len(), LONGEST);
            self.fault(name, problem, "give the name alone");
        }
        Some(value)
    }

    /// What the driver adds where the CSIDriver object has `podInfoOnMount`.
    fn context(&mut self, name: &str) -> String {
        let name = format!("{CONTEXT}{name}");
        let value = self.values.remove(&name).unwrap_or_default();
        if value.is_empty() {
            self.fault(
                &name,
                "is missing",
                "set `podInfoOnMount: true` on the CSIDriver object",
            );
        }
        value
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
        let pod_uid = self.context("pod.uid");
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

    fn warn_unknown(&mut self) {
        for name in self.values.keys() {
            if !name.starts_with(CONTEXT) {
                let elsewhere = (
                    FIELDS,
                    "it is a field of an object: write it below `objects`",
                );
                self.warnings
                    .push(names::unknown("parameter", name, PARAMETERS, elsewhere));
            }
        }
    }
}

impl Reader {
    /// A class can have thousands of unknown names, each of which would be a line of the log at each poll.
    fn bound_warnings(&mut self) {
        let more = self.warnings.len().saturating_sub(WARNINGS);
        if more > 0 {
            self.warnings.truncate(WARNINGS);
            self.warnings.push(format!(
                "{more} more of the class' names have no effect or are not meant so"
            ));
        }
    }
}

/// The names that a parameter may bear: `vaultAddress`, `baoAddress`, `openbaoAddress`.
#[must_use]
pub fn spellings(name: &str) -> Vec<String> {
    Flavour::Vault.spellings(name)
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

/// A value of the class in a message, whose end says what is wrong with it.
fn cut(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
