//! Fields of a head: copied, checked, and acted on where they concern this connection.

use super::{list, trim, Framing, Refusal};
use crate::{Headers, Known, Limits};

/// What the fields of a head say about its connection and body.
#[derive(Default)]
pub(super) struct Signals {
    pub length: Option<u64>,
    pub chunked: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub expect_continue: bool,
}

/// Copies parsed fields into `headers` and reads the signals on the way.
pub(super) fn read(
    parsed: &[httparse::Header<'_>],
    limits: &Limits,
    headers: &mut Headers,
    host: &mut Option<Vec<u8>>,
) -> Result<Signals, Refusal> {
    let mut signals = Signals::default();
    let mut named_by_connection = false;
    if parsed.len() > limits.header_count {
        return Err(Refusal { status: 431, reason: "http1.too_many_headers" });
    }
    for field in parsed {
        let value = trim(field.value);
        // Obsolete line folding and control characters (RFC 9112 section 5.2, RFC 9110 section 5.5).
        if value.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return Err(Refusal::bad("http1.invalid_characters"));
        }
        headers.append_lower(field.name.as_bytes(), value);
        if headers.list_size() > limits.header_list_size {
            return Err(Refusal { status: 431, reason: "http1.headers_too_large" });
        }
    }
    for field in headers.iter() {
        let value = field.value;
        match field.known {
            Some(Known::Host) => {
                if host.is_some() {
                    return Err(Refusal::bad("http1.several_hosts"));
                }
                *host = Some(value.to_vec());
            }
            Some(Known::ContentLength) => {
                if signals.length.is_some() {
                    return Err(Refusal::bad("http1.several_content_lengths"));
                }
                signals.length = Some(parse_length(value)?);
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
            Some(Known::Expect) if value.eq_ignore_ascii_case(b"100-continue") => signals.expect_continue = true,
            _ => {}
        }
    }
    if signals.chunked && signals.length.is_some() {
        return Err(Refusal::bad("http1.content_length_and_transfer_encoding"));
    }
    signals.upgrade &= has_upgrade(headers);
    if named_by_connection {
        remove_named(headers)?;
    }
    remove_hop_by_hop(headers, signals.upgrade);
    Ok(signals)
}

fn has_upgrade(headers: &Headers) -> bool {
    headers
        .get_all_known(Known::Upgrade)
        .flat_map(list)
        // h2c by upgrade is not offered, and must not be passed on either.
        .any(|token| !token.eq_ignore_ascii_case(b"h2c"))
}

/// `Connection` may name fields that are for this connection only. It may not
/// name one that decides how the message is read or where it goes.
fn remove_named(headers: &mut Headers) -> Result<(), Refusal> {
    let named: Vec<Vec<u8>> =
        headers.get_all_known(Known::Connection).flat_map(list).map(<[u8]>::to_ascii_lowercase).collect();
    for name in named {
        match Known::from_name(&name) {
            Some(Known::Host | Known::ContentLength | Known::TransferEncoding | Known::Authorization) => {
                return Err(Refusal::bad("http1.connection_names_end_to_end_field"));
            }
            Some(Known::Upgrade | Known::Te) => {}
            _ => {
                headers.remove(&name);
            }
        }
    }
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

/// Digits and nothing else (RFC 9110 section 8.6); a list is refused even if its members agree.
fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    let invalid = Refusal::bad("http1.invalid_content_length");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(invalid);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(invalid)
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
