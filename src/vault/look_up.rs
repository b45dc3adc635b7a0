//! Whether the server still knows what it gave: somebody else may have revoked it.

use std::time::Duration;

use http::Method;

use super::api;
use super::error::VaultError;
use super::transport::{Cache, Call, Transport};
use crate::redacted::Secret;
use crate::spec::Endpoint;

/// `POST sys/leases/lookup`: whether the server still has this lease. `default` allows it.
pub async fn lease(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    lease_id: &str,
    patience: Duration,
) -> Result<(), VaultError> {
    let body = serde_json::json!({ "lease_id": lease_id });
    let asked = api::asked("POST sys/leases/lookup", endpoint);
    let mut call = api::post("sys/leases/lookup", &body, token);
    call.patience = Some(patience);
    api::send(transport, endpoint, asked, call, None).await?;
    Ok(())
}

/// `GET auth/token/lookup-self`: whether the server still has this token. `default` allows it.
pub async fn token(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    patience: Duration,
) -> Result<(), VaultError> {
    let asked = api::asked("GET auth/token/lookup-self", endpoint);
    let call = Call {
        cache: Cache::Bypassed,
        method: Method::GET,
        path: "auth/token/lookup-self",
        query: &[],
        body: None,
        token: Some(token),
        patience: Some(patience),
        memory: None,
    };
    api::send(transport, endpoint, asked, call, None).await?;
    Ok(())
}
