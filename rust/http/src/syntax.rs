//! What fields are written with (RFC 9110 section 5), in either version.

/// `tchar` of RFC 9110 section 5.6.2.
pub fn is_token_octet(octet: u8) -> bool {
    // As ranges, which cost a comparison or two, where a search in a list of the signs is a call.
    matches!(octet, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// `token` of RFC 9110 section 5.6.2: a method, the name of a field.
pub fn is_token(octets: &[u8]) -> bool {
    !octets.is_empty() && octets.iter().all(|&octet| is_token_octet(octet))
}

/// Octets that no field value may have (RFC 9110 section 5.5): among them those
/// that end a line, and with them obsolete line folding.
pub fn has_control_octets(value: &[u8]) -> bool {
    value.iter().fold(false, |found, octet| found | matches!(octet, 0..=8 | 10..=31 | 127))
}
