//! How long a reply without a lease is good, read from its data.
//!
//! A *write* (POST, PUT) creates something each time, so its reply is kept for as long as it says, and for
//! the object's `refresh` where it says nothing. A *read* (GET) is repeated at every poll unless it is sure
//! to create a new credential each time. Two mistakes are possible: a stored value that is kept shows an old
//! secret, a created credential that is not kept is issued again at each poll. The first is worse, so a GET
//! is kept only on these signs:
//!
//! 1. Never: `LIST`; a static role (`last_vault_rotation`, `rotation_period`, `rotation_schedule`, a path
//!    `static-creds/<role>`), which an operator may rotate at any moment; KV, cubbyhole and `sys`, known by
//!    `mount_type` (Vault 1.17 and later) or by their fixed mounts.
//! 2. The reply has the *form* of an engine that creates credentials without a lease: its route below the
//!    mount, and its fields (see [`FORMS`]).
//! 3. Any other access token that tells its end, where the envelope rules KV out: KV 1 always sends a
//!    `lease_duration` (the mount's default, or a `ttl` among the user's keys), and KV 2 nests the user's
//!    keys below `data`. Everything else sends 0 where there is no lease.
//!
//! KV 1's `lease_duration` is a hint and no lifetime (OpenBao `builtin/logical/kv/passthrough.go`). One value
//! cannot be told from a credential on a server that sends no `mount_type`: an AWS session that somebody has
//! stored in KV 1 below `…/sts/…` or `…/creds/…`, with all of its fields, its `ttl`, and no others. It is kept
//! for as long as that `ttl` says.

mod amount;
mod openssh;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use x509_parser::pem::parse_x509_pem;
use zeroize::Zeroizing;

pub use self::amount::{ending, seconds};
use crate::grant::Keep;
use crate::spec::{Method, Request};

/// The longest lifetime of an AWS session (`GetFederationToken`).
const LONGEST_SESSION: Duration = Duration::from_secs(36 * 3600);
/// How far a `lease_duration` may be from the field that says the same.
const NEAR: Duration = Duration::from_secs(5);

/// A reply without a lease.
pub struct Leaseless<'a> {
    pub request: &'a Request,
    /// The envelope's `lease_duration`; zero where it says none.
    pub lease_duration: Duration,
    /// The envelope's `mount_type`; empty where the server sends none.
    pub mount_type: &'a str,
    /// Its `data`.
    pub data: &'a RawValue,
}

/// Which field tells the end, and how.
#[derive(Clone, Copy)]
enum Tells {
    /// The time from now.
    For(&'static str),
    /// The moment: Unix seconds, or RFC 3339.
    At(&'static str),
}

use Tells::{At, For};

/// A GET that creates a credential without a lease.
struct Form {
    /// The last segments of its path, of which one must fit; `*` stands for any one segment.
    routes: &'static [&'static str],
    /// One of each group must be there, as a text that is not empty.
    needs: &'static [&'static [&'static str]],
    /// What else may be there.
    may: &'static [&'static str],
    /// What tells its end.
    tells: &'static [Tells],
    /// A session of AWS: below `sts/` the envelope's `lease_duration` may tell its end alone.
    session: bool,
}

/// Sources: `builtin/logical/aws/secret_access_keys.go` (a role with `no_lease`),
/// `vault-plugin-secrets-gcp` `plugin/secrets_access_token.go`, `vault-plugin-secrets-azure`
/// `path_access_token.go`, `vault/identity_store_oidc.go`.
const FORMS: &[Form] = &[
    Form {
        routes: &["sts/*", "creds/*"],
        needs: &[
            &["access_key"],
            &["secret_key"],
            &["security_token", "session_token"],
        ],
        may: &["arn", "ttl", "expiration"],
        tells: &[For("ttl"), At("expiration")],
        session: true,
    },
    Form {
        routes: &[
            "token/*",
            "roleset/*/token",
            "static-account/*/token",
            "impersonated-account/*/token",
        ],
        needs: &[&["token", "impersonated_access_token"]],
        may: &["token_ttl", "expires_at_seconds"],
        tells: &[For("token_ttl"), At("expires_at_seconds")],
        session: false,
    },
    Form {
        routes: &["token/*"],
        needs: &[&["access_token"]],
        may: &[
            "refresh_token",
            "expires_in",
            "expires_on",
            "not_before",
            "resource",
            "token_type",
        ],
        tells: &[For("expires_in"), At("expires_on")],
        session: false,
    },
    Form {
        routes: &["identity/oidc/token/*"],
        needs: &[&["client_id"], &["token"]],
        may: &["ttl"],
        tells: &[For("ttl")],
        session: false,
    },
];

/// What any other access token is called.
const TOKENS: &[&str] = &["token", "access_token", "security_token", "session_token"];

/// What tells the end of any other access token.
const TOKEN_TELLS: &[Tells] = &[
    For("token_ttl"),
    For("expires_in"),
    At("expires_at_seconds"),
    At("expires_at"),
    At("expires_on"),
    At("expire_time"),
    At("expiration"),
];

/// What tells the end of what a write has created, whatever it is.
const WRITE_TELLS: &[Tells] = &[
    For("token_ttl"),
    For("secret_id_ttl"),
    For("expires_in"),
    At("expires_at_seconds"),
    At("expires_at"),
    At("expires_on"),
    At("expire_time"),
    At("expiration"),
    At("expiration_time"),
];

/// A write's `ttl` may be a role's setting. It is a lifetime where one of these is given.
const CREDENTIALS: &[&str] = &[
    "access_token",
    "client_secret",
    "client_token",
    "code",
    "jwt",
    "key",
    "password",
    "private_key",
    "private_key_data",
    "secret_id",
    "secret_key",
    "service_account_token",
    "token",
];

/// Signs of a static role: the server rotates what it gives, and so may an operator.
const ROTATED: &[&str] = &[
    "last_vault_rotation",
    "next_vault_rotation",
    "rotation_period",
    "rotation_schedule",
];

/// Types of mounts whose reads show what was stored, not what was created.
const STORES: &[&str] = &[
    "kv",
    "generic",
    "cubbyhole",
    "ns_cubbyhole",
    "system",
    "ns_system",
];

/// What keeps a reply good that has no lease, and for how long.
pub fn of(reply: &Leaseless<'_>, refresh: Duration) -> (Keep, Duration) {
    let fields = Fields::of(reply.data);
    let written = (Keep::Written, refresh);
    match reply.request.method {
        Method::List => (Keep::Static, Duration::ZERO),
        Method::Get => match created(reply, &fields) {
            Some(lifetime) => (Keep::Expiring, ending(lifetime)),
            None => (Keep::Static, Duration::ZERO),
        },
        Method::Post | Method::Put if fields.any(ROTATED) => written,
        Method::Post | Method::Put => certificate(&fields)
            .map(|lifetime| (Keep::Certificate, ending(lifetime)))
            .or_else(|| {
                let lifetime = written_for(reply, &fields)?;
                Some((Keep::Expiring, ending(lifetime)))
            })
            .unwrap_or(written),
    }
}

/// The lifetime of what a GET has created; `None`: it is a stored value, or may be one.
fn created(reply: &Leaseless<'_>, fields: &Fields<'_>) -> Option<Duration> {
    let path = reply.request.path.as_str();
    let stored = STORES.contains(&reply.mount_type) || route(path, "cubbyhole/", false);
    let fixed = route(path, "static-creds/*", true) || route(path, "static-cred/*", true);
    if stored || fixed || route(path, "sys/", false) || fields.any(ROTATED) {
        return None;
    }
    let hint = reply.lease_duration;
    if let Some(form) = FORMS.iter().find(|form| form.fits(path, fields)) {
        return match fields.told(form.tells) {
            Some(lifetime) if hint.is_zero() => Some(lifetime),
            // Vault's own `ttl` is a number; what `vault kv put` has stored is a text.
            Some(lifetime) => {
                let same = lifetime.abs_diff(hint) <= NEAR && hint <= LONGEST_SESSION;
                (same && !fields.any_text(&["ttl"])).then_some(lifetime)
            }
            None if form.session && hint <= LONGEST_SESSION && route(path, "sts/*", true) => {
                (!hint.is_zero()).then_some(hint)
            }
            _ => None,
        };
    }
    // KV 1 sends a `ttl` or `lease` of its user as its own `lease_duration`, unless that is zero.
    let ttl = fields.told(&[For("ttl")]);
    let stored = fields.any(&["lease"]) || (fields.any(&["ttl"]) && ttl.is_none());
    if fields.any_text(TOKENS) && !stored && hint.is_zero() {
        return fields.told(TOKEN_TELLS).or(ttl);
    }
    None
}

/// The lifetime that a write's reply tells.
fn written_for(reply: &Leaseless<'_>, fields: &Fields<'_>) -> Option<Duration> {
    let signed = || {
        let key = fields.text("signed_key")?;
        left_until(openssh::valid_before(&key)?)
    };
    let ttl = || {
        let gives = fields.any_text(CREDENTIALS);
        gives.then(|| fields.told(&[For("ttl")])).flatten()
    };
    let claimed = || {
        let tokens = ["token", "access_token", "jwt", "id_token"];
        tokens.iter().find_map(|name| {
            let token = Zeroizing::new(fields.text(name)?);
            left_until(expiry_claim(&token)?)
        })
    };
    let enveloped = || (!reply.lease_duration.is_zero()).then_some(reply.lease_duration);
    signed()
        .or_else(|| fields.told(WRITE_TELLS))
        .or_else(ttl)
        .or_else(enveloped)
        .or_else(claimed)
}

/// What is left of an X.509 certificate.
fn certificate(fields: &Fields<'_>) -> Option<Duration> {
    let pem = fields.text("certificate")?;
    let stated = fields.told(&[At("expiration")]);
    let (_, pem) = match parse_x509_pem(pem.as_bytes()) {
        Ok(parsed) => parsed,
        Err(_) => return stated,
    };
    let Ok(certificate) = pem.parse_x509() else {
        return stated;
    };
    let validity = certificate.validity();
    let unix = |time: i64| u64::try_from(time).map(Duration::from_secs).ok();
    let (from, to) = (
        unix(validity.not_before.timestamp()),
        unix(validity.not_after.timestamp()),
    );
    // It was issued just now. Over by this node's clock, that clock is wrong: its whole validity counts.
    stated
        .or_else(|| left_until(to?))
        .or_else(|| to?.checked_sub(from?).filter(|span| !span.is_zero()))
}

/// `exp` of a JSON Web Token, in Unix time.
fn expiry_claim(token: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Claims<'a> {
        #[serde(borrow)]
        exp: Option<&'a RawValue>,
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    let claims: Claims<'_> = serde_json::from_slice(&claims).ok()?;
    amount::unix(claims.exp?)
}

/// The time until a moment of Unix time; `None` if that is over: a fresh reply has not ended yet.
fn left_until(end: Duration) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let left = end.saturating_sub(now.unwrap_or_default());
    (!left.is_zero()).then_some(left)
}

/// Whether a path ends (`at_end`) or begins with these segments.
fn route(path: &str, pattern: &str, at_end: bool) -> bool {
    if !at_end {
        return path.starts_with(pattern);
    }
    let mut path = path.rsplit('/');
    let mut fits = pattern
        .rsplit('/')
        .map(|wanted| (wanted, path.next().unwrap_or_default()));
    let fits = fits.all(|(wanted, given)| !given.is_empty() && (wanted == "*" || wanted == given));
    // An engine is never mounted at the root.
    fits && (path.next().is_some() || pattern.starts_with("identity/"))
}

impl Form {
    fn fits(&self, path: &str, fields: &Fields<'_>) -> bool {
        let known = |name: &str| {
            self.may.contains(&name) || self.needs.iter().any(|group| group.contains(&name))
        };
        self.routes.iter().any(|pattern| route(path, pattern, true))
            && self.needs.iter().all(|group| fields.any_text(group))
            && !fields.others
            && fields.known.keys().all(|name| known(name))
    }
}

/// The fields of a reply's data that may tell something. It may have others by the hundred thousand.
#[derive(Default)]
struct Fields<'a> {
    known: BTreeMap<&'static str, &'a RawValue>,
    /// Whether it has others.
    others: bool,
}

/// Every field that is asked about.
static KNOWN: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let forms = FORMS.iter().flat_map(|form| {
        let needs = form.needs.iter().copied().flatten();
        needs
            .chain(form.may)
            .copied()
            .chain(form.tells.iter().map(Tells::field))
    });
    let tells = TOKEN_TELLS.iter().chain(WRITE_TELLS).map(Tells::field);
    let texts = [TOKENS, CREDENTIALS, ROTATED, OTHERS].into_iter().flatten();
    forms.chain(tells).chain(texts.copied()).collect()
});

/// Fields that stand in no table.
const OTHERS: &[&str] = &["certificate", "id_token", "lease", "signed_key", "ttl"];

impl Tells {
    const fn field(&self) -> &'static str {
        match self {
            For(name) | At(name) => name,
        }
    }
}

/// A field's name, copied only where it is written with escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(map: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> serde::de::Visitor<'de> for Map {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Name(name)) = map.next_key()? {
                    match KNOWN.get(&*name) {
                        Some(name) => drop(fields.known.insert(name, map.next_value()?)),
                        None => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            fields.others = true;
                        }
                    }
                }
                Ok(fields)
            }
        }
        map.deserialize_map(Map)
    }
}

impl<'a> Fields<'a> {
    /// Data that is no object tells nothing.
    fn of(data: &'a RawValue) -> Self {
        serde_json::from_str(data.get()).unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        debug_assert!(KNOWN.contains(name), "{name} is passed over");
        self.known.get(name).copied()
    }

    /// Whether one of these is there, and not null.
    fn any(&self, names: &[&str]) -> bool {
        let given = |name: &&str| self.get(name).is_some_and(|value| value.get() != "null");
        names.iter().any(given)
    }

    /// Whether one of these is a text that is not empty.
    fn any_text(&self, names: &[&str]) -> bool {
        let is_text = |value: &RawValue| value.get().starts_with('"') && value.get().len() > 2;
        let mut given = names.iter().filter_map(|name| self.get(name));
        given.any(|value| is_text(value))
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The lifetime by the first of these that tells one.
    fn told(&self, tells: &[Tells]) -> Option<Duration> {
        tells.iter().find_map(|tells| match tells {
            For(name) => seconds(self.get(name)?),
            At(name) => left_until(amount::unix(self.get(name)?)?),
        })
    }
}
