//! Tokens and leases that are held more than once.
//!
//! A Vault Agent or Proxy with `cache {}` before us answers equal logins with one token and equal reads with
//! one lease (`command/agentproxyshared/cache/lease_cache.go` of Vault and OpenBao): two volumes of a pod
//! share them. What one of them has no use for any more must not be revoked while the other lives on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::task::{ItemKey, VolumeKey};
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

/// What a volume has of credentials: of each whether it lives on it, or only waits for its revocation.
type Holdings = BTreeMap<(Credential, ItemKey), bool>;

/// Who has which credential.
#[derive(Default)]
pub struct Uses {
    by_volume: HashMap<VolumeKey, Holdings>,
    holders: HashMap<Credential, BTreeMap<(VolumeKey, ItemKey), bool>>,
}

impl Uses {
    /// Takes in what a volume has now. Returns the credentials that others have as well and for which something
    /// has changed.
    fn update(&mut self, volume: VolumeKey, now: Holdings) -> BTreeSet<Credential> {
        let before = self.by_volume.remove(&volume).unwrap_or_default();
        let mut touched = BTreeSet::new();
        for (holding, lives) in &before {
            if now.get(holding) == Some(lives) {
                continue;
            }
            let (credential, item) = holding;
            touched.insert(credential.clone());
            if let Some(holders) = self.holders.get_mut(credential) {
                holders.remove(&(volume, *item));
            }
        }
        for (holding, lives) in &now {
            if before.get(holding) == Some(lives) {
                continue;
            }
            let (credential, item) = holding;
            touched.insert(credential.clone());
            let holders = self.holders.entry(credential.clone()).or_default();
            holders.insert((volume, *item), *lives);
        }
        if !now.is_empty() {
            self.by_volume.insert(volume, now);
        }
        touched.retain(|credential| {
            let holders = self.holders.get(credential);
            let any = |of: &dyn Fn(&VolumeKey) -> bool| {
                holders.is_some_and(|holders| holders.keys().any(|(other, _)| of(other)))
            };
            let (any_at_all, others) = (any(&|_| true), any(&|other| *other != volume));
            if !any_at_all {
                self.holders.remove(credential);
            }
            others
        });
        touched
    }

    /// Every holder of a credential, and whether another volume lives on it.
    fn sharing(&self, credential: &Credential) -> Vec<(VolumeKey, ItemKey, bool)> {
        let holders = self.holders.get(credential);
        let shared = |volume: &VolumeKey| {
            let mut others = holders.into_iter().flatten();
            others.any(|((other, _), lives)| *lives && other != volume)
        };
        let keys = holders.into_iter().flat_map(BTreeMap::keys);
        keys.map(|(volume, item)| (*volume, *item, shared(volume)))
            .collect()
    }
}

impl Volume {
    /// What the server may still know of it.
    fn holdings(&self) -> Holdings {
        let sessions = self.sessions.iter().filter(|(_, held)| !held.dead);
        let sessions = sessions
            .filter_map(|(key, held)| Some(((Credential::of_session(held)?, *key), held.lives())));
        let grants = self.grants.iter().filter(|(_, held)| !held.lost);
        let grants = grants.filter_map(|(key, held)| {
            Some(((Credential::of_grant(self, held)?, *key), held.lives()))
        });
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

    /// Whether that is news.
    fn set_shared(&mut self, credential: &Credential, item: ItemKey, shared: bool) -> bool {
        let known = match credential {
            Credential::Token { .. } => {
                let held = self.sessions.get_mut(&item);
                held.map(|held| &mut held.shared)
            }
            Credential::Lease { .. } => self.grants.get_mut(&item).map(|held| &mut held.shared),
        };
        known.is_some_and(|known| std::mem::replace(known, shared) != shared)
    }
}

impl Worker {
    /// A volume has changed: whoever has a credential beside it learns whether another one lives on it. What
    /// waited for its revocation may then have nothing to wait for.
    pub fn note_uses(&mut self, key: VolumeKey) {
        let now = self.clock.now();
        let holdings = self.volumes.get(&key).map(Volume::holdings);
        let mut others = BTreeSet::new();
        for credential in self.uses.update(key, holdings.unwrap_or_default()) {
            for (other, item, shared) in self.uses.sharing(&credential) {
                let Some(volume) = self.volumes.get_mut(&other) else {
                    continue;
                };
                if volume.set_shared(&credential, item, shared) {
                    volume.settle_releases(now);
                    others.insert(other);
                }
            }
        }
        others.remove(&key);
        for other in others {
            self.changed(other, None);
        }
    }
}
