//! `onUnmount`: what a volume's end does to its credentials.

use super::fault::shown;
use super::{ON_UNMOUNT, Reader};
use crate::spec::OnUnmount;

impl Reader {
    /// The class' word, in any case; revoked where there is none.
    pub fn on_unmount(&mut self) -> OnUnmount {
        let Some(written) = self.take(ON_UNMOUNT) else {
            return OnUnmount::default();
        };
        match written.to_ascii_lowercase().as_str() {
            "revoke" => OnUnmount::Revoke,
            "expire" => OnUnmount::Expire,
            _ => {
                self.fault(
                    ON_UNMOUNT,
                    format!("{:?} is neither revoke nor expire", shown(&written)),
                    "write revoke, or expire where a synced Secret or an environment variable outlives the pod",
                );
                OnUnmount::default()
            }
        }
    }
}
