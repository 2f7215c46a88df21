//! TLS without sockets and without a clock.
//!
//! * [`SecretStore`] holds keys, chains and trust bundles by name. It is shared
//!   by all worker threads and swapped atomically.
//! * [`server_config`] and [`client_config`] are built once per filter chain or
//!   cluster. They hold names, not keys: each handshake looks them up, so a
//!   rotation changes neither a configuration nor a connection.
//! * [`verify`](Refusal) judges peers: X.509-SVIDs by SPIFFE's rules, others by
//!   those of RFC 5280. Whoever is refused is refused for one [`Reason`].
//! * [`Session`] is one connection: wire octets in, plaintext out, and back.
//! * [`client_hello`] reads SNI and ALPN before any of that is chosen.
//! * [`csr`] and [`rotation`] make keys and decide when to ask for certificates.
//!
//! Invariants: nothing resumes where clients show certificates (a ticket would skip
//! policy that is newer than it), nothing below TLS 1.2 is spoken, and key
//! material is never printed.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod client_hello;
mod config;
pub mod csr;
mod error;
mod resolve;
pub mod rotation;
mod secret;
mod session;
pub mod spiffe;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verify;

pub use certificate::{PeerIdentity, SubjectAltNames};
pub use config::{client_config, server_config};
pub use error::{Class, Reason, Refusal, TlsError};
pub use resolve::{presented_name, presented_uris};
pub use secret::{CertificateDescription, PrivateKey, SecretError, SecretProblem, Validity};
pub use session::Session;
pub use store::{SecretDescription, SecretStore};

/// Where certificate times are compared with the present; a virtual clock in
/// tests and in the simulator.
pub use rustls::time_provider::TimeProvider;
