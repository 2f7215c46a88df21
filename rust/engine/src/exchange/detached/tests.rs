//! The engine asks an endpoint itself, and is driven by hand.

use std::cell::RefCell;
use std::sync::Arc;

use pymesh_http::h2;
use pymesh_model::cluster::{Cluster, Thresholds, UpstreamHttp, UpstreamProtocol};
use pymesh_model::testing::{self, address};
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;

use super::*;
use crate::base::time::{Time, WallClock};
use crate::conn::ConnKey;
use crate::engine::{Action, Options};
use crate::telemetry::{details, stats::Hub};

/// What the owner was told: status, body and a trailer, or why there is no answer.
type Told = Result<(u16, String, Option<String>), Unanswered>;

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn told(exchange: &Exchange) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    let outcome = exchange.outcome().map(|answer| {
        let trailer = answer.trailers.get(b"grpc-status").map(text);
        (answer.head.status, text(answer.body), trailer)
    });
    TOLD.with_borrow_mut(|told| told.push(outcome));
}

/// An engine without listeners whose one cluster has two endpoints.
struct Rig {
    engine: Engine,
    hub: Arc<Hub>,
    now: Time,
    actions: Vec<Action>,
}

fn snapshot(change: impl FnOnce(&mut Cluster)) -> Arc<Snapshot> {
    let mut cluster = testing::cluster("origin", [address(3, 8080), address(4, 8080)]);
    change(&mut cluster);
    Arc::new(testing::snapshot([], [cluster]))
}

impl Rig {
    fn new(change: impl FnOnce(&mut Cluster)) -> Rig {
        let hub: Arc<Hub> = Arc::default();
        let mut engine = Engine::new(Options {
            worker: 0,
            seed: 1,
            clock: WallClock::default(),
            overload: Arc::default(),
            commons: Arc::default(),
            stream_buffer: 64 * 1024,
            drain_time: Duration::MAX,
            hub: hub.clone(),
            shard: Arc::default(),
            secrets: Arc::new(SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
        });
        assert_eq!(engine.apply(snapshot(change)), Vec::<String>::new());
        Rig { engine, hub, now: Time::default(), actions: Vec::new() }
    }

    fn cluster(&self) -> ClusterKey {
        *self.engine.cluster_names.values().next().unwrap()
    }

    /// Begins one whose request has no body yet.
    fn begin(&mut self, detached: Detached) -> ExchangeKey {
        let cluster = self.cluster();
        self.engine.begin_detached(detached, cluster, Duration::from_secs(5), |head| {
            head.set_method(b"POST");
            head.set_authority(b"origin");
            head.set_path(b"/ask");
        })
    }

    /// Begins one whose request is complete; its connection is to be opened.
    fn ask(&mut self, keep: usize) -> ConnKey {
        let key = self.begin(Detached { keep, ..Detached::of(Owner::Test) });
        self.engine.request_ended(key, &mut Headers::new());
        self.work();
        self.connecting()
    }

    fn connecting(&mut self) -> ConnKey {
        let connect = self.actions.drain(..).find_map(|action| match action {
            Action::Connect(key, _) => Some(key),
            _ => None,
        });
        connect.expect("a connection is to be opened")
    }

    fn open(&mut self, conn: ConnKey) -> String {
        self.engine.connected(conn, address(1, 40_000));
        self.work();
        self.written(conn)
    }

    fn receive(&mut self, conn: ConnKey, octets: &[u8]) {
        self.engine.receive(conn, octets);
        self.work();
    }

    fn written(&mut self, conn: ConnKey) -> String {
        let text = String::from_utf8_lossy(self.engine.output(conn)).into_owned();
        self.engine.sent(conn, text.len());
        text
    }

    fn work(&mut self) {
        self.engine.advance();
        while let Some(action) = self.engine.next_action() {
            self.actions.push(action);
        }
        self.engine.take_dirty(&mut Vec::new());
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.engine.begin_turn(self.now);
        self.work();
    }

    fn told(&self) -> Vec<Told> {
        TOLD.take()
    }

    fn count(&self, name: &str) -> u64 {
        let all = crate::telemetry::stats::sum(&self.hub.lock().clusters["origin"]);
        all.iter().find(|(known, ..)| *known == name).unwrap().2
    }
}

#[test]
fn the_answer_goes_to_the_owner_and_the_connection_to_the_pool() {
    let mut rig = Rig::new(|_| {});
    let conn = rig.ask(4);
    assert_eq!(rig.open(conn), "POST /ask HTTP/1.1\r\nhost: origin\r\ncontent-length: 0\r\n\r\n");
    rig.receive(conn, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nanswer\r\n");
    assert_eq!(rig.told(), [], "it has not ended");
    rig.receive(conn, b"0\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(rig.told(), [Ok((200, "answ".to_owned(), Some("0".to_owned())))]);
    assert_eq!((rig.count("upstream_rq_total"), rig.count("upstream_rq_2xx")), (1, 1));
    assert_eq!((rig.engine.census().exchanges, rig.engine.census().pooled), (0, 1));
}

#[test]
fn a_long_answer_is_dropped_as_it_comes() {
    let mut rig = Rig::new(|cluster| cluster.http.protocol = UpstreamProtocol::Http2);
    let conn = rig.ask(0);
    rig.engine.connected(conn, address(1, 40_000));
    rig.work();
    let mut endpoint = h2::Connection::new(h2::Config::new(h2::Role::Server));
    let piece = vec![b'x'; 1 << 20];
    let (mut sent, mut stream) = (0, None);
    while sent < 4 * piece.len() {
        let mut scratch = h2::Scratch::default();
        let output = rig.engine.output(conn).to_vec();
        rig.engine.sent(conn, output.len());
        let mut input = output.as_slice();
        while let Some(event) = endpoint.receive(&mut input, &mut scratch).unwrap() {
            if let h2::Event::Request { stream: asked, .. } = event {
                stream = Some(asked);
                endpoint.send_response(asked, &ResponseHead { status: 200, ..ResponseHead::default() }, false).unwrap();
            }
        }
        if let Some(stream) = stream {
            let took = endpoint.send_data(stream, &piece, false).unwrap();
            assert!(took > 0, "the window is given back");
            sent += took;
        }
        let output = endpoint.output().to_vec();
        endpoint.advance_output(output.len());
        rig.receive(conn, &output);
        assert_eq!(rig.engine.census().largest_body, 0);
    }
    endpoint.send_data(stream.unwrap(), &[], true).unwrap();
    let output = endpoint.output().to_vec();
    rig.receive(conn, &output);
    assert_eq!(rig.told(), [Ok((200, String::new(), None))]);
}

#[test]
fn a_body_is_given_piece_by_piece() {
    let mut rig = Rig::new(|_| {});
    let key = rig.begin(Detached::of(Owner::Test));
    rig.engine.request_data(key, b"be");
    rig.work();
    let conn = rig.connecting();
    assert!(rig.open(conn).ends_with("transfer-encoding: chunked\r\n\r\n2\r\nbe\r\n"));
    rig.engine.request_data(key, b"gun");
    let mut trailers = Headers::new();
    trailers.append(b"digest", b"x");
    rig.engine.request_ended(key, &mut trailers);
    rig.work();
    assert_eq!(rig.written(conn), "3\r\ngun\r\n0\r\ndigest: x\r\n\r\n");
}

#[test]
fn whatever_keeps_the_answer_away_is_told() {
    let refused = |rig: &mut Rig| {
        let conn = rig.ask(0);
        rig.engine.failed(conn, "refused");
        rig.work();
    };
    let late = |rig: &mut Rig| {
        let conn = rig.ask(0);
        rig.open(conn);
        rig.pass(Duration::from_secs(4));
        assert_eq!(rig.told(), []);
        rig.pass(Duration::from_secs(1));
    };
    let broken = |rig: &mut Rig| {
        let conn = rig.ask(0);
        rig.open(conn);
        rig.receive(conn, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbroken");
        rig.engine.end_of_input(conn);
        rig.work();
    };
    let abandoned = |rig: &mut Rig| {
        let key = rig.begin(Detached::of(Owner::Test));
        rig.work();
        rig.engine.abandon(key, Flags::NONE, details::VIA_UPSTREAM);
        rig.work();
    };
    let idle = |rig: &mut Rig| {
        let key = rig.begin(Detached { idle_timeout: Duration::from_secs(2), ..Detached::of(Owner::Test) });
        rig.work();
        let conn = rig.connecting();
        rig.open(conn);
        rig.pass(Duration::from_secs(2));
        assert!(!rig.engine.exchanges.contains(key));
    };
    type Case = (&'static str, fn(&mut Rig), Flags, &'static str);
    let cases: [Case; 5] = [
        ("refused", refused, Flags::UPSTREAM_CONNECTION_FAILURE, details::UPSTREAM_CONNECTION_FAILURE),
        ("late", late, Flags::UPSTREAM_REQUEST_TIMEOUT, details::UPSTREAM_RESPONSE_TIMEOUT),
        ("broken", broken, Flags::UPSTREAM_PROTOCOL_ERROR, details::UPSTREAM_PROTOCOL_ERROR_AFTER_RESPONSE),
        ("abandoned", abandoned, Flags::NONE, details::VIA_UPSTREAM),
        ("idle", idle, Flags::STREAM_IDLE_TIMEOUT, details::STREAM_IDLE_TIMEOUT),
    ];
    for (name, run, flags, details) in cases {
        let mut rig = Rig::new(|_| {});
        run(&mut rig);
        assert_eq!(rig.told(), [Err(Unanswered { flags, details: details.into() })], "{name}");
        assert_eq!(rig.engine.census().exchanges, 0, "{name}");
        assert_eq!((rig.count("upstream_rq_active"), rig.count("upstream_rq_pending_active")), (0, 0), "{name}");
    }
}

#[test]
fn one_endpoint_may_be_meant() {
    let mut rig = Rig::new(|_| {});
    let cluster = rig.engine.clusters.get(rig.cluster()).unwrap();
    let hosts: Vec<HostKey> = cluster.hosts.keys().collect();
    for host in [hosts[1], hosts[1], hosts[0]] {
        let key = rig.begin(Detached { host: Some(host), ..Detached::of(Owner::Test) });
        rig.work();
        assert_eq!(rig.engine.exchanges.get(key).unwrap().host, Some(host));
    }
    let gone = hosts[1];
    rig.engine.apply(snapshot(|cluster| *cluster = testing::cluster("origin", [address(3, 8080)])));
    rig.engine.exchanges.keys().collect::<Vec<_>>().into_iter().for_each(|key| {
        rig.engine.abandon(key, Flags::NONE, "");
    });
    TOLD.take();
    rig.begin(Detached { host: Some(gone), ..Detached::of(Owner::Test) });
    rig.work();
    let (flags, details) = (Flags::NO_HEALTHY_UPSTREAM, details::NO_HEALTHY_UPSTREAM);
    assert_eq!(rig.told(), [Err(Unanswered { flags, details: details.into() })]);
}

#[test]
fn circuit_breakers_hold_for_it() {
    let mut rig = Rig::new(|cluster| {
        cluster.circuit_breakers = Thresholds { pending_requests: 1, ..Thresholds::default() }.into();
        cluster.http = UpstreamHttp::default();
    });
    rig.ask(0);
    rig.begin(Detached::of(Owner::Test));
    rig.work();
    let (flags, details) = (Flags::UPSTREAM_OVERFLOW, details::UPSTREAM_OVERFLOW);
    assert_eq!(rig.told(), [Err(Unanswered { flags, details: details.into() })]);
    assert_eq!(rig.count("upstream_rq_pending_overflow"), 1);
}
