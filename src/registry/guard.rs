//! A volume whose state breaks the worker is set aside; the others go on.
//!
//! A panic in the handling of one volume is caught where that volume is known, and the volume is dropped: it may be
//! half-changed. What the worker keeps beside its volumes (queues, keys, who shares what) is changed by calls that
//! do not panic, so it is whole. The volume's credentials are left alone: they live to their own end, and the next
//! poll, which finds no volume, logs in and reads anew.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

use super::Message;
use super::task::VolumeKey;
use super::worker::Worker;
use crate::spec::VolumeId;

impl Worker {
    /// Works on a volume. `None`: that has broken down, and the volume is set aside.
    pub(super) fn guarded<T>(
        &mut self,
        key: VolumeKey,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        if done.is_err() {
            self.quarantine(key);
        }
        done.ok()
    }

    pub(super) fn handle_guarded(&mut self, message: Message) {
        let volume = message.volume().cloned();
        let done = catch_unwind(AssertUnwindSafe(|| self.handle(message)));
        if done.is_ok() {
            return;
        }
        match volume.and_then(|volume| self.volume(&volume)) {
            Some((key, _)) => self.quarantine(key),
            None => error!("a message broke the registry down, and was dropped"),
        }
    }

    /// Drops a volume that cannot be handled, and sets its journal file aside. Who shares its credentials stays
    /// known: its pod lives on them.
    fn quarantine(&mut self, key: VolumeKey) {
        let Some(volume) = self.forget(key) else {
            return;
        };
        self.metrics.quarantined();
        error!(
            volume = %volume.id,
            pod = volume.pod.name,
            namespace = volume.pod.namespace,
            class = volume.class,
            "the state of this volume broke the registry and was set aside: its credentials are renewed and revoked no more and live to their own end; the next rotation poll issues new ones, without polls restart the pod; please report this with the panic message above"
        );
        if let Some(journal) = &self.journal {
            journal.quarantine(&volume.id);
        }
    }
}

impl Message {
    /// The one volume that it is about.
    fn volume(&self) -> Option<&VolumeId> {
        match self {
            Self::Begin { spec, .. } => Some(&spec.volume),
            Self::Hold { volume, .. }
            | Self::TokenDead { volume, .. }
            | Self::Discard { volume, .. }
            | Self::End { volume, .. }
            | Self::Answered { volume }
            | Self::Late { volume, .. } => Some(volume),
            Self::Paths { .. }
            | Self::Observed { .. }
            | Self::PodGone { .. }
            | Self::PodsThere { .. }
            | Self::Stop { .. } => None,
        }
    }
}
