//! The hash functions of consistent hashing. Which endpoint serves a key follows from them, so they are Envoy's to
//! the bit: fleets of both may stand beside each other.

use twox_hash::XxHash64;

/// xxHash64 with seed 0.
pub fn xx_hash64(octets: &[u8]) -> u64 {
    XxHash64::oneshot(0, octets)
}

/// xxHash64 with a seed.
pub fn xx_hash64_seeded(octets: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, octets)
}

/// MurmurHash2 in the 64-bit form and with the seed of libstdc++'s `std::hash`.
pub fn murmur_hash2(octets: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (octets.len() as u64).wrapping_mul(FACTOR);
    let mut words = octets.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        hash ^= mix(word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, octet| (word << 8) | u64::from(*octet));
        hash = hash.wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_values() {
        // The reference implementation's, for no octets and for the sentence of its documentation.
        assert_eq!(xx_hash64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xx_hash64(b"Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1);
        // `std::hash<std::string>` of libstdc++ on 64 bits.
        for (text, hash) in [
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("foo\nbar", 16_306_510_975_912_980_159),
            ("", 6_142_509_188_972_423_790),
        ] {
            assert_eq!(murmur_hash2(text.as_bytes()), hash, "{text:?}");
        }
    }
}
