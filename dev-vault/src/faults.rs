//! Faults on demand: what the server does wrong, to which requests, how often.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens in place of, or after, the right answer.
#[derive(Clone, Debug)]
pub enum Action {
    /// An answer in place of the work.
    Status {
        /// The status.
        code: u16,
        /// The body.
        body: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// The work is done, and this is answered.
    StatusAfterCommit {
        /// The status.
        code: u16,
        /// The body.
        body: String,
    },
    /// The work is done this much later.
    Delay(Duration),
    /// The work is done, and answered this much later.
    DelayAfterCommit(Duration),
    /// The connection breaks before the work.
    Reset,
    /// The connection breaks after the work.
    ResetAfterCommit,
    /// Neither work nor answer.
    Hang,
    /// 307 to this address.
    Redirect(String),
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only requests of this method, if given.
    pub method: Option<String>,
    /// Only requests whose path (below `/v1/`) begins so.
    pub prefix: String,
    /// How often; `None`: until it is cleared.
    pub times: Option<u32>,
    /// What happens.
    pub action: Action,
}

impl Fault {
    /// A fault of all requests whose path begins with `prefix`, until it is cleared.
    #[must_use]
    pub fn at(prefix: &str, action: Action) -> Self {
        Self {
            method: None,
            prefix: prefix.to_owned(),
            times: None,
            action,
        }
    }

    /// The same, `times` times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

/// The faults that are in force. Clones are one list.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// Adds one.
    pub fn push(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Removes all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Whether none is left: each has happened as often as it should.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What befalls a request: of several faults the earliest.
    pub(crate) fn strike(&self, method: &str, path: &str) -> Option<Action> {
        let mut faults = self.lock();
        let index = faults.iter().position(|fault| {
            fault.method.as_ref().is_none_or(|wanted| wanted == method)
                && path.starts_with(&fault.prefix)
        })?;
        let fault = faults.get_mut(index)?;
        let action = fault.action.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(index);
            }
        }
        Some(action)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
