use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::spec::{Encoding, Method, Selector};

mod incumbent;
mod sizes;
mod words;

const TARGET: &str = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/v/mount";

fn defaults() -> Defaults {
    Defaults {
        flavour: Flavour::Vault,
        address: Some("https://vault:8200".to_owned()),
        agent_address: None,
        namespace: None,
        auth_mount: "kubernetes".to_owned(),
        tls: Tls::default(),
    }
}

/// Attributes with `over` laid over a class that is right; `null` takes a parameter away.
fn attributes(over: Value) -> String {
    let mut whole = json!({
        "roleName": "app",
        "objects": "- objectName: a\n  secretPath: secret/data/app\n  secretKey: k\n",
        "secretProviderClass": "class",
        "csi.storage.k8s.io/pod.name": "web-0",
        "csi.storage.k8s.io/pod.namespace": "shop",
        "csi.storage.k8s.io/pod.uid": "uid-1",
        "csi.storage.k8s.io/serviceAccount.name": "web",
        "csi.storage.k8s.io/ephemeral": "true",
        TOKENS: json!({"vault": {"token": "jwt-1", "expirationTimestamp": "2100-01-01T00:00:00Z"}, "other": {"token": "jwt-2"}}).to_string(),
    });
    let (Value::Object(whole), Value::Object(over)) = (&mut whole, over) else {
        panic!("maps")
    };
    for (name, value) in over {
        if value.is_null() {
            whole.remove(&name);
        } else {
            whole.insert(name, value);
        }
    }
    Value::Object(whole.clone()).to_string()
}

fn parsed_with(attributes: &str, secrets: &str) -> Result<Parsed, Faults> {
    let message = Attributes {
        attributes,
        secrets,
        target_path: TARGET,
        permission: "420",
    };
    parse(&message, &defaults())
}

fn parsed(over: Value) -> Parsed {
    match parsed_with(&attributes(over), "") {
        Ok(parsed) => parsed,
        Err(faults) => panic!("{faults}"),
    }
}

fn refused(over: Value) -> String {
    match parsed_with(&attributes(over), "") {
        Ok(_) => panic!("accepted"),
        Err(faults) => faults.to_string(),
    }
}

fn object(yaml: &str) -> crate::spec::Object {
    parsed(json!({ "objects": yaml })).spec.objects.remove(0)
}

#[test]
fn a_class_becomes_a_spec() {
    let parsed = parsed(json!({}));
    let spec = parsed.spec;
    assert_eq!(spec.login.role, "app");
    assert_eq!(spec.login.mount, "kubernetes");
    assert_eq!(spec.login.audience, "vault");
    assert_eq!(spec.endpoint.address, "https://vault:8200");
    assert_eq!(spec.pod.service_account_id(), "shop/web");
    assert_eq!(spec.class, "class");
    assert_eq!(spec.objects[0].mode, 0o644);
    assert!(parsed.warnings.is_empty());
    assert!(parsed.tokens.wanted.unwrap().jwt.expose() == "jwt-1");
}

#[test]
fn the_class_wins_over_the_defaults() {
    let spec = parsed(json!({
        "vaultAddress": "http://bao:8200/pre/",
        "vaultNamespace": "team/a",
        "vaultAuthMountPath": "/teams/a/kubernetes/",
        "audience": "other",
        "vaultSkipTLSVerify": "T",
        "vaultCACertPath": "/ca.crt",
        "vaultTLSServerName": "name",
    }))
    .spec;
    assert_eq!(spec.endpoint.address, "http://bao:8200/pre");
    assert_eq!(spec.endpoint.namespace.as_deref(), Some("team/a"));
    assert_eq!(spec.login.mount, "teams/a/kubernetes");
    assert_eq!(spec.login.audience, "other");
    assert!(spec.endpoint.tls.skip_verify);
    assert_eq!(spec.endpoint.tls.ca_file, Some(PathBuf::from("/ca.crt")));
}

#[test]
fn openbaos_spellings_mean_the_same() {
    let spec = parsed(json!({"baoAddress": "http://a", "openbaoNamespace": "n"})).spec;
    assert_eq!(spec.endpoint.address, "http://a");
    assert_eq!(spec.endpoint.namespace.as_deref(), Some("n"));
    let both = parsed(json!({"baoAddress": "http://a", "vaultAddress": "http://b"}));
    assert_eq!(both.spec.endpoint.address, "http://b");
    assert_eq!(
        both.warnings,
        ["\"baoAddress\" has no effect beside \"vaultAddress\": keep one of them"]
    );
}

#[test]
fn tokens_come_in_the_attributes_or_in_the_secrets() {
    let tokens = json!({"vault": {"token": "from-secrets"}}).to_string();
    let secrets = json!({ TOKENS: tokens }).to_string();
    let parsed = parsed_with(&attributes(json!({ TOKENS: null })), &secrets);
    let wanted = parsed.ok().unwrap().tokens.wanted.unwrap();
    assert!(wanted.jwt.expose() == "from-secrets");
}

#[test]
fn a_missing_audience_is_told_with_those_there_are() {
    let tokens = parsed(json!({"audience": "third"})).tokens;
    assert!(tokens.wanted.is_none());
    assert_eq!(tokens.offered, ["other", "vault"]);
}

#[test]
fn an_expired_token_is_no_fault_of_the_class() {
    let with = |expires: &str| {
        let tokens = json!({"vault": {"token": "jwt-1", "expirationTimestamp": expires}});
        let parsed = parsed(json!({ TOKENS: tokens.to_string() }));
        let wanted = parsed.tokens.wanted.unwrap();
        wanted.unexpired("vault", SystemTime::now())
    };
    let told = with("2020-01-01T00:00:00Z").unwrap_err().to_string();
    assert!(
        told.contains("audience \"vault\" expired at 2020") && told.contains("requiresRepublish"),
        "{told}"
    );
    assert!(!told.contains("jwt-1"), "{told}");
    // Within the servers' leeway it may still be taken.
    let now = Timestamp::try_from(SystemTime::now() - Duration::from_secs(30)).unwrap();
    assert_eq!(with(&now.to_string()), Ok(()));
    assert_eq!(with("2100-01-01T00:00:00Z"), Ok(()));
    assert_eq!(with("soon"), Ok(()), "the token itself tells the server");
}

#[test]
fn all_faults_are_told_together_with_field_and_place() {
    let told = refused(json!({
        "roleName": null,
        "vaultAddress": "10.0.0.1:8200",
        "vaultNamespace": "a\nb",
        "vaultSkipTLSVerify": "maybe",
        "objects": "- objectName: ../x\n  secretPath: secret/../y\n- objectName: b\n  secretPath: c\n  filePermission: 0x1ffffffff\n  method: PATCH\n  secretKey: k\n  encoding: rot13\n",
    }));
    for part in [
        "roleName: is missing",
        "vaultAddress: \"10.0.0.1:8200\" has no https://",
        "vaultNamespace",
        "vaultSkipTLSVerify: \"maybe\"",
        "objects[0].objectName (line 1, column 15)",
        "objects[0].secretPath (line 2, column 15)",
        "objects[1].filePermission (line 5",
        "objects[1].method",
        "objects[1].encoding",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn yaml_that_cannot_be_read_has_its_place_told() {
    let told = refused(json!({"objects": "- objectName: a\n  secretPath: [b\n"}));
    assert!(told.contains("objects (line "), "{told}");
    for (objects, part) in [
        ("", "there are none"),
        ("[]", "there are none"),
        (
            "- objectName: a\n  secretPath: p\n  secretPath: q\n",
            "objects (line 3",
        ),
        (
            "- objectName: a\n  secretPath: p\n- objectName: a\n  secretPath: q\n",
            "given twice",
        ),
        (
            "- objectName: a\n  secretPath: p\n- objectName: a/b\n  secretPath: q\n",
            "as a directory",
        ),
        ("- objectName: /a\n  secretPath: p\n", "is absolute"),
        (
            "- objectName: a\n  secretPath: p\n  secretArgs: [1]\n",
            "is no map",
        ),
    ] {
        let told = refused(json!({ "objects": objects }));
        assert!(told.contains(part), "{objects}: {told}");
    }
}

#[test]
fn permissions_are_octal_as_people_write_them() {
    for (written, mode) in [
        ("0600", 0o600),
        ("0o600", 0o600),
        ("420", 0o644),
        ("\"0644\"", 0o644),
        ("\"420\"", 0o644),
        ("'0o600'", 0o600),
        ("0", 0o644),
        ("~", 0o644),
        ("0777", 0o777),
        ("420.9", 0o644),
    ] {
        let yaml = format!("- objectName: a\n  secretPath: p\n  filePermission: {written}\n");
        assert_eq!(object(&yaml).mode, mode, "{written}");
    }
    for written in ["4294967296", "-1", "rw", "\"\"", "[1]", "true"] {
        let yaml = format!("- objectName: a\n  secretPath: p\n  filePermission: {written}\n");
        let told = refused(json!({ "objects": yaml }));
        assert!(told.contains("objects[0].filePermission (line 3"), "{told}");
    }
}

#[test]
fn arguments_keep_their_types_and_are_sorted() {
    let object = object(
        "- objectName: a\n  secretPath: /v1/pki/issue/web?x=1\n  method: put\n  secretArgs:\n    ttl: 24h\n    common_name: web\n    strict: true\n    word: yes\n    count: 7\n    nested: {b: 1, a: [x]}\n",
    );
    assert_eq!(object.request.method, Method::Put);
    assert_eq!(object.request.path, "pki/issue/web");
    assert_eq!(object.request.query, [("x".to_owned(), "1".to_owned())]);
    assert_eq!(
        object.request.args.as_deref(),
        Some(
            r#"{"common_name":"web","count":7,"nested":{"a":["x"],"b":1},"strict":true,"ttl":"24h","word":"yes"}"#
        )
    );
}

#[test]
fn json_and_defaults() {
    let object = object(
        r#"[{"objectName": "a", "secretPath": "p", "secretKey": null, "encoding": "BASE64"}]"#,
    );
    assert_eq!(object.selector, Selector::Response);
    // A whole response is JSON: an encoding says nothing of it.
    assert_eq!(object.encoding, Encoding::Utf8);
    assert_eq!(object.request.method, Method::Get);
    assert_eq!(object.request.args, None);
}

#[test]
fn unknown_names_warn() {
    let parsed = parsed(json!({
        "vaultRole": "x",
        "objects": "- objectName: a\n  secretPath: p\n  secretkey: q\n",
    }));
    let told = parsed.warnings.join("\n");
    assert!(
        told.contains("\"vaultRole\" has no effect: did you mean \"roleName\"?"),
        "{told}"
    );
    assert!(
        told.contains("\"secretkey\" has no effect: did you mean \"secretKey\"?"),
        "{told}"
    );
}

#[test]
fn broken_messages_are_refused() {
    for broken in ["", "[]", "{", "null", r#"{"roleName": 1}"#] {
        assert!(parsed_with(broken, "").is_err(), "{broken}");
    }
    assert!(parsed_with(&" ".repeat(LARGEST + 1), "").is_err());
    assert!(parsed_with(&attributes(json!({ TOKENS: "x" })), "").is_err());
    assert!(parsed_with(&attributes(json!({ TOKENS: null })), "x").is_err());
    for (target, permission) in [
        ("relative", "420"),
        ("/a/../b", "420"),
        (TARGET, "1000"),
        (TARGET, "x"),
    ] {
        let message = Attributes {
            attributes: &attributes(json!({})),
            secrets: "",
            target_path: target,
            permission,
        };
        assert!(parse(&message, &defaults()).is_err());
    }
}

#[test]
fn messages_quote_no_password_and_no_argument() {
    let told = refused(json!({"vaultAddress": "https://me:hunter2@vault:8200"}));
    assert!(
        told.contains("user name") && !told.contains("hunter2"),
        "{told}"
    );
    let head = "- objectName: a\n  secretPath: p\n";
    for (tail, part) in [
        (
            format!("  secretArgs: {{pin: {}}}\n", "7".repeat(400)),
            "too large",
        ),
        (
            "  secretArgs: {a: 7777, a: 1}\n".to_owned(),
            "\"a\" is there twice",
        ),
        ("  secretArgs: {a: [7777\n".to_owned(), "cannot be read"),
    ] {
        let told = refused(json!({ "objects": format!("{head}{tail}") }));
        assert!(told.contains(part) && !told.contains("7777"), "{told}");
        assert!(
            !told.contains("Policy") && !told.contains("from_str"),
            "{told}"
        );
    }
}

#[test]
fn nothing_is_said_twice() {
    let whole = attributes(json!({}));
    let twice = whole.replacen('{', "{\"roleName\":\"other\",", 1);
    let told = parsed_with(&twice, "").err().unwrap().to_string();
    assert!(told.contains("roleName: is there twice"), "{told}");
}

#[test]
fn a_pod_without_a_name_is_refused() {
    for name in [
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/pod.namespace",
        "csi.storage.k8s.io/pod.uid",
        "csi.storage.k8s.io/serviceAccount.name",
    ] {
        let told = refused(json!({ name: null }));
        assert!(told.contains(&format!("{name}: is missing")), "{told}");
    }
}

#[test]
fn an_empty_token_is_none() {
    let tokens = json!({"vault": {"token": ""}}).to_string();
    let tokens = parsed(json!({ TOKENS: tokens })).tokens;
    assert!(tokens.wanted.is_none() && tokens.offered.is_empty());
}

#[test]
fn addresses_are_urls_and_nothing_more() {
    for wrong in [
        "https://h:99999",
        "https://h:",
        "https://h:80x",
        "https://h/a/../b",
        "https://h/%2e",
        "https://",
        "https://:1",
        "https://h?x",
        "h",
    ] {
        let told = refused(json!({ "vaultAddress": wrong }));
        assert!(told.starts_with("vaultAddress: "), "{wrong}: {told}");
    }
    for (right, address) in [
        ("HTTPS://vault:8200/", "https://vault:8200"),
        ("http://[::1]:8200", "http://[::1]:8200"),
        ("https://vault/pre", "https://vault/pre"),
    ] {
        let spec = parsed(json!({ "vaultAddress": right })).spec;
        assert_eq!(spec.endpoint.address, address);
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(objects in "\\PC{0,80}", tokens in "\\PC{0,40}", raw in "\\PC{0,60}") {
        let _ = parsed_with(&attributes(json!({ "objects": objects, TOKENS: tokens })), &raw);
        let _ = parsed_with(&raw, "");
    }

    #[test]
    fn no_yaml_breaks_it(lines in proptest::collection::vec("[-a-zA-Z0-9:{}\\[\\]&*!|>'\"#%@ ]{0,20}", 0..8)) {
        let _ = parsed_with(&attributes(json!({ "objects": lines.join("\n") })), "");
    }
}
