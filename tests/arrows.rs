//! The rooms and their arrows: which module may use which. A new arrow is a decision, made here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What each room may use. Inner rooms know no outer one.
const PLAN: &[(&str, &[&str])] = &[
    ("redacted", &[]),
    ("clock", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    // Both are told of by the metrics, and used by whatever runs in the background.
    ("liveness", &["metrics"]),
    ("supervisor", &["metrics"]),
    ("spec", &[]),
    ("proxy", &[]),
    ("pattern", &[]),
    ("memory", &[]),
    ("blocking", &[]),
    // One rule for `policy` (what a class may name) and `vault` (where a redirect may lead).
    ("addresses", &["pattern"]),
    ("grant", &["clock", "redacted", "spec"]),
    ("params", &["redacted", "spec"]),
    ("render", &["clock", "grant", "redacted", "spec"]),
    (
        "vault",
        &[
            "addresses",
            "blocking",
            "clock",
            "grant",
            "memory",
            "metrics",
            "proxy",
            "redacted",
            "spec",
        ],
    ),
    (
        "registry",
        &["clock", "grant", "liveness", "metrics", "redacted", "spec"],
    ),
    ("policy", &["addresses", "pattern", "spec"]),
    ("service_account", &["redacted", "spec"]),
    ("version_key", &["metrics", "redacted"]),
    ("paths", &["liveness", "metrics", "registry", "spec"]),
    ("pods", &["metrics", "registry"]),
    ("events", &["metrics", "registry", "spec"]),
    ("missing", &["metrics"]),
    ("admin", &["liveness", "metrics", "supervisor"]),
    // Built for tests and by `cargo fuzz` alone.
    (
        "fuzzing",
        &["params", "provider", "registry", "render", "spec", "vault"],
    ),
    (
        "mount",
        &[
            "clock",
            "blocking",
            "grant",
            "memory",
            "params",
            "paths",
            "redacted",
            "registry",
            "render",
            "service_account",
            "spec",
            "vault",
            "version_key",
        ],
    ),
    (
        "provider",
        &[
            "blocking", "memory", "metrics", "mount", "params", "policy", "render", "spec", "vault",
        ],
    ),
    ("check", &["params", "spec"]),
    (
        "config",
        &[
            "addresses",
            "params",
            "pattern",
            "policy",
            "proxy",
            "spec",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "blocking",
            "clock",
            "config",
            "events",
            "liveness",
            "memory",
            "metrics",
            "missing",
            "mount",
            "paths",
            "pods",
            "provider",
            "registry",
            "service_account",
            "spec",
            "supervisor",
            "vault",
            "version_key",
        ],
    ),
];

#[test]
fn arrows_run_as_planned() {
    let plan: BTreeMap<&str, BTreeSet<&str>> = PLAN
        .iter()
        .map(|(room, uses)| (*room, uses.iter().copied().collect()))
        .collect();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    walk(Path::new("src"), &mut used);
    let rooms: BTreeSet<&str> = used.keys().map(String::as_str).collect();
    let planned: BTreeSet<&str> = plan.keys().copied().collect();
    assert_eq!(
        rooms, planned,
        "rooms that are there, and rooms of the plan"
    );
    for (room, uses) in &used {
        let allowed = &plan[room.as_str()];
        for other in uses {
            assert!(
                allowed.contains(other.as_str()),
                "{room} uses {other}, which the plan does not have"
            );
        }
        for other in allowed {
            assert!(
                uses.contains(*other),
                "{room} does not use {other}: take the arrow out of the plan"
            );
        }
    }
}

fn walk(directory: &Path, used: &mut BTreeMap<String, BTreeSet<String>>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, used);
            continue;
        }
        let inner = path.strip_prefix("src").unwrap();
        let first = inner
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let room = first.trim_end_matches(".rs");
        if matches!(room, "main" | "lib") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let uses = used.entry(room.to_owned()).or_default();
        for part in text.split("crate::").skip(1) {
            if let Some(rest) = part.strip_prefix('{') {
                // use crate::{a, b}
                let list = rest.split('}').next().unwrap_or_default();
                let names = list
                    .split(',')
                    .map(|name| name.trim().split("::").next().unwrap_or_default());
                uses.extend(
                    names
                        .filter(|name| !name.is_empty() && *name != room)
                        .map(str::to_owned),
                );
                continue;
            }
            let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let name = &part[..end.unwrap_or(part.len())];
            if name != room {
                uses.insert(name.to_owned());
            }
        }
    }
}
