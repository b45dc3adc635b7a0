//! What earlier Mounts have shown of a class' requests, and the order that follows from it.
//!
//! A class with one mistake is tried again and again. Were its requests asked in any order, each attempt would
//! issue credentials that are thrown away once the mistake is met. So the request that failed last is asked
//! first, alone; then those that only show what is stored; those that issue something come last.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::is_static;
use crate::grant::Grant;
use crate::spec::{Method, MountSpec, Request, VolumeId};
use std::sync::Arc;

/// Volumes and classes that are remembered.
const REMEMBERED: usize = 1024;

/// A volume, or a class with its namespace: all pods of a Deployment meet the same mistake.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Volume(VolumeId),
    Class(String, String),
}

/// Requests by their hashes: arguments may be large, and secret.
#[derive(Default)]
struct Shown {
    failed: Option<u64>,
    issuing: HashSet<u64>,
}

/// What is remembered; the oldest is forgotten first.
#[derive(Default)]
struct Known {
    shown: HashMap<Key, Shown>,
    order: VecDeque<Key>,
}

/// The memory of earlier Mounts.
#[derive(Default)]
pub struct History(Mutex<Known>);

/// Requests in the order in which they are to be asked.
pub struct Ordered {
    pub requests: VecDeque<Request>,
    /// The first of them has failed last time: its answer is awaited before the others are asked.
    pub first_alone: bool,
}

impl History {
    /// Orders what is to be read for a Mount.
    pub fn order(&self, spec: &MountSpec, mut wanted: Vec<Request>) -> Ordered {
        let known = self.locked();
        let shown: Vec<&Shown> = keys(spec)
            .iter()
            .filter_map(|key| known.shown.get(key))
            .collect();
        let failed: HashSet<u64> = shown.iter().filter_map(|shown| shown.failed).collect();
        let mut first_alone = false;
        wanted.sort_by_cached_key(|request| {
            let hash = hash(request);
            let writes = matches!(request.method, Method::Post | Method::Put);
            let has_failed = failed.contains(&hash);
            first_alone |= has_failed;
            match has_failed {
                true => 0,
                false if shown.iter().any(|shown| shown.issuing.contains(&hash)) => 3,
                false if writes => 2,
                false => 1,
            }
        });
        Ordered {
            requests: wanted.into(),
            first_alone,
        }
    }

    /// A request has failed, or no file could be made of its reply.
    pub fn failed(&self, spec: &MountSpec, request: &Request) {
        let hash = hash(request);
        self.note(spec, |shown| shown.failed = Some(hash));
    }

    /// A Mount has succeeded.
    pub fn succeeded(&self, spec: &MountSpec) {
        let mut known = self.locked();
        for key in keys(spec) {
            if let Some(shown) = known.shown.get_mut(&key) {
                shown.failed = None;
            }
        }
    }

    /// A request was answered.
    pub fn answered(&self, spec: &MountSpec, grant: &Arc<Grant>) {
        if !is_static(grant) {
            let hash = hash(&grant.request);
            self.note(spec, |shown| {
                shown.issuing.insert(hash);
            });
        }
    }

    fn note(&self, spec: &MountSpec, change: impl Fn(&mut Shown)) {
        let mut known = self.locked();
        let Known { shown, order } = &mut *known;
        for key in keys(spec) {
            let of = shown.entry(key.clone()).or_insert_with(|| {
                order.push_back(key);
                Shown::default()
            });
            change(of);
            // A class that is edited again and again names ever other requests.
            if of.issuing.len() > 2 * spec.objects.len() {
                of.issuing.clear();
            }
        }
        while order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            shown.remove(&oldest);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a Mount is remembered by. The rotation loop of drivers before 1.6 names no class.
fn keys(spec: &MountSpec) -> Vec<Key> {
    let mut keys = vec![Key::Volume(spec.volume.clone())];
    if !spec.class.is_empty() {
        keys.push(Key::Class(spec.pod.namespace.clone(), spec.class.clone()));
    }
    keys
}

fn hash(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::grant::{Keep, Term};
    use crate::redacted::SecretBytes;
    use crate::spec::{Encoding, Endpoint, Login, Object, OnUnmount, Pod, Selector, Tls};

    fn request(method: Method, path: &str) -> Request {
        Request {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            args: None,
        }
    }

    fn spec(pod: &str, class: &str) -> MountSpec {
        let object = |request: Request| Object {
            name: request.path.clone(),
            request,
            selector: Selector::Response,
            encoding: Encoding::Utf8,
            mode: 0o400,
        };
        MountSpec {
            volume: VolumeId {
                pod_uid: pod.to_owned(),
                target_path: format!("/pods/{pod}").into(),
            },
            pod: Pod {
                name: pod.to_owned(),
                namespace: "shop".to_owned(),
                service_account: "web".to_owned(),
            },
            class: class.to_owned(),
            endpoint: Endpoint {
                address: "https://vault".to_owned(),
                namespace: None,
                tls: Tls::default(),
            },
            login: Login {
                mount: "kubernetes".to_owned(),
                role: "app".to_owned(),
                audience: "vault".to_owned(),
            },
            objects: requests().into_iter().map(object).collect(),
            on_unmount: OnUnmount::Revoke,
        }
    }

    fn requests() -> Vec<Request> {
        vec![
            request(Method::Put, "pki/issue/web"),
            request(Method::Get, "database/creds/app"),
            request(Method::Get, "kv/app"),
            request(Method::Get, "kv/typo"),
        ]
    }

    fn order(history: &History, spec: &MountSpec) -> (Vec<String>, bool) {
        let ordered = history.order(spec, requests());
        let paths = ordered.requests.into_iter().map(|request| request.path);
        (paths.collect(), ordered.first_alone)
    }

    #[test]
    fn what_failed_comes_first_and_what_issues_comes_last() {
        let history = History::default();
        let (first, other) = (spec("a", "class"), spec("b", "class"));
        let unknown = ["database/creds/app", "kv/app", "kv/typo", "pki/issue/web"];
        assert_eq!(
            order(&history, &first),
            (unknown.map(str::to_owned).to_vec(), false)
        );
        let lease = Grant {
            request: request(Method::Get, "database/creds/app"),
            body: SecretBytes::from(Vec::new()),
            raw: false,
            keep: Keep::Lease {
                id: "id".to_owned(),
                renewable: true,
            },
            term: Term::new(Moment::from_boot(Duration::ZERO), Duration::from_secs(60)),
        };
        history.answered(&first, &Arc::new(lease));
        history.failed(&first, &request(Method::Get, "kv/typo"));
        let known = ["kv/typo", "kv/app", "pki/issue/web", "database/creds/app"];
        // Another pod of the class meets the same mistake.
        assert_eq!(
            order(&history, &other),
            (known.map(str::to_owned).to_vec(), true)
        );
        history.succeeded(&other);
        assert!(order(&history, &first).1, "its own last attempt failed");
        history.succeeded(&first);
        assert!(!order(&history, &first).1);
        assert!(!order(&history, &spec("c", "other")).1);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let history = History::default();
        for pod in 0..3000 {
            let spec = spec(&format!("pod-{pod}"), &format!("class-{pod}"));
            history.failed(&spec, &request(Method::Get, "kv/typo"));
        }
        let known = history.locked();
        assert_eq!(
            (known.shown.len(), known.order.len()),
            (REMEMBERED, REMEMBERED)
        );
    }
}
