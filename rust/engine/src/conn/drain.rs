//! How connections of clients are brought to an end without losing a request.
//!
//! Whoever sends a request on a connection that is being ended must get an answer, or be told by the protocol that
//! it was not looked at. What can be said depends on the protocol:
//!
//! | protocol | what the client is told | when the connection closes |
//! |---|---|---|
//! | HTTP/2 | GOAWAY with the highest stream id and a PING; once that has come back, GOAWAY with the last id | with its last stream |
//! | HTTP/1 in a request | `Connection: close` with the answer | behind that answer |
//! | HTTP/1 between requests | nothing: there is no word for it | with its next request, or unused for `drain_timeout` |
//! | not yet known | nothing | as what it turns out to be; silent for `drain_timeout` |
//! | TCP, upgraded | nothing: the octets are not ours | when its ends close it |
//!
//! What is left when the drain time is over is cut off: by the driver where the whole process drains
//! ([`Engine::cut_off`]), by `ends_at` of each connection where a listener does.
//!
//! An HTTP/1 answer whose head was out before the drain began has told nobody: its connection waits like one between
//! requests. A connection that arrives in a drain (its handshake was under way) is served and told at once.

use std::sync::Arc;
use std::time::Duration;

use pymesh_http::h2;

use super::{Conn, ConnKey, Protocol, Side};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::listener::ListenerRuntime;
use crate::telemetry::{details, Flags};

/// Payload of the PING behind the first GOAWAY.
const NOTICE: [u8; 8] = *b"draining";

/// `drain_timeout` where no HTTP chain has been chosen yet: Envoy's default.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a draining proxy keeps a connection to an endpoint that nobody uses. Two proxies that end together would
/// otherwise wait for each other.
const IDLE_UPSTREAM: Duration = Duration::from_secs(1);

impl Engine {
    /// Ends all connections of clients in order; those that are still accepted are told at once.
    pub fn drain(&mut self) {
        self.draining = true;
        let all: Vec<ConnKey> = self.conns.keys().collect();
        for key in all {
            self.drain_conn(key);
            self.hasten_idle_upstream(key);
        }
    }

    /// The time to end in order is over: whatever is left is cut off. The driver writes once more, then closes.
    pub fn cut_off(&mut self) {
        let down = |key: &ConnKey| self.conns.get(*key).is_some_and(|conn| matches!(conn.side, Side::Down(_)));
        let keys: Vec<ConnKey> = self.conns.keys().filter(down).collect();
        for key in keys {
            self.cut_off_conn(key);
        }
    }

    pub(super) fn cut_off_conn(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        if let Protocol::Http2Server(h2) = &mut conn.protocol {
            h2.go_away(h2::ErrorCode::NO_ERROR);
        }
        let exchanges = self.exchanges_of(&conn);
        self.conns.give_back(key, conn);
        for exchange in exchanges {
            self.abandon(exchange, Flags::DOWNSTREAM_TERMINATION, details::DRAIN_DEADLINE);
        }
        let Some(mut conn) = self.conns.lend(key) else { return };
        self.close_after_flush(&mut conn);
        self.conns.give_back(key, conn);
    }

    /// True after [`Engine::drain`].
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Connections of a replaced listener whose filter chain is part of the new one, in this generation or a later, are
    /// the new one's. Their exchanges end with the filters that they began with ([`Exchange::http`]).
    ///
    /// [`Exchange::http`]: crate::exchange::Exchange
    pub(crate) fn keep_connections(&mut self, old: &Arc<ListenerRuntime>, new: &Arc<ListenerRuntime>) {
        for key in self.connections_of(old) {
            let Some(down) = self.conns.get_mut(key).and_then(|conn| conn.downstream_mut()) else { continue };
            if let Some(heir) = down.chain.as_ref().and_then(|chain| new.heir_of(chain)) {
                down.chain = Some(heir.clone());
                down.listener = new.clone();
            }
        }
    }

    /// Ends the connections of a listener that is gone or was replaced, those without an end after the drain time.
    pub(crate) fn drain_listener(&mut self, listener: &Arc<ListenerRuntime>) {
        let ends_at = self.now + self.options.drain_time;
        for key in self.connections_of(listener) {
            self.drain_conn(key);
            let Some(mut conn) = self.conns.lend(key) else { continue };
            if let Some(down) = conn.downstream_mut() {
                down.ends_at = down.ends_at.min(ends_at);
            }
            let deadline = conn.deadline;
            self.set_deadline(&mut conn, deadline);
            self.conns.give_back(key, conn);
        }
    }

    fn connections_of(&self, listener: &Arc<ListenerRuntime>) -> Vec<ConnKey> {
        let of_it = |key: &ConnKey| {
            let down = self.conns.get(*key).and_then(|conn| conn.downstream());
            down.is_some_and(|down| Arc::ptr_eq(&down.listener, listener))
        };
        self.conns.keys().filter(of_it).collect()
    }

    /// Says to a client that its connection will go, as far as its protocol has words for it.
    pub(crate) fn drain_conn(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        let limit = self.drain_limit(&conn);
        if let Some(down) = conn.downstream_mut().filter(|down| !down.draining) {
            down.draining = true;
            match &mut conn.protocol {
                Protocol::Http2Server(h2) => {
                    announce(h2);
                    self.set_deadline(&mut conn, limit);
                    self.mark_dirty(&mut conn);
                }
                Protocol::Http1Server(h1) if h1.exchange.is_some() => {}
                Protocol::Http1Server(_) | Protocol::Detecting | Protocol::Inspecting => {
                    let limit = conn.deadline.min(limit);
                    self.set_deadline(&mut conn, limit);
                }
                _ => {}
            }
        }
        self.conns.give_back(key, conn);
    }

    /// The client has seen the first GOAWAY, and what it sent before that is here: no stream comes any more.
    pub(super) fn on_ping_ack(&mut self, conn: &mut Conn, codec: &mut h2::Connection, payload: [u8; 8]) {
        if payload == NOTICE && conn.side.is_draining() && !codec.is_closing() {
            codec.go_away(h2::ErrorCode::NO_ERROR);
            self.set_deadline(conn, Time::NEVER);
        }
    }

    /// Until when a draining connection may be silent.
    pub(crate) fn drain_limit(&self, conn: &Conn) -> Time {
        self.now + conn.http().map_or(DRAIN_TIMEOUT, |http| http.config.timeouts.drain)
    }

    /// How long a connection to an endpoint is kept that nobody uses.
    pub(crate) fn idle_upstream_limit(&self, configured: Duration) -> Time {
        let limit = if self.draining { self.now + IDLE_UPSTREAM } else { Time::NEVER };
        self.now.after_limit(configured).min(limit)
    }

    fn hasten_idle_upstream(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        let is_idle = match &conn.protocol {
            Protocol::Http1Client(h1) => h1.exchange.is_none(),
            Protocol::Http2Client(h2) => h2.active_streams() == 0,
            _ => false,
        };
        if is_idle {
            let limit = conn.deadline.min(self.idle_upstream_limit(Duration::ZERO));
            self.set_deadline(&mut conn, limit);
        }
        self.conns.give_back(key, conn);
    }
}

/// The first word of an HTTP/2 drain. What the client sends before it reads this is still taken (RFC 9113 section 6.8);
/// the PING's answer says that it has read it.
pub(super) fn announce(h2: &mut h2::Connection) {
    h2.shutdown_notice();
    h2.ping(NOTICE);
}
