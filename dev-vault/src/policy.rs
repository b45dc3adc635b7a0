//! ACL policies: what a token may do where (OpenBao `vault/acl.go`, `vault/policy.go`).

use std::collections::BTreeSet;

use serde_json::Value;

/// A policy's rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    written: String,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: String,
    capabilities: BTreeSet<String>,
}

/// The built-in policy of every token that is not told otherwise (OpenBao `vault/policy_store.go`).
pub const DEFAULT: &str = r#"
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/internal/ui/resultant-acl" { capabilities = ["read"] }
path "sys/renew" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "cubbyhole/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/wrapping/wrap" { capabilities = ["update"] }
path "sys/wrapping/lookup" { capabilities = ["update"] }
path "sys/wrapping/unwrap" { capabilities = ["update"] }
path "sys/tools/hash" { capabilities = ["update"] }
path "sys/tools/hash/*" { capabilities = ["update"] }
"#;

impl Policy {
    /// Reads HCL or JSON. Of HCL no more than `path "…" { capabilities = […] }`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            return Self::parse_json(text);
        }
        let mut rules = Vec::new();
        let mut rest = strip_comments(text);
        while let Some(start) = rest.find("path") {
            let after = rest.get(start + 4..).unwrap_or_default();
            let (pattern, after) = quoted(after).ok_or("a path without its pattern")?;
            let open = after.find('{').ok_or("a path without its block")?;
            let close = after.find('}').ok_or("a block without its end")?;
            let block = after.get(open + 1..close).unwrap_or_default();
            let mut capabilities = BTreeSet::new();
            let mut list = block
                .split_once('[')
                .map_or("", |(_, list)| list)
                .to_owned();
            while let Some((capability, tail)) = quoted(&list) {
                capabilities.insert(capability);
                list = tail;
            }
            rules.push(Rule {
                pattern,
                capabilities,
            });
            rest = after.get(close + 1..).unwrap_or_default().to_owned();
        }
        let written = text.to_owned();
        Ok(Self { rules, written })
    }

    /// The text that it was read from.
    pub fn written(&self) -> &str {
        &self.written
    }

    fn parse_json(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let paths = value.get("path").and_then(Value::as_object);
        let rules = paths.into_iter().flatten().map(|(pattern, block)| Rule {
            pattern: pattern.clone(),
            capabilities: block
                .get("capabilities")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|capability| capability.as_str().map(str::to_owned))
                .collect(),
        });
        Ok(Self {
            rules: rules.collect(),
            written: text.to_owned(),
        })
    }
}

fn strip_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        !line.starts_with('#') && !line.starts_with("//")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The first text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, String)> {
    let (_, after) = text.split_once('"')?;
    let (inner, rest) = after.split_once('"')?;
    Some((inner.to_owned(), rest.to_owned()))
}

/// What several policies together allow at a path: those rules count that have the most specific
/// pattern; deny beats all.
pub fn capabilities<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    path: &str,
) -> BTreeSet<String> {
    let mut best: Option<(Rank, BTreeSet<String>)> = None;
    for rule in policies.flat_map(|policy| &policy.rules) {
        if !matches(&rule.pattern, path) {
            continue;
        }
        let rank = rank(&rule.pattern);
        match &mut best {
            Some((known, all)) if *known == rank => all.extend(rule.capabilities.iter().cloned()),
            Some((known, _)) if *known > rank => {}
            _ => best = Some((rank, rule.capabilities.clone())),
        }
    }
    let all = best.map(|(_, all)| all).unwrap_or_default();
    if all.contains("deny") {
        BTreeSet::from(["deny".to_owned()])
    } else {
        all
    }
}

/// Whether any rule that is no denial lies below a mount, or covers it.
pub fn reaches<'a>(mut policies: impl Iterator<Item = &'a Policy>, mount: &str) -> bool {
    let folder = format!("{mount}/");
    policies.any(|policy| {
        policy.rules.iter().any(|rule| {
            !rule.capabilities.contains("deny")
                && (rule.pattern.starts_with(&folder) || matches(&rule.pattern, &folder))
        })
    })
}

/// Whether the capabilities allow an operation.
pub fn allows(capabilities: &BTreeSet<String>, method: &str, lists: bool, sudo: bool) -> bool {
    let has = |capability: &str| capabilities.contains(capability);
    let operation = match method {
        _ if lists => has("list"),
        "GET" => has("read"),
        "POST" | "PUT" => has("update") || has("create"),
        "DELETE" => has("delete"),
        "PATCH" => has("patch"),
        _ => false,
    };
    operation && (!sudo || has("sudo"))
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, prefix) = match pattern.strip_suffix('*') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    if !pattern.contains('+') {
        return if prefix {
            path.starts_with(pattern)
        } else {
            path == pattern
        };
    }
    let mut wanted = pattern.split('/').peekable();
    let mut given = path.split('/');
    while let Some(part) = wanted.next() {
        let last = wanted.peek().is_none();
        match given.next() {
            Some(have) if part == "+" || part == have => {}
            Some(have) => return prefix && last && have.starts_with(part),
            None => return false,
        }
        if last {
            return prefix || given.next().is_none();
        }
    }
    false
}

/// How specific a pattern is: no wildcard at all, then a later first wildcard, no `*`, fewer `+`, length,
/// and the text itself, so that equal ranks mean equal patterns.
type Rank = (bool, usize, bool, std::cmp::Reverse<usize>, usize, String);

fn rank(pattern: &str) -> Rank {
    let first = pattern.find(['+', '*']);
    (
        first.is_none(),
        first.unwrap_or(usize::MAX),
        !pattern.ends_with('*'),
        std::cmp::Reverse(pattern.matches('+').count()),
        pattern.len(),
        pattern.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(policy: &str, path: &str) -> Vec<String> {
        let policy = Policy::parse(policy).unwrap();
        capabilities(std::iter::once(&policy), path)
            .into_iter()
            .collect()
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let policy = r#"
            # comment
            path "kv/*" { capabilities = ["read", "list"] }
            path "kv/deep/+/key" { capabilities = ["deny"] }
            path "kv/app" { capabilities = ["update"] }
        "#;
        assert_eq!(may(policy, "kv/x"), ["list", "read"]);
        assert_eq!(may(policy, "kv/deep/a/key"), ["deny"]);
        assert_eq!(may(policy, "kv/deep/a/b/key"), ["list", "read"]);
        assert_eq!(may(policy, "kv/app"), ["update"]);
        assert!(may(policy, "other").is_empty());
    }

    #[test]
    fn a_mount_is_reached_by_rules_below_it_and_above_it() {
        let reached = |policy: &str, mount: &str| {
            let policy = Policy::parse(policy).unwrap();
            reaches(std::iter::once(&policy), mount)
        };
        let below = r#"path "kv/data/app" { capabilities = ["read"] }"#;
        assert!(reached(below, "kv"));
        assert!(!reached(below, "k"));
        assert!(reached(r#"path "*" { capabilities = ["read"] }"#, "kv"));
        assert!(!reached(r#"path "kv/*" { capabilities = ["deny"] }"#, "kv"));
    }

    #[test]
    fn an_operation_needs_its_capability_and_sudo_where_it_is_asked_for() {
        let has = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let read: BTreeSet<String> = has(&["read"]);
        assert!(allows(&read, "GET", false, false));
        assert!(!allows(&read, "GET", true, false), "listing is another");
        assert!(!allows(&read, "PUT", false, false));
        assert!(!allows(&read, "GET", false, true));
        assert!(allows(&has(&["create"]), "POST", false, false));
        assert!(allows(&has(&["update", "sudo"]), "PUT", false, true));
        assert!(!allows(&has(&["deny"]), "GET", false, false));
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        assert!(Policy::parse(r#"path "kv/*" { capabilities = ["read"]"#).is_err());
        assert!(Policy::parse("{ not json").is_err());
    }

    #[test]
    fn json_is_read_as_well() {
        let policy = r#"{"path": {"a/+/b*": {"capabilities": ["read"]}}}"#;
        assert_eq!(may(policy, "a/x/bcd"), ["read"]);
        assert!(may(policy, "a/x/c").is_empty());
    }
}
