//! One request and its response: the unit of work of the engine.
//!
//! Connections put what arrives into an [`Exchange`] and put its key on the
//! ready list; once per loop turn every ready exchange is advanced as far as
//! it goes ([`Engine::advance_exchange`]). `rust/engine/LIFE_OF_A_REQUEST.md`
//! is the table of the stages below.

mod asking;
mod away;
mod collect;
mod detached;
mod drop_overload;
mod edit;
mod failure;
mod finish;
pub(crate) mod forward;
pub(crate) mod grpc_web;
mod health;
mod ids;
mod messages;
mod mirror;
mod pipe;
mod reply;
mod request;
mod response;
mod retry;
mod sending;
mod sticky;
mod stream;
mod tunnel;
mod upstream;
mod websocket;

use std::sync::Arc;

use pymesh_http::h2::StreamId;
use pymesh_http::{RequestHead, ResponseHead, Version};
use pymesh_model::cluster::{Cluster, RoutingPriority};
use pymesh_model::endpoint::Endpoint;
use pymesh_model::filter::RouteFilters;
use pymesh_model::metadata::Metadata;
use pymesh_model::route::{Action, ClusterChoice, Forward, RetryPolicy, Route, RouteTable, WeightedCluster};

use crate::base::slab::Key;
use crate::base::time::Time;
use crate::cluster::{ClusterKey, HostKey, PoolKey};
use crate::conn::ConnKey;
use crate::engine::Engine;
use crate::filter::Kept;
use crate::http_filter::{Memory, Places};
use crate::listener::HttpRuntime;
use crate::route::matcher::Unrouted;
use crate::telemetry::{details, Details, Facts, Flags, UpstreamFacts};
use crate::tracing::Trace;

pub use away::{Asker, CallAnswer, CallQuestion, NoAnswer};

pub(crate) use asking::{Heard, Question, Told, Waiter};
pub(crate) use away::Away;
pub(crate) use collect::Collect;
pub(crate) use detached::{Answer, Detached, Owner, Unanswered};
pub(crate) use edit::{add_field, Due};
pub(crate) use failure::Failure;
pub(crate) use grpc_web::GrpcWeb;
pub(crate) use messages::Messages;
pub(crate) use pipe::Pipe;
pub(crate) use reply::LocalReply;
pub(crate) use tunnel::{from_extended_connect, Tunnel, TunnelEnd, Verdict};

/// Names an exchange.
pub type ExchangeKey = Key<Box<Exchange>>;

/// Octets of a head's arena that a recycled exchange keeps: what one client's large heads took is given back.
const KEEP: usize = 8 * 1024;

/// Octets of a response that wait for a client that has taken none.
pub(crate) const FIRST_BUFFER: usize = 16 * 1024;

/// Where an exchange is. The order is the order in which it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The request head has arrived.
    #[default]
    Arrived,
    /// The request filter with this index is next, or is running.
    RequestFilter(usize),
    /// The request filter with this index goes on when it is woken ([`asking`]), at the latest at `filter_resumes_at`.
    FilterWaits(usize),
    /// It waits to be tried again.
    BackingOff,
    /// An endpoint is to be chosen.
    Picking,
    /// It waits for a connection to the endpoint.
    Pending,
    /// Request and response flow.
    Flowing,
    /// The response filter with this index is next, or is running.
    ResponseFilter(usize),
    /// The proxy's own answer flows; there is no upstream.
    Replying,
}

/// A request and its response while they pass through.
///
/// Exchanges are recycled: [`Exchange::reset`] keeps the memory of the heads
/// and bodies for the next one.
#[derive(Default)]
pub struct Exchange {
    pub(crate) stage: Stage,
    /// A Python filter has it; nothing else touches its heads.
    pub(crate) in_filter: bool,
    /// Number of the call that it waits for.
    pub(crate) filter_call: u64,
    /// Hooks of filters that run beside the worker.
    pub(crate) away: Vec<Away>,
    pub(crate) kept: Kept,
    /// It was decided which filters it passes.
    pub(crate) chose_filters: bool,
    /// The filters that it passes by.
    pub(crate) skips: Places,
    /// The Python filters that have had their turn, and those of them that it concerns.
    pub(crate) judged: Places,
    pub(crate) concerned: Places,
    /// By the filter's place in its chain.
    pub(crate) memories: Vec<(usize, Memory)>,
    pub(crate) filter_resumes_at: Time,
    /// Where it was to go when a filter began to hold it back, which stays until it has gone there.
    pub(crate) awaited: Option<ClusterKey>,
    /// The question that it waits for, if that is its own.
    pub(crate) asking: Option<ExchangeKey>,
    /// What filters have found out.
    pub(crate) metadata: Metadata,
    /// The router has done its part on the response's head.
    pub(crate) is_edited: bool,
    /// The response has begun to pass the filters.
    pub(crate) is_filtered: bool,
    pub(crate) is_ready: bool,

    /// The client's connection; `None` if the engine itself has asked ([`Exchange::detached`]).
    pub(crate) down: Option<ConnKey>,
    pub(crate) down_stream: Option<StreamId>,
    pub(crate) http: Option<Arc<HttpRuntime>>,
    pub(crate) facts: Option<Arc<Facts>>,
    /// There is no client: who is told the answer instead.
    pub(crate) detached: Option<Detached>,

    pub(crate) request: RequestHead,
    pub(crate) request_body: Pipe,
    pub(crate) response: ResponseHead,
    pub(crate) response_body: Pipe,
    /// The response head has arrived (or the proxy made it).
    pub(crate) has_response: bool,
    /// The response head has been sent downstream.
    pub(crate) response_started: bool,
    /// The answer is the proxy's own.
    pub(crate) is_local: bool,
    /// No route changes the answer's headers.
    pub(crate) is_verbatim: bool,
    /// The client was told `100 Continue`.
    pub(crate) sent_continue: bool,
    pub(crate) expects_continue: bool,
    pub(crate) tunnel: Tunnel,
    /// Those that are sent what this one is, while it comes.
    pub(crate) mirrors: Vec<ExchangeKey>,
    /// The client speaks gRPC-Web: both bodies are translated.
    pub(crate) grpc_web: Option<Box<GrpcWeb>>,
    pub(crate) messages: Messages,

    pub(crate) routed: Option<Routed>,
    /// Why, if there is none.
    pub(crate) unrouted: Unrouted,
    pub(crate) cluster: Option<ClusterKey>,
    pub(crate) host: Option<HostKey>,
    pub(crate) pool: Option<PoolKey>,
    /// Of its route.
    pub(crate) priority: RoutingPriority,
    /// The cluster and endpoint of the last attempt, for logs and metrics.
    pub(crate) cluster_config: Option<Arc<Cluster>>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) up: Option<ConnKey>,
    pub(crate) up_stream: Option<StreamId>,
    /// The request head has been written to the upstream connection.
    pub(crate) request_started: bool,

    /// 1 for the first.
    pub(crate) attempt: u32,
    pub(crate) retries_left: u32,
    /// Octets of the request's body that are kept for another attempt.
    pub(crate) replay_limit: usize,
    /// In place of its route's policy, for the few requests that have one of their own.
    pub(crate) own_retry: Option<Arc<RetryPolicy>>,
    /// A retry is under way, and counted in the circuit breaker.
    pub(crate) holds_retry: bool,
    /// An earlier attempt has sent the request.
    pub(crate) was_sent: bool,
    /// The answer was held against the retry policy.
    pub(crate) is_judged: bool,
    /// The client has been told something: no other attempt can take it back.
    pub(crate) is_final: bool,
    /// It comes from an address that may give orders in `x-envoy-` headers.
    pub(crate) is_internal: bool,
    pub(crate) tried: Vec<HostKey>,
    /// Cookies that the client is given with the answer, by which it will come back to where it was.
    pub(crate) set_cookies: Vec<Vec<u8>>,

    pub(crate) trace: Option<Trace>,
    pub(crate) flags: Flags,
    pub(crate) details: Details,
    pub(crate) transport_failure: Option<String>,
    pub(crate) upstream_local: Option<std::net::SocketAddr>,
    /// Of the connection that carries it, or has carried it last.
    pub(crate) upstream_facts: Option<Arc<UpstreamFacts>>,
    pub(crate) upstream_version: Option<Version>,

    pub(crate) started: Time,
    pub(crate) request_received: Option<Time>,
    /// When the router sent it on its way, all filters behind it.
    pub(crate) forwarded: Time,
    pub(crate) upstream_started: Option<Time>,
    /// All of it has gone to the endpoint.
    pub(crate) request_sent: Option<Time>,
    pub(crate) response_received: Option<Time>,
    /// All of the answer has come from the endpoint.
    pub(crate) response_ended: Option<Time>,
    /// The client is told an answer since.
    pub(crate) answered: Option<Time>,
    pub(crate) last_progress: Time,
    pub(crate) retry_at: Time,
    /// From `grpc-timeout`, in place of the route's.
    pub(crate) timeout_override: Option<std::time::Duration>,
    /// How long it may last; zero means no limit.
    pub(crate) max_duration: std::time::Duration,
    pub(crate) deadline: Time,
    pub(crate) bytes_sent: u64,
}

/// What the router decided.
#[derive(Clone)]
pub(crate) struct Routed {
    pub table: Arc<RouteTable>,
    pub virtual_host: usize,
    pub route: Arc<Route>,
    /// Index into the route's weighted clusters.
    pub weighted: Option<usize>,
}

impl Routed {
    /// For routes that forward.
    pub fn forward(&self) -> Option<&Arc<Forward>> {
        match &self.route.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The chosen entry of the route's weighted clusters.
    fn share(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.cluster {
            ClusterChoice::Weighted(split) => split.clusters.get(self.weighted?),
            _ => None,
        }
    }

    /// The name of the cluster that the request is for.
    pub fn cluster_name<'a>(&'a self, request: &'a RequestHead) -> Option<&'a [u8]> {
        match &self.forward()?.cluster {
            ClusterChoice::One(name) => Some(name.as_bytes()),
            ClusterChoice::Weighted(_) => Some(self.share()?.name.as_bytes()),
            ClusterChoice::Header(header) => request.headers.get(header.as_bytes()),
        }
    }

    /// What is said of HTTP filters.
    pub fn filters(&self) -> &RouteFilters {
        self.share().map_or(&self.route.filters, |share| &share.filters)
    }

    /// The route's retry policy, or else its virtual host's.
    pub fn retry(&self) -> Option<&Arc<RetryPolicy>> {
        let own = self.forward()?.retry.as_ref();
        own.or_else(|| self.table.virtual_hosts.get(self.virtual_host)?.retry.as_ref())
    }
}

impl Exchange {
    /// What its route says of requests that go on, if it is such a route.
    pub(crate) fn forward(&self) -> Option<&Arc<Forward>> {
        self.routed.as_ref()?.forward()
    }

    /// The proxy itself tells the client to continue, and the upstream nothing of it.
    pub(crate) fn answers_expect(&self) -> bool {
        self.expects_continue && self.http.as_ref().is_none_or(|http| !http.config.proxy_100_continue)
    }

    /// No route changes the headers of its answer: it is verbatim, or a filter's in place of an answer that the route
    /// itself would have given.
    fn keeps_its_headers(&self) -> bool {
        let is_of_route = || self.routed.as_ref().is_some_and(|routed| routed.forward().is_none());
        self.is_verbatim || self.is_local && is_of_route() && *self.details != *details::DIRECT_RESPONSE
    }

    /// How much of the response may wait: the more the client has taken, the more, as HTTP/2's windows grow.
    pub(crate) fn response_room(&self) -> usize {
        usize::try_from(self.bytes_sent).unwrap_or(usize::MAX).saturating_add(FIRST_BUFFER)
    }

    /// Keeps what its attempts, logs and metrics are told of a cluster.
    pub(crate) fn keep_config(&mut self, config: &Arc<Cluster>) {
        // Mostly it is there already, and a count that many workers share is left alone.
        if !self.cluster_config.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, config)) {
            self.cluster_config = Some(config.clone());
        }
    }

    /// Ready for another request; keeps memory.
    pub(crate) fn reset(&mut self) {
        /// Field by field: a whole new exchange would be some kilobytes to move. The list is complete, or this does not
        /// build.
        macro_rules! renew {
            (cleared: $($cleared:ident),*; new: $($new:ident),* $(,)?) => {
                let Exchange { $($cleared,)* $($new,)* } = self;
                $($cleared.clear();)*
                $(*$new = Default::default();)*
            };
        }
        renew! {
            cleared: request, response, request_body, response_body, tried, memories, mirrors, metadata, messages;
            new: stage, in_filter, filter_call, away, kept, chose_filters, skips, judged, concerned, filter_resumes_at,
                awaited, asking, is_edited, is_filtered, is_ready, down, down_stream, http, facts,
                detached, has_response, response_started, is_local, is_verbatim, sent_continue,
                expects_continue, tunnel, grpc_web, routed, unrouted, cluster, host, pool,
                priority, cluster_config, endpoint, up, up_stream, request_started, attempt,
                retries_left, replay_limit, own_retry, holds_retry, was_sent, is_judged, is_final,
                is_internal, set_cookies, trace, flags, details, transport_failure, upstream_local, upstream_facts,
                upstream_version, started, request_received, forwarded, upstream_started, request_sent,
                response_received, response_ended, answered, last_progress, retry_at, timeout_override,
                max_duration, deadline, bytes_sent
        }
        self.request.headers.shrink(KEEP);
        self.response.headers.shrink(KEEP);
    }
}

impl Engine {
    /// Puts an exchange on the list of those that can go on.
    pub(crate) fn make_ready(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            if !exchange.is_ready {
                exchange.is_ready = true;
                self.ready.push_back(key);
            }
        }
    }

    /// Takes an exchange as far as it goes now.
    pub(crate) fn advance_exchange(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.is_ready = false;
        }
        loop {
            let Some(exchange) = self.exchanges.get(key) else { return };
            if exchange.in_filter {
                return;
            }
            let before = exchange.stage;
            match before {
                Stage::Arrived => self.on_arrived(key),
                Stage::RequestFilter(index) => self.run_request_filter(key, index),
                Stage::FilterWaits(index) => self.collect_body(key, index),
                Stage::BackingOff | Stage::Pending => return,
                Stage::Picking => self.pick_upstream(key),
                Stage::Flowing => {
                    self.pump_request(key);
                    self.pump_response(key);
                }
                Stage::ResponseFilter(index) => {
                    // An upstream may want the rest of the request before it gives what the filter waits for.
                    self.pump_request(key);
                    if self.exchanges.get(key).is_some_and(|exchange| exchange.stage == before) {
                        self.run_response_filter(key, index);
                    }
                }
                Stage::Replying => self.pump_response(key),
            }
            match self.exchanges.get(key) {
                Some(exchange) if exchange.stage != before => {}
                _ => return,
            }
        }
    }
}
