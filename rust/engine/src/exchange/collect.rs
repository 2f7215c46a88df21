//! A filter that wants to see the body, or its beginning, before it decides.
//!
//! While a message waits with [`Pipe::collects`] set, its body is read on into the exchange beyond what else may wait
//! there, and flow control is given back for it, until the filter has enough, the body is complete, or it is more than
//! the filter takes. Then the filter is called again; what has come goes on to the upstream later as if nothing had
//! happened.

use super::{ExchangeKey, LocalReply, Stage};
use crate::engine::Engine;
use crate::telemetry::details;

#[cfg(doc)]
use super::Pipe;

/// How much of a body a filter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Collect {
    /// Octets that are enough.
    pub enough: usize,
    /// More than these are too many.
    pub most: usize,
}

impl Collect {
    /// Octets that may wait meanwhile: one more than may come, by which it is known that they have.
    pub fn room(self) -> usize {
        self.enough.min(self.most.saturating_add(1))
    }
}

impl Engine {
    /// More of the body may be there.
    #[cold]
    pub(super) fn collect_body(&mut self, key: ExchangeKey, filter: usize) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(collect) = exchange.request_body.collects else { return };
        let held = exchange.request_body.waiting().len();
        if held > collect.most {
            if let Some(http) = &exchange.http {
                http.stats.downstream_rq_too_large.inc();
            }
            let reply = LocalReply::new(413, details::REQUEST_PAYLOAD_TOO_LARGE).with_body(b"Payload Too Large");
            let is_complete = exchange.request_body.ended;
            return self.reply_locally(key, if is_complete { reply } else { reply.closing() });
        }
        if exchange.request_body.is_complete() || held >= collect.enough {
            exchange.request_body.collects = None;
            exchange.stage = Stage::RequestFilter(filter);
            return;
        }
        let back = std::mem::take(&mut exchange.request_body.unreleased);
        self.release_downstream(key, back);
    }
}
