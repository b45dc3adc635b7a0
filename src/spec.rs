//! What was asked: a Mount's request, parsed, validated and typed. Knows no transport.
//!
//! Two [`MountSpec`]s are equal when everything that affects login, reads or rendering is. The pod's
//! token is no part of it: it is another one at every rotation poll.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One volume of one pod: the unit of sessions, journal files and releases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeId {
    /// `csi.storage.k8s.io/pod.uid`; a StatefulSet's pod that returns under its name has another.
    pub pod_uid: String,
    /// Where the driver mounted the volume: `…/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
    pub target_path: PathBuf,
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target_path.display())
    }
}

/// The pod a volume belongs to, as the driver names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// `csi.storage.k8s.io/pod.name`.
    pub name: String,
    /// `csi.storage.k8s.io/pod.namespace`.
    pub namespace: String,
    /// `csi.storage.k8s.io/serviceAccount.name`.
    pub service_account: String,
}

impl Pod {
    /// `namespace/name` of the service account: the identity that a session belongs to.
    #[must_use]
    pub fn service_account_id(&self) -> String {
        format!("{}/{}", self.namespace, self.service_account)
    }
}

/// How a server's certificate is checked and how we show ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tls {
    /// Trusted CA certificates, PEM, given inline.
    pub ca_pem: Option<String>,
    /// A file of trusted CA certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// A directory of such files; used when no file is given.
    pub ca_directory: Option<PathBuf>,
    /// The name that the server's certificate must bear, in place of the address' host.
    pub server_name: Option<String>,
    /// Our certificate chain, PEM; goes with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// The private key of `client_certificate`, PEM.
    pub client_key: Option<PathBuf>,
    /// Accept any certificate.
    pub skip_verify: bool,
}

/// A server as one tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// `http://` or `https://`, host, optional port and path prefix, no trailing slash.
    pub address: String,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// TLS settings; ignored for `http`.
    pub tls: Tls,
}

/// How a session is opened: `POST auth/<mount>/login`. The kubernetes and jwt methods share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Login {
    /// The auth mount's path, without slashes at its ends; may be nested (`teams/a/kubernetes`).
    pub mount: String,
    /// The role at that mount.
    pub role: String,
    /// The audience of the pod token that is sent.
    pub audience: String,
}

/// An HTTP method that a class may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// A read.
    Get,
    /// A read of a path's entries.
    List,
    /// A write.
    Post,
    /// A write; the server treats it as POST.
    Put,
}

impl Method {
    /// As it stands in the request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// What is sent to the server. All four parts are its identity: two certificates from one PKI role
/// with other arguments are two requests; the same credentials named twice are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The API path below `/v1/`, without a leading slash; validated, not yet percent-encoded.
    pub path: String,
    /// The query's pairs, decoded, sorted by name.
    pub query: Vec<(String, String)>,
    /// The body: a JSON object with sorted keys (`secretArgs`).
    pub args: Option<String>,
}

/// Which part of a reply a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Selector {
    /// The whole response as JSON, in the incumbent's bytes.
    Response,
    /// One key of the data (`secretKey`).
    Key(String),
}

/// How a value is written in the reply (`encoding`): it is decoded before it becomes a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As it is.
    #[default]
    Utf8,
    /// Standard base64 with padding.
    Base64,
    /// Hexadecimal.
    Hex,
}

/// One entry of `objects`: a request and the file made of its reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Object {
    /// `objectName`: the file's path in the volume, relative and clean.
    pub name: String,
    /// What is read.
    pub request: Request,
    /// Which part of it.
    pub selector: Selector,
    /// How that part is encoded.
    pub encoding: Encoding,
    /// The file's permission bits, 0 to 0o777.
    pub mode: u32,
}

/// What happens to a mounted volume's credentials when the volume ends (`onUnmount`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnmount {
    /// They are revoked.
    #[default]
    Revoke,
    /// They live to the end of the TTL they were granted last: something that outlives the pod, a synced
    /// Secret or an environment variable, may still use them.
    Expire,
}

/// Everything a Mount asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MountSpec {
    /// The volume.
    pub volume: VolumeId,
    /// Its pod.
    pub pod: Pod,
    /// The SecretProviderClass' name, for people.
    pub class: String,
    /// The server.
    pub endpoint: Endpoint,
    /// The way in.
    pub login: Login,
    /// The files, in the class' order.
    pub objects: Vec<Object>,
    /// What the volume's end does to its credentials.
    #[serde(default)]
    pub on_unmount: OnUnmount,
}

impl MountSpec {
    /// The distinct requests, in the order of their first use.
    #[must_use]
    pub fn requests(&self) -> Vec<&Request> {
        let mut seen = std::collections::HashSet::new();
        self.objects
            .iter()
            .map(|object| &object.request)
            .filter(|request| seen.insert(*request))
            .collect()
    }
}
