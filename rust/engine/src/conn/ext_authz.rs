//! What is known of a connection, for whoever decides who may pass.

use std::borrow::Cow;

use super::Conn;
use crate::engine::Engine;
use crate::security::ext_authz::check::{Connection, Peer};
use crate::telemetry::Facts;

impl Engine {
    /// Both ends of a client's connection.
    pub(crate) fn describe_connection<'a>(
        &self,
        conn: &'a Conn,
        facts: &'a Facts,
        shows_certificate: bool,
        shows_tls_session: bool,
    ) -> Connection<'a> {
        let tls = conn.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.peer_certificate()).filter(|_| shows_certificate);
        let chain = conn.downstream().and_then(|down| down.chain.as_ref());
        let own = chain.and_then(|chain| chain.config.tls.as_ref()).and_then(|server| {
            pymesh_tls::presented_name(&server.certificates, &self.secrets, tls.and_then(|tls| tls.sni()))
        });
        let peer = facts.peer.as_ref().map(|peer| {
            let name = peer.sans.uri.first().or(peer.sans.dns.first());
            name.unwrap_or(&peer.subject).as_str()
        });
        Connection {
            source: Peer {
                address: facts.remote,
                service: Cow::default(),
                principal: Cow::Borrowed(peer.unwrap_or_default()),
                certificate: Cow::Borrowed(certificate.unwrap_or_default()),
            },
            destination: Peer {
                address: conn.original_dst().unwrap_or(facts.local),
                service: Cow::default(),
                principal: Cow::Owned(own.unwrap_or_default()),
                certificate: Cow::default(),
            },
            tls_session: shows_tls_session.then(|| facts.server_name.as_deref().unwrap_or_default()),
            metadata: &facts.metadata,
            request_metadata: None,
            told: &[],
        }
    }
}
