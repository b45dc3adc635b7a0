use std::fs;

use super::*;
use crate::spec::{Encoding, Endpoint, Login, Object, OnUnmount, Pod, Request, Selector, VolumeId};

fn spec() -> MountSpec {
    MountSpec {
        volume: VolumeId {
            pod_uid: "uid".to_owned(),
            target_path: PathBuf::from("/pods/uid/mount"),
        },
        pod: Pod {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        },
        class: "app".to_owned(),
        endpoint: Endpoint {
            address: "https://vault.example:8200".to_owned(),
            namespace: Some("team/shop".to_owned()),
            tls: Tls::default(),
        },
        login: Login {
            mount: "teams/shop/kubernetes".to_owned(),
            role: "app".to_owned(),
            audience: "vault".to_owned(),
        },
        objects: vec![Object {
            name: "user".to_owned(),
            request: Request {
                method: Method::Post,
                path: "pki/issue/web".to_owned(),
                query: Vec::new(),
                args: None,
            },
            selector: Selector::Response,
            encoding: Encoding::Utf8,
            mode: 0o644,
        }],
        on_unmount: OnUnmount::default(),
    }
}

fn patterns(texts: &[&str]) -> Option<Vec<Pattern>> {
    Some(texts.iter().map(|text| Pattern::new(text)).collect())
}

#[test]
fn a_star_stays_within_a_part_and_two_go_beyond() {
    let table = [
        (
            "https://vault.example:8200",
            "https://vault.example:8200",
            true,
        ),
        (
            "https://vault.example:8200",
            "https://vault.example:82000",
            false,
        ),
        ("https://*.example:8200", "https://a.example:8200", true),
        ("https://*.example:8200", "https://a.b.example:8200", true),
        // What a tenant would try.
        (
            "https://*.example:8200",
            "https://evil/x.example:8200",
            false,
        ),
        (
            "https://*.example:8200",
            "https://evil:443/.example:8200",
            false,
        ),
        (
            "https://*.example:8200",
            "https://me@evil.example:8200",
            false,
        ),
        ("https://*.example:8200", "http://a.example:8200", false),
        ("*", "kubernetes", true),
        ("*", "teams/a", false),
        ("teams/*", "teams/a", true),
        ("teams/*", "teams/a/b", false),
        ("teams/**", "teams/a/b", true),
        ("**", "", true),
        ("", "", true),
        ("", "a", false),
        ("a*b*c", "abc", true),
        ("a*b*c", "axbxbxc", true),
        ("a*b*c", "axbxbx", false),
    ];
    for (pattern, text, wanted) in table {
        assert_eq!(Pattern::new(pattern).fits(text), wanted, "{pattern} {text}");
    }
}

#[test]
fn a_hostile_text_costs_no_more_than_its_length() {
    let pattern = Pattern::new(&"*a".repeat(50));
    assert!(!pattern.fits(&"a".repeat(10_000).replace("aaaa", "aaab")));
}

#[test]
fn without_a_flag_everything_is_allowed() {
    let mut spec = spec();
    spec.endpoint.tls.skip_verify = true;
    spec.endpoint.tls.client_key = Some(PathBuf::from("/etc/shadow"));
    assert_eq!(Policy::default().check(&spec), Ok(()));
}

#[test]
fn each_rule_forbids_what_it_does_not_name() {
    let strict = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.check(&spec()).err().map(|violation| violation.flag)
    };
    type Row = (fn(&mut Policy), Option<&'static str>);
    let table: [Row; 12] = [
        (
            |policy| policy.addresses.patterns = patterns(&["https://other:8200"]),
            Some("-allow-vault-address"),
        ),
        (
            |policy| {
                policy.addresses.patterns =
                    patterns(&["https://other:8200", "https://vault.*:8200"])
            },
            None,
        ),
        (
            |policy| policy.namespaces = patterns(&["team/web"]),
            Some("-allow-namespace"),
        ),
        (|policy| policy.namespaces = patterns(&["team/*"]), None),
        (
            |policy| policy.auth_mounts = patterns(&["kubernetes"]),
            Some("-allow-auth-mount"),
        ),
        (
            |policy| policy.auth_mounts = patterns(&["teams/*/kubernetes"]),
            None,
        ),
        (
            |policy| policy.methods = Some(vec![Method::Get]),
            Some("-allow-method"),
        ),
        (
            |policy| policy.methods = Some(vec![Method::Get, Method::Post]),
            None,
        ),
        (|policy| policy.forbid_skip_verify = true, None),
        (
            |policy| {
                policy.addresses.patterns = patterns(&[]);
                policy.addresses.own = Some("HTTPS://vault.example:8200/".to_owned());
            },
            None,
        ),
        (
            |policy| {
                policy.namespaces = patterns(&[]);
                policy.own.namespace = Some("team/shop".to_owned());
            },
            None,
        ),
        (
            |policy| {
                policy.auth_mounts = patterns(&[]);
                "teams/shop/kubernetes".clone_into(&mut policy.own.auth_mount);
            },
            None,
        ),
    ];
    for (index, (change, wanted)) in table.into_iter().enumerate() {
        assert_eq!(strict(change), wanted, "row {index}");
    }
}

#[test]
fn a_class_may_not_turn_the_check_off_where_we_do_not() {
    let mut spec = spec();
    spec.endpoint.tls.skip_verify = true;
    let mut policy = Policy {
        forbid_skip_verify: true,
        ..Policy::default()
    };
    let violation = policy.check(&spec).unwrap_err();
    assert_eq!(violation.what, "vaultSkipTLSVerify");
    policy.own.tls.skip_verify = true;
    assert_eq!(policy.check(&spec), Ok(()));
}

#[test]
fn files_are_confined_wherever_their_links_lead() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("tls"), root.path().join("secret.pem"));
    fs::create_dir_all(inside.join("..2026")).unwrap();
    fs::write(inside.join("..2026/ca.crt"), "x").unwrap();
    fs::write(&outside, "x").unwrap();
    std::os::unix::fs::symlink("..2026", inside.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ca.crt", inside.join("ca.crt")).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
    let policy = Policy {
        tls_files: Some(inside.clone()),
        own: Own {
            tls: Tls {
                client_key: Some(outside.clone()),
                ..Tls::default()
            },
            ..Own::default()
        },
        ..Policy::default()
    };
    let check = |file: PathBuf| {
        let mut spec = spec();
        spec.endpoint.tls.ca_file = Some(file);
        policy.check(&spec).is_ok()
    };
    assert!(check(inside.join("ca.crt")), "as a ConfigMap mounts it");
    assert!(check(inside.join("absent")), "told later, by its own fault");
    for file in ["link", "../secret.pem", "../absent", "absent/../../absent"] {
        assert!(!check(inside.join(file)), "{file}");
    }
    assert!(!check(outside.clone()));
    assert!(!check(PathBuf::from("ca.crt")));
    let mut spec = spec();
    spec.endpoint.tls.client_key = Some(outside);
    assert_eq!(policy.check(&spec), Ok(()), "our own flag names it");
}
