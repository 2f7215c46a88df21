//! Which filter chain serves a connection, and which HTTP it speaks.
//!
//! Chains are matched as Envoy does: criterion by criterion in a fixed order
//! (destination port, destination prefix, server name, transport protocol,
//! application protocol, source prefix). At each step the most specific value
//! wins, and chains that do not have it are out; there is no going back.

use std::net::IpAddr;
use std::sync::Arc;

use pymesh_http::h2;
use pymesh_model::http::Codec;
use pymesh_model::listener::{FilterChainMatch, TransportProtocol};
use pymesh_tls::client_hello::{self, Inspect as Hello};
use pymesh_tls::Session;

use super::{Conn, Protocol};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::listener::{ChainRuntime, ListenerRuntime};
use crate::telemetry::{Facts as ConnFacts, Flags};

/// What is known about a connection when a chain is chosen.
#[derive(Default)]
pub(super) struct Facts {
    pub server_name: Option<String>,
    pub is_tls: bool,
    pub protocols: Vec<String>,
}

/// Longest that inspection looks at: a client hello with a large key share.
const INSPECT_LIMIT: usize = 16 * 1024 + 5;

impl Engine {
    /// Listener filters: look at what has arrived, then choose. What was looked
    /// at is given to whatever was chosen.
    pub(crate) fn inspect(&mut self, conn: &mut Conn) {
        let Some(listener) = conn.downstream().map(|down| down.listener.clone()) else { return };
        let wants = listener.config.inspect;
        let bytes = conn.input.as_slice();
        let mut facts = Facts::default();
        if wants.tls {
            match client_hello::inspect(bytes) {
                Hello::NeedMore if bytes.len() < INSPECT_LIMIT => return,
                Hello::NeedMore | Hello::NotTls => {}
                Hello::Hello { sni, alpn } => {
                    facts.is_tls = true;
                    facts.server_name = sni;
                    facts.protocols = alpn.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
                }
            }
        }
        if wants.http && !facts.is_tls {
            match sniff_http(bytes) {
                Sniff::NeedMore => return,
                Sniff::Http(protocol) => facts.protocols = vec![protocol.to_owned()],
                Sniff::NotHttp => {}
            }
        }
        self.choose_chain(conn, &listener, &facts);
    }

    /// Inspection took too long: go on with what is known, or close.
    pub(crate) fn on_inspect_timeout(&mut self, conn: &mut Conn) {
        let Some(listener) = conn.downstream().map(|down| down.listener.clone()) else { return };
        listener.stats.downstream_pre_cx_timeout.inc();
        match listener.config.continue_on_inspect_timeout {
            true => self.choose_chain(conn, &listener, &Facts::default()),
            false => self.close_now(conn),
        }
    }

    fn choose_chain(&mut self, conn: &mut Conn, listener: &ListenerRuntime, facts: &Facts) {
        let chain = find_chain(&listener.chains, conn.local, conn.remote.ip(), facts)
            .or(listener.default_chain.as_ref())
            .cloned();
        let Some(chain) = chain else {
            listener.stats.no_filter_chain_match.inc();
            return self.close_now(conn);
        };
        let tls = chain.tls.clone();
        let handshake_limit = chain.config.transport_connect_timeout;
        if let Some(down) = conn.downstream_mut() {
            down.server_name = facts.server_name.as_deref().map(Into::into);
            down.chain = Some(chain);
        }
        match tls.map(Session::server) {
            None => self.start_network_filter(conn),
            Some(Err(error)) => return self.fail_conn(conn, Flags::NONE, &error.to_string()),
            Some(Ok(session)) => {
                conn.tls = Some(Box::new(session));
                conn.protocol = Protocol::Opening;
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
        if let Some(tcp) = &chain.tcp {
            return self.start_tcp(conn, tcp);
        }
        let Some(http) = &chain.http else { return };
        http.stats.downstream_cx_total.inc();
        http.stats.downstream_cx_active.inc();
        let facts = self.facts_of(conn);
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
    fn facts_of(&mut self, conn: &Conn) -> ConnFacts {
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
        ConnFacts {
            remote: conn.remote,
            local: conn.local,
            server_name: match tls.and_then(|tls| tls.sni()) {
                Some(name) => Some(name.into()),
                None => conn.downstream().and_then(|down| down.server_name.clone()),
            },
            peer_id: self.telemetry.peer_id(principal),
            peer,
            own_uris,
            tls_version: tls.and_then(|tls| tls.version()),
            tls_cipher: tls.and_then(|tls| tls.cipher()),
        }
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

/// How well a chain's match fits a connection: `None` not at all, 0 without asking.
type Criterion<'a> = dyn Fn(&FilterChainMatch) -> Option<u32> + 'a;

enum Sniff {
    NeedMore,
    Http(&'static str),
    NotHttp,
}

/// Looks for a request line or the HTTP/2 preface.
fn sniff_http(bytes: &[u8]) -> Sniff {
    let known = bytes.len().min(h2::PREFACE.len());
    if bytes.get(..known) == h2::PREFACE.get(..known) {
        return if bytes.len() < h2::PREFACE.len() { Sniff::NeedMore } else { Sniff::Http("h2c") };
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = bytes.get(..line_end.unwrap_or(bytes.len())).unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = line.iter().take_while(|byte| is_token(byte)).count();
    match (line.get(method), line_end) {
        (Some(b' '), Some(_)) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match (line.ends_with(b" HTTP/1.1"), line.ends_with(b" HTTP/1.0")) {
                (true, _) => Sniff::Http("http/1.1"),
                (_, true) => Sniff::Http("http/1.0"),
                _ => Sniff::NotHttp,
            }
        }
        (Some(b' '), None) if method > 0 && bytes.len() < INSPECT_LIMIT => Sniff::NeedMore,
        (None, None) if method < 32 => Sniff::NeedMore,
        _ => Sniff::NotHttp,
    }
}

/// Narrows `chains` by each criterion in turn.
pub(super) fn find_chain<'a>(
    chains: &'a [Arc<ChainRuntime>],
    destination: std::net::SocketAddr,
    source: IpAddr,
    facts: &Facts,
) -> Option<&'a Arc<ChainRuntime>> {
    // The common case: one chain without criteria.
    if let [only] = chains {
        if only.config.matches == FilterChainMatch::default() {
            return Some(only);
        }
    }
    let mut left: Vec<&Arc<ChainRuntime>> = chains.iter().collect();
    let criteria: [&Criterion<'_>; 6] = [
        &|m| match m.destination_port {
            None => Some(0),
            Some(port) => (port == destination.port()).then_some(1),
        },
        &|m| best_prefix(&m.destination_prefixes, destination.ip()),
        &|m| server_name_score(&m.server_names, facts.server_name.as_deref()),
        &|m| match m.transport_protocol {
            None => Some(0),
            Some(TransportProtocol::Tls) => facts.is_tls.then_some(1),
            Some(TransportProtocol::RawBuffer) => (!facts.is_tls).then_some(1),
        },
        &|m| match m.application_protocols.is_empty() {
            true => Some(0),
            false => facts.protocols.iter().any(|p| m.application_protocols.iter().any(|a| **a == **p)).then_some(1),
        },
        &|m| best_prefix(&m.source_prefixes, source),
    ];
    for score in criteria {
        let best = left.iter().filter_map(|chain| score(&chain.config.matches)).max()?;
        left.retain(|chain| score(&chain.config.matches) == Some(best));
    }
    left.first().copied()
}

/// 0: no criterion; n + 1: matched by a prefix of n bits.
fn best_prefix(prefixes: &[pymesh_model::listener::Cidr], ip: IpAddr) -> Option<u32> {
    if prefixes.is_empty() {
        return Some(0);
    }
    prefixes.iter().filter(|p| p.contains(ip)).map(|p| u32::from(p.bits) + 1).max()
}

/// 0: no criterion; longer names and exact names score higher.
fn server_name_score(names: &[Box<str>], sni: Option<&str>) -> Option<u32> {
    if names.is_empty() {
        return Some(0);
    }
    let sni = sni?.to_ascii_lowercase();
    names
        .iter()
        .filter_map(|name| match name.strip_prefix('*') {
            // `*.example.com` matches `a.example.com`, not `example.com`.
            Some(suffix) => (sni.len() > suffix.len() && sni.ends_with(suffix)).then_some(suffix.len() as u32),
            None => (**name == *sni).then_some(u32::MAX),
        })
        .max()
}
