//! Fuzz targets: what must hold whatever a peer or a control plane sends.
//!
//! A target is a function of some octets that panics if a promise is broken. It
//! is run in two ways: by libFuzzer (`make fuzz`, crate `libfuzzer/`), which
//! looks for octets that break one, and by `cargo test` over `corpus/` (inputs
//! that reach different code) and `regressions/` (inputs that once broke one).
//!
//! What is looked for beside panics, hangs and memory:
//! * **judges**: [`strict`] reads our HTTP/1 and [`frames`] our HTTP/2 as the
//!   most careful recipient would, `fluke-hpack` our HPACK, `serde_json` our logs,
//!   `prost` our protobuf; where nobody else can be asked, the specification is read a second time;
//! * **models**: what the target has put together itself, it knows the answer to;
//! * **invariants**: cutting input elsewhere changes nothing, canonical forms
//!   are canonical, what is written is read back, nothing is left over.

// An oracle says what it has to say by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]
#![forbid(unsafe_code)]

mod engine;
mod format;
mod frames;
mod grpc_web;
mod hpack;
mod http1;
mod http2;
mod input;
mod path;
mod propagated;
mod protobuf;
mod proxy_protocol;
mod strict;
mod tls;
mod token;
mod xds;

/// A target's body.
pub type Run = fn(&[u8]);

/// Every target by its name, which is also that of its folders and its binary.
pub const TARGETS: &[(&str, Run)] = &[
    ("access_log", format::access_log),
    ("bootstrap", xds::bootstrap),
    ("certificate", tls::certificate),
    ("client_hello", tls::client_hello),
    ("engine", engine::run),
    ("grpc_web", grpc_web::run),
    ("hpack_decode", hpack::decode),
    ("hpack_round_trip", hpack::round_trip),
    ("http1_body", http1::body),
    ("http1_request", http1::request),
    ("http1_response", http1::response),
    ("http2_client", http2::client),
    ("http2_frames", http2::frames),
    ("http2_server", http2::server),
    ("huffman", hpack::huffman),
    ("jwks", token::jwks),
    ("jwt", token::jwt),
    ("path", path::run),
    ("propagated", propagated::run),
    ("protobuf", protobuf::run),
    ("proxy_protocol", proxy_protocol::run),
    ("rewrite", format::rewrite),
    ("secret", tls::secret),
    ("spiffe_id", tls::spiffe_id),
    ("tls_session", tls::session),
    ("xds", xds::response),
];

/// The body of the target with this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Run {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("there is no target `{name}`")).1
}
