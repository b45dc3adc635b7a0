//! The one table from fault to gRPC code.
//!
//! The code is behaviour: driver v1.6 retries `UNAVAILABLE` and nothing else, so a user's mistake must
//! never bear it, and a fault that passes by itself always must.

use tonic::{Code, Status};

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

/// The status of what the policy of this installation forbids.
#[must_use]
pub fn of_violation(violation: &Violation) -> Status {
    status(Code::FailedPrecondition, &violation.to_string())
}

/// The status of a class or request that cannot be understood.
#[must_use]
pub fn of_faults(faults: &Faults) -> Status {
    status(Code::InvalidArgument, &faults.to_string())
}

/// The status of a Mount that failed.
#[must_use]
pub fn of_mount(error: &MountError) -> Status {
    status(code_of(error), &error.to_string())
}

fn status(code: Code, message: &str) -> Status {
    Status::new(code, bounded(message))
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

fn code_of(error: &MountError) -> Code {
    match error {
        MountError::NoToken { .. } | MountError::ExpiredToken(_) => Code::FailedPrecondition,
        MountError::Mint { source, .. } if source.is_transient() => Code::Unavailable,
        MountError::Mint { .. } => Code::FailedPrecondition,
        MountError::Login { source, .. } | MountError::Read { source, .. } => {
            code_of_vault(source.kind())
        }
        MountError::Render(RenderError::KeyAbsent { .. }) => Code::NotFound,
        MountError::Render(RenderError::TooLarge { .. }) => Code::ResourceExhausted,
        MountError::Render(RenderError::BadEncoding { .. } | RenderError::NoKeys { .. }) => {
            Code::InvalidArgument
        }
        // Both were checked when the reply was read.
        MountError::Render(RenderError::NoReply { .. }) => Code::Internal,
        MountError::Stopping(_) => Code::Unavailable,
        MountError::Broken => Code::Internal,
    }
}

fn code_of_vault(kind: Kind) -> Code {
    match kind {
        Kind::Denied | Kind::Refused => Code::PermissionDenied,
        Kind::Missing | Kind::Empty => Code::NotFound,
        Kind::Unsupported | Kind::Settings => Code::InvalidArgument,
        Kind::Sealed
        | Kind::Unreachable
        | Kind::TimedOut
        | Kind::Untrusted
        | Kind::Away
        | Kind::Throttled
        | Kind::Server => Code::Unavailable,
        Kind::TooLarge => Code::ResourceExhausted,
        Kind::NotVault => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
