//! `secretObjects`: the Secrets that the driver makes of a class' files. The driver refuses what is wrong with
//! them only when a pod mounts the class, and then tells nobody but its own log and an Event.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_yaml::Spanned;

use super::manifest::{Class, Place};
use super::report::Level;
use crate::spec::{Method, MountSpec, OnUnmount, Request};

/// One Secret, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretObject {
    secret_name: Option<Spanned<String>>,
    r#type: Option<Spanned<String>>,
    #[serde(default)]
    data: Vec<Spanned<SecretData>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretData {
    object_name: Option<Spanned<String>>,
    key: Option<String>,
}

/// The types that Kubernetes knows, with the keys that it insists on.
const TYPES: &[(&str, &[&str])] = &[
    ("Opaque", &[]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/basic-auth", &[]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/service-account-token", &[]),
    ("bootstrap.kubernetes.io/token", &[]),
];

/// What a class' Secrets hold, for the workloads that use them.
pub struct Synced {
    /// `namespace/name`, or the name alone.
    pub class: String,
    pub on_unmount: OnUnmount,
    /// The keys of each Secret that hold a leased value.
    pub leased: BTreeMap<String, BTreeSet<String>>,
}

impl Synced {
    /// Of a class, with its meaning where it has one.
    pub fn of(class: &Class, spec: Option<&MountSpec>) -> Self {
        let mut leased: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in &class.synced {
            let name = secret.secret_name.as_ref().map(|name| name.value.clone());
            for data in &secret.data {
                if let (Some(name), Some(object), Some(key)) =
                    (&name, &data.value.object_name, &data.value.key)
                    && spec.is_some_and(|spec| lease_of(spec, &object.value) == Some(Lease::Always))
                {
                    leased.entry(name.clone()).or_default().insert(key.clone());
                }
            }
        }
        Self {
            class: class.name.clone(),
            on_unmount: spec.map_or_else(OnUnmount::default, |spec| spec.on_unmount),
            leased,
        }
    }
}

/// Whether a reply has a lease, as far as its path tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// Credentials that are made for the pod.
    Always,
    /// A certificate, whose role decides (`generate_lease`).
    ByRole,
}

fn lease_of(spec: &MountSpec, object: &str) -> Option<Lease> {
    let object = spec
        .objects
        .iter()
        .find(|found| found.name == object.trim());
    let request: &Request = &object?.request;
    let below = |part: &str| request.path.contains(part);
    if below("/creds/") {
        return Some(Lease::Always);
    }
    let writes = matches!(request.method, Method::Post | Method::Put);
    (writes && (below("/issue/") || below("/sign/"))).then_some(Lease::ByRole)
}

/// What is wrong with a class' Secrets. Without its meaning, its objects are not known.
pub fn judge(class: &Class, spec: Option<&MountSpec>) -> Vec<(Level, Place, String)> {
    let mut found = Vec::new();
    for secret in &class.synced {
        let place = |at: Option<serde_yaml::Location>| {
            at.filter(|at| at.line() > 0)
                .map_or(class.place, |at| (at.line() + class.offset, at.column()))
        };
        let name = secret.secret_name.as_ref();
        let at = place(name.map(|name| name.referenced));
        let shown = name.map_or("", |name| name.value.as_str());
        let mut warn = |at: Place, text: String| found.push((Level::Warning, at, text));
        if shown.is_empty() {
            warn(
                at,
                "secretObjects: a Secret has no secretName, so the driver makes none".to_owned(),
            );
        } else if !is_name(shown) {
            warn(
                at,
                format!(
                    "secretObjects: {shown:?} is no name of a Secret: lower case letters, digits, \"-\" and \".\""
                ),
            );
        }
        let kind = secret.r#type.as_ref();
        let typed = kind.map_or("", |kind| kind.value.as_str());
        let kind_at = place(kind.map(|kind| kind.referenced));
        if typed.is_empty() {
            warn(
                at,
                format!(
                    "secretObjects: {shown:?} has no type, so the driver makes no Secret: write `type: Opaque`"
                ),
            );
        }
        let known = TYPES.iter().find(|(known, _)| *known == typed);
        if let (None, Some(meant)) = (known, nearest(typed, TYPES.iter().map(|(known, _)| *known)))
        {
            warn(
                kind_at,
                format!(
                    "secretObjects: {typed:?} is a type that nobody knows: did you mean {meant:?}?"
                ),
            );
        }
        let mut keys = BTreeSet::new();
        for data in &secret.data {
            let key = data.value.key.as_deref().unwrap_or_default().trim();
            if key.is_empty() {
                let at = place(Some(data.referenced));
                warn(
                    at,
                    format!(
                        "secretObjects: {shown:?} has an entry without key, so the driver makes no Secret"
                    ),
                );
            } else if !keys.insert(key) {
                let at = place(Some(data.referenced));
                warn(
                    at,
                    format!(
                        "secretObjects: {shown:?} has the key {key:?} twice: the last one counts"
                    ),
                );
            }
        }
        if secret.data.is_empty() {
            warn(
                at,
                format!("secretObjects: {shown:?} has no data, so the driver makes no Secret"),
            );
        }
        for wanted in known.map_or(&[][..], |(_, wanted)| wanted) {
            if !secret.data.is_empty() && !keys.contains(wanted) {
                warn(
                    kind_at,
                    format!(
                        "secretObjects: {shown:?} lacks the key {wanted:?}, which Kubernetes wants of {typed}"
                    ),
                );
            }
        }
        if let Some(spec) = spec {
            objects(secret, shown, spec, &place, &mut found);
        }
    }
    found
}

/// What is wrong with the objects that a Secret names.
fn objects(
    secret: &SecretObject,
    shown: &str,
    spec: &MountSpec,
    place: &impl Fn(Option<serde_yaml::Location>) -> Place,
    found: &mut Vec<(Level, Place, String)>,
) {
    let (mut always, mut by_role) = (None, None);
    for data in &secret.data {
        let Some(object) = &data.value.object_name else {
            let text = format!(
                "secretObjects: {shown:?} has an entry without objectName, so the driver makes no Secret"
            );
            found.push((Level::Warning, place(Some(data.referenced)), text));
            continue;
        };
        let (name, at) = (object.value.trim(), place(Some(object.referenced)));
        let known = || spec.objects.iter().map(|object| object.name.as_str());
        if !known().any(|known| known == name) {
            let hint = nearest(name, known())
                .map_or_else(String::new, |meant| format!(": did you mean {meant:?}?"));
            let text = format!(
                "secretObjects: no object is named {name:?}, so the driver makes no Secret {shown:?}{hint}"
            );
            found.push((Level::Warning, at, text));
        }
        match lease_of(spec, name) {
            Some(Lease::Always) => always = always.or(Some((name, at))),
            Some(Lease::ByRole) => by_role = by_role.or(Some((name, at))),
            None => {}
        }
    }
    if spec.on_unmount == OnUnmount::Expire {
        return;
    }
    let fix = "set `onUnmount: expire`, or read the files";
    if let Some((name, at)) = always {
        let text = format!(
            "secretObjects: {shown:?} shows the leased {name:?} and outlives the pod that it was made for, whose end revokes it: {fix}"
        );
        found.push((Level::Warning, at, text));
    }
    if let Some((name, at)) = by_role {
        let text = format!(
            "secretObjects: {shown:?} shows the certificate {name:?} and outlives the pod that it was made for, whose end revokes it where the role has generate_lease: there, {fix}"
        );
        found.push((Level::Note, at, text));
    }
}

/// A DNS subdomain, as names of Secrets are.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253 && text.chars().all(plain) && text.starts_with(ends) && text.ends_with(ends)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|known| (strsim::jaro_winkler(&lower, &known.to_lowercase()), known))
        .filter(|(likeness, _)| *likeness > 0.9)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}
