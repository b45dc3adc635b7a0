//! Pods and what makes them, as far as they use a volume of the driver's or a Secret that it makes.

use serde_json::Value;

use super::manifest::{DRIVER, Place};
use super::synced::Synced;
use crate::spec::OnUnmount;

/// A Pod, or what makes Pods.
pub struct Workload {
    /// `namespace/name`.
    pub name: String,
    namespace: Option<String>,
    mounts: Vec<SubPath>,
    variables: Vec<Variable>,
}

/// A part of a volume that is mounted by itself.
struct SubPath {
    place: Place,
    container: String,
    path: String,
}

/// A Secret's value in a container's environment.
struct Variable {
    place: Place,
    container: String,
    secret: String,
    /// One key of it, or all.
    key: Option<String>,
}

/// A workload with something to be judged; nothing for any other document.
pub fn read(value: &Value, lines: &[&str], offset: u64) -> Option<Workload> {
    let text = |value: &Value, at: &str| {
        let found = value.pointer(at).and_then(Value::as_str);
        found.map(str::to_owned)
    };
    let pod = match value.get("kind").and_then(Value::as_str)? {
        "Pod" => "/spec",
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "Job"
        | "ReplicationController" => "/spec/template/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => return None,
    };
    let pod = value.pointer(pod)?;
    let of_driver =
        |volume: &&Value| volume.pointer("/csi/driver").and_then(Value::as_str) == Some(DRIVER);
    let volumes: Vec<String> = list(pod, "volumes")
        .filter(of_driver)
        .filter_map(|volume| text(volume, "/name"))
        .collect();
    let place = |words: [&str; 2]| {
        let line = lines
            .iter()
            .position(|line| words.iter().all(|word| line.contains(word)));
        let column = |line: usize| {
            let line = lines.get(line).copied().unwrap_or_default();
            u64::try_from(line.len() - line.trim_start().len()).unwrap_or_default()
        };
        line.map_or((offset + 1, 1), |line| {
            (
                offset + 1 + u64::try_from(line).unwrap_or_default(),
                column(line) + 1,
            )
        })
    };
    let mut workload = Workload {
        name: text(value, "/metadata/name").unwrap_or_default(),
        namespace: text(value, "/metadata/namespace"),
        mounts: Vec::new(),
        variables: Vec::new(),
    };
    if let Some(namespace) = &workload.namespace {
        workload.name = format!("{namespace}/{}", workload.name);
    }
    for container in list(pod, "initContainers").chain(list(pod, "containers")) {
        let name = text(container, "/name").unwrap_or_default();
        for mount in list(container, "volumeMounts") {
            let path = text(mount, "/subPath").or_else(|| text(mount, "/subPathExpr"));
            let ours = text(mount, "/name").is_some_and(|name| volumes.contains(&name));
            if let Some(path) = path.filter(|path| ours && !path.is_empty()) {
                workload.mounts.push(SubPath {
                    place: place(["subPath", &path]),
                    container: name.clone(),
                    path,
                });
            }
        }
        let one = list(container, "env").filter_map(|variable| {
            let at = "/valueFrom/secretKeyRef";
            let secret = text(variable, &format!("{at}/name"))?;
            Some((secret, text(variable, &format!("{at}/key"))))
        });
        let all = list(container, "envFrom");
        let all = all.filter_map(|from| Some((text(from, "/secretRef/name")?, None)));
        for (secret, key) in one.chain(all) {
            workload.variables.push(Variable {
                place: place(["name", &secret]),
                container: name.clone(),
                secret,
                key,
            });
        }
    }
    let empty = workload.mounts.is_empty() && workload.variables.is_empty();
    (!empty).then_some(workload)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten()
}

impl Workload {
    /// What is unwise about it, beside the classes that are known.
    pub fn judge(&self, classes: &[Synced]) -> Vec<(Place, String)> {
        let mut found = Vec::new();
        for mount in &self.mounts {
            let text = format!(
                "container {:?} mounts {:?} by subPath, which never shows rotated content: what it shows is revoked once it is replaced: mount the whole volume",
                mount.container, mount.path
            );
            found.push((mount.place, text));
        }
        for variable in &self.variables {
            let leased = classes
                .iter()
                .filter(|class| class.on_unmount == OnUnmount::Revoke && self.is_beside(class))
                .filter_map(|class| class.leased.get(&variable.secret))
                .any(|keys| variable.key.as_ref().is_none_or(|key| keys.contains(key)));
            if leased {
                let text = format!(
                    "container {:?} has a leased value of Secret {:?} in its environment, which no rotation changes: what it shows is revoked once it is replaced, or its pod has ended: read the file, or set `onUnmount: expire` in the class",
                    variable.container, variable.secret
                );
                found.push((variable.place, text));
            }
        }
        found
    }

    /// Whether a class is in the same namespace, as far as the manifests say.
    fn is_beside(&self, class: &Synced) -> bool {
        let of_class = class.class.split_once('/').map(|(namespace, _)| namespace);
        match (of_class, self.namespace.as_deref()) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }
}
