//! The extensions of a certificate, read as Go's `processExtensions` does (`parser.go` of `crypto/x509`).

use std::collections::HashSet;
use std::net::IpAddr;

use super::certificate::{BasicConstraints, Certificate};
use super::constraints::{is_domain, mailbox};
use super::der::{
    BIT_STRING, BOOLEAN, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, bits, boolean,
    constructed, integer, is_identifier, primitive,
};
use super::uri::Uri;

/// `id-ce`, below which stand those of RFC 5280 (`2.5.29`).
const STANDARD: [u8; 2] = [0x55, 0x1d];
/// `id-pe-authorityInfoAccess`.
const AUTHORITY_INFO_ACCESS: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x01\x01";
/// `anyExtendedKeyUsage` and `id-kp-serverAuth`.
const MAY_SERVE: [&[u8]; 2] = [b"\x55\x1d\x25\x00", b"\x2b\x06\x01\x05\x05\x07\x03\x01"];

/// The kinds of GeneralName that are read.
const MAIL: u8 = primitive(1);
const DNS: u8 = primitive(2);
const URI: u8 = primitive(6);
const ADDRESS: u8 = primitive(7);

/// Names of the kinds that constraints speak of.
#[derive(Default)]
pub struct Names<'a> {
    pub dns: Vec<&'a str>,
    /// 4 or 16 bytes each.
    pub addresses: Vec<&'a [u8]>,
    pub mails: Vec<&'a str>,
    pub uris: Vec<Uri<'a>>,
}

/// One side of name constraints.
#[derive(Default)]
pub struct Subtrees<'a> {
    pub dns: Vec<&'a str>,
    /// An address and its mask.
    pub addresses: Vec<(&'a [u8], &'a [u8])>,
    pub mails: Vec<&'a str>,
    pub uris: Vec<&'a str>,
}

impl<'a> Certificate<'a> {
    /// Reads a list of extensions; nothing where one is broken, or there twice.
    pub fn read_extensions(&mut self, list: &'a [u8]) -> Option<()> {
        let mut list = Reader::new(list).sequence()?;
        let mut seen = HashSet::new();
        while !list.is_empty() {
            let mut extension = list.sequence()?;
            let id = identifier(&mut extension)?;
            let is_critical = match extension.optional(BOOLEAN)? {
                Some(content) => boolean(content)?,
                None => false,
            };
            let value = extension.element(OCTET_STRING)?;
            if !seen.insert(id) {
                return None;
            }
            let is_known = self.read_extension(id, is_critical, value)?;
            self.has_unknown_critical |= is_critical && !is_known;
        }
        Some(())
    }

    /// Whether an extension is known; nothing where it is broken.
    fn read_extension(&mut self, id: &[u8], is_critical: bool, value: &'a [u8]) -> Option<bool> {
        let mut reader = Reader::new(value);
        let number = match id.strip_prefix(&STANDARD) {
            Some([number]) => *number,
            _ if id == AUTHORITY_INFO_ACCESS && is_critical => return None,
            _ if id == AUTHORITY_INFO_ACCESS => {
                let mut list = reader.sequence()?;
                while !list.is_empty() {
                    let mut access = list.sequence()?;
                    identifier(&mut access)?;
                    access.optional(URI)?;
                }
                return Some(true);
            }
            _ => return Some(false),
        };
        match number {
            // They are hints, and must not be critical (RFC 5280, 4.2.1.1 and 4.2.1.2).
            14 | 35 if is_critical => return None,
            14 => self.subject_key_id = reader.element(OCTET_STRING)?,
            15 => {
                let usage = bits(reader.element(BIT_STRING)?)?;
                let (first, second) = (usage.first().copied(), usage.get(1).copied());
                let (first, last) = (first.unwrap_or(0), second.unwrap_or(0) & 0x80);
                // Go takes one without a bit for none.
                self.may_sign = ((first, last) != (0, 0)).then_some(first & 0x04 != 0);
            }
            17 => {
                self.alternatives = Some(value);
                let mut list = reader.sequence()?;
                while !list.is_empty() {
                    self.names.read(&mut list)?;
                }
                return Some(!self.names.is_empty());
            }
            19 => self.constraints = Some(BasicConstraints::read(&mut reader)?),
            30 => return self.read_name_constraints(reader),
            31 => distribution_points(&mut reader)?,
            32 => policies(&mut reader)?,
            33 => {
                let mut list = reader.sequence()?;
                while !list.is_empty() {
                    let mut mapping = list.sequence()?;
                    mapping.element(OBJECT_IDENTIFIER)?;
                    mapping.element(OBJECT_IDENTIFIER)?;
                }
            }
            35 => {
                let id = reader.sequence()?.optional(primitive(0))?;
                self.authority_key_id = id.unwrap_or_default();
            }
            36 => {
                let mut limits = reader.sequence()?;
                let explicit = limits.optional(primitive(0))?;
                let mapping = limits.optional(primitive(1))?;
                for limit in [explicit, mapping].into_iter().flatten() {
                    integer(limit)?;
                }
                self.requires_policy |= explicit.is_some();
            }
            37 => {
                let mut list = reader.sequence()?;
                let mut may_serve = None;
                while !list.is_empty() {
                    let is_for_servers = MAY_SERVE.contains(&identifier(&mut list)?);
                    may_serve = Some(may_serve == Some(true) || is_for_servers);
                }
                self.may_serve = may_serve;
            }
            54 => {
                integer(reader.element(INTEGER)?)?;
            }
            _ => return Some(false),
        }
        Some(true)
    }

    /// Whether all that name constraints speak of is known. Nothing may stand beside the two lists: what is
    /// passed over may be the exclusion.
    fn read_name_constraints(&mut self, mut reader: Reader<'a>) -> Option<bool> {
        self.constrains_names = true;
        let mut both = reader.sequence()?;
        let permitted = both.optional(constructed(0))?.unwrap_or_default();
        let excluded = both.optional(constructed(1))?.unwrap_or_default();
        let is_empty = permitted.is_empty() && excluded.is_empty();
        if is_empty || !both.is_empty() || !reader.is_empty() {
            return None;
        }
        let permitted = self.permitted.read(permitted)?;
        let excluded = self.excluded.read(excluded)?;
        Some(permitted && excluded)
    }
}

fn identifier<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader
        .element(OBJECT_IDENTIFIER)
        .filter(|id| is_identifier(id))
}

impl BasicConstraints {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut sequence = reader.sequence()?;
        let is_ca = match sequence.optional(BOOLEAN)? {
            Some(content) => boolean(content)?,
            None => false,
        };
        let path_length = match sequence.optional(INTEGER)? {
            Some(content) => Some(u64::try_from(integer(content)?).ok()?),
            None => None,
        };
        Some(Self { is_ca, path_length })
    }
}

/// Only to refuse what Go refuses: nobody follows them.
fn distribution_points(reader: &mut Reader<'_>) -> Option<()> {
    let mut list = reader.sequence()?;
    while !list.is_empty() {
        let Some(name) = list.sequence()?.optional(constructed(0))? else {
            continue;
        };
        let mut names = Reader::new(Reader::new(name).element(constructed(0))?);
        while !names.is_empty() && names.optional(URI)?.is_some() {}
    }
    Some(())
}

/// Only to refuse what Go refuses: none may be there twice.
fn policies(reader: &mut Reader<'_>) -> Option<()> {
    let mut list = reader.sequence()?;
    let mut seen = HashSet::new();
    while !list.is_empty() {
        let id = list.sequence()?.element(OBJECT_IDENTIFIER)?;
        // Of numbers of any size, unlike the other identifiers.
        let mut begins = true;
        for byte in id {
            if begins && *byte == 0x80 {
                return None;
            }
            begins = byte & 0x80 == 0;
        }
        if id.is_empty() || !begins || !seen.insert(id) {
            return None;
        }
    }
    Some(())
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.is_ascii())
}

impl<'a> Names<'a> {
    fn is_empty(&self) -> bool {
        self.dns.is_empty()
            && self.addresses.is_empty()
            && self.mails.is_empty()
            && self.uris.is_empty()
    }

    /// Nothing where a name of a kind that Go reads is broken.
    fn read(&mut self, list: &mut Reader<'a>) -> Option<()> {
        match list.any()? {
            (MAIL, bytes) => self.mails.push(ascii(bytes)?),
            (DNS, bytes) => self.dns.push(ascii(bytes)?),
            (URI, bytes) => self.uris.push(Uri::parse(ascii(bytes)?)?),
            (ADDRESS, bytes) if matches!(bytes.len(), 4 | 16) => self.addresses.push(bytes),
            (ADDRESS, _) => return None,
            _ => (),
        }
        Some(())
    }
}

impl<'a> Subtrees<'a> {
    /// Whether all are of a kind that we check; nothing where one is broken.
    fn read(&mut self, list: &'a [u8]) -> Option<bool> {
        let mut list = Reader::new(list);
        let mut is_known = true;
        while !list.is_empty() {
            let (tag, bytes) = list.sequence()?.any()?;
            match tag {
                DNS => self.dns.push(domain(bytes)?),
                URI => {
                    let domain = domain(bytes).filter(|name| name.parse::<IpAddr>().is_err());
                    self.uris.push(domain?);
                }
                MAIL => {
                    let mail = ascii(bytes)?;
                    let is_good = match mail.contains('@') {
                        true => mailbox(mail).is_some(),
                        false => is_domain(mail, true),
                    };
                    self.mails.push(is_good.then_some(mail)?);
                }
                ADDRESS if matches!(bytes.len(), 8 | 32) => {
                    let (address, mask) = bytes.split_at(bytes.len() / 2);
                    self.addresses
                        .push(is_mask(mask).then_some((address, mask))?);
                }
                ADDRESS => return None,
                _ => is_known = false,
            }
        }
        Some(is_known)
    }
}

fn domain(bytes: &[u8]) -> Option<&str> {
    ascii(bytes).filter(|name| is_domain(name, true))
}

/// Ones, then zeros alone.
fn is_mask(mask: &[u8]) -> bool {
    let mut behind = mask.iter().skip_while(|&&byte| byte == 0xff);
    behind
        .next()
        .is_none_or(|first| first.leading_ones() + first.trailing_zeros() == 8)
        && behind.all(|&byte| byte == 0)
}
