//! The one table from fault to gRPC code.
//!
//! Every code in it is final for kubelet: after a final code it removes the target path and mounts anew.
//! After `Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted` or `Aborted` it keeps the path
//! (`isFinalError` in Kubernetes `pkg/volume/csi/csi_client.go`). Driver 1.6 with rotation then takes the
//! next attempt for a poll that is not due, reports success, and the pod starts with an empty volume.

use tonic::{Code, Status};

use crate::blocking::BlockingError;
use crate::memory::MemoryError;
use crate::mount::MountError;
use crate::params::Faults;
use crate::policy::Violation;
use crate::render::RenderError;
use crate::vault::VaultErrorKind as Kind;

/// The longest message, in bytes. It is sent as one header, of which clients and proxies take 8 KiB.
const LONGEST: usize = 4096;
/// The same on the wire, where a space, a quote or a byte beyond ASCII takes three (gRPC over HTTP/2,
/// `grpc-message`).
const LONGEST_ON_THE_WIRE: usize = 7 * 1024;

/// The codes we answer. There is no way to answer one that kubelet does not take as final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    /// The class or the request is wrong.
    InvalidArgument,
    /// The cluster or this installation does not allow it, or the result is too large.
    FailedPrecondition,
    /// The server refuses.
    PermissionDenied,
    /// The path or the key is absent.
    NotFound,
    /// The server cannot serve now, or we broke an assumption of our own.
    Internal,
}

impl From<Final> for Code {
    fn from(code: Final) -> Self {
        match code {
            Final::InvalidArgument => Self::InvalidArgument,
            Final::FailedPrecondition => Self::FailedPrecondition,
            Final::PermissionDenied => Self::PermissionDenied,
            Final::NotFound => Self::NotFound,
            Final::Internal => Self::Internal,
        }
    }
}

/// The status of a class or request that cannot be understood.
#[must_use]
pub fn of_faults(faults: &Faults) -> Status {
    status(Final::InvalidArgument, &faults.to_string())
}

/// The status of a class that this installation's policy forbids.
#[must_use]
pub fn of_violation(violation: &Violation) -> Status {
    status(Final::FailedPrecondition, &violation.to_string())
}

/// The status of a large class that was not parsed in time.
#[must_use]
pub fn of_parsing(error: &BlockingError) -> Status {
    let message = format!(
        "the class is large, and was not parsed: {error}; kubelet tries again: split the class"
    );
    status(Final::Internal, &message)
}

/// The status of a Mount that failed.
#[must_use]
pub fn of_mount(error: &MountError) -> Status {
    status(code_of(error), &error.to_string())
}

fn status(code: Final, message: &str) -> Status {
    Status::new(code.into(), bounded(message))
}

/// A message as it may be sent: of one that is too long, its beginning, which says what failed, and its end,
/// which says what to do.
fn bounded(message: &str) -> String {
    let head = fitting(message.chars(), 1);
    if head == message.len() {
        return message.to_owned();
    }
    let tail = fitting(message.chars().rev(), 4);
    let head = fitting(message.chars(), 2);
    let tail = message.len() - tail;
    format!(
        "{} … {}",
        message.get(..head).unwrap_or_default(),
        message.get(tail..).unwrap_or_default()
    )
}

/// How many bytes of these characters fit into a part of a message.
fn fitting(chars: impl Iterator<Item = char>, part: usize) -> usize {
    let (mut bytes, mut wire) = (0, 0);
    for c in chars {
        let plain = c.is_ascii_graphic()
            && !matches!(c, '"' | '#' | '%' | '<' | '>' | '`' | '?' | '{' | '}');
        wire += if plain { 1 } else { 3 * c.len_utf8() };
        if bytes + c.len_utf8() > LONGEST / part || wire > LONGEST_ON_THE_WIRE / part {
            break;
        }
        bytes += c.len_utf8();
    }
    bytes
}

fn code_of(error: &MountError) -> Final {
    match error {
        MountError::NoToken { .. } | MountError::ExpiredToken(_) => Final::FailedPrecondition,
        MountError::Mint { source, .. } if source.is_transient() => Final::Internal,
        MountError::Mint { .. } => Final::FailedPrecondition,
        MountError::Login { source, .. } | MountError::Read { source, .. } => {
            code_of_vault(source.kind())
        }
        MountError::Render(RenderError::KeyAbsent { .. }) => Final::NotFound,
        MountError::Render(RenderError::TooLarge { .. }) => Final::FailedPrecondition,
        MountError::Render(RenderError::BadEncoding { .. } | RenderError::NoKeys { .. }) => {
            Final::InvalidArgument
        }
        MountError::Memory {
            source: MemoryError::TooMuch(_),
            ..
        } => Final::FailedPrecondition,
        // Both were checked when the reply was read.
        MountError::Render(RenderError::NoReply { .. }) => Final::Internal,
        MountError::Memory { .. }
        | MountError::Blocking(_)
        | MountError::Overdue { .. }
        | MountError::Unfinished { .. }
        | MountError::CutShort
        | MountError::Unmounted
        | MountError::Stopping(_)
        | MountError::Broken => Final::Internal,
    }
}

fn code_of_vault(kind: Kind) -> Final {
    match kind {
        Kind::Denied | Kind::Refused => Final::PermissionDenied,
        Kind::Missing | Kind::Empty => Final::NotFound,
        Kind::Unsupported | Kind::Settings => Final::InvalidArgument,
        Kind::TooLarge | Kind::Redirected => Final::FailedPrecondition,
        Kind::Sealed
        | Kind::Unreachable
        | Kind::NotTaken
        | Kind::Interrupted
        | Kind::TimedOut
        | Kind::Untrusted
        | Kind::Scheme
        | Kind::Away
        | Kind::Throttled
        | Kind::Server
        | Kind::NotVault => Final::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_takes_every_code_as_final() {
        let not_final = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
        ];
        for code in [
            Final::InvalidArgument,
            Final::FailedPrecondition,
            Final::PermissionDenied,
            Final::NotFound,
            Final::Internal,
        ] {
            let code = Code::from(code);
            assert!(!not_final.contains(&code) && code != Code::Ok, "{code:?}");
        }
    }

    #[test]
    fn a_message_is_never_longer_than_a_header_may_be() {
        for unit in ["x", "é", "\u{1f511}", "%", "a b", "\""] {
            for length in [10, 1000, 4096, 4097, 100_000] {
                let message = format!("object {:?}: check `secretKey`", unit.repeat(length));
                let told = bounded(&message);
                assert!(told.len() <= LONGEST, "{unit} {length}: {}", told.len());
                assert!(told.starts_with("object ") && told.ends_with("check `secretKey`"));
                let header: http::Response<()> = Status::internal(told).into_http();
                let sent = header.headers().get("grpc-message").unwrap().len();
                assert!(sent <= 8 * 1024, "{unit} {length}: {sent}");
            }
        }
        assert_eq!(bounded("short"), "short");
    }
}
