//! When a request is sent again (Envoy `config.route.v3.RetryPolicy`).

use std::time::Duration;

use crate::matcher::HeaderMatch;

/// `RetryPolicy`. The default is what a route without one has: nothing asks for a retry, but a request may.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Status codes for `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// Response headers for `retriable-headers`, of which one must match.
    pub headers: Vec<HeaderMatch>,
    /// Requests of which none of these matches are never retried; empty for all.
    pub request_headers: Vec<HeaderMatch>,
    /// Attempts after the first.
    pub num_retries: u32,
    /// From the end of the request, or a connection if that is later, to the response head; zero: the route's timeout.
    pub per_try_timeout: Duration,
    /// How long an attempt may stand still; zero means no limit.
    pub per_try_idle_timeout: Duration,
    /// Exponential back-off with full jitter: first and largest step.
    pub base_interval: Duration,
    /// See `base_interval`.
    pub max_interval: Duration,
    /// `rate_limited_retry_back_off`: the upstream says how long to wait.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// `previous_hosts`: prefer an endpoint that has not failed this request yet.
    pub avoid_previous_hosts: bool,
    /// `host_selection_retry_max_attempts`.
    pub host_selection_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            on: RetryOn::default(),
            statuses: vec![],
            headers: vec![],
            request_headers: vec![],
            num_retries: 1,
            per_try_timeout: Duration::ZERO,
            per_try_idle_timeout: Duration::ZERO,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            rate_limited: None,
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
        }
    }
}

/// `RateLimitedRetryBackOff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// The first of these that a response has, and that says no more than `max_interval`, is obeyed.
    pub reset_headers: Vec<ResetHeader>,
    /// Longer waits are not believed.
    pub max_interval: Duration,
}

/// `ResetHeader`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Lower case.
    pub name: Box<str>,
    /// It says a time of the clock, in seconds since 1970; otherwise how many seconds to wait.
    pub is_unix_timestamp: bool,
}

/// `retry_on`, as flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RetryOn {
    /// `connect-failure`: nothing was sent.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `reset`: no response head came, for whatever reason.
    pub reset: bool,
    /// `reset-before-request`: the same, and the request was not sent.
    pub reset_before_request: bool,
    /// `5xx` (includes `reset`).
    pub server_error: bool,
    /// `gateway-error`: 502, 503, 504 (includes `reset`).
    pub gateway_error: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// `retriable-status-codes`.
    pub statuses: bool,
    /// `retriable-headers`.
    pub headers: bool,
    /// `envoy-ratelimited`: the only condition under which a response with `x-envoy-ratelimited` is retried.
    pub envoy_ratelimited: bool,
    /// gRPC status `cancelled` in the response head.
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

type Flag = fn(&mut RetryOn) -> &mut bool;

/// The values of Envoy's `x-envoy-retry-on`, then those of `x-envoy-retry-grpc-on`.
const CONDITIONS: [(&str, Flag); 15] = [
    ("5xx", |on| &mut on.server_error),
    ("gateway-error", |on| &mut on.gateway_error),
    ("reset", |on| &mut on.reset),
    ("reset-before-request", |on| &mut on.reset_before_request),
    ("connect-failure", |on| &mut on.connect_failure),
    ("retriable-4xx", |on| &mut on.retriable_4xx),
    ("refused-stream", |on| &mut on.refused_stream),
    ("retriable-status-codes", |on| &mut on.statuses),
    ("retriable-headers", |on| &mut on.headers),
    ("envoy-ratelimited", |on| &mut on.envoy_ratelimited),
    ("cancelled", |on| &mut on.grpc_cancelled),
    ("deadline-exceeded", |on| &mut on.grpc_deadline_exceeded),
    ("internal", |on| &mut on.grpc_internal),
    ("resource-exhausted", |on| &mut on.grpc_resource_exhausted),
    ("unavailable", |on| &mut on.grpc_unavailable),
];

impl RetryOn {
    /// Adds the condition of this name; false if there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let known = CONDITIONS.iter().find(|(known, _)| *known == name);
        known.map(|(_, flag)| *flag(self) = true).is_some()
    }

    /// Every name that [`RetryOn::add`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CONDITIONS.iter().map(|(name, _)| *name)
    }

    /// No condition is set.
    pub fn is_empty(&self) -> bool {
        *self == RetryOn::default()
    }
}
