//! Every HTTP call whose path is ours, and what its reply means; a class' own reads stand in `read.rs`.
//!
//! The one file that knows vaultrs: its request types say method, path and body of the typed calls, which
//! are sent through our own transport (its client drops leases and cannot set a TLS server name).

use std::time::Duration;

use http::Method;
use rustify::endpoint::Endpoint as Typed;
use serde::Deserialize;
use vaultrs::api::AuthInfo;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{RenewTokenSelfRequest, RevokeTokenSelfRequest};

use super::error::{Asked, VaultError, VaultErrorKind as Kind, shown};
use super::life::ending;
use super::transport::{Call, Reply, Transport};
use crate::clock::Moment;
use crate::grant::{Renewal, Term, TokenKind};
use crate::redacted::Secret;
use crate::spec::{Endpoint, Login};

/// What a login gave.
pub struct LoggedIn {
    pub token: Secret,
    pub accessor: String,
    pub kind: TokenKind,
    pub policies: Vec<String>,
    pub renewable: bool,
    /// How often it may be used; zero: without limit.
    pub uses: u64,
    pub granted: Duration,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<AuthInfo>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// What vaultrs leaves out of `auth`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Uses {
    auth: NumUses,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NumUses {
    num_uses: u64,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// `POST auth/<mount>/login`. The kubernetes and the jwt method have the same request.
pub async fn login(
    transport: &Transport,
    endpoint: &Endpoint,
    login: &Login,
    jwt: &Secret,
) -> Result<LoggedIn, VaultError> {
    let typed = LoginWithKubernetesRequest {
        mount: login.mount.clone(),
        role: login.role.clone(),
        jwt: jwt.expose().to_owned(),
    };
    let name = login_name(login);
    let asked = asked(&name, endpoint);
    let reply = send_typed(transport, endpoint, asked, &typed, None, None, Some(jwt)).await;
    // The request type keeps the token in a plain string: it is wiped here.
    zeroize::Zeroize::zeroize(&mut { typed }.jwt);
    logged_in(asked, &reply?, jwt)
}

/// What a login's reply grants.
pub fn logged_in(asked: Asked<'_>, reply: &Reply, jwt: &Secret) -> Result<LoggedIn, VaultError> {
    let parsed: Auth = parse(asked, reply)?;
    let uses: Uses = parse(asked, reply).unwrap_or_default();
    let auth = parsed
        .auth
        .ok_or_else(|| VaultError::new(Kind::NotVault, asked, "the reply grants no token"))?;
    if auth.client_token.is_empty() {
        return Err(VaultError::new(
            Kind::Denied,
            asked,
            "the server asks for a second factor, which a pod cannot give",
        ));
    }
    let token = Secret::from(auth.client_token);
    tell_warnings(asked, parsed.warnings, &[jwt, &token]);
    Ok(LoggedIn {
        token,
        accessor: auth.accessor,
        kind: if auth.token_type == "batch" {
            TokenKind::Batch
        } else {
            TokenKind::Service
        },
        policies: auth.policies,
        renewable: auth.renewable,
        uses: uses.auth.num_uses,
        // Only a token that cannot be renewed may be without end (root's).
        granted: if auth.renewable {
            ending(auth.lease_duration)
        } else {
            Duration::from_secs(auth.lease_duration)
        },
    })
}

/// A login's name in messages.
pub fn login_name(login: &Login) -> String {
    format!("login POST auth/{}/login", login.mount)
}

/// `GET sys/health?standbyok=true`, without a namespace: whether the server as a whole serves. A standby
/// does (429, and Vault's 472 and 473; OpenBao `http/sys_health.go`).
pub async fn healthy(transport: &Transport, endpoint: &Endpoint) -> bool {
    let whole = Endpoint {
        namespace: None,
        ..endpoint.clone()
    };
    let query = [("standbyok".to_owned(), "true".to_owned())];
    let call = Call {
        method: Method::GET,
        path: "sys/health",
        query: &query,
        body: None,
        token: None,
        patience: None,
        room: None,
    };
    let reply = transport.send(&whole, &call).await;
    reply.is_ok_and(|reply| matches!(reply.status, 200..=299 | 429 | 472 | 473))
}

/// `POST auth/token/renew-self`, increment 0: the role's own TTL.
pub async fn renew_self(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    sent: Moment,
    patience: Duration,
) -> Result<Renewal, VaultError> {
    let typed = RenewTokenSelfRequest {
        increment: Some("0".to_owned()),
    };
    let asked = asked("POST auth/token/renew-self", endpoint);
    let patience = Some(patience);
    let reply = send_typed(
        transport,
        endpoint,
        asked,
        &typed,
        Some(token),
        patience,
        None,
    )
    .await?;
    renewed_self(asked, &reply, sent)
}

/// What a token's renewal grants.
pub fn renewed_self(asked: Asked<'_>, reply: &Reply, sent: Moment) -> Result<Renewal, VaultError> {
    let mut parsed: Auth = parse(asked, reply)?;
    let mut auth = parsed
        .auth
        .take()
        .ok_or_else(|| VaultError::new(Kind::NotVault, asked, "the reply renews nothing"))?;
    zeroize::Zeroize::zeroize(&mut auth.client_token);
    Ok(renewal(
        sent,
        auth.lease_duration,
        auth.renewable,
        parsed.warnings,
    ))
}

/// `POST sys/leases/renew` with the id in the body: the path form is not in the `default` policy.
pub async fn renew_lease(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    lease_id: &str,
    sent: Moment,
    patience: Duration,
) -> Result<Renewal, VaultError> {
    let body = serde_json::json!({ "lease_id": lease_id, "increment": 0 });
    let asked = asked("POST sys/leases/renew", endpoint);
    let mut call = post("sys/leases/renew", &body, token);
    call.patience = Some(patience);
    let reply = send(transport, endpoint, asked, call, None).await?;
    renewed_lease(asked, &reply, sent)
}

/// What a lease's renewal grants.
pub fn renewed_lease(asked: Asked<'_>, reply: &Reply, sent: Moment) -> Result<Renewal, VaultError> {
    let lease: Lease = parse(asked, reply)?;
    Ok(renewal(
        sent,
        lease.lease_duration,
        lease.renewable,
        lease.warnings,
    ))
}

/// `POST auth/token/revoke-self`.
pub async fn revoke_self(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    patience: Duration,
) -> Result<(), VaultError> {
    let asked = asked("POST auth/token/revoke-self", endpoint);
    let typed = RevokeTokenSelfRequest {};
    let patience = Some(patience);
    send_typed(
        transport,
        endpoint,
        asked,
        &typed,
        Some(token),
        patience,
        None,
    )
    .await?;
    Ok(())
}

/// `POST sys/leases/revoke`. `sync` is always said: its default differs from its documentation.
pub async fn revoke_lease(
    transport: &Transport,
    endpoint: &Endpoint,
    token: &Secret,
    lease_id: &str,
    patience: Duration,
) -> Result<(), VaultError> {
    let body = serde_json::json!({ "lease_id": lease_id, "sync": false });
    let asked = asked("POST sys/leases/revoke", endpoint);
    let mut call = post("sys/leases/revoke", &body, token);
    call.patience = Some(patience);
    send(transport, endpoint, asked, call, None).await?;
    Ok(())
}

fn renewal(sent: Moment, seconds: u64, renewable: bool, warnings: Option<Vec<String>>) -> Renewal {
    Renewal {
        term: Term {
            sent,
            granted: ending(seconds),
        },
        renewable,
        // Floored to nothing: its last second has begun.
        capped: seconds == 0 || capped(warnings.as_deref()),
    }
}

/// `TTL of "1h" exceeded the effective max_ttl of "5m"`, `period of … exceeded …` (OpenBao
/// `sdk/framework/lease.go`).
fn capped(warnings: Option<&[String]>) -> bool {
    warnings
        .unwrap_or_default()
        .iter()
        .any(|warning| warning.contains("exceeded the effective max_ttl"))
}

/// The warnings of a success, in the log. A plugin that repeats what it was asked repeats it here as well.
pub fn tell_warnings(asked: Asked<'_>, warnings: Option<Vec<String>>, hidden: &[&Secret]) {
    let hidden: Vec<&str> = hidden.iter().map(|secret| secret.expose()).collect();
    for warning in warnings.iter().flatten() {
        tracing::debug!(
            call = asked.call,
            warning = shown(warning, &hidden),
            "the server warns"
        );
    }
}

pub fn asked<'a>(call: &'a str, endpoint: &'a Endpoint) -> Asked<'a> {
    Asked {
        call,
        address: &endpoint.address,
        namespace: endpoint.namespace.as_deref(),
    }
}

fn post<'a>(path: &'a str, body: &serde_json::Value, token: &'a Secret) -> Call<'a> {
    Call {
        method: Method::POST,
        path,
        query: &[],
        body: Some(body.to_string().into_bytes()),
        token: Some(token),
        patience: None,
        room: None,
    }
}

async fn send_typed(
    transport: &Transport,
    endpoint: &Endpoint,
    asked: Asked<'_>,
    typed: &impl Typed,
    token: Option<&Secret>,
    patience: Option<Duration>,
    hidden: Option<&Secret>,
) -> Result<Reply, VaultError> {
    let unusable = |_| VaultError::new(Kind::Settings, asked, "the request cannot be written");
    let path = typed.path();
    let call = Call {
        method: Method::POST,
        // vaultrs writes a tab before some of its paths.
        path: path.trim().trim_start_matches('/'),
        query: &[],
        body: typed.body().map_err(unusable)?,
        token,
        patience,
        room: None,
    };
    send(transport, endpoint, asked, call, hidden).await
}

pub async fn send(
    transport: &Transport,
    endpoint: &Endpoint,
    asked: Asked<'_>,
    call: Call<'_>,
    hidden: Option<&Secret>,
) -> Result<Reply, VaultError> {
    let reply = transport.send(endpoint, &call).await;
    let reply = reply.map_err(|error| VaultError::of_sending(asked, &error))?;
    if (200..300).contains(&reply.status) {
        return Ok(reply);
    }
    // A plugin that repeats what it was asked would tell the token to all who may read the pod's events.
    let hidden = call.token.into_iter().chain(hidden);
    let hidden: Vec<&str> = hidden.map(Secret::expose).collect();
    Err(VaultError::of_reply(asked, &reply, &hidden))
}

pub fn parse<'a, T: Deserialize<'a>>(asked: Asked<'_>, reply: &'a Reply) -> Result<T, VaultError> {
    // The parser's own message could quote the reply.
    serde_json::from_slice(reply.body.expose()).map_err(|_| {
        // The login page of a proxy, say.
        let other = reply.content_type.as_deref();
        let text = match other.filter(|other| *other != "application/json") {
            Some(other) => format!("the reply is {other}, not what a Vault answers"),
            None => "the reply is not what a Vault answers".to_owned(),
        };
        VaultError::new(Kind::NotVault, asked, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_floored_to_nothing_still_ends() {
        let sent = Moment::from_boot(HOUR);
        let last = renewal(sent, 0, true, None);
        assert!(last.capped);
        assert_eq!(last.term.end(), Some(sent.plus(Duration::from_secs(1))));
    }
}
