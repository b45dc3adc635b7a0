//! What a class of the incumbents relies on, beyond what `tests/parser.rs` compares with their own code.

use super::*;

#[test]
fn bits_beyond_the_permissions_are_dropped_and_told() {
    // The file system drops them for the incumbents: what a class gives must not change with the image.
    let class = parsed(json!({
        "objects": "- objectName: a\n  secretPath: p\n  filePermission: 644\n",
    }));
    assert_eq!(class.spec.objects[0].mode, 0o204);
    let told = class.warnings.join("");
    assert!(
        told.contains("644 is 01204 in octal, of which a file gets 0204"),
        "{told}"
    );
}

#[test]
fn a_field_of_the_wrong_kind_hides_no_other_fault() {
    let told = refused(json!({
        "roleName": null,
        "objects": "- objectName: [a]\n  secretPath: {b: c}\n  secretKey: [x]\n  encoding: {}\n- text\n- objectName: ../x\n  secretPath: p\n  secretArgs: 5\n",
    }));
    for part in [
        "roleName: is missing",
        "objects[0].objectName (line 1, column 15): is a list",
        "objects[0].secretPath (line 2, column 15): is a map",
        "objects[0].secretKey (line 3, column 14): is a list",
        "objects[0].encoding (line 4",
        "objects[1] (line 5, column 3): is no object",
        "objects[2].objectName (line 6",
        "objects[2].secretArgs (line 8",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn texts_are_the_letters_that_stand_there() {
    for (written, key) in [
        ("123", "123"),
        ("1.10", "1.10"),
        ("0644", "0644"),
        ("true", "true"),
        ("1e3", "1e3"),
        ("yes", "yes"),
        ("'it''s'", "it's"),
        ("a.b c", "a.b c"),
    ] {
        let yaml = format!("- objectName: a\n  secretPath: p\n  secretKey: {written}\n");
        assert_eq!(object(&yaml).selector, Selector::Key(key.to_owned()));
    }
    let aliased = object("- objectName: a\n  secretPath: &n 007\n  secretKey: *n\n");
    assert_eq!(aliased.request.path, "007");
    assert_eq!(aliased.selector, Selector::Key("007".to_owned()));
}

#[test]
fn a_certificate_never_pairs_with_a_key_of_the_defaults() {
    let mut defaults = defaults();
    defaults.tls.client_certificate = Some("/default.crt".into());
    defaults.tls.client_key = Some("/default.key".into());
    defaults.tls.skip_verify = true;
    let with = |over: Value| {
        let attributes = attributes(over);
        let message = Attributes {
            attributes: &attributes,
            secrets: "",
            target_path: TARGET,
            permission: "420",
        };
        parse(&message, &defaults)
    };
    let half = with(json!({"vaultTLSClientCertPath": "/own.crt"}))
        .err()
        .unwrap();
    let told = half.to_string();
    assert!(
        told.contains("vaultTLSClientCertPath: is set without vaultTLSClientKeyPath"),
        "{told}"
    );
    assert!(with(json!({"vaultTLSClientKeyPath": "/own.key"})).is_err());
    let none = with(json!({"vaultSkipTLSVerify": "false"}))
        .ok()
        .unwrap()
        .spec
        .endpoint
        .tls;
    assert_eq!(none.client_key, Some("/default.key".into()));
    assert!(
        none.skip_verify,
        "the defaults' own stays, as in the incumbents"
    );
    let both = with(json!({"vaultTLSClientCertPath": "/a", "vaultTLSClientKeyPath": "/b"}));
    let both = both.ok().unwrap().spec.endpoint.tls;
    assert_eq!(both.client_certificate, Some("/a".into()));
    assert_eq!(both.client_key, Some("/b".into()));
}

#[test]
fn an_agents_address_takes_the_place_of_every_other() {
    let mut defaults = defaults();
    defaults.agent_address = Some("http://agent:8100".to_owned());
    let attributes = attributes(json!({"vaultAddress": "http://class"}));
    let message = Attributes {
        attributes: &attributes,
        secrets: "",
        target_path: TARGET,
        permission: "420",
    };
    let parsed = parse(&message, &defaults).ok().unwrap();
    assert_eq!(parsed.spec.endpoint.address, "http://agent:8100");
}
