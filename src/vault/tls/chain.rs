//! Whether a server's certificate is to be trusted, by the rules of Go's `crypto/x509` (`verify.go`), which
//! the incumbents' clients follow. webpki knows no certificate that is a CA and a server's at once, none that
//! is trusted by itself, and no `*.vault-internal`; where it is laxer (a CA that has expired or may not
//! sign), so would be our trust.

use std::collections::{BTreeMap, HashMap};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{ServerName, UnixTime};

use super::certificate::{Certificate, parse};
use super::constraints;
use super::distrust::{Distrust, Flaw};

/// Signatures that are checked for one server (`maxChainSignatureChecks`): what it sends may be arranged so
/// that the ways through it are without number.
const MOST_SIGNATURES: usize = 100;

/// What one trusted certificate takes in memory besides its bytes, about.
const OVERHEAD: usize = 256;

/// Certificates that are trusted, in DER and each with its key's name, by their subjects. They are parsed one
/// at a time: parsed, one may take many times its bytes.
#[derive(Debug, Default)]
pub struct Trusted {
    known: HashMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
    bytes: usize,
}

impl Trusted {
    /// Adds what can be parsed, once.
    pub fn add(&mut self, der: &[u8]) {
        if let Some(parsed) = parse(der) {
            let known = self.known.entry(parsed.subject.to_vec()).or_default();
            let key_id = parsed.subject_key_id.to_vec();
            let bytes = der.len() + parsed.subject.len() + key_id.len() + OVERHEAD;
            if known.insert(der.to_vec(), key_id).is_none() {
                self.bytes += bytes;
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The memory that it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those that may have signed a certificate, the likely ones first.
    fn above(&self, child: &Certificate<'_>) -> Vec<&[u8]> {
        let known = self.known.get(child.issuer).into_iter().flatten();
        let mut known: Vec<_> = known
            .map(|(der, key_id)| (plausibility(key_id, child), der.as_slice()))
            .collect();
        known.sort_by_key(|(plausibility, _)| *plausibility);
        known.into_iter().map(|(_, der)| der).collect()
    }

    pub fn contains(&self, certificate: &Certificate<'_>) -> bool {
        let known = self.known.get(certificate.subject);
        known.is_some_and(|known| known.contains_key(certificate.der))
    }
}

/// What a server showed, and by what it is judged.
pub struct Case<'a> {
    pub trusted: &'a Trusted,
    /// What it sent behind its own certificate, in any order.
    pub sent: &'a [Certificate<'a>],
    pub algorithms: &'a WebPkiSupportedAlgorithms,
    pub now: UnixTime,
}

impl Case<'_> {
    /// Whether the server's own certificate is good for a name.
    pub fn decide(&self, own: &Certificate<'_>, name: &ServerName<'_>) -> Result<(), Distrust> {
        self.is_usable(own).map_err(Distrust::Own)?;
        if !own.names.fit(name) {
            return Err(Distrust::of_names(own, name));
        }
        let mut search = Search {
            case: self,
            signatures: 0,
            comparisons: 0,
            flaw: None,
        };
        if self.trusted.contains(own) {
            return search.accept(&[own]).map_err(Distrust::Issuer);
        }
        match search.reaches_trusted(&[own]) {
            true => Ok(()),
            false => Err(search
                .flaw
                .map_or(Distrust::UnknownIssuer, Distrust::Issuer)),
        }
    }

    /// What holds for every certificate of a chain.
    fn is_usable(&self, certificate: &Certificate<'_>) -> Result<(), Flaw> {
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        let (not_before, not_after) = certificate.valid;
        match certificate {
            _ if certificate.has_unknown_critical => Err(Flaw::UnknownCritical),
            _ if now < not_before => Err(Flaw::Early { now, not_before }),
            _ if now > not_after => Err(Flaw::Expired { now, not_after }),
            _ => Ok(()),
        }
    }

    /// Whether one certificate is signed by another, and that one may sign.
    fn is_signed(&self, child: &Certificate<'_>, parent: &Certificate<'_>) -> Result<(), Flaw> {
        let is_ca = match parent.constraints {
            Some(constraints) => constraints.is_ca,
            // Before version 3 there was no way to say it.
            None => !parent.is_version_3,
        };
        if !is_ca {
            return Err(Flaw::NotCa);
        }
        if parent.may_sign == Some(false) {
            return Err(Flaw::MayNotSign);
        }
        let mut fitting = self.algorithms.all.iter().filter(|algorithm| {
            algorithm.signature_alg_id().as_ref() == child.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == parent.key.algorithm
        });
        let algorithm = fitting.next().ok_or(Flaw::Algorithm)?;
        algorithm
            .verify_signature(parent.key.bits, child.signed, child.signature)
            .map_err(|_| Flaw::OtherKey)
    }
}

/// The search for a chain.
struct Search<'a> {
    case: &'a Case<'a>,
    signatures: usize,
    comparisons: usize,
    /// The first reason why a certificate of the right name does not serve.
    flaw: Option<Flaw>,
}

impl Search<'_> {
    /// Whether a chain, the server's own certificate first, leads on to a trusted one.
    fn reaches_trusted(&mut self, chain: &[&Certificate<'_>]) -> bool {
        let case = self.case;
        let Some(child) = chain.last() else {
            return false;
        };
        for der in case.trusted.above(child) {
            // Dropped before the next one: kept through the recursion, copies would add up.
            let Some(candidate) = self.may_try().then(|| parse(der)).flatten() else {
                return false;
            };
            if self.leads_on(chain, child, &candidate, true) {
                return true;
            }
        }
        let mut sent: Vec<_> = case.sent.iter().collect();
        sent.retain(|candidate| candidate.subject == child.issuer);
        sent.sort_by_key(|candidate| plausibility(candidate.subject_key_id, child));
        for candidate in sent {
            if !self.may_try() {
                return false;
            }
            if self.leads_on(chain, child, candidate, false) {
                return true;
            }
        }
        false
    }

    /// Counts a signature.
    fn may_try(&mut self) -> bool {
        self.signatures += 1;
        if self.signatures > MOST_SIGNATURES {
            self.flaw = Some(Flaw::TooManyWays);
        }
        self.signatures <= MOST_SIGNATURES
    }

    /// Whether a chain leads over this certificate to a trusted one.
    fn leads_on(
        &mut self,
        chain: &[&Certificate<'_>],
        child: &Certificate<'_>,
        candidate: &Certificate<'_>,
        is_trusted: bool,
    ) -> bool {
        if is_in(candidate, chain) {
            return false;
        }
        let longer = [chain, &[candidate]].concat();
        let outcome = self
            .case
            .is_signed(child, candidate)
            .and_then(|()| self.may_follow(candidate, chain, is_trusted))
            .and_then(|()| match is_trusted {
                true => self.accept(&longer).map(|()| true),
                false => Ok(self.reaches_trusted(&longer)),
            });
        outcome.unwrap_or_else(|flaw| {
            self.flaw.get_or_insert(flaw);
            false
        })
    }

    /// Whether a CA's certificate may stand above these. One that is trusted need not say that it is a CA:
    /// before version 3 it could not.
    fn may_follow(
        &self,
        candidate: &Certificate<'_>,
        chain: &[&Certificate<'_>],
        is_trusted: bool,
    ) -> Result<(), Flaw> {
        self.case.is_usable(candidate)?;
        if !is_trusted && candidate.constraints.is_none_or(|found| !found.is_ca) {
            return Err(Flaw::NotCa);
        }
        let between = chain.len().saturating_sub(1);
        let longest = candidate.constraints.and_then(|found| found.path_length);
        match longest.is_some_and(|longest| between as u64 > longest) {
            true => Err(Flaw::TooLong),
            false => Ok(()),
        }
    }

    /// What holds for a chain as a whole.
    fn accept(&mut self, chain: &[&Certificate<'_>]) -> Result<(), Flaw> {
        let below_trusted = chain.len().saturating_sub(1);
        let mut policed = chain.iter().take(below_trusted);
        if policed.any(|certificate| certificate.requires_policy) {
            return Err(Flaw::Policy);
        }
        if chain
            .iter()
            .any(|certificate| certificate.may_serve == Some(false))
        {
            return Err(Flaw::Purpose);
        }
        for (at, below) in chain.iter().enumerate() {
            if below.alternatives.is_none() {
                continue;
            }
            for above in chain.iter().skip(at + 1) {
                // Of whatever kind: where there are any, Go wants every name to be readable.
                if !above.constrains_names {
                    continue;
                }
                constraints::check(
                    &below.names,
                    &above.permitted,
                    &above.excluded,
                    &mut self.comparisons,
                )
                .map_err(Flaw::Constraints)?;
            }
        }
        Ok(())
    }
}

/// Whether it is in a chain already, perhaps signed by another CA: two that signed each other would lead
/// round for ever.
fn is_in(candidate: &Certificate<'_>, chain: &[&Certificate<'_>]) -> bool {
    chain.iter().any(|known| {
        known.subject == candidate.subject
            && known.key.info == candidate.key.info
            && known.alternatives == candidate.alternatives
    })
}

/// The likely ones first, by the names of their keys.
fn plausibility(own: &[u8], child: &Certificate<'_>) -> u8 {
    let wanted = child.authority_key_id;
    match (own == wanted, own.is_empty() != wanted.is_empty()) {
        (true, _) => 0,
        (_, true) => 1,
        _ => 2,
    }
}
