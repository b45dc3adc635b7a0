//! For whom a call is made: its pod's namespace. The pools and connections that calls share are shared out by it.
//!
//! It goes along with the call's task, past the typed calls, which have no use for it. A call for nobody (a health
//! check) has none.

use std::sync::Arc;

tokio::task_local! {
    static TENANT: Arc<str>;
}

/// Makes a call for a tenant.
pub async fn on_behalf_of<T>(tenant: &str, call: impl Future<Output = T>) -> T {
    TENANT.scope(tenant.into(), call).await
}

/// For whom this task makes a call just now.
pub fn current() -> Option<Arc<str>> {
    TENANT.try_with(Arc::clone).ok()
}
