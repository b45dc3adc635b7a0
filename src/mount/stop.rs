//! When a Mount gives up although its server might still answer: at its deadline, or when its volume is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::MountError;
use super::progress::Progress;

/// The end of a Mount's patience.
pub struct Stop {
    deadline: Instant,
    timeout: Duration,
    /// The registry has released the volume.
    ended: CancellationToken,
    progress: Arc<Progress>,
}

impl Stop {
    /// A Mount that begins now.
    pub fn new(timeout: Duration, ended: CancellationToken, progress: &Arc<Progress>) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            timeout,
            ended,
            progress: Arc::clone(progress),
        }
    }

    /// Comes back when the Mount is to be given up, and tells why. A login is never given up: nobody else would
    /// know its token.
    pub async fn reached(&self) -> MountError {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => MountError::Unmounted,
            () = tokio::time::sleep_until(self.deadline) => MountError::Overdue {
                pending: self.progress.describe(),
                after: self.timeout,
            },
        }
    }
}
