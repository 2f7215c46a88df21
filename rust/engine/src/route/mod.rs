//! From a request head to a route: pure functions over the snapshot.

pub(crate) mod grpc;
pub(crate) mod hash_policy;
pub(crate) mod matcher;
pub(crate) mod path;
pub(crate) mod rewrite;
