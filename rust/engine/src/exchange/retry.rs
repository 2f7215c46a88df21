//! What a failed attempt means: another one, or an answer.

use std::time::Duration;

use pymesh_http::Known;
use pymesh_model::route::RetryPolicy;

use super::{ExchangeKey, LocalReply, Stage};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::shared::Resource;
use crate::telemetry::{details, Flags};

/// Why an attempt failed before it was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection; nothing was sent.
    Connect,
    /// No connection in time; nothing was sent.
    ConnectTimeout,
    /// The connection closed.
    Closed,
    /// The stream was reset.
    Reset,
    /// The stream was refused before it was looked at.
    RefusedStream,
    /// The upstream broke the protocol.
    Protocol,
    /// A circuit breaker is open; nothing was sent.
    Overflow,
    /// No answer within the time of one attempt.
    PerTryTimeout,
}

impl Failure {
    fn flag(self) -> Flags {
        match self {
            Failure::Connect | Failure::ConnectTimeout => Flags::UPSTREAM_CONNECTION_FAILURE,
            Failure::Closed => Flags::UPSTREAM_TERMINATION,
            Failure::Reset | Failure::RefusedStream => Flags::UPSTREAM_RESET,
            Failure::Protocol => Flags::UPSTREAM_PROTOCOL_ERROR,
            Failure::Overflow => Flags::UPSTREAM_OVERFLOW,
            Failure::PerTryTimeout => Flags::UPSTREAM_REQUEST_TIMEOUT,
        }
    }

    fn details(self) -> &'static str {
        match self {
            Failure::Connect => details::UPSTREAM_CONNECTION_FAILURE,
            Failure::ConnectTimeout => details::UPSTREAM_CONNECT_TIMEOUT,
            Failure::Closed => details::UPSTREAM_CONNECTION_TERMINATION,
            Failure::Reset => details::UPSTREAM_REMOTE_RESET,
            Failure::RefusedStream => details::UPSTREAM_REFUSED_STREAM,
            Failure::Protocol => details::UPSTREAM_PROTOCOL_ERROR,
            Failure::Overflow => details::UPSTREAM_OVERFLOW,
            Failure::PerTryTimeout => details::UPSTREAM_PER_TRY_TIMEOUT,
        }
    }

    fn status(self) -> u16 {
        match self {
            Failure::PerTryTimeout => 504,
            Failure::Protocol => 502,
            _ => 503,
        }
    }

    /// What Envoy tells the client.
    fn body(self, attempt: u32) -> String {
        let reason = match self {
            Failure::Connect => "remote connection failure",
            Failure::ConnectTimeout => "connection timeout",
            Failure::Closed => "connection termination",
            Failure::Reset => "remote reset",
            Failure::RefusedStream => "remote refused stream reset",
            Failure::Protocol => "protocol error",
            Failure::Overflow => "overflow",
            Failure::PerTryTimeout => return "upstream request timeout".to_owned(),
        };
        let retried = if attempt > 1 { "retried and the latest " } else { "" };
        format!("upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}")
    }

    fn is_retried_by(self, policy: &RetryPolicy, request_was_sent: bool) -> bool {
        let on = policy.on;
        match self {
            Failure::Connect | Failure::ConnectTimeout => {
                on.connect_failure || on.gateway_error || on.server_error || on.reset
            }
            Failure::RefusedStream => on.refused_stream || on.server_error || on.reset,
            Failure::Closed | Failure::Reset | Failure::Protocol => {
                on.reset || on.server_error || on.gateway_error || on.reset_before_request && !request_was_sent
            }
            Failure::PerTryTimeout => on.server_error || on.gateway_error || on.reset,
            Failure::Overflow => false,
        }
    }
}

impl Engine {
    /// An attempt failed. `up` has been let go of already, or never was.
    pub(crate) fn upstream_failed(&mut self, key: ExchangeKey, failure: Failure) {
        self.detach_upstream(key);
        let transport_failure = match failure {
            Failure::Connect | Failure::ConnectTimeout => self.last_transport_failure.take(),
            _ => None,
        };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.flags.insert(failure.flag());
        if transport_failure.is_some() {
            exchange.transport_failure = transport_failure;
        }
        if exchange.response_started {
            exchange.details = match failure {
                Failure::Closed => details::UPSTREAM_CLOSED_AFTER_RESPONSE,
                Failure::Protocol => details::UPSTREAM_PROTOCOL_ERROR_AFTER_RESPONSE,
                _ => details::UPSTREAM_RESET_AFTER_RESPONSE,
            };
            let (flags, why) = (exchange.flags, exchange.details);
            return self.abandon(key, flags, why);
        }
        // An upstream that answers and then fails has still failed.
        exchange.has_response = false;
        exchange.response_body.reset();
        let request_was_sent = exchange.request_started;
        let policy = self.retry_policy(key);
        let is_retriable = policy.as_ref().is_some_and(|p| failure.is_retried_by(p, request_was_sent));
        if is_retriable && self.try_again(key, policy.as_deref()) {
            return;
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let mut reply = LocalReply::new(failure.status(), failure.details());
        reply = reply.with_body(failure.body(exchange.attempt).as_bytes());
        if failure == Failure::Overflow {
            reply.headers.push(("x-envoy-overloaded", b"true".to_vec()));
        }
        if is_retriable && exchange.attempt > 1 {
            reply = reply.with_flags(Flags::UPSTREAM_RETRY_LIMIT);
        }
        self.reply_locally(key, reply);
        self.make_ready(key);
    }

    /// Looks whether an answer asks for another attempt. True if one was started.
    pub(super) fn retry_response(&mut self, key: ExchangeKey) -> bool {
        let Some(policy) = self.retry_policy(key) else { return false };
        let Some(exchange) = self.exchanges.get(key).filter(|exchange| !exchange.tunnel.open) else { return false };
        let on = policy.on;
        let status = exchange.response.status;
        let grpc: Option<u32> = exchange
            .response
            .headers
            .get_known(Known::GrpcStatus)
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let is_retriable = on.server_error && (500..600).contains(&status)
            || on.gateway_error && (502..505).contains(&status)
            || on.retriable_4xx && status == 409
            || on.statuses && policy.statuses.contains(&status)
            || match grpc {
                Some(1) => on.grpc_cancelled,
                Some(4) => on.grpc_deadline_exceeded,
                Some(8) => on.grpc_resource_exhausted,
                Some(13) => on.grpc_internal,
                Some(14) => on.grpc_unavailable,
                _ => false,
            };
        if !is_retriable {
            return false;
        }
        if !self.may_try_again(key) {
            if let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.retries_left == 0) {
                exchange.flags.insert(Flags::UPSTREAM_RETRY_LIMIT);
            }
            return false;
        }
        self.detach_upstream(key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.has_response = false;
            exchange.response_body.reset();
        }
        self.try_again(key, Some(&policy))
    }

    fn retry_policy(&self, key: ExchangeKey) -> Option<std::sync::Arc<RetryPolicy>> {
        self.exchanges.get(key)?.routed.as_ref()?.retry().cloned()
    }

    /// True if an attempt is left, the request can be sent again, and the
    /// cluster's retry circuit breaker is closed.
    fn may_try_again(&self, key: ExchangeKey) -> bool {
        let Some(exchange) = self.exchanges.get(key) else { return false };
        let Some(cluster) = exchange.cluster.and_then(|key| self.clusters.get(key)) else { return false };
        if exchange.retries_left == 0 {
            cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            return false;
        }
        if cluster.load.all(Resource::Retries) >= cluster.config.thresholds.retries && !exchange.is_retry {
            cluster.stats.upstream_rq_retry_overflow.inc();
            return false;
        }
        exchange.request_body.replay
            || !exchange.request_started
            || exchange.request_body.ended && exchange.request_body.total == 0
    }

    fn try_again(&mut self, key: ExchangeKey, policy: Option<&RetryPolicy>) -> bool {
        if !self.may_try_again(key) {
            return false;
        }
        let Some(policy) = policy else { return false };
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        let Some(cluster) = exchange.cluster.and_then(|key| self.clusters.get_mut(key)) else { return false };
        cluster.stats.upstream_rq_retry.inc();
        if !exchange.is_retry {
            exchange.is_retry = true;
            cluster.load.add(Resource::Retries);
        }
        exchange.retries_left -= 1;
        exchange.attempt += 1;
        exchange.request_started = false;
        exchange.upstream_started = None;
        exchange.request_body.rewind();
        if let Some(host) = exchange.host.take() {
            exchange.tried.push(host);
        }
        let wait = backoff(policy, exchange.attempt, &mut self.rng);
        exchange.stage = Stage::BackingOff;
        exchange.retry_at = self.now + wait;
        let deadline = exchange.deadline.min(exchange.retry_at);
        exchange.deadline = deadline;
        self.timers.arm_exchange(key, deadline);
        true
    }

    /// The back-off of an exchange is over.
    pub(super) fn retry_now(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.retry_at = Time::NEVER;
            exchange.stage = Stage::Picking;
        }
        self.make_ready(key);
    }
}

/// Full jitter between zero and `base * (2^n - 1)`, bounded, as Envoy's.
fn backoff(policy: &RetryPolicy, attempt: u32, rng: &mut crate::base::rng::Rng) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let factor = (1u32 << doublings).saturating_sub(1).max(1);
    let ceiling = policy.base_interval.saturating_mul(factor).min(policy.max_interval);
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.below(nanos))
}
