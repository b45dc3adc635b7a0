//! The end of an OpenSSH certificate (`PROTOCOL.certkeys`).
//!
//! Read here and not by a library: one field is wanted of a certificate that the server has just signed,
//! keys of any algorithm included, and `valid before` is often 2^64-1, "forever", which the libraries
//! refuse as a time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest certificate that is looked at, in characters.
const LONGEST: usize = 64 * 1024;

/// `valid before`, in Unix time, of `ssh-…-cert-v01@openssh.com AAAA…`; `None` for what is no certificate.
pub fn valid_before(line: &str) -> Option<Duration> {
    let mut words = line
        .get(..line.len().min(LONGEST))?
        .split_ascii_whitespace();
    let (kind, blob) = (words.next()?, words.next()?);
    let blob = STANDARD.decode(blob).ok()?;
    let mut rest = blob.as_slice();
    if take(&mut rest)? != kind.as_bytes() {
        return None;
    }
    // The key's own parts, between the nonce and the serial number.
    let parts = match kind.strip_suffix("-cert-v01@openssh.com")? {
        "ssh-ed25519" => 1,
        "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" | "sk-ssh-ed25519" => 2,
        "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => 2,
        "sk-ecdsa-sha2-nistp256" => 3,
        "ssh-dss" => 4,
        _ => return None,
    };
    for _ in 0..=parts {
        take(&mut rest)?;
    }
    // Serial number and type, then key id and principals, then `valid after`.
    rest = rest.get(12..)?;
    take(&mut rest)?;
    take(&mut rest)?;
    let (end, _) = rest.get(8..)?.split_first_chunk::<8>()?;
    Some(Duration::from_secs(u64::from_be_bytes(*end)))
}

/// The next string: its length in four bytes, then its bytes.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (string, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(string)
}
