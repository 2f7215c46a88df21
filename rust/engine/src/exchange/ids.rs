//! Request ids.

use crate::base::rng::Rng;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A random UUID (RFC 9562 section 5.4) in text form.
pub(super) fn request_id(rng: &mut Rng) -> [u8; 36] {
    let bits = u128::from(rng.bits()) << 64 | u128::from(rng.bits());
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        shift -= 4;
        let nibble = (bits >> shift) as usize & 0xf;
        *byte = HEX.get(nibble).copied().unwrap_or(b'0');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_version_4_uuid() {
        let id = request_id(&mut Rng::new(1));
        let text = std::str::from_utf8(&id).unwrap();
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&text.as_bytes()[19]));
        assert_ne!(id, request_id(&mut Rng::new(2)));
    }
}
