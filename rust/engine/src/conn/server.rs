//! Requests from clients: events of the server-side codecs become exchanges.

use pymesh_http::{h1, h2, Headers, Known, Scheme, Version};

use pymesh_model::http::HeaderCase;

use super::{Conn, Protocol, Reading};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::{from_extended_connect, Exchange, ExchangeKey, LocalReply, Tunnel};
use crate::telemetry::{details, Flags};

impl Engine {
    /// HTTP/1: one exchange at a time; what is pipelined behind it waits.
    pub(super) fn read_http1_requests(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let Protocol::Http1Server(h1) = &mut conn.protocol else { return bytes.len() };
            match &mut h1.reading {
                Reading::Head => {
                    if h1.exchange.is_some() || rest.is_empty() {
                        // A client that pipelines without end is not read further.
                        conn.paused = rest.len() >= conn.buffer_limit;
                        return used;
                    }
                    match self.read_http1_head(conn, rest) {
                        Some(n) => used += n,
                        None => return used,
                    }
                }
                Reading::Discard => return bytes.len(),
                Reading::Switching => {
                    conn.paused = rest.len() >= conn.buffer_limit;
                    return used;
                }
                Reading::Body(_) => {
                    let Some(key) = h1.exchange else { return bytes.len() };
                    if self.request_is_full(key) {
                        conn.paused = true;
                        return used;
                    }
                    match self.read_http1_body(conn, key, rest) {
                        Some(n) if n > 0 => used += n,
                        _ => return used,
                    }
                }
            }
        }
    }

    /// Parses a head and starts its exchange. `None` if more bytes are needed
    /// or the connection is done.
    fn read_http1_head(&mut self, conn: &mut Conn, bytes: &[u8]) -> Option<usize> {
        let http = conn.http().cloned()?;
        let Protocol::Http1Server(h1) = &mut conn.protocol else { return None };
        if !h1::is_worth_parsing(bytes, h1.tried) {
            return None;
        }
        h1.tried = 0;
        let scheme = if conn.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let mut request = std::mem::take(&mut self.scratch.request);
        let parsed = h1::parse_request(bytes, scheme, &http.limits, &mut request);
        self.scratch.request = request;
        let info = match parsed {
            Ok(Some(info)) => info,
            Ok(None) => {
                // The clock for the head starts with its first octet.
                let limit = self.now.after_limit(http.config.timeouts.request_headers);
                if conn.input.is_empty() {
                    self.set_deadline(conn, conn.deadline.min(limit));
                }
                if let Protocol::Http1Server(h1) = &mut conn.protocol {
                    h1.tried = bytes.len();
                }
                return None;
            }
            Err(refusal) => {
                self.refuse_http1(conn, refusal.status, refusal.reason);
                return None;
            }
        };
        let key = self.start_exchange(conn, None)?;
        let exchange = self.exchanges.get_mut(key)?;
        std::mem::swap(&mut exchange.request, &mut self.scratch.request);
        if http.config.header_case == HeaderCase::Preserve {
            h1::keep_spelling(bytes.get(..info.consumed).unwrap_or_default(), &mut exchange.request.headers);
        }
        exchange.expects_continue = info.expect_continue;
        exchange.tunnel = Tunnel::asked_by(&exchange.request, info.upgrade);
        let is_tunnel = exchange.tunnel.is_asked();
        let Protocol::Http1Server(h1) = &mut conn.protocol else { return None };
        h1.exchange = Some(key);
        h1.keep_alive = info.keep_alive;
        match info.framing {
            h1::Framing::None => {
                exchange.request_body.ended = !is_tunnel;
                exchange.request_received = Some(self.now);
                // Nothing is read as HTTP behind a request that may end HTTP.
                h1.reading = if is_tunnel { Reading::Switching } else { Reading::Head };
            }
            framing => {
                exchange.tunnel.after_content = is_tunnel;
                h1.reading = Reading::Body(h1::BodyDecoder::new(framing, &http.limits));
            }
        }
        Some(info.consumed)
    }

    fn read_http1_body(&mut self, conn: &mut Conn, key: ExchangeKey, bytes: &[u8]) -> Option<usize> {
        let Protocol::Http1Server(h1) = &mut conn.protocol else { return None };
        let Reading::Body(decoder) = &mut h1.reading else { return None };
        let mut trailers = Headers::new();
        match decoder.decode(bytes, &mut trailers) {
            Err(refusal) => {
                h1.keep_alive = false;
                h1.reading = Reading::Discard;
                self.break_request(key, refusal.status, refusal.reason);
                None
            }
            Ok(step) => {
                if step.ended {
                    let is_tunnel = self.exchanges.get(key).is_some_and(|exchange| exchange.tunnel.is_asked());
                    h1.reading = if is_tunnel { Reading::Switching } else { Reading::Head };
                }
                if !step.data.is_empty() {
                    let data = bytes.get(step.data.clone()).unwrap_or_default();
                    self.request_data(key, data);
                }
                if step.ended {
                    self.request_ended(key, &mut trailers);
                }
                Some(step.consumed)
            }
        }
    }

    /// Answers what could not be parsed, and closes. There is no exchange: the
    /// request was not understood, so nothing may be said about it.
    pub(super) fn refuse_http1(&mut self, conn: &mut Conn, status: u16, reason: &'static str) {
        let Some(http) = conn.http().cloned() else { return };
        http.stats.downstream_cx_protocol_error.inc();
        let Some(key) = self.start_exchange(conn, None) else { return };
        if let Protocol::Http1Server(h1) = &mut conn.protocol {
            h1.exchange = Some(key);
            h1.keep_alive = false;
            h1.reading = Reading::Discard;
        }
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.request_body.ended = true;
        }
        self.reply_locally(
            key,
            LocalReply::new(status, reason)
                .with_flags(Flags::DOWNSTREAM_PROTOCOL_ERROR)
                .with_body(h1::reason_phrase(status).as_bytes())
                .closing(),
        );
        self.make_ready(key);
    }

    /// HTTP/2: every stream is an exchange.
    pub(super) fn read_http2_requests(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let Protocol::Http2Server(mut codec) = std::mem::replace(&mut conn.protocol, Protocol::Lent) else {
            return 0;
        };
        let mut input = bytes;
        let mut failure = None;
        loop {
            let mut scratch = std::mem::take(&mut self.scratch);
            let event = codec.receive(&mut input, &mut scratch);
            self.scratch = scratch;
            match event {
                Ok(Some(event)) => self.on_server_event(conn, &mut codec, event),
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let closing = codec.is_closing();
        let reading_head = codec.is_reading_head();
        conn.protocol = Protocol::Http2Server(codec);
        self.count_http2(conn);
        self.mark_dirty(conn);
        if let Some(error) = failure {
            if let Some(http) = conn.http() {
                http.stats.downstream_cx_protocol_error.inc();
            }
            self.log_unfinished_head(conn, Flags::DOWNSTREAM_PROTOCOL_ERROR, error.reason);
            self.count_http2_failure(conn, error);
            self.abandon_exchanges_of(conn, Flags::DOWNSTREAM_PROTOCOL_ERROR, error.reason);
            self.fail_conn(conn, Flags::DOWNSTREAM_PROTOCOL_ERROR, error.reason);
        } else if closing {
            self.close_http2_if_drained(conn);
        } else {
            self.watch_http2_head(conn, reading_head);
        }
        bytes.len()
    }

    /// A head that has begun has to be there in time, as with HTTP/1.
    fn watch_http2_head(&mut self, conn: &mut Conn, reading: bool) {
        let limit = conn.http().map_or(Time::NEVER, |http| self.now.after_limit(http.config.timeouts.request_headers));
        let Some(down) = conn.downstream_mut() else { return };
        match (reading, down.head_due == Time::NEVER) {
            (false, _) => down.head_due = Time::NEVER,
            (true, false) => {}
            (true, true) => {
                down.head_due = limit;
                self.set_deadline(conn, conn.deadline);
            }
        }
    }

    fn on_server_event(&mut self, conn: &mut Conn, codec: &mut h2::Connection, event: h2::Event<'_>) {
        match event {
            h2::Event::Request { stream, end_stream } => {
                let Some(key) = self.start_exchange(conn, Some(stream)) else {
                    codec.reset(stream, h2::ErrorCode::REFUSED_STREAM);
                    return;
                };
                codec.set_tag(stream, key.index() as u32);
                let Some(exchange) = self.exchanges.get_mut(key) else { return };
                std::mem::swap(&mut exchange.request, &mut self.scratch.request);
                exchange.request.version = Version::Http2;
                let is_extended = !exchange.request.protocol().is_empty();
                if is_extended {
                    from_extended_connect(&mut exchange.request);
                }
                exchange.tunnel = Tunnel::asked_by(&exchange.request, is_extended);
                let expect = exchange.request.headers.get_known(Known::Expect);
                exchange.expects_continue = expect.is_some_and(|expect| expect.eq_ignore_ascii_case(b"100-continue"));
                exchange.request_body.ended = end_stream;
                if end_stream || exchange.tunnel.is_asked() {
                    exchange.request_received = Some(self.now);
                }
            }
            h2::Event::HeadTooLarge { stream } => {
                let Some(key) = self.start_exchange(conn, Some(stream)) else { return };
                codec.set_tag(stream, key.index() as u32);
                if let Some(exchange) = self.exchanges.get_mut(key) {
                    exchange.request.version = Version::Http2;
                    exchange.request_body.ended = true;
                }
                let reply = LocalReply::new(431, "http2.headers_too_large");
                self.reply_locally(key, reply.with_flags(Flags::DOWNSTREAM_PROTOCOL_ERROR));
            }
            h2::Event::Malformed { fault } => {
                if let Some(http) = conn.http() {
                    http.stats.downstream_rq_tx_reset.inc();
                }
                self.log_unread(conn, Version::Http2, Flags::DOWNSTREAM_PROTOCOL_ERROR, fault);
            }
            h2::Event::Data { stream, tag, data, end_stream } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else {
                    codec.release(stream, data.len());
                    return;
                };
                if !data.is_empty() {
                    let taken = self.request_data(key, data);
                    codec.release(stream, taken);
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        exchange.request_body.unreleased += data.len() - taken;
                    }
                }
                if end_stream {
                    self.request_ended(key, &mut Headers::new());
                }
            }
            h2::Event::Trailers { stream, tag } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else { return };
                let mut trailers = std::mem::take(&mut self.scratch.trailers);
                self.request_ended(key, &mut trailers);
                self.scratch.trailers = trailers;
            }
            h2::Event::Reset { stream, tag, code, fault } => {
                let Some(key) = self.exchange_by_tag(conn, stream, tag) else { return };
                if let Some(http) = conn.http() {
                    match fault {
                        Some(_) => http.stats.downstream_rq_tx_reset.inc(),
                        None => http.stats.downstream_rq_rx_reset.inc(),
                    }
                }
                if fault.is_none() && self.is_mature(key) {
                    codec.forgive_reset();
                }
                let (flags, why) = match (fault, code) {
                    (Some(fault), _) => (Flags::DOWNSTREAM_PROTOCOL_ERROR, fault),
                    (None, h2::ErrorCode::REFUSED_STREAM) => {
                        (Flags::DOWNSTREAM_REMOTE_RESET, details::HTTP2_REMOTE_REFUSE)
                    }
                    (None, _) => (Flags::DOWNSTREAM_REMOTE_RESET, details::HTTP2_REMOTE_RESET),
                };
                self.abandon(key, flags, why);
            }
            h2::Event::WindowOpened { stream: Some((stream, tag)) } => {
                if let Some(key) = self.exchange_by_tag(conn, stream, tag) {
                    self.make_ready(key);
                }
            }
            h2::Event::WindowOpened { stream: None } => self.on_window_opened(conn),
            h2::Event::GoAway { .. } => {
                if let Some(down) = conn.downstream_mut() {
                    down.draining = true;
                }
            }
            h2::Event::PingAck(payload) => self.on_ping_ack(conn, codec, payload),
            h2::Event::Response { .. } | h2::Event::SettingsChanged => {}
        }
    }

    /// The connection ends while a head is on its way: a request was begun, and is told of.
    pub(super) fn log_unfinished_head(&mut self, conn: &mut Conn, flags: Flags, why: &'static str) {
        let version = match &conn.protocol {
            Protocol::Http1Server(h1) => {
                // Empty lines before a request are none yet.
                let is_begun = conn.input.as_slice().iter().any(|octet| !matches!(octet, b'\r' | b'\n'));
                let reads_head = h1.exchange.is_none() && matches!(h1.reading, Reading::Head);
                (reads_head && is_begun).then_some(Version::Http11)
            }
            Protocol::Http2Server(codec) => codec.is_in_new_head().then_some(Version::Http2),
            _ => None,
        };
        if let Some(version) = version {
            self.log_unread(conn, version, flags, why);
        }
    }

    /// A request that nobody could read has a line in the access log, and no exchange behind it.
    fn log_unread(&mut self, conn: &mut Conn, version: Version, flags: Flags, why: &'static str) {
        let Some(key) = self.start_exchange(conn, None) else { return };
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.request.version = version;
        }
        self.abandon(key, flags, why);
    }

    /// The request was answered, or has lived so long that to end it is no attack (as Envoy counts).
    fn is_mature(&self, key: ExchangeKey) -> bool {
        let least = self.options.overload.settings().premature_reset_lifetime;
        self.exchanges.get(key).is_some_and(|x| x.has_response || self.now.since(x.started) > least)
    }

    /// The exchange of a stream, unless it is over.
    pub(crate) fn exchange_by_tag(&self, conn: &Conn, stream: h2::StreamId, tag: u32) -> Option<ExchangeKey> {
        let key = self.exchanges.key_at(tag as usize)?;
        let exchange = self.exchanges.get(key)?;
        let ours = exchange.down == Some(conn.key) && exchange.down_stream == Some(stream)
            || exchange.up == Some(conn.key) && exchange.up_stream == Some(stream);
        ours.then_some(key)
    }

    /// The socket has taken enough that everybody who waited for it may try again.
    pub(crate) fn on_room(&mut self, conn: &mut Conn) {
        self.wake_all(&mut conn.waiting_for_room);
    }

    /// The connection's window, or that of every stream, has opened. Each time another
    /// of those who waited goes first: the first may take it all.
    pub(super) fn on_window_opened(&mut self, conn: &mut Conn) {
        if !conn.waiting_for_window.is_empty() {
            conn.waiting_for_window.rotate_left(1);
        }
        self.wake_all(&mut conn.waiting_for_window);
    }

    fn wake_all(&mut self, waiting: &mut Vec<ExchangeKey>) {
        for key in waiting.drain(..) {
            self.make_ready(key);
        }
    }

    /// A new exchange of a downstream connection, on the ready list.
    fn start_exchange(&mut self, conn: &mut Conn, stream: Option<h2::StreamId>) -> Option<ExchangeKey> {
        let http = conn.http().cloned()?;
        http.stats.downstream_rq_total.inc();
        http.stats.downstream_rq_active.inc();
        if let Some(down) = conn.downstream_mut() {
            down.requests = down.requests.saturating_add(1);
        }
        let mut exchange = self.spare_exchanges.pop().unwrap_or_default();
        let Exchange { down, down_stream, started, last_progress, deadline, .. } = &mut *exchange;
        *down = Some(conn.key);
        *down_stream = stream;
        *started = self.now;
        *last_progress = self.now;
        *deadline = self.now.after_limit(http.config.timeouts.stream_idle);
        if !http.config.timeouts.request.is_zero() {
            *deadline = (*deadline).min(self.now + http.config.timeouts.request);
        }
        let first_deadline = *deadline;
        exchange.http = Some(http);
        exchange.facts = conn.downstream().and_then(|down| down.facts.clone());
        let key = self.exchanges.insert_with(|_| exchange);
        self.timers.arm_exchange(key, first_deadline);
        self.make_ready(key);
        Some(key)
    }
}
