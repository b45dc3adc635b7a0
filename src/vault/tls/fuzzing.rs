//! The fuzz target of certificates (see `src/fuzzing.rs`).

use std::time::Duration;

use rustls_pki_types::{ServerName, UnixTime};

use super::certificate::parse;
use super::chain::{Case, Trusted};
use super::pem::Blocks;

/// A bundle: its first certificate as a server's, the others as what it sends.
pub fn bundle(data: &[u8]) {
    let blocks: Vec<_> = Blocks::of(data).collect();
    let certificates: Vec<_> = blocks
        .iter()
        .filter_map(|block| parse(&block.content))
        .collect();
    let Some((own, sent)) = certificates.split_first() else {
        return;
    };
    let provider = super::provider();
    let case = |trusted: &Trusted| {
        let case = Case {
            trusted,
            sent,
            algorithms: &provider.signature_verification_algorithms,
            now: UnixTime::since_unix_epoch(Duration::from_secs(1_893_456_000)),
        };
        let names = own.names.dns.iter().copied();
        let mut servers = names.chain(["vault", "10.1.2.3"]).take(8);
        servers.any(|name| {
            ServerName::try_from(name).is_ok_and(|name| case.decide(own, &name).is_ok())
        })
    };
    assert!(
        !case(&Trusted::default()),
        "where nothing is trusted, nothing is"
    );
    let mut trusted = Trusted::default();
    if let Some(last) = certificates.last() {
        trusted.add(last.der);
    }
    let is_own = trusted.contains(own);
    let is_issued = sent.iter().any(|issuer| issuer.subject == own.issuer);
    assert!(
        !case(&trusted) || is_own || is_issued,
        "a chain's links bear one another's names"
    );
}
