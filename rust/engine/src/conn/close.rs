//! How connections end.

use std::time::Duration;

use pymesh_http::h2;

use super::{Conn, ConnKey, Protocol, Reading, Side};
use crate::base::time::Time;
use crate::decisions::Decision;
use crate::engine::{Action, Engine};
use crate::exchange::Failure;
use crate::telemetry::{details, Flags};

/// How long a peer may take to notice that we have closed our half.
const LINGER: Duration = Duration::from_secs(1);

const GONE: &str = details::DOWNSTREAM_REMOTE_DISCONNECT;

impl Engine {
    /// The peer closed its half, or the whole connection, in order.
    pub fn end_of_input(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        if !conn.peer_closed {
            self.on_peer_closed(&mut conn);
        }
        self.conns.give_back(key, conn);
    }

    pub(super) fn on_peer_closed(&mut self, conn: &mut Conn) {
        conn.peer_closed = true;
        self.on_end_of_input(conn);
    }

    /// Decides what the end of input means, once all input before it was processed.
    pub(super) fn on_end_of_input(&mut self, conn: &mut Conn) {
        if conn.paused {
            return;
        }
        match &mut conn.protocol {
            Protocol::Http1Server(h1) => match h1.exchange {
                // It cannot be told from a client that has left, as nearly all have that say so: as in Envoy, nobody
                // works on for them. Answers before this one are whole, and may still wait for the client to read.
                Some(key) => {
                    let has_begun = self.exchanges.get(key).is_some_and(|exchange| exchange.response_started);
                    self.abandon_client(conn);
                    match has_begun {
                        true => self.close_now(conn),
                        false => self.close_after_flush(conn),
                    }
                }
                None => {
                    self.log_unfinished_head(conn, Flags::DOWNSTREAM_TERMINATION, GONE);
                    // The last answer may still wait for the client to read.
                    self.close_after_flush(conn);
                }
            },
            Protocol::Http2Server(_) => {
                self.abandon_client(conn);
                self.log_unfinished_head(conn, Flags::DOWNSTREAM_TERMINATION, GONE);
                self.close_now(conn);
            }
            Protocol::Http1Client(h1) => {
                if let (Some(key), Reading::Body(decoder)) = (h1.exchange, &mut h1.reading) {
                    if decoder.finish_at_eof().is_ok() {
                        h1.response_ended = true;
                        h1.keep_alive = false;
                        h1.reading = Reading::Head;
                        self.response_ended(key, &mut pymesh_http::Headers::new());
                        return;
                    }
                }
                let failure = loss_of(conn);
                self.lose_upstream(conn, failure);
                self.close_now(conn);
            }
            Protocol::Http2Client(_) => {
                self.lose_upstream(conn, Failure::Closed);
                self.close_now(conn);
            }
            Protocol::Tcp(_) => self.relay_end(conn),
            Protocol::Tunnel(_) => self.end_tunnel_half(conn),
            Protocol::Opening if matches!(conn.side, Side::Up(_)) => {
                self.lose_upstream(conn, Failure::Connect);
                self.close_now(conn);
            }
            Protocol::Inspecting => {
                if let Some(down) = conn.downstream() {
                    down.listener.stats.downstream_listener_filter_remote_close.inc();
                }
                self.close_now(conn);
            }
            // It may have said all that it wants to say, and wait for an answer.
            Protocol::Judged(_) => {}
            Protocol::Detecting | Protocol::Opening => self.close_now(conn),
            Protocol::Closing { .. } => self.close_now(conn),
            Protocol::Lent => {}
        }
    }

    /// The socket failed: reset, unreachable, and so on.
    pub fn failed(&mut self, key: ConnKey, reason: &str) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        match &conn.side {
            Side::Down(_) => {
                self.abandon_client(&conn);
                self.log_unfinished_head(&mut conn, Flags::DOWNSTREAM_TERMINATION, GONE);
            }
            Side::Up(_) => {
                self.last_transport_failure = Some(reason.to_owned());
                let failure = loss_of(&conn);
                self.lose_upstream(&mut conn, failure);
            }
        }
        self.close_now(&mut conn);
        self.conns.give_back(key, conn);
    }

    /// The client has left: nobody works on for it.
    fn abandon_client(&mut self, conn: &Conn) {
        let had_any = self.abandon_exchanges_of(conn, Flags::DOWNSTREAM_TERMINATION, GONE);
        if let (Some(http), true) = (conn.http(), had_any) {
            http.stats.downstream_cx_destroy_remote_active_rq.inc();
        }
    }

    /// The peer has reset a connection whose input is left in the socket. A client that did so is gone, and whatever
    /// it had sent is void; what an endpoint said before is read first, and the error found behind it.
    pub fn reset_unread(&mut self, key: ConnKey) {
        if self.conns.get(key).is_some_and(|conn| matches!(conn.side, Side::Down(_))) {
            self.failed(key, "reset by the client");
        }
    }

    /// Something on this connection makes it useless: whoever depends on it is
    /// told, what is still in its output goes out, then it closes.
    pub(super) fn fail_conn(&mut self, conn: &mut Conn, flags: Flags, reason: &str) {
        match &conn.side {
            Side::Down(_) => {
                self.decisions.tell(|| Decision::Failed { conn: conn.key, reason: reason.into() });
                self.abandon_exchanges_of(conn, flags, GONE);
            }
            Side::Up(_) => {
                self.last_transport_failure = Some(reason.to_owned());
                // An endpoint that refuses our certificate in TLS 1.3 says so after the handshake, as late as this.
                let failure = loss_of(conn);
                self.lose_upstream(conn, failure);
            }
        }
        self.close_after_flush(conn);
    }

    /// Sends what waits, then closes. Input is dropped from here on.
    pub(crate) fn close_after_flush(&mut self, conn: &mut Conn) {
        if conn.is_closing() {
            return;
        }
        self.count_http2(conn);
        // HTTP/2 keeps its output in the codec: bring it over before the codec goes.
        if let Protocol::Http2Server(h2) | Protocol::Http2Client(h2) = &mut conn.protocol {
            conn.output.extend(h2.output());
        }
        if let Protocol::Tcp(end) = &conn.protocol {
            let relay = end.relay;
            self.forget_relay_end(relay, conn.key);
        }
        self.uncount(conn);
        conn.protocol = Protocol::Closing { lingering: false };
        conn.input.clear();
        self.set_deadline(conn, self.now + LINGER * 5);
        self.mark_dirty(conn);
    }

    /// All output was written: close our half, and give the peer a moment to
    /// read it. Closing at once could destroy what it has not read yet.
    pub(crate) fn on_closing_flushed(&mut self, conn: &mut Conn) {
        match conn.protocol {
            Protocol::Closing { lingering: false } if !conn.peer_closed => {
                conn.protocol = Protocol::Closing { lingering: true };
                self.shut_write(conn);
                self.set_deadline(conn, self.now + LINGER);
            }
            Protocol::Closing { lingering: false } => self.close_now(conn),
            _ => {}
        }
    }

    /// Closes without waiting for anything.
    pub(crate) fn close_now(&mut self, conn: &mut Conn) {
        if let Protocol::Tcp(end) = &conn.protocol {
            let relay = end.relay;
            self.forget_relay_end(relay, conn.key);
        }
        self.uncount(conn);
        conn.protocol = Protocol::Closing { lingering: true };
        if self.conns.contains(conn.key) {
            self.conns.remove(conn.key);
            self.clients -= usize::from(conn.downstream().is_some());
            self.act(Action::Close(conn.key));
            self.log_connection(conn);
            // It counts as a connection only once it has a filter chain, as in Envoy.
            if let Some(down) = conn.downstream().filter(|down| down.chain.is_some()) {
                down.listener.stats.downstream_cx_active.dec();
                down.listener.stats.downstream_cx_destroy.inc();
            }
        }
    }

    /// [`Engine::close_now`] by key.
    pub(crate) fn close_key(&mut self, key: ConnKey) {
        if let Some(mut conn) = self.conns.lend(key) {
            self.close_now(&mut conn);
        }
    }

    /// Takes the connection out of the gauges it was counted in, once.
    fn uncount(&mut self, conn: &mut Conn) {
        if conn.is_closing() {
            return;
        }
        if let (Protocol::Inspecting, Some(down)) = (&conn.protocol, conn.downstream()) {
            down.listener.stats.downstream_pre_cx_active.dec();
        }
        self.stop_asking_about(conn);
        self.count_http2(conn);
        // Counted when its transport was ready, which is when it got its facts.
        let has_facts = conn.downstream().is_some_and(|down| down.facts.is_some());
        if let (Some(http), true) = (conn.http(), has_facts) {
            http.stats.downstream_cx_active.dec();
            http.stats.downstream_cx_destroy.inc();
            let (received, sent) = conn.carried();
            http.stats.downstream_cx_rx_bytes_total.add(received);
            http.stats.downstream_cx_tx_bytes_total.add(sent);
        }
        self.forget_upstream(conn);
    }

    /// An HTTP/2 connection that takes no more streams closes with its last one.
    pub(crate) fn close_http2_if_drained(&mut self, conn: &mut Conn) {
        if let Protocol::Http2Server(h2) = &conn.protocol {
            if h2.is_closing() && h2.active_streams() == 0 {
                self.close_after_flush(conn);
            }
        }
    }

    /// `max_connection_duration` has passed and the connection is not yet draining.
    fn is_too_old(&self, conn: &Conn) -> bool {
        let is_http = matches!(conn.protocol, Protocol::Http1Server(_) | Protocol::Http2Server(_));
        let limit = conn.http().map_or(Duration::ZERO, |http| http.config.timeouts.max_connection_duration);
        is_http && !conn.side.is_draining() && conn.opened.after_limit(limit) <= self.now
    }

    /// A connection to an endpoint has reached `max_connection_duration`: it ends with its last request.
    fn expire_upstream(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream_mut() else { return };
        up.expires = Time::NEVER;
        if let Some(cluster) = self.clusters.get(up.cluster) {
            cluster.stats.upstream_cx_max_duration_reached.inc();
        }
        self.take_out_of_pool(conn);
    }

    /// A connection to an endpoint ends with its last request; one that has none ends now.
    pub(super) fn take_out_of_pool(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream_mut() else { return };
        up.draining = true;
        let (cluster, host, pool) = (up.cluster, up.host, up.pool);
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.hosts.get_mut(host).into_iter().for_each(|host| host.pool(pool).forget(conn.key));
        }
        match &mut conn.protocol {
            Protocol::Http1Client(h1) if h1.exchange.is_none() => self.close_now(conn),
            Protocol::Http2Client(h2) if h2.active_streams() == 0 => {
                h2.go_away(h2::ErrorCode::NO_ERROR);
                self.close_after_flush(conn);
            }
            _ => self.set_deadline(conn, Time::NEVER),
        }
    }

    /// Nobody has used it for as long as it may stay.
    fn count_idle_upstream(&self, conn: &Conn) {
        let Some(up) = conn.upstream().filter(|up| !up.draining && !self.is_draining()) else { return };
        if let Some(cluster) = self.clusters.get(up.cluster) {
            cluster.stats.upstream_cx_idle_timeout.inc();
        }
    }

    /// A connection's deadline has passed.
    pub(crate) fn on_conn_deadline(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        let http = conn.http().cloned();
        if self.is_too_old(&conn) {
            self.conns.give_back(key, conn);
            return self.drain_conn(key);
        }
        if !conn.is_closing() && conn.downstream().is_some_and(|down| down.ends_at <= self.now) {
            self.conns.give_back(key, conn);
            return self.cut_off_conn(key);
        }
        if !conn.is_closing() && conn.upstream().is_some_and(|up| up.ends_at <= self.now) {
            self.conns.give_back(key, conn);
            return self.failed(key, "its time to end is over");
        }
        if conn.upstream().is_some_and(|up| up.expires <= self.now) {
            self.expire_upstream(&mut conn);
            return self.conns.give_back(key, conn);
        }
        if conn.downstream().is_some_and(|down| down.head_due <= self.now) {
            self.on_http2_head_timeout(&mut conn);
            return self.conns.give_back(key, conn);
        }
        if let Some(due) = self.still_idle_until(&conn) {
            self.set_deadline(&mut conn, due);
            return self.conns.give_back(key, conn);
        }
        match &mut conn.protocol {
            Protocol::Inspecting => self.on_listener_filters_timeout(&mut conn),
            Protocol::Closing { .. } => self.close_now(&mut conn),
            Protocol::Opening => {
                match &conn.side {
                    Side::Down(down) => down.listener.stats.downstream_cx_transport_socket_connect_timeout.inc(),
                    Side::Up(up) => {
                        if let Some(cluster) = self.clusters.get(up.cluster) {
                            cluster.stats.upstream_cx_connect_timeout.inc();
                        }
                    }
                }
                self.lose_upstream(&mut conn, Failure::ConnectTimeout);
                self.close_now(&mut conn);
            }
            Protocol::Detecting => self.close_now(&mut conn),
            Protocol::Http1Server(h1) if h1.exchange.is_none() => {
                if let Some(http) = http {
                    match conn.input.is_empty() {
                        true if conn.side.is_draining() => {}
                        true => http.stats.downstream_cx_idle_timeout.inc(),
                        false => http.stats.downstream_rq_header_timeout.inc(),
                    }
                }
                match conn.input.is_empty() {
                    true => self.close_after_flush(&mut conn),
                    false => self.refuse_http1(&mut conn, 408, details::REQUEST_HEADER_TIMEOUT),
                }
            }
            Protocol::Http2Server(h2) if conn.side.is_draining() => {
                h2.go_away(h2::ErrorCode::NO_ERROR);
                self.mark_dirty(&mut conn);
                self.set_deadline(&mut conn, Time::NEVER);
                self.close_http2_if_drained(&mut conn);
            }
            Protocol::Http2Server(h2) if h2.active_streams() == 0 => {
                h2.go_away(h2::ErrorCode::NO_ERROR);
                if let Some(http) = http {
                    http.stats.downstream_cx_idle_timeout.inc();
                }
                self.close_after_flush(&mut conn);
            }
            Protocol::Http2Server(_) => {
                // Busy now; it may be idle when its last stream was reset.
                let idle = http.map_or(Time::NEVER, |http| self.now.after_limit(http.config.timeouts.idle));
                self.set_deadline(&mut conn, idle);
            }
            Protocol::Http1Client(h1) if h1.exchange.is_none() => {
                self.count_idle_upstream(&conn);
                self.close_now(&mut conn);
            }
            Protocol::Http2Client(h2) if h2.active_streams() == 0 => {
                h2.go_away(h2::ErrorCode::NO_ERROR);
                self.count_idle_upstream(&conn);
                self.close_after_flush(&mut conn);
            }
            // Busy now: what is left is its age.
            Protocol::Http1Client(_) | Protocol::Http2Client(_) => self.set_deadline(&mut conn, Time::NEVER),
            Protocol::Tcp(_) => self.on_relay_deadline(&mut conn),
            _ => {}
        }
        self.conns.give_back(key, conn);
    }
}

impl Engine {
    fn on_http2_head_timeout(&mut self, conn: &mut Conn) {
        if let Some(http) = conn.http() {
            http.stats.downstream_rq_header_timeout.inc();
        }
        self.notice(conn, details::REQUEST_HEADER_TIMEOUT, "");
        if let Protocol::Http2Server(h2) = &mut conn.protocol {
            h2.go_away(h2::ErrorCode::ENHANCE_YOUR_CALM);
        }
        self.abandon_exchanges_of(conn, Flags::NONE, details::REQUEST_HEADER_TIMEOUT);
        self.close_after_flush(conn);
    }

    /// A connection without requests is looked at early, to see whether its client takes the last answer.
    fn still_idle_until(&self, conn: &Conn) -> Option<Time> {
        let is_idle = match &conn.protocol {
            Protocol::Http1Server(h1) => h1.exchange.is_none() && conn.input.is_empty(),
            Protocol::Http2Server(h2) => h2.active_streams() == 0,
            _ => false,
        };
        if !is_idle || conn.side.is_draining() || conn.unsent() > 0 {
            return None;
        }
        let due = conn.idle_since.after_limit(conn.http()?.config.timeouts.idle);
        (due > self.now).then_some(due)
    }

    /// A connection has no request any more: how long it may stay so. What is still to be written must go out as fast
    /// as a stream must move.
    pub(crate) fn set_idle_deadline(&mut self, conn: &mut Conn) {
        let Some(timeouts) = conn.http().map(|http| http.config.timeouts) else { return };
        conn.idle_since = self.now;
        let flushed = self.now.after_limit(timeouts.stream_idle);
        self.set_deadline(conn, flushed.min(self.now.after_limit(timeouts.idle)));
    }
}

/// What the end of an upstream connection means to the requests on it.
fn loss_of(conn: &Conn) -> Failure {
    match &conn.protocol {
        Protocol::Opening => Failure::Connect,
        // A message that breaks off is malformed (RFC 9112 section 8).
        Protocol::Http1Client(h1) if matches!(h1.reading, Reading::Body(_)) => Failure::Protocol,
        _ => Failure::Closed,
    }
}

impl Side {
    pub(super) fn is_draining(&self) -> bool {
        match self {
            Side::Down(down) => down.draining,
            Side::Up(up) => up.draining,
        }
    }
}
