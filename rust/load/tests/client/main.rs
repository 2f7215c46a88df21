//! The client under virtual time: what it sends, what it makes of answers and of their absence, and what it counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod chaos;
mod http1;
mod http2;
mod loops;
mod world;
