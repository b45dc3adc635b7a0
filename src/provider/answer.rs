//! A Mount's outcome as the protocol's message, without a copy of any secret, and the memory that is reserved
//! for it, held until it has been sent.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use tonic::body::Body;

use super::proto::{File, MountResponse, ObjectVersion};
use crate::memory::Reservation;
use crate::mount::{Mounted, Outcome};

/// One file's content, lent by the outcome that holds it.
struct Lent {
    outcome: Outcome,
    index: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        let mounted = self.outcome.as_ref().as_ref().ok();
        let file = mounted.and_then(|mounted| mounted.files.get(self.index));
        file.map_or(&[], |file| file.contents.expose())
    }
}

/// Goes along with an answer, from the handler to the body.
#[derive(Clone)]
struct Held(#[expect(dead_code, reason = "held")] Arc<Vec<Reservation>>);

/// The answer of a Mount that has succeeded.
pub fn of(outcome: &Outcome, mounted: &Mounted) -> tonic::Response<MountResponse> {
    let files = mounted.files.iter().enumerate().map(|(index, file)| File {
        path: file.path.clone(),
        // At most 0o777: checked when the class was parsed.
        mode: i32::try_from(file.mode).unwrap_or(0o400),
        contents: Bytes::from_owner(Lent {
            outcome: Arc::clone(outcome),
            index,
        }),
    });
    let versions = mounted.versions.iter().map(|(id, version)| ObjectVersion {
        id: id.clone(),
        version: version.clone(),
    });
    let mut answer = tonic::Response::new(MountResponse {
        object_version: versions.collect(),
        error: None,
        files: files.collect(),
    });
    let held = Held(Arc::clone(&mounted.memory));
    answer.extensions_mut().insert(held);
    answer
}

/// Holds an answer's memory until its body is dropped. The handler ends long before a driver that is busy
/// has read the answer, and the message, then, is still in memory.
pub fn until_sent(mut response: http::Response<Body>) -> http::Response<Body> {
    let Some(held) = response.extensions_mut().remove::<Held>() else {
        return response;
    };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &held;
            frame
        }))
    })
}
