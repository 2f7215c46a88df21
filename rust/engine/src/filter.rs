//! The seam to filters that run outside the engine (Python).
//!
//! The engine does not know what runs a filter. It asks a gate whether a
//! request concerns the filter; if so it parks the exchange and puts a
//! [`FilterCall`] on a list. The host takes the list once per loop turn, so
//! that all calls of a turn share one entry into the interpreter, and gives
//! each call back with an [`Outcome`]. A route without such filters never
//! reaches this file.

use std::any::Any;
use std::sync::Arc;

use pymesh_http::{RequestHead, ResponseHead};
use pymesh_model::filter::{FailurePolicy, PythonFilter};
use pymesh_model::matcher::HeaderMatch;

use crate::decisions::{Decision, FilterStep};
use crate::engine::Engine;
use crate::exchange::{ExchangeKey, LocalReply, Stage};
use crate::route;
use crate::telemetry::{details, Flags};

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `on_request_headers`
    Request,
    /// `on_response_headers`
    Response,
}

/// A hook that is to be called.
#[derive(Clone, Debug)]
pub struct FilterCall {
    /// Whose turn it is.
    pub exchange: ExchangeKey,
    /// Which hook.
    pub phase: Phase,
    /// The filter's place in its chain.
    pub index: usize,
    /// Which filter.
    pub filter: Arc<PythonFilter>,
}

/// What a loaded filter concerns itself with.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// It has a request hook.
    pub on_request: bool,
    /// It has a response hook.
    pub on_response: bool,
    /// Only requests that match all of these.
    pub when: Vec<HeaderMatch>,
}

/// What a hook made of its request.
#[derive(Debug)]
pub enum Outcome {
    /// On with it; `rerouted` if something that routing looks at has changed.
    Continue {
        /// The method, path, authority or a header was changed.
        changed: bool,
    },
    /// The filter answers itself.
    Reply {
        /// 200 to 599.
        status: u16,
        /// Names in any case.
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        /// The body.
        body: Vec<u8>,
    },
    /// The hook raised, or took too long.
    Failed(String),
}

/// What the host knows of the filters in use.
#[derive(Default)]
pub(crate) struct Gates {
    known: Vec<(Arc<PythonFilter>, Result<Gate, String>)>,
}

impl Gates {
    /// Whether a hook is to be called; an error if its filter could not be loaded.
    pub fn wants(&self, filter: &Arc<PythonFilter>, phase: Phase, request: &RequestHead) -> Result<bool, String> {
        let known = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, filter));
        let gate = match known {
            Some((_, Ok(gate))) => gate,
            Some((_, Err(error))) => return Err(error.clone()),
            None => return Err("the filter is not loaded".to_owned()),
        };
        let has_hook = match phase {
            Phase::Request => gate.on_request,
            Phase::Response => gate.on_response,
        };
        Ok(has_hook && gate.when.iter().all(|m| route::matcher::header_matches(m, request)))
    }
}

/// What a hook may look at, and change.
#[derive(Debug, Default)]
pub struct Heads {
    /// The request; changes count in the request phase only.
    pub request: RequestHead,
    /// The response, in the response phase.
    pub response: ResponseHead,
    /// The peer's SPIFFE ID, if it has shown one.
    pub peer: Option<String>,
    /// Name of the chosen route.
    pub route: Option<Arc<str>>,
    /// What the host keeps for the length of an exchange; empty at first.
    pub kept: Kept,
}

/// Something that a host keeps with an exchange. Dropped when that ends.
#[derive(Default)]
pub struct Kept(pub Option<Box<dyn Any + Send>>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Kept(..)" } else { "Kept" })
    }
}

impl Engine {
    /// Says what a filter concerns itself with, or why it cannot be used.
    /// Replaces all earlier answers for filters that are not in `gates`.
    pub fn set_filter_gates(&mut self, gates: Vec<(Arc<PythonFilter>, Result<Gate, String>)>) {
        self.filters.known = gates;
    }

    /// True if hooks are to be called.
    pub fn has_filter_calls(&self) -> bool {
        !self.filter_calls.is_empty()
    }

    /// The hooks that are to be called, in order.
    pub fn take_filter_calls(&mut self, into: &mut Vec<FilterCall>) {
        into.append(&mut self.filter_calls);
    }

    /// The heads that a hook works on; `None` if its exchange is over.
    pub fn lend_heads(&mut self, call: &FilterCall) -> Option<Heads> {
        let exchange = self.exchanges.get_mut(call.exchange).filter(|exchange| exchange.in_filter)?;
        Some(Heads {
            request: std::mem::take(&mut exchange.request),
            response: std::mem::take(&mut exchange.response),
            peer: exchange.facts.as_ref().and_then(|facts| facts.principal().map(str::to_owned)),
            route: exchange.routed.as_ref().map(|routed| routed.route.name.clone()),
            kept: std::mem::take(&mut exchange.kept),
        })
    }

    /// A hook has returned.
    pub fn finish_filter(&mut self, call: &FilterCall, heads: Heads, outcome: Outcome) {
        let key = call.exchange;
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.in_filter) else { return };
        exchange.in_filter = false;
        exchange.request = heads.request;
        exchange.response = heads.response;
        exchange.kept = heads.kept;
        let next = match call.phase {
            Phase::Request => Stage::RequestFilter(call.index + 1),
            Phase::Response => Stage::ResponseFilter(call.index),
        };
        exchange.stage = next;
        if call.phase == Phase::Request {
            let step = match outcome {
                Outcome::Continue { .. } => FilterStep::Continues,
                Outcome::Reply { .. } => FilterStep::Answers,
                Outcome::Failed(_) => FilterStep::Fails,
            };
            self.decisions.tell(|| Decision::Filter { filter: call.filter.class.clone(), step });
        }
        match outcome {
            Outcome::Continue { changed } => {
                if changed && call.phase == Phase::Request {
                    self.choose_route(key);
                }
            }
            Outcome::Reply { status, headers, body } => {
                if let Some(http) = &exchange.http {
                    http.stats.python_filter_replies.inc();
                }
                let mut reply = LocalReply::new(status, details::FILTER_REFUSED).with_body(&body);
                reply.extra_headers = headers;
                if call.phase == Phase::Response {
                    self.detach_upstream(key);
                }
                self.reply_locally(key, reply);
            }
            Outcome::Failed(error) => self.filter_failed(key, call.filter.failure_policy, error),
        }
        self.make_ready(key);
    }

    /// A filter could not do its work: its failure policy says what that means.
    /// The exchange's stage is already the one after the filter.
    pub(crate) fn filter_failed(&mut self, key: ExchangeKey, policy: FailurePolicy, _error: String) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let Some(http) = &exchange.http {
            http.stats.python_filter_failures.inc();
        }
        match policy {
            FailurePolicy::Open => {}
            FailurePolicy::Closed => {
                self.detach_upstream(key);
                let reply = LocalReply::new(500, details::FILTER_FAILED).with_flags(Flags::UNAUTHORIZED_EXTERNAL);
                self.reply_locally(key, reply);
            }
        }
    }
}
