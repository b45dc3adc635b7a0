//! Why a call to the server failed, in words fit for `kubectl describe pod`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::health::CircuitOpen;
use super::transport::{Reply, SendError};
use crate::clock::Moment;

/// As much of the server's own words as a message carries, in characters.
const SHOWN: usize = 300;
/// As much of them as is kept to be sorted by: what matters may stand at their end.
const KEPT: usize = 4096;

/// In the place of what must not be shown.
const HIDDEN: &str = "[hidden]";
/// The characters of a token after its prefix, at least.
const SHORTEST_TOKEN: usize = 20;

/// What kind of failure it is; the edges decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultErrorKind {
    /// 403: the login or the token's policies do not allow it.
    Denied,
    /// Another refusal: 400 and the like.
    Refused,
    /// 404, also of a deleted version.
    Missing,
    /// A success with nothing in it.
    Empty,
    /// 405.
    Unsupported,
    /// The address, the namespace or the TLS settings cannot be used.
    Settings,
    /// 503: sealed or not initialised.
    Sealed,
    /// No connection.
    Unreachable,
    /// All connections that this node, or this tenant, may have are in use.
    NoConnection,
    /// Each connection ended before the server took the request: a proxy that closes them after some requests.
    NotTaken,
    /// The connection broke when the request was on its way: the server may have carried it out.
    Interrupted,
    /// No answer in time: the server's trouble, or that of what this request needs.
    TimedOut,
    /// The TLS handshake failed.
    Untrusted,
    /// It speaks TLS where the address says http, or the other way round.
    Scheme,
    /// Not asked: the server has been away, and its next probe is not due yet.
    Away,
    /// 429.
    Throttled,
    /// 5xx.
    Server,
    /// The reply is larger than we read.
    TooLarge,
    /// Something answered that is no Vault.
    NotVault,
    /// The server redirects to where it is not followed.
    Redirected,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultError(Box<Details>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Details {
    kind: VaultErrorKind,
    /// Operation and path: `GET secret/data/app`; never the query or the arguments.
    call: String,
    address: String,
    namespace: Option<String>,
    status: Option<u16>,
    text: String,
    retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    data: Option<serde::de::IgnoredAny>,
}

/// What was asked of whom.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub call: &'a str,
    pub address: &'a str,
    pub namespace: Option<&'a str>,
}

impl VaultError {
    /// A reply whose status is no success. What is `hidden` is struck out of the server's words.
    pub(super) fn of_reply(asked: Asked<'_>, reply: &Reply, hidden: &[&str]) -> Self {
        use VaultErrorKind as Kind;
        let body = serde_json::from_slice::<Body>(reply.body.expose()).ok();
        let sealed = |text: &str| text.contains("sealed");
        let mut text = body.as_ref().map_or_else(String::new, |body| {
            let warnings = body.warnings.iter().flatten();
            let texts: Vec<&str> = body
                .errors
                .iter()
                .chain(warnings)
                .map(String::as_str)
                .collect();
            shown(&texts.join("; "), hidden)
        });
        let deleted = body.as_ref().is_some_and(|body| body.data.is_some());
        let kind = match reply.status {
            403 => Kind::Denied,
            404 => Kind::Missing,
            405 => Kind::Unsupported,
            429 => Kind::Throttled,
            501 => Kind::Sealed,
            503 if sealed(&text) => Kind::Sealed,
            // 412 and 47x: a replica that is behind, or a standby that does not serve.
            412 | 472 | 473 | 500..=599 => Kind::Server,
            _ if body.is_none() => Kind::NotVault,
            _ => Kind::Refused,
        };
        if kind == Kind::Missing && text.is_empty() && deleted {
            "the secret's version is deleted or destroyed".clone_into(&mut text);
        }
        Self(Box::new(Details {
            kind,
            call: asked.call.to_owned(),
            address: asked.address.to_owned(),
            namespace: asked.namespace.map(str::to_owned),
            status: Some(reply.status),
            text,
            retry_after: reply.retry_after,
        }))
    }

    /// No reply at all, or none that could be read.
    pub(super) fn of_sending(asked: Asked<'_>, error: &SendError) -> Self {
        let kind = match error {
            SendError::Settings(_) => VaultErrorKind::Settings,
            SendError::TooLarge { .. } => VaultErrorKind::TooLarge,
            SendError::Unreachable(_) => VaultErrorKind::Unreachable,
            SendError::NotTaken(_) => VaultErrorKind::NotTaken,
            SendError::NoConnection(_) => VaultErrorKind::NoConnection,
            SendError::Interrupted(_) => VaultErrorKind::Interrupted,
            SendError::TimedOut(_) => VaultErrorKind::TimedOut,
            SendError::Untrusted(_) => VaultErrorKind::Untrusted,
            SendError::Scheme(_) => VaultErrorKind::Scheme,
            SendError::Crowded(_) => VaultErrorKind::Away,
            SendError::Redirected(_) => VaultErrorKind::Redirected,
        };
        Self::new(kind, asked, error.to_string())
    }

    pub(super) fn new(kind: VaultErrorKind, asked: Asked<'_>, text: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            call: asked.call.to_owned(),
            address: asked.address.to_owned(),
            namespace: asked.namespace.map(str::to_owned),
            status: None,
            text: text.into(),
            retry_after: None,
        }))
    }

    /// Not even asked: it is away.
    pub(super) fn away(asked: Asked<'_>, open: CircuitOpen, now: Moment) -> Self {
        let text = format!(
            "not asked: {} has been away for {} s and is tried again in {} s",
            open.what,
            now.since(open.since).as_secs(),
            open.until.since(now).as_secs() + 1
        );
        Self::new(VaultErrorKind::Away, asked, text)
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> VaultErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed within seconds. A 500 is the trouble of this request's backend, a
    /// certificate that does not fit is its owner's to mend, and who has waited long for an answer has waited.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        match self.0.kind {
            VaultErrorKind::Sealed
            | VaultErrorKind::Unreachable
            | VaultErrorKind::NotTaken
            | VaultErrorKind::NoConnection
            | VaultErrorKind::Interrupted
            | VaultErrorKind::Away
            | VaultErrorKind::Throttled => true,
            VaultErrorKind::Server => !matches!(self.0.status, Some(500 | 504)),
            _ => false,
        }
    }

    /// Whether the server may have carried the call out although it failed: a login would leave a token
    /// that nobody knows.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        match self.0.kind {
            VaultErrorKind::Interrupted | VaultErrorKind::TimedOut => true,
            VaultErrorKind::Server => matches!(self.0.status, Some(500 | 502 | 504)),
            _ => false,
        }
    }

    /// Whether the server may only be behind: it has not heard of the token, or of what made it, yet.
    #[must_use]
    pub fn may_be_behind(&self) -> bool {
        self.0.kind == VaultErrorKind::Denied || self.0.status == Some(412)
    }

    /// Whether it says that our token is dead: exactly `permission denied` or `invalid token`. The
    /// wrapped form (`1 error occurred: …`) is a missing policy of a living one
    /// (OpenBao `vault/request_handling.go`).
    #[must_use]
    pub fn is_dead_token(&self) -> bool {
        let text = self.0.text.as_str();
        // HashiCorp Vault may say both, in a list.
        let both = text.contains("permission denied") && text.contains("invalid token");
        self.0.kind == VaultErrorKind::Denied
            && (matches!(text, "permission denied" | "invalid token") || both)
    }

    /// The HTTP status, where there was a reply.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The server's own words, cleaned.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The server's `Retry-After`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The usual mistakes that make a right path a wrong one, where this call bears their marks: the server
    /// answers them as it answers a missing path or a missing policy.
    fn mistake(&self) -> Option<&'static str> {
        use VaultErrorKind as Kind;
        let may_be = matches!(
            self.0.kind,
            Kind::Missing | Kind::Denied | Kind::Refused | Kind::Unsupported | Kind::NotVault
        );
        if !may_be {
            return None;
        }
        if self.0.address.ends_with("/v1") {
            return Some("`vaultAddress` ends in /v1, which is added to it: leave it out");
        }
        if self.0.address.ends_with("/ui") {
            return Some("`vaultAddress` ends in /ui, where the web pages are: leave it out");
        }
        let mount = self.0.call.strip_prefix("login POST auth/")?;
        if mount.starts_with("auth/") {
            return Some(
                "`vaultAuthMountPath` begins with auth/, which is added to it: leave it out",
            );
        }
        mount
            .ends_with("/login/login")
            .then_some("`vaultAuthMountPath` ends in /login, which is added to it: leave it out")
    }

    fn advice(&self) -> &'static str {
        use VaultErrorKind as Kind;
        let login = self.0.call.starts_with("login ");
        match self.0.kind {
            Kind::Missing if login => {
                "check the auth mount (`vaultAuthMountPath`, without auth/ before it), the namespace, and that the address is the server's own, without /v1"
            }
            Kind::Denied if login => {
                "check the auth mount's path (a mistyped one looks like this), the role's bound service accounts, namespaces and audience, and that the server reaches this cluster's API server"
            }
            Kind::Denied => "let a policy of the role grant this path",
            Kind::Refused if login => "check the role's name and what it is bound to",
            Kind::Refused => "check `secretPath`, `method` and `secretArgs`",
            Kind::Missing => {
                "check `secretPath` (KV 2 wants `data/` after the mount) and the namespace"
            }
            Kind::Empty => "check `secretPath` and `method`: files need a reply with data",
            Kind::Unsupported => "check `method`",
            Kind::Settings => "correct it in the class or in the daemon's flags",
            Kind::Sealed => "unseal the server; kubelet tries again",
            Kind::NoConnection => {
                "classes of this namespace name too many servers, or servers that hang"
            }
            Kind::NotTaken => {
                "what stands before the server closes each connection too soon: raise the number of requests it serves on one (nginx: keepalive_requests)"
            }
            Kind::Unreachable => {
                "check the address and the network from this node; kubelet tries again"
            }
            Kind::Interrupted => {
                "the connection broke before the answer: see the server's log, and what stands before it; kubelet tries again"
            }
            Kind::TimedOut => {
                "see the server's log, and the database or service behind this path; kubelet tries again"
            }
            Kind::Untrusted => {
                "check the CA, the server's name and the client certificate; kubelet tries again"
            }
            Kind::Scheme => "correct the address in the class or in the daemon's flags",
            Kind::Away => "kubelet tries again",
            Kind::Throttled => "raise the server's rate limit for this node; kubelet tries again",
            Kind::Server => "see the server's log; kubelet tries again",
            Kind::TooLarge => "ask for less, by `secretKey` or another path",
            Kind::Redirected => "nothing was sent there",
            Kind::NotVault => "check that the address is the API of a Vault or OpenBao",
        }
    }
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.0.call, self.0.address)?;
        if let Some(namespace) = &self.0.namespace {
            write!(f, " in namespace {namespace:?}")?;
        }
        f.write_str(": ")?;
        if let Some(status) = self.0.status {
            write!(f, "status {status}: ")?;
        }
        let mut shown = self.0.text.char_indices().map(|(at, _)| at);
        if let Some(cut) = shown.nth(SHOWN) {
            write!(f, "{}…: ", self.0.text.get(..cut).unwrap_or_default())?;
        } else if !self.0.text.is_empty() {
            write!(f, "{}: ", self.0.text)?;
        }
        if let Some(mistake) = self.mistake() {
            write!(f, "{mistake}; else ")?;
        }
        f.write_str(self.advice())
    }
}

impl std::error::Error for VaultError {}

/// The server's words as they may be shown: what is `hidden` is struck out, and they are one clean line.
pub(super) fn shown(text: &str, hidden: &[&str]) -> String {
    clean(&without(text.to_owned(), hidden))
}

/// Strikes out what is hidden, and whatever looks like a token: it may be another pod's.
fn without(text: String, hidden: &[&str]) -> String {
    let hidden = hidden.iter().filter(|secret| !secret.is_empty());
    let text = hidden.fold(text, |text, secret| text.replace(secret, HIDDEN));
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first));
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        shown.push_str(if is_token(part) { HIDDEN } else { part });
        rest = after;
    }
    shown
}

/// `hvs.`, `s.` and their like (OpenBao `sdk/helper/consts/token_consts.go`), and JSON Web Tokens.
fn is_token(word: &str) -> bool {
    let of_server = ["hvs.", "hvb.", "hvr.", "s.", "b.", "r."];
    let secret = of_server
        .iter()
        .find_map(|prefix| word.strip_prefix(prefix));
    secret.is_some_and(|secret| secret.len() >= SHORTEST_TOKEN)
        || (word.starts_with("eyJ") && word.len() >= SHORTEST_TOKEN)
}

/// One line, no control characters, not long; the server's own list decoration goes.
fn clean(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(KEPT)
        .collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
