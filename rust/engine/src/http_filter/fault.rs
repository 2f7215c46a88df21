//! Faults that are injected on purpose (`envoy.filters.http.fault`): requests that are held back, and requests that are
//! answered with a failure, so that one can see what those who ask make of it.
//!
//! A request may suffer both: it is asked again when it has been held back, and may then be answered. How many suffer at
//! once is a number of the process, of all workers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use pymesh_http::RequestHead;
use pymesh_model::filter::{AbortStatus, Fault, FaultDuration, FilterId, Percentage, RouteFilterConfig};

use super::{number_in, Memory, Step};
use crate::base::rng::Rng;
use crate::engine::Engine;
use crate::exchange::{Exchange, LocalReply};
use crate::route::matcher::header_matches;
use crate::telemetry::stats::FaultStats;
use crate::telemetry::{details, Flags};

const DOWNSTREAM_NODE: &[u8] = b"x-envoy-downstream-service-node";
const DELAY: &[u8] = b"x-envoy-fault-delay-request";
const DELAY_SHARE: &[u8] = b"x-envoy-fault-delay-request-percentage";
const ABORT: &[u8] = b"x-envoy-fault-abort-request";
const ABORT_GRPC: &[u8] = b"x-envoy-fault-abort-grpc-request";
const ABORT_SHARE: &[u8] = b"x-envoy-fault-abort-request-percentage";

/// The filter in a chain.
pub(super) struct FaultFilter {
    pub config: Arc<Fault>,
    pub stats: Arc<FaultStats>,
    /// Requests that suffer now, of all workers.
    pub active: Arc<AtomicU32>,
}

/// A request that suffers.
pub(crate) struct Suffering {
    fault: Arc<Fault>,
    stats: Arc<FaultStats>,
    active: Arc<AtomicU32>,
}

impl Suffering {
    /// Unless too many do.
    fn begin(filter: &FaultFilter, fault: &Arc<Fault>) -> Option<Suffering> {
        if fault.max_active.is_some_and(|most| filter.active.load(Ordering::Relaxed) >= most) {
            filter.stats.faults_overflow.inc();
            return None;
        }
        filter.active.fetch_add(1, Ordering::Relaxed);
        filter.stats.active_faults.inc();
        Some(Suffering { fault: fault.clone(), stats: filter.stats.clone(), active: filter.active.clone() })
    }
}

impl Drop for Suffering {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.stats.active_faults.dec();
    }
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    (index, id): (usize, FilterId),
    filter: &FaultFilter,
) -> Step {
    if let Some(Memory::Fault(suffering)) = exchange.forget(index) {
        // It has been held back.
        return match abort(&suffering.fault, &exchange.request, &mut engine.rng) {
            Some(reply) => aborted(exchange, index, suffering, reply),
            None => Step::Continue,
        };
    }
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let fault = match said {
        Some(RouteFilterConfig::Fault(fault)) => fault.clone(),
        _ => filter.config.clone(),
    };
    if !concerns(&fault, exchange) {
        return Step::Continue;
    }
    if let Some(wait) = delay(&fault, &exchange.request, &mut engine.rng) {
        if let Some(suffering) = Suffering::begin(filter, &fault) {
            filter.stats.delays_injected.inc();
            exchange.flags.insert(Flags::DELAY_INJECTED);
            exchange.remember(index, Memory::Fault(suffering));
            return Step::Wait(engine.now + wait);
        }
    }
    let Some(reply) = abort(&fault, &exchange.request, &mut engine.rng) else { return Step::Continue };
    match Suffering::begin(filter, &fault) {
        Some(suffering) => aborted(exchange, index, suffering, reply),
        None => Step::Continue,
    }
}

/// It suffers until its answer is out.
fn aborted(exchange: &mut Exchange, index: usize, suffering: Suffering, reply: LocalReply) -> Step {
    suffering.stats.aborts_injected.inc();
    exchange.remember(index, Memory::Fault(suffering));
    Step::Reply(reply)
}

/// The request is one of those that the fault is meant for.
fn concerns(fault: &Fault, exchange: &Exchange) -> bool {
    let request = &exchange.request;
    if let Some(wanted) = &fault.upstream_cluster {
        let cluster = exchange.routed.as_ref().and_then(|routed| routed.cluster_name(request));
        if cluster != Some(wanted.as_bytes()) {
            return false;
        }
    }
    let is_of_a_node = |node: &[u8]| fault.downstream_nodes.iter().any(|wanted| wanted.as_bytes() == node);
    if !fault.downstream_nodes.is_empty() && !request.headers.get(DOWNSTREAM_NODE).is_some_and(is_of_a_node) {
        return false;
    }
    fault.headers.iter().all(|header| header_matches(header, request))
}

fn delay(fault: &Fault, request: &RequestHead, rng: &mut Rng) -> Option<Duration> {
    let delay = fault.delay?;
    let by_header = matches!(delay.duration, FaultDuration::Header).then_some(DELAY_SHARE);
    if !is_among(delay.percentage, by_header, request, rng) {
        return None;
    }
    let duration = match delay.duration {
        FaultDuration::Fixed(duration) => duration,
        FaultDuration::Header => Duration::from_millis(number_in(request, DELAY)?),
    };
    // Envoy's clock has milliseconds.
    (duration >= Duration::from_millis(1)).then_some(duration)
}

fn abort(fault: &Fault, request: &RequestHead, rng: &mut Rng) -> Option<LocalReply> {
    let abort = fault.abort?;
    let by_header = matches!(abort.status, AbortStatus::Header).then_some(ABORT_SHARE);
    if !is_among(abort.percentage, by_header, request, rng) {
        return None;
    }
    let (status, grpc) = match abort.status {
        AbortStatus::Http(status) => (status, None),
        AbortStatus::Grpc(grpc) => (200, Some(grpc)),
        AbortStatus::Header => match number_in(request, ABORT).filter(|status| (200..600).contains(status)) {
            Some(status) => (status, None),
            None => (200, Some(number_in(request, ABORT_GRPC)?)),
        },
    };
    let reply = LocalReply::new(status, details::FAULT_FILTER_ABORT).with_flags(Flags::FAULT_INJECTED);
    Some(LocalReply { grpc_status: grpc, ..reply.with_body(b"fault filter abort") })
}

/// A header may lower the share of requests.
fn is_among(share: Percentage, by_header: Option<&[u8]>, request: &RequestHead, rng: &mut Rng) -> bool {
    let asked = by_header.and_then(|name| number_in::<u32>(request, name));
    let numerator = share.numerator.min(asked.unwrap_or(u32::MAX));
    numerator > 0 && (numerator >= share.denominator || rng.below(share.denominator.into()) < u64::from(numerator))
}
