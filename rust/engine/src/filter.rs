//! The seam to filters that run outside the engine (Python).
//!
//! The engine does not know what runs a filter. It asks a gate whether a request concerns the filter, and puts each hook
//! that is to be called on a list as a [`FilterCall`]. The host takes the list once per loop turn, so that all calls of
//! a turn share one entry into the interpreter, and gives each call back with an [`Outcome`], at once or later. A route
//! without such filters never reaches this file.
//!
//! There are two kinds of calls. Hooks of a head or of a whole body hold the exchange back at the filter's place in the
//! chain ([`crate::http_filter`] says which hook has its turn). Hooks of a body that streams hold back what they are given
//! and nothing else (`exchange/stream.rs`). A third kind concerns what is over and holds back nothing: [`log`].
//!
//! Invariants:
//! * whether a request concerns a filter is decided once, when the filter has its turn: it sees every hook of an
//!   exchange, or none;
//! * a call is finished once: [`FilterCall::id`] is never used again, so that an answer which comes when nobody waits for
//!   it any more changes nothing.

pub mod log;

use std::any::Any;
use std::sync::Arc;

use pymesh_http::{Headers, Known, RequestHead, ResponseHead};
use pymesh_model::filter::{FailurePolicy, PythonFilter};
use pymesh_model::matcher::HeaderMatch;

use crate::base::buffer::Buffer;
use crate::decisions::{Decision, FilterStep};
use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeKey, LocalReply, Routed, Stage};
use crate::http_filter::Memory;
use crate::route;
use crate::telemetry::stats::PythonFilterStats;
use crate::telemetry::{details, Facts, Flags};

/// Which hook, in the order in which a filter has its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Hook {
    RequestHeaders,
    RequestBody,
    RequestChunk,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseChunk,
    ResponseTrailers,
    Log,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Hook; 9] = [
        Hook::RequestHeaders,
        Hook::RequestBody,
        Hook::RequestChunk,
        Hook::RequestTrailers,
        Hook::ResponseHeaders,
        Hook::ResponseBody,
        Hook::ResponseChunk,
        Hook::ResponseTrailers,
        Hook::Log,
    ];

    /// As the contract calls it.
    pub fn name(self) -> &'static str {
        match self {
            Hook::RequestHeaders => "on_request_headers",
            Hook::RequestBody => "on_request_body",
            Hook::RequestChunk => "on_request_chunk",
            Hook::RequestTrailers => "on_request_trailers",
            Hook::ResponseHeaders => "on_response_headers",
            Hook::ResponseBody => "on_response_body",
            Hook::ResponseChunk => "on_response_chunk",
            Hook::ResponseTrailers => "on_response_trailers",
            Hook::Log => "on_log",
        }
    }

    /// It concerns the request on its way upstream.
    pub fn is_request(self) -> bool {
        self < Hook::ResponseHeaders
    }

    /// It is called while a body streams, beside everything else.
    pub fn is_stream(self) -> bool {
        use Hook::{RequestChunk, RequestTrailers, ResponseChunk, ResponseTrailers};
        matches!(self, RequestChunk | RequestTrailers | ResponseChunk | ResponseTrailers)
    }
}

/// A set of hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u16);

impl Hooks {
    /// True if `hook` is among them.
    pub fn has(self, hook: Hook) -> bool {
        self.0 & 1 << hook as u16 != 0
    }

    /// True if one that has its turn after `hook`, in the same direction, is among them.
    fn has_behind(self, hook: Hook) -> bool {
        let behind = |other: &Hook| *other > hook && other.is_request() == hook.is_request() && *other != Hook::Log;
        Hook::ALL.iter().filter(|other| behind(other)).any(|other| self.has(*other))
    }
}

impl FromIterator<Hook> for Hooks {
    fn from_iter<T: IntoIterator<Item = Hook>>(hooks: T) -> Self {
        Hooks(hooks.into_iter().fold(0, |set, hook| set | 1 << hook as u16))
    }
}

/// A hook that is to be called.
#[derive(Clone, Debug)]
pub struct FilterCall {
    /// No other call of this engine has it.
    pub id: u64,
    /// Whose turn it is.
    pub exchange: ExchangeKey,
    /// Which hook.
    pub hook: Hook,
    /// The filter's place in its chain.
    pub index: usize,
    /// Which filter.
    pub filter: Arc<PythonFilter>,
    /// All hooks of the filter.
    pub hooks: Hooks,
    /// Of the filter.
    pub stats: Arc<PythonFilterStats>,
}

/// What a loaded filter concerns itself with.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// The hooks that it has.
    pub hooks: Hooks,
    /// Only requests that match all of these.
    pub when: Vec<HeaderMatch>,
    /// Only requests that have one of these headers, in lower case; empty: any.
    pub wants: Vec<Box<str>>,
    /// Octets that its hooks of whole bodies wait for.
    pub max_body: usize,
}

impl Gate {
    fn admits(&self, request: &RequestHead) -> bool {
        let has = |name: &str| request.headers.get(name.as_bytes()).is_some();
        (self.wants.is_empty() || self.wants.iter().any(|name| has(name)))
            && self.when.iter().all(|m| route::matcher::header_matches(m, request))
    }
}

/// What a hook has changed of its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    #[default]
    Nothing,
    /// Header fields.
    Fields,
    /// The path or the authority, and perhaps fields.
    Target,
}

/// What a hook made of its request.
#[derive(Debug)]
pub enum Outcome {
    /// On with it.
    Continue {
        /// What was changed of the head.
        changed: Change,
        /// What takes the place of the body, or of the chunk.
        body: Option<Vec<u8>>,
    },
    /// The filter answers itself. Hooks of streams cannot.
    Reply {
        /// 200 to 599.
        status: u16,
        /// Names in any case.
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        /// The body.
        body: Vec<u8>,
    },
    /// The hook raised, or made nonsense.
    Failed(String),
    /// It took longer than it may.
    TimedOut,
    /// Too many calls of the filter run or wait already: it was not called.
    Overflow,
}

impl Outcome {
    /// The message passes as the hook has left it.
    pub const PASS: Outcome = Outcome::Continue { changed: Change::Nothing, body: None };
}

/// What the host knows of the filters in use.
#[derive(Default)]
pub(crate) struct Gates {
    known: Vec<(Arc<PythonFilter>, Result<Gate, String>)>,
    /// One of them wants to know what is over.
    has_log: bool,
}

impl Gates {
    fn of(&self, filter: &Arc<PythonFilter>) -> Result<&Gate, String> {
        match self.known.iter().find(|(known, _)| Arc::ptr_eq(known, filter)) {
            Some((_, Ok(gate))) => Ok(gate),
            Some((_, Err(error))) => Err(error.clone()),
            None => Err("the filter is not loaded".to_owned()),
        }
    }

    /// The gate of the filter at `index`, if the exchange concerns it; an error, once, if it could not be loaded.
    pub fn concerned(
        &self,
        exchange: &mut Exchange,
        index: usize,
        filter: &Arc<PythonFilter>,
    ) -> Result<Option<&Gate>, String> {
        if !exchange.judged.contains(index) {
            exchange.judged.add(index);
            if self.of(filter)?.admits(&exchange.request) {
                exchange.concerned.add(index);
            }
        }
        if exchange.concerned.contains(index) {
            self.of(filter).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// What a hook may look at, and change.
#[derive(Debug, Default)]
pub struct Heads {
    /// The request, for hooks of its head and its whole body; changes count.
    pub request: RequestHead,
    /// The response, likewise.
    pub response: ResponseHead,
    /// The whole body, or a piece of it that streams.
    pub body: Buffer,
    /// This is the last piece.
    pub end: bool,
    /// For hooks of trailers; changes count.
    pub trailers: Headers,
    /// Who asks for what.
    pub origin: Origin,
    /// What the host keeps for the length of an exchange; empty at first.
    pub kept: Kept,
}

/// What does not change between the hooks of an exchange.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    facts: Option<Arc<Facts>>,
    /// Name of the chosen route.
    pub route: Option<Arc<str>>,
    /// `x-request-id`; empty if there is none, something is kept already, or the head is lent that has it.
    pub request_id: Vec<u8>,
}

impl Heads {
    /// `x-request-id`; empty if there is none, or something is kept already.
    pub fn request_id(&self) -> &[u8] {
        match self.origin.request_id.is_empty() {
            true => self.request.headers.get_known(Known::XRequestId).unwrap_or_default(),
            false => &self.origin.request_id,
        }
    }
}

impl Origin {
    fn of(exchange: &Exchange) -> Origin {
        let id = exchange.request.headers.get_known(Known::XRequestId).filter(|_| exchange.kept.0.is_none());
        Origin { request_id: id.unwrap_or_default().to_vec(), ..Origin::beside_head(exchange) }
    }

    /// For a hook that has the request's head. Nothing is copied.
    fn beside_head(exchange: &Exchange) -> Origin {
        Origin {
            facts: exchange.facts.clone(),
            route: exchange.routed.as_ref().map(|routed| routed.route.name.clone()),
            request_id: Vec::new(),
        }
    }

    /// The peer's SPIFFE ID, if it has shown one.
    pub fn peer(&self) -> Option<&str> {
        self.facts.as_ref()?.principal()
    }
}

/// Something that a host keeps with an exchange. Dropped when that ends.
#[derive(Clone, Default)]
pub struct Kept(pub Option<Arc<dyn Any + Send + Sync>>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Kept(..)" } else { "Kept" })
    }
}

impl Engine {
    /// Says what a filter concerns itself with, or why it cannot be used.
    /// Replaces all earlier answers for filters that are not in `gates`.
    pub fn set_filter_gates(&mut self, gates: Vec<(Arc<PythonFilter>, Result<Gate, String>)>) {
        let logs = |(_, gate): &(_, Result<Gate, String>)| gate.as_ref().is_ok_and(|gate| gate.hooks.has(Hook::Log));
        self.filters = Gates { has_log: gates.iter().any(logs), known: gates };
    }

    /// True if hooks are to be called.
    pub fn has_filter_calls(&self) -> bool {
        !self.filter_calls.is_empty()
    }

    /// The hooks that are to be called, in order.
    pub fn take_filter_calls(&mut self, into: &mut Vec<FilterCall>) {
        into.append(&mut self.filter_calls);
    }

    /// What a hook works on; `None` if nobody waits for it any more.
    pub fn lend_heads(&mut self, call: &FilterCall) -> Option<Heads> {
        let exchange = self.exchanges.get_mut(call.exchange)?;
        if call.hook.is_stream() {
            let (kept, origin) = (exchange.kept.clone(), Origin::of(exchange));
            return Some(Heads { origin, kept, ..exchange.lend_of_stream(call)? });
        }
        if !exchange.waits_for(call) {
            return None;
        }
        let (kept, origin) = (exchange.kept.clone(), Origin::beside_head(exchange));
        let body = match call.hook {
            Hook::RequestBody => std::mem::take(&mut exchange.request_body.buffer),
            Hook::ResponseBody => std::mem::take(&mut exchange.response_body.buffer),
            _ => Buffer::default(),
        };
        let (request, response) = (std::mem::take(&mut exchange.request), std::mem::take(&mut exchange.response));
        Some(Heads { request, response, body, end: false, trailers: Headers::new(), origin, kept })
    }

    /// A hook has returned.
    pub fn finish_filter(&mut self, call: &FilterCall, heads: Heads, outcome: Outcome) {
        let key = call.exchange;
        self.forget_call(call);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        match &outcome {
            Outcome::Continue { .. } => {}
            Outcome::Reply { .. } => call.stats.replies.inc(),
            Outcome::Failed(_) => call.stats.failures.inc(),
            Outcome::TimedOut => call.stats.timeouts.inc(),
            Outcome::Overflow => call.stats.overflows.inc(),
        }
        if call.hook.is_stream() {
            return self.finish_stream_hook(call, heads, outcome);
        }
        if !exchange.waits_for(call) {
            return;
        }
        exchange.in_filter = false;
        exchange.request = heads.request;
        exchange.response = heads.response;
        exchange.kept = heads.kept;
        match call.hook {
            Hook::RequestBody => exchange.request_body.buffer = heads.body,
            Hook::ResponseBody => exchange.response_body.buffer = heads.body,
            _ => {}
        }
        exchange.pass_hook(call);
        if call.hook.is_request() {
            let step = match outcome {
                Outcome::Continue { .. } => FilterStep::Continues,
                Outcome::Reply { .. } => FilterStep::Answers,
                Outcome::Failed(_) | Outcome::TimedOut | Outcome::Overflow => FilterStep::Fails,
            };
            self.decisions.tell(|| Decision::Filter { filter: call.filter.class.clone(), step });
        }
        match outcome {
            Outcome::Continue { changed, body } => {
                if let Some(body) = body {
                    exchange.replace_body(call.hook, &body);
                }
                if call.hook.is_request() && exchange.may_go_elsewhere(changed) {
                    self.choose_route(key);
                }
            }
            Outcome::Reply { status, headers, body } => {
                if let Some(http) = &exchange.http {
                    http.stats.python_filter_replies.inc();
                }
                let mut reply = LocalReply::new(status, details::FILTER_REFUSED).with_body(&body);
                reply.extra_headers = headers;
                if !call.hook.is_request() {
                    self.detach_upstream(key);
                }
                self.reply_locally(key, reply);
            }
            Outcome::Failed(_) | Outcome::TimedOut | Outcome::Overflow => {
                self.filter_failed(key, call.filter.failure_policy);
            }
        }
        self.make_ready(key);
    }

    /// A filter could not do its work: its failure policy says what that means.
    /// The exchange's stage is already the one after the hook.
    pub(crate) fn filter_failed(&mut self, key: ExchangeKey, policy: FailurePolicy) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let Some(http) = &exchange.http {
            http.stats.python_filter_failures.inc();
        }
        match policy {
            FailurePolicy::Open => {}
            FailurePolicy::Closed if exchange.response_started => {
                self.abandon(key, Flags::UNAUTHORIZED_EXTERNAL, details::FILTER_FAILED);
            }
            FailurePolicy::Closed => {
                self.detach_upstream(key);
                let reply = LocalReply::new(500, details::FILTER_FAILED).with_flags(Flags::UNAUTHORIZED_EXTERNAL);
                self.reply_locally(key, reply);
            }
        }
    }

    /// Puts a hook on the list; gives the number of its call.
    pub(crate) fn call_hook(&mut self, call: FilterCall) -> u64 {
        call.stats.calls.inc();
        if let Some(http) = self.exchanges.get(call.exchange).and_then(|exchange| exchange.http.as_ref()) {
            http.stats.python_filter_calls.inc();
        }
        self.last_filter_call += 1;
        let id = self.last_filter_call;
        self.filter_calls.push(FilterCall { id, ..call });
        id
    }
}

impl Exchange {
    /// The hook that it waits for is this call's.
    fn waits_for(&self, call: &FilterCall) -> bool {
        self.in_filter && self.filter_call == call.id
    }

    /// Its route may be another, now that a hook has changed so much of the request.
    fn may_go_elsewhere(&self, changed: Change) -> bool {
        let looks_further = |routed: &Routed| routed.weighted.is_some() || routed.table.index().reads_fields;
        match changed {
            Change::Nothing => false,
            Change::Fields => self.routed.as_ref().is_none_or(looks_further),
            Change::Target => true,
        }
    }

    /// The hook has had its turn: it is that of the filter's next one, or of the next filter.
    fn pass_hook(&mut self, call: &FilterCall) {
        let goes_on = call.hooks.has_behind(call.hook);
        if goes_on {
            self.remember(call.index, Memory::Passed(call.hook));
        }
        self.stage = match (call.hook.is_request(), goes_on) {
            (true, true) => Stage::RequestFilter(call.index),
            (true, false) => Stage::RequestFilter(call.index + 1),
            (false, true) => Stage::ResponseFilter(call.index + 1),
            (false, false) => Stage::ResponseFilter(call.index),
        };
    }

    /// What a filter has made of a whole body goes in its place.
    fn replace_body(&mut self, hook: Hook, body: &[u8]) {
        let (pipe, headers) = match hook.is_request() {
            true => (&mut self.request_body, &mut self.request.headers),
            false => (&mut self.response_body, &mut self.response.headers),
        };
        pipe.is_replaced = true;
        pipe.buffer.clear();
        pipe.buffer.extend(body);
        // Behind a length there is no place for trailers in HTTP/1; none at all is as good for no body.
        if pipe.has_trailers() || body.is_empty() && !headers.contains_known(Known::ContentLength) {
            headers.remove_known(Known::ContentLength);
        } else {
            headers.set_known(Known::ContentLength, body.len().to_string().as_bytes());
        }
    }
}
