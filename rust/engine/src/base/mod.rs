//! Small parts without policy: time, randomness, hash functions, generational slabs, timers, buffers, token buckets.

pub mod buffer;
pub mod hash;
pub mod rng;
pub mod slab;
pub mod time;
pub mod timers;
pub mod token_bucket;
