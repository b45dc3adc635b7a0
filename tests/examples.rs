//! Every SecretProviderClass of `examples/` is understood, without a warning.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

use leasehold::params::{self, Attributes, Defaults, Flavour};
use leasehold::spec::Tls;
use serde_json::{Value, json};

#[test]
fn every_example_is_understood() {
    let mut seen = 0;
    for entry in fs::read_dir("examples").unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        for document in fs::read_to_string(&path).unwrap().split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            if object["kind"] != "SecretProviderClass" {
                continue;
            }
            assert_eq!(object["spec"]["provider"], "vault", "{}", path.display());
            let mut attributes = object["spec"]["parameters"].clone();
            for name in [
                "pod.name",
                "pod.namespace",
                "pod.uid",
                "serviceAccount.name",
            ] {
                attributes[format!("csi.storage.k8s.io/{name}")] = json!("x");
            }
            let message = Attributes {
                attributes: &attributes.to_string(),
                secrets: "",
                target_path: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount",
                permission: "420",
            };
            let defaults = Defaults {
                flavour: Flavour::Vault,
                address: None,
                agent_address: None,
                namespace: None,
                auth_mount: "kubernetes".to_owned(),
                tls: Tls::default(),
            };
            match params::parse(&message, &defaults) {
                Ok(parsed) => assert!(
                    parsed.warnings.is_empty(),
                    "{}: {:?}",
                    path.display(),
                    parsed.warnings
                ),
                Err(faults) => panic!("{}: {faults}", path.display()),
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} examples");
}
