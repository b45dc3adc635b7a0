//! The PKI engine: a root and leaves, all on P-256.

use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Given, Terms, ToLease};
use crate::answer::{Answer, Request};
use crate::fields::Fields;
use crate::leases::Purpose;

/// Certificates are dated back, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Pki {
    root: Option<Root>,
    roles: BTreeMap<String, Map<String, Value>>,
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
    ends: Duration,
}

impl Root {
    /// What is read of it: as JSON, and raw (OpenBao `builtin/logical/pki/path_fetch.go`).
    fn read(&self, path: &str) -> Answer {
        const DER: &str = "application/pkix-cert";
        match path {
            "cert/ca" => Answer::data(json!({ "certificate": self.pem })),
            "cert/ca_chain" => {
                Answer::data(json!({ "certificate": self.pem, "ca_chain": self.pem }))
            }
            "ca" | "cert/ca/raw" => Answer::file(DER, self.der.clone()),
            "ca/pem" | "cert/ca/raw/pem" => {
                Answer::file("application/pem-certificate-chain", self.pem.as_bytes())
            }
            "ca_chain" => Answer::file(DER, self.pem.as_bytes()),
            _ => Answer::unsupported(),
        }
    }
}

impl Pki {
    pub fn handle(&mut self, request: &Request, path: &str, terms: Terms) -> Given {
        if !request.writes() {
            return match &self.root {
                Some(root) if request.reads() => root.read(path).into(),
                _ => Answer::unsupported().into(),
            };
        }
        if path == "root/generate/internal" {
            return match generate_root(request, terms.now) {
                Ok(root) => {
                    let data = json!({ "certificate": root.pem, "issuing_ca": root.pem });
                    self.root = Some(root);
                    Answer::data(data).into()
                }
                Err(error) => Answer::wrapped_error(500, &error.to_string()).into(),
            };
        }
        if let Some(name) = path.strip_prefix("roles/") {
            self.roles.insert(name.to_owned(), request.body.clone());
            return Answer::data(Value::Object(request.body.clone())).into();
        }
        match path.strip_prefix("issue/") {
            Some(name) => self.issue(request, name, terms),
            None => Answer::unsupported().into(),
        }
    }

    fn issue(&self, request: &Request, name: &str, terms: Terms) -> Given {
        let Some(role) = self.roles.get(name).map(Fields) else {
            return Answer::error(400, format!("unknown role: {name}")).into();
        };
        let common_name = request.text("common_name");
        if !allowed(role, common_name) {
            let text = format!("common name {common_name} not allowed by this role");
            return Answer::error(400, text).into();
        }
        let Some(root) = &self.root else {
            return Answer::wrapped_error(500, "no default issuer currently configured").into();
        };
        let asked = request.duration("ttl").or(role.duration("ttl"));
        let max = role.duration("max_ttl").unwrap_or(terms.max);
        let ttl = asked.unwrap_or(terms.usual).min(max);
        // As an issuer with `leaf_not_after_behavior=truncate`; the real default refuses instead.
        let ttl = ttl.min(root.ends.saturating_sub(terms.now));
        match leaf(root, request, common_name, ttl, terms.now) {
            Ok(data) if role.flag("generate_lease").unwrap_or_default() => Given::Leased(ToLease {
                ttl: Duration::from_secs((terms.now + ttl).as_secs()).saturating_sub(terms.now),
                max_ttl: None,
                renewable: false,
                purpose: Purpose::Certificate,
                data,
            }),
            Ok(data) => Answer::data(data).into(),
            Err(error) => Answer::wrapped_error(500, &error.to_string()).into(),
        }
    }
}

fn allowed(role: Fields<'_>, name: &str) -> bool {
    if role.flag("allow_any_name").unwrap_or_default() {
        return true;
    }
    let subdomains = role.flag("allow_subdomains").unwrap_or_default();
    let bare = role.flag("allow_bare_domains").unwrap_or_default();
    role.list("allowed_domains").iter().any(|domain| {
        (bare && name == domain)
            || (subdomains
                && name
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.ends_with('.')))
    })
}

fn date(since: Duration) -> OffsetDateTime {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn params(name: &str, ttl: Duration, now: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(now.saturating_sub(BACKDATED));
    params.not_after = date(now + ttl);
    params
}

fn generate_root(request: &Request, now: Duration) -> Result<Root, rcgen::Error> {
    let ttl = request.duration("ttl").unwrap_or(crate::core::SYSTEM_TTL);
    let key = KeyPair::generate()?;
    let mut params = params(request.text("common_name"), ttl, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    let pem = certificate.pem().trim_end().to_owned();
    Ok(Root {
        der: certificate.der().to_vec(),
        issuer: Issuer::new(params, key),
        pem,
        ends: now + ttl,
    })
}

fn leaf(
    root: &Root,
    request: &Request,
    name: &str,
    ttl: Duration,
    now: Duration,
) -> Result<Value, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = params(name, ttl, now);
    let mut names = request.fields().list("alt_names");
    names.insert(0, name.to_owned());
    for name in names {
        params
            .subject_alt_names
            .push(rcgen::SanType::DnsName(name.try_into()?));
    }
    for address in request.fields().list("ip_sans") {
        if let Ok(address) = address.parse() {
            params
                .subject_alt_names
                .push(rcgen::SanType::IpAddress(address));
        }
    }
    // The first bit clear: a serial number is positive.
    let mut serial = rand::random::<[u8; 20]>();
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x3f) | 0x20;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let certificate = params.signed_by(&key, &root.issuer)?;
    let serial: Vec<String> = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({
        "certificate": certificate.pem().trim_end(),
        "issuing_ca": root.pem,
        "ca_chain": [root.pem],
        "private_key": key.serialize_pem().trim_end(),
        "private_key_type": "ec",
        "serial_number": serial.join(":"),
        "expiration": (now + ttl).as_secs(),
        "not_before": now.saturating_sub(BACKDATED).as_secs(),
    }))
}
