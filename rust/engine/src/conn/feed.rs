//! From wire bytes to the right reader.

use std::time::Duration;

use pymesh_http::h2;

use super::{Conn, ConnKey, Http1Client, Http1Server, Protocol, Side};
use crate::base::time::Time;
use crate::engine::{Action, Engine};
use crate::telemetry::Flags;

impl Engine {
    /// Bytes arrived from the peer.
    pub fn receive(&mut self, key: ConnKey, wire: &[u8]) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        conn.received = conn.received.wrapping_add(wire.len() as u64);
        if matches!(conn.protocol, Protocol::Inspecting) {
            conn.input.extend(wire);
            self.run_listener_filters(&mut conn);
        } else {
            self.receive_wire(&mut conn, wire);
        }
        self.conns.give_back(key, conn);
    }

    pub(super) fn receive_wire(&mut self, conn: &mut Conn, wire: &[u8]) {
        match conn.tls.is_some() {
            false => self.feed(conn, wire),
            true => self.receive_tls(conn, wire),
        }
    }

    fn receive_tls(&mut self, conn: &mut Conn, wire: &[u8]) {
        let Some(tls) = conn.tls.as_mut() else { return };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let was_handshaking = tls.is_handshaking();
        let result = tls.receive(wire, &mut plain);
        let (handshaking, peer_closed) = (tls.is_handshaking(), tls.peer_closed());
        self.mark_dirty(conn);
        if was_handshaking && !handshaking && !conn.is_closing() {
            self.on_handshake_done(conn);
        }
        if !plain.is_empty() {
            self.feed(conn, &plain);
        }
        self.plain = plain;
        match result {
            Err(error) => self.on_tls_error(conn, &error),
            Ok(()) if peer_closed && !conn.peer_closed => self.on_peer_closed(conn),
            Ok(()) => {}
        }
    }

    /// Processes plaintext, after whatever waited before it.
    pub(crate) fn feed(&mut self, conn: &mut Conn, bytes: &[u8]) {
        if conn.input.is_empty() {
            let used = self.process(conn, bytes);
            let rest = bytes.get(used..).unwrap_or_default();
            if !rest.is_empty() && !conn.is_closing() {
                conn.input.extend(rest);
            }
            return;
        }
        conn.input.extend(bytes);
        let mut input = std::mem::take(&mut conn.input);
        let used = self.process(conn, input.as_slice());
        input.advance(used);
        conn.input = input;
    }

    /// Runs the reader of the connection's protocol; says how much it consumed.
    fn process(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        conn.paused = false;
        if matches!(conn.protocol, Protocol::Detecting) && !self.detect_http(conn, bytes) {
            return 0;
        }
        match &conn.protocol {
            Protocol::Http1Server(_) => self.read_http1_requests(conn, bytes),
            Protocol::Http2Server(_) => self.read_http2_requests(conn, bytes),
            Protocol::Http1Client(_) => self.read_http1_response(conn, bytes),
            Protocol::Http2Client(_) => self.read_http2_responses(conn, bytes),
            Protocol::Tcp(_) => self.relay(conn, bytes),
            Protocol::Tunnel(_) => self.read_tunnel(conn, bytes),
            Protocol::Closing { .. } => bytes.len(),
            Protocol::Judged(_) => {
                // What it sends waits with it.
                conn.paused = bytes.len() >= conn.buffer_limit;
                0
            }
            Protocol::Inspecting | Protocol::Detecting | Protocol::Opening | Protocol::Lent => 0,
        }
    }

    /// Processes again what a connection had to leave, after room was made or
    /// an exchange ended.
    pub(crate) fn process_again(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        conn.is_rescanned = false;
        self.feed(&mut conn, &[]);
        if conn.peer_closed {
            self.on_end_of_input(&mut conn);
        }
        // The driver may have stopped reading because we were paused.
        self.mark_dirty(&mut conn);
        self.conns.give_back(key, conn);
    }

    /// Asks for [`Engine::process_again`] within this turn.
    pub(crate) fn rescan(&mut self, conn: &mut Conn) {
        if !conn.is_rescanned {
            conn.is_rescanned = true;
            self.rescans.push(conn.key);
        }
    }

    pub(crate) fn rescan_key(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key) {
            if !conn.is_rescanned {
                conn.is_rescanned = true;
                self.rescans.push(key);
            }
        }
    }

    /// A TLS handshake ended well.
    fn on_handshake_done(&mut self, conn: &mut Conn) {
        match &conn.side {
            Side::Down(down) => {
                conn.tls.iter().for_each(|session| down.listener.tls_stats.succeeded(session));
                self.start_network_filter(conn);
            }
            Side::Up(up) => {
                let cluster = self.clusters.get(up.cluster);
                conn.tls.iter().for_each(|session| cluster.iter().for_each(|cluster| cluster.tls.succeeded(session)));
                self.on_upstream_open(conn);
            }
        }
    }

    fn on_tls_error(&mut self, conn: &mut Conn, error: &pymesh_tls::TlsError) {
        let failure = error.to_string();
        let is_handshaking = conn.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        match &mut conn.side {
            Side::Down(down) => {
                down.listener.tls_stats.failed(error);
                down.transport_failure = Some(failure.as_str().into());
                if is_handshaking {
                    self.notice(conn, error.code(), &failure);
                }
            }
            Side::Up(up) => self.clusters.get(up.cluster).iter().for_each(|cluster| cluster.tls.failed(error)),
        }
        // The alert stands in the session's output; it goes out before the close.
        self.fail_conn(conn, Flags::UPSTREAM_CONNECTION_FAILURE, &failure);
    }

    /// Makes the codec for a version and queues its first bytes.
    pub(super) fn speak_http_server(&mut self, conn: &mut Conn, http2: bool) {
        let Some(http) = conn.http().cloned() else { return };
        // It was told to drain during its handshake, when there was nobody to tell.
        let draining = conn.side.is_draining();
        if http2 {
            http.stats.downstream_cx_http2_total.inc();
            let enable_connect_protocol = http.config.allow_connect;
            let config = h2::Config { limits: http.limits, role: h2::Role::Server, enable_connect_protocol };
            let mut codec = h2::Connection::new(config);
            if draining {
                super::drain::announce(&mut codec);
            }
            conn.protocol = Protocol::Http2Server(Box::new(codec));
            self.mark_dirty(conn);
        } else {
            http.stats.downstream_cx_http1_total.inc();
            conn.protocol = Protocol::Http1Server(Http1Server { keep_alive: true, ..Default::default() });
        }
        let idle = self.now.after_limit(http.config.timeouts.idle);
        let limit = if draining { self.drain_limit(conn) } else { idle };
        self.set_deadline(conn, limit);
    }

    pub(crate) fn speak_http_client(&mut self, conn: &mut Conn, http2: bool) {
        let Some(cluster) = conn.upstream().and_then(|up| self.clusters.get(up.cluster)) else { return };
        let http = &cluster.config.http;
        if http2 {
            cluster.stats.upstream_cx_http2_total.inc();
            let limits = pymesh_http::Limits {
                header_list_size: http.header_list_size,
                header_count: http.header_count,
                concurrent_streams: http.concurrent_streams,
                stream_window: http.stream_window,
                stream_window_most: http.stream_window_most,
                connection_window: http.connection_window,
                ..Default::default()
            };
            let limits = crate::listener::guarded(limits, &http.http2);
            let config = h2::Config { limits, ..h2::Config::new(h2::Role::Client) };
            conn.protocol = Protocol::Http2Client(Box::new(h2::Connection::new(config)));
            self.mark_dirty(conn);
        } else {
            cluster.stats.upstream_cx_http1_total.inc();
            conn.protocol = Protocol::Http1Client(Http1Client::default());
        }
    }

    /// Puts the connection on the list of those whose output is to be written.
    pub(crate) fn mark_dirty(&mut self, conn: &mut Conn) {
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(conn.key);
        }
    }

    /// Moves the connection's entry in the timer queue forward if needed.
    pub(crate) fn arm_conn(&mut self, conn: &Conn) {
        self.timers.arm_conn(conn.key, conn.deadline);
    }

    /// The driver is to do something with the connection's socket.
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Closes our half, once: a relay that has done so for its other end is closed later itself.
    pub(crate) fn shut_write(&mut self, conn: &mut Conn) {
        if !std::mem::replace(&mut conn.is_shut, true) {
            self.act(Action::ShutdownWrite(conn.key));
        }
    }

    /// Moves a deadline, earlier or later; a connection's age bounds it too.
    pub(crate) fn set_deadline(&mut self, conn: &mut Conn, deadline: Time) {
        let limit = match (&conn.protocol, conn.http()) {
            (Protocol::Http1Server(_) | Protocol::Http2Server(_), Some(http)) if !conn.side.is_draining() => {
                http.config.timeouts.max_connection_duration
            }
            _ => Duration::ZERO,
        };
        let never = (Time::NEVER, Time::NEVER);
        let (ends_at, head_due) = conn.downstream().map_or(never, |down| (down.ends_at, down.head_due));
        let expires = conn.upstream().map_or(Time::NEVER, |up| up.expires.min(up.ends_at));
        conn.deadline = deadline.min(conn.opened.after_limit(limit)).min(ends_at).min(head_due).min(expires);
        self.arm_conn(conn);
    }
}
