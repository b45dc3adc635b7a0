//! Why a Mount failed, in words for `kubectl describe pod`.

use std::time::Duration;

use crate::blocking::BlockingError;
use crate::memory::MemoryError;
use crate::params::ExpiredToken;
use crate::registry::Closed;
use crate::render::RenderError;
use crate::service_account::MintError;
use crate::vault::{VaultError, VaultErrorKind};

/// Why a Mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The driver sent no token for the audience, and none may be minted.
    #[error(
        "no service-account token for the audience {audience:?} came with the request (it came for {offered}): add {{audience: {audience}}} to `tokenRequests` of the CSIDriver object secrets-store.csi.k8s.io, or name one of its audiences by the class' `audience`"
    )]
    NoToken {
        /// The audience that the class wants.
        audience: String,
        /// The audiences there were tokens for.
        offered: String,
    },
    /// The driver sent a token that has expired.
    #[error(transparent)]
    ExpiredToken(#[from] ExpiredToken),
    /// No usable token came, and minting one failed.
    #[error(
        "no service-account token for the audience {audience:?} that is still good came with the request, and none could be minted: {source}"
    )]
    Mint {
        /// The audience that the class wants.
        audience: String,
        /// Why.
        source: MintError,
    },
    /// The server refused the login, or could not be asked.
    #[error("login with role {role:?} at auth/{mount}: {source}")]
    Login {
        /// The role.
        role: String,
        /// The auth mount.
        mount: String,
        /// Why.
        source: VaultError,
    },
    /// A read failed.
    #[error("object {object:?}: {source}")]
    Read {
        /// The first object that wants it.
        object: String,
        /// Why.
        source: VaultError,
    },
    /// The replies do not give the files that were asked for.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The files take more memory than there is for them.
    #[error(
        "object {object:?}: {source}: kubelet tries again; ask for single keys, or split the class"
    )]
    Memory {
        /// The object whose files were to be made.
        object: String,
        /// Why.
        source: MemoryError,
    },
    /// A large reply did not become files in time.
    #[error("a large reply was not made into files: {0}")]
    Blocking(#[from] BlockingError),
    /// The Mount's own deadline passed.
    #[error(
        "given up: after {} s it was still waiting for {pending}; what it held is given back, and kubelet tries again; see the server's log for why it is slow", .after.as_secs()
    )]
    Overdue {
        /// What the Mount waited for.
        pending: String,
        /// How long a Mount may take.
        after: Duration,
    },
    /// The caller's deadline came first. The Mount goes on without the caller.
    #[error(
        "still waiting for {pending} after {} s: the mount goes on, and kubelet's next attempt takes its result; see the server's log for why it is slow", .waited.as_secs()
    )]
    Unfinished {
        /// What the Mount waits for.
        pending: String,
        /// How long the caller has waited.
        waited: Duration,
    },
    /// The path went before the Mount's end, and what it has got is revoked.
    #[error("the volume was unmounted while it was mounted; kubelet tries again")]
    Unmounted,
    /// The daemon was killed when it worked on this volume's last Mount.
    #[error(
        "the daemon was killed while it mounted this volume; what it held is revoked, and kubelet tries again; see why the daemon's container was restarted"
    )]
    CutShort,
    /// The daemon is going down.
    #[error("{0}; its successor serves kubelet's next attempt")]
    Stopping(#[from] Closed),
    /// The Mount's own task broke down.
    #[error("the mount broke down inside Leasehold; the daemon's log says where")]
    Broken,
}

impl MountError {
    /// Whether the same Mount may succeed within seconds without anyone changing anything.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Self::Login { source, .. } => source.passes_by_itself() && !source.was_sent(),
            Self::Read { source, .. } => source.passes_by_itself(),
            Self::Mint { source, .. } => source.is_transient(),
            Self::NoToken { .. }
            | Self::ExpiredToken(_)
            | Self::Render(_)
            | Self::Memory { .. }
            | Self::Blocking(_)
            | Self::Overdue { .. }
            | Self::Unfinished { .. }
            | Self::CutShort
            | Self::Unmounted
            | Self::Stopping(_)
            | Self::Broken => false,
        }
    }

    /// Whether the server was away, and this Mount did not ask it.
    #[must_use]
    pub fn was_not_asked(&self) -> bool {
        match self {
            Self::Login { source, .. } | Self::Read { source, .. } => {
                source.kind() == VaultErrorKind::Away
            }
            _ => false,
        }
    }

    /// The server's `Retry-After`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Login { source, .. } | Self::Read { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}
