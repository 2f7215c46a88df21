//! Responses from endpoints: events of the client-side codecs reach their exchanges.

use pymesh_http::{h1, h2, Headers};

use pymesh_model::http::HeaderCase;

use super::{Conn, Protocol, Reading};
use crate::engine::Engine;
use crate::exchange::{ExchangeKey, Failure, TunnelEnd, Verdict};

impl Engine {
    pub(super) fn read_http1_response(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                let key = match &conn.protocol {
                    Protocol::Http1Client(h1) if matches!(h1.reading, Reading::Body(_)) => h1.exchange,
                    _ => None,
                };
                conn.paused = key.is_some_and(|key| self.response_is_full(key));
                return used;
            }
            let Protocol::Http1Client(h1) = &mut conn.protocol else {
                return if matches!(conn.protocol, Protocol::Tunnel(_)) { used } else { bytes.len() };
            };
            let Some(key) = h1.exchange.filter(|_| !h1.response_ended) else {
                // Nobody asked. The octets cannot belong to a later request either.
                self.fail_upstream_protocol(conn);
                return bytes.len();
            };
            let read = match &h1.reading {
                Reading::Head => self.read_http1_response_head(conn, key, rest),
                Reading::Body(_) if self.response_is_full(key) => {
                    conn.paused = true;
                    return used;
                }
                Reading::Body(_) => self.read_http1_response_body(conn, key, rest),
                Reading::Discard | Reading::Switching => return bytes.len(),
            };
            match read {
                Some(n) if n > 0 => used += n,
                Some(_) => return used,
                None => return bytes.len(),
            }
        }
    }

    /// `Some(0)` if more bytes are needed, `None` if the connection failed.
    fn read_http1_response_head(&mut self, conn: &mut Conn, key: ExchangeKey, bytes: &[u8]) -> Option<usize> {
        let limits = self.upstream_limits(conn)?;
        let keeps_case = conn
            .upstream()
            .and_then(|up| self.clusters.get(up.cluster))
            .is_some_and(|cluster| cluster.config.http.header_case == HeaderCase::Preserve);
        let Protocol::Http1Client(h1) = &mut conn.protocol else { return None };
        if !h1::is_worth_parsing(bytes, h1.tried) {
            return Some(0);
        }
        h1.tried = 0;
        let response = &mut self.scratch.response;
        match h1::parse_response(bytes, h1.method, h1.asked_upgrade, &limits, response) {
            Ok(None) => {
                h1.tried = bytes.len();
                Some(0)
            }
            Err(_) => {
                self.fail_upstream_protocol(conn);
                None
            }
            Ok(Some(info)) if response.is_interim() => {
                h1.interims += 1;
                if h1.interims > limits.interim_responses {
                    self.fail_upstream_protocol(conn);
                    return None;
                }
                self.interim_response(key);
                Some(info.consumed)
            }
            Ok(Some(info)) => {
                if keeps_case {
                    h1::keep_spelling(bytes.get(..info.consumed).unwrap_or_default(), &mut response.headers);
                }
                let exchange = self.exchanges.get_mut(key).filter(|exchange| exchange.tunnel.is_asked());
                match exchange.map(|exchange| (exchange.judge_http1_answer(response), exchange)) {
                    Some((Verdict::Malformed, _)) => {
                        self.fail_upstream_protocol(conn);
                        return None;
                    }
                    Some((Verdict::Open, exchange)) => {
                        exchange.open_tunnel();
                        // What follows is not HTTP.
                        conn.protocol = TunnelEnd::of(Some(key));
                        self.rescan(conn);
                        self.response_head(key, false);
                        return Some(info.consumed);
                    }
                    Some((Verdict::Refused, _)) | None => {}
                }
                h1.keep_alive = info.keep_alive;
                let ended = info.framing == h1::Framing::None;
                match ended {
                    true => h1.response_ended = true,
                    false => h1.reading = Reading::Body(h1::BodyDecoder::new(info.framing, &limits)),
                }
                self.response_head(key, ended);
                Some(info.consumed)
            }
        }
    }

    fn read_http1_response_body(&mut self, conn: &mut Conn, key: ExchangeKey, bytes: &[u8]) -> Option<usize> {
        let Protocol::Http1Client(h1) = &mut conn.protocol else { return None };
        let Reading::Body(decoder) = &mut h1.reading else { return None };
        let mut trailers = Headers::new();
        match decoder.decode(bytes, &mut trailers) {
            Err(_) => {
                self.fail_upstream_protocol(conn);
                None
            }
            Ok(step) => {
                if step.ended {
                    h1.reading = Reading::Head;
                    h1.response_ended = true;
                }
                let data = bytes.get(step.data.clone()).unwrap_or_default();
                if !data.is_empty() {
                    self.response_data(key, data);
                }
                if step.ended {
                    self.response_ended(key, &mut trailers);
                }
                Some(step.consumed)
            }
        }
    }

    fn fail_upstream_protocol(&mut self, conn: &mut Conn) {
        if let Some(cluster) = conn.upstream().and_then(|up| self.clusters.get(up.cluster)) {
            cluster.stats.upstream_cx_protocol_error.inc();
        }
        self.lose_upstream(conn, Failure::Protocol);
        self.close_now(conn);
    }

    pub(super) fn read_http2_responses(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let Protocol::Http2Client(mut codec) = std::mem::replace(&mut conn.protocol, Protocol::Lent) else {
            return 0;
        };
        let mut input = bytes;
        let mut failure = None;
        loop {
            let mut scratch = std::mem::take(&mut self.scratch);
            let event = codec.receive(&mut input, &mut scratch);
            self.scratch = scratch;
            match event {
                Ok(Some(event)) => self.on_client_event(conn, &mut codec, event),
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        conn.protocol = Protocol::Http2Client(codec);
        self.count_http2(conn);
        self.mark_dirty(conn);
        // Streams may have ended, or the peer may allow more of them.
        self.serve_or_close(conn);
        if let Some(error) = failure {
            self.count_http2_failure(conn, error);
            if let Some(cluster) = conn.upstream().and_then(|up| self.clusters.get(up.cluster)) {
                cluster.stats.upstream_cx_protocol_error.inc();
            }
            self.lose_upstream(conn, Failure::Protocol);
            self.close_after_flush(conn);
        }
        bytes.len()
    }

    fn on_client_event(&mut self, conn: &mut Conn, codec: &mut h2::Connection, event: h2::Event<'_>) {
        match event {
            h2::Event::Response { stream, tag, end_stream } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else { return };
                if self.scratch.response.is_interim() {
                    return self.interim_response(key);
                }
                if let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.tunnel.is_asked()) {
                    if exchange.judge_http2_answer(&mut self.scratch.response) == Verdict::Open {
                        exchange.open_tunnel();
                    }
                }
                self.response_head(key, end_stream);
            }
            h2::Event::Data { stream, tag, data, end_stream } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else {
                    codec.release(stream, data.len());
                    return;
                };
                if !data.is_empty() {
                    let taken = self.response_data(key, data);
                    codec.release(stream, taken);
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        exchange.response_body.unreleased += data.len() - taken;
                    }
                }
                if end_stream {
                    self.response_ended(key, &mut Headers::new());
                }
            }
            h2::Event::Trailers { stream, tag } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else { return };
                let mut trailers = std::mem::take(&mut self.scratch.trailers);
                self.response_ended(key, &mut trailers);
                self.scratch.trailers = trailers;
            }
            h2::Event::Reset { stream, tag, code, fault } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else { return };
                let is_tunnel = self.exchanges.get(key).is_some_and(|exchange| exchange.tunnel.open);
                if self.response_is_ended(key) && !is_tunnel {
                    // A server that has answered may stop reading the request (RFC 9113, 8.1).
                    return self.make_ready(key);
                }
                let failure = match (fault, code) {
                    (Some(_), _) => Failure::Protocol,
                    (None, h2::ErrorCode::REFUSED_STREAM) => Failure::RefusedStream,
                    (None, _) => Failure::Reset,
                };
                self.upstream_failed(key, failure);
            }
            h2::Event::WindowOpened { stream: Some((stream, tag)) } => {
                if let Some(key) = self.exchange_by_tag(conn, stream, tag) {
                    self.make_ready(key);
                }
            }
            h2::Event::WindowOpened { stream: None } => self.on_window_opened(conn),
            // Who asks for a tunnel has waited for what the peer offers.
            h2::Event::SettingsChanged => self.on_window_opened(conn),
            h2::Event::GoAway { .. } => self.on_upstream_goaway(conn, codec),
            h2::Event::Request { .. }
            | h2::Event::HeadTooLarge { .. }
            | h2::Event::Malformed { .. }
            | h2::Event::PingAck(_) => {}
        }
    }

    fn upstream_limits(&self, conn: &Conn) -> Option<pymesh_http::Limits> {
        let cluster = self.clusters.get(conn.upstream()?.cluster)?;
        Some(pymesh_http::Limits {
            header_list_size: cluster.config.http.header_list_size,
            header_count: cluster.config.http.header_count,
            ..Default::default()
        })
    }
}
