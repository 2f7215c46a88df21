//! From a chosen filter chain to whoever speaks on the connection: TLS, then HTTP or the TCP proxy.

use std::sync::Arc;

use pymesh_http::h2;
use pymesh_model::http::Codec;
use pymesh_model::listener::Connection;
use pymesh_model::metadata::Metadata;
use pymesh_tls::Session;

use super::{Conn, Protocol};
use crate::base::time::Time;
use crate::decisions::Decision;
use crate::engine::Engine;
use crate::listener::ChainRuntime;
use crate::security::connection::{ConnectionFilter, Refusal};
use crate::security::ext_authz;
use crate::security::rbac::Subject;
use crate::telemetry::{self, Facts, Flags};

impl Engine {
    /// The listener filters are done: what they looked at is given to whatever is chosen.
    pub(super) fn choose_chain(&mut self, conn: &mut Conn) {
        if self.hand_off(conn) {
            return;
        }
        let (key, remote, local) = (conn.key, conn.remote, conn.local);
        let Some(down) = conn.downstream_mut() else { return };
        let listener = down.listener.clone();
        let inspection = down.inspection.take().unwrap_or_default();
        let chain = listener.find_chain(&Connection {
            destination: local,
            source: remote,
            direct_source: down.direct_remote.ip(),
            server_name: inspection.server_name.as_deref().unwrap_or_default(),
            transport: inspection.transport,
            protocols: &inspection.protocols,
        });
        down.server_name = inspection.server_name;
        self.decisions.tell(|| Decision::Chain {
            conn: key,
            listener: listener.config.name.clone(),
            tls: chain.map(|chain| chain.tls.is_some()),
        });
        let Some(chain) = chain.cloned() else {
            listener.stats.no_filter_chain_match.inc();
            return self.close_now(conn);
        };
        let tls = chain.tls.clone();
        let trust = chain.config.tls.as_ref().and_then(|tls| tls.validation.as_ref()).map(|found| found.trust.clone());
        let handshake_limit = chain.config.transport_connect_timeout;
        down.chain = Some(chain);
        listener.stats.downstream_pre_cx_active.dec();
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_cx_active.inc();
        conn.protocol = Protocol::Opening;
        conn.deadline = Time::NEVER;
        match tls.map(Session::server) {
            None => self.start_network_filter(conn),
            Some(Err(error)) => return self.fail_conn(conn, Flags::NONE, &error.to_string()),
            Some(Ok(mut session)) => {
                session.judged_by(trust);
                conn.tls = Some(Box::new(session));
                self.set_deadline(conn, self.now.after_limit(handshake_limit));
            }
        }
        let inspected = std::mem::take(&mut conn.input);
        if !inspected.is_empty() {
            self.receive_wire(conn, inspected.as_slice());
        }
    }

    /// The transport is ready: hand the connection to its network filter.
    pub(super) fn start_network_filter(&mut self, conn: &mut Conn) {
        let Some(chain) = conn.downstream().and_then(|down| down.chain.clone()) else { return };
        let facts = self.facts_of(conn);
        self.pass_policies(conn, &chain, facts, 0);
    }

    /// The policies from the one at `from` on have their turn; behind the last one the connection is spoken on.
    pub(super) fn pass_policies(&mut self, conn: &mut Conn, chain: &ChainRuntime, mut facts: Facts, from: usize) {
        let destination = conn.original_dst().unwrap_or(conn.local);
        let mut refusal = None;
        for (index, filter) in chain.policies.iter().enumerate().skip(from) {
            match filter {
                ConnectionFilter::Policy(policy) => {
                    if let Some(said) = policy.shadow(&Subject::connection(&facts, destination), &mut self.decisions) {
                        facts.metadata.add(&"envoy.filters.network.rbac".into(), &said);
                    }
                    let said = policy.refusal(&Subject::connection(&facts, destination), &mut self.decisions);
                    refusal = said.map(Refusal::Policy);
                }
                ConnectionFilter::Service(service) if !service.concerns(&facts) => {}
                ConnectionFilter::Service(service) => match self.ask_about(conn, &facts, service) {
                    Some(question) => return self.await_service(conn, facts, service, index, question),
                    None => refusal = service.refusal(&ext_authz::Decision::failed()),
                },
            }
            if refusal.is_some() {
                break;
            }
        }
        self.start_speaking(conn, chain, facts, refusal);
    }

    pub(super) fn start_speaking(
        &mut self,
        conn: &mut Conn,
        chain: &ChainRuntime,
        facts: Facts,
        refusal: Option<Refusal>,
    ) {
        if let Some(tcp) = &chain.tcp {
            return self.start_tcp(conn, tcp, facts, refusal);
        }
        if refusal.is_some() {
            return self.close_now(conn);
        }
        let Some(http) = &chain.http else { return };
        http.stats.downstream_cx_total.inc();
        http.stats.downstream_cx_active.inc();
        if let Some(down) = conn.downstream_mut() {
            down.facts = Some(Arc::new(facts));
        }
        if conn.tls.is_some() {
            http.stats.downstream_cx_ssl_total.inc();
        }
        // A client that negotiated nothing is looked at, as without TLS.
        let alpn_is_h2 = conn.tls.as_ref().and_then(|tls| tls.alpn()).map(|alpn| alpn == b"h2");
        match (http.config.codec, alpn_is_h2) {
            (Codec::Http2, _) | (Codec::Auto, Some(true)) => self.speak_http_server(conn, true),
            (Codec::Http1, _) | (Codec::Auto, Some(false)) => self.speak_http_server(conn, false),
            (Codec::Auto, None) => {
                conn.protocol = Protocol::Detecting;
                let limit = self.now.after_limit(http.config.timeouts.request_headers);
                let drain = if conn.side.is_draining() { self.drain_limit(conn) } else { Time::NEVER };
                self.set_deadline(conn, limit.min(drain));
            }
        }
    }

    /// What logs, metrics and policies ask of a connection, gathered once.
    pub(super) fn facts_of(&mut self, conn: &Conn) -> Facts {
        let tls = conn.tls.as_ref();
        let peer = tls.and_then(|tls| tls.peer()).cloned();
        let chain = conn.downstream().and_then(|down| down.chain.as_ref());
        let own_uris = match (chain.and_then(|chain| chain.config.tls.as_ref()), &peer) {
            (Some(server), Some(_)) => {
                pymesh_tls::presented_uris(&server.certificates, &self.secrets, tls.and_then(|tls| tls.sni()))
            }
            _ => Vec::new(),
        };
        let principal = peer.as_ref().and_then(|peer| peer.sans.uri.first()).map(String::as_str);
        Facts {
            remote: conn.remote,
            direct_remote: conn.downstream().map_or(conn.remote, |down| down.direct_remote),
            local: conn.local,
            server_name: match tls.and_then(|tls| tls.sni()) {
                Some(name) => Some(name.into()),
                None => conn.downstream().and_then(|down| down.server_name.clone()),
            },
            peer_id: self.telemetry.peer_id(principal),
            peer,
            own_uris,
            id: conn.id,
            chain: chain.map(|chain| chain.config.name.clone()).unwrap_or_default(),
            metadata: Metadata::default(),
            tls_version: tls.and_then(|tls| tls.version()),
            tls_cipher: tls.and_then(|tls| tls.cipher()),
        }
    }

    /// The connection is over: the listener's own access log is about connections, whatever they carried.
    pub(super) fn log_connection(&mut self, conn: &Conn) {
        let Some(down) = conn.downstream().filter(|down| !down.listener.config.access_logs.is_empty()) else { return };
        let facts = match &down.facts {
            Some(facts) => facts.clone(),
            None => Arc::new(self.facts_of(conn)),
        };
        let (received, sent) = conn.carried();
        let record = telemetry::Connection {
            logs: &down.listener.config.access_logs,
            facts: &facts,
            flags: Flags::NONE,
            upstream: None,
            upstream_local: None,
            upstream_facts: None,
            event: "NotSet",
            attempts: 0,
            cluster: None,
            endpoint: None,
            received,
            sent,
            started: conn.opened,
            ended: self.now,
            downstream_failure: down.transport_failure.as_deref(),
            transport_failure: None,
            details: "",
            termination: None,
        };
        self.telemetry.connection(&record, &mut self.rng);
    }

    /// HTTP/2 with prior knowledge announces itself; anything else is HTTP/1.
    /// False while too little has arrived to tell.
    pub(super) fn detect_http(&mut self, conn: &mut Conn, bytes: &[u8]) -> bool {
        let known = bytes.len().min(h2::PREFACE.len());
        let is_prefix = bytes.get(..known) == h2::PREFACE.get(..known);
        if is_prefix && bytes.len() < h2::PREFACE.len() {
            return false;
        }
        self.speak_http_server(conn, is_prefix);
        true
    }
}
