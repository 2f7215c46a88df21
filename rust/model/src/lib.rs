//! The intermediate representation between "what somebody configured" and
//! "what the hot path reads".
//!
//! Whatever configured the proxy (xDS, a bootstrap file, a simulator) ends in
//! one immutable [`Snapshot`]; the engine reads nothing else. The types say
//! what is supported: a field that the engine does not act on does not exist
//! here, so translation has nowhere to hide it and must refuse it by name.
//!
//! Everything is shared by `Arc`: a new snapshot that changes one cluster
//! shares all the others with the old one, and the engine keeps the runtime
//! state (pools, balancer cursors) of whatever is pointer-equal.
#![forbid(unsafe_code)]

pub mod balance;
pub mod chain_match;
pub mod circuit_breaker;
pub mod cluster;
pub mod endpoint;
pub mod filter;
pub mod format;
pub mod health_check;
pub mod http;
pub mod listener;
pub mod log_filter;
pub mod matcher;
pub mod metadata;
pub mod otlp;
pub mod outlier;
pub mod overload;
pub mod retry;
pub mod route;
pub mod route_index;
pub mod snapshot;
pub mod stats;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod tracing;

pub use snapshot::{Node, Snapshot};
