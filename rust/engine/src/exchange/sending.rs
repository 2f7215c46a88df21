//! The request over its upstream connection: head, body as fast as either side's flow control lets it go, end.

use std::time::Duration;

use pymesh_http::{h1, h2, Case, Known, Version};
use pymesh_model::http::HeaderCase;
use pymesh_model::route::{Forward, HostRewrite};

use super::forward::{decimal, rewrite_host};
use super::request::asked_for;
use super::tunnel::Asks;
use super::{mirror, websocket, Exchange, ExchangeKey, Failure};
use crate::base::time::Time;
use crate::conn::{Conn, ConnKey, Http1Client, Protocol};
use crate::engine::Engine;
use crate::route;

impl Engine {
    /// Writes the request head. One that asks an HTTP/2 server for an upgrade waits until
    /// it is known whether that is offered (RFC 8441 section 3).
    pub(super) fn start_request(&mut self, key: ExchangeKey, conn: &mut Conn) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let asks = exchange.tunnel.asks;
        if matches!(&conn.protocol, Protocol::Http2Client(h2) if asks == Asks::Upgrade && !h2.knows_peer()) {
            return conn.wait_to_send(key, false);
        }
        exchange.request_started = true;
        let is_http2 = matches!(conn.protocol, Protocol::Http2Client(_));
        exchange.upstream_version = Some(if is_http2 { Version::Http2 } else { Version::Http11 });
        match &exchange.detached {
            Some(detached) if detached.tells_the_way => mirror::tell_the_way(exchange, &mut self.text),
            _ => {
                finish_request_head(exchange, self.now);
                exchange.tell_trace(if is_http2 { Version::Http2 } else { Version::Http11 });
            }
        }
        if exchange.cluster_config.as_ref().is_some_and(|cluster| cluster.http.header_case == HeaderCase::Proper) {
            exchange.request.headers.write_in(Case::Proper);
        }
        let holds_back = exchange.tunnel.holds_back();
        let ended = exchange.request_body.is_drained() && !exchange.request_body.has_trailers() && !holds_back;
        let Conn { protocol, output, .. } = conn;
        let mut refused = false;
        match protocol {
            Protocol::Http1Client(client) => {
                if asks == Asks::Upgrade && exchange.down_stream.is_some() {
                    exchange.tunnel.own_key |= websocket::give_key(&mut exchange.request.headers, &mut self.rng);
                }
                let framing = match holds_back {
                    true => h1::Framing::None,
                    false => h1::request_framing(&exchange.request, ended),
                };
                h1::write_request(output.tail(), &exchange.request, framing);
                *client = Http1Client {
                    exchange: Some(key),
                    encoder: Some(h1::BodyEncoder::new(framing)),
                    keep_alive: true,
                    method: exchange.request.method,
                    asked_upgrade: asks == Asks::Upgrade,
                    ..Http1Client::default()
                };
            }
            // In HTTP/2 there is no content in front of a tunnel.
            Protocol::Http2Client(_) if asks == Asks::Upgrade && exchange.tunnel.after_content => refused = true,
            Protocol::Http2Client(h2) => {
                if asks == Asks::Upgrade {
                    let protocol = asked_for(&exchange.request).to_vec();
                    exchange.request.set_protocol(&protocol);
                }
                match h2.open(&exchange.request, ended, key.index() as u32) {
                    Ok(stream) => {
                        exchange.up_stream = Some(stream);
                        exchange.request_body.finished = ended;
                        exchange.request_sent = Some(self.now).filter(|_| ended);
                    }
                    Err(_) => refused = true,
                }
            }
            // There is nobody to ask: the connection is the agreement.
            Protocol::Tunnel(end) => {
                end.exchange = Some(key);
                exchange.open_tunnel();
                self.scratch.response.clear();
                self.scratch.response.status = 200;
                self.response_head(key, false);
            }
            _ => refused = true,
        }
        self.mark_dirty(conn);
        if refused {
            self.upstream_failed(key, Failure::RefusedStream);
        }
    }

    /// Tries again what had to wait in [`Engine::start_request`].
    fn start_waiting_request(&mut self, key: ExchangeKey) {
        let Some(up) = self.exchanges.get(key).and_then(|exchange| exchange.up) else { return };
        let Some(mut conn) = self.conns.lend(up) else { return };
        self.start_request(key, &mut conn);
        self.conns.give_back(up, conn);
    }

    /// Moves the request body on, then says its end.
    pub(super) fn pump_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.up.is_none() || exchange.request_body.finished {
            return;
        }
        if !exchange.request_started {
            return self.start_waiting_request(key);
        }
        if exchange.tunnel.holds_back() {
            return;
        }
        if !exchange.request_body.waiting().is_empty() {
            // Lent, so that the codec can read it while the exchange changes.
            let mut body = std::mem::take(&mut exchange.request_body);
            let taken = self.send_request_data(key, body.waiting());
            body.take(taken);
            let give_back = body.give_back(taken);
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            exchange.request_body = body;
            self.release_downstream(key, give_back);
        } else if exchange.request_body.unreleased > 0 {
            let give_back = exchange.request_body.give_back(0);
            self.release_downstream(key, give_back);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.request_body.is_drained() {
            self.end_request(key);
        }
    }

    /// Writes request octets to the upstream codec; says how many it took.
    pub(super) fn send_request_data(&mut self, key: ExchangeKey, data: &[u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        let Some(up) = exchange.up.filter(|_| !exchange.tunnel.holds_back()) else { return 0 };
        let Some(conn) = self.conns.get_mut(up) else { return 0 };
        let is_full = conn.is_full();
        let Conn { protocol, output, .. } = &mut **conn;
        let taken = match protocol {
            _ if is_full => 0,
            Protocol::Http1Client(client) => match client.encoder.as_mut() {
                Some(encoder) => {
                    // The downstream codec has checked the length already.
                    let _checked = encoder.encode(output.tail(), data);
                    data.len()
                }
                None => data.len(),
            },
            Protocol::Http2Client(h2) => match exchange.up_stream {
                Some(stream) => h2.send_data(stream, data, false).unwrap_or(data.len()),
                None => 0,
            },
            Protocol::Tunnel(_) => {
                output.extend(data);
                data.len()
            }
            _ => 0,
        };
        if taken > 0 {
            exchange.last_progress = self.now;
        }
        if taken < data.len() {
            conn.wait_to_send(key, is_full);
        }
        // What took nothing has nothing new to write.
        if taken > 0 && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(up);
        }
        taken
    }

    fn end_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(up) = exchange.up else { return };
        let Some(conn) = self.conns.get_mut(up) else { return };
        conn.end_message(exchange.up_stream, &exchange.request_body.trailers);
        exchange.request_body.finished = true;
        exchange.request_sent = Some(self.now);
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(up);
        }
    }

    /// The upstream took octets that the client's flow control waits for.
    pub(super) fn release_downstream(&mut self, key: ExchangeKey, n: usize) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(down), stream) = (exchange.down, exchange.down_stream) else { return };
        let Some(conn) = self.conns.get_mut(down) else { return };
        release(conn, stream, n);
        self.touch(down);
    }

    /// The client took octets that the upstream's flow control waits for.
    pub(crate) fn release_upstream(&mut self, key: ExchangeKey, n: usize) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(up), stream) = (exchange.up, exchange.up_stream) else { return };
        let Some(conn) = self.conns.get_mut(up) else { return };
        release(conn, stream, n);
        self.touch(up);
    }

    /// Window updates may wait in the codec, and reading may go on.
    fn touch(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(conn.key);
        }
        if conn.paused && !conn.is_rescanned {
            conn.is_rescanned = true;
            self.rescans.push(conn.key);
        }
    }
}

/// What only the chosen attempt and endpoint can say about the request.
fn finish_request_head(exchange: &mut Exchange, now: Time) {
    let Some(routed) = &exchange.routed else { return };
    let virtual_host = routed.table.virtual_hosts.get(routed.virtual_host);
    if virtual_host.is_some_and(|host| host.attempt_count_in_request) {
        let attempt = decimal(u64::from(exchange.attempt));
        exchange.request.headers.set_known(Known::XEnvoyAttemptCount, attempt.as_bytes());
    }
    let Some(forward) = routed.forward() else { return };
    if let Some(limit) = time_for_attempt(exchange, forward, now) {
        let millis = decimal(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        exchange.request.headers.set_known(Known::XEnvoyExpectedRqTimeoutMs, millis.as_bytes());
        if forward.grpc_timeout.is_some() && route::matcher::is_grpc(&exchange.request) {
            // The server is told what is left of it.
            exchange.request.headers.set_known(Known::GrpcTimeout, route::grpc::timeout_value(limit).as_bytes());
        }
    }
    let rewrites = matches!(forward.host_rewrite, Some(HostRewrite::Endpoint));
    let endpoint = exchange.endpoint.as_ref().filter(|endpoint| rewrites && !endpoint.hostname.is_empty());
    if let Some(endpoint) = endpoint.cloned() {
        let append = forward.append_x_forwarded_host;
        rewrite_host(&mut exchange.request, endpoint.hostname.as_bytes(), append);
    }
}

/// How long the upstream has for this attempt, as it is told: what is left of the route's
/// time, and no more than one try may take. `None`: as long as it likes.
pub(super) fn time_for_attempt(exchange: &Exchange, forward: &Forward, now: Time) -> Option<Duration> {
    let whole = Some(exchange.timeout_override.unwrap_or(forward.timeout)).filter(|limit| !limit.is_zero());
    // The first attempt is given all of it, however long a connection took to open.
    let since = exchange.request_received.filter(|_| exchange.attempt > 1);
    let elapsed = since.map_or(Duration::ZERO, |received| now.since(received));
    let left = whole.map(|whole| whole.saturating_sub(elapsed).max(Duration::from_millis(1)));
    let per_try = exchange.retry().map(|retry| retry.per_try_timeout).filter(|limit| !limit.is_zero());
    left.into_iter().chain(per_try).min()
}

/// Gives flow-control credit back to whoever sent `n` octets.
fn release(conn: &mut Conn, stream: Option<h2::StreamId>, n: usize) {
    if let (Protocol::Http2Server(h2) | Protocol::Http2Client(h2), Some(stream)) = (&mut conn.protocol, stream) {
        if n > 0 {
            h2.release(stream, n);
        }
    }
}
