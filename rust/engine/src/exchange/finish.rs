//! How an exchange ends, and its deadlines.

use pymesh_http::h2;

use super::asking::Waiter;
use super::tunnel::reset_code;
use super::{Exchange, ExchangeKey, Failure, LocalReply, Stage};
use crate::base::time::Time;
use crate::conn::{Conn, Protocol, Reading};
use crate::engine::Engine;
use crate::shared::Resource;
use crate::telemetry::{details, Flags};

/// Recycled exchanges that are kept.
const SPARE: usize = 256;

/// When the deadlines of an attempt and its exchange run out.
struct Due {
    /// The route's timeout.
    route: Time,
    per_try: Time,
    per_try_idle: Time,
    /// `max_stream_duration` of the cluster.
    attempt: Time,
    /// A stream without progress.
    idle: Time,
}

impl Default for Due {
    fn default() -> Self {
        let never = Time::NEVER;
        Due { route: never, per_try: never, per_try_idle: never, attempt: never, idle: never }
    }
}

impl Engine {
    /// The response is out. What is left of the request is of no interest.
    pub(super) fn finish_exchange(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let request_complete = exchange.request_body.ended;
        let (down, stream) = (exchange.down, exchange.down_stream);
        self.detach_upstream(key);
        self.record(key);
        self.recycle(key);
        let Some(mut conn) = down.and_then(|down| self.conns.lend(down)) else { return };
        let conn_key = conn.key;
        let is_draining = conn.downstream().is_some_and(|down| down.draining);
        match &mut conn.protocol {
            Protocol::Http1Server(server) => {
                server.exchange = None;
                server.encoder = None;
                // That it drains alone is no reason to close: perhaps the answer could not say so any more.
                let reusable = server.keep_alive && request_complete && matches!(server.reading, Reading::Head);
                match reusable {
                    false => self.close_after_flush(&mut conn),
                    true => {
                        match is_draining {
                            true => {
                                let limit = self.drain_limit(&conn);
                                self.set_deadline(&mut conn, limit);
                            }
                            false => self.set_idle_deadline(&mut conn),
                        }
                        if !conn.input.is_empty() || conn.peer_closed {
                            self.rescan(&mut conn);
                        }
                    }
                }
            }
            Protocol::Http2Server(codec) => {
                if let Some(stream) = stream {
                    // RFC 9113 section 8.1: the answer did not need the rest of the request. If all
                    // of it came, this gives back what nobody took of it.
                    codec.reset(stream, h2::ErrorCode::NO_ERROR);
                }
                if codec.active_streams() == 0 && !is_draining {
                    self.set_idle_deadline(&mut conn);
                }
                self.close_http2_if_drained(&mut conn);
                self.mark_dirty(&mut conn);
            }
            Protocol::Tunnel(_) => self.close_after_flush(&mut conn),
            _ => {}
        }
        self.conns.give_back(conn_key, conn);
    }

    /// The exchange cannot be answered (any more): both sides are told by a
    /// reset or a close.
    pub(crate) fn abandon(&mut self, key: ExchangeKey, flags: Flags, why: &'static str) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.flags.insert(flags);
        exchange.details = why.into();
        let (down, stream, code) = (exchange.down, exchange.down_stream, reset_code(exchange.tunnel));
        self.detach_upstream(key);
        self.record(key);
        self.recycle(key);
        let Some(mut conn) = down.and_then(|down| self.conns.lend(down)) else { return };
        let conn_key = conn.key;
        match &mut conn.protocol {
            Protocol::Http1Server(server) if server.exchange == Some(key) => {
                server.exchange = None;
                // What was promised cannot be delivered: only a close says so.
                self.close_after_flush(&mut conn);
            }
            Protocol::Tunnel(end) if end.exchange == Some(key) => self.close_after_flush(&mut conn),
            Protocol::Http2Server(codec) => {
                if let Some(stream) = stream {
                    codec.reset(stream, code);
                    if let Some(http) = conn.http() {
                        http.stats.downstream_rq_tx_reset.inc();
                    }
                }
                self.close_http2_if_drained(&mut conn);
                self.mark_dirty(&mut conn);
            }
            _ => {}
        }
        self.conns.give_back(conn_key, conn);
    }

    /// All exchanges of a client's connection end with it; true if there were any.
    pub(crate) fn abandon_exchanges_of(&mut self, conn: &Conn, flags: Flags, why: &'static str) -> bool {
        let left = self.exchanges_of(conn);
        for key in &left {
            self.abandon(*key, flags, why);
        }
        !left.is_empty()
    }

    /// The exchanges of a client's connection. It names them itself: when ten thousand clients leave at once, nobody may
    /// look at ten thousand exchanges for each.
    pub(crate) fn exchanges_of(&self, conn: &Conn) -> Vec<ExchangeKey> {
        let walk = || -> Vec<ExchangeKey> {
            let of_it = |key: &ExchangeKey| self.exchanges.get(*key).is_some_and(|x| x.down == Some(conn.key));
            self.exchanges.keys().filter(of_it).collect()
        };
        let named: Vec<ExchangeKey> = match &conn.protocol {
            Protocol::Http1Server(h1) => h1.exchange.into_iter().collect(),
            Protocol::Tunnel(end) => end.exchange.into_iter().collect(),
            Protocol::Http2Server(codec) => {
                codec.tags().filter_map(|(stream, tag)| self.exchange_by_tag(conn, stream, tag)).collect()
            }
            // The codec is with the function that feeds it.
            Protocol::Lent => walk(),
            _ => Vec::new(),
        };
        debug_assert!(walk().iter().all(|key| named.contains(key)), "an exchange that its connection does not name");
        named
    }

    /// It is over: who has asked for it is told, or else logs and metrics are.
    fn record(&mut self, key: ExchangeKey) {
        self.tell_filters(key);
        self.tell_messages(key);
        match self.exchanges.get(key) {
            Some(exchange) if exchange.detached.is_some() => self.conclude(key),
            Some(exchange) => {
                let (clusters, secrets) = (&self.clusters, &self.secrets);
                let upstream = |exchange: &Exchange| {
                    let cluster = exchange.cluster.and_then(|key| clusters.get(key));
                    cluster.map(|cluster| cluster.principals(exchange.host, secrets)).unwrap_or_default()
                };
                self.telemetry.request(exchange, self.now, &mut self.rng, upstream);
                if exchange.trace.is_some() {
                    self.end_trace(key);
                }
            }
            None => {}
        }
    }

    /// Takes the exchange out and keeps its memory for the next one.
    fn recycle(&mut self, key: ExchangeKey) {
        let Some(mut exchange) = self.exchanges.remove(key) else { return };
        self.cut_mirrors(&mut exchange);
        self.end_calls_of(&mut exchange);
        self.stop_asking(&mut exchange);
        self.stop_awaiting(&mut exchange);
        if let Some(http) = &exchange.http {
            http.stats.downstream_rq_active.dec();
            if exchange.tunnel.is_counted {
                http.stats.downstream_cx_upgrades_active.dec();
            }
            http.stats.downstream_rq_completed.inc();
            let status = exchange.response.status;
            match status / 100 {
                2 => http.stats.downstream_rq_2xx.inc(),
                3 => http.stats.downstream_rq_3xx.inc(),
                4 => http.stats.downstream_rq_4xx.inc(),
                5 => http.stats.downstream_rq_5xx.inc(),
                _ => {}
            }
        }
        if let Some(cluster) = exchange.cluster.and_then(|cluster| self.clusters.get_mut(cluster)) {
            if exchange.holds_retry {
                cluster.load.take(exchange.priority, Resource::Retries);
            }
            if exchange.response_started && !exchange.is_local {
                cluster.stats.count_status(exchange.response.status);
            }
        }
        if let (Some(cluster), true) = (exchange.cluster, exchange.holds_retry) {
            self.drop_cluster_if_over(cluster);
        }
        if self.spare_exchanges.len() < SPARE {
            exchange.reset();
            self.spare_exchanges.push(exchange);
        }
    }

    /// The clock of the route runs from the end of the request, as in Envoy.
    pub(crate) fn arm_request_timeout(&mut self, key: ExchangeKey) {
        let deadline = self.next_deadline(key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.deadline = deadline;
            self.timers.arm_exchange(key, deadline);
        }
    }

    pub(super) fn arm_per_try_timeout(&mut self, key: ExchangeKey) {
        self.arm_request_timeout(key);
    }

    /// The earliest of everything that may run out.
    fn next_deadline(&self, key: ExchangeKey) -> Time {
        let Some(exchange) = self.exchanges.get(key) else { return Time::NEVER };
        let Due { route, per_try, per_try_idle, attempt, idle } = self.due(key);
        let wake = match exchange.stage {
            Stage::BackingOff => exchange.retry_at,
            Stage::FilterWaits(_) => exchange.filter_resumes_at,
            _ => Time::NEVER,
        };
        let duration = exchange.started.after_limit(exchange.max_duration);
        let upstream = route.min(per_try).min(per_try_idle).min(attempt);
        let hook = exchange.away.iter().map(|away| away.due).min().unwrap_or(Time::NEVER);
        upstream.min(idle).min(wake).min(hook).min(duration).min(self.request_deadline(key))
    }

    fn due(&self, key: ExchangeKey) -> Due {
        let mut due = Due::default();
        let Some(exchange) = self.exchanges.get(key) else { return due };
        let stream_idle = match (&exchange.http, &exchange.detached) {
            (Some(http), _) => http.config.timeouts.stream_idle,
            (None, Some(detached)) => detached.idle_timeout,
            (None, None) => return due,
        };
        let forward = exchange.forward();
        let idle = forward.and_then(|f| f.idle_timeout).unwrap_or(stream_idle);
        due.idle = exchange.last_progress.after_limit(idle);
        let limit = exchange.timeout_override.or_else(|| Some(forward?.timeout));
        let (Some(limit), false) = (limit, exchange.is_local) else { return due };
        let started = exchange.upstream_started;
        if let (Some(started), Some(cluster)) = (started, &exchange.cluster_config) {
            due.attempt = started.after_limit(cluster.http.max_stream_duration);
        }
        if exchange.tunnel.open {
            return due;
        }
        // As in Envoy these clocks run from the end of the request: a client that is slow to send it does not make
        // the upstream slow to answer.
        let is_with_filters =
            matches!(exchange.stage, Stage::Arrived | Stage::RequestFilter(_) | Stage::FilterWaits(_));
        let Some(received) = exchange.request_received.filter(|_| !is_with_filters) else { return due };
        // Nor do filters.
        let received = received.max(exchange.forwarded);
        due.route = received.after_limit(limit);
        if let (Some(retry), Some(started)) = (exchange.retry(), started.map(|started| started.max(received))) {
            if !exchange.has_response {
                due.per_try = started.after_limit(retry.per_try_timeout);
            }
            due.per_try_idle = started.max(exchange.last_progress).after_limit(retry.per_try_idle_timeout);
        }
        due
    }

    fn request_deadline(&self, key: ExchangeKey) -> Time {
        let Some(exchange) = self.exchanges.get(key) else { return Time::NEVER };
        let is_complete = exchange.request_body.ended || exchange.tunnel.is_asked() && !exchange.tunnel.after_content;
        match (&exchange.http, is_complete) {
            (Some(http), false) => exchange.started.after_limit(http.config.timeouts.request),
            _ => Time::NEVER,
        }
    }

    /// The time of the whole exchange is over, whether or not its timer has been looked at.
    pub(super) fn is_too_late(&self, key: ExchangeKey) -> bool {
        let Some(exchange) = self.exchanges.get(key) else { return false };
        exchange.started.after_limit(exchange.max_duration).min(self.due(key).route) <= self.now
    }

    /// The deadline of an exchange has passed: which one, and what of it.
    pub(crate) fn on_exchange_deadline(&mut self, key: ExchangeKey) {
        let now = self.now;
        let next = self.next_deadline(key);
        let due = self.due(key);
        let request = self.request_deadline(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.deadline = next;
        if next > now {
            self.timers.arm_exchange(key, next);
            return;
        }
        let http = exchange.http.clone();
        let stats = http.as_ref().map(|http| &http.stats);
        let cluster = exchange.cluster.and_then(|cluster| self.clusters.get(cluster));
        if request <= now {
            stats.inspect(|stats| stats.downstream_rq_timeout.inc());
            return self.give_up(key, 408, details::REQUEST_OVERALL_TIMEOUT, Flags::NONE, b"request timeout");
        }
        if exchange.started.after_limit(exchange.max_duration) <= now {
            stats.inspect(|stats| stats.downstream_rq_max_duration_reached.inc());
            let body = b"downstream duration timeout";
            let status = if exchange.request_body.ended { 504 } else { 408 };
            return self.give_up(key, status, details::MAX_DURATION_TIMEOUT, Flags::NONE, body);
        }
        if due.route <= now {
            if let Some(cluster) = cluster {
                cluster.stats.upstream_rq_timeout.inc();
            }
            self.tell_timeout(key);
            let flags = Flags::UPSTREAM_REQUEST_TIMEOUT;
            return self.give_up(key, 504, details::UPSTREAM_RESPONSE_TIMEOUT, flags, b"upstream request timeout");
        }
        if due.idle <= now {
            stats.inspect(|stats| stats.downstream_rq_idle_timeout.inc());
            let flags = Flags::STREAM_IDLE_TIMEOUT;
            let status = if exchange.request_body.ended { 504 } else { 408 };
            return self.give_up(key, status, details::STREAM_IDLE_TIMEOUT, flags, b"stream timeout");
        }
        let ended = [
            (due.attempt, Failure::StreamDuration),
            (due.per_try, Failure::PerTryTimeout),
            (due.per_try_idle, Failure::PerTryIdleTimeout),
        ];
        if let Some((_, failure)) = ended.into_iter().find(|(due, _)| *due <= now) {
            if let Some(cluster) = cluster {
                match failure {
                    Failure::StreamDuration => cluster.stats.upstream_rq_max_duration_reached.inc(),
                    Failure::PerTryTimeout => cluster.stats.upstream_rq_per_try_timeout.inc(),
                    _ => cluster.stats.upstream_rq_per_try_idle_timeout.inc(),
                }
            }
            exchange.upstream_started = None;
            return self.upstream_failed(key, failure);
        }
        if exchange.away.iter().any(|away| away.due <= now) {
            self.release_late_calls(key);
            return self.arm_request_timeout(key);
        }
        if exchange.stage == Stage::BackingOff && exchange.retry_at <= now {
            self.retry_now(key);
        }
        if let Some(exchange) = self.exchanges.get(key) {
            if let (Stage::FilterWaits(filter), true) = (exchange.stage, exchange.filter_resumes_at <= now) {
                self.wake(Waiter { exchange: key, filter });
            }
        }
        self.arm_request_timeout(key);
    }

    /// Too late: an answer if none has begun, else a reset.
    fn give_up(&mut self, key: ExchangeKey, status: u16, why: &'static str, flags: Flags, body: &[u8]) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        // Who takes no octet would not take an answer either.
        let takes_none = exchange.down.and_then(|down| self.conns.get(down)).is_some_and(|conn| conn.is_full());
        if exchange.response_started || takes_none {
            return self.abandon(key, flags, why);
        }
        self.detach_upstream(key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.in_filter = false;
        }
        self.reply_locally(key, LocalReply::new(status, why).with_flags(flags).with_body(body));
        self.make_ready(key);
    }
}
