//! The PROXY protocol: what is read, against a second reading of its specification, and what is written.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use pymesh_http::proxy_protocol::{may_begin, parse, write, Addresses, Header, Parsed, Version};
use regex::bytes::Regex;

use crate::input::Input;
use crate::strict::show;

/// A flag, then octets of a peer, or two ends that are told to one.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        round_trip(&mut input);
    } else {
        octets(input.rest());
    }
}

fn octets(data: &[u8]) {
    let whole = parse(data);
    let judged = second_reading(data);
    let found = if let Parsed::Header(header) = &whole { Some(*header) } else { None };
    assert_eq!(found, judged, "{}: {whole:?}", show(data));
    for version in [Version::V1, Version::V2] {
        let began = match &whole {
            Parsed::Header(header) => header.version == version,
            Parsed::Malformed(of) => *of == version,
            Parsed::Absent => false,
            Parsed::NeedMore => may_begin(data, version),
        };
        assert_eq!(may_begin(data, version), began, "{whole:?} of {}", show(data));
    }
    if whole == Parsed::NeedMore {
        // A line has its end by then, and the other version says how long it is.
        let least = if data.len() < 16 { 16 } else { 16 + usize::from(data[14]) * 256 + usize::from(data[15]) };
        let most = if may_begin(data, Version::V1) { 107 } else { least };
        assert!(data.len() < most, "nothing can come of {}", show(data));
    }
    let end = found.map_or(data.len(), |header| header.length);
    // All heads of lines and of addresses, and the last octets of what is long.
    for at in (0..data.len()).filter(|at| *at < 128 || at.abs_diff(end) < 8) {
        let part = parse(&data[..at]);
        match found {
            Some(_) if at < end => assert_eq!(part, Parsed::NeedMore, "{at} octets of {}", show(data)),
            Some(_) => assert_eq!(part, whole, "{at} octets of {}", show(data)),
            None => assert!(part == whole || part == Parsed::NeedMore, "{part:?} of {at} octets is {whole:?} of all"),
        }
    }
    if let Some(addresses) = found.and_then(|header| header.addresses) {
        check_written(Some(addresses));
    }
}

/// Ends that a connection may have.
fn round_trip(input: &mut Input<'_>) {
    if input.flag() {
        return check_written(None);
    }
    let mut end = || {
        let octets = |input: &mut Input<'_>| <[u8; 4]>::try_from(input.octets(4)).unwrap_or_default();
        let ip = match input.octet() % 3 {
            0 => IpAddr::from(octets(input)),
            1 => IpAddr::V6(std::net::Ipv4Addr::from(octets(input)).to_ipv6_mapped()),
            _ => IpAddr::from(<[u8; 16]>::try_from(input.octets(16)).unwrap_or_default()),
        };
        SocketAddr::new(ip, input.word())
    };
    check_written(Some(Addresses { source: end(), destination: end() }));
}

/// What is written is one header that says this, to us and to the second reader, unless it says what no header may.
fn check_written(addresses: Option<Addresses>) {
    for version in [Version::V1, Version::V2] {
        let mut written = Vec::new();
        write(version, addresses.as_ref(), &mut written);
        let said = addresses.map(in_one_family);
        let header = Header { version, addresses: said, length: written.len() };
        let wanted = said.is_none_or(|said| is_unicast(said.source) && is_unicast(said.destination)).then_some(header);
        assert_eq!(second_reading(&written), wanted, "{addresses:?} is written as {}", show(&written));
        assert_eq!(parse(&written), wanted.map_or(Parsed::Malformed(version), Parsed::Header), "{}", show(&written));
        // What the client says next is none of it, even if it is such a header again.
        let length = written.len();
        written.extend_from_within(..);
        assert!(wanted.is_none() || parse(&written) == parse(&written[..length]), "{}", show(&written));
    }
}

/// IPv4 if that can say it, else IPv6.
fn in_one_family(ends: Addresses) -> Addresses {
    let v4 = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => Some(SocketAddr::new(ip.into(), end.port())),
        IpAddr::V6(ip) => Some(SocketAddr::new(ip.to_ipv4_mapped()?.into(), end.port())),
    };
    if let (Some(source), Some(destination)) = (v4(ends.source), v4(ends.destination)) {
        return Addresses { source, destination };
    }
    let v6 = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    Addresses { source: v6(ends.source), destination: v6(ends.destination) }
}

fn is_unicast(end: SocketAddr) -> bool {
    match end.ip() {
        IpAddr::V4(ip) => {
            let number = u32::from(ip);
            // 224.0.0.0/4 are groups.
            number != 0 && number != u32::MAX && number >> 28 != 0xe
        }
        IpAddr::V6(ip) => ip != Ipv6Addr::UNSPECIFIED && ip.octets()[0] != 0xff,
    }
}

const V2_SIGNATURE: &[u8] = &[0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/// The header that stands there whole, as `proxy-protocol.txt` says, with what Envoy asks for beside it.
fn second_reading(data: &[u8]) -> Option<Header> {
    if data.starts_with(V2_SIGNATURE) {
        second_reading_v2(data)
    } else {
        second_reading_v1(data)
    }
}

fn second_reading_v1(data: &[u8]) -> Option<Header> {
    // Zeros before a port are refused by the specification, and taken by those who read ports: Envoy, HAProxy.
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
        let v4 = format!(r"{octet}(?:\.{octet}){{3}}");
        let line = format!(
            r"(?s-u)^PROXY (?:UNKNOWN(?: .*?)?|TCP4 ({v4}) ({v4}) ([0-9]+) ([0-9]+)|TCP6 ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]+) ([0-9]+))\r\n"
        );
        Regex::new(&line).unwrap()
    });
    let found = LINE.captures(data)?;
    let length = found.get(0)?.len();
    let text = |at: usize| found.get(at).map(|found| std::str::from_utf8(found.as_bytes()).unwrap());
    let end = |ip: Option<IpAddr>, port: &str| Some(SocketAddr::new(ip?, port.parse().ok()?));
    let addresses = if let Some(source) = text(1) {
        let v4 = |text: &str| text.parse().ok().map(IpAddr::V4);
        Some(Addresses { source: end(v4(source), text(3)?)?, destination: end(v4(text(2)?), text(4)?)? })
    } else if let Some(source) = text(5) {
        Some(Addresses { source: end(v6(source), text(7)?)?, destination: end(v6(text(6)?), text(8)?)? })
    } else {
        None
    };
    let is_said = addresses.is_none_or(|ends| is_unicast(ends.source) && is_unicast(ends.destination));
    (is_said && length <= 107).then_some(Header { version: Version::V1, addresses, length })
}

/// RFC 4291 section 2.2: eight groups, the last two of them also as IPv4, and once `::` for those that are zero.
fn v6(text: &str) -> Option<IpAddr> {
    let groups = |text: &str, may_end_in_v4: bool| -> Option<Vec<u16>> {
        let mut groups = Vec::new();
        let parts: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(':').collect() };
        for (at, part) in parts.iter().enumerate() {
            if part.contains('.') {
                let octets: std::net::Ipv4Addr =
                    part.parse().ok().filter(|_| may_end_in_v4 && at + 1 == parts.len())?;
                let number = u32::from(octets);
                groups.extend([(number >> 16) as u16, number as u16]);
            } else {
                let is_group = (1..=4).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_hexdigit());
                groups.push(u16::from_str_radix(part, 16).ok().filter(|_| is_group)?);
            }
        }
        Some(groups)
    };
    let all = match text.split_once("::") {
        None => groups(text, true)?,
        Some((before, behind)) => {
            let (before, behind) = (groups(before, false)?, groups(behind, true)?);
            // It stands for one group at least.
            let zeros = 8_usize.checked_sub(before.len() + behind.len()).filter(|zeros| *zeros > 0)?;
            [before, vec![0; zeros], behind].concat()
        }
    };
    Some(IpAddr::from(<[u16; 8]>::try_from(all).ok()?))
}

fn second_reading_v2(data: &[u8]) -> Option<Header> {
    let number = |octets: &[u8]| octets.iter().fold(0_u128, |number, octet| number << 8 | u128::from(*octet));
    let (&[kind, family], rest) = data[V2_SIGNATURE.len()..].split_first_chunk()?;
    let (length, rest) = rest.split_at_checked(2)?;
    let body = rest.get(..number(length) as usize)?;
    let length = 16 + body.len();
    let wide = match (kind, family) {
        (0x20, _) => return Some(Header { version: Version::V2, addresses: None, length }),
        (0x21, 0x11 | 0x12) => 4,
        (0x21, 0x21 | 0x22) => 16,
        _ => return None,
    };
    let (ends, mut tlvs) = body.split_at_checked(2 * wide + 4)?;
    while !tlvs.is_empty() {
        let (head, value) = tlvs.split_at_checked(3)?;
        tlvs = value.split_at_checked(number(&head[1..]) as usize)?.1;
    }
    let end = |ip: usize, port: usize| {
        let ip = number(&ends[ip..ip + wide]);
        let ip = if wide == 4 { IpAddr::from((ip as u32).to_be_bytes()) } else { IpAddr::from(ip.to_be_bytes()) };
        SocketAddr::new(ip, number(&ends[port..port + 2]) as u16)
    };
    let addresses = Addresses { source: end(0, 2 * wide), destination: end(wide, 2 * wide + 2) };
    let is_said = is_unicast(addresses.source) && is_unicast(addresses.destination);
    is_said.then_some(Header { version: Version::V2, addresses: Some(addresses), length })
}
