//! Tokens and leases that are held more than once.
//!
//! A Vault Agent or Proxy with `cache {}` before us answers equal logins with one token and equal reads with
//! one lease (`command/agentproxyshared/cache/lease_cache.go` of Vault and OpenBao): two volumes of a pod
//! share them. What one of them has no use for any more must not be revoked while the other lives on it.

use std::collections::{BTreeSet, HashMap};

use super::agenda::{ItemKey, VolumeKey};
use super::volume::{Duty, HeldGrant, HeldSession, Volume};
use super::worker::Worker;
use crate::grant::TokenKind;

/// What the server knows a token or a lease by. With the address: a tenant's own server may name whatever it
/// likes, and must not keep another one's token from its revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credential {
    Token { address: String, accessor: String },
    Lease { address: String, id: String },
}

impl Credential {
    /// A batch token has no accessor; nobody can revoke it.
    fn of_session(held: &HeldSession) -> Option<Self> {
        let session = &held.session;
        (!session.accessor.is_empty()).then(|| Self::Token {
            address: session.endpoint.address.clone(),
            accessor: session.accessor.clone(),
        })
    }

    fn of_grant(volume: &Volume, held: &HeldGrant) -> Option<Self> {
        let owner = volume.sessions.get(&held.session)?;
        Some(Self::Lease {
            address: owner.session.endpoint.address.clone(),
            id: held.grant.lease_id()?.to_owned(),
        })
    }
}

/// Who lives on which credential.
#[derive(Default)]
pub struct Uses {
    by_volume: HashMap<VolumeKey, BTreeSet<(Credential, ItemKey)>>,
    users: HashMap<Credential, BTreeSet<(VolumeKey, ItemKey)>>,
}

impl Uses {
    /// Takes in what a volume lives on now. Returns the credentials that have gained or lost a user beside
    /// others.
    fn update(
        &mut self,
        volume: VolumeKey,
        now: BTreeSet<(Credential, ItemKey)>,
    ) -> Vec<Credential> {
        let before = self.by_volume.remove(&volume).unwrap_or_default();
        let mut touched = Vec::new();
        for (credential, item) in before.difference(&now) {
            if let Some(users) = self.users.get_mut(credential) {
                users.remove(&(volume, *item));
                if users.is_empty() {
                    self.users.remove(credential);
                } else {
                    touched.push(credential.clone());
                }
            }
        }
        for (credential, item) in now.difference(&before) {
            let users = self.users.entry(credential.clone()).or_default();
            users.insert((volume, *item));
            if users.len() > 1 {
                touched.push(credential.clone());
            }
        }
        if !now.is_empty() {
            self.by_volume.insert(volume, now);
        }
        touched
    }

    fn users(&self, credential: &Credential) -> Vec<(VolumeKey, ItemKey)> {
        let users = self.users.get(credential);
        users.into_iter().flatten().copied().collect()
    }
}

impl Volume {
    /// What it lives on: sessions and leases that are not on their way to revocation.
    fn credentials(&self) -> BTreeSet<(Credential, ItemKey)> {
        let sessions = self.sessions.iter();
        let sessions = sessions.filter(|(_, held)| held.lives());
        let sessions =
            sessions.filter_map(|(key, held)| Some((Credential::of_session(held)?, *key)));
        let grants = self.grants.iter();
        let grants = grants.filter(|(_, held)| held.lives());
        let grants =
            grants.filter_map(|(key, held)| Some((Credential::of_grant(self, held)?, *key)));
        sessions.chain(grants).collect()
    }

    /// The sessions whose tokens are revoked at their end, and their leases with them. A batch token cannot be,
    /// one that something else lives on must not be: leases are then revoked one by one.
    pub fn revoke_their_tokens(&self) -> BTreeSet<ItemKey> {
        let living: BTreeSet<Credential> = self
            .sessions
            .values()
            .filter(|held| held.lives())
            .filter_map(Credential::of_session)
            .collect();
        let sessions = self.sessions.iter().filter(|(_, held)| {
            let elsewhere = || {
                Credential::of_session(held).is_some_and(|credential| living.contains(&credential))
            };
            held.session.kind == TokenKind::Service
                && held.duty == Duty::Releasing
                && !held.shared
                && !elsewhere()
        });
        sessions.map(|(key, _)| *key).collect()
    }

    /// The leases that replies live on.
    pub fn living_leases(&self) -> BTreeSet<String> {
        let grants = self.grants.values().filter(|held| held.lives());
        let leases = grants.filter_map(|held| held.grant.lease_id());
        leases.map(str::to_owned).collect()
    }

    fn set_shared(&mut self, credential: &Credential, item: ItemKey, shared: bool) {
        match credential {
            Credential::Token { .. } => {
                if let Some(held) = self.sessions.get_mut(&item) {
                    held.shared = shared;
                }
            }
            Credential::Lease { .. } => {
                if let Some(held) = self.grants.get_mut(&item) {
                    held.shared = shared;
                }
            }
        }
    }
}

impl Worker {
    /// A volume has changed: whoever shares a credential with it learns whether that is still so.
    pub fn note_uses(&mut self, key: VolumeKey) {
        let now = self.volumes.get(&key).map(Volume::credentials);
        for credential in self.uses.update(key, now.unwrap_or_default()) {
            let users = self.uses.users(&credential);
            for (key, item) in &users {
                let shared = users.iter().any(|(other, _)| other != key);
                if let Some(volume) = self.volumes.get_mut(key) {
                    volume.set_shared(&credential, *item, shared);
                }
            }
        }
    }
}
