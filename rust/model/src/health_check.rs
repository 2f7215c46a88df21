//! Active health checking (Envoy `HealthCheck`): what endpoints are asked, how often, and which answers are good ones.

use std::ops::Range;
use std::time::Duration;

use crate::route::HeaderEdit;

/// `HealthCheck`.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// An endpoint that has not answered by then has failed.
    pub timeout: Duration,
    /// When to ask.
    pub pace: Pace,
    /// Failures in a row that make an endpoint unhealthy; an answer that is bad for certain makes it so at once.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again; the first answer of all counts at once.
    pub healthy_threshold: u32,
    /// The next question goes over the same connection.
    pub reuse_connection: bool,
    /// In place of the endpoints' own port.
    pub port: Option<u16>,
    /// In place of the endpoints' own metadata, to choose a transport socket.
    pub transport_match: Option<Vec<(Box<str>, Box<str>)>>,
    /// What is asked.
    pub probe: Probe,
}

/// When an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two questions.
    pub interval: Duration,
    /// While the cluster has never had a connection.
    pub no_traffic: Duration,
    /// The same for healthy endpoints.
    pub no_traffic_healthy: Duration,
    /// While the endpoint is unhealthy.
    pub unhealthy: Duration,
    /// After a failure that is not enough to make it unhealthy.
    pub unhealthy_edge: Duration,
    /// After a success that is not enough to make it healthy.
    pub healthy_edge: Duration,
    /// The first question waits for a random time below this.
    pub initial_jitter: Duration,
    /// A random time below this comes on top of each of the others.
    pub jitter: Duration,
    /// And a random part of it, below so many percent.
    pub jitter_percent: u32,
}

/// `health_checker`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Probe {
    Http(HttpProbe),
    Tcp(TcpProbe),
    Grpc(GrpcProbe),
}

/// `HttpHealthCheck`.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    /// Empty: the cluster's name.
    pub host: Box<str>,
    /// Path and query.
    pub path: Box<str>,
    /// Of the request.
    pub method: Box<str>,
    /// HTTP/2 is spoken, whatever the cluster speaks otherwise.
    pub http2: bool,
    /// Header operations; their values are literal.
    pub headers: HeaderEdit,
    /// The body of the request.
    pub send: Vec<u8>,
    /// What the body of the answer contains, in this order.
    pub receive: Vec<Vec<u8>>,
    /// So much of it is looked at.
    pub response_buffer_size: usize,
    /// Good answers.
    pub expected: Vec<Range<u16>>,
    /// Answers that are bad only `unhealthy_threshold` times in a row.
    pub retriable: Vec<Range<u16>>,
}

/// `TcpHealthCheck`.
#[derive(Clone, Debug)]
pub struct TcpProbe {
    /// Octets to send.
    pub send: Vec<u8>,
    /// What comes back, in this order. Empty: that there is a connection is enough.
    pub receive: Vec<Vec<u8>>,
}

/// `GrpcHealthCheck`.
#[derive(Clone, Debug)]
pub struct GrpcProbe {
    /// Empty: the server as a whole.
    pub service: Box<str>,
    /// Empty: the cluster's name.
    pub authority: Box<str>,
    /// Metadata; its values are literal.
    pub metadata: HeaderEdit,
}
