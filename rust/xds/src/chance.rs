//! Random numbers for jitter, for the drivers only. Nothing secret hangs on them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// SplitMix64 with a seed from the system.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn from_system() -> Chance {
        Chance(RandomState::new().build_hasher().finish())
    }

    /// In `0.0..1.0`.
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
