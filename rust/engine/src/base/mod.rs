//! Small parts without policy: time, randomness, hash functions, generational slabs, timers, buffers, token buckets, and
//! what protobuf and gRPC are on the wire.

pub mod buffer;
pub mod grpc;
pub mod hash;
pub mod protobuf;
pub mod rng;
pub mod slab;
pub mod time;
pub mod timers;
pub mod token_bucket;
