//! What this installation does not give us: what is lost with it, and the manifest lines that give it.
//!
//! A team may first change nothing but the image in the incumbent's DaemonSet, with its rights and mounts.
//! We run there, and each thing that is missing is said once at start, so that nobody has to guess it
//! from what goes wrong later. Rights are asked for by SelfSubjectAccessReviews, which everybody may make.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use tracing::{debug, info, warn};

use crate::metrics::Metrics;

/// What is missing is asked for again after this, less or more by half: somebody may have granted it.
pub const AGAIN_WHILE_MISSING: Duration = Duration::from_secs(600);
/// An API server that does not answer is asked again after this.
const AGAIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that is missing.
pub struct Missing {
    /// As `leasehold_degraded` names it.
    reason: &'static str,
    what: String,
    costs: &'static str,
    manifest: String,
}

impl Missing {
    /// No API server can be reached from this pod.
    #[must_use]
    pub fn api_server() -> Self {
        Self {
            reason: "no_api_server",
            what: "this pod has no service account's token to reach the API server with".to_owned(),
            costs: "object versions are made with a key of this process, no pod's token can be minted, nobody hears of events",
            manifest: "# DaemonSet, spec.template.spec\nautomountServiceAccountToken: true\n"
                .to_owned(),
        }
    }

    /// Nobody says which node this is.
    #[must_use]
    pub fn node_name() -> Self {
        Self {
            reason: "no_pod_watch",
            what: "NODE_NAME is not set".to_owned(),
            costs: "this node's pods are not watched: the ends of volumes are seen by their paths alone",
            manifest: "# DaemonSet, the container's env\n- name: NODE_NAME\n  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}\n".to_owned(),
        }
    }

    /// kubelet's directory of pods is not mounted.
    #[must_use]
    pub fn pods_directory(path: &Path) -> Self {
        let path = path.display();
        Self {
            reason: "no_path_view",
            what: format!("{path}, kubelet's directory of pods, is not there"),
            costs: "the ends of volumes are not seen by their paths: credentials of a gone volume are revoked when the pod watch tells, and without one they run out",
            manifest: format!(
                "# DaemonSet, the container's volumeMounts\n- {{name: pods, mountPath: {path}, readOnly: true}}\n# DaemonSet, spec.template.spec.volumes\n- name: pods\n  hostPath: {{path: /var/lib/kubelet/pods, type: Directory}}\n"
            ),
        }
    }

    /// The journal cannot be kept.
    #[must_use]
    pub fn journal(directory: &Path, why: &dyn std::fmt::Display) -> Self {
        let mount = directory.parent().unwrap_or(directory).display();
        Self {
            reason: "no_journal",
            what: format!("there is no journal: {why}"),
            costs: "a restart forgets every lease: credentials are issued anew, the old ones run out by themselves",
            manifest: format!(
                "# DaemonSet, the container's volumeMounts\n- {{name: state, mountPath: {mount}}}\n# DaemonSet, spec.template.spec.volumes\n- name: state\n  hostPath: {{path: /run/leasehold, type: DirectoryOrCreate}}\n"
            ),
        }
    }

    /// Says it, in the log and the metrics.
    pub fn tell(&self, metrics: &Metrics) {
        metrics.degraded(self.reason, true);
        warn!(
            reason = self.reason,
            costs = self.costs,
            manifest = self.manifest,
            "missing: {}",
            self.what
        );
    }
}

/// Rights that serve one purpose.
struct Purpose {
    reason: &'static str,
    /// Group, resource and verb of each.
    rights: &'static [(&'static str, &'static str, &'static str)],
    /// One of them is enough.
    any: bool,
    costs: &'static str,
}

const SECRETS: &str = "secrets";

const PURPOSES: &[Purpose] = &[
    Purpose {
        reason: "cannot_get_secret",
        rights: &[("", SECRETS, "get")],
        any: false,
        costs: "object versions are made with a key of this process: they differ between nodes and change with a restart",
    },
    Purpose {
        reason: "cannot_write_secret",
        rights: &[("", SECRETS, "update"), ("", SECRETS, "create")],
        any: true,
        costs: "a Secret that is empty or missing stays so, and object versions are made with a key of this process",
    },
    Purpose {
        reason: "cannot_watch_pods",
        rights: &[("", "pods", "list"), ("", "pods", "watch")],
        any: false,
        costs: "this node's pods are not watched: the ends of volumes are seen by their paths alone",
    },
    Purpose {
        reason: "cannot_write_events",
        rights: &[
            ("events.k8s.io", "events", "create"),
            ("events.k8s.io", "events", "patch"),
        ],
        any: false,
        costs: "nobody hears on a pod what becomes of its credentials",
    },
];

/// Asks for every right that something here needs, and says which are missing; asks again for those, `every` so
/// often (less or more by half), until all are there. `secret` is the one with the key of object versions, in
/// `namespace`.
pub async fn rights(
    client: Client,
    namespace: String,
    secret: String,
    metrics: Metrics,
    every: Duration,
) {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    let mut purposes: Vec<&Purpose> = PURPOSES.iter().collect();
    while !purposes.is_empty() {
        for purpose in &purposes {
            let mut lacking = Vec::new();
            for right in purpose.rights {
                let review = review(*right, &namespace, &secret);
                match allowed(&reviews, &review).await {
                    Some(true) => {}
                    Some(false) => lacking.push(right.2),
                    // Whoever may not ask learns of it when he tries.
                    None => return,
                }
            }
            let is_missing = match purpose.any {
                true => lacking.len() == purpose.rights.len(),
                false => !lacking.is_empty(),
            };
            if !is_missing {
                if missing.remove(purpose.reason) {
                    metrics.degraded(purpose.reason, false);
                    info!(
                        reason = purpose.reason,
                        "a right that was missing has been granted"
                    );
                }
            } else if missing.insert(purpose.reason) {
                purpose
                    .missing(&lacking, &namespace, &secret)
                    .tell(&metrics);
            }
        }
        purposes.retain(|purpose| missing.contains(purpose.reason));
        if !purposes.is_empty() {
            // Not all nodes of a cluster at once.
            tokio::time::sleep(every.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }
}

impl Purpose {
    fn missing(&self, lacking: &[&str], namespace: &str, secret: &str) -> Missing {
        let (group, resource) = self
            .rights
            .first()
            .map_or(("", ""), |(group, resource, _)| (*group, *resource));
        let verbs = match self.any {
            // The first is the one that asks for the least.
            true => lacking.first().copied().unwrap_or_default().to_owned(),
            false => lacking.join(", "),
        };
        let (role, named, object) = if resource == SECRETS {
            (
                format!("Role in the namespace {namespace}"),
                format!("  resourceNames: [{secret}]\n"),
                format!("the Secret {secret}"),
            )
        } else {
            ("ClusterRole".to_owned(), String::new(), resource.to_owned())
        };
        Missing {
            reason: self.reason,
            what: format!("the right to {} {object}", lacking.join(self.between())),
            costs: self.costs,
            manifest: format!(
                "# {role}, rules\n- apiGroups: [\"{group}\"]\n  resources: [{resource}]\n{named}  verbs: [{verbs}]\n"
            ),
        }
    }

    const fn between(&self) -> &'static str {
        if self.any { " or " } else { " and " }
    }
}

fn review(
    (group, resource, verb): (&str, &str, &str),
    namespace: &str,
    secret: &str,
) -> SelfSubjectAccessReview {
    let one = resource == SECRETS;
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                namespace: one.then(|| namespace.to_owned()),
                // A right to create cannot be bound to a name.
                name: (one && verb != "create").then(|| secret.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// The server's answer; nothing where it does not take such questions.
async fn allowed(
    reviews: &Api<SelfSubjectAccessReview>,
    review: &SelfSubjectAccessReview,
) -> Option<bool> {
    let parameters = PostParams::default();
    loop {
        let asked = tokio::time::timeout(PATIENCE, reviews.create(&parameters, review)).await;
        match asked {
            Ok(Ok(answer)) => return Some(answer.status.is_some_and(|status| status.allowed)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403..=405) => {
                debug!(
                    code = status.code,
                    "the permission check is not available, and skipped"
                );
                return None;
            }
            Ok(Err(error)) => debug!(%error, "rights cannot be asked for; it is tried again"),
            Err(_) => debug!("rights cannot be asked for in time; it is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
