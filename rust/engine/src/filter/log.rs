//! What filters are told of exchanges that are over (`on_log`).
//!
//! Whatever the end was, also that a client has gone in the middle. The host takes the calls when everything that a turn
//! has to send was sent, so that they hold back nobody's answer. A filter is told of the requests that concern it; one
//! that had not had its turn is asked now whether it would have been concerned.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::filter::PythonFilter;

use super::{Hook, Kept, Origin};
use crate::engine::Engine;
use crate::exchange::ExchangeKey;
use crate::listener::HttpRuntime;
use crate::telemetry::stats::PythonFilterStats;

/// A filter that is to be told.
pub struct LogCall {
    /// Which filter.
    pub filter: Arc<PythonFilter>,
    /// What was.
    pub record: Arc<LogRecord>,
    /// What the host has kept with the exchange.
    pub kept: Kept,
    stats: Arc<PythonFilterStats>,
    http: Arc<HttpRuntime>,
}

impl LogCall {
    /// The hook has failed, which concerns nobody but who counts.
    pub fn failed(&self) {
        self.stats.failures.inc();
        self.http.stats.python_filter_failures.inc();
    }
}

/// An exchange that is over.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LogRecord {
    pub method: Vec<u8>,
    /// As the client has asked for it.
    pub path: Vec<u8>,
    pub authority: Vec<u8>,
    /// 0 if there was no answer.
    pub status: u16,
    /// Of the access log.
    pub flags: String,
    /// Of the access log.
    pub details: String,
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// The last endpoint that was tried.
    pub upstream: Option<SocketAddr>,
    pub origin: Origin,
}

impl Engine {
    /// True if filters are to be told of what is over.
    pub fn has_log_calls(&self) -> bool {
        !self.log_calls.is_empty()
    }

    /// The filters that are to be told, in order.
    pub fn take_log_calls(&mut self, into: &mut Vec<LogCall>) {
        into.append(&mut self.log_calls);
    }

    /// An exchange is over.
    pub(crate) fn tell_filters(&mut self, key: ExchangeKey) {
        if !self.filters.has_log {
            return;
        }
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.chose_filters) else { return };
        let Some(http) = exchange.http.clone() else { return };
        let mut record: Option<Arc<LogRecord>> = None;
        for (index, filter, stats) in http.filters.python_filters(exchange.skips) {
            let gate = self.filters.concerned(exchange, index, filter);
            if !gate.is_ok_and(|gate| gate.is_some_and(|gate| gate.hooks.has(Hook::Log))) {
                continue;
            }
            let request = &exchange.request;
            let record = record.get_or_insert_with(|| {
                let asked = request.headers.get(b"x-envoy-original-path").unwrap_or_else(|| request.path());
                Arc::new(LogRecord {
                    method: request.method_bytes().to_vec(),
                    path: asked.to_vec(),
                    authority: request.authority().to_vec(),
                    status: if exchange.has_response { exchange.response.status } else { 0 },
                    flags: exchange.flags.to_string(),
                    details: exchange.details.to_string(),
                    duration: self.now.since(exchange.started),
                    request_bytes: exchange.request_body.total,
                    response_bytes: exchange.bytes_sent,
                    upstream: exchange.endpoint.as_ref().map(|endpoint| endpoint.address),
                    origin: Origin::of(exchange),
                })
            });
            stats.calls.inc();
            http.stats.python_filter_calls.inc();
            self.log_calls.push(LogCall {
                filter: filter.clone(),
                stats: stats.clone(),
                http: http.clone(),
                record: record.clone(),
                kept: exchange.kept.clone(),
            });
        }
    }
}
