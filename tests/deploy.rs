//! The manifests under `deploy/`: what their parts say of each other must fit together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

use leasehold::config::{Command, Config};
use serde_json::Value;

fn manifest(file: &str) -> Value {
    let text = fs::read_to_string(format!("deploy/daemonset/{file}")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// The pod's template, its one container, and the configuration that its arguments make.
fn daemon() -> (Value, Value, Config) {
    let template = manifest("daemonset.yaml")["spec"]["template"].clone();
    let container = template["spec"]["containers"][0].clone();
    let arguments = container["args"].as_array().unwrap().iter();
    let arguments = arguments.map(|argument| argument.as_str().unwrap().to_owned());
    let arguments = std::iter::once("leasehold".to_owned()).chain(arguments);
    match Config::read(arguments, |_| None).unwrap() {
        Command::Serve(config) => (template, container, *config),
        Command::Print(text) => panic!("{text}"),
    }
}

#[test]
fn the_probes_reach_the_address_that_is_served() {
    let (template, container, config) = daemon();
    let address = config.health_addr.unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    // kubelet asks the pod's own address: one that listens on loopback would be killed as not alive.
    assert!(matches!(host, "" | "0.0.0.0" | "[::]"), "{address}");
    assert!(template["spec"]["hostNetwork"].is_null());
    let ports = container["ports"].as_array().unwrap();
    for probe in ["livenessProbe", "readinessProbe"] {
        let asked = &container[probe]["httpGet"];
        assert!(asked["host"].is_null(), "{probe}");
        let named = ports.iter().find(|known| known["name"] == asked["port"]);
        assert_eq!(named.unwrap()["containerPort"].to_string(), port, "{probe}");
        let path = asked["path"].as_str().unwrap();
        assert!(matches!(path, "/health/live" | "/health/ready"), "{path}");
    }
}

#[test]
fn a_slow_node_is_not_killed_by_its_liveness_probe() {
    let (_, container, _) = daemon();
    let probe = &container["livenessProbe"];
    let number = |name: &str| probe[name].as_u64().unwrap();
    assert_eq!(probe["httpGet"]["path"], "/health/live");
    assert!(number("timeoutSeconds") >= 5 && number("timeoutSeconds") < number("periodSeconds"));
    // An answer that comes too late a few times is not the end.
    assert!(number("periodSeconds") * number("failureThreshold") >= 60);
}

#[test]
fn the_secret_is_read_and_never_watched() {
    let text = fs::read_to_string("deploy/daemonset/rbac.yaml").unwrap();
    let documents = text.split("\n---\n");
    let role = documents
        .map(|text| serde_yaml::from_str::<Value>(text).unwrap())
        .find(|object| object["kind"] == "Role");
    let rule = &role.unwrap()["rules"][0];
    assert_eq!(rule["verbs"], serde_json::json!(["get", "update"]));
    assert_eq!(rule["resourceNames"].as_array().unwrap().len(), 1);
}

#[test]
fn no_document_advises_an_address_that_the_probes_cannot_reach() {
    for document in [
        "README.md",
        "SECURITY.md",
        "docs/threat-model.md",
        "docs/policy.md",
        "docs/outages.md",
    ] {
        let text = fs::read_to_string(document).unwrap();
        for loopback in [
            "-health-addr=127.",
            "-health-addr=localhost",
            "-health-addr=[::1]",
        ] {
            assert!(!text.contains(loopback), "{document} advises {loopback}");
        }
    }
    // What it advises instead is there, and fits.
    let threats = fs::read_to_string("docs/threat-model.md").unwrap();
    assert!(threats.contains("deploy/daemonset/network-policy.yaml"));
    let policy = manifest("network-policy.yaml");
    let (template, container, _) = daemon();
    let selected = policy["spec"]["podSelector"]["matchLabels"]
        .as_object()
        .unwrap();
    for (label, value) in selected {
        assert_eq!(&template["metadata"]["labels"][label], value);
    }
    let port = &policy["spec"]["ingress"][0]["ports"][0]["port"];
    assert_eq!(port, &container["ports"][0]["name"]);
}

#[test]
fn it_runs_on_linux_nodes_and_sees_the_pods_directory_at_its_own_place() {
    let (template, container, config) = daemon();
    let selector = &template["spec"]["nodeSelector"];
    assert_eq!(selector["kubernetes.io/os"], "linux");
    let volumes = template["spec"]["volumes"].as_array().unwrap();
    let host = |name: &Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == *name);
        volume.unwrap()["hostPath"]["path"].clone()
    };
    let mounts = container["volumeMounts"].as_array().unwrap();
    let pods = mounts.iter().find(|mount| mount["name"] == "pods").unwrap();
    assert_eq!(
        pods["mountPath"],
        host(&pods["name"]),
        "target paths are looked for by their own name"
    );
    assert_eq!(pods["mountPath"].as_str(), config.kubelet_pods_dir.to_str());
    assert_eq!(pods["readOnly"], true);
    let socket = mounts
        .iter()
        .find(|mount| mount["name"] == "providers")
        .unwrap();
    assert_eq!(
        config.endpoint.parent().unwrap().to_str(),
        socket["mountPath"].as_str()
    );
    let environment = container["env"].as_array().unwrap();
    for name in [
        "NODE_NAME",
        "POD_NAME",
        "POD_NAMESPACE",
        "POD_UID",
        "MALLOC_MMAP_THRESHOLD_",
    ] {
        assert!(
            environment.iter().any(|variable| variable["name"] == name),
            "{name}"
        );
    }
}
