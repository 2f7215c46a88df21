//! Distributed tracing: which requests are traced, what the next one is told, and the spans that come of it.
//!
//! A connection manager with a tracer gives every request a [`Trace`]: it carries on the trace of whoever asks
//! ([`context`]), or begins one. Whether it is *sampled* (its spans are kept) is decided once, by whoever begins a trace,
//! and told to all behind in the same headers; so a trace is kept whole or not at all.
//!
//! # Spans
//! * The **request's**: from its head to its end, of kind server where traffic comes in, of kind client where it goes
//!   out. Without spans for attempts it is what the next proxy has as its parent.
//! * An **attempt's** (`spawn_upstream_span`): from the choice of an endpoint until it has answered or failed. Each
//!   attempt tells its endpoint its own number, so a retry is seen as what it is: two children of one request.
//!
//! Names and attributes are Envoy's, for those who have dashboards of them (`tests/interop/test_same_traces.py`).
//!
//! # Invariants
//! * A request that is not sampled costs its headers and nothing else: no memory is allocated for it.
//! * What waits for a collector is bounded ([`crate::otlp`]); traffic never waits for one.
//! * Questions of the proxy itself (mirrors, probes, authorizers, the spans' own way to the collector) have no spans.

pub(crate) mod context;
mod span;

use std::net::SocketAddr;

use pymesh_http::{Known, Version};
use pymesh_model::listener::Direction;
use pymesh_model::tracing::{RouteTracing, Sampling, Tracing};

use self::context::Dialect;
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeKey, Failure};
use crate::telemetry::stats::HttpTracingStats;

const EVERYTHING: u32 = 1_000_000;

/// The part of an exchange in a trace.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The same for everybody in the trace.
    id: u128,
    /// Of the request's span.
    span: u64,
    /// Of whoever has asked, if it has said so.
    parent: Option<u64>,
    /// Spans are kept.
    is_sampled: bool,
    /// What the next one is told beside W3C's headers.
    dialect: Dialect,
    /// The next one's parent: the attempt under way, or the request.
    current: u64,
    /// What whoever asks calls the request, where spans are kept.
    operation: Option<Box<[u8]>>,
    /// If it is sampled, and attempts have spans.
    attempts: Vec<Attempt>,
}

impl Trace {
    /// The trace, and the request's span in it.
    pub(crate) fn place(&self) -> (u128, u64) {
        (self.id, self.span)
    }
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    span: u64,
    started: Time,
    /// What is spoken with the endpoint, once it is.
    version: Option<Version>,
    end: Option<AttemptEnd>,
}

/// How an attempt ended that did not give the answer.
#[derive(Debug)]
struct AttemptEnd {
    at: Time,
    upstream: Option<SocketAddr>,
    /// The status of an answer that nobody wanted.
    came_to: Result<u16, Failure>,
}

impl Engine {
    /// The request has its route: from here on it is traced, if its connection manager traces.
    pub(crate) fn begin_trace(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(http) = exchange.http.as_ref() else { return };
        let (Some(tracing), Some(stats)) = (&http.config.tracing, &http.tracing_stats) else { return };
        let sampling = of_route(exchange).map_or(tracing.sampling, |route| route.sampling);
        let inherited = context::read(&exchange.request.headers);
        let is_sampled = match inherited.sampled {
            Some(is_sampled) => is_sampled,
            None => is_chosen(sampling, exchange, stats, &mut self.rng),
        };
        let is_inbound = http.direction == Direction::Inbound;
        let told = exchange.request.headers.get_known(Known::XEnvoyDecoratorOperation);
        // It is for this proxy; one on the way out has no use for it.
        let operation = told.filter(|_| is_inbound && is_sampled).map(Into::into);
        if is_inbound {
            exchange.request.headers.remove_known(Known::XEnvoyDecoratorOperation);
        }
        if inherited.parent.is_none() {
            // It belongs to a trace that could not be read (W3C Trace Context, section 3.3.1).
            exchange.request.headers.remove_known(Known::Tracestate);
        }
        let (id, parent) = match inherited.parent {
            Some((id, parent)) => (id, Some(parent)),
            None => (trace_id(&mut self.rng), None),
        };
        let span = span_id(&mut self.rng);
        exchange.trace = Some(Trace {
            id,
            span,
            parent,
            is_sampled,
            dialect: inherited.dialect,
            current: span,
            operation,
            attempts: Vec::new(),
        });
    }

    /// A traced request is over.
    pub(crate) fn end_trace(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.lend(key) else { return };
        if let Some((trace, http)) =
            exchange.trace.as_ref().filter(|trace| trace.is_sampled).zip(exchange.http.as_ref())
        {
            if let Some(tracing) = &http.config.tracing {
                let clock = self.clock;
                let node = self.snapshot.node.clone();
                let spans =
                    span::Spans { exchange: &exchange, trace, tracing, http, clock, node: &node, now: self.now };
                spans.each(|write| self.queue_otlp(&tracing.exporter, write));
            }
        }
        self.exchanges.give_back(key, exchange);
    }
}

impl Exchange {
    /// An endpoint has been chosen.
    pub(crate) fn begin_attempt_span(&mut self, now: Time, rng: &mut Rng) {
        let Some(trace) = &mut self.trace else { return };
        let tracing = self.http.as_ref().and_then(|http| http.config.tracing.as_ref());
        if !tracing.is_some_and(|tracing| tracing.attempts) {
            return;
        }
        trace.current = span_id(rng);
        if trace.is_sampled {
            trace.attempts.push(Attempt { span: trace.current, started: now, version: None, end: None });
        }
    }

    /// Tells the next one the trace.
    pub(crate) fn tell_trace(&mut self, version: Version) {
        let Some(trace) = &mut self.trace else { return };
        trace.attempts.last_mut().into_iter().for_each(|attempt| attempt.version = Some(version));
        context::write(&mut self.request.headers, trace.dialect, (trace.id, trace.current), trace.is_sampled);
        let propagated = self.routed.as_ref().and_then(|routed| routed.route.decorator.as_ref());
        let is_outbound = self.http.as_ref().is_some_and(|http| http.direction == Direction::Outbound);
        if let Some(decorator) = propagated.filter(|decorator| decorator.propagate && is_outbound) {
            self.request.headers.set_known(Known::XEnvoyDecoratorOperation, decorator.operation.as_bytes());
        }
    }

    /// An attempt is over, and what came of it is not the answer.
    pub(crate) fn end_attempt_span(&mut self, now: Time, came_to: Result<u16, Failure>) {
        let upstream = self.endpoint.as_ref().map(|endpoint| endpoint.address);
        let Some(attempt) = self.trace.as_mut().and_then(|trace| trace.attempts.last_mut()) else { return };
        if attempt.end.is_none() {
            attempt.end = Some(AttemptEnd { at: now, upstream, came_to });
        }
    }
}

/// What its route says of a request's trace.
fn of_route(exchange: &Exchange) -> Option<&RouteTracing> {
    exchange.routed.as_ref()?.route.tracing.as_ref()
}

/// Whether a trace that begins here is kept (Envoy `HttpConnectionManager.Tracing`).
fn is_chosen(sampling: Sampling, exchange: &Exchange, stats: &HttpTracingStats, rng: &mut Rng) -> bool {
    let mut draw = |share: u32| share >= EVERYTHING || rng.below(u64::from(EVERYTHING)) < u64::from(share);
    let headers = &exchange.request.headers;
    let (is_chosen, counter) = if headers.get(b"x-client-trace-id").is_some() && draw(sampling.client) {
        (true, &stats.client_enabled)
    } else if headers.get(b"x-envoy-force-trace").is_some() {
        (true, &stats.service_forced)
    } else {
        (draw(sampling.random), &stats.random_sampling)
    };
    let is_kept = is_chosen && draw(sampling.overall);
    if is_kept { counter } else { &stats.not_traceable }.inc();
    is_kept
}

fn trace_id(rng: &mut Rng) -> u128 {
    u128::from(span_id(rng)) << 64 | u128::from(rng.bits())
}

/// Zero is no number of a span.
fn span_id(rng: &mut Rng) -> u64 {
    rng.bits().max(1)
}

/// The tags of the connection manager, but for those that the route has as well, then the route's.
fn tags<'a>(tracing: &'a Tracing, exchange: &'a Exchange) -> impl Iterator<Item = &'a pymesh_model::tracing::Tag> {
    let own = of_route(exchange).map_or(&[][..], |route| &route.tags);
    let general = tracing.tags.iter().filter(move |tag| own.iter().all(|own| own.name != tag.name));
    general.chain(own)
}
