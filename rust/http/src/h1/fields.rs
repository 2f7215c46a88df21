//! Fields of a head: copied, checked, and acted on where they concern this connection.

use super::{list, trim, Framing, Refusal};
use crate::{has_control_octets, Headers, Known, Limits, Span, Version};

/// What the fields of a head say about its connection and body.
#[derive(Default)]
pub(super) struct Signals {
    /// The value of `host`, in the arena of the fields.
    pub host: Option<Span>,
    pub length: Option<u64>,
    pub chunked: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub expect_continue: bool,
}

/// Most options that `Connection` may have: each is compared with every field.
const MAX_CONNECTION_OPTIONS: usize = 64;

/// Copies parsed fields into `headers` and reads the signals on the way.
pub(super) fn read(
    parsed: &[httparse::Header<'_>],
    version: Version,
    limits: &Limits,
    headers: &mut Headers,
) -> Result<Signals, Refusal> {
    if parsed.len() > limits.header_count {
        return Err(Refusal { status: 431, reason: "http1.too_many_headers" });
    }
    for field in parsed {
        let value = trim(field.value);
        if has_control_octets(value) {
            return Err(Refusal::bad("http1.invalid_characters"));
        }
        headers.append_lower(field.name.as_bytes(), value);
        if headers.list_size() > limits.header_list_size {
            return Err(Refusal { status: 431, reason: "http1.headers_too_large" });
        }
    }
    let mut signals = Signals::default();
    let mut named_by_connection = false;
    for field in headers.iter() {
        let value = field.value;
        match field.known {
            Some(Known::Host) => {
                if signals.host.is_some() {
                    return Err(Refusal::bad("http1.several_hosts"));
                }
                signals.host = headers.span_of_known(Known::Host);
            }
            Some(Known::ContentLength) => {
                if signals.length.is_some() {
                    return Err(Refusal::bad("http1.several_content_lengths"));
                }
                let length = parse_length(value).ok_or(Refusal::bad("http1.invalid_content_length"))?;
                signals.length = Some(length);
            }
            Some(Known::TransferEncoding) => {
                if signals.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal { status: 501, reason: "http1.invalid_transfer_encoding" });
                }
                signals.chunked = true;
            }
            Some(Known::Connection) => {
                for option in list(value) {
                    if option.eq_ignore_ascii_case(b"close") {
                        signals.close = true;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        signals.keep_alive = true;
                    } else if option.eq_ignore_ascii_case(b"upgrade") {
                        signals.upgrade = true;
                    } else {
                        named_by_connection = true;
                    }
                }
            }
            // No standard header, but what old clients send to a proxy in place of `connection`.
            Some(Known::ProxyConnection) if value.eq_ignore_ascii_case(b"close") => signals.close = true,
            Some(Known::Expect) if value.eq_ignore_ascii_case(b"100-continue") => signals.expect_continue = true,
            _ => {}
        }
    }
    if signals.chunked && signals.length.is_some() {
        return Err(Refusal::bad("http1.content_length_and_chunked_not_allowed"));
    }
    if named_by_connection {
        remove_named(parsed, headers)?;
    }
    // RFC 9110 section 7.8: HTTP/1.0 asks for no other protocol, so nobody behind us may think that it did.
    signals.upgrade = signals.upgrade && version == Version::Http11 && strip_h2c(headers);
    remove_hop_by_hop(headers, signals.upgrade);
    Ok(signals)
}

/// True if a protocol other than h2c is asked for. h2c by upgrade is not offered,
/// and must not be passed on beside another protocol either.
fn strip_h2c(headers: &mut Headers) -> bool {
    let is_h2c = |token: &&[u8]| token.eq_ignore_ascii_case(b"h2c");
    let tokens = |headers: &Headers| {
        let all = headers.get_all_known(Known::Upgrade).flat_map(list);
        all.fold((0, 0), |(h2c, other), token| if is_h2c(&token) { (h2c + 1, other) } else { (h2c, other + 1) })
    };
    let (h2c, other) = tokens(headers);
    if h2c > 0 && other > 0 {
        let kept: Vec<&[u8]> =
            headers.get_all_known(Known::Upgrade).flat_map(list).filter(|token| !is_h2c(token)).collect();
        let kept = kept.join(&b", "[..]);
        headers.set_known(Known::Upgrade, &kept);
    }
    other > 0
}

/// `Connection` may name fields that are for this connection only. It may not
/// name one that decides how the message is read or where it goes, nor one by
/// which a proxy in front says who the client is.
fn remove_named(parsed: &[httparse::Header<'_>], headers: &mut Headers) -> Result<(), Refusal> {
    let is_connection = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("connection");
    let options = || parsed.iter().filter(is_connection).flat_map(|field| list(field.value));
    if options().count() > MAX_CONNECTION_OPTIONS {
        return Err(Refusal::bad("http1.connection_header_rejected"));
    }
    const END_TO_END: [Known; 8] = [
        Known::Host,
        Known::ContentLength,
        Known::TransferEncoding,
        Known::Authorization,
        Known::XForwardedFor,
        Known::XForwardedHost,
        Known::XForwardedProto,
        Known::XForwardedClientCert,
    ];
    if options().any(|option| END_TO_END.iter().any(|known| option.eq_ignore_ascii_case(known.name().as_bytes()))) {
        return Err(Refusal::bad("http1.connection_header_rejected"));
    }
    headers.retain(|known, name, _| match known {
        // These two are read and rewritten below.
        Some(Known::Upgrade | Known::Te) => true,
        _ => !options().any(|option| option.eq_ignore_ascii_case(name)),
    });
    Ok(())
}

fn remove_hop_by_hop(headers: &mut Headers, keep_upgrade: bool) {
    headers.retain(|known, _, value| match known {
        Some(
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Http2Settings
            | Known::Host,
        ) => false,
        Some(Known::Upgrade) => keep_upgrade,
        Some(Known::Te) => list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
        _ => true,
    });
    if headers.contains_known(Known::Te) {
        headers.set_known(Known::Te, b"trailers");
    }
}

/// Digits and nothing else (RFC 9110 section 8.6); a list is refused even if its members agree, and
/// so is what is no length to an origin that counts in signed 64 bits.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let length = value.iter().try_fold(0_u64, |length, octet| {
        let digit = octet.is_ascii_digit().then(|| u64::from(octet - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    });
    length.filter(|length| i64::try_from(*length).is_ok())
}

impl Signals {
    /// The framing that the fields themselves ask for.
    pub fn framing(&self) -> Option<Framing> {
        match (self.chunked, self.length) {
            (true, _) => Some(Framing::Chunked),
            (false, Some(length)) => Some(Framing::Length(length)),
            (false, None) => None,
        }
    }
}
