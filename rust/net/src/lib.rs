//! The driver: sockets and the clock around the engine.
//!
//! Each worker is one thread with one epoll loop, one engine and its own
//! listening sockets (SO_REUSEPORT spreads connections over workers). Workers
//! share nothing on the path of a request; [`Shared`] is looked at once per
//! turn for a new snapshot.
//!
//! System calls of an HTTP/1 request on warm connections: one `epoll_wait`
//! shared by all requests of the turn, and for the request and the response
//! one `read` and one `write` each.

mod bound;
mod capture;
mod descriptors;
mod gather;
mod handover;
mod listen;
mod log;
mod memory;
mod shared;
mod sockets;
mod tap;
mod worker;

pub use bound::inherit;
pub use descriptors::{connections_for, raise_descriptor_limit};
pub use handover::{is_same_user, receive, send};
pub use log::LogWriter;
pub use memory::{give_back, keep_buffers_mapped};
pub use shared::{FilterHost, NoFilters, Shared, WorkerWaker};
pub use tap::{Tap, Watcher};
pub use worker::{Worker, WorkerOptions};
