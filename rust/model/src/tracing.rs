//! Distributed tracing of a connection manager's requests (Envoy `HttpConnectionManager.Tracing`).

use std::sync::Arc;

use crate::otlp::Exporter;

/// What is traced, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Where spans go.
    pub exporter: Arc<Exporter>,
    /// Of requests that nobody before us has decided about.
    pub sampling: Sampling,
    /// `spawn_upstream_span`: each attempt has a span of its own below the request's.
    pub attempts: bool,
    /// `max_path_tag_length`: octets of a path that are told.
    pub longest_path: usize,
    /// `custom_tags`.
    pub tags: Vec<Tag>,
}

/// Shares of requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// `client_sampling`: of those that ask for it by `x-client-trace-id`.
    pub client: u32,
    /// `random_sampling`: of all others.
    pub random: u32,
    /// `overall_sampling`: of those that the two have chosen.
    pub overall: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { client: 1_000_000, random: 1_000_000, overall: 1_000_000 }
    }
}

/// What a route says of the traces of its requests (`config.route.v3.Tracing`).
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTracing {
    /// In place of the connection manager's.
    pub sampling: Sampling,
    /// Beside the connection manager's, whose namesakes they replace.
    pub tags: Vec<Tag>,
}

/// `Decorator`: what the requests of a route do, in the words of whoever runs the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decorator {
    /// Name of the span.
    pub operation: Box<str>,
    /// The next proxy is told, in `x-envoy-decorator-operation`, and takes it over.
    pub propagate: bool,
}

/// `CustomTag`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// Its key.
    pub name: Box<str>,
    /// Where the value comes from.
    pub value: TagValue,
}

/// The value of a [`Tag`].
#[derive(Clone, Debug, PartialEq)]
pub enum TagValue {
    /// The same for every request. What the environment says is looked up when the configuration is read.
    Literal(Box<str>),
    /// Of a header of the request; without it the default, and no tag if that is empty.
    Header {
        /// In lower case.
        name: Box<str>,
        /// In its place.
        default: Box<str>,
    },
}
