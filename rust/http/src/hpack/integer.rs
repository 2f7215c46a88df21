//! Integers with a prefix (RFC 7541 section 5.1).

use super::Error;

/// Beyond this nothing in HTTP/2 makes sense; keeps the arithmetic in 32 bits.
const MOST: u32 = 1 << 28;

/// Decodes an integer whose first octet, `first`, has been read already.
pub(super) fn decode(first: u8, prefix_bits: u32, rest: &mut &[u8]) -> Result<usize, Error> {
    let mask = 0xff_u8 >> (8 - prefix_bits);
    let mut value = u32::from(first & mask);
    if value < u32::from(mask) {
        return Ok(value as usize);
    }
    let mut shift = 0;
    loop {
        let (&octet, tail) = rest.split_first().ok_or(Error::Truncated)?;
        *rest = tail;
        // Four continuation octets reach 2^28; a fifth can only be an overflow
        // or a needlessly long zero.
        if shift > 21 {
            return Err(Error::IntegerOverflow);
        }
        value += u32::from(octet & 0x7f) << shift;
        if value > MOST {
            return Err(Error::IntegerOverflow);
        }
        if octet & 0x80 == 0 {
            return Ok(value as usize);
        }
        shift += 7;
    }
}

/// Appends `value`; `pattern` holds the bits above the prefix.
pub(super) fn encode(value: usize, prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = 0xff_u8 >> (8 - prefix_bits);
    if value < usize::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
