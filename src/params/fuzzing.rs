//! Fuzz targets of this room (see `src/fuzzing.rs`).

use std::path::{Component, Path};

use serde_json::json;

use super::{Attributes, Defaults, Faults, Flavour, Parsed, TOKENS, parse, path};
use crate::spec::{MountSpec, Tls};

/// A token's marker: no fault may show it. The corpus has it.
const MARKER: &str = "hunter2-jwt";
const TARGET_PATH: &str = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/secrets/mount";

fn understood(
    attributes: &str,
    secrets: &str,
    target_path: &str,
    permission: &str,
) -> Result<Parsed, Faults> {
    let message = Attributes {
        attributes,
        secrets,
        target_path,
        permission,
    };
    let defaults = Defaults {
        flavour: Flavour::Vault,
        address: None,
        agent_address: None,
        namespace: None,
        auth_mount: "kubernetes".to_owned(),
        tls: Tls::default(),
    };
    let parsed = parse(&message, &defaults);
    match &parsed {
        Ok(parsed) => {
            sound(&parsed.spec);
            parsed.warnings.iter().for_each(|warning| one_line(warning));
            assert!(parsed.warnings.len() < 100, "a class is not the log");
        }
        Err(faults) => {
            assert!(!faults.faults.is_empty(), "an error says what is wrong");
            one_line(&faults.to_string());
            faults.warnings.iter().for_each(|warning| one_line(warning));
        }
    }
    parsed
}

/// A request's parts, with NUL between them.
pub fn message(data: &[u8]) -> Option<MountSpec> {
    let text = std::str::from_utf8(data).ok()?;
    let mut parts = text.split('\0');
    let attributes = parts.next().unwrap_or_default();
    let secrets = parts.next().unwrap_or_default();
    let target_path = parts.next().unwrap_or(TARGET_PATH);
    let permission = parts.next().unwrap_or("420");
    Some(
        understood(attributes, secrets, target_path, permission)
            .ok()?
            .spec,
    )
}

/// A class' objects.
pub fn objects(data: &[u8]) -> Option<MountSpec> {
    let text = std::str::from_utf8(data).ok()?;
    let attributes = with(json!({ "objects": text }));
    Some(understood(&attributes, "", TARGET_PATH, "420").ok()?.spec)
}

/// The pod's tokens.
pub fn tokens(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (attribute, secrets) = text.split_once('\0').unwrap_or((&text, ""));
    for attribute in [attribute, ""] {
        let objects = "- {objectName: a, secretPath: kv/a}";
        let attributes = with(json!({ "objects": objects, TOKENS: attribute }));
        match understood(&attributes, secrets, TARGET_PATH, "420") {
            Ok(parsed) => {
                let wanted = parsed.tokens.wanted;
                assert!(
                    wanted.is_none_or(|token| !token.jwt.expose().is_empty()),
                    "an empty token is none"
                );
            }
            Err(faults) => assert!(!faults.to_string().contains(MARKER), "{faults}"),
        }
    }
}

fn with(class: serde_json::Value) -> String {
    let mut attributes = json!({
        "roleName": "app",
        "csi.storage.k8s.io/pod.name": "web",
        "csi.storage.k8s.io/pod.namespace": "shop",
        "csi.storage.k8s.io/pod.uid": "uid",
        "csi.storage.k8s.io/serviceAccount.name": "web",
    });
    if let (Some(attributes), serde_json::Value::Object(class)) =
        (attributes.as_object_mut(), class)
    {
        attributes.extend(class);
    }
    attributes.to_string()
}

/// What a class may name, each by itself.
pub fn paths(text: &str) {
    if path::file(text).is_ok() {
        contained(text);
    }
    for accepted in [path::api(text), path::mount(text)].into_iter().flatten() {
        segments(&accepted);
    }
    for (name, value) in path::query(text).into_iter().flatten() {
        assert!(
            name.len() + value.len() <= text.len() * 3,
            "decoding does not swell"
        );
    }
}

/// What holds of every request that is understood.
fn sound(spec: &MountSpec) {
    assert!(spec.volume.target_path.is_absolute());
    assert!(
        !spec.objects.is_empty(),
        "a volume without files is a fault"
    );
    segments(&spec.login.mount);
    let namespace = spec.endpoint.namespace.as_deref().unwrap_or_default();
    assert!(
        namespace.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "fit for a header"
    );
    assert!(
        !namespace.split('/').any(|part| part == ".."),
        "{namespace:?}"
    );
    for (index, object) in spec.objects.iter().enumerate() {
        contained(&object.name);
        segments(&object.request.path);
        assert!(object.mode <= 0o777, "no special bits");
        let args = object.request.args.as_deref().unwrap_or("{}");
        let args = serde_json::from_str::<serde_json::Value>(args);
        assert!(
            args.is_ok_and(|args| args.is_object()),
            "arguments are a JSON map"
        );
        for other in spec.objects.iter().skip(index + 1) {
            let (one, two) = (Path::new(&object.name), Path::new(&other.name));
            assert!(
                !one.starts_with(two) && !two.starts_with(one),
                "{one:?} and {two:?} collide"
            );
        }
    }
}

/// A file of the volume lies in it, under exactly the name that was given.
fn contained(name: &str) {
    let whole = Path::new("/volume").join(name);
    let normal = |part: Component<'_>| matches!(part, Component::Normal(name) if name.len() <= 255);
    let within = whole.strip_prefix("/volume").map(Path::components);
    assert!(
        within.is_ok_and(|mut parts| parts.all(normal)),
        "{name:?} leaves its volume"
    );
    // The root, the volume, and what was named.
    assert_eq!(
        whole.components().count(),
        2 + name.split('/').count(),
        "{name:?} is not clean"
    );
    assert!(
        !name.starts_with("..") && !name.chars().any(char::is_control),
        "{name:?}"
    );
}

/// An API path has the segments that it shows, and no server reads it as another.
fn segments(path: &str) {
    assert!(
        !path.chars().any(|c| c.is_control() || c == '\\'),
        "{path:?}"
    );
    assert!(
        path.split('/')
            .all(|segment| !matches!(segment, "" | "." | "..")),
        "{path:?}"
    );
}

/// A message ends up in `kubectl describe pod` and in a line of the log: none can forge another line.
fn one_line(message: &str) {
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.len() <= 4096, "{} bytes", message.len());
}
