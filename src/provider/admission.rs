//! Requests by their size. What is made of a large class takes several times its bytes, and a node's driver may
//! send hundreds at once: from a size on, a request's body is not read on before memory is reserved for it, of
//! its tenant's share. What waits is left with the driver, but for a window of its stream.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, Stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

use super::deadline;
use crate::memory::{MemoryBudget, MountMemory, Reservation};

/// A request above this is large, in bytes.
pub const LARGE: usize = 64 * 1024;
/// What a large request takes, at the most, until it is parsed: the message, its strings, the class' YAML.
const PARSING: usize = 6 * 1024 * 1024;
/// What is unread of a waiting request, at the most, in bytes.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// The same of all requests on a connection: those that wait must not fill it before the others.
pub const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;
/// Stands before the namespace in a request's attributes. The driver writes their keys sorted, so that it comes
/// before what a class may make large; and within a text of the class its quotes would be escaped.
const NAMESPACE: &[u8] = b"\"csi.storage.k8s.io/pod.namespace\":\"";

/// Goes along with a request, from its headers to its handler.
#[derive(Clone)]
pub struct Admission {
    began: Instant,
    reserved: Arc<Mutex<Option<Asked>>>,
}

/// What is reserved for a large request, and the account of its Mount.
pub struct Asked {
    pub memory: MountMemory,
    pub reserved: Reservation,
}

impl Asked {
    /// The request is parsed: what is left of it has this size, and is copied about twice.
    pub fn parsed(&mut self, size: usize) {
        let kept = size.saturating_mul(3);
        self.reserved
            .shrink(self.reserved.bytes().saturating_sub(kept));
    }
}

impl Admission {
    /// Since when the request is in hand.
    pub fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was reserved for it.
    pub fn take(&self) -> Option<Asked> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.take()
    }
}

/// A request whose body waits for memory once it is large.
pub fn admitted(budget: &MemoryBudget, mut request: http::Request<Body>) -> http::Request<Body> {
    let admission = Admission {
        began: Instant::now(),
        reserved: Arc::default(),
    };
    let metadata = MetadataMap::from_headers(request.headers().clone());
    let within = deadline::answer_within(&metadata);
    request.extensions_mut().insert(admission.clone());
    let budget = budget.clone();
    request.map(|body| {
        let reading = Reading {
            body,
            budget,
            admission,
            within,
            begin: Zeroizing::new(Vec::new()),
            size: 0,
        };
        Body::new(StreamBody::new(Box::pin(frames(reading))))
    })
}

/// A body as it is read.
struct Reading {
    body: Body,
    budget: MemoryBudget,
    admission: Admission,
    within: Duration,
    /// Its first bytes, until it is large.
    begin: Zeroizing<Vec<u8>>,
    size: usize,
}

fn frames(reading: Reading) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    stream::unfold(Some(reading), |reading| async {
        let mut reading = reading?;
        let frame = match reading.body.frame().await? {
            Ok(frame) => frame,
            Err(error) => return Some((Err(error), None)),
        };
        match reading.note(&frame).await {
            Ok(()) => Some((Ok(frame), Some(reading))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl Reading {
    async fn note(&mut self, frame: &Frame<Bytes>) -> Result<(), Status> {
        let Some(bytes) = frame.data_ref() else {
            return Ok(());
        };
        let was_small = self.size <= LARGE;
        self.size = self.size.saturating_add(bytes.len());
        if was_small {
            self.begin.extend_from_slice(bytes);
        }
        if !was_small || self.size <= LARGE {
            return Ok(());
        }
        let memory = self.budget.mount(&namespace(&self.begin));
        self.begin = Zeroizing::default();
        let mut reserved = memory.reservation();
        let grown = tokio::time::timeout(self.within, reserved.grow(PARSING)).await;
        if !matches!(grown, Ok(Ok(()))) {
            // A code that kubelet takes as final: see `status.rs`.
            return Err(Status::internal(
                "the class is large, and other large mounts have taken all memory that is set aside for them; kubelet tries again: split the class",
            ));
        }
        let asked = Asked { memory, reserved };
        let mut place = self
            .admission
            .reserved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(asked);
        Ok(())
    }
}

/// The pod's namespace, where a request's beginning names it.
fn namespace(begin: &[u8]) -> String {
    let at = begin
        .windows(NAMESPACE.len())
        .position(|part| part == NAMESPACE);
    let behind = at.and_then(|at| begin.get(at + NAMESPACE.len()..));
    let name = behind.and_then(|behind| behind.split(|byte| *byte == b'"').next());
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Limits;

    fn body(namespace: &str, size: usize) -> http::Request<Body> {
        let attributes = serde_json::json!({
            "audience": "\"csi.storage.k8s.io/pod.namespace\":\"forged\"",
            "csi.storage.k8s.io/pod.namespace": namespace,
            "objects": "x".repeat(size),
        });
        http::Request::new(Body::new(
            http_body_util::Full::new(Bytes::from(attributes.to_string()))
                .map_err(|never| match never {}),
        ))
    }

    #[tokio::test]
    async fn a_class_cannot_forge_its_namespace() {
        let request = body("shop", 10);
        let bytes = request.into_body().collect().await.unwrap();
        assert_eq!(namespace(&bytes.to_bytes()), "shop");
        assert_eq!(namespace(b"{}"), "");
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_memory_of_their_own_tenant() {
        let limits = Limits {
            shared: 4 * PARSING,
            ..Limits::default()
        };
        let budget = MemoryBudget::new(limits);
        let read = async |namespace: &str, size: usize| {
            let request = admitted(&budget, body(namespace, size));
            let admission = request.extensions().get::<Admission>().cloned().unwrap();
            let read = request.into_body().collect().await;
            read.map(|_| admission.take())
        };
        assert!(read("greedy", 1000).await.unwrap().is_none(), "it is small");
        let mut held = vec![read("greedy", LARGE).await.unwrap().unwrap()];
        held.push(read("greedy", LARGE).await.unwrap().unwrap());
        let refused = read("greedy", LARGE).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::Internal);
        assert!(read("shop", LARGE).await.unwrap().is_some());
        held[0].parsed(100_000);
        held[1].parsed(100_000);
        assert_eq!(budget.reserved(), 600_000);
        assert!(read("greedy", LARGE).await.unwrap().is_some());
    }
}
