//! What the documents promise is shown by tests that exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every test of the crate: `file::name` for those below `tests/`, `module::tests::name` for unit tests.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["tests", "src"] {
        walk(Path::new(root), Path::new(root), &mut found);
    }
    found
}

fn walk(root: &Path, directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, found);
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let module = path.strip_prefix(root).unwrap().with_extension("");
        let mut module = module.to_str().unwrap().replace('/', "::");
        if root == Path::new("src") && !module.contains("::tests") && !module.ends_with("tests") {
            module.push_str("::tests");
        }
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, name)) = line.split_once("fn ").filter(|_| is_test) {
                let name = name.split('(').next().unwrap();
                found.insert(format!("{module}::{name}"));
                is_test = false;
            }
        }
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    let known = tests();
    let mut named = 0;
    for document in [
        "docs/outages.md",
        "docs/compatibility.md",
        "docs/threat-model.md",
    ] {
        let text = fs::read_to_string(document).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_name = name.contains("::")
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c));
            if is_name {
                assert!(known.contains(name), "{document} names {name}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named} names: are they still written so?");
}
