//! Limits on requests that the process keeps by itself (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`).
//!
//! What a limit is about is a descriptor: a list of keys and values. A policy ([`RateLimit`]) makes descriptors of a
//! request; the filter has a bucket for each that it knows, and one for all requests.

use std::sync::Arc;
use std::time::Duration;

use crate::matcher::{HeaderMatch, QueryMatch};
use crate::route::HeaderEdit;

/// Buckets, and what happens to requests for which there is no token.
#[derive(Clone, Debug)]
pub struct LocalRateLimit {
    /// Of its statistics.
    pub stat_prefix: Arc<str>,
    /// 400 or above.
    pub status: u16,
    /// gRPC is told RESOURCE_EXHAUSTED, else UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Of all requests; `None`: as many as come.
    pub bucket: Option<TokenBucket>,
    /// Buckets of their own.
    pub descriptors: Vec<LimitDescriptor>,
    /// Requests with a bucket of their own take a token of the general one too.
    pub always_consume_default: bool,
    /// How many values of a descriptor that leaves some open have a bucket at the same time.
    pub max_dynamic_descriptors: usize,
    /// Each client connection has buckets of its own, else the process has them.
    pub per_connection: bool,
    /// Share of requests that are looked at, in millionths.
    pub enabled: u32,
    /// Share of those without a token that are refused.
    pub enforced: u32,
    /// On requests without a token that are let pass.
    pub request_headers: HeaderEdit,
    /// On answers to those that are refused.
    pub response_headers: HeaderEdit,
    /// Tell clients how much is left (`x-ratelimit-*`, third draft of the RFC).
    pub tells_clients: bool,
    /// Which of the route's policies are its own.
    pub stage: u32,
    /// What the virtual host's policies mean.
    pub virtual_host: VirtualHostLimits,
    /// In place of the route's and the virtual host's policies.
    pub policies: Vec<RateLimit>,
}

/// `vh_rate_limits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtualHostLimits {
    /// They count if the route has none.
    #[default]
    Override,
    /// They count as well.
    Include,
    /// They do not count.
    Ignore,
}

/// `TokenBucket`. It is full at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenBucket {
    /// What it holds.
    pub max_tokens: u32,
    /// So many in each interval, one after the other.
    pub tokens_per_fill: u32,
    /// See `tokens_per_fill`.
    pub fill_interval: Duration,
}

/// A bucket for requests of one descriptor. An empty value stands for any: each has a bucket of its own.
#[derive(Clone, Debug)]
pub struct LimitDescriptor {
    /// Keys and values.
    pub entries: Vec<(Box<str>, Box<str>)>,
    /// How much.
    pub bucket: TokenBucket,
}

impl LimitDescriptor {
    /// Some value is left open.
    pub fn is_dynamic(&self) -> bool {
        self.entries.iter().any(|(_, value)| value.is_empty())
    }
}

/// `RateLimit`: what is done to a request makes one descriptor, or none if one of the actions does not apply.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Which filters it is for.
    pub stage: u32,
    /// Each adds an entry, in order.
    pub actions: Vec<LimitAction>,
}

/// `RateLimit.Action`.
#[derive(Clone, Debug)]
pub enum LimitAction {
    /// The node's cluster.
    SourceCluster,
    /// The route's cluster.
    DestinationCluster,
    /// The SPIFFE ID that the client has shown (`pymesh.filters.v1.ClientIdentity`).
    ClientIdentity {
        /// Of the entry.
        key: Box<str>,
    },
    /// The client's address.
    RemoteAddress,
    /// The network of the client's address.
    MaskedRemoteAddress {
        /// Bits of an IPv4 address.
        v4: u8,
        /// Bits of an IPv6 address.
        v6: u8,
    },
    /// A header's first value.
    RequestHeader {
        /// Lower case.
        name: Box<str>,
        /// Of the entry.
        key: Box<str>,
        /// No entry without it, else no descriptor.
        skip_if_absent: bool,
    },
    /// A query parameter's first value.
    QueryParameter {
        /// Case counts.
        name: Box<str>,
        /// Of the entry.
        key: Box<str>,
        /// No entry without it, else no descriptor.
        skip_if_absent: bool,
    },
    /// Always the same.
    GenericKey {
        /// Of the entry.
        key: Box<str>,
        /// Of the entry.
        value: Box<str>,
    },
    /// If the headers match, or do not.
    HeaderValueMatch {
        /// Of the entry.
        key: Box<str>,
        /// Of the entry.
        value: Box<str>,
        /// Which of both.
        expect: bool,
        /// All of them.
        headers: Vec<HeaderMatch>,
    },
    /// If the query matches, or does not.
    QueryValueMatch {
        /// Of the entry.
        key: Box<str>,
        /// Of the entry.
        value: Box<str>,
        /// Which of both.
        expect: bool,
        /// All of them.
        query: Vec<QueryMatch>,
    },
}
