//! Reads SNI and ALPN from a ClientHello before anything is decided.
//!
//! Nothing is consumed: the same octets then go to a [`crate::Session`] or,
//! for passthrough, to a cluster. Every length is checked against what is
//! there, and a hello longer than [`MAX_HELLO`] is not waited for.

use std::borrow::Cow;

/// What the first octets of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// They may become a ClientHello.
    NeedMore,
    /// They are no ClientHello, or a broken one; a TLS server would refuse it.
    NotTls,
    /// They may be a ClientHello, but it is not complete within [`MAX_WIRE`].
    TooLarge,
    /// A complete ClientHello.
    Hello {
        /// The server name, in lower case.
        sni: Option<String>,
        /// The protocols that are offered, most preferred first.
        alpn: Vec<Vec<u8>>,
    },
}

/// Longest ClientHello that may be announced, as in Envoy's TLS inspector.
pub const MAX_HELLO: usize = 16 * 1024;

/// Most octets that [`inspect`] looks at, the headers of records included; as there.
pub const MAX_WIRE: usize = 16 * 1024;

// RFC 8446, sections 4, 4.2 and 5.1; RFC 6066, section 3; RFC 7301, section 3.1.
const RECORD_HANDSHAKE: u8 = 22;
const MAX_RECORD: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

/// Looks at all octets that have arrived so far.
pub fn inspect(wire: &[u8]) -> Inspect {
    let seen = wire.get(..MAX_WIRE).unwrap_or(wire);
    let hello = match handshake_message(seen) {
        Ok(hello) => hello,
        Err(Inspect::NeedMore) if seen.len() == MAX_WIRE => return Inspect::TooLarge,
        Err(verdict) => return verdict,
    };
    parse_hello(&hello).unwrap_or(Inspect::NotTls)
}

/// The body of the first handshake message, put together from its records.
fn handshake_message(wire: &[u8]) -> Result<Cow<'_, [u8]>, Inspect> {
    let mut records = Reader(wire);
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let fragment = next_fragment(&mut records)?;
        let is_whole = fragment.is_whole;
        if message.is_empty() {
            message = Cow::Borrowed(fragment.octets);
        } else {
            message.to_mut().extend_from_slice(fragment.octets);
        }
        // The message type is known from its first octet.
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Inspect::NotTls);
        }
        if let Some(header) = message.get(..4) {
            let length = header.iter().skip(1).fold(0, |length, octet| length << 8 | usize::from(*octet));
            // One record of it that is whole says enough; until then it may only be too large.
            if length > MAX_HELLO && is_whole {
                return Err(Inspect::NotTls);
            }
            let end = 4 + length;
            if message.len() >= end {
                return Ok(match message {
                    Cow::Borrowed(octets) => Cow::Borrowed(octets.get(4..end).unwrap_or_default()),
                    Cow::Owned(octets) => Cow::Owned(octets.get(4..end).unwrap_or_default().to_vec()),
                });
            }
        }
        if !is_whole {
            return Err(Inspect::NeedMore);
        }
    }
}

/// The part of a record that has arrived.
struct Fragment<'a> {
    octets: &'a [u8],
    is_whole: bool,
}

fn next_fragment<'a>(records: &mut Reader<'a>) -> Result<Fragment<'a>, Inspect> {
    // Judge by as few octets as there are: what is not TLS must not wait for more.
    let kind = records.u8().ok_or(Inspect::NeedMore)?;
    if kind != RECORD_HANDSHAKE {
        return Err(Inspect::NotTls);
    }
    let major = records.u8().ok_or(Inspect::NeedMore)?;
    if major != 3 {
        return Err(Inspect::NotTls);
    }
    let minor = records.u8().ok_or(Inspect::NeedMore)?;
    let length = usize::from(records.u16().ok_or(Inspect::NeedMore)?);
    if minor > 4 || length == 0 || length > MAX_RECORD {
        return Err(Inspect::NotTls);
    }
    match records.take(length) {
        Some(octets) => Ok(Fragment { octets, is_whole: true }),
        None => Ok(Fragment { octets: records.0, is_whole: false }),
    }
}

/// `None`: malformed.
fn parse_hello(body: &[u8]) -> Option<Inspect> {
    let mut hello = Reader(body);
    let _version_and_random = hello.take(2 + 32)?;
    let session_id = hello.vector8()?;
    let cipher_suites = hello.vector16()?;
    let compression = hello.vector8()?;
    if session_id.0.len() > 32 || cipher_suites.0.is_empty() || compression.0.is_empty() {
        return None;
    }
    let (mut sni, mut alpn) = (None, None);
    if !hello.is_empty() {
        let mut extensions = hello.vector16()?;
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.vector16()?;
            match kind {
                EXTENSION_SERVER_NAME if sni.is_none() => sni = Some(server_name(content)?),
                EXTENSION_ALPN if alpn.is_none() => alpn = Some(protocols(content)?),
                EXTENSION_SERVER_NAME | EXTENSION_ALPN => return None,
                _ => {}
            }
        }
    }
    hello.is_empty().then(|| Inspect::Hello { sni: sni.flatten(), alpn: alpn.unwrap_or_default() })
}

fn server_name(mut content: Reader<'_>) -> Option<Option<String>> {
    let mut list = content.vector16()?;
    let mut host = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == NAME_TYPE_HOST && host.replace(host_name(name.0)?).is_some() {
            return None;
        }
    }
    content.is_empty().then_some(host)
}

/// A name that could not be a host is refused, so that no rule has to expect it. It is without the dot behind it that
/// RFC 6066 section 3 does not allow: who chooses the certificate takes it off too, and a rule must not be gone around.
fn host_name(octets: &[u8]) -> Option<String> {
    let octets = octets.strip_suffix(b".").unwrap_or(octets);
    let is_fit = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    if octets.is_empty() || octets.len() > 255 || !octets.iter().all(is_fit) {
        return None;
    }
    Some(std::str::from_utf8(octets).ok()?.to_ascii_lowercase())
}

fn protocols(mut content: Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.vector16()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.0.to_vec());
    }
    content.is_empty().then_some(protocols)
}

/// Octets not read yet. Each read returns `None` if they do not suffice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn vector8(&mut self) -> Option<Reader<'a>> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    fn vector16(&mut self) -> Option<Reader<'a>> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }
}

#[cfg(test)]
mod tests;
