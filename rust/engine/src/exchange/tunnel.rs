//! Tunnels: exchanges whose bodies are not messages but octets, each way until that half is closed.
//!
//! A client asks for one with `Upgrade` or with CONNECT. Within the engine both have one form, HTTP/1.1's, whichever
//! version either side speaks; what HTTP/2 says instead is translated where it is read and written:
//!
//! | | HTTP/1.1 | HTTP/2 (RFC 8441, RFC 9113 section 8.5) |
//! |---|---|---|
//! | upgrade asked for | `GET`, `upgrade: websocket` | `:method: CONNECT`, `:protocol: websocket` |
//! | agreed to | 101, `upgrade: websocket` | 2xx; 200 from us |
//! | CONNECT asked for | `CONNECT host:port` | `:method: CONNECT`, `:authority: host:port` |
//! | agreed to | 2xx | 2xx |
//! | octets | as they are | DATA |
//! | a half is closed | FIN, or `close_notify` | END_STREAM |
//!
//! Each end of a tunnel is an HTTP/1 connection, an HTTP/2 stream, or, where a route terminates CONNECT
//! (`connect_config`), a TCP connection to an endpoint. A connection that is an end becomes [`Protocol::Tunnel`] and
//! never speaks HTTP again, so it is in no pool. Everything else is as for any exchange: octets wait in its two
//! [`Pipe`](super::Pipe)s, so that memory and flow control are bounded as for bodies; it is in the gauges, drains
//! with its listener, is cut by `stream_idle_timeout`, and stands in the access log when it is over.
//!
//! # States
//! asked ([`Tunnel::holds_back`]) → open ([`Tunnel::open`]) → over, when both halves are closed or either end is lost;
//! or asked → refused, when the answer is any other: then the exchange goes on as one without a tunnel.
//!
//! # Invariants
//! * Until the tunnel is open no octet that the client has sent behind its request goes anywhere: it is neither passed
//!   on nor read as HTTP. If the answer is a refusal those octets are dropped, and an HTTP/1 connection is closed.
//! * Only the answer opens it: 101 to an upgrade, naming a protocol that was asked for, and 2xx to CONNECT. A 101 that
//!   nobody has asked for is refused by the codec; a 2xx to an upgrade over HTTP/1.1 is an answer like any other, but to
//!   a client of HTTP/2 it would say "agreed", so there it is an error of the upstream (502).
//! * The time of a route (`timeout`) bounds the asking, not the tunnel.

use pymesh_http::{h2, Headers, Known, Method, RequestHead, ResponseHead};

use super::{websocket, Exchange, ExchangeKey};
use crate::conn::{Conn, ConnKey, Protocol, Side};
use crate::engine::Engine;

/// What a request wants its connection or stream to become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asks {
    #[default]
    Nothing,
    /// Another protocol, named in `upgrade`.
    Upgrade,
    /// The way to an authority.
    Connect,
}

/// An exchange's tunnel, which most do not ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tunnel {
    pub asks: Asks,
    /// The request has content of its own, and the tunnel begins behind it (HTTP/1.1 only).
    pub after_content: bool,
    /// The answer has agreed.
    pub open: bool,
    /// It is in the gauge of upgrades.
    pub is_counted: bool,
    /// `sec-websocket-key` is ours: the client, of HTTP/2, needs none.
    pub own_key: bool,
}

impl Tunnel {
    pub fn asked_by(request: &RequestHead, upgrade: bool) -> Tunnel {
        let asks = match (request.method, upgrade) {
            (Method::Connect, _) => Asks::Connect,
            (_, true) => Asks::Upgrade,
            _ => Asks::Nothing,
        };
        Tunnel { asks, ..Tunnel::default() }
    }

    pub fn is_asked(&self) -> bool {
        self.asks != Asks::Nothing
    }

    /// What the client says behind its request is the tunnel's, and waits for it to open.
    pub fn holds_back(&self) -> bool {
        self.is_asked() && !self.open && !self.after_content
    }
}

/// A connection that is an end of a tunnel: what comes belongs to one exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelEnd {
    /// `None`: to an endpoint, and not given to anybody yet.
    pub exchange: Option<ExchangeKey>,
    /// Nothing will be sent behind what is in the output.
    pub write_ended: bool,
    write_shut: bool,
}

impl TunnelEnd {
    pub fn of(exchange: Option<ExchangeKey>) -> Protocol {
        Protocol::Tunnel(TunnelEnd { exchange, write_ended: false, write_shut: false })
    }
}

/// Extended CONNECT in the form of HTTP/1.1.
pub(crate) fn from_extended_connect(request: &mut RequestHead) {
    let protocol = request.protocol().to_vec();
    request.method = Method::Get;
    request.headers.set_known(Known::Upgrade, &protocol);
    request.set_protocol(b"");
}

/// What the answer of an upstream says about the tunnel that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Open,
    /// An answer like any other.
    Refused,
    /// It can be passed on neither as an agreement nor as a refusal.
    Malformed,
}

impl Exchange {
    /// Judges the answer of an HTTP/1 upstream and brings it into the form that the client understands.
    pub(crate) fn judge_http1_answer(&self, answer: &mut ResponseHead) -> Verdict {
        match (self.tunnel.asks, answer.status) {
            (Asks::Upgrade, 101) => {
                let wanted = self.request.headers.get_known(Known::Upgrade).unwrap_or_default();
                let named = answer.headers.get_known(Known::Upgrade).unwrap_or_default();
                if !has_member(wanted, named) || self.tunnel.after_content && !self.request_body.finished {
                    return Verdict::Malformed;
                }
                if self.tunnel.own_key {
                    if !websocket::is_accepted(&self.request.headers, &answer.headers) {
                        return Verdict::Malformed;
                    }
                    answer.headers.remove(websocket::ACCEPT);
                }
                Verdict::Open
            }
            (Asks::Upgrade, 200..=299) if self.down_stream.is_some() => Verdict::Malformed,
            (Asks::Connect, 200..=299) => Verdict::Open,
            _ => Verdict::Refused,
        }
    }

    /// The same for an HTTP/2 upstream, whose agreement to an upgrade is any 2xx.
    pub(crate) fn judge_http2_answer(&self, answer: &mut ResponseHead) -> Verdict {
        match (self.tunnel.asks, answer.status) {
            (Asks::Upgrade, 200..=299) => {
                let protocol = self.request.headers.get_known(Known::Upgrade).unwrap_or_default();
                answer.status = 101;
                answer.headers.remove_known(Known::ContentLength);
                answer.headers.set_known(Known::Upgrade, protocol);
                if self.down_stream.is_none() {
                    websocket::accept(&self.request.headers, &mut answer.headers);
                }
                Verdict::Open
            }
            (Asks::Connect, 200..=299) => {
                answer.headers.remove_known(Known::ContentLength);
                Verdict::Open
            }
            _ => Verdict::Refused,
        }
    }

    /// The answer has agreed: from here on both bodies are the tunnel's.
    pub(crate) fn open_tunnel(&mut self) {
        self.tunnel.open = true;
        if self.tunnel.after_content {
            self.request_body.clear();
        }
    }
}

/// True if `list` has this one member, in any case.
fn has_member(list: &[u8], member: &[u8]) -> bool {
    list.split(|octet| *octet == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(member.trim_ascii()))
}

impl Engine {
    /// Octets from an end of a tunnel; says how many were taken.
    pub(crate) fn read_tunnel(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let Protocol::Tunnel(TunnelEnd { exchange: Some(key), .. }) = conn.protocol else { return 0 };
        if bytes.is_empty() {
            return 0;
        }
        let is_down = matches!(conn.side, Side::Down(_));
        let is_full = if is_down { self.request_is_full(key) } else { self.response_is_full(key) };
        if is_full {
            conn.paused = true;
            return 0;
        }
        match is_down {
            true => self.request_data(key, bytes),
            false => self.response_data(key, bytes),
        };
        bytes.len()
    }

    /// An end of a tunnel will say no more: its half is closed at the other end, behind its last octet.
    pub(crate) fn end_tunnel_half(&mut self, conn: &mut Conn) {
        let Protocol::Tunnel(end) = conn.protocol else { return };
        if !conn.input.is_empty() {
            // There is something before it.
            return;
        }
        let Some(key) = end.exchange else { return self.close_now(conn) };
        let Some(exchange) = self.exchanges.get(key) else { return };
        match conn.side {
            Side::Down(_) if !exchange.request_body.ended => self.request_ended(key, &mut Headers::new()),
            Side::Up(_) if !exchange.response_body.ended => self.response_ended(key, &mut Headers::new()),
            _ => {}
        }
    }

    /// All output of an end was written: a half that has ended is closed.
    pub(crate) fn on_tunnel_flushed(&mut self, conn: &mut Conn) {
        let Protocol::Tunnel(end) = &mut conn.protocol else { return };
        if !end.write_ended || end.write_shut {
            return;
        }
        end.write_shut = true;
        match conn.tls.as_mut() {
            Some(tls) => {
                tls.close();
                self.mark_dirty(conn);
            }
            None => self.shut_write(conn),
        }
    }

    /// The client has been told that the tunnel is open: its connection speaks no HTTP any more.
    pub(crate) fn become_tunnel(&mut self, key: ExchangeKey, down: ConnKey) {
        let Some(conn) = self.conns.get_mut(down) else { return };
        if matches!(conn.protocol, Protocol::Http1Server(_)) {
            conn.protocol = TunnelEnd::of(Some(key));
            self.rescan_key(down);
        }
    }

    /// `downstream_cx_upgrades_total` and `..._active`, as Envoy: from the request on.
    pub(super) fn count_tunnel(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| !exchange.tunnel.is_counted) else { return };
        exchange.tunnel.is_counted = true;
        if let Some(http) = &exchange.http {
            http.stats.downstream_cx_upgrades_total.inc();
            http.stats.downstream_cx_upgrades_active.inc();
        }
    }
}

/// Why an HTTP/2 stream ends before its time: that of a tunnel says so (RFC 9113 section 8.5).
pub(super) fn reset_code(tunnel: Tunnel) -> h2::ErrorCode {
    match tunnel.open {
        true => h2::ErrorCode::CONNECT_ERROR,
        false => h2::ErrorCode::INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_those_asked_for() {
        assert!(has_member(b"foo, WebSocket", b"websocket"));
        assert!(!has_member(b"websocket", b"foo") && !has_member(b"foo, websocket", b"foo, websocket"));
        assert!(!has_member(b"websocket", b""));
    }
}
