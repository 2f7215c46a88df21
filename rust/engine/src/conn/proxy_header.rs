//! The PROXY protocol towards endpoints: whom a connection speaks for.
//!
//! The header is the first thing on the wire, in front of TLS. Only a relay has
//! one client for as long as it lives, so only the TCP proxy connects to such
//! endpoints; connections of HTTP are shared by clients, and a header that
//! named one of them would be a lie about the others.

use pymesh_http::proxy_protocol::{self, Addresses, Version};
use pymesh_model::cluster::ProxyProtocolVersion;

use super::{Conn, RelayKey};
use crate::base::buffer::Buffer;
use crate::engine::Engine;

impl Engine {
    /// Puts the header in front of a connection that is open, if its endpoint wants one.
    pub(crate) fn speak_for_client(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream() else { return };
        let Some(cluster) = self.clusters.get(up.cluster) else { return };
        let Some(host) = cluster.hosts.get(up.host) else { return };
        let version = match cluster.socket_for(&host.endpoint).proxy_protocol {
            None => return,
            Some(ProxyProtocolVersion::V1) => Version::V1,
            Some(ProxyProtocolVersion::V2) => Version::V2,
        };
        let mut header = Buffer::default();
        let client = up.relay.and_then(|relay| self.addresses_of(relay));
        proxy_protocol::write(version, client.as_ref(), header.tail());
        conn.preamble = Some(Box::new(header));
        self.mark_dirty(conn);
    }

    fn addresses_of(&self, relay: RelayKey) -> Option<Addresses> {
        let facts = &self.relays.get(relay)?.facts;
        Some(Addresses { source: facts.remote, destination: facts.local })
    }
}
