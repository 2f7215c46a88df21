//! The snapshots of both sidecars.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::balance::*;
use pymesh_model::cluster::*;
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::route::*;
use pymesh_model::testing;
pub use pymesh_model::testing::address;
use pymesh_model::tls::{ClientTls, ServerTls};
use pymesh_model::Snapshot;

use super::identity;
use super::plan::{Plan, Retry};
use super::python;

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
    let shadow = (side == 0 && plan.mirrors)
        .then(|| ("shadow".into(), cluster(plan, change, "shadow", &seen(&app().0), plan.app, None)));
    Snapshot {
        version: change as u64 + 1,
        listeners: listeners.collect(),
        clusters: clusters.chain(shadow).collect(),
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
            idle_timeout: Duration::from_secs(60),
            max_connect_attempts: 2,
            ..testing::tcp("raw", "raw")
        })),
    };
    let chain = FilterChain {
        tls: tls.clone(),
        transport_connect_timeout: Duration::from_secs(5),
        ..testing::filter_chain(network)
    };
    Arc::new(Listener {
        direction: if side == 0 { Direction::Outbound } else { Direction::Inbound },
        buffer_limit: plan.buffer_limit,
        ..testing::listener(&address.to_string(), address, chain)
    })
}

fn manager(plan: &Plan, side: usize) -> HttpConnectionManager {
    let mirror = Mirror {
        cluster: MirrorCluster::One("shadow".into()),
        fraction: 1_000_000,
        host: MirrorHost::Suffixed,
        headers: vec![],
    };
    let forward = Forward {
        mirrors: (side == 0 && plan.mirrors).then_some(mirror).into_iter().collect(),
        timeout: Duration::from_secs(if plan.faultless { 0 } else { 15 }),
        retry: retry(plan, plan.retries[side]),
        ..testing::forward("web")
    };
    let route = testing::route("/", Action::Forward(Arc::new(forward)));
    HttpConnectionManager {
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
        forwarding: Forwarding { use_remote_address: side == 0, ..Forwarding::default() },
        always_set_request_id_in_response: true,
        upgrades: vec![Upgrade { protocol: "websocket".into(), enabled: true, terminates: false }],
        allow_connect: true,
        filters: if plan.filters { python::chain() } else { Vec::new() },
        ..testing::http("web", testing::routes([route]))
    }
}

fn retry(plan: &Plan, which: Retry) -> Option<Arc<RetryPolicy>> {
    let (on, num_retries, per_try) = match which {
        Retry::Never => return None,
        Retry::Safe(n) => (RetryOn { connect_failure: true, refused_stream: true, ..RetryOn::default() }, n, 0),
        Retry::Bold(n) => (RetryOn { reset: true, server_error: true, ..RetryOn::default() }, n, 2),
    };
    Some(Arc::new(RetryPolicy {
        per_try_timeout: Duration::from_secs(if plan.faultless { 0 } else { per_try }),
        ..testing::retry(on, num_retries)
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
    Arc::new(Cluster {
        discovery: Discovery::Eds,
        balance: Balance::by(match plan.seed.is_multiple_of(2) {
            true => LbPolicy::RoundRobin,
            false => LbPolicy::LeastRequest { choices: 2, active_request_bias: 1.0 },
        }),
        connect_timeout: Duration::from_secs(2),
        // A relay over a threshold is closed, not queued.
        circuit_breakers: if name == "web" { plan.thresholds.into() } else { CircuitBreakers::default() },
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
        buffer_limit: plan.buffer_limit,
        ..testing::cluster(name, endpoints.iter().copied())
    })
}

/// Windows far below what may be configured cost their owner many frames, which nobody is to be blamed for.
fn guards() -> Http2Guards {
    Http2Guards { window_updates_per_data_frame: 1000, ..Http2Guards::default() }
}
