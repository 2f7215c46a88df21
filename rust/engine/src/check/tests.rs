//! Engines that ask endpoints how they are, driven by hand.

use std::collections::HashMap;
use std::net::SocketAddr;

use pymesh_http::{h2, ResponseHead};
use pymesh_model::health_check::{GrpcProbe, HttpProbe, Pace, TcpProbe};
use pymesh_model::outlier::OutlierDetection;
use pymesh_model::route::HeaderEdit;
use pymesh_model::testing::{self, address};
use pymesh_tls::SecretStore;

use super::*;
use crate::base::time::WallClock;
use crate::conn::ConnKey;
use crate::engine::{Action, Options};
use crate::health::{Flags, Outcome};
use crate::shared::Commons;
use crate::telemetry::stats::{Hub, Stats as _};

const A: u8 = 3;
const B: u8 = 4;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn pace() -> Pace {
    Pace {
        interval: seconds(10),
        no_traffic: seconds(60),
        no_traffic_healthy: seconds(60),
        unhealthy: seconds(5),
        unhealthy_edge: seconds(2),
        healthy_edge: seconds(1),
        initial_jitter: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_percent: 0,
    }
}

fn http() -> HttpProbe {
    HttpProbe {
        host: "".into(),
        path: "/healthz".into(),
        method: "GET".into(),
        http2: false,
        headers: HeaderEdit::default(),
        send: vec![],
        receive: vec![],
        response_buffer_size: 1024,
        expected: [200..201, 204..300].to_vec(),
        retriable: [502..504, 599..600].to_vec(),
    }
}

fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        timeout: seconds(1),
        pace: pace(),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        reuse_connection: true,
        port: None,
        transport_match: None,
        probe,
    }
}

/// A worker, its sockets, and the numbers of the process.
struct Rig {
    engine: Engine,
    hub: Arc<Hub>,
    now: Time,
    /// Connections that are to be opened, by the last octet of their address.
    connecting: Vec<(u8, ConnKey)>,
    closed: Vec<ConnKey>,
}

impl Rig {
    fn new(check: HealthCheck) -> Rig {
        Rig::with(|cluster| cluster.health_check = Some(Arc::new(check)))
    }

    fn with(change: impl FnOnce(&mut Cluster)) -> Rig {
        let mut cluster = testing::cluster("origin", [address(A, 80), address(B, 80)]);
        change(&mut cluster);
        let mut rig = Rig::of_worker(0, Arc::default(), Arc::default());
        rig.apply(&Arc::new(testing::snapshot([], [cluster])));
        rig
    }

    fn of_worker(worker: usize, commons: Arc<Commons>, hub: Arc<Hub>) -> Rig {
        let engine = Engine::new(Options {
            worker,
            seed: 1,
            clock: WallClock::default(),
            overload: Arc::default(),
            commons,
            stream_buffer: 64 * 1024,
            drain_time: Duration::MAX,
            hub: hub.clone(),
            shard: Arc::default(),
            secrets: Arc::new(SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
        });
        Rig { engine, hub, now: Time::default(), connecting: Vec::new(), closed: Vec::new() }
    }

    fn apply(&mut self, snapshot: &Arc<pymesh_model::Snapshot>) {
        assert_eq!(self.engine.apply(snapshot.clone()), Vec::<String>::new());
        self.work();
    }

    /// The same cluster with other endpoints.
    fn list(&mut self, endpoints: &[SocketAddr]) {
        let current = self.engine.snapshot.clusters.get("origin").unwrap();
        let listed = testing::cluster("origin", endpoints.to_vec()).endpoints;
        let changed = Cluster { endpoints: listed, ..(**current).clone() };
        self.apply(&Arc::new(testing::snapshot([], [changed])));
    }

    fn work(&mut self) {
        self.engine.begin_turn(self.now);
        self.engine.advance();
        while self.engine.next_timeout().is_some_and(|due| due <= self.now) {
            self.engine.advance();
        }
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Connect(key, to) => {
                    let SocketAddr::V4(to) = to else { unreachable!() };
                    self.connecting.push((to.ip().octets()[3], key));
                }
                Action::Close(key) => self.closed.push(key),
                Action::ShutdownWrite(_) => {}
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.work();
    }

    /// The connection that was asked for to this host.
    fn connect(&mut self, host: u8) -> ConnKey {
        let at = self.connecting.iter().position(|(to, _)| *to == host).expect("a connection is to be opened");
        let key = self.connecting.remove(at).1;
        self.engine.connected(key, address(1, 40_000));
        self.work();
        key
    }

    fn written(&mut self, conn: ConnKey) -> String {
        let text = String::from_utf8_lossy(self.engine.output(conn)).into_owned();
        self.engine.sent(conn, text.len());
        text
    }

    fn says(&mut self, conn: ConnKey, octets: &[u8]) {
        self.engine.receive(conn, octets);
        self.work();
    }

    fn answers(&mut self, conn: ConnKey, status: u16, headers: &str) {
        self.written(conn);
        self.says(conn, format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{headers}\r\n").as_bytes());
    }

    fn cluster(&self) -> ClusterKey {
        *self.engine.cluster_names.get("origin").unwrap()
    }

    /// What is wrong with each listed host.
    fn flags(&self) -> Vec<String> {
        let cluster = self.engine.clusters.get(self.cluster()).unwrap();
        let listed = cluster.config.endpoints.iter().filter_map(|(_, endpoint)| cluster.find(endpoint));
        listed.map(|key| cluster.hosts.get(key).unwrap().watched.as_ref().unwrap().flags().to_string()).collect()
    }

    /// Every number of the checks that is not zero.
    fn counts(&self) -> String {
        let mut shown = Vec::new();
        self.hub.health_checks(&"origin".into()).visit(&mut |name, _, value| {
            if value > 0 {
                shown.push(format!("{name} {value}"));
            }
        });
        shown.join(", ")
    }

    fn traffic(&self) {
        self.engine.clusters.get(self.cluster()).unwrap().health.as_ref().unwrap().note_traffic();
    }

    fn next_check(&self) -> Duration {
        self.engine.checks.iter().map(|check| check.due).min().unwrap().since(self.now)
    }
}

#[test]
fn hosts_are_asked_at_once_and_then_at_their_pace() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    assert_eq!(rig.written(a), "GET /healthz HTTP/1.1\r\nhost: origin\r\nuser-agent: Envoy/HC\r\n\r\n");
    rig.answers(a, 200, "");
    rig.answers(b, 500, "");
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
    assert_eq!(rig.counts(), "attempt 2, success 1, failure 1, healthy 1");
    // Nobody has used the cluster yet.
    assert_eq!(rig.next_check(), seconds(60));
    rig.traffic();
    rig.wait(seconds(60));
    // The same connections are used again.
    assert_eq!((rig.connecting.len(), rig.closed.len()), (0, 0));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"], "one success is not enough");
    assert_eq!(rig.next_check(), seconds(1));
    rig.wait(seconds(1));
    rig.answers(b, 200, "");
    assert_eq!(rig.flags(), ["healthy", "healthy"]);
    assert_eq!(rig.counts(), "attempt 5, success 4, failure 1, healthy 2");
    // None of this is traffic.
    let cluster = rig.engine.clusters.get(rig.cluster()).unwrap();
    assert_eq!((cluster.stats.upstream_cx_total.value(), cluster.stats.upstream_rq_total.value()), (0, 0));
}

#[test]
fn a_cluster_is_asked_before_it_has_a_name() {
    let (commons, hub) = (Arc::<Commons>::default(), Arc::default());
    let mut cluster = testing::cluster("origin", [address(A, 80), address(B, 80)]);
    cluster.health_check = Some(Arc::new(check(Probe::Http(http()))));
    let (config, nobody) = (Arc::new(cluster), pymesh_model::Snapshot::default());
    let warms = pymesh_model::Snapshot { warming: [("origin".into(), config.clone())].into(), ..nobody.clone() };
    let mut rig = Rig::of_worker(0, commons.clone(), hub);
    rig.apply(&Arc::new(warms.clone()));
    assert!(rig.engine.cluster_named("origin").is_none() && !commons.is_warm(&config));
    let a = rig.connect(A);
    rig.answers(a, 200, "");
    assert!(!commons.is_warm(&config), "one has not been asked");
    let b = rig.connect(B);
    rig.answers(b, 500, "");
    assert!(commons.is_warm(&config), "a bad answer is one");
    let serves = pymesh_model::Snapshot { clusters: warms.warming.clone(), ..nobody.clone() };
    rig.apply(&Arc::new(serves));
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
    assert_eq!(rig.counts(), "attempt 2, success 1, failure 1, healthy 1");
    // The checks go on where they were, over the same connections.
    rig.wait(seconds(60));
    assert_eq!((rig.connecting.len(), rig.closed.len()), (0, 0));
    assert_eq!(rig.written(a), "GET /healthz HTTP/1.1\r\nhost: origin\r\nuser-agent: Envoy/HC\r\n\r\n");
    rig.apply(&Arc::new(nobody));
    assert_eq!(rig.engine.checks.iter().count(), 0);
}

#[test]
fn a_cluster_that_takes_the_place_of_another_keeps_its_connections_and_knows_its_hosts() {
    let (commons, hub) = (Arc::<Commons>::default(), Arc::default());
    let plain = Arc::new(testing::cluster("origin", [address(A, 80), address(B, 80)]));
    let health_check = Some(Arc::new(check(Probe::Http(http()))));
    let checked = Arc::new(Cluster { health_check, ..(*plain).clone() });
    let mut rig = Rig::of_worker(0, commons.clone(), hub);
    let before = testing::snapshot([], [(*plain).clone()]);
    rig.apply(&Arc::new(before.clone()));
    let named = rig.cluster();
    let warming = [("origin".into(), checked.clone())].into();
    rig.apply(&Arc::new(pymesh_model::Snapshot { warming, ..before.clone() }));
    assert_eq!(rig.cluster(), named);
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 500, "");
    assert!(commons.is_warm(&checked));
    let clusters = [("origin".into(), checked)].into();
    rig.apply(&Arc::new(pymesh_model::Snapshot { clusters, ..before }));
    assert_eq!((rig.cluster(), rig.flags()), (named, vec!["healthy".to_owned(), "/failed_active_hc".to_owned()]));
    assert_eq!(rig.engine.census().retired_clusters, 0, "that it was asked under is gone");
}

#[test]
fn what_may_pass_has_to_happen_again() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    rig.traffic();
    rig.wait(seconds(60));
    rig.answers(a, 503, "");
    rig.engine.failed(b, "reset");
    rig.work();
    assert_eq!(rig.flags(), ["healthy", "healthy"]);
    assert_eq!(rig.next_check(), seconds(2));
    rig.wait(seconds(2));
    rig.answers(a, 503, "");
    let b = rig.connect(B);
    rig.written(b);
    rig.wait(seconds(1));
    assert_eq!(rig.flags(), ["/failed_active_hc", "/failed_active_hc/active_hc_timeout"]);
    assert!(rig.closed.contains(&b), "whoever does not answer is asked over another connection");
    assert_eq!(rig.counts(), "attempt 6, success 2, failure 4, network_failure 2");
    rig.wait(seconds(4));
    rig.answers(a, 404, "");
    rig.wait(seconds(1));
    let b = rig.connect(B);
    rig.answers(b, 404, "");
    assert_eq!(rig.flags(), ["/failed_active_hc", "/failed_active_hc"], "an answer is no timeout");
}

#[test]
fn a_connection_that_never_comes_is_a_timeout() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let refused = rig.connecting.remove(0).1;
    rig.engine.failed(refused, "refused");
    rig.work();
    rig.wait(seconds(1));
    assert_eq!(rig.flags(), ["/failed_active_hc", "/failed_active_hc/active_hc_timeout"]);
    assert_eq!(rig.counts(), "attempt 2, failure 2, network_failure 2");
}

#[test]
fn hosts_say_that_others_are_better_or_that_they_have_had_enough() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "x-envoy-degraded: 1\r\n");
    rig.answers(b, 500, "x-envoy-immediate-health-check-fail: 1\r\n");
    assert_eq!(rig.flags(), ["/degraded_active_hc", "/failed_active_hc/excluded_via_immediate_hc_fail"]);
    assert_eq!(rig.counts(), "attempt 2, success 1, failure 1, healthy 1, degraded 1");
    let cluster = rig.engine.clusters.get(rig.cluster()).unwrap();
    assert_eq!(cluster.stats.membership_excluded.value(), 1);
    rig.wait(seconds(60));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    rig.wait(seconds(60));
    rig.answers(b, 200, "");
    assert_eq!(rig.flags(), ["healthy", "healthy"]);
}

#[test]
fn a_body_is_searched_and_sent() {
    let probe = HttpProbe {
        method: "POST".into(),
        send: b"ping".to_vec(),
        receive: vec![b"pong".to_vec(), b"!".to_vec()],
        response_buffer_size: 8,
        ..http()
    };
    let mut rig = Rig::new(check(Probe::Http(probe)));
    let (a, b) = (rig.connect(A), rig.connect(B));
    assert!(rig.written(a).ends_with("user-agent: Envoy/HC\r\ncontent-length: 4\r\n\r\nping"));
    rig.written(b);
    rig.says(a, b"HTTP/1.1 200 x\r\ncontent-length: 7\r\n\r\npo");
    rig.says(a, b"ng !!");
    // Behind what is looked at.
    rig.says(b, b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\npong     !");
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
}

#[test]
fn connections_are_not_kept_unless_they_may_be() {
    let mut rig = Rig::new(HealthCheck { reuse_connection: false, ..check(Probe::Http(http())) });
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    assert_eq!(rig.closed, [a, b]);
    rig.wait(seconds(60));
    assert_eq!(rig.connecting.len(), 2);
}

#[test]
fn another_address_and_host_may_be_asked() {
    let mut rig = Rig::with(|cluster| {
        let mut endpoints = (*cluster.endpoints).clone();
        for (index, endpoint) in endpoints.localities[0].endpoints.iter_mut().enumerate() {
            let endpoint = Arc::make_mut(endpoint);
            match index {
                0 => (endpoint.check.address, endpoint.check.hostname) = (Some(address(9, 0).ip()), "a.test".into()),
                _ => endpoint.check.is_disabled = true,
            }
        }
        cluster.endpoints = Arc::new(endpoints);
        cluster.health_check = Some(Arc::new(HealthCheck { port: Some(8081), ..check(Probe::Http(http())) }));
    });
    assert_eq!(rig.connecting.len(), 1, "the other is not asked");
    let conn = rig.connect(9);
    assert_eq!(rig.engine.conns.get(conn).unwrap().remote.port(), 8081);
    assert!(rig.written(conn).contains("host: a.test\r\n"));
    rig.answers(conn, 500, "");
    assert_eq!(rig.flags(), ["/failed_active_hc", "healthy"]);
}

#[test]
fn a_tcp_endpoint_is_connected_to() {
    let mut rig = Rig::new(check(Probe::Tcp(TcpProbe { send: vec![], receive: vec![] })));
    let a = rig.connect(A);
    let refused = rig.connecting.remove(0).1;
    rig.engine.failed(refused, "refused");
    rig.work();
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
    assert!(rig.written(a).is_empty());
    rig.work();
    rig.wait(seconds(1));
    assert!(rig.closed.contains(&a), "that is all");
}

#[test]
fn another_check_takes_the_place_of_the_first() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    let current = rig.engine.snapshot.clusters.get("origin").unwrap();
    let tcp = Arc::new(check(Probe::Tcp(TcpProbe { send: vec![], receive: vec![] })));
    let changed = Cluster { health_check: Some(tcp), ..(**current).clone() };
    rig.apply(&Arc::new(testing::snapshot([], [changed])));
    assert_eq!(rig.closed, [a, b]);
    rig.connect(A);
    let refused = rig.connecting.remove(0).1;
    rig.engine.failed(refused, "refused");
    rig.work();
    assert_eq!(rig.counts(), "attempt 4, success 3, failure 1, network_failure 1, healthy 2");
    assert_eq!(rig.engine.checks.len(), 2);
}

#[test]
fn failures_that_have_happened_count_towards_a_lower_threshold() {
    let mut rig = Rig::new(HealthCheck { unhealthy_threshold: 3, ..check(Probe::Http(http())) });
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    rig.traffic();
    rig.wait(seconds(60));
    rig.answers(a, 503, "");
    rig.answers(b, 200, "");
    rig.wait(seconds(2));
    rig.answers(a, 503, "");
    assert_eq!(rig.flags(), ["healthy", "healthy"]);
    let current = rig.engine.snapshot.clusters.get("origin").unwrap();
    let stricter = Arc::new(HealthCheck { unhealthy_threshold: 1, ..check(Probe::Http(http())) });
    let changed = Cluster { health_check: Some(stricter), ..(**current).clone() };
    rig.apply(&Arc::new(testing::snapshot([], [changed])));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 503, "");
    rig.answers(b, 200, "");
    assert_eq!(rig.flags(), ["/failed_active_hc", "healthy"]);
}

#[test]
fn a_tcp_endpoint_is_talked_to_over_one_connection() {
    let probe = TcpProbe { send: b"PING\r\n".to_vec(), receive: vec![b"PONG".to_vec()] };
    let mut rig = Rig::new(check(Probe::Tcp(probe)));
    let (a, b) = (rig.connect(A), rig.connect(B));
    assert_eq!(rig.written(a), "PING\r\n");
    rig.says(a, b"+PO");
    assert_eq!(rig.counts(), "attempt 2, healthy 2");
    rig.says(a, b"NG\r\n");
    rig.says(b, b"-ERR\r\n");
    assert_eq!(rig.counts(), "attempt 2, success 1, healthy 2");
    rig.wait(seconds(1));
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc/active_hc_timeout"]);
    rig.traffic();
    rig.wait(seconds(59));
    assert_eq!(rig.written(a), "PING\r\n", "the same connection");
    rig.says(a, b"+PONG\r\n");
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc/active_hc_timeout"]);
    // It breaks while nobody asks: that is a failure, as in Envoy.
    rig.engine.end_of_input(a);
    rig.work();
    assert!(rig.counts().contains("network_failure 2"), "{}", rig.counts());
    assert_eq!(rig.flags()[0], "healthy", "but one is not enough");
}

/// What an HTTP/2 endpoint writes while it answers one request.
fn grpc_answer(server: &mut h2::Connection, written: &[u8], status: &str, body: &[u8]) -> (String, Vec<u8>) {
    let (mut input, mut scratch) = (written, h2::Scratch::default());
    let (mut asked, mut stream_id) = (String::new(), None);
    while let Ok(Some(event)) = server.receive(&mut input, &mut scratch) {
        match event {
            h2::Event::Request { stream, .. } => {
                stream_id = Some(stream);
                asked = String::from_utf8_lossy(scratch.request.path()).into_owned();
                for field in scratch.request.headers.iter() {
                    let text = |octets| String::from_utf8_lossy(octets).into_owned();
                    asked.push_str(&format!(" {}={}", text(field.name), text(field.value)));
                }
            }
            h2::Event::Data { data, .. } if !data.is_empty() => asked.push_str(&format!(" {data:?}")),
            _ => {}
        }
    }
    if let Some(stream) = stream_id {
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.append(b"content-type", b"application/grpc");
        server.send_response(stream, &head, false).unwrap();
        server.send_data(stream, body, false).unwrap();
        let mut trailers = Headers::new();
        trailers.append(b"grpc-status", status.as_bytes());
        server.send_trailers(stream, &trailers).unwrap();
    }
    let out = server.output().to_vec();
    server.advance_output(out.len());
    (asked, out)
}

#[test]
fn a_grpc_server_is_asked_whether_it_serves() {
    let probe = GrpcProbe { service: "ab".into(), authority: "".into(), metadata: HeaderEdit::default() };
    let mut rig = Rig::new(check(Probe::Grpc(probe)));
    let mut ends: HashMap<u8, (ConnKey, h2::Connection)> = HashMap::new();
    for host in [A, B] {
        let server = h2::Connection::new(h2::Config::new(h2::Role::Server));
        ends.insert(host, (rig.connect(host), server));
    }
    let mut answer = |rig: &mut Rig, host: u8, status: &str, body: &[u8]| {
        let (conn, server) = ends.get_mut(&host).unwrap();
        let written = rig.engine.output(*conn).to_vec();
        rig.engine.sent(*conn, written.len());
        let (asked, out) = grpc_answer(server, &written, status, body);
        rig.says(*conn, &out);
        asked
    };
    let asked = answer(&mut rig, A, "0", &[0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(
        asked,
        "/grpc.health.v1.Health/Check te=trailers content-type=application/grpc user-agent=Envoy/HC \
         grpc-timeout=1000m [0, 0, 0, 0, 4, 10, 2, 97, 98]"
    );
    answer(&mut rig, B, "0", &[0, 0, 0, 0, 2, 8, 2]);
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
    rig.wait(seconds(60));
    assert!(rig.connecting.is_empty(), "another stream of the same connection");
    answer(&mut rig, A, "12", &[]);
    answer(&mut rig, B, "0", &[0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(rig.flags(), ["/failed_active_hc", "/failed_active_hc"]);
    assert_eq!(rig.counts(), "attempt 4, success 2, failure 2");
}

#[test]
fn hosts_that_come_later_serve_once_they_are_checked_and_those_that_leave_are_let_go() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    rig.list(&[address(B, 80), address(7, 80)]);
    assert_eq!(rig.flags(), ["healthy", "/failed_active_hc"]);
    assert_eq!(rig.closed, [a]);
    let new = rig.connect(7);
    rig.answers(new, 200, "");
    assert_eq!(rig.flags(), ["healthy", "healthy"], "the first success is enough");
    assert_eq!(rig.counts(), "attempt 3, success 3, healthy 2");
    rig.apply(&Arc::new(testing::snapshot([], [])));
    rig.work();
    assert_eq!((rig.engine.conns.len(), rig.engine.checks.len(), rig.engine.clusters.len()), (0, 0, 0));
    assert_eq!(rig.counts(), "attempt 3, success 3");
}

#[test]
fn all_workers_know_what_one_has_found() {
    let (commons, hub): (Arc<Commons>, Arc<Hub>) = Default::default();
    let mut cluster = testing::cluster("origin", [address(A, 80), address(B, 80)]);
    cluster.health_check = Some(Arc::new(check(Probe::Http(http()))));
    cluster.outlier_detection =
        Some(Arc::new(OutlierDetection { max_ejection_percent: 50, ..OutlierDetection::default() }));
    let detection = cluster.outlier_detection.clone().unwrap();
    let snapshot = Arc::new(testing::snapshot([], [cluster]));
    let [mut one, mut other] = [0, 1].map(|worker| Rig::of_worker(worker, commons.clone(), hub.clone()));
    one.apply(&snapshot);
    other.apply(&snapshot);
    assert_eq!((one.connecting.len(), other.connecting.len()), (2, 0), "one worker asks");
    let (a, b) = (one.connect(A), one.connect(B));
    one.answers(a, 500, "");
    one.answers(b, 200, "");
    other.work();
    assert_eq!(other.flags(), ["/failed_active_hc", "healthy"]);
    // Failures that both have seen make one row.
    let tell = |rig: &mut Rig| {
        let key = rig.cluster();
        let cluster = rig.engine.clusters.get(key).unwrap();
        let health = cluster.health.clone().unwrap();
        let host = cluster.hosts.iter().nth(1).unwrap().watched.clone().unwrap();
        health.report(&host, Outcome::Answer(500), &detection, rig.now, &mut rig.engine.rng);
    };
    for _ in 0..2 {
        tell(&mut one);
        tell(&mut other);
    }
    assert_eq!(other.flags()[1], "healthy");
    tell(&mut other);
    one.work();
    other.work();
    for rig in [&one, &other] {
        assert_eq!(rig.flags(), ["/failed_active_hc", "/failed_outlier_check"]);
    }
    // It passes its next check.
    one.wait(seconds(60));
    one.answers(b, 200, "");
    other.now = one.now;
    other.work();
    assert_eq!(other.flags(), ["/failed_active_hc", "healthy"]);
    assert_eq!(hub.outliers(&"origin".into()).ejections_active.value(), 0);
}

#[test]
fn a_host_that_expels_itself_is_out_at_once_and_back_with_its_checks() {
    let mut rig = Rig::new(check(Probe::Http(http())));
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    let cluster = rig.engine.clusters.get(rig.cluster()).unwrap();
    let (health, config) = (cluster.health.clone().unwrap(), cluster.config.health_check.clone().unwrap());
    let host = cluster.hosts.iter().next().unwrap().watched.clone().unwrap();
    health.expel(&host, &config);
    rig.work();
    assert_eq!(rig.flags()[0], "/failed_active_hc/excluded_via_immediate_hc_fail");
    assert_eq!(rig.counts(), "attempt 2, success 2, failure 1, passive_failure 1, healthy 1");
    for _ in 0..2 {
        rig.wait(seconds(60));
        rig.answers(a, 200, "");
        rig.answers(b, 200, "");
    }
    assert_eq!(rig.flags(), ["healthy", "healthy"]);
}

#[test]
fn new_hosts_are_not_counted_where_they_may_be_ignored() {
    let mut rig = Rig::with(|cluster| {
        cluster.balance.ignore_unchecked_hosts = true;
        cluster.health_check = Some(Arc::new(check(Probe::Http(http()))));
    });
    let (a, b) = (rig.connect(A), rig.connect(B));
    rig.answers(a, 200, "");
    rig.answers(b, 200, "");
    rig.list(&[address(A, 80), address(B, 80), address(7, 80)]);
    assert_eq!(rig.flags()[2], "/failed_active_hc/pending_active_hc");
    let new = rig.connect(7);
    rig.answers(new, 500, "");
    assert_eq!(rig.flags()[2], "/failed_active_hc");
}

#[test]
fn flags_that_exclude() {
    assert!(Flags::PENDING_ACTIVE_HC.is_excluded());
    assert!(!Flags::FAILED_ACTIVE_HC.is_excluded());
}
