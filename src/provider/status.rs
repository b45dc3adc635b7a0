//! The one table from fault to gRPC code.
//!
//! The code is behaviour: driver v1.6 retries `UNAVAILABLE` and nothing else, so a user's mistake must
//! never bear it, and a fault that passes by itself always must.

use tonic::{Code, Status};

use crate::mount::MountError;
use crate::params::Faults;
use crate::render::RenderError;
use crate::vault::VaultErrorKind as Kind;

/// The status of a class or request that cannot be understood.
#[must_use]
pub fn of_faults(faults: &Faults) -> Status {
    let code = if faults.only_expired_token() {
        Code::FailedPrecondition
    } else {
        Code::InvalidArgument
    };
    Status::new(code, faults.to_string())
}

/// The status of a Mount that failed.
#[must_use]
pub fn of_mount(error: &MountError) -> Status {
    Status::new(code_of(error), error.to_string())
}

fn code_of(error: &MountError) -> Code {
    match error {
        MountError::NoToken { .. } => Code::FailedPrecondition,
        MountError::Mint { source, .. } if source.is_transient() => Code::Unavailable,
        MountError::Mint { .. } => Code::FailedPrecondition,
        MountError::Login { source, .. } | MountError::Read { source, .. } => {
            code_of_vault(source.kind())
        }
        MountError::Render(RenderError::KeyAbsent { .. }) => Code::NotFound,
        MountError::Render(RenderError::TooLarge { .. }) => Code::ResourceExhausted,
        MountError::Render(RenderError::BadEncoding { .. }) => Code::InvalidArgument,
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
        | Kind::Scheme
        | Kind::Away
        | Kind::Throttled
        | Kind::Server => Code::Unavailable,
        Kind::TooLarge => Code::ResourceExhausted,
        Kind::NotVault => Code::Internal,
    }
}
