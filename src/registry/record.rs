//! A volume as it stands in its journal file: the only place where tokens and replies are written out.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::care::{Care, Polls};
use super::evidence::Evidence;
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
    session: u64,
    request: Request,
    #[serde(with = "exposed")]
    body: Secret,
    keep: Keep,
    term: Term,
    life: Life,
    duty: Duty,
    lost: bool,
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

impl Record {
    /// The record of a volume; without its replies where the journal has no room for them.
    ///
    /// A reply that is not UTF-8 is either a raw one, which is a static read and never comes here, or was
    /// refused when it was read.
    pub fn of(volume: &Volume, with_grants: bool) -> Self {
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
        let grants = volume.grants.values().map(|held| GrantRecord {
            session: held.session,
            request: held.grant.request.clone(),
            body: Secret::from(String::from_utf8_lossy(held.grant.body.expose()).into_owned()),
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
            grants: if with_grants {
                grants.collect()
            } else {
                Vec::new()
            },
        }
    }

    /// The record's JSON, in a buffer that is wiped when dropped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        // Room for all of it from the start: a buffer that grows leaves copies behind, unwiped.
        let bodies: usize = self
            .grants
            .iter()
            .map(|grant| grant.body.expose().len() * 2 + 2048)
            .sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            8192 + bodies + self.sessions.len() * 8192,
        ));
        serde_json::to_writer(&mut *bytes, self)?;
        Ok(bytes)
    }

    /// The volume of a record. `same_boot` tells whether its moments mean anything on this node's clock;
    /// where they don't, the node was started anew: whatever was mounted is not any more.
    pub fn into_volume(self, same_boot: bool, now: Moment) -> Volume {
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
        let grants = self.grants.into_iter().filter_map(|record| {
            // Without its session nothing can be done for it.
            let session = renumbered.get(&record.session).copied()?;
            let grant = Grant {
                request: record.request,
                body: SecretBytes::from(record.body.expose().as_bytes().to_vec()),
                // Raw replies are static reads, which no journal holds.
                raw: false,
                keep: record.keep,
                term: in_this_boot(record.term),
            };
            Some(HeldGrant {
                grant: Arc::new(grant),
                session,
                care: care(record.life),
                duty: record.duty,
                lost: record.lost,
                shared: false,
            })
        });
        let grants = (0..).zip(grants).collect();
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
