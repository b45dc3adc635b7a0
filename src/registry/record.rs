//! A volume as it stands in its journal files: the only place where tokens and replies are written out.
//!
//! The record is small, because it is written at each change. A reply's body has a file of its own, which never
//! changes; the arguments of its request are in it as well, for they may be as large.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::care::{Care, Polls};
use super::evidence::Evidence;
use super::task::ItemKey;
use super::volume::{Duty, HeldGrant, HeldSession, Stage, Volume};
use crate::clock::Moment;
use crate::grant::timing::Life;
use crate::grant::{Grant, Keep, Session, Term, TokenKind};
use crate::redacted::{Secret, SecretBytes};
use crate::spec::{Endpoint, Login, OnUnmount, Pod, Request, VolumeId};

/// One volume.
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub volume: VolumeId,
    pod: Pod,
    class: String,
    /// Records of before it was known say nothing.
    #[serde(default)]
    on_unmount: OnUnmount,
    stage: Stage,
    seen: bool,
    forsaken_at: Option<Moment>,
    polls: Polls,
    sessions: Vec<SessionRecord>,
    grants: Vec<GrantRecord>,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord {
    key: u64,
    id: String,
    endpoint: Endpoint,
    login: Login,
    service_account: String,
    #[serde(with = "exposed")]
    token: Secret,
    accessor: String,
    kind: TokenKind,
    policies: Vec<String>,
    renewable: bool,
    #[serde(default)]
    counted: bool,
    term: Term,
    life: Life,
    duty: Duty,
    dead: bool,
}

#[derive(Serialize, Deserialize)]
struct GrantRecord {
    /// Names its body's file. Records of the first format have none.
    #[serde(default)]
    key: Option<ItemKey>,
    session: u64,
    /// Without its arguments, which are with the body (those of the first format have them here).
    request: Request,
    /// Whether it has a body, in a file of its own.
    #[serde(default)]
    has_body: bool,
    /// Where records of the first format have it.
    #[serde(
        default,
        with = "exposed_where_given",
        skip_serializing_if = "Option::is_none"
    )]
    body: Option<Secret>,
    keep: Keep,
    term: Term,
    life: Life,
    duty: Duty,
    lost: bool,
}

/// What stands before a body in its file.
#[derive(Serialize)]
struct Preface<'a> {
    args: Option<&'a str>,
    keys: Option<&'a BTreeSet<String>>,
}

/// A grant's body, as it is read from its file.
pub struct Body {
    args: Option<String>,
    keys: Option<BTreeSet<String>>,
    bytes: SecretBytes,
}

#[derive(Deserialize)]
struct OwnedPreface {
    args: Option<String>,
    keys: Option<BTreeSet<String>>,
}

impl Body {
    /// The line that stands before a grant's body in its file, line's end included.
    pub fn preface(grant: &Grant) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        let preface = Preface {
            args: grant.request.args.as_deref(),
            keys: grant.keys.as_ref(),
        };
        let mut line = written(&preface)?;
        line.push(b'\n');
        Ok(line)
    }

    /// What a body's file says after its header. The error carries nothing of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (preface, body) = bytes.split_at(end.ok_or("no preface")?);
        let preface = serde_json::from_slice(preface).map_err(|_| "an odd preface")?;
        let OwnedPreface { args, keys } = preface;
        Ok(Self {
            args,
            keys,
            bytes: SecretBytes::from(body.get(1..).unwrap_or_default().to_vec()),
        })
    }

    /// A grant that has it, and of which nothing else is known.
    #[cfg(any(test, fuzzing))]
    pub fn into_grant(self) -> Grant {
        let sent = Moment::from_boot(std::time::Duration::ZERO);
        Grant {
            request: Request {
                method: crate::spec::Method::Post,
                path: String::new(),
                query: Vec::new(),
                args: self.args,
            },
            body: self.bytes,
            keys: self.keys,
            raw: false,
            keep: Keep::Written,
            term: Term::endless(sent),
        }
    }
}

/// Writes secrets out. Private to the journal, so that no other place can.
mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::redacted::Secret;

    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::from)
    }
}

/// The same of what only the first format has.
mod exposed_where_given {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::redacted::Secret;

    pub fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => serializer.serialize_str(secret.expose()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map(Secret::from))
    }
}

impl Record {
    /// The record of a volume. Static reads never come here, and with them no body that is not UTF-8.
    pub fn of(volume: &Volume) -> Self {
        let sessions = volume.sessions.iter().map(|(key, held)| SessionRecord {
            key: *key,
            id: held.session.id.clone(),
            endpoint: held.session.endpoint.clone(),
            login: held.session.login.clone(),
            service_account: held.session.service_account.clone(),
            token: held.session.token.clone(),
            accessor: held.session.accessor.clone(),
            kind: held.session.kind,
            policies: held.session.policies.clone(),
            renewable: held.session.renewable,
            counted: held.session.counted,
            term: held.session.term,
            life: held.care.life,
            duty: held.duty,
            dead: held.dead,
        });
        let grants = volume.grants.iter().map(|(key, held)| GrantRecord {
            key: Some(*key),
            session: held.session,
            request: Request {
                method: held.grant.request.method,
                path: held.grant.request.path.clone(),
                query: held.grant.request.query.clone(),
                args: None,
            },
            has_body: held.grant.has_body(),
            body: None,
            keep: held.grant.keep.clone(),
            term: held.grant.term,
            life: held.care.life,
            duty: held.duty,
            lost: held.lost,
        });
        Self {
            volume: volume.id.clone(),
            pod: volume.pod.clone(),
            class: volume.class.clone(),
            on_unmount: volume.on_unmount,
            stage: volume.stage,
            seen: volume.seen,
            forsaken_at: volume.forsaken_at,
            polls: volume.polls.clone(),
            sessions: sessions.collect(),
            grants: grants.collect(),
        }
    }

    /// The record's JSON, in a buffer that is wiped when dropped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        written(self)
    }

    /// Whether the daemon of an earlier version wrote it: its bodies have no files of their own.
    pub fn is_of_first_format(&self) -> bool {
        self.grants.iter().any(|grant| grant.key.is_none())
    }

    /// The grants that have a body in a file of its own.
    pub fn bodies(&self) -> impl Iterator<Item = ItemKey> {
        let grants = self.grants.iter().filter(|grant| grant.has_body);
        grants.filter_map(|grant| grant.key.filter(|key| is_sound(*key)))
    }

    /// The volume of a record. `same_boot` tells whether its moments mean anything on this node's clock;
    /// where they don't, the node was started anew: whatever was mounted is not any more. `body` gives the bodies
    /// that have files of their own; what it has not is known without.
    pub fn into_volume(
        self,
        same_boot: bool,
        now: Moment,
        mut body: impl FnMut(ItemKey) -> Option<Body>,
    ) -> Volume {
        let in_this_boot = |term: Term| {
            if same_boot {
                term
            } else {
                // When it was granted is unknown: at the latest it ends its whole term from now.
                Term::new(now, term.granted())
            }
        };
        let care = |mut life: Life| {
            life.term = in_this_boot(life.term);
            Care::new(life)
        };
        // Keys are given anew: those of a file may be any numbers, and the worker counts on from the largest.
        let renumbered: HashMap<u64, u64> = (0..)
            .zip(&self.sessions)
            .map(|(new, record)| (record.key, new))
            .collect();
        let sessions = (0..).zip(self.sessions).map(|(key, record)| {
            let session = Session {
                id: record.id,
                endpoint: record.endpoint,
                login: record.login,
                service_account: record.service_account,
                token: record.token,
                accessor: record.accessor,
                kind: record.kind,
                policies: record.policies,
                renewable: record.renewable,
                counted: record.counted,
                term: in_this_boot(record.term),
            };
            let held = HeldSession {
                session: Arc::new(session),
                care: care(record.life),
                duty: record.duty,
                dead: record.dead,
                shared: false,
            };
            (key, held)
        });
        let sessions = sessions.collect();
        let grants = (0..).zip(self.grants).filter_map(|(place, record)| {
            // Without its session nothing can be done for it.
            let session = renumbered.get(&record.session).copied()?;
            let key = record.key.filter(|key| is_sound(*key));
            let inline = record.body.map(|body| Body {
                args: record.request.args.clone(),
                keys: None,
                bytes: SecretBytes::from(body.expose().as_bytes().to_vec()),
            });
            let named = key.filter(|_| record.has_body);
            let body = inline.or_else(|| named.and_then(&mut body));
            let body = body.unwrap_or_else(|| Body {
                args: None,
                keys: None,
                bytes: SecretBytes::from(Vec::new()),
            });
            let key = key.unwrap_or(place);
            let grant = Grant {
                request: Request {
                    args: body.args,
                    ..record.request
                },
                body: body.bytes,
                keys: body.keys,
                // Raw replies are static reads, which no journal holds.
                raw: false,
                keep: record.keep,
                term: in_this_boot(record.term),
            };
            let held = HeldGrant {
                grant: Arc::new(grant),
                session,
                care: care(record.life),
                duty: record.duty,
                lost: record.lost,
                shared: false,
            };
            Some((key, held))
        });
        let grants = grants.collect();
        let mut volume = Volume {
            id: self.volume,
            pod: self.pod,
            class: self.class,
            on_unmount: self.on_unmount,
            stage: self.stage,
            mounting: false,
            seen: self.seen,
            missing_since: None,
            logged_in_at: None,
            forsaken_at: self.forsaken_at.filter(|_| same_boot),
            overdue_since: None,
            evidence: Evidence::default(),
            doubted: false,
            polls: if same_boot {
                self.polls
            } else {
                Polls::default()
            },
            requests: 0,
            sessions,
            grants,
        };
        if !same_boot {
            volume.release(now);
        }
        volume
    }
}

/// Whether the worker can count on from a key. Those of a file may be any numbers.
const fn is_sound(key: ItemKey) -> bool {
    key < u64::MAX / 2
}

/// JSON with room for a line's end.
fn written(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    // Room for all of it from the start: a buffer that grows leaves copies behind, unwiped.
    let mut size = Measure(1);
    serde_json::to_writer(&mut size, value)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *bytes, value)?;
    Ok(bytes)
}

/// Counts what is written to it.
struct Measure(usize);

impl std::io::Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
