//! The response on its way out: head, filters, retries, body.

use pymesh_http::{h1, Case, Headers, Known, ResponseHead, Version};
use pymesh_model::http::{HeaderCase, ServerHeader};
use pymesh_model::overload::OverloadAction;

use super::stream::Way;
use super::{sticky, Collect, Exchange, ExchangeKey, Stage};
use crate::conn::{Conn, Protocol, Reading};
use crate::engine::Engine;
use crate::health::ClusterHealth;
use crate::telemetry::details;

impl Engine {
    /// The final response head of the upstream is in the scratch space.
    pub(crate) fn response_head(&mut self, key: ExchangeKey, ended: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        std::mem::swap(&mut exchange.response, &mut self.scratch.response);
        exchange.answer_messages();
        exchange.has_response = true;
        exchange.response_received = Some(self.now);
        exchange.last_progress = self.now;
        exchange.response_body.ended = ended;
        exchange.response_ended = Some(self.now).filter(|_| ended);
        if exchange.cluster_config.as_ref().is_some_and(|cluster| ClusterHealth::is_for(cluster)) {
            self.tell_answer(key);
        }
        self.make_ready(key);
    }

    /// Octets of the response body arrived; see [`Engine::request_data`].
    pub(crate) fn response_data(&mut self, key: ExchangeKey, data: &[u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        exchange.last_progress = self.now;
        exchange.response_body.total += data.len() as u64;
        exchange.messages.response_data(data);
        if exchange.is_translated(Way::Response) {
            self.stream_data(key, Way::Response, None, data);
            return 0;
        }
        let mut taken = 0;
        if exchange.response_started && exchange.response_body.buffer.is_empty() {
            taken = self.send_response_data(key, data);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        let rest = data.get(taken..).unwrap_or_default();
        if !rest.is_empty() {
            exchange.response_body.buffer.extend(rest);
            self.make_ready(key);
        }
        taken
    }

    /// The response is complete.
    pub(crate) fn response_ended(&mut self, key: ExchangeKey, trailers: &mut Headers) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        std::mem::swap(&mut exchange.response_body.trailers, trailers);
        exchange.response_body.ended = true;
        exchange.response_ended = Some(self.now);
        exchange.last_progress = self.now;
        self.stream_end(key, Way::Response, None);
    }

    pub(crate) fn response_is_ended(&self, key: ExchangeKey) -> bool {
        self.exchanges.get(key).is_none_or(|exchange| exchange.response_body.ended)
    }

    /// True while the exchange holds as much of the response as it may.
    pub(crate) fn response_is_full(&self, key: ExchangeKey) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| {
            let waiting = exchange.response_body.waiting().len();
            let most = self.options.stream_buffer.min(exchange.response_room());
            let room = most.max(exchange.response_body.collects.map_or(0, Collect::room));
            // What the client does not take waits where it is: in the upstream's socket.
            waiting >= room || exchange.response_started && waiting > 0 || exchange.response_body.held() >= most
        })
    }

    /// Moves the response on: its head once, then octets, then its end.
    pub(super) fn pump_response(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.has_response {
            return;
        }
        if !exchange.response_started {
            if !exchange.is_local && self.retry_response(key) {
                return;
            }
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            // Heads need room like bodies, or a client that asks and never reads would fill the memory.
            let down = exchange.down.and_then(|down| self.conns.get_mut(down));
            if let Some(conn) = down.filter(|conn| conn.is_full()) {
                return conn.wait_to_send(key, true);
            }
            if !matches!(exchange.stage, Stage::ResponseFilter(_)) {
                let begins = exchange.http.as_ref().and_then(|http| http.filters.response_begins(exchange.skips));
                if let (Some(begins), false) = (begins, std::mem::replace(&mut exchange.is_filtered, true)) {
                    // Filters see the response in reverse order.
                    exchange.stage = Stage::ResponseFilter(begins);
                    return self.finish_response_headers(key);
                }
                self.start_response(key);
            }
        }
        self.pump_response_body(key);
    }

    /// What the router does with a response's head before any filter sees it.
    fn finish_response_headers(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if std::mem::replace(&mut exchange.is_edited, true) {
            return;
        }
        if !exchange.is_local {
            exchange.details = details::VIA_UPSTREAM.into();
            self.finish_upstream_headers(key);
        }
        self.tell_attempts(key);
        if !self.exchanges.get(key).is_some_and(|exchange| Exchange::keeps_its_headers(exchange)) {
            self.edit_response_headers(key);
        }
    }

    /// Sends the response head downstream.
    pub(crate) fn start_response(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.response_started {
            return;
        }
        self.finish_response_headers(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.is_local {
            sticky::set_cookies(exchange);
        }
        exchange.response_started = true;
        exchange.answered = Some(self.now);
        exchange.request_body.stop_replay();
        let Some(http) = exchange.http.as_ref() else { return self.tell_progress(key) };
        let headers = &mut exchange.response.headers;
        match http.config.server_header {
            ServerHeader::Overwrite => headers.set_known(Known::Server, http.config.server_name.as_bytes()),
            ServerHeader::AppendIfAbsent if !headers.contains_known(Known::Server) => {
                headers.append_known(Known::Server, http.config.server_name.as_bytes());
            }
            ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
        }
        if !headers.contains_known(Known::Date) {
            headers.append_known(Known::Date, self.dates.http_date(self.clock.unix_nanos(self.now)));
        }
        if let Some(via) = &http.config.via {
            headers.append_known(Known::Via, via.as_bytes());
        }
        if http.config.always_set_request_id_in_response {
            if let Some(id) = exchange.request.headers.get_known(Known::XRequestId) {
                exchange.response.headers.set_known(Known::XRequestId, id);
            }
        }
        if http.config.header_case == HeaderCase::Proper {
            exchange.response.headers.write_in(Case::Proper);
        }
        let ended = exchange.response_body.is_drained() && !exchange.response_body.has_trailers();
        let Some(down) = exchange.down else { return };
        let Some(conn) = self.conns.get_mut(down) else { return };
        let most = http.config.limits.requests_per_connection;
        let is_used_up = most > 0 && conn.downstream().is_some_and(|down| down.requests >= most);
        let overload = self.options.overload.is_active(OverloadAction::DisableHttpKeepalive);
        let is_used_up = is_used_up || overload;
        let draining = is_used_up || conn.downstream().is_some_and(|down| down.draining);
        let Conn { protocol, output, .. } = &mut **conn;
        match protocol {
            Protocol::Http1Server(server) => {
                // Behind a request for another protocol nothing was read as HTTP.
                let is_http = !matches!(server.reading, Reading::Switching);
                let is_open = exchange.tunnel.open;
                server.keep_alive &= is_open || !draining && exchange.request_body.ended && is_http;
                let framing =
                    h1::response_framing(&exchange.response, exchange.request.method, exchange.request.version, ended);
                if framing == h1::Framing::UntilClose {
                    server.keep_alive = false;
                }
                h1::write_response(
                    output.tail(),
                    &exchange.response,
                    framing,
                    exchange.request.version,
                    server.keep_alive,
                );
                server.encoder = Some(h1::BodyEncoder::new(framing));
            }
            Protocol::Http2Server(h2) => {
                if let Some(stream) = exchange.down_stream {
                    if h2.send_response(stream, &exchange.response, ended).is_ok() && ended {
                        exchange.response_body.finished = true;
                    }
                }
            }
            _ => {}
        }
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(down);
        }
        if is_used_up {
            if let (true, Some(http)) = (overload, conn.http()) {
                http.stats.downstream_cx_overload_disable_keepalive.inc();
            }
            self.drain_conn(down);
        }
        let Some(exchange) = self.exchanges.get(key) else { return };
        if exchange.tunnel.open {
            self.become_tunnel(key, down);
        } else if exchange.messages.is_on() {
            self.tell_messages(key);
        }
    }

    fn pump_response_body(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.response_started {
            return;
        }
        if !exchange.response_body.waiting().is_empty() {
            let buffer = std::mem::take(&mut exchange.response_body.buffer);
            let taken = self.send_response_data(key, buffer.as_slice());
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            exchange.response_body.buffer = buffer;
            exchange.response_body.take(taken);
            let give_back = exchange.response_body.give_back(taken);
            self.release_upstream(key, give_back);
        } else if exchange.response_body.unreleased > 0 {
            let give_back = exchange.response_body.give_back(0);
            self.release_upstream(key, give_back);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.response_body.is_drained() && !exchange.response_body.finished {
            self.end_response(key);
        }
        let Some(exchange) = self.exchanges.get(key) else { return };
        // A tunnel goes on until both halves are closed.
        if exchange.response_body.finished && (!exchange.tunnel.open || exchange.request_body.finished) {
            self.finish_exchange(key);
        }
    }

    /// Writes response octets to the downstream codec; says how many it took.
    fn send_response_data(&mut self, key: ExchangeKey, data: &[u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        let Some(down) = exchange.down else {
            let taken = exchange.keep_answer(data);
            self.tell_progress(key);
            return taken;
        };
        let Some(conn) = self.conns.get_mut(down) else { return data.len() };
        let is_full = conn.is_full();
        let Conn { protocol, output, .. } = &mut **conn;
        let taken = match protocol {
            _ if is_full => 0,
            Protocol::Http1Server(server) => match server.encoder.as_mut() {
                // A body longer than its content-length is cut by the codec's refusal.
                Some(encoder) => match encoder.encode(output.tail(), data) {
                    Ok(()) => data.len(),
                    Err(_) => {
                        server.keep_alive = false;
                        data.len()
                    }
                },
                None => data.len(),
            },
            Protocol::Http2Server(h2) => match exchange.down_stream {
                Some(stream) => h2.send_data(stream, data, false).unwrap_or(data.len()),
                None => data.len(),
            },
            Protocol::Tunnel(_) => {
                output.extend(data);
                data.len()
            }
            _ => data.len(),
        };
        exchange.bytes_sent += taken as u64;
        if taken > 0 {
            exchange.last_progress = self.now;
        }
        if taken < data.len() {
            conn.wait_to_send(key, is_full);
        }
        // What took nothing has nothing new to write.
        if taken > 0 && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(down);
        }
        taken
    }

    /// Tells the client that the response is complete.
    fn end_response(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(down) = exchange.down else {
            exchange.response_body.finished = true;
            return self.tell_progress(key);
        };
        let Some(conn) = self.conns.get_mut(down) else { return };
        conn.end_message(exchange.down_stream, &exchange.response_body.trailers);
        exchange.response_body.finished = true;
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(down);
        }
    }

    /// An interim answer (1xx) of the upstream is in the scratch space. It is passed on with `proxy_100_continue`, else
    /// dropped, as by Envoy; dropped also for a client of HTTP/1.0, which knows none, and for one that does not read.
    pub(crate) fn interim_response(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let is_wanted = exchange.http.as_ref().is_some_and(|http| http.config.proxy_100_continue);
        if !is_wanted || exchange.has_response || exchange.request.version == Version::Http10 {
            return;
        }
        let Some(down) = exchange.down else { return };
        let Some(conn) = self.conns.get_mut(down).filter(|conn| !conn.is_full()) else { return };
        exchange.is_final = true;
        let head = &self.scratch.response;
        match (&mut conn.protocol, exchange.down_stream) {
            (Protocol::Http1Server(_), _) => {
                h1::write_response(conn.output.tail(), head, h1::Framing::None, Version::Http11, true);
            }
            (Protocol::Http2Server(h2), Some(stream)) => {
                let _gone = h2.send_response(stream, head, false);
            }
            _ => return,
        }
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(down);
        }
    }

    /// `Expect: 100-continue`: the client may send its body, since somebody
    /// is there to take it (RFC 9110 section 10.1.1).
    pub(crate) fn send_continue(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.expects_continue || exchange.sent_continue || exchange.request_body.total > 0 {
            return;
        }
        exchange.sent_continue = true;
        let Some(down) = exchange.down else { return };
        let Some(conn) = self.conns.get_mut(down) else { return };
        match (&mut conn.protocol, exchange.down_stream) {
            (Protocol::Http1Server(_), _) => conn.output.extend(b"HTTP/1.1 100 Continue\r\n\r\n"),
            (Protocol::Http2Server(h2), Some(stream)) => {
                let interim = ResponseHead { status: 100, ..ResponseHead::default() };
                let _gone = h2.send_response(stream, &interim, false);
            }
            _ => return,
        }
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(down);
        }
    }
}
