//! A Python filter's turns at its place in the chain.
//!
//! ```text
//! request:  head -> whole body (collected first) -> body and trailers as they stream
//! response: the same
//! ```
//!
//! Hooks that it has not are passed by. Between two turns the exchange remembers the last ([`Memory::Passed`]), and comes
//! here again. A filter that sees the body as it streams opens its place in the stream (`exchange/stream.rs`) and is passed
//! at once; if the body is complete already, it is waited for, so that a message is framed as what it has become.
//!
//! A body is complete when it has passed the filters in front that see it as it streams. Octets of a tunnel are no body,
//! and answers that cannot have one (to HEAD, 204, 304) have none to be seen.

use std::sync::Arc;

use pymesh_http::{Known, Method};
use pymesh_model::filter::PythonFilter;

use super::Memory;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::{Collect, Exchange, ExchangeKey, LocalReply, Stage};
use crate::filter::{FilterCall, Gate, Hook};
use crate::telemetry::details;
use crate::telemetry::stats::PythonFilterStats;

/// A filter with its place and its numbers.
pub(super) struct Python<'a> {
    pub index: usize,
    pub filter: &'a Arc<PythonFilter>,
    pub stats: &'a Arc<PythonFilterStats>,
}

/// What a filter that is not concerned lets pass.
#[derive(Clone, Copy, Default)]
struct Traits {
    hooks: crate::filter::Hooks,
    max_body: usize,
}

impl Engine {
    /// The request is at the filter.
    pub(super) fn pass_python_request(&mut self, key: ExchangeKey, python: &Python<'_>) {
        let Some(traits) = self.traits(key, python, Stage::RequestFilter(python.index + 1)) else { return };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let passed = exchange.last_passed(python.index);
        let has_body = !exchange.tunnel.is_asked();
        if passed.is_none() && traits.hooks.has(Hook::RequestHeaders) {
            return self.hold_for_hook(key, python, traits, Hook::RequestHeaders);
        }
        if passed < Some(Hook::RequestBody) && traits.hooks.has(Hook::RequestBody) && has_body {
            let body = &exchange.request_body;
            if body.is_complete() && body.waiting().len() <= traits.max_body {
                return self.hold_for_hook(key, python, traits, Hook::RequestBody);
            }
            // Called again when it is complete, or answered if it is too long.
            exchange.remember(python.index, Memory::Passed(Hook::RequestHeaders));
            exchange.stage = Stage::FilterWaits(python.index);
            exchange.filter_resumes_at = Time::NEVER;
            exchange.request_body.collects = Some(Collect { enough: usize::MAX, most: traits.max_body });
            self.await_cluster(key);
            self.send_continue(key);
            return self.make_ready(key);
        }
        if passed < Some(Hook::RequestChunk) && has_body {
            self.open_stream(key, &python.call(key, traits, Hook::RequestChunk));
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.request_body.ended && !exchange.request_body.is_complete() {
            exchange.remember(python.index, Memory::Passed(Hook::RequestChunk));
            return self.await_cluster(key);
        }
        exchange.stage = Stage::RequestFilter(python.index + 1);
    }

    /// The response is at the filter.
    pub(super) fn pass_python_response(&mut self, key: ExchangeKey, python: &Python<'_>) {
        let here = Stage::ResponseFilter(python.index + 1);
        let Some(traits) = self.traits(key, python, Stage::ResponseFilter(python.index)) else { return };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.stage = here;
        let passed = exchange.last_passed(python.index);
        let has_body = exchange.may_have_response_body();
        if passed.is_none() && traits.hooks.has(Hook::ResponseHeaders) {
            return self.hold_for_hook(key, python, traits, Hook::ResponseHeaders);
        }
        if passed < Some(Hook::ResponseBody) && traits.hooks.has(Hook::ResponseBody) && has_body {
            let body = &exchange.response_body;
            if body.waiting().len() > traits.max_body {
                self.detach_upstream(key);
                return self.reply_locally(key, LocalReply::new(500, details::RESPONSE_PAYLOAD_TOO_LARGE));
            }
            if body.is_complete() {
                return self.hold_for_hook(key, python, traits, Hook::ResponseBody);
            }
            // Called again when more has come.
            exchange.remember(python.index, Memory::Passed(Hook::ResponseHeaders));
            exchange.response_body.collects = Some(Collect { enough: usize::MAX, most: traits.max_body });
            let back = std::mem::take(&mut exchange.response_body.unreleased);
            return self.release_upstream(key, back);
        }
        if passed < Some(Hook::ResponseChunk) {
            let sees_body = [Hook::ResponseBody, Hook::ResponseChunk].iter().any(|hook| traits.hooks.has(*hook));
            if sees_body && exchange.request.method == Method::Head {
                // What a filter would make of the body that GET has is not known.
                exchange.response.headers.remove_known(Known::ContentLength);
            }
            if has_body {
                self.open_stream(key, &python.call(key, traits, Hook::ResponseChunk));
            }
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.response_body.collects = None;
        if exchange.response_body.ended && !exchange.response_body.is_complete() {
            return exchange.remember(python.index, Memory::Passed(Hook::ResponseChunk));
        }
        exchange.stage = Stage::ResponseFilter(python.index);
    }

    /// What the filter has to do with the exchange; `None` if that is nothing, which then goes on to `next`.
    fn traits(&mut self, key: ExchangeKey, python: &Python<'_>, next: Stage) -> Option<Traits> {
        let exchange = self.exchanges.get_mut(key)?;
        match self.filters.concerned(exchange, python.index, python.filter) {
            Ok(Some(Gate { hooks, max_body, .. })) => Some(Traits { hooks: *hooks, max_body: *max_body }),
            Ok(None) => {
                exchange.stage = next;
                None
            }
            Err(_not_loaded) => {
                exchange.stage = next;
                python.stats.failures.inc();
                self.filter_failed(key, python.filter.failure_policy);
                None
            }
        }
    }

    /// Has a hook called that the exchange waits for.
    fn hold_for_hook(&mut self, key: ExchangeKey, python: &Python<'_>, traits: Traits, hook: Hook) {
        let id = self.call_hook(python.call(key, traits, hook));
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.in_filter = true;
        exchange.filter_call = id;
    }
}

impl Python<'_> {
    fn call(&self, exchange: ExchangeKey, traits: Traits, hook: Hook) -> FilterCall {
        let (filter, stats) = (self.filter.clone(), self.stats.clone());
        FilterCall { id: 0, exchange, hook, index: self.index, filter, hooks: traits.hooks, stats }
    }
}

impl Exchange {
    /// The last hook of the filter that has had its turn.
    fn last_passed(&mut self, index: usize) -> Option<Hook> {
        match self.forget(index) {
            Some(Memory::Passed(hook)) => Some(hook),
            _ => None,
        }
    }

    /// Octets of a tunnel are no body, and some answers have none (RFC 9110 section 6.4.1).
    fn may_have_response_body(&self) -> bool {
        let is_bodiless = self.request.method == Method::Head || matches!(self.response.status, 204 | 304);
        !is_bodiless && !self.tunnel.open
    }
}
