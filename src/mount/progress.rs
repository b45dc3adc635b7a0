//! What a Mount waits for at present: told to a caller whose deadline comes first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The calls of one Mount that are under way.
#[derive(Default)]
pub struct Progress {
    pending: Mutex<BTreeMap<String, usize>>,
}

/// A call under way; it is over when this is dropped.
pub struct Pending {
    progress: Arc<Progress>,
    call: String,
}

impl Progress {
    /// A call begins.
    pub fn begin(self: &Arc<Self>, call: String) -> Pending {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending.entry(call.clone()).or_default() += 1;
        Pending {
            progress: Arc::clone(self),
            call,
        }
    }

    /// One of the calls, and how many there are besides.
    pub fn describe(&self) -> String {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = pending.keys();
        match (calls.next(), calls.count()) {
            (None, _) => "its turn".to_owned(),
            (Some(call), 0) => call.clone(),
            (Some(call), more) => format!("{call} and {more} more"),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let pending = &self.progress.pending;
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pending.get_mut(&self.call) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.call);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_named() {
        let progress = Arc::new(Progress::default());
        assert_eq!(progress.describe(), "its turn");
        let first = progress.begin("GET azure/creds/app".to_owned());
        let twin = progress.begin("GET azure/creds/app".to_owned());
        assert_eq!(progress.describe(), "GET azure/creds/app");
        let second = progress.begin("GET kv/app".to_owned());
        assert_eq!(progress.describe(), "GET azure/creds/app and 1 more");
        drop((first, second));
        assert_eq!(progress.describe(), "GET azure/creds/app");
        drop(twin);
        assert_eq!(progress.describe(), "its turn");
    }
}
