//! Every HTTP call whose path is ours, and what its reply means; a class' own reads stand in `read.rs`.
//!
//! The one file that knows vaultrs: its request types say method, path and body of the typed calls, which
//! are sent through our own transport (its client drops leases and cannot set a TLS server name).

use std::time::Duration;

use http::Method;
use rustify::endpoint::Endpoint as Typed;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{RenewTokenSelfRequest, RevokeTokenSelfRequest};

use super::error::{Asked, VaultError, VaultErrorKind as Kind, shown};
use super::lifetime::{ending, seconds};
use super::transport::{Cache, Call, Reply, SendError, Transport};
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
    /// How long ago that was, where a cache has answered.
    pub age: Duration,
    /// How often it may be used; zero: without limit.
    pub uses: u64,
    pub granted: Duration,
}

/// A login's or a token renewal's reply. A login that succeeded is never refused for how its server writes a
/// number: nobody else would ever know its token.
#[derive(Deserialize)]
struct Authenticated<'a> {
    #[serde(borrow, default)]
    auth: Option<Auth<'a>>,
    #[serde(borrow, default)]
    warnings: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow, default)]
    client_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    accessor: Option<&'a RawValue>,
    #[serde(borrow, default)]
    token_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    policies: Option<&'a RawValue>,
    #[serde(borrow, default)]
    renewable: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lease_duration: Option<&'a RawValue>,
    #[serde(borrow, default)]
    num_uses: Option<&'a RawValue>,
}

/// A field as it should be written, or its type's nothing.
fn or_nothing<T: Default + DeserializeOwned>(field: Option<&RawValue>) -> T {
    field
        .and_then(|field| serde_json::from_str(field.get()).ok())
        .unwrap_or_default()
}

/// The texts of a list that are shown of it: it may have a million.
pub fn some(list: Option<&RawValue>) -> Vec<String> {
    const SHOWN: usize = 16;
    struct Few(Vec<String>);
    impl<'de> Deserialize<'de> for Few {
        fn deserialize<D: serde::Deserializer<'de>>(list: D) -> Result<Self, D::Error> {
            struct List;
            impl<'de> serde::de::Visitor<'de> for List {
                type Value = Few;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a list of texts")
                }

                fn visit_seq<A: serde::de::SeqAccess<'de>>(
                    self,
                    mut list: A,
                ) -> Result<Few, A::Error> {
                    let mut texts = Vec::new();
                    while texts.len() < SHOWN
                        && let Some(text) = list.next_element()?
                    {
                        texts.push(text);
                    }
                    while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                    Ok(Few(texts))
                }
            }
            list.deserialize_seq(List)
        }
    }
    let texts = list.and_then(|list| serde_json::from_str::<Few>(list.get()).ok());
    texts.map_or_else(Vec::new, |Few(texts)| texts)
}

#[derive(Deserialize)]
struct Lease<'a> {
    #[serde(borrow, default)]
    lease_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lease_duration: Option<&'a RawValue>,
    #[serde(borrow, default)]
    renewable: Option<&'a RawValue>,
    #[serde(borrow, default)]
    warnings: Option<&'a RawValue>,
}

/// The longest accessor, in characters; theirs have some thirty.
const LONGEST_ACCESSOR: usize = 256;

/// `POST auth/<mount>/login`. The kubernetes and the jwt method have the same request.
pub async fn login(
    transport: &Transport,
    endpoint: &Endpoint,
    login: &Login,
    jwt: &Secret,
    timeout: Duration,
    cache: Cache,
) -> Result<LoggedIn, VaultError> {
    let typed = LoginWithKubernetesRequest {
        mount: login.mount.clone(),
        role: login.role.clone(),
        jwt: jwt.expose().to_owned(),
    };
    let name = login_name(login);
    let asked = asked(&name, endpoint);
    let reply = send_typed(
        transport,
        endpoint,
        asked,
        &typed,
        typed_call(None, timeout, cache),
        Some(jwt),
    )
    .await;
    // The request type keeps the token in a plain string: it is wiped here.
    zeroize::Zeroize::zeroize(&mut { typed }.jwt);
    logged_in(asked, &reply?, jwt)
}

/// What a login's reply grants.
pub fn logged_in(asked: Asked<'_>, reply: &Reply, jwt: &Secret) -> Result<LoggedIn, VaultError> {
    let parsed: Authenticated<'_> = parse(asked, reply)?;
    let auth = parsed
        .auth
        .ok_or_else(|| VaultError::new(Kind::NotVault, asked, "the reply grants no token"))?;
    let unusable = |_| VaultError::new(Kind::NotVault, asked, "the reply's token is no text");
    let token = auth.client_token.map_or("\"\"", RawValue::get);
    let token = Secret::from(serde_json::from_str::<String>(token).map_err(unusable)?);
    if token.expose().is_empty() {
        return Err(VaultError::new(
            Kind::Denied,
            asked,
            "the server asks for a second factor, which a pod cannot give",
        ));
    }
    tell_warnings(asked, or_nothing(parsed.warnings), &[jwt, &token]);
    let renewable = or_nothing(auth.renewable);
    let granted = auth.lease_duration.and_then(seconds).unwrap_or_default();
    Ok(LoggedIn {
        token,
        // It stands in each record of its volume.
        accessor: or_nothing::<String>(auth.accessor)
            .chars()
            .take(LONGEST_ACCESSOR)
            .collect(),
        kind: if or_nothing::<String>(auth.token_type) == "batch" {
            TokenKind::Batch
        } else {
            TokenKind::Service
        },
        policies: some(auth.policies),
        renewable,
        age: reply.age,
        uses: or_nothing(auth.num_uses),
        // Only a token that cannot be renewed may be without end (root's).
        granted: if renewable || !granted.is_zero() {
            ending(granted)
        } else {
            granted
        },
    })
}

/// A login's name in messages.
pub fn login_name(login: &Login) -> String {
    format!("login POST auth/{}/login", login.mount)
}

/// `GET sys/health?standbyok=true`, without a namespace: whether the server as a whole serves. A standby
/// does (429, and Vault's 472 and 473; OpenBao `http/sys_health.go`). `None`: there was no connection to ask by.
pub async fn healthy(transport: &Transport, endpoint: &Endpoint) -> Option<bool> {
    let whole = Endpoint {
        namespace: None,
        ..endpoint.clone()
    };
    let query = [("standbyok".to_owned(), "true".to_owned())];
    let call = Call {
        cache: Cache::Bypassed,
        method: Method::GET,
        path: "sys/health",
        query: &query,
        body: None,
        token: None,
        patience: None,
        memory: None,
    };
    match transport.send(&whole, &call).await {
        Ok(reply) => Some(matches!(reply.status, 200..=299 | 429 | 472 | 473)),
        // It was not asked.
        Err(SendError::NoConnection(_)) => None,
        Err(_) => Some(false),
    }
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
    let reply = send_typed(
        transport,
        endpoint,
        asked,
        &typed,
        typed_call(Some(token), patience, Cache::Bypassed),
        None,
    )
    .await?;
    renewed_self(asked, &reply, sent)
}

/// What a token's renewal grants.
pub fn renewed_self(asked: Asked<'_>, reply: &Reply, sent: Moment) -> Result<Renewal, VaultError> {
    let nothing = || VaultError::new(Kind::NotVault, asked, "the reply renews nothing");
    if reply.body.expose().is_empty() {
        return Err(nothing());
    }
    let parsed: Authenticated<'_> = parse(asked, reply)?;
    let auth = parsed.auth.ok_or_else(nothing)?;
    if auth.lease_duration.is_none() {
        return Err(nothing());
    }
    let granted = auth.lease_duration.and_then(seconds).unwrap_or_default();
    let renewable = or_nothing(auth.renewable);
    Ok(renewal(
        sent,
        granted,
        renewable,
        or_nothing(parsed.warnings),
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
    let nothing = || VaultError::new(Kind::NotVault, asked, "the reply renews nothing");
    if reply.body.expose().is_empty() {
        return Err(nothing());
    }
    let lease: Lease<'_> = parse(asked, reply)?;
    let named = !or_nothing::<String>(lease.lease_id).is_empty();
    let granted = match lease.lease_duration.and_then(seconds) {
        Some(granted) => granted,
        // The server floors: the last second of this very lease has begun.
        None if named && lease.lease_duration.is_some() => Duration::ZERO,
        None => return Err(nothing()),
    };
    let renewable = or_nothing(lease.renewable);
    Ok(renewal(
        sent,
        granted,
        renewable,
        or_nothing(lease.warnings),
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
    send_typed(
        transport,
        endpoint,
        asked,
        &typed,
        typed_call(Some(token), patience, Cache::Bypassed),
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

fn renewal(
    sent: Moment,
    granted: Duration,
    renewable: bool,
    warnings: Option<Vec<String>>,
) -> Renewal {
    Renewal {
        term: Term::new(sent, ending(granted)),
        renewable,
        // Floored to nothing: its last second has begun.
        capped: granted.is_zero() || capped(warnings.as_deref()),
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

pub fn post<'a>(path: &'a str, body: &serde_json::Value, token: &'a Secret) -> Call<'a> {
    Call {
        cache: Cache::Bypassed,
        method: Method::POST,
        path,
        query: &[],
        body: Some(body.to_string().into_bytes()),
        token: Some(token),
        patience: None,
        memory: None,
    }
}

/// A call that vaultrs says the path and the body of.
fn typed_call(token: Option<&Secret>, timeout: Duration, cache: Cache) -> Call<'_> {
    Call {
        cache,
        method: Method::POST,
        path: "",
        query: &[],
        body: None,
        token,
        patience: Some(timeout),
        memory: None,
    }
}

async fn send_typed(
    transport: &Transport,
    endpoint: &Endpoint,
    asked: Asked<'_>,
    typed: &impl Typed,
    call: Call<'_>,
    hidden: Option<&Secret>,
) -> Result<Reply, VaultError> {
    let unusable = |_| VaultError::new(Kind::Settings, asked, "the request cannot be written");
    let path = typed.path();
    let call = Call {
        // vaultrs writes a tab before some of its paths.
        path: path.trim().trim_start_matches('/'),
        body: typed.body().map_err(unusable)?,
        ..call
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
mod tests;
