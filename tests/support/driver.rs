//! A driver that behaves as Secrets Store CSI driver v1.6 does towards a provider.
//!
//! It dials the provider's socket with the authority `localhost`, waits until it is there, repeats calls
//! that end `UNAVAILABLE` (three attempts, 1 s then ×1.1: `pkg/secrets-store/provider_client.go`), makes
//! and removes the target path as `nodeserver.go` and kubelet do, and writes files by the `..data` layout
//! of `pkg/util/fileutil/atomic_writer.go`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use leasehold::provider::proto::csi_driver_provider_client::CsiDriverProviderClient;
use leasehold::provider::proto::{MountRequest, MountResponse, VersionRequest};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// The driver, with its one connection to the provider.
#[derive(Clone)]
pub struct Driver {
    client: CsiDriverProviderClient<Channel>,
}

/// A pod's volume on the node.
#[derive(Clone, Debug)]
pub struct Volume {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub account: String,
    pub directory: PathBuf,
}

impl Volume {
    /// A volume below kubelet's pods directory; nothing is made yet.
    pub fn new(pods: &Path, namespace: &str, pod: &str, uid: &str, volume: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            account: "web".to_owned(),
            directory: pods
                .join(uid)
                .join("volumes/kubernetes.io~csi")
                .join(volume),
        }
    }

    /// The path the driver mounts its tmpfs on.
    pub fn target(&self) -> PathBuf {
        self.directory.join("mount")
    }

    /// Makes the target path, as the driver does before it calls the provider.
    pub fn prepare(&self) {
        fs::create_dir_all(self.target()).expect("the target path can be made");
    }

    /// Unpublishes: the files vanish, then `mount`, then the volume's directory.
    pub fn unmount(&self) {
        fs::remove_dir_all(self.target()).expect("the target path can be removed");
        fs::remove_dir(&self.directory).expect("the volume's directory can be removed");
    }

    /// The pod's directory goes, a moment after its volumes.
    pub fn remove_pod(&self) {
        let pod = self
            .directory
            .ancestors()
            .nth(3)
            .expect("a pod's directory");
        fs::remove_dir_all(pod).expect("the pod's directory can be removed");
    }

    /// What a container of the pod reads.
    pub fn read(&self, file: &str) -> Vec<u8> {
        let path = self.target().join(file);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The same as text.
    pub fn text(&self, file: &str) -> String {
        String::from_utf8(self.read(file)).expect("text")
    }

    /// A file's permission bits.
    pub fn mode(&self, file: &str) -> u32 {
        let metadata = fs::metadata(self.target().join(file)).expect("a file");
        metadata.permissions().mode() & 0o777
    }

    /// The attributes as the driver composes them from a class' parameters and the volume's context.
    pub fn attributes(&self, parameters: &Value, tokens: &BTreeMap<String, String>) -> Value {
        let mut attributes = parameters.clone();
        let map = attributes.as_object_mut().expect("parameters are a map");
        let mut put = |name: &str, value: String| map.insert(name.to_owned(), Value::from(value));
        put("csi.storage.k8s.io/pod.name", self.pod.clone());
        put("csi.storage.k8s.io/pod.namespace", self.namespace.clone());
        put("csi.storage.k8s.io/pod.uid", self.uid.clone());
        put(
            "csi.storage.k8s.io/serviceAccount.name",
            self.account.clone(),
        );
        put("csi.storage.k8s.io/ephemeral", "true".to_owned());
        put("secretProviderClass", "class".to_owned());
        if !tokens.is_empty() {
            put(
                "csi.storage.k8s.io/serviceAccount.tokens",
                tokens_json(tokens),
            );
        }
        attributes
    }
}

/// `{audience: {token, expirationTimestamp}}`.
pub fn tokens_json(tokens: &BTreeMap<String, String>) -> String {
    let tokens: BTreeMap<&String, Value> = tokens
        .iter()
        .map(|(audience, token)| {
            let value = json!({ "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" });
            (audience, value)
        })
        .collect();
    json!(tokens).to_string()
}

/// A Mount that was answered.
pub struct Answer {
    /// Object name to version.
    pub versions: BTreeMap<String, String>,
    /// The files' paths.
    pub files: Vec<String>,
}

impl Driver {
    /// Dials; the connection is made at the first call, and waited for.
    pub fn dial(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                loop {
                    match UnixStream::connect(&socket).await {
                        Ok(stream) => return Ok(TokioIo::new(stream)),
                        // waitForReady.
                        Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self {
            client: CsiDriverProviderClient::new(channel).max_decoding_message_size(LARGEST_ANSWER),
        }
    }

    /// The driver's health check.
    pub async fn version(&self) -> Result<(String, String, String), Status> {
        let request = VersionRequest {
            version: "v1alpha1".to_owned(),
        };
        let answer = self.client.clone().version(request).await?.into_inner();
        Ok((answer.version, answer.runtime_name, answer.runtime_version))
    }

    /// One call, without the retries.
    pub async fn call(&self, request: MountRequest) -> Result<MountResponse, Status> {
        let answer = self.client.clone().mount(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// One call with a deadline, which goes along as `grpc-timeout`.
    pub async fn call_within(
        &self,
        request: MountRequest,
        within: Duration,
    ) -> Result<MountResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        let answer = self.client.clone().mount(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A call with the driver's retries.
    pub async fn call_retrying(&self, request: &MountRequest) -> Result<MountResponse, Status> {
        let mut backoff = FIRST_BACKOFF;
        for _ in 1..ATTEMPTS {
            match self.call(request.clone()).await {
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(backoff).await;
                    backoff = backoff.mul_f64(1.1);
                }
                answer => return answer,
            }
        }
        self.call(request.clone()).await
    }

    /// Mounts or polls: calls, and writes the files.
    pub async fn mount(
        &self,
        volume: &Volume,
        parameters: &Value,
        tokens: &BTreeMap<String, String>,
    ) -> Result<Answer, Status> {
        volume.prepare();
        let request = request(volume, &volume.attributes(parameters, tokens), "");
        let answer = self.call_retrying(&request).await?;
        Ok(written(volume, &answer))
    }
}

/// A request as the driver sends it.
pub fn request(volume: &Volume, attributes: &Value, secrets: &str) -> MountRequest {
    MountRequest {
        attributes: attributes.to_string(),
        secrets: secrets.to_owned(),
        target_path: volume
            .target()
            .to_str()
            .expect("a path in UTF-8")
            .to_owned(),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    }
}

/// Writes an answer's files, as the driver does, and says what it said.
pub fn written(volume: &Volume, answer: &MountResponse) -> Answer {
    // The driver takes an answer without versions for a fault.
    assert!(
        !answer.object_version.is_empty(),
        "an answer without versions"
    );
    write_atomically(&volume.target(), answer);
    let versions = answer.object_version.iter();
    Answer {
        versions: versions
            .map(|version| (version.id.clone(), version.version.clone()))
            .collect(),
        files: answer.files.iter().map(|file| file.path.clone()).collect(),
    }
}

/// Files into a new timestamped directory, `..data` moved onto it, a link for each first path part.
fn write_atomically(target: &Path, answer: &MountResponse) {
    let old = fs::read_link(target.join("..data")).ok();
    let fresh = format!("..{:016x}", rand::random::<u64>());
    let directory = target.join(&fresh);
    fs::create_dir_all(&directory).expect("the directory can be made");
    for file in &answer.files {
        assert!(
            !Path::new(&file.path).is_absolute(),
            "{} is absolute",
            file.path
        );
        assert!(
            !file.path.split('/').any(|part| part == ".."),
            "{} leaves the volume",
            file.path
        );
        let path = directory.join(&file.path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories can be made");
        fs::write(&path, &file.contents).expect("the file can be written");
        let mode = u32::try_from(file.mode).expect("a mode");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    }
    symlink(&fresh, target.join("..data_tmp")).expect("a link can be made");
    fs::rename(target.join("..data_tmp"), target.join("..data")).expect("the link can be moved");
    for file in &answer.files {
        let first = file.path.split('/').next().expect("a first part");
        let link = target.join(first);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(first), &link).expect("a link can be made");
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(target.join(old)).expect("the old files can be removed");
    }
}
