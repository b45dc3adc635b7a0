//! No class, key or name of a file reaches out of its place: files lie in their volume under exactly the
//! name that was given, and the server is asked for exactly the path that was named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use leasehold::params::{self, Attributes, Defaults, Flavour};
use leasehold::spec::{MountSpec, Tls};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::world::{World, class};
use tonic::Code;

/// An object of this name and path, as JSON: YAML would take some of the traps for its own syntax.
fn one(name: &str, path: &str) -> String {
    json!([{ "objectName": name, "secretPath": path, "secretKey": "k" }]).to_string()
}

/// A class of these objects as the daemon understands it, or what is wrong with it.
fn understood(class: &Value) -> Result<MountSpec, String> {
    let mut attributes = json!({
        "roleName": "app",
        "csi.storage.k8s.io/pod.name": "web",
        "csi.storage.k8s.io/pod.namespace": "shop",
        "csi.storage.k8s.io/pod.uid": "uid",
        "csi.storage.k8s.io/serviceAccount.name": "web",
    });
    let map = attributes.as_object_mut().unwrap();
    map.extend(class.as_object().unwrap().clone());
    let message = Attributes {
        attributes: &attributes.to_string(),
        secrets: "",
        target_path: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount",
        permission: "420",
    };
    let defaults = Defaults {
        flavour: Flavour::Vault,
        address: Some("https://vault:8200".to_owned()),
        agent_address: None,
        namespace: None,
        auth_mount: "kubernetes".to_owned(),
        tls: Tls::default(),
    };
    let parsed = params::parse(&message, &defaults);
    parsed
        .map(|parsed| parsed.spec)
        .map_err(|faults| faults.to_string())
}

fn named(name: &str) -> Result<MountSpec, String> {
    understood(&json!({ "objects": one(name, "kv/app") }))
}

fn reading(path: &str) -> Result<MountSpec, String> {
    understood(&json!({ "objects": one("file", path) }))
}

#[test]
fn names_that_would_leave_the_volume_are_refused() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(2048) + "f";
    let wrong = [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "//x",
        "../x",
        "a/../x",
        "a/../../x",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "...",
        "..data",
        "..data/x",
        "..2026_11_21",
        "a\0",
        "a\0/../b",
        "\0",
        "a\nb",
        "a\rb",
        "a\tb",
        "a\u{7f}",
        "a\u{85}b",
        long.as_str(),
        deep.as_str(),
    ];
    for name in wrong {
        let told = named(name)
            .err()
            .unwrap_or_else(|| panic!("{name:?} was accepted"));
        assert!(told.contains("objectName"), "{name:?}: {told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
    for clash in [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]] {
        let objects = clash.map(|name| json!({ "objectName": name, "secretPath": "kv/app" }));
        assert!(
            understood(&json!({ "objects": json!(objects).to_string() })).is_err(),
            "{clash:?}"
        );
    }
}

#[test]
fn what_only_looks_like_a_trap_is_a_name_like_any_other() {
    let longest = "x".repeat(255);
    let names = [
        "%2e%2e%2fx",
        ".%2e/x",
        "\u{ff0e}\u{ff0e}\u{ff0f}x",
        "\u{2024}\u{2024}/x",
        "\u{2215}etc\u{2215}passwd",
        "a\\..\\x",
        "C:\\x",
        "~/x",
        "$HOME",
        "a;b",
        "-rf",
        "a/...",
        "a/..b",
        "é",
        "e\u{301}",
        longest.as_str(),
    ];
    for name in names {
        assert_eq!(named(name).unwrap().objects[0].name, name);
    }
    // Linux tells them apart, and so do we: neither takes the other's place.
    let objects = ["A", "a", "é", "e\u{301}"]
        .map(|name| json!({ "objectName": name, "secretPath": "kv/app" }));
    let spec = understood(&json!({ "objects": json!(objects).to_string() })).unwrap();
    let names: BTreeSet<&str> = spec
        .objects
        .iter()
        .map(|object| object.name.as_str())
        .collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn paths_that_a_server_could_read_as_others_are_refused() {
    let wrong = [
        "",
        "/",
        "v1",
        "v1/",
        "kv/../sys/raw",
        "kv/..",
        "../sys",
        "./kv",
        "kv/./app",
        "kv\\..\\sys",
        "kv/a\0b",
        "kv/a\r\nX-Vault-Token: x",
        "kv/a\u{7f}",
        "kv/a\u{9b}b",
    ];
    for path in wrong {
        // A path of the version alone has nothing below it.
        let refused = reading(path);
        if path == "v1" {
            assert_eq!(refused.unwrap().objects[0].request.path, "v1");
            continue;
        }
        let told = refused
            .err()
            .unwrap_or_else(|| panic!("{path:?} was accepted"));
        assert!(told.contains("secretPath"), "{path:?}: {told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
        // The mount is part of a path as well, and the namespace stands before it.
        let login =
            understood(&json!({ "objects": one("a", "kv/app"), "vaultAuthMountPath": path }));
        let harmless = path == "v1/";
        assert!(
            login.is_err() || harmless || path.trim_matches('/').is_empty(),
            "{path:?} as a mount"
        );
    }
}

#[test]
fn namespaces_that_would_go_up_are_refused() {
    for namespace in [
        "..",
        "team/..",
        "team/../other",
        "./team",
        "a\nb",
        "a\0b",
        "té",
    ] {
        let class = json!({ "objects": one("a", "kv/app"), "vaultNamespace": namespace });
        let told = understood(&class).unwrap_err();
        assert!(told.contains("vaultNamespace"), "{namespace:?}: {told}");
    }
    for namespace in ["team", "team/sub/", "te..am", "%2e%2e"] {
        let class = json!({ "objects": one("a", "kv/app"), "vaultNamespace": namespace });
        assert!(understood(&class).is_ok(), "{namespace:?}");
    }
}

fn trap() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "..", ".", "/", "//", "%2e", "%2f", "\0", "\\", "\n", "\u{ff0e}", "\u{2215}", "\u{202e}",
        "?", "#", "&", "=", "@", ":", "v1/", "a", "B", "data", "é", " ", "~", ";",
    ]);
    let known = prop::collection::vec(pieces, 0..9).prop_map(|pieces| pieces.concat());
    prop_oneof![3 => known, 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_name_that_is_accepted_stays_in_the_volume(name in trap()) {
        if let Ok(spec) = named(&name) {
            prop_assert_eq!(&spec.objects[0].name, &name);
            let path = Path::new("/volume").join(&name);
            let within: Vec<Component<'_>> = path.strip_prefix("/volume").unwrap().components().collect();
            prop_assert!(!within.is_empty());
            prop_assert!(within.iter().all(|part| matches!(part, Component::Normal(_))));
            let again: PathBuf = within.iter().collect();
            prop_assert_eq!(again.to_str(), Some(name.as_str()));
        }
    }

    #[test]
    fn any_path_that_is_accepted_has_the_segments_it_shows(path in trap()) {
        if let Ok(spec) = reading(&path) {
            let request = &spec.objects[0].request;
            let asked = path.split_once('?').map_or(path.as_str(), |(path, _)| path);
            let asked = asked.strip_prefix('/').unwrap_or(asked);
            let asked = asked.strip_prefix("v1/").unwrap_or(asked);
            // Doubled slashes count as one, as for the incumbents.
            let parts: Vec<&str> = asked.split('/').filter(|part| !part.is_empty()).collect();
            prop_assert_eq!(&request.path, &parts.join("/"));
            prop_assert!(request.path.split('/').all(|part| !matches!(part, "" | "." | "..")));
        }
    }
}

/// Every file below a directory, links not followed.
fn tree(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => found.extend(tree(&path)),
            false => {
                found.insert(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn over_the_wire_each_path_is_read_as_named_and_each_file_lies_where_named() {
    let world = World::new().await;
    let (volume, other) = (world.volume("web"), world.volume("other"));
    other.prepare();
    let before = tree(&world.node.pods());
    // Lookalikes, other cases, and what a form or a URL would decode: each is a secret of its own.
    let paths = [
        "a#b",
        "100%",
        "a%20b",
        "my-project%2fpassword",
        "%2e%2e",
        "%252e",
        "a%00b",
        "app",
        "App",
        "\u{ff0e}\u{ff0e}",
        "a b",
        "a+b",
        "a;b",
        "a&b=c",
        "é",
        "e\u{301}",
        "\u{202e}ppa",
    ];
    for path in paths {
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
        world
            .admin
            .write(
                &format!("kv/{encoded}"),
                json!({ "k": format!("secret of {path}") }),
            )
            .await;
    }
    world.vault.clear_calls();
    let objects: Vec<Value> = paths
        .iter()
        .map(|path| json!({ "objectName": format!("dir/{path}"), "secretPath": format!("kv/{path}"), "secretKey": "k" }))
        .collect();
    world
        .mount(&volume, &class(&json!(objects).to_string()))
        .await;
    for path in paths {
        assert_eq!(
            volume.text(&format!("dir/{path}")),
            format!("secret of {path}")
        );
    }
    let made: Vec<PathBuf> = tree(&world.node.pods())
        .difference(&before)
        .cloned()
        .collect();
    assert!(made.len() > paths.len());
    for path in made {
        assert!(path.starts_with(volume.target()), "{}", path.display());
    }
    assert_eq!(world.vault.count("GET", "kv/"), paths.len());
    // A key is looked up, never walked or joined.
    for key in ["../k", "/etc/passwd", "a.b", "data/k", "K", "k\0", "*", "."] {
        let object = json!([{ "objectName": "a", "secretPath": "kv/app", "secretKey": key }]);
        let told = world
            .refused(&volume, &class(&object.to_string()), Code::NotFound)
            .await;
        assert!(told.contains("has no key"), "{key:?}: {told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
}
