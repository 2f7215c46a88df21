//! What a failed attempt means: another one, or an answer.
//!
//! The rules are Envoy's. A request has a [`RetryPolicy`]: its route's, or one made of that and of what the request
//! itself orders (`x-envoy-retry-on` and its kin, from addresses that may give orders). What came of an attempt is held
//! against its conditions; if one asks for another attempt, three things may still speak against it: no retries are
//! left, the circuit breaker of retries is open, or the request cannot be sent again because too much of its body has
//! gone. While a retry is under way, from the decision for it to the next decision, it counts in the circuit breaker.
//!
//! ```text
//! Pending | Flowing --failure or answer--> decided: Retry -> BackingOff -> Picking
//!                                                   else  -> an answer, with flags UO or URX
//! ```

use std::sync::Arc;
use std::time::Duration;

use pymesh_http::{Known, RequestHead, ResponseHead};
use pymesh_model::matcher::{HeaderMatch, HeaderTest};
use pymesh_model::route::RetryPolicy;

use super::{Exchange, ExchangeKey, Failure, LocalReply, Routed, Stage};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::route;
use crate::shared::Resource;
use crate::telemetry::Flags;

/// What becomes of a request after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing asks for another attempt, or it cannot be made.
    No,
    Retry,
    /// One is asked for, but none is left.
    LimitExceeded,
    /// One is asked for, but the circuit breaker is open.
    Overflow,
}

impl Decision {
    fn flag(self) -> Flags {
        match self {
            Decision::No | Decision::Retry => Flags::NONE,
            Decision::LimitExceeded => Flags::UPSTREAM_RETRY_LIMIT,
            Decision::Overflow => Flags::UPSTREAM_OVERFLOW,
        }
    }
}

impl Engine {
    /// An attempt failed. `up` has been let go of already, or never was.
    pub(crate) fn upstream_failed(&mut self, key: ExchangeKey, failure: Failure) {
        if failure.is_of_upstream() && self.is_too_late(key) {
            // An upstream that knows the deadline ends the request by it as well. Its reset may be read before the
            // timer is looked at, yet it is no failure: what came first was the deadline.
            return self.on_exchange_deadline(key);
        }
        self.tell_failure(key, failure);
        self.detach_upstream(key);
        let transport_failure = match failure {
            Failure::Connect | Failure::ConnectTimeout => self.last_transport_failure.take(),
            _ => None,
        };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.end_attempt_span(self.now, Err(failure));
        if transport_failure.is_some() {
            exchange.transport_failure = transport_failure;
        }
        if exchange.response_started {
            return self.abandon(key, failure.flag(), failure.details_after_response());
        }
        // An upstream that answers and then fails has still failed.
        exchange.has_response = false;
        exchange.response_body.clear();
        let is_filtered = exchange.is_filtered;
        let was_sent = exchange.request_started || exchange.was_sent;
        let policy = exchange.retry().cloned();
        let is_wanted = policy.as_ref().is_some_and(|policy| failure.is_retried(&policy.on, was_sent));
        // What filters have seen of an answer cannot be taken back.
        let is_wanted = is_wanted && !is_filtered;
        let decision = self.decide(key, is_wanted);
        if let (Decision::Retry, Some(policy)) = (decision, &policy) {
            let wait = self.exponential_wait(key, policy);
            return self.back_off(key, wait);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let is_whole = exchange.request_body.ended;
        let mut reply = LocalReply::new(failure.status(is_whole), failure.details());
        reply = reply.with_body(failure.body(exchange.attempt > 1).as_bytes());
        reply = reply.with_flags(failure.flag().with(decision.flag()));
        if failure == Failure::Overflow {
            reply.headers.push(("x-envoy-overloaded", b"true".to_vec()));
        }
        self.reply_locally(key, reply);
        self.make_ready(key);
    }

    /// Looks whether an answer asks for another attempt. True if one was started.
    pub(super) fn retry_response(&mut self, key: ExchangeKey) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| !exchange.tunnel.open) else { return false };
        if std::mem::replace(&mut exchange.is_judged, true) {
            return false;
        }
        let policy = exchange.retry();
        let asks = policy.is_some_and(|policy| asks_again(policy, &exchange.request, &exchange.response));
        // Nearly every answer ends here, the reason for the order.
        if !asks && !exchange.holds_retry {
            return false;
        }
        let policy = policy.cloned();
        let decision = self.decide(key, asks);
        let (Decision::Retry, Some(policy)) = (decision, policy) else {
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.flags.insert(decision.flag());
            }
            return false;
        };
        let wait = self.wait_as_told(key, &policy);
        self.detach_upstream(key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.end_attempt_span(self.now, Ok(exchange.response.status));
            exchange.has_response = false;
            exchange.response_body.clear();
        }
        self.back_off(key, wait);
        true
    }

    /// Whether there is another attempt; the one before it, if it was a retry, has ended.
    fn decide(&mut self, key: ExchangeKey, is_wanted: bool) -> Decision {
        let decision = self.take_retry(key, is_wanted);
        let cluster = self.exchanges.get(key).and_then(|exchange| exchange.cluster);
        if let Some(cluster) = cluster.filter(|_| decision != Decision::Retry) {
            // It may have been the last that a cluster was kept for which is configured no more.
            self.drop_cluster_if_over(cluster);
        }
        decision
    }

    /// Takes a retry of those that are left, and a place in the circuit breaker, if one is wanted and there is one.
    fn take_retry(&mut self, key: ExchangeKey, is_wanted: bool) -> Decision {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Decision::No };
        let Some(cluster) = exchange.cluster.and_then(|key| self.clusters.get_mut(key)) else { return Decision::No };
        if std::mem::take(&mut exchange.holds_retry) {
            cluster.load.take(exchange.priority, Resource::Retries);
            if !is_wanted {
                cluster.stats.upstream_rq_retry_success.inc();
            }
        }
        if !is_wanted {
            return Decision::No;
        }
        if exchange.retries_left == 0 {
            cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            return Decision::LimitExceeded;
        }
        if !exchange.can_be_repeated() {
            return Decision::No;
        }
        exchange.retries_left -= 1;
        if !cluster.has_room(exchange.priority, Resource::Retries) {
            cluster.stats.upstream_rq_retry_overflow.inc();
            return Decision::Overflow;
        }
        cluster.load.add(exchange.priority, Resource::Retries);
        cluster.stats.upstream_rq_retry.inc();
        exchange.holds_retry = true;
        Decision::Retry
    }

    /// Lets the exchange wait before its next attempt.
    fn back_off(&mut self, key: ExchangeKey, wait: Duration) {
        self.end_calls(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.attempt += 1;
        exchange.was_sent |= exchange.request_started;
        exchange.request_started = false;
        exchange.upstream_started = None;
        exchange.request_sent = None;
        exchange.is_judged = false;
        exchange.request_body.rewind();
        if let Some(host) = exchange.host.take() {
            exchange.tried.push(host);
        }
        exchange.stage = Stage::BackingOff;
        exchange.retry_at = self.now + wait;
        let deadline = exchange.deadline.min(exchange.retry_at);
        exchange.deadline = deadline;
        self.timers.arm_exchange(key, deadline);
    }

    /// The back-off of an exchange is over.
    pub(super) fn retry_now(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.retry_at = Time::NEVER;
            exchange.stage = Stage::Picking;
        }
        self.make_ready(key);
    }

    fn exponential_wait(&mut self, key: ExchangeKey, policy: &RetryPolicy) -> Duration {
        let Some(exchange) = self.exchanges.get(key) else { return Duration::ZERO };
        if let Some(cluster) = exchange.cluster.and_then(|key| self.clusters.get(key)) {
            cluster.stats.upstream_rq_retry_backoff_exponential.inc();
        }
        jittered(backoff_step(policy, exchange.attempt), &mut self.rng)
    }

    /// The wait after an answer: what it asks for, if it may, or else the policy's.
    fn wait_as_told(&mut self, key: ExchangeKey, policy: &RetryPolicy) -> Duration {
        let Some(exchange) = self.exchanges.get(key) else { return Duration::ZERO };
        if exchange.response.status == TOO_EARLY {
            // What was too early is in time once it comes without early data.
            return Duration::ZERO;
        }
        let now = Duration::from_nanos(self.clock.unix_nanos(self.now));
        let Some(told) = reset_interval(policy, &exchange.response, now) else {
            return self.exponential_wait(key, policy);
        };
        if let Some(cluster) = exchange.cluster.and_then(|key| self.clusters.get(key)) {
            cluster.stats.upstream_rq_retry_backoff_ratelimited.inc();
        }
        // Never sooner than told, and not all at the same time.
        told + jittered(told / 2, &mut self.rng)
    }
}

impl Exchange {
    /// The policy of this request, or its route's, or its virtual host's.
    pub(crate) fn retry(&self) -> Option<&Arc<RetryPolicy>> {
        self.own_retry.as_ref().or_else(|| self.routed.as_ref()?.retry())
    }

    /// All of the request is still here, or nothing of it has gone; and the client has been told nothing.
    fn can_be_repeated(&self) -> bool {
        let body = &self.request_body;
        !self.is_final && (body.replay || !self.request_started || body.ended && body.total == 0 && !body.is_replaced)
    }

    /// Makes the policy of a request that differs from its route's: what the request orders is merged into it, and
    /// if the policy is for certain requests only and this is not one, its conditions are left out.
    pub(super) fn adopt_retry_policy(&mut self) {
        let orders = if self.is_internal { take_orders(&mut self.request) } else { Orders::default() };
        let general = self.routed.as_ref().and_then(Routed::retry);
        let wanted = general.map_or(&[][..], |policy| policy.request_headers.as_slice());
        let is_meant =
            wanted.is_empty() || wanted.iter().any(|rule| route::matcher::header_matches(rule, &self.request));
        if orders == Orders::default() && is_meant {
            return;
        }
        let mut own = general.map_or_else(RetryPolicy::default, |policy| RetryPolicy::clone(policy));
        orders.merge_into(&mut own);
        if !is_meant {
            own.on = Default::default();
        }
        self.own_retry = Some(Arc::new(own));
    }
}

/// What the headers of a request say of its retries.
#[derive(Default, PartialEq)]
struct Orders {
    on: Vec<String>,
    statuses: Vec<u16>,
    headers: Vec<String>,
    max_retries: Option<u32>,
    per_try_timeout: Option<Duration>,
}

impl Orders {
    fn merge_into(self, policy: &mut RetryPolicy) {
        for name in &self.on {
            policy.on.add(name);
        }
        policy.statuses.extend(self.statuses);
        policy.headers.extend(self.headers.into_iter().map(|name| HeaderMatch {
            name: name.to_ascii_lowercase().into(),
            test: HeaderTest::Present(true),
            invert: false,
            missing_as_empty: false,
        }));
        policy.num_retries = self.max_retries.unwrap_or(policy.num_retries);
        policy.per_try_timeout = self.per_try_timeout.unwrap_or(policy.per_try_timeout);
    }
}

/// Takes them out of the request: they are for this proxy. What it does not understand it passes over, as Envoy.
fn take_orders(request: &mut RequestHead) -> Orders {
    let mut take = |name: &[u8]| -> Vec<String> {
        let value = request.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        request.headers.remove(name);
        value.iter().flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).collect()
    };
    let mut on = take(b"x-envoy-retry-on");
    on.extend(take(b"x-envoy-retry-grpc-on"));
    let number = |values: Vec<String>| values.first().and_then(|value| value.parse::<u32>().ok());
    let max_retries = number(take(b"x-envoy-max-retries"));
    let per_try_timeout = number(take(b"x-envoy-upstream-rq-per-try-timeout-ms"));
    let statuses = take(b"x-envoy-retriable-status-codes");
    let headers = take(b"x-envoy-retriable-header-names");
    take(b"x-envoy-hedge-on-per-try-timeout");
    Orders {
        on,
        statuses: statuses.iter().filter_map(|code| code.parse().ok()).collect(),
        headers: headers.into_iter().filter(|name| !name.is_empty()).collect(),
        max_retries,
        per_try_timeout: per_try_timeout.map(|millis| Duration::from_millis(millis.into())),
    }
}

const CONFLICT: u16 = 409;
const TOO_EARLY: u16 = 425;

/// Whether a condition of the policy names this answer.
fn asks_again(policy: &RetryPolicy, request: &RequestHead, response: &ResponseHead) -> bool {
    let on = &policy.on;
    if on.is_empty() {
        return false;
    }
    if response.headers.get(b"x-envoy-ratelimited").is_some() {
        return on.envoy_ratelimited;
    }
    let status = response.status;
    // RFC 8470 section 5.2: it is for whoever sent early data to repeat it.
    let is_for_client = status == TOO_EARLY && request.headers.get(b"early-data").is_some();
    on.server_error && (500..600).contains(&status)
        || on.gateway_error && (502..505).contains(&status)
        || on.retriable_4xx && status == CONFLICT
        || on.statuses && policy.statuses.contains(&status) && !is_for_client
        || on.headers && policy.headers.iter().any(|rule| route::matcher::response_header_matches(rule, response))
        || asks_grpc_again(policy, response)
}

fn asks_grpc_again(policy: &RetryPolicy, response: &ResponseHead) -> bool {
    let on = &policy.on;
    let status = response.headers.get_known(Known::GrpcStatus);
    match status.and_then(|value| std::str::from_utf8(value).ok()?.parse::<u32>().ok()) {
        Some(1) => on.grpc_cancelled,
        Some(4) => on.grpc_deadline_exceeded,
        Some(8) => on.grpc_resource_exhausted,
        Some(13) => on.grpc_internal,
        Some(14) => on.grpc_unavailable,
        _ => false,
    }
}

/// How long the upstream wants to be left alone; `now` is the time since 1970.
fn reset_interval(policy: &RetryPolicy, response: &ResponseHead, now: Duration) -> Option<Duration> {
    let limited = policy.rate_limited.as_ref()?;
    limited.reset_headers.iter().find_map(|header| {
        let value = std::str::from_utf8(response.headers.get(header.name.as_bytes())?).ok()?;
        let seconds: u64 = value.parse().ok()?;
        let wait = if header.is_unix_timestamp { seconds.checked_sub(now.as_secs())? } else { seconds };
        // None at all is no order to wait.
        Some(Duration::from_secs(wait)).filter(|wait| !wait.is_zero() && *wait <= limited.max_interval)
    })
}

/// The largest wait after the attempt with this number: `base_interval`, doubled with each, up to `max_interval`.
fn backoff_step(policy: &RetryPolicy, attempt: u32) -> Duration {
    let mut step = policy.base_interval;
    for _ in 1..attempt.min(32) {
        step = if step < policy.max_interval / 2 { step * 2 } else { policy.max_interval };
    }
    step
}

/// Anything below `most`: full jitter.
fn jittered(most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
