//! What the engine tells about its work: counters, Istio's metrics, access logs.
//!
//! Each worker writes its own numbers and nobody else writes them, so that a
//! request costs plain loads and stores; the admin side sums over workers when
//! somebody asks ([`stats::Hub`], [`istio::Shard`]).

pub(crate) mod access_log;
pub mod date;
mod flags;
pub mod istio;
pub(crate) mod json;
mod labels;
mod log_filter;
mod notices;
mod record;
pub mod stats;
pub(crate) mod view;

use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_model::metadata::Metadata;
use pymesh_tls::PeerIdentity;

pub(crate) use flags::Details;
pub use flags::{details, Flags};
pub(crate) use istio::Counting;
pub(crate) use labels::Principals;
pub(crate) use record::{Connection, Recorder};

/// What is known of a downstream connection once its transport is ready.
#[derive(Debug)]
pub(crate) struct Facts {
    /// As whoever stands before us has told (PROXY protocol), or the peer of the socket.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    pub local: SocketAddr,
    pub server_name: Option<Box<str>>,
    pub peer: Option<PeerIdentity>,
    /// The URIs of the certificate that the peer was shown.
    pub own_uris: Vec<String>,
    pub tls_version: Option<&'static str>,
    pub tls_cipher: Option<&'static str>,
    /// A number for the peer's identity, equal for equal identities.
    pub peer_id: u64,
    /// A number that no other connection of the process has.
    pub id: u64,
    /// The name of the filter chain, which may be empty.
    pub chain: Arc<str>,
    /// What network filters have found out.
    pub metadata: Metadata,
}

/// What is known of a connection to an endpoint once its transport is ready.
#[derive(Debug)]
pub(crate) struct UpstreamFacts {
    /// A number that no other connection of the process has.
    pub id: u64,
    pub peer: Option<Arc<PeerIdentity>>,
    /// The URIs of the certificate that the peer was shown.
    pub own_uris: Vec<String>,
    pub tls_version: Option<&'static str>,
    pub tls_cipher: Option<&'static str>,
}

impl Facts {
    pub fn is_mutual_tls(&self) -> bool {
        self.peer.is_some()
    }

    pub fn principal(&self) -> Option<&str> {
        self.peer.as_ref()?.sans.uri.first().map(String::as_str)
    }
}
