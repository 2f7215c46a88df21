//! Small parts without policy: time, randomness, generational slabs, timers, buffers.

pub mod buffer;
pub mod rng;
pub mod slab;
pub mod time;
pub mod timers;
