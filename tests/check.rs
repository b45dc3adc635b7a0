//! `leasehold check` and `leasehold schema`, as they are run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

const BAD: &str = r#"# Two documents that concern nobody, and one that does.
apiVersion: v1
kind: Pod
metadata: {name: web}
---
apiVersion: v1
kind: ConfigMap
data: {a: "{{ not: yaml"}
---
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: app
  namespace: shop
spec:
  provider: vault
  parameters:
    vaultRole: app
    audience: 7
    objects: |
      # The first one is right.
      - objectName: a
        secretPath: secret/data/app
      - objectName: b
        secretPath: secret/data/app
        filePermission: rw
        secretkey: x
      - objectName: ../c
        secretPath: secret/data/app
"#;

const UNWISE: &str = r#"
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app}
spec:
  provider: openbao
  parameters:
    roleName: app
    baoAddress: http://vault.example:8200
    baoSkipTLSVerify: "true"
    objects: |
      - objectName: user
        secretPath: database/creds/app
        secretKey: username
      - objectName: token
        secretPath: kv/app
        secretKey: token
"#;

/// Exit code, standard output, standard error.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn faults_are_told_with_their_places_in_the_file() {
    let (code, told, _) = run(&["check", "-"], BAD);
    assert_eq!(code, 1);
    for line in [
        "-:18:16: warning: shop/app: unknown parameter \"vaultRole\" has no effect: did you mean \"roleName\"?",
        "-:19:15: error: shop/app: audience: is no string: quote it",
        ": error: shop/app: roleName: is missing: set it in the class' parameters",
        "-:26:25: error: shop/app: objects[1].filePermission: \"rw\" is no number:",
        "-:27:9: warning: shop/app: objects[1]: unknown field \"secretkey\" has no effect: did you mean \"secretKey\"?",
        "-:28:21: error: shop/app: objects[2].objectName: \"../c\" begins with \"..\":",
        "1 classes, 4 errors, 2 warnings",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
}

#[test]
fn what_is_unwise_is_a_warning_and_counts_when_asked_to() {
    let (code, told, _) = run(&["check", "-"], UNWISE);
    assert_eq!(code, 0, "{told}");
    for line in [
        "-:9:17: warning: app: vaultAddress: http://vault.example:8200 is plain http",
        "-:10:23: warning: app: vaultSkipTLSVerify: anybody",
        "-:12:9: warning: app: objects: of the credentials at \"database/creds/app\" only \"username\" is mounted",
        "-:15:9: warning: app: objects: \"token\" is readable by everybody in the pod (0644)",
        "1 classes, 0 errors, 4 warnings",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
    assert_eq!(run(&["check", "--deny-warnings", "-"], UNWISE).0, 1);
}

#[test]
fn what_is_unwise_is_told_beside_what_is_wrong() {
    let both = r#"apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app}
spec:
  provider: vault
  parameters:
    vaultAddress: http://vault.example:8200
    vaultSkipTLSVerify: "perhaps"
    objects: |
      - objectName: token-old
        secretPath: kv/app
        secretKey: other
      - {objectName: token, secretPath: kv/app, secretKey: token}
      - objectName: user
        secretPath: database/creds/app
        secretKey: username
      - objectName: password
        secretPath: database/creds/app
        secretKey: password
        filePermission: rw
      - objectName: wide
        secretPath: kv/app
        filePermission: 1204
      - objectName: user
        secretPath: kv/app
"#;
    let (code, told, _) = run(&["check", "-"], both);
    assert_eq!(code, 1);
    for line in [
        ": error: app: roleName: is missing",
        "-:8:25: error: app: vaultSkipTLSVerify: \"perhaps\"",
        "-:20:25: error: app: objects[3].filePermission: \"rw\"",
        // The second of two.
        "-:24:9: error: app: objects: objectName \"user\" is given twice",
        "-:7:19: warning: app: vaultAddress: http://vault.example:8200 is plain http",
        "-:13:10: warning: app: objects: \"token\" is readable by everybody",
        "-:21:9: warning: app: objects[4]: filePermission 1204 is",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
    // The other half of the credentials is there, with a fault.
    assert!(!told.contains("name the other half"), "{told}");
    // A faulty address is not advised upon: it may hold a password.
    let secret = both.replace("http://vault", "http://user:hunter2@vault");
    let (_, told, _) = run(&["check", "-"], &secret);
    assert!(told.contains("error: app: vaultAddress: has a user name"));
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_part_of_the_path_that_is_added_anyway_is_a_warning() {
    for (parameter, value, told) in [
        ("vaultAddress", "https://vault:8200/v1/", "ends in /v1"),
        ("vaultAddress", "https://vault:8200/ui", "ends in /ui"),
        (
            "vaultAuthMountPath",
            "auth/kubernetes",
            "the login goes to auth/auth/kubernetes/login",
        ),
        (
            "vaultKubernetesMountPath",
            "/kubernetes/login/",
            "ends in /login",
        ),
    ] {
        let class = format!(
            "apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {{name: app}}
spec:
  provider: vault
  parameters:
    roleName: app
    {parameter}: {value}
    objects: |
      - objectName: a
        secretPath: secret/data/app
"
        );
        let (code, found, _) = run(&["check", "-"], &class);
        assert_eq!(code, 0, "{found}");
        let is_placed = found.contains("-:8:") || parameter == "vaultKubernetesMountPath";
        assert!(is_placed, "{found}");
        assert!(found.contains(told), "{told}\nin\n{found}");
        assert!(found.contains("0 errors, 1 warnings"), "{found}");
    }
}

#[test]
fn other_providers_lists_and_the_drivers_object_are_known() {
    let list = "
apiVersion: v1
kind: List
items:
- apiVersion: secrets-store.csi.x-k8s.io/v1
  kind: SecretProviderClass
  metadata: {name: one}
  spec: {provider: vault, parameters: {roleName: a, objects: '- {objectName: a, secretPath: kv/a}'}}
- apiVersion: secrets-store.csi.x-k8s.io/v1
  kind: SecretProviderClass
  metadata: {name: two}
  spec: {provider: aws, parameters: {objects: 'whatever'}}
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: secrets-store.csi.k8s.io}
spec: {podInfoOnMount: true}
---
apiVersion: secrets-store.csi.k8s.io/v1
kind: SecretProviderClass
metadata: {name: three}
spec: {provider: vault, parameters: {roleName: a, objects: '- {objectName: a, secretPath: kv/a}'}}
";
    let (code, told, _) = run(&["check", "-"], list);
    assert_eq!(code, 1, "{told}");
    for line in [
        "note: two: provider \"aws\" is another's: passed over",
        "warning: secrets-store.csi.k8s.io: requiresRepublish is not true",
        "warning: secrets-store.csi.k8s.io: tokenRequests is empty",
        "error: apiVersion \"secrets-store.csi.k8s.io/v1\" is none that the driver serves",
        "2 classes, 1 errors, 2 warnings",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
}

/// A class whose Secrets and users are judged with it.
const SYNCED: &str = r#"apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app, namespace: shop}
spec:
  provider: vault
  secretObjects:
    - secretName: db
      type: Opaque
      data:
        - objectName: username
          key: user
        - objectName: pasword
          key: pass
    - secretName: Web_TLS
      type: kubernetes.io/TLS
      data:
        - objectName: tls.crt
          key: tls.crt
    - secretName: web
      type: kubernetes.io/tls
      data:
        - objectName: tls.crt
          key: tls.crt
    - secretName: empty
  parameters:
    roleName: app
    objects: |
      - {objectName: username, secretPath: database/creds/app, secretKey: username}
      - {objectName: password, secretPath: database/creds/app, secretKey: password, filePermission: 0400}
      - {objectName: tls.crt, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: a}, secretKey: certificate}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      containers:
        - name: web
          volumeMounts:
            - name: secrets
              mountPath: /etc/password
              subPath: password
            - name: config
              mountPath: /etc/config
              subPath: config
          env:
            - name: USER
              valueFrom:
                secretKeyRef:
                  name: db
                  key: user
            - name: OTHER
              valueFrom: {secretKeyRef: {name: other, key: user}}
      volumes:
        - name: secrets
          csi:
            driver: secrets-store.csi.k8s.io
            volumeAttributes: {secretProviderClass: app}
        - name: config
          configMap: {name: config}
"#;

#[test]
fn secrets_that_the_driver_makes_are_held_against_the_objects() {
    let (code, told, _) = run(&["check", "-"], SYNCED);
    assert_eq!(code, 0, "{told}");
    for line in [
        "-:12:23: warning: shop/app: secretObjects: no object is named \"pasword\", so the driver makes no Secret \"db\": did you mean \"password\"?",
        "-:10:23: warning: shop/app: secretObjects: \"db\" shows the leased \"username\" and outlives the pod",
        "-:14:19: warning: shop/app: secretObjects: \"Web_TLS\" is no name of a Secret",
        "-:15:13: warning: shop/app: secretObjects: \"kubernetes.io/TLS\" is a type that nobody knows: did you mean \"kubernetes.io/tls\"?",
        "-:20:13: warning: shop/app: secretObjects: \"web\" lacks the key \"tls.key\"",
        "note: shop/app: secretObjects: \"web\" shows the certificate \"tls.crt\"",
        "-:24:19: warning: shop/app: secretObjects: \"empty\" has no type",
        "-:24:19: warning: shop/app: secretObjects: \"empty\" has no data",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
    let expiring = SYNCED.replace(
        "    roleName: app",
        "    roleName: app\n    onUnmount: expire",
    );
    let (_, told, _) = run(&["check", "-"], &expiring);
    assert!(!told.contains("outlives"), "{told}");
}

#[test]
fn workloads_that_hold_what_rotation_replaces_are_told() {
    let (_, told, _) = run(&["check", "-"], SYNCED);
    for line in [
        "-:43:15: warning: shop/web: container \"web\" mounts \"password\" by subPath, which never shows rotated content",
        "-:51:19: warning: shop/web: container \"web\" has a leased value of Secret \"db\" in its environment",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
    assert!(
        !told.contains("\"config\" by subPath") && !told.contains("Secret \"other\""),
        "{told}"
    );
    // A class may stand in another file, and its own word settles it.
    let expiring = SYNCED.replace(
        "    roleName: app",
        "    roleName: app\n    onUnmount: expire",
    );
    let (_, told, _) = run(&["check", "-"], &expiring);
    assert!(
        told.contains("by subPath") && !told.contains("in its environment"),
        "{told}"
    );
    let elsewhere = SYNCED.replace("name: web, namespace: shop", "name: web, namespace: other");
    let (_, told, _) = run(&["check", "-"], &elsewhere);
    assert!(!told.contains("in its environment"), "{told}");
}

#[test]
fn a_list_where_a_text_belongs_is_told_in_its_own_words() {
    let listed = "
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app}
spec:
  provider: vault
  parameters:
    roleName: app
    audience: [vault, other]
    secretObjects: [{secretName: a}]
    objects:
      - objectName: a
        secretPath: kv/a
";
    let (code, told, _) = run(&["check", "-"], listed);
    assert_eq!(code, 1, "{told}");
    for line in [
        "audience: is a list: name one audience",
        "secretObjects: is no parameter: write it under `spec`",
        "objects: is no text: write `objects: |`",
    ] {
        assert!(told.contains(line), "{line}\nin\n{told}");
    }
}

#[test]
fn a_form_of_other_providers_is_told_apart() {
    let nested = BAD.replace("      # The first one is right.", "      array:");
    let (_, told, _) = run(&["check", "-"], &nested);
    assert!(told.contains("leave `array:` out"), "{told}");
}

#[test]
fn machines_read_it_too() {
    let (code, told, _) = run(&["check", "--output", "json", "-"], BAD);
    assert_eq!(code, 1);
    let findings: Vec<Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(findings.len(), 6, "{told}");
    assert!(findings.iter().any(|finding| finding["line"] == 26));
    let (_, told, _) = run(&["check", "--output", "sarif", "-"], BAD);
    let report: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(report["version"], "2.1.0");
    let results = report["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert!(place["region"]["startLine"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_run_says_so_and_ends_with_two() {
    for arguments in [
        vec!["check"],
        vec!["check", "/does/not/exist.yaml"],
        vec!["check", "--output", "xml", "-"],
    ] {
        let (code, told, complaint) = run(&arguments, "");
        assert_eq!(code, 2, "{arguments:?}");
        assert!(told.is_empty() && !complaint.is_empty(), "{arguments:?}");
    }
}

#[test]
fn our_own_examples_are_clean() {
    let examples: Vec<String> = fs::read_dir("examples")
        .unwrap()
        .flatten()
        .map(|file| file.path().display().to_string())
        .filter(|file| file.ends_with(".yaml"))
        .collect();
    let mut arguments = vec!["check", "--deny-warnings"];
    arguments.extend(examples.iter().map(String::as_str));
    let (code, told, _) = run(&arguments, "");
    assert_eq!(code, 0, "{told}");
    assert!(!told.starts_with("0 classes"), "{told}");
}

#[test]
fn the_schema_is_json() {
    let (code, told, _) = run(&["schema"], "");
    assert_eq!(code, 0);
    let schema: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(schema["type"], "array");
}
