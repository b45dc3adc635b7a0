//! `onUnmount: expire`: credentials that may be in use beyond their volume, in a synced Secret or in the
//! environment of a container. They are forgotten where others would be revoked, and run out by themselves.

use super::volume::{Duty, Stage, Volume};
use crate::spec::OnUnmount;

impl Volume {
    /// Whether its end leaves credentials to run out. Those of a first Mount that never succeeded reached
    /// nobody: they are revoked whatever the class says.
    pub fn lets_expire(&self) -> bool {
        self.on_unmount == OnUnmount::Expire && self.stage == Stage::Mounted
    }

    /// Forgets what `expires`, unrevoked.
    pub fn forget(&mut self, expires: impl Fn(&Duty) -> bool) {
        self.grants.retain(|_, held| !expires(&held.duty));
        self.sessions.retain(|_, held| !expires(&held.duty));
    }
}
