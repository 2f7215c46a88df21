//! One TLS connection as a machine: octets in, octets out, nothing else.
//!
//! rustls runs the protocol; a `Session` gives it the shape that the engine's
//! connections have. Records to be sent stand in [`Session::output`], and so
//! does the alert after an error: send what is there, then close.

use std::fmt;
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::sync::Arc;

use pymesh_model::tls::SecretName;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use webpki::KeyUsage;

use crate::certificate::sha256;
use crate::verify::leads_to;
use crate::{PeerIdentity, SecretStore, TimeProvider, TlsError};

/// The sans-io state of one connection. See the module's documentation.
pub struct Session {
    connection: Connection,
    /// Records to be sent; those before `sent` have been.
    output: Vec<u8>,
    sent: usize,
    /// Octets of plaintext, in and out.
    carried: (u64, u64),
    peer: Option<Arc<PeerIdentity>>,
    /// The roots by which the peer is judged, and when it was.
    trust: Option<SecretName>,
    judged_at: Option<UnixTime>,
    clock: Arc<dyn TimeProvider>,
    peer_closed: bool,
    closed: bool,
}

/// An output buffer that grew past this is given back once it is empty.
const OUTPUT_KEPT: usize = 32 * 1024;

impl Session {
    /// Waits for a client's hello.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let clock = config.time_provider.clone();
        Ok(Session::new(ServerConnection::new(config)?.into(), clock))
    }

    /// Starts a handshake; the hello stands in the output.
    ///
    /// `server_name` is sent as SNI, and is what a certificate must be valid for
    /// where the configuration says so; without it that is `address`.
    ///
    /// # Errors
    /// If `server_name` is not a host name.
    pub fn client(config: Arc<ClientConfig>, server_name: Option<&str>, address: IpAddr) -> Result<Self, TlsError> {
        let name = match server_name {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| TlsError::Config(format!("`{name}` cannot be sent as SNI: it is not a host name")))?,
            None => ServerName::IpAddress(address.into()),
        };
        let clock = config.time_provider.clone();
        let mut session = Session::new(ClientConnection::new(config, name)?.into(), clock);
        session.flush();
        Ok(session)
    }

    fn new(mut connection: Connection, clock: Arc<dyn TimeProvider>) -> Self {
        // Everything that rustls has for the peer moves to `output` at once;
        // the engine bounds that by what it hands to `send`.
        connection.set_buffer_limit(None);
        Session {
            connection,
            output: Vec::new(),
            sent: 0,
            carried: (0, 0),
            peer: None,
            trust: None,
            judged_at: None,
            clock,
            peer_closed: false,
            closed: false,
        }
    }

    /// Takes in octets from the wire, all of them; appends what they decrypt to.
    ///
    /// # Errors
    /// The session has failed for good. An alert for the peer may stand in the output.
    pub fn receive(&mut self, mut wire: &[u8], plaintext: &mut Vec<u8>) -> Result<(), TlsError> {
        let was_handshaking = self.connection.is_handshaking();
        while !wire.is_empty() && !self.peer_closed {
            let result = self.receive_some(&mut wire, plaintext);
            self.flush();
            result?;
        }
        if was_handshaking && !self.connection.is_handshaking() {
            self.read_peer()?;
        }
        Ok(())
    }

    fn receive_some(&mut self, wire: &mut &[u8], plaintext: &mut Vec<u8>) -> Result<(), TlsError> {
        self.connection.read_tls(wire).map_err(|error| TlsError::Protocol(error.to_string()))?;
        let state = self.connection.process_new_packets()?;
        self.peer_closed = state.peer_has_closed();
        let mut left = state.plaintext_bytes_to_read();
        let mut reader = self.connection.reader();
        while left > 0 {
            let chunk = reader.fill_buf().map_err(|error| TlsError::Protocol(error.to_string()))?;
            let length = chunk.len();
            if length == 0 {
                break;
            }
            plaintext.extend_from_slice(chunk);
            self.carried.0 = self.carried.0.wrapping_add(length as u64);
            reader.consume(length);
            left = left.saturating_sub(length);
        }
        Ok(())
    }

    /// Encrypts `plaintext` into the output: one record for each 16 KiB.
    ///
    /// Call it once the handshake is done; what is handed in earlier is kept
    /// until then. Nothing is sent after [`Session::close`], nor by a session that has failed.
    pub fn send(&mut self, plaintext: &[u8]) {
        if self.closed {
            return;
        }
        // Without a limit rustls takes everything, unless it has failed.
        if let Ok(taken) = self.connection.writer().write(plaintext) {
            debug_assert_eq!(taken, plaintext.len());
            self.carried.1 = self.carried.1.wrapping_add(plaintext.len() as u64);
            self.flush();
        }
    }

    /// Says close_notify. Nothing can be sent after it; receiving goes on.
    pub fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.connection.send_close_notify();
            self.flush();
        }
    }

    /// Records that wait to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// The first `count` octets of the output have been sent.
    pub fn advance_output(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > OUTPUT_KEPT {
                self.output = Vec::new();
            }
        }
    }

    /// True until application data can go both ways.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Octets of plaintext that have come in, and that were to go out.
    pub fn carried(&self) -> (u64, u64) {
        self.carried
    }

    /// The handshake went on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// The name that the client asked for; only a server knows it.
    pub fn sni(&self) -> Option<&str> {
        match &self.connection {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// `TLSv1.2` or `TLSv1.3`, as Envoy writes them.
    pub fn version(&self) -> Option<&'static str> {
        match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The cipher suite by its IANA name.
    pub fn cipher(&self) -> Option<&'static str> {
        self.connection.negotiated_cipher_suite()?.suite().as_str().map(iana_name)
    }

    /// Who the peer is, after the handshake. `None` if it showed no certificate.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_deref()
    }

    /// The same, to be kept beyond the connection.
    pub fn shared_peer(&self) -> Option<Arc<PeerIdentity>> {
        self.peer.clone()
    }

    /// The certificate itself, in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.connection.peer_certificates()?.first().map(|leaf| leaf.as_ref())
    }

    /// What tells this peer's judgement from another's: the bundle, and the certificate that it has shown.
    pub fn judgement(&self) -> Option<(SecretName, [u8; 32])> {
        let leaf = self.connection.peer_certificates()?.first()?;
        Some((self.trust.clone()?, sha256(leaf)))
    }

    /// Says which bundle judges the peer, for [`Session::is_trusted`].
    pub fn judged_by(&mut self, trust: Option<SecretName>) {
        self.trust = trust;
    }

    /// Whether the peer's chain leads to a root that is still trusted. That its certificate may have expired since the
    /// handshake does not matter: connections outlive their certificates, but not their roots.
    ///
    /// True if the peer showed no certificate or is not judged, and where the bundle itself is gone: then nobody refers
    /// to it any more, and whatever the connection belongs to is being drained.
    pub fn is_trusted(&self, store: &SecretStore) -> bool {
        let Some(chain) = self.connection.peer_certificates() else { return true };
        // One that has shown its certificate and not finished its handshake was judged a moment ago.
        let Some(at) = self.judged_at.or_else(|| self.clock.current_time()) else { return false };
        let Some(bundle) = self.trust.as_ref().and_then(|trust| store.trust(trust)) else { return true };
        let purpose = match &self.connection {
            Connection::Server(_) => KeyUsage::client_auth(),
            Connection::Client(_) => KeyUsage::server_auth(),
        };
        leads_to(store.provider(), &bundle.anchors, chain, purpose, at)
    }

    /// The peer said close_notify: it sends no more. An end of the transport
    /// without it is a truncation.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    fn read_peer(&mut self) -> Result<(), TlsError> {
        if let Some([leaf, ..]) = self.connection.peer_certificates() {
            let peer = PeerIdentity::from_der(leaf)
                .map_err(|what| TlsError::Protocol(format!("the peer's certificate cannot be read: {what}")))?;
            self.peer = Some(Arc::new(peer));
            self.judged_at = self.clock.current_time();
        }
        Ok(())
    }

    fn flush(&mut self) {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.output) {
                Ok(written) if written > 0 => {}
                _ => break,
            }
        }
    }
}

/// rustls writes `TLS13_AES_128_GCM_SHA256`; the registry and Envoy omit the `13`.
fn iana_name(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("handshaking", &self.is_handshaking())
            .field("output", &self.output().len())
            .field("peer", &self.peer)
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
