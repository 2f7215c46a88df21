//! The PROXY protocol, versions 1 and 2: who a proxy speaks for, said in front of the first octet.
//!
//! [`parse`] looks at what has arrived and says how much of it is the header;
//! what follows belongs to somebody else and is never looked at. [`write`]
//! is its inverse. Lengths are bounded by the protocol: 107 octets for version
//! 1, 16 and a 16-bit length for version 2.
//!
//! Sections are those of HAProxy's `proxy-protocol.txt`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a version 2 header begins with (section 2.2).
pub const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end (section 2.1).
const V1_MAX: usize = 107;
const V2_FIXED: usize = 16;

const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const FAMILY_INET: u8 = 1;
const FAMILY_INET6: u8 = 2;
const TRANSPORT_STREAM: u8 = 1;
const TRANSPORT_DGRAM: u8 = 2;

/// `ProxyProtocolConfig.Version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Version {
    V1,
    V2,
}

/// Both ends of the connection that is spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which version it was.
    pub version: Version,
    /// `None`: the sender speaks for itself (`LOCAL`), or does not know (`UNKNOWN`).
    pub addresses: Option<Addresses>,
    /// Octets of the header, to be taken off.
    pub length: usize,
}

/// What the first octets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header.
    Header(Header),
    /// They may become one.
    NeedMore,
    /// They are none, and cannot become one.
    Absent,
    /// They began as one of this version, but are not.
    Malformed(Version),
}

/// Looks at all octets that have arrived so far.
pub fn parse(octets: &[u8]) -> Parsed {
    match (starts(octets, V2_SIGNATURE), starts(octets, V1_SIGNATURE)) {
        (Some(true), _) => parse_v2(octets),
        (_, Some(true)) => parse_v1(octets),
        (Some(false), Some(false)) => Parsed::Absent,
        _ => Parsed::NeedMore,
    }
}

/// True while the octets are, or may become, a header of this version.
pub fn may_begin(octets: &[u8], version: Version) -> bool {
    let signature = match version {
        Version::V1 => V1_SIGNATURE,
        Version::V2 => V2_SIGNATURE,
    };
    starts(octets, signature) != Some(false)
}

/// `None`: not yet known.
fn starts(octets: &[u8], signature: &[u8]) -> Option<bool> {
    let known = octets.len().min(signature.len());
    match octets.get(..known) == signature.get(..known) {
        true if known < signature.len() => None,
        same => Some(same),
    }
}

fn parse_v1(octets: &[u8]) -> Parsed {
    let malformed = Parsed::Malformed(Version::V1);
    let seen = octets.get(..V1_MAX).unwrap_or(octets);
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() == V1_MAX { malformed } else { Parsed::NeedMore };
    };
    let header = |addresses| Parsed::Header(Header { version: Version::V1, addresses, length: end + 2 });
    let line = seen.get(V1_SIGNATURE.len()..end).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|octet| *octet == b' ').collect();
    let addresses = match words.as_slice() {
        // The rest of the line means nothing, and need not be text (section 2.1).
        [b"UNKNOWN", ..] => return header(None),
        [b"TCP4", ends @ ..] => v1_addresses::<Ipv4Addr>(ends),
        [b"TCP6", ends @ ..] => v1_addresses::<Ipv6Addr>(ends),
        _ => None,
    };
    match addresses {
        Some(addresses) if are_unicast(&addresses) => header(Some(addresses)),
        _ => malformed,
    }
}

fn v1_addresses<A: std::str::FromStr + Into<IpAddr>>(words: &[&[u8]]) -> Option<Addresses> {
    let [source, destination, source_port, destination_port] = words else { return None };
    let end = |address: &[u8], port: &[u8]| -> Option<SocketAddr> {
        let (address, port) = (std::str::from_utf8(address).ok()?, std::str::from_utf8(port).ok()?);
        let is_decimal = !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
        let port = if is_decimal { port.parse().ok()? } else { return None };
        Some(SocketAddr::new(address.parse::<A>().ok()?.into(), port))
    };
    Some(Addresses { source: end(source, source_port)?, destination: end(destination, destination_port)? })
}

fn parse_v2(octets: &[u8]) -> Parsed {
    let malformed = Parsed::Malformed(Version::V2);
    let Some(command) = octets.get(V2_SIGNATURE.len()) else { return Parsed::NeedMore };
    if command >> 4 != 2 || command & 0xf > COMMAND_PROXY {
        return malformed;
    }
    let Some([_, family, high, low]) = octets.get(V2_SIGNATURE.len()..V2_FIXED) else { return Parsed::NeedMore };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    let is_local = command & 0xf == COMMAND_LOCAL;
    // Judge as early as possible: a header that will be refused is not waited for.
    let address_length = match (family >> 4, family & 0xf) {
        _ if is_local => 0,
        (FAMILY_INET, TRANSPORT_STREAM | TRANSPORT_DGRAM) => 12,
        (FAMILY_INET6, TRANSPORT_STREAM | TRANSPORT_DGRAM) => 36,
        // A receiver may refuse connections of an unknown family (section 2.2); Envoy does.
        _ => return malformed,
    };
    if length < V2_FIXED + address_length {
        return malformed;
    }
    let Some(whole) = octets.get(..length) else { return Parsed::NeedMore };
    let (ends, behind) = whole.get(V2_FIXED..).unwrap_or_default().split_at_checked(address_length).unwrap_or_default();
    // What a sender says of itself is skipped, whatever it is (section 2.2); Envoy does the same.
    if !is_local && !are_tlvs(behind) {
        return malformed;
    }
    let addresses = match (is_local, v2_addresses(ends)) {
        (true, _) => None,
        (false, Some(addresses)) if are_unicast(&addresses) => Some(addresses),
        (false, _) => return malformed,
    };
    Parsed::Header(Header { version: Version::V2, addresses, length })
}

/// Types, each with its length and what is so long (section 2.2.7), to the last octet of the header. Nobody here asks
/// what they say, but where one ends behind the header the sender means another header than we do.
fn are_tlvs(mut octets: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = octets.split_first_chunk() {
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        octets = behind;
    }
    octets.is_empty()
}

/// Two addresses, then two ports.
fn v2_addresses(octets: &[u8]) -> Option<Addresses> {
    let (addresses, ports) = octets.split_at_checked(octets.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let [a, b, c, d] = <[u8; 4]>::try_from(ports).ok()?;
    Some(Addresses {
        source: SocketAddr::new(ip(source)?, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(ip(destination)?, u16::from_be_bytes([c, d])),
    })
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// As TCP needs; Envoy asks for the same.
fn are_unicast(addresses: &Addresses) -> bool {
    [addresses.source, addresses.destination].iter().all(|end| match end.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    })
}

/// Appends a header. Without addresses it says that the sender speaks for itself: `LOCAL` in
/// version 2, `UNKNOWN` in version 1.
pub fn write(version: Version, addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    match version {
        Version::V1 => write_v1(addresses, out),
        Version::V2 => write_v2(addresses, out),
    }
}

/// IPv4 if both ends are, as the one family of a header must be; IPv4-mapped counts as IPv4.
fn one_family(addresses: &Addresses) -> (IpAddr, IpAddr) {
    let ends = (addresses.source.ip().to_canonical(), addresses.destination.ip().to_canonical());
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    match ends {
        (IpAddr::V4(_), IpAddr::V4(_)) => ends,
        (source, destination) => (mapped(source), mapped(destination)),
    }
}

fn write_v1(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(V1_SIGNATURE);
    let Some(addresses) = addresses else { return out.extend_from_slice(b"UNKNOWN\r\n") };
    let (source, destination) = one_family(addresses);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_port, destination_port) = (addresses.source.port(), addresses.destination.port());
    let _infallible = write!(out, "{family} {source} {destination} {source_port} {destination_port}\r\n");
}

fn write_v2(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    let Some(addresses) = addresses else { return out.extend_from_slice(&[0x20 | COMMAND_LOCAL, 0, 0, 0]) };
    let (source, destination) = one_family(addresses);
    let family = if source.is_ipv4() { FAMILY_INET } else { FAMILY_INET6 };
    out.extend_from_slice(&[0x20 | COMMAND_PROXY, family << 4 | TRANSPORT_STREAM]);
    // The length is that of what then stands there, not one that was computed apart from it.
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    for ip in [source, destination] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&addresses.source.port().to_be_bytes());
    out.extend_from_slice(&addresses.destination.port().to_be_bytes());
    let written = u16::try_from(out.len() - length_at - 2).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(length) = out.get_mut(length_at..length_at + 2) {
        length.copy_from_slice(&written);
    }
}

#[cfg(test)]
mod tests;
