//! The one table from fault to gRPC code.
//!
//! Every code in it is final for kubelet: after a final code it removes the target path and mounts anew.
//! After `Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted` or `Aborted` it keeps the path
//! (`isFinalError` in Kubernetes `pkg/volume/csi/csi_client.go`). Driver 1.6 with rotation then takes the
//! next attempt for a poll that is not due, reports success, and the pod starts with an empty volume.

use tonic::{Code, Status};

use crate::mount::MountError;
use crate::params::Faults;
use crate::policy::Violation;
use crate::render::RenderError;
use crate::vault::VaultErrorKind as Kind;

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
    let code = if faults.only_expired_token() {
        Final::FailedPrecondition
    } else {
        Final::InvalidArgument
    };
    Status::new(code.into(), faults.to_string())
}

/// The status of a class that this installation's policy forbids.
#[must_use]
pub fn of_violation(violation: &Violation) -> Status {
    Status::new(Final::FailedPrecondition.into(), violation.to_string())
}

/// The status of a Mount that failed.
#[must_use]
pub fn of_mount(error: &MountError) -> Status {
    Status::new(code_of(error).into(), error.to_string())
}

fn code_of(error: &MountError) -> Final {
    match error {
        MountError::NoToken { .. } => Final::FailedPrecondition,
        MountError::Mint { source, .. } if source.is_transient() => Final::Internal,
        MountError::Mint { .. } => Final::FailedPrecondition,
        MountError::Login { source, .. } | MountError::Read { source, .. } => {
            code_of_vault(source.kind())
        }
        MountError::Render(RenderError::KeyAbsent { .. }) => Final::NotFound,
        MountError::Render(RenderError::TooLarge { .. }) => Final::FailedPrecondition,
        MountError::Render(RenderError::BadEncoding { .. }) => Final::InvalidArgument,
        // Both were checked when the reply was read.
        MountError::Render(RenderError::NoReply { .. }) => Final::Internal,
        MountError::Unfinished { .. } | MountError::Stopping(_) | MountError::Broken => {
            Final::Internal
        }
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
        | Kind::Interrupted
        | Kind::TimedOut
        | Kind::Untrusted
        | Kind::Scheme
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
}
