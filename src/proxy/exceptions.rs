//! `NO_PROXY` by the rules of Go's `golang.org/x/net/http/httpproxy`: hosts, domains with what is below
//! them, addresses, each with or without a port, and networks.
//!
//! hyper-util's matcher knows neither ports nor `*.`, and no other crate follows Go, so that a login would
//! go to the proxy by mistake. `tests/recorded/proxies.json` holds what Go makes of a hundred of them.

use std::net::IpAddr;

/// What is reached without a proxy.
#[derive(Debug, Default)]
pub struct Exceptions(Vec<Exception>);

#[derive(Debug)]
enum Exception {
    Everything,
    Address(IpAddr, Option<u16>),
    /// An address and the length of its prefix, in bits.
    Network(IpAddr, u8),
    Domain {
        /// With a dot before it.
        suffix: String,
        /// The domain's own name is meant as well.
        itself: bool,
        port: Option<u16>,
    },
}

impl Exceptions {
    /// Reads the entries of `NO_PROXY`, which are separated by commas.
    pub fn read(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim);
        let entries = entries.filter(|entry| !entry.is_empty());
        let exceptions = entries.map(|entry| {
            exception(&entry.to_ascii_lowercase()).map_err(|why| {
                format!("{entry:?} {why}; write a host or domain (vault.svc, .vault.svc, *.vault.svc), an address, either with a port (vault.svc:8200), or a network (10.0.0.0/8), separated by commas")
            })
        });
        exceptions.collect::<Result<_, _>>().map(Self)
    }

    /// Whether a host, an address in brackets or a name, is among them. This node itself always is.
    pub fn hold(&self, host: &str, port: u16) -> bool {
        if host == "localhost" {
            return true;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let name = host.to_ascii_lowercase();
        let fits = |exception: &Exception| match (exception, address) {
            (Exception::Everything, _) => true,
            (Exception::Address(known, at), Some(address)) => *known == address && here(*at, port),
            (Exception::Network(known, bits), Some(address)) => lies_in(address, *known, *bits),
            (
                Exception::Domain {
                    suffix,
                    itself,
                    port: at,
                },
                None,
            ) => {
                let is_domain = *itself && suffix.strip_prefix('.') == Some(&name);
                (is_domain || name.ends_with(suffix)) && here(*at, port)
            }
            _ => false,
        };
        self.0.iter().any(fits)
    }
}

fn here(at: Option<u16>, port: u16) -> bool {
    at.is_none_or(|at| at == port)
}

fn lies_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (difference, width): (u128, u32) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits() ^ network.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits() ^ network.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - u32::from(bits).min(width);
    difference.checked_shr(host_bits).unwrap_or(0) == 0
}

fn exception(entry: &str) -> Result<Exception, &'static str> {
    if entry == "*" {
        return Ok(Exception::Everything);
    }
    if let Some((address, bits)) = entry.split_once('/') {
        return network(address, bits);
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok(Exception::Address(address.to_canonical(), None));
    }
    if entry.starts_with('[') && entry.ends_with(']') {
        return Err("is in brackets, which an address without a port does not have");
    }
    let (host, port) = match entry.rsplit_once(':') {
        None => (entry, None),
        // As in Go, nothing behind the colon means every port.
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(self::port(port)?)),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Ok(address) = bracketed.unwrap_or(host).parse::<IpAddr>()
        && (bracketed.is_some() || address.is_ipv4())
    {
        return Ok(Exception::Address(address.to_canonical(), port));
    }
    domain(host, port)
}

fn network(address: &str, bits: &str) -> Result<Exception, &'static str> {
    const WRONG: &str = "is no network";
    let address: IpAddr = address.parse().map_err(|_| WRONG)?;
    // `+8` is a number to Rust.
    if !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(WRONG);
    }
    let bits: u8 = bits.parse().map_err(|_| WRONG)?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    if bits > width {
        return Err(WRONG);
    }
    // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
    match (address.to_canonical(), bits.checked_sub(96)) {
        (mapped, Some(bits)) if mapped.is_ipv4() && address.is_ipv6() => {
            Ok(Exception::Network(mapped, bits))
        }
        _ => Ok(Exception::Network(address, bits)),
    }
}

fn port(text: &str) -> Result<u16, &'static str> {
    const WRONG: &str = "has a port that is no number up to 65535";
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if plain => Ok(port),
        _ => Err(WRONG),
    }
}

fn domain(name: &str, port: Option<u16>) -> Result<Exception, &'static str> {
    let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
    let labels = below.unwrap_or(name);
    // A dot at the end is part of the name: it fits names that end with one.
    let mut parts = labels.strip_suffix('.').unwrap_or(labels).split('.');
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !labels.is_ascii() {
        return Err("has a letter that no host's name has (write it as xn--…)");
    }
    if labels.contains('*') {
        return Err("has a * elsewhere than before its first dot");
    }
    if !parts.all(|part| !part.is_empty() && part.chars().all(of_name)) {
        return Err("is neither a host, a domain, an address nor a network");
    }
    // No name's last part is a number: Go takes these for names, so that they mean nothing.
    let last = labels.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) && !last.is_empty() {
        return Err("is no address");
    }
    Ok(Exception::Domain {
        suffix: format!(".{labels}"),
        itself: below.is_none(),
        port,
    })
}
