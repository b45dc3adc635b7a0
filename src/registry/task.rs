//! The calls that keep and end what a volume holds: which, of what, and which are with the dispatcher.

/// Names a volume within the worker.
pub type VolumeKey = u64;
/// Names a session or a grant within the worker.
pub type ItemKey = u64;

/// A call for one session or one grant of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Revoke a session's token.
    RevokeSession(VolumeKey, ItemKey),
    /// Revoke one lease.
    RevokeLease(VolumeKey, ItemKey),
    /// Renew a session's token.
    RenewSession(VolumeKey, ItemKey),
    /// Renew a lease.
    RenewLease(VolumeKey, ItemKey),
    /// Ask whether the server still knows a session's token.
    LookUpSession(VolumeKey, ItemKey),
    /// Ask whether the server still knows a lease.
    LookUpLease(VolumeKey, ItemKey),
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Renew,
    Revoke,
    LookUp,
}

impl Task {
    /// The volume it is about.
    pub const fn volume(self) -> VolumeKey {
        self.parts().1
    }

    /// The session or the grant it is about.
    pub const fn item(self) -> ItemKey {
        self.parts().2
    }

    /// What it does.
    pub const fn kind(self) -> CallKind {
        self.parts().0
    }

    /// Whether its item is a session; else it is a grant.
    pub const fn is_of_session(self) -> bool {
        matches!(
            self,
            Self::RevokeSession(..) | Self::RenewSession(..) | Self::LookUpSession(..)
        )
    }

    const fn parts(self) -> (CallKind, VolumeKey, ItemKey) {
        match self {
            Self::RevokeSession(volume, item) | Self::RevokeLease(volume, item) => {
                (CallKind::Revoke, volume, item)
            }
            Self::RenewSession(volume, item) | Self::RenewLease(volume, item) => {
                (CallKind::Renew, volume, item)
            }
            Self::LookUpSession(volume, item) | Self::LookUpLease(volume, item) => {
                (CallKind::LookUp, volume, item)
            }
        }
    }
}

/// Which calls for an item were handed to the dispatcher and have not ended: each kind at most once.
///
/// A kind does not wait for another one: a look-up may wait behind all other calls of its address for as long as
/// they take, and a revocation must not wait for a renewal that hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    renewal: bool,
    revocation: bool,
    look_up: bool,
}

impl HandedOver {
    const fn of(&mut self, kind: CallKind) -> &mut bool {
        match kind {
            CallKind::Renew => &mut self.renewal,
            CallKind::Revoke => &mut self.revocation,
            CallKind::LookUp => &mut self.look_up,
        }
    }

    /// A call is handed over. False: one of its kind is with the dispatcher already.
    pub const fn begin(&mut self, kind: CallKind) -> bool {
        !std::mem::replace(self.of(kind), true)
    }

    /// A call has ended, or was found pointless.
    pub const fn end(&mut self, kind: CallKind) {
        *self.of(kind) = false;
    }
}
