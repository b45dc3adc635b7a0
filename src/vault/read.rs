//! A class' own reads: the request as it was asked, and what its reply is good for.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{Asked, VaultError, VaultErrorKind as Kind, shown};
use super::lifetime::{self, Leaseless, ending, seconds};
use super::transport::{Cache, Call, Reply, Transport};
use super::{Settings, api, bare, raw, tenant};
use crate::blocking;
use crate::clock::Moment;
use crate::grant::{Grant, Keep, Session, Term};
use crate::memory::{MountMemory, Reservation};
use crate::redacted::Secret;
use crate::spec::Request;

/// The reply's own fields, of the types that Vault's Go client gives them (vault/api `secret.go`).
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    lease_id: Option<String>,
    /// Go's client fails at a number that is no int64, and the credential is lost: whatever stands here is read.
    #[serde(borrow, default)]
    lease_duration: Option<&'a RawValue>,
    #[serde(default)]
    renewable: Option<bool>,
    #[serde(default)]
    mount_type: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    auth: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    wrap_info: Option<serde::de::IgnoredAny>,
    #[serde(borrow, default)]
    warnings: Option<&'a RawValue>,
}

/// What a read gave.
pub struct Read {
    /// The reply, and what keeps it good.
    pub grant: Grant,
    /// The memory that its body takes.
    pub memory: Reservation,
}

/// The longest lease id, in bytes: a path and its suffix. It stands in each record of its volume, which is never dropped.
const LONGEST_LEASE_ID: usize = 8 * 1024;

/// A read's name in messages: never its query or arguments.
pub fn name(request: &Request) -> String {
    format!("{} {}", request.method.as_str(), request.path)
}

/// Reads what a class asks for. `sent` is the time just before.
pub async fn read(
    transport: &Transport,
    session: &Session,
    request: &Request,
    memory: &MountMemory,
    sent: Moment,
    settings: &Settings,
    cache: Cache,
) -> Result<Read, VaultError> {
    let (endpoint, token) = (&session.endpoint, &session.token);
    let name = name(request);
    let asked = api::asked(&name, endpoint);
    let call = Call {
        cache,
        method: Method::from_bytes(request.method.as_str().as_bytes())
            .map_err(|_| VaultError::new(Kind::Settings, asked, "no such method"))?,
        path: &request.path,
        query: &request.query,
        body: request.args.as_ref().map(|args| args.as_bytes().to_vec()),
        token: Some(token),
        patience: Some(settings.read_timeout),
        memory: Some(memory),
    };
    let mut reply = api::send(transport, endpoint, asked, call, None).await?;
    let memory = reply.memory.take().unwrap_or_else(|| memory.reservation());
    if reply.body.expose().len() < blocking::LARGE {
        let grant = granted(asked, request, reply, sent, settings.refresh, token)?;
        return Ok(Read { grant, memory });
    }
    let parsed = {
        let (endpoint, request, token) = (endpoint.clone(), request.clone(), token.clone());
        let (name, refresh) = (name.clone(), settings.refresh);
        let parse = move || {
            let asked = api::asked(&name, &endpoint);
            granted(asked, &request, reply, sent, refresh, &token)
        };
        settings
            .processor
            .run(tenant(&session.service_account), parse)
    };
    let undone = |error: blocking::BlockingError| {
        VaultError::new(
            Kind::Away,
            asked,
            format!("its large reply was not parsed: {error}"),
        )
    };
    let grant = parsed.await.map_err(undone)??;
    Ok(Read { grant, memory })
}

/// What a read's reply grants.
pub fn granted(
    asked: Asked<'_>,
    request: &Request,
    mut reply: Reply,
    sent: Moment,
    refresh: Duration,
    token: &Secret,
) -> Result<Grant, VaultError> {
    if reply.body.expose().is_empty() {
        return Err(VaultError::new(Kind::Empty, asked, "the reply is empty"));
    }
    if raw::is_raw(request, &reply) {
        return Ok(Grant {
            request: request.clone(),
            term: Term::endless(sent),
            keep: Keep::Static,
            body: reply.body,
            keys: None,
            raw: true,
        });
    }
    reply.body = bare::enveloped(reply.body);
    let envelope: Envelope<'_> = api::parse(asked, &reply)?;
    let warnings = api::some(envelope.warnings);
    let Some(data) = envelope.data.filter(|data| data.get() != "null") else {
        let why = match (envelope.auth, envelope.wrap_info) {
            (Some(_), _) => "the reply grants a token, which is nothing to be mounted",
            (_, Some(_)) => "the reply is wrapped: a wrapping token, to be used once, is no file",
            _ => "the reply has no data",
        };
        let warnings = warnings.join("; ");
        let text = shown(&format!("{why} {warnings}"), &[token.expose()]);
        return Err(VaultError::new(Kind::Empty, asked, text));
    };
    api::tell_warnings(asked, Some(warnings), &[token]);
    let lease_duration = envelope.lease_duration.and_then(seconds);
    let lease_duration = lease_duration.unwrap_or_default();
    let lease_id = envelope.lease_id.unwrap_or_default();
    if lease_id.len() > LONGEST_LEASE_ID {
        let text = format!("the reply names a lease by more than {LONGEST_LEASE_ID} bytes");
        return Err(VaultError::new(Kind::NotVault, asked, text));
    }
    let (keep, granted) = if lease_id.is_empty() {
        let mount_type = envelope.mount_type.unwrap_or_default();
        let leaseless = Leaseless {
            request,
            lease_duration,
            mount_type: &mount_type,
            data,
        };
        lifetime::of(&leaseless, refresh)
    } else {
        let keep = Keep::Lease {
            id: lease_id,
            renewable: envelope.renewable.unwrap_or_default(),
        };
        (keep, ending(lease_duration))
    };
    Ok(Grant {
        request: request.clone(),
        term: Term::aged(sent, reply.age, granted),
        keep,
        body: reply.body,
        keys: None,
        raw: false,
    })
}
