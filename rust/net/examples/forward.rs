//! A proxy with one listener and one cluster, configured by its arguments:
//! `forward LISTEN UPSTREAM [h2]`. The smallest program around the engine, for
//! profiles of the data path alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pymesh_engine::base::time::WallClock;
use pymesh_engine::Options;
use pymesh_model::cluster::*;
use pymesh_model::endpoint::*;
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::route::*;
use pymesh_model::Snapshot;
use pymesh_net::{LogWriter, NoFilters, Shared, Worker, WorkerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, listen, upstream, rest @ ..] = args.as_slice() else {
        return Err("usage: forward LISTEN UPSTREAM [h2]".into());
    };
    let snapshot = snapshot(listen.parse()?, upstream.parse()?, rest.iter().any(|arg| arg == "h2"));
    let shared = Arc::new(Shared::new(1));
    if let Some(error) = shared.publish(&Arc::new(snapshot)).pop() {
        return Err(error.into());
    }
    let log = LogWriter::start()?;
    let engine = Options {
        worker: 0,
        seed: 1,
        clock: WallClock::default(),
        overload: Arc::default(),
        stream_buffer: 256 * 1024,
        drain_time: Duration::from_secs(30),
        hub: Arc::default(),
        shard: Arc::default(),
        secrets: Arc::new(pymesh_tls::SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
    };
    let options = WorkerOptions { worker: 0, engine, origin: Instant::now(), log: log.handle() };
    Ok(Worker::new(options, shared, NoFilters)?.run()?)
}

fn snapshot(listen: std::net::SocketAddr, upstream: std::net::SocketAddr, http2: bool) -> Snapshot {
    let forward = Forward {
        cluster: ClusterChoice::One("origin".into()),
        timeout: Duration::from_secs(15),
        idle_timeout: None,
        stream: StreamDuration::default(),
        grpc_timeout: None,
        retry: None,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        cluster_not_found_status: 503,
        upgrades: vec![],
    };
    let route = Route {
        name: "all".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".into()),
            case_sensitive: true,
            headers: vec![],
            query: vec![],
            grpc: false,
            fraction: None,
        },
        action: Action::Forward(Arc::new(forward)),
        headers: HeaderOps::default(),
    };
    let table = RouteTable {
        virtual_hosts: vec![VirtualHost {
            domains: vec!["*".into()],
            routes: vec![Arc::new(route)],
            ..VirtualHost::default()
        }],
        ..RouteTable::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "ingress".into(),
        codec: Codec::Auto,
        routes: RouteSource::Inline(Arc::new(table)),
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
    };
    let chain = FilterChain {
        name: "http".into(),
        matches: FilterChainMatch::default(),
        tls: None,
        transport_connect_timeout: Duration::ZERO,
        network: NetworkFilter::Http(Arc::new(manager)),
    };
    let listener = Listener {
        name: "in".into(),
        address: listen,
        ipv4_compat: false,
        bind_to_port: true,
        capture: Capture::default(),
        direction: Direction::Inbound,
        listener_filters: vec![],
        listener_filters_timeout: Duration::ZERO,
        continue_on_listener_filters_timeout: false,
        filter_chains: FilterChains::default(),
        default_filter_chain: Some(Arc::new(chain)),
        buffer_limit: 1 << 20,
        backlog: 1024,
    };
    let endpoint = Endpoint {
        address: upstream,
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
        transport_match: vec![],
        workload: Default::default(),
    };
    let cluster = Cluster {
        name: "origin".into(),
        stat_name: "origin".into(),
        discovery: Discovery::Static,
        endpoints: Arc::new(Endpoints {
            localities: vec![Locality { weight: 1, endpoints: vec![Arc::new(endpoint)], ..Locality::default() }],
        }),
        balance: Balance::RoundRobin,
        connect_timeout: Duration::from_secs(1),
        thresholds: Thresholds::default(),
        http: UpstreamHttp {
            protocol: if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
            ..UpstreamHttp::default()
        },
        transport: Transport::default(),
        bind: UpstreamBind::default(),
        buffer_limit: 1 << 20,
        service: ServiceLabels::default(),
    };
    Snapshot {
        version: 1,
        listeners: vec![Arc::new(listener)],
        clusters: [("origin".into(), Arc::new(cluster))].into(),
        ..Snapshot::default()
    }
}
