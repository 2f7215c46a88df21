//! Clusters (Envoy `config.cluster.v3`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::Balance;
pub use crate::circuit_breaker::{CircuitBreakers, RetryBudget, RoutingPriority, Thresholds};
use crate::endpoint::Endpoints;
use crate::health_check::HealthCheck;
use crate::http::{HeaderCase, Http2Guards};
use crate::outlier::OutlierDetection;
use crate::snapshot::WorkloadLabels;
use crate::tls::ClientTls;

/// A group of endpoints that serve the same thing, and how to talk to them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Unique name.
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name.
    pub stat_name: Arc<str>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// The endpoints known now. Shared, so that EDS updates leave the rest alone.
    pub endpoints: Arc<Endpoints>,
    /// How one is chosen.
    pub balance: Balance,
    /// Time for TCP and TLS handshakes together (default 5 s).
    pub connect_timeout: Duration,
    /// How much may be open towards it at once.
    pub circuit_breakers: CircuitBreakers,
    /// Hosts that answer badly are ejected for a while.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// Hosts are asked how they are.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Which HTTP is spoken.
    pub http: UpstreamHttp,
    /// How octets are carried.
    pub transport: Transport,
    /// What a socket is given before it connects.
    pub bind: UpstreamBind,
    /// Soft limit on octets buffered for one connection in each direction.
    pub buffer_limit: usize,
    /// What metrics call this destination, from `metadata.filter_metadata.istio`.
    pub service: ServiceLabels,
}

/// `cluster_discovery_type`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Discovery {
    Static,
    Eds,
    StrictDns,
    LogicalDns,
    /// The address the client wanted to reach.
    OriginalDst(OriginalDst),
}

/// Settings of an original-destination cluster (`original_dst_lb_config`, `cleanup_interval`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalDst {
    /// In place of the original port.
    pub port: Option<u16>,
    /// The request header that may name another address, `IP:PORT`.
    pub header: Option<Box<str>>,
    /// An address that nobody asked for during this long is forgotten, and its idle connections are closed.
    pub cleanup_interval: Duration,
    /// Most addresses known at once, each with pools of its own (`max_connection_pools`).
    pub max_addresses: usize,
}

/// `upstream_bind_config`, and what else a socket is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamBind {
    /// `source_address` and `extra_source_addresses`, at most one of each IP version; port 0 is any. Without
    /// any the system chooses. With some, endpoints of the other version cannot be reached.
    pub sources: Vec<SocketAddr>,
    /// SO_MARK, by which routing and packet filters know the proxy's own connections.
    pub mark: Option<u32>,
    /// `upstream_connection_options.tcp_keepalive`; `None`: the system sends no probes.
    pub keepalive: Option<TcpKeepalive>,
}

/// `TcpKeepalive`: probes on a connection that is silent. `None` leaves the system's setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer after which the connection is dead.
    pub probes: Option<u32>,
    /// Silence before the first.
    pub idle: Option<Duration>,
    /// Between two of them.
    pub interval: Option<Duration>,
}

/// `HttpProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: UpstreamProtocol,
    /// A pooled connection without requests is closed after this; zero means never (default 1 h).
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; zero means no limit.
    pub requests_per_connection: u32,
    /// How long an attempt may last, whatever comes of it; zero means no limit.
    pub max_stream_duration: Duration,
    /// Age at which a connection takes no more requests; zero means no limit.
    pub max_connection_duration: Duration,
    /// Most streams we open on one HTTP/2 connection.
    pub concurrent_streams: u32,
    /// Receive window of a stream when it begins, octets.
    pub stream_window: u32,
    /// What it grows to while the client takes what comes. One that is configured does not grow.
    pub stream_window_most: u32,
    /// Receive window per connection, octets.
    pub connection_window: u32,
    /// What else of `http2_protocol_options` bounds the endpoint's frames.
    pub http2: Http2Guards,
    /// Largest response header list, octets.
    pub header_list_size: usize,
    /// Most response fields.
    pub header_count: usize,
    /// `http_protocol_options.header_key_format`.
    pub header_case: HeaderCase,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        UpstreamHttp {
            protocol: UpstreamProtocol::Http1,
            idle_timeout: Duration::from_secs(3600),
            requests_per_connection: 0,
            max_stream_duration: Duration::ZERO,
            max_connection_duration: Duration::ZERO,
            concurrent_streams: 1024,
            stream_window: 32 * 1024,
            stream_window_most: 256 * 1024,
            connection_window: 16 * 1024 * 1024,
            http2: Http2Guards::default(),
            header_list_size: 60 * 1024,
            header_count: 100,
            header_case: HeaderCase::Lower,
        }
    }
}

/// Which HTTP is spoken upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// `explicit_http_config.http_protocol_options`.
    #[default]
    Http1,
    /// `explicit_http_config.http2_protocol_options`.
    Http2,
    /// `auto_config`: by ALPN.
    Auto,
    /// `use_downstream_protocol_config`.
    Downstream,
}

/// `transport_socket` and `transport_socket_matches`.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// For endpoints that no match names.
    pub default: TransportSocket,
    /// The first whose criteria are all in the endpoint's
    /// `envoy.transport_socket_match` metadata is taken.
    pub matches: Vec<TransportMatch>,
}

/// `TransportSocketMatch`.
#[derive(Clone, Debug)]
pub struct TransportMatch {
    /// For logs.
    pub name: Arc<str>,
    /// Keys and values; empty matches every endpoint.
    pub criteria: Vec<(Box<str>, Box<str>)>,
    /// For the endpoints that are meant.
    pub socket: TransportSocket,
}

/// How octets are carried to an endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransportSocket {
    /// `None`: plain octets.
    pub tls: Option<Arc<ClientTls>>,
    /// A header in front of everything, TLS included, says whom the connection speaks for.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// `ProxyProtocolConfig.Version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// What Istio's metrics say about a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    /// Host, such as `reviews.shop.svc.cluster.local`.
    pub host: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Workload, where the cluster stands for one (inbound clusters: this proxy's).
    pub workload: WorkloadLabels,
}
