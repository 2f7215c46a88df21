//! Connections, downstream and upstream.
//!
//! A [`Conn`] turns wire bytes into plaintext (through TLS or not), plaintext
//! into HTTP events or relayed octets, and events into changes of
//! [`Exchange`](crate::exchange::Exchange)s. It never calls another
//! connection's codec while it is being fed, with one exception that pays for
//! itself: body octets go straight to the other side's codec when nothing
//! waits in between.
//!
//! ```text
//! downstream:  Inspecting -> Detecting -> Http1Server | Http2Server
//!                        \-> Tcp          Http1Server -> Tunnel
//! upstream:    Opening    -> Http1Client | Http2Client | Tcp | Tunnel
//!                            Http1Client -> Tunnel
//! any:         -> Closing (output is flushed, input is dropped)
//! ```

mod chain;
mod client;
mod close;
mod distrust;
mod drain;
mod ext_authz;
mod feed;
mod guard;
mod listener_filters;
mod pool;
mod proxy_header;
mod server;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_http::{h1, h2, Headers, Method};
use pymesh_tls::Session;

use crate::base::buffer::Buffer;
use crate::base::slab::Key;
use crate::base::time::Time;
use crate::cluster::{ClusterKey, HostKey, PoolKey};
use crate::exchange::{ExchangeKey, TunnelEnd};
use crate::http_filter::Buckets;
use crate::listener::{ChainRuntime, HttpRuntime, ListenerRuntime};
use crate::overload::Slot;
use crate::telemetry::{Facts, UpstreamFacts};

pub(crate) use tcp::{Relay, RelayKey};

/// Names a connection, for the engine and its driver.
pub type ConnKey = Key<Box<Conn>>;

/// One socket's worth of state.
pub struct Conn {
    pub(crate) key: ConnKey,
    /// A number that no other connection of the process has, for logs.
    pub(crate) id: u64,
    pub(crate) side: Side,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<Box<Session>>,
    pub(crate) protocol: Protocol,
    /// What goes out in front of everything, TLS included: a PROXY protocol header.
    pub(crate) preamble: Option<Box<Buffer>>,
    /// Plaintext that could not be processed yet.
    pub(crate) input: Buffer,
    /// Plaintext to send, except HTTP/2's, which waits in its codec.
    pub(crate) output: Buffer,
    /// The peer will send nothing more.
    pub(crate) peer_closed: bool,
    /// The driver was asked to close our half.
    pub(crate) is_shut: bool,
    /// Processing stopped because something further on is full.
    pub(crate) paused: bool,
    /// Already in the engine's list of connections with output.
    pub(crate) is_dirty: bool,
    /// Already in the engine's list of connections to be processed again.
    pub(crate) is_rescanned: bool,
    pub(crate) buffer_limit: usize,
    pub(crate) opened: Time,
    /// Since when there is nothing to do but to write what is left.
    pub(crate) idle_since: Time,
    pub(crate) deadline: Time,
    /// Exchanges that wait for room in this connection's output.
    pub(crate) waiting_for_room: Vec<ExchangeKey>,
    /// Exchanges that wait for HTTP/2's windows, its connection's or their stream's.
    pub(crate) waiting_for_window: Vec<ExchangeKey>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// Who is at the other end.
pub(crate) enum Side {
    Down(Downstream),
    Up(Upstream),
}

/// What is known of a client's connection.
pub(crate) struct Downstream {
    pub listener: Arc<ListenerRuntime>,
    /// The local address is the original destination: what the client wanted, not where it was accepted.
    pub is_restored: bool,
    /// After inspection the listener at the original destination takes over (see [`crate::capture`]).
    pub hands_off: bool,
    /// Set when a filter chain was chosen.
    pub chain: Option<Arc<ChainRuntime>>,
    /// The peer of the socket, whoever it speaks for.
    pub direct_remote: SocketAddr,
    /// What the listener filters have found; none where there are none, or once a chain was chosen.
    pub inspection: Option<Box<listener_filters::Inspection>>,
    /// The server name that they found, for logs.
    pub server_name: Option<Box<str>>,
    /// Set when the transport is ready.
    pub facts: Option<Arc<Facts>>,
    /// Why TLS came to its end.
    pub transport_failure: Option<Box<str>>,
    pub requests: u32,
    /// Rate limits of its own.
    pub limits: Vec<Arc<Buckets>>,
    /// HTTP/2: when the head that is being read has to be complete.
    pub head_due: Time,
    /// Its place among the connections that there may be.
    pub _slot: Slot,
    /// No new requests: `Connection: close`, GOAWAY.
    pub draining: bool,
    /// When it is cut off, since its listener or the trust in its peer is gone.
    pub ends_at: Time,
}

/// What is known of a connection to an endpoint.
pub(crate) struct Upstream {
    pub cluster: ClusterKey,
    pub host: HostKey,
    pub pool: PoolKey,
    /// Its cluster's when it was opened.
    pub generation: u32,
    /// It carries a TCP relay and is in no pool.
    pub relay: Option<RelayKey>,
    pub requests: u32,
    /// It takes no more requests.
    pub draining: bool,
    /// When it is too old to take any (`max_connection_duration`).
    pub expires: Time,
    /// When it is cut off, since its peer is not trusted any more.
    pub ends_at: Time,
    /// Set when the transport is ready.
    pub facts: Option<Arc<UpstreamFacts>>,
}

/// What is spoken.
pub(crate) enum Protocol {
    /// Downstream: listener filters look at octets before a filter chain is chosen.
    Inspecting,
    /// Downstream: an HTTP chain that must see which version comes.
    Detecting,
    /// Downstream: a service is asked whether it may pass.
    Judged(Box<ext_authz::Judged>),
    Http1Server(Http1Server),
    Http2Server(Box<h2::Connection>),
    /// Upstream: TCP or TLS is being set up.
    Opening,
    Http1Client(Http1Client),
    Http2Client(Box<h2::Connection>),
    Tcp(tcp::TcpEnd),
    /// HTTP is over: what comes and goes is the body of an exchange that is a tunnel.
    Tunnel(TunnelEnd),
    /// Output is flushed, input is dropped, then the socket is closed.
    Closing {
        lingering: bool,
    },
    /// Placeholder while the codec is lent to the function that feeds it.
    Lent,
}

/// HTTP/1 towards a client.
#[derive(Default)]
pub(crate) struct Http1Server {
    pub reading: Reading,
    /// Octets of an unfinished head that were parsed in vain.
    pub tried: usize,
    pub exchange: Option<ExchangeKey>,
    pub encoder: Option<h1::BodyEncoder>,
    /// The connection may serve another request after this one.
    pub keep_alive: bool,
}

/// HTTP/1 towards an endpoint.
#[derive(Default)]
pub(crate) struct Http1Client {
    pub reading: Reading,
    /// Octets of an unfinished head that were parsed in vain.
    pub tried: usize,
    pub exchange: Option<ExchangeKey>,
    pub encoder: Option<h1::BodyEncoder>,
    pub keep_alive: bool,
    pub method: Method,
    /// The request asks for another protocol.
    pub asked_upgrade: bool,
    /// Interim responses to the request so far.
    pub interims: u32,
    /// The whole response has been read.
    pub response_ended: bool,
}

/// Where in a message an HTTP/1 reader is.
#[derive(Default)]
pub(crate) enum Reading {
    #[default]
    Head,
    Body(h1::BodyDecoder),
    /// The request asks for a tunnel: what follows it waits until the answer
    /// says what it is.
    Switching,
    /// The message was broken or is not wanted: the rest is dropped, and the
    /// connection closes after what is being sent.
    Discard,
}

impl Conn {
    fn new(key: ConnKey, side: Side, remote: SocketAddr, local: SocketAddr, limit: usize, now: Time) -> Self {
        Conn {
            key,
            id: 0,
            side,
            remote,
            local,
            tls: None,
            protocol: Protocol::Opening,
            preamble: None,
            input: Buffer::default(),
            output: Buffer::default(),
            peer_closed: false,
            is_shut: false,
            paused: false,
            is_dirty: false,
            is_rescanned: false,
            buffer_limit: limit,
            opened: now,
            idle_since: now,
            deadline: Time::NEVER,
            waiting_for_room: Vec::new(),
            waiting_for_window: Vec::new(),
            received: 0,
            sent: 0,
        }
    }

    /// A connection that a client made to a listener.
    pub(crate) fn from_client(
        key: ConnKey,
        listener: Arc<ListenerRuntime>,
        slot: Slot,
        remote: SocketAddr,
        local: SocketAddr,
        now: Time,
    ) -> Self {
        let limit = listener.config.buffer_limit;
        let down = Downstream {
            listener,
            is_restored: false,
            hands_off: false,
            chain: None,
            direct_remote: remote,
            inspection: None,
            server_name: None,
            facts: None,
            transport_failure: None,
            requests: 0,
            limits: Vec::new(),
            head_due: Time::NEVER,
            _slot: slot,
            draining: false,
            ends_at: Time::NEVER,
        };
        let conn = Conn::new(key, Side::Down(down), remote, local, limit, now);
        Conn { protocol: Protocol::Inspecting, ..conn }
    }

    /// A connection that is to be made to an endpoint.
    pub(crate) fn to_endpoint(key: ConnKey, up: Upstream, remote: SocketAddr, limit: usize, now: Time) -> Self {
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        Conn::new(key, Side::Up(up), remote, unbound, limit, now)
    }

    /// Octets that came and went, without what TLS adds.
    pub(crate) fn carried(&self) -> (u64, u64) {
        self.tls.as_ref().map_or((self.received, self.sent), |tls| tls.carried())
    }

    /// Octets that wait to be sent, before TLS and after.
    pub(crate) fn unsent(&self) -> usize {
        let plain = match &self.protocol {
            Protocol::Http2Server(h2) | Protocol::Http2Client(h2) => h2.output().len(),
            _ => self.output.len(),
        };
        let preamble = self.preamble.as_ref().map_or(0, |preamble| preamble.len());
        preamble + plain + self.tls.as_ref().map_or(0, |tls| tls.output().len())
    }

    /// True if producers should wait.
    pub(crate) fn is_full(&self) -> bool {
        let congested = match &self.protocol {
            Protocol::Http2Server(h2) | Protocol::Http2Client(h2) => h2.is_congested(),
            _ => false,
        };
        congested || self.unsent() >= self.buffer_limit
    }

    /// An exchange has more to send than was taken: it is woken when there is room.
    /// The two reasons are told apart, or every write would wake those that wait for a
    /// window in vain.
    pub(crate) fn wait_to_send(&mut self, exchange: ExchangeKey, is_full: bool) {
        let waiting = if is_full { &mut self.waiting_for_room } else { &mut self.waiting_for_window };
        if !waiting.contains(&exchange) {
            waiting.push(exchange);
        }
    }

    /// Says that the message of this stream is complete.
    pub(crate) fn end_message(&mut self, stream: Option<h2::StreamId>, trailers: &Headers) {
        let (encoder, keep_alive) = match &mut self.protocol {
            Protocol::Http1Server(server) => (&mut server.encoder, &mut server.keep_alive),
            Protocol::Http1Client(client) => (&mut client.encoder, &mut client.keep_alive),
            Protocol::Http2Server(h2) | Protocol::Http2Client(h2) => {
                if let Some(stream) = stream {
                    let _gone = match trailers.is_empty() {
                        true => h2.send_data(stream, &[], true).map(|_| ()),
                        false => h2.send_trailers(stream, trailers),
                    };
                }
                return;
            }
            Protocol::Tunnel(end) => return end.write_ended = true,
            _ => return,
        };
        let Some(mut encoder) = encoder.take() else { return };
        if encoder.finish(self.output.tail(), (!trailers.is_empty()).then_some(trailers)).is_err() {
            // Shorter than its content-length: only a close can say so.
            *keep_alive = false;
        }
    }

    pub(crate) fn downstream(&self) -> Option<&Downstream> {
        match &self.side {
            Side::Down(down) => Some(down),
            Side::Up(_) => None,
        }
    }

    pub(crate) fn downstream_mut(&mut self) -> Option<&mut Downstream> {
        match &mut self.side {
            Side::Down(down) => Some(down),
            Side::Up(_) => None,
        }
    }

    pub(crate) fn upstream(&self) -> Option<&Upstream> {
        match &self.side {
            Side::Up(up) => Some(up),
            Side::Down(_) => None,
        }
    }

    pub(crate) fn upstream_mut(&mut self) -> Option<&mut Upstream> {
        match &mut self.side {
            Side::Up(up) => Some(up),
            Side::Down(_) => None,
        }
    }

    /// The address that the client wanted, where that is known.
    pub(crate) fn original_dst(&self) -> Option<SocketAddr> {
        self.downstream().filter(|down| down.is_restored).map(|_| self.local)
    }

    pub(crate) fn http(&self) -> Option<&Arc<HttpRuntime>> {
        self.downstream()?.chain.as_ref()?.http.as_ref()
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.protocol, Protocol::Closing { .. })
    }
}
