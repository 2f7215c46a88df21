//! Faults that are injected on purpose (`envoy.extensions.filters.http.fault.v3.HTTPFault`).

use std::time::Duration;

use crate::matcher::HeaderMatch;

/// Which requests are delayed, and which are answered with a failure. Both may happen to one request, in that order.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Before it goes on.
    pub delay: Option<FaultDelay>,
    /// In place of going on.
    pub abort: Option<FaultAbort>,
    /// Only requests that go to this cluster.
    pub upstream_cluster: Option<Box<str>>,
    /// Only requests whose `x-envoy-downstream-service-node` is one of these; empty: all.
    pub downstream_nodes: Vec<Box<str>>,
    /// Only requests that match all of these.
    pub headers: Vec<HeaderMatch>,
    /// Requests that may suffer at once, in the whole process and for all filters of a statistics prefix.
    pub max_active: Option<u32>,
}

/// `FaultDelay`.
#[derive(Clone, Copy, Debug)]
pub struct FaultDelay {
    /// How long.
    pub duration: FaultDuration,
    /// How many requests.
    pub percentage: Percentage,
}

/// How long a delay is.
#[derive(Clone, Copy, Debug)]
pub enum FaultDuration {
    /// Always so long.
    Fixed(Duration),
    /// As `x-envoy-fault-delay-request` says, in milliseconds; `x-envoy-fault-delay-request-percentage` may lower the
    /// share of requests.
    Header,
}

/// `FaultAbort`.
#[derive(Clone, Copy, Debug)]
pub struct FaultAbort {
    /// With what.
    pub status: AbortStatus,
    /// How many requests.
    pub percentage: Percentage,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug)]
pub enum AbortStatus {
    /// 200 to 599.
    Http(u16),
    /// A status of gRPC; to others it is 200.
    Grpc(u32),
    /// As `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says; the former counts if both are there.
    /// `x-envoy-fault-abort-request-percentage` may lower the share of requests.
    Header,
}

/// `FractionalPercent`, as it is written: a header speaks of the numerator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Percentage {
    /// Not above the denominator.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}
