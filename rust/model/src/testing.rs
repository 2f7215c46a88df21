//! The parts of a snapshot with nothing switched on, for tests, fuzz targets and
//! examples: each names what it is about, and `..` takes the rest from here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::*;
use crate::cluster::*;
use crate::endpoint::*;
use crate::filter::RouteFilters;
use crate::http::*;
use crate::listener::*;
use crate::route::*;
use crate::Snapshot;

/// Address `10.0.0.host:port`.
pub fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

/// What stands in both maps and lists, under the names that it brings along.
pub fn snapshot(
    listeners: impl IntoIterator<Item = Listener>,
    clusters: impl IntoIterator<Item = Cluster>,
) -> Snapshot {
    Snapshot {
        version: 1,
        listeners: listeners.into_iter().map(Arc::new).collect(),
        clusters: clusters.into_iter().map(|cluster| (cluster.name.clone(), Arc::new(cluster))).collect(),
        ..Snapshot::default()
    }
}

/// An inbound listener with one filter chain and no inspection.
#[allow(clippy::expect_used)]
pub fn listener(name: &str, address: SocketAddr, chain: FilterChain) -> Listener {
    Listener {
        name: name.into(),
        address,
        ipv4_compat: false,
        bind_to_port: true,
        capture: Capture::default(),
        direction: Direction::Inbound,
        listener_filters: vec![],
        listener_filters_timeout: Duration::ZERO,
        continue_on_listener_filters_timeout: false,
        filter_chains: FilterChains::new(vec![Arc::new(chain)]).expect("one chain overlaps with no other"),
        default_filter_chain: None,
        access_logs: Vec::new(),
        buffer_limit: 1 << 20,
        backlog: 1024,
    }
}

/// A chain that takes every connection as plain octets.
pub fn filter_chain(network: NetworkFilter) -> FilterChain {
    FilterChain {
        name: "chain".into(),
        matches: FilterChainMatch::default(),
        tls: None,
        transport_connect_timeout: Duration::ZERO,
        policies: vec![],
        network,
        lineage: Lineage::default(),
    }
}

/// A connection manager of both HTTP versions.
pub fn http(stat_prefix: &str, routes: RouteTable) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        codec: Codec::Auto,
        routes: RouteSource::Inline(Arc::new(routes)),
        filters: vec![],
        timeouts: HttpTimeouts::default(),
        limits: HttpLimits::default(),
        path: PathPolicy::default(),
        forwarding: Forwarding::default(),
        server_name: "pymesh".into(),
        server_header: ServerHeader::Overwrite,
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: false,
        upgrades: vec![],
        allow_connect: false,
        proxy_100_continue: false,
        default_host_for_http_10: None,
        header_case: HeaderCase::Lower,
        via: None,
        access_logs: vec![],
        tracing: None,
        stats: None,
    }
}

/// All that there is to share goes to one cluster.
pub fn share(cluster: &str) -> WeightedCluster {
    WeightedCluster {
        name: cluster.into(),
        weight: 1,
        headers: HeaderOps::default(),
        host_rewrite: None,
        filters: RouteFilters::default(),
    }
}

/// A relay to one cluster.
pub fn tcp(stat_prefix: &str, cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: stat_prefix.into(),
        clusters: vec![share(cluster)],
        idle_timeout: Duration::from_secs(3600),
        max_connection_duration: Duration::ZERO,
        max_connect_attempts: 1,
        hash_source_ip: false,
        access_logs: vec![],
        stats: None,
    }
}

/// One virtual host for every domain.
pub fn routes(routes: impl IntoIterator<Item = Route>) -> RouteTable {
    let routes = routes.into_iter().map(Arc::new).collect();
    let host = VirtualHost { domains: vec!["*".into()], routes, ..VirtualHost::default() };
    RouteTable { virtual_hosts: vec![host], ..RouteTable::default() }
}

/// Every request with such a path.
pub fn rule(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        case_sensitive: true,
        headers: vec![],
        query: vec![],
        metadata: vec![],
        grpc: false,
        fraction: None,
    }
}

/// A route for every path below `prefix`.
pub fn route(prefix: &str, action: Action) -> Route {
    Route {
        name: prefix.into(),
        matches: rule(PathMatch::Prefix(prefix.into())),
        action,
        headers: HeaderOps::default(),
        filters: RouteFilters::default(),
        decorator: None,
        tracing: None,
    }
}

/// What a route does that sends everything to one cluster, once.
pub fn forward(cluster: &str) -> Forward {
    Forward {
        cluster: ClusterChoice::One(cluster.into()),
        priority: RoutingPriority::Default,
        timeout: Duration::from_secs(15),
        idle_timeout: None,
        stream: StreamDuration::default(),
        grpc_timeout: None,
        retry: None,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        cluster_not_found_status: 503,
        rate_limits: vec![],
        upgrades: vec![],
        mirrors: Arc::default(),
        hash_policy: vec![],
    }
}

/// A retry policy with Envoy's back-off.
pub fn retry(on: RetryOn, num_retries: u32) -> RetryPolicy {
    RetryPolicy { on, num_retries, avoid_previous_hosts: true, host_selection_attempts: 3, ..RetryPolicy::default() }
}

/// A static cluster of healthy endpoints that speak HTTP/1 as plain octets.
pub fn cluster(name: &str, endpoints: impl IntoIterator<Item = SocketAddr>) -> Cluster {
    let endpoints = endpoints.into_iter().map(|address| Arc::new(endpoint(address))).collect();
    let locality = Locality { weight: 1, endpoints, ..Locality::default() };
    Cluster {
        name: name.into(),
        stat_name: name.into(),
        discovery: Discovery::Static,
        endpoints: Arc::new(Endpoints::of(vec![locality])),
        balance: Balance::by(LbPolicy::RoundRobin),
        connect_timeout: Duration::from_secs(1),
        circuit_breakers: CircuitBreakers::default(),
        outlier_detection: None,
        health_check: None,
        http: UpstreamHttp::default(),
        transport: Transport::default(),
        bind: UpstreamBind::default(),
        buffer_limit: 1 << 20,
        service: ServiceLabels::default(),
    }
}

/// A healthy endpoint without names or metadata.
pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
        check: EndpointCheck::default(),
        hash_key: "".into(),
        transport_match: vec![],
        workload: Default::default(),
    }
}
