//! The snapshots of both sidecars.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::cluster::*;
use pymesh_model::endpoint::*;
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::route::*;
use pymesh_model::tls::{ClientTls, ServerTls};
use pymesh_model::Snapshot;

use super::identity;
use super::plan::{Plan, Retry};

pub fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

/// Where clients go: HTTP, TCP.
pub fn entrance() -> [SocketAddr; 2] {
    [address(1, 15_001), address(1, 15_002)]
}

/// The second sidecar's listeners: HTTP twice, TCP.
fn inbound() -> [SocketAddr; 3] {
    [address(2, 15_006), address(2, 15_016), address(2, 15_007)]
}

/// Where the app listens, for HTTP; and for TCP.
pub fn app() -> ([SocketAddr; 3], SocketAddr) {
    ([address(3, 8080), address(4, 8080), address(5, 8080)], address(3, 9000))
}

/// The first configuration of a sidecar and one for each change.
pub fn snapshots(plan: &Plan, side: usize) -> Vec<Arc<Snapshot>> {
    let mut all: Vec<Arc<Snapshot>> = Vec::new();
    for change in 0..=plan.changes[side].len() {
        let mut next = snapshot(plan, side, change);
        if let (Some(last), false) = (all.last(), plan.relistens) {
            next.listeners.clone_from(&last.listeners);
        }
        all.push(Arc::new(next));
    }
    all
}

fn snapshot(plan: &Plan, side: usize, change: usize) -> Snapshot {
    let [http, other, tcp] = inbound();
    let seen = |all: &[SocketAddr]| -> Vec<SocketAddr> {
        // Every change takes one endpoint away and brings the last one back.
        let gone = (change > 0).then(|| change % all.len());
        all.iter().enumerate().filter(|(at, _)| Some(*at) != gone).map(|(_, address)| *address).collect()
    };
    let client = (side == 0 && plan.tls).then(|| {
        let alpn: &[&str] = match plan.mesh {
            UpstreamProtocol::Http1 => &["http/1.1"],
            UpstreamProtocol::Http2 => &["h2"],
            UpstreamProtocol::Auto => &["h2", "http/1.1"],
            UpstreamProtocol::Downstream => &[],
        };
        Arc::new(identity::client_tls(alpn))
    });
    let plain = (side == 0 && plan.tls).then(|| Arc::new(identity::client_tls(&[])));
    let server = (side == 1 && plan.tls).then(|| Arc::new(identity::server_tls(&["h2", "http/1.1"])));
    let (listeners, clusters) = match side {
        0 => {
            let [web, raw] = entrance();
            (
                vec![(web, true), (raw, false)],
                [("web", seen(&[http, other]), plan.mesh, client), ("raw", vec![tcp], UpstreamProtocol::Http1, plain)],
            )
        }
        _ => {
            let (apps, echo) = app();
            (
                vec![(http, true), (other, true), (tcp, false)],
                [("web", seen(&apps), plan.app, None), ("raw", vec![echo], UpstreamProtocol::Http1, None)],
            )
        }
    };
    let listeners = listeners.into_iter().map(|(address, is_http)| listener(plan, side, address, is_http, &server));
    let clusters = clusters
        .into_iter()
        .map(|(name, endpoints, protocol, tls)| (name.into(), cluster(plan, change, name, &endpoints, protocol, tls)));
    Snapshot {
        version: change as u64 + 1,
        listeners: listeners.collect(),
        clusters: clusters.collect(),
        ..Snapshot::default()
    }
}

fn listener(
    plan: &Plan,
    side: usize,
    address: SocketAddr,
    is_http: bool,
    tls: &Option<Arc<ServerTls>>,
) -> Arc<Listener> {
    let network = match is_http {
        true => NetworkFilter::Http(Arc::new(manager(plan, side))),
        false => NetworkFilter::Tcp(Arc::new(TcpProxy {
            stat_prefix: "raw".into(),
            clusters: vec![WeightedCluster { name: "raw".into(), weight: 1, headers: HeaderOps::default() }],
            idle_timeout: Duration::from_secs(60),
            max_connection_duration: Duration::ZERO,
            max_connect_attempts: 2,
            access_logs: vec![],
        })),
    };
    let chain = FilterChain {
        name: "chain".into(),
        matches: FilterChainMatch::default(),
        tls: tls.clone(),
        transport_connect_timeout: Duration::from_secs(5),
        network,
    };
    Arc::new(Listener {
        name: address.to_string().into(),
        address,
        ipv4_compat: false,
        bind_to_port: true,
        capture: Capture::default(),
        direction: if side == 0 { Direction::Outbound } else { Direction::Inbound },
        listener_filters: vec![],
        listener_filters_timeout: Duration::ZERO,
        continue_on_listener_filters_timeout: false,
        filter_chains: FilterChains::new(vec![Arc::new(chain)]).unwrap(),
        default_filter_chain: None,
        buffer_limit: plan.buffer_limit,
        backlog: 1024,
    })
}

fn manager(plan: &Plan, side: usize) -> HttpConnectionManager {
    let forward = Forward {
        cluster: ClusterChoice::One("web".into()),
        timeout: Duration::from_secs(if plan.faultless { 0 } else { 15 }),
        idle_timeout: None,
        stream: StreamDuration::default(),
        grpc_timeout: None,
        retry: retry(plan, plan.retries[side]),
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        cluster_not_found_status: 503,
        upgrades: vec![],
    };
    let matches = RouteMatch {
        path: PathMatch::Prefix("/".into()),
        case_sensitive: true,
        headers: vec![],
        query: vec![],
        grpc: false,
        fraction: None,
    };
    let action = Action::Forward(Arc::new(forward));
    let route = Arc::new(Route { name: "all".into(), matches, action, headers: HeaderOps::default() });
    let host = VirtualHost { domains: vec!["*".into()], routes: vec![route], ..VirtualHost::default() };
    HttpConnectionManager {
        stat_prefix: "web".into(),
        codec: Codec::Auto,
        routes: RouteSource::Inline(Arc::new(RouteTable { virtual_hosts: vec![host], ..RouteTable::default() })),
        filters: vec![],
        timeouts: HttpTimeouts {
            // The client's side of a pooled connection gives it up first.
            idle: Duration::from_secs(90),
            stream_idle: Duration::from_secs(40),
            max_connection_duration: if side == 0 { plan.downstream_age } else { Duration::ZERO },
            ..HttpTimeouts::default()
        },
        limits: HttpLimits {
            stream_window: plan.window,
            connection_window: plan.window * 2,
            http2: guards(),
            requests_per_connection: if side == 0 { plan.downstream_requests } else { 0 },
            concurrent_streams: if side == 0 { 100 } else { plan.streams[0] },
            ..HttpLimits::default()
        },
        path: PathPolicy::default(),
        forwarding: Forwarding { use_remote_address: side == 0, ..Forwarding::default() },
        server_name: "pymesh".into(),
        server_header: ServerHeader::Overwrite,
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: true,
        upgrades: vec![Upgrade { protocol: "websocket".into(), enabled: true, terminates: false }],
        allow_connect: true,
        proxy_100_continue: false,
        default_host_for_http_10: None,
        header_case: HeaderCase::Lower,
        via: None,
        access_logs: vec![],
    }
}

fn retry(plan: &Plan, which: Retry) -> Option<Arc<RetryPolicy>> {
    let (on, num_retries, per_try) = match which {
        Retry::Never => return None,
        Retry::Safe(n) => (RetryOn { connect_failure: true, refused_stream: true, ..RetryOn::default() }, n, 0),
        Retry::Bold(n) => (RetryOn { reset: true, server_error: true, ..RetryOn::default() }, n, 2),
    };
    Some(Arc::new(RetryPolicy {
        on,
        statuses: vec![],
        num_retries,
        per_try_timeout: Duration::from_secs(if plan.faultless { 0 } else { per_try }),
        base_interval: Duration::from_millis(25),
        max_interval: Duration::from_millis(250),
        avoid_previous_hosts: true,
        host_selection_attempts: 3,
    }))
}

fn cluster(
    plan: &Plan,
    change: usize,
    name: &str,
    endpoints: &[SocketAddr],
    protocol: UpstreamProtocol,
    tls: Option<Arc<ClientTls>>,
) -> Arc<Cluster> {
    let endpoint = |address: &SocketAddr| {
        Arc::new(Endpoint {
            address: *address,
            hostname: "".into(),
            weight: 1,
            health: Health::Healthy,
            transport_match: vec![],
            workload: Default::default(),
        })
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    Arc::new(Cluster {
        name: name.into(),
        stat_name: name.into(),
        discovery: Discovery::Eds,
        endpoints: Arc::new(Endpoints { localities: vec![Locality { weight: 1, endpoints, ..Locality::default() }] }),
        balance: if plan.seed.is_multiple_of(2) { Balance::RoundRobin } else { Balance::LeastRequest { choices: 2 } },
        connect_timeout: Duration::from_secs(2),
        // A relay over a threshold is closed, not queued.
        thresholds: if name == "web" { plan.thresholds } else { Thresholds::default() },
        http: UpstreamHttp {
            protocol,
            idle_timeout: Duration::from_secs(if plan.replaces { 60 - change as u64 } else { 60 }),
            stream_window: plan.window,
            connection_window: plan.window * 2,
            http2: guards(),
            requests_per_connection: plan.requests_per_connection,
            ..UpstreamHttp::default()
        },
        transport: Transport { default: TransportSocket { tls, proxy_protocol: None }, matches: vec![] },
        bind: UpstreamBind::default(),
        buffer_limit: plan.buffer_limit,
        service: ServiceLabels::default(),
    })
}

/// Windows far below what may be configured cost their owner many frames, which nobody is to be blamed for.
fn guards() -> Http2Guards {
    Http2Guards { window_updates_per_data_frame: 1000, ..Http2Guards::default() }
}
