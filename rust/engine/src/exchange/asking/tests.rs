//! A request that a filter holds up asks, and is driven by hand. The filter is one that waits anyway (an injected delay).

use std::sync::Arc;

use pymesh_model::cluster::{Cluster, UpstreamProtocol};
use pymesh_model::filter::{Fault, FaultDelay, FaultDuration, FilterId, FilterKind, HttpFilter, Percentage};
use pymesh_model::listener::NetworkFilter;
use pymesh_model::route::Action as RouteAction;
use pymesh_model::testing::{self, address};
use pymesh_tls::SecretStore;

use super::*;
use crate::base::time::{Time, WallClock};
use crate::conn::ConnKey;
use crate::engine::{Action, Options};

struct Rig {
    engine: Engine,
    now: Time,
    client: ConnKey,
    connecting: Vec<ConnKey>,
    closed: Vec<ConnKey>,
}

impl Rig {
    /// One request waits in the filter, for 1000 s if nobody wakes it.
    fn new(change: impl FnOnce(&mut Cluster)) -> Rig {
        let options = Options {
            worker: 0,
            seed: 1,
            clock: WallClock::default(),
            overload: Arc::default(),
            commons: Arc::default(),
            stream_buffer: 64 * 1024,
            drain_time: Duration::MAX,
            hub: Arc::default(),
            shard: Arc::default(),
            secrets: Arc::new(SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
        };
        let mut engine = Engine::new(options);
        let delay = FaultDelay {
            duration: FaultDuration::Fixed(Duration::from_secs(1000)),
            percentage: Percentage { numerator: 100, denominator: 100 },
        };
        let fault = Fault {
            delay: Some(delay),
            abort: None,
            upstream_cluster: None,
            downstream_nodes: vec![],
            headers: vec![],
            max_active: None,
        };
        let filter = HttpFilter {
            name: "wait".into(),
            id: FilterId::of("wait"),
            disabled: false,
            kind: FilterKind::Fault(Arc::new(fault)),
        };
        let routes = [testing::route("/", RouteAction::Forward(Arc::new(testing::forward("origin"))))];
        let mut http = testing::http("in", testing::routes(routes));
        http.filters = vec![Arc::new(filter)];
        let chain = testing::filter_chain(NetworkFilter::Http(Arc::new(http)));
        let listener = testing::listener("in", address(1, 80), chain);
        let mut asked = testing::cluster("asked", [address(3, 80)]);
        change(&mut asked);
        let snapshot = testing::snapshot([listener], [testing::cluster("origin", [address(2, 80)]), asked]);
        assert_eq!(engine.apply(Arc::new(snapshot)), Vec::<String>::new());
        let (listener, _) = engine.listeners().next().unwrap();
        let client = engine.accept(listener, address(9, 50_000), address(1, 80)).unwrap();
        let mut rig = Rig { engine, now: Time::default(), client, connecting: Vec::new(), closed: Vec::new() };
        rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
        rig
    }

    fn waiter(&self) -> Waiter {
        let waits = |key: &ExchangeKey| self.engine.exchanges.get(*key).is_some_and(|x| x.down.is_some());
        Waiter { exchange: self.engine.exchanges.keys().find(waits).unwrap(), filter: 0 }
    }

    /// The request that waits asks; a connection to who is asked is to be opened.
    fn ask(&mut self) -> ConnKey {
        let waiter = self.waiter();
        let question = Question {
            cluster: "asked",
            timeout: Duration::from_secs(5),
            keep: 8,
            tells_the_way: true,
            body: b"may he?",
        };
        let mut exchange = self.engine.exchanges.lend(waiter.exchange).unwrap();
        assert!(self.engine.ask_for(&mut exchange, waiter, &question, |head| {
            head.set_method(b"POST");
            head.set_authority(b"asked");
            head.set_path(b"/ask");
        }));
        self.engine.exchanges.give_back(waiter.exchange, exchange);
        self.work();
        self.connecting.pop().unwrap()
    }

    fn work(&mut self) {
        self.engine.advance();
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Connect(key, _) => self.connecting.push(key),
                Action::Close(key) => self.closed.push(key),
                Action::ShutdownWrite(_) => {}
            }
        }
        self.engine.take_dirty(&mut Vec::new());
    }

    fn receive(&mut self, conn: ConnKey, octets: &[u8]) {
        self.engine.receive(conn, octets);
        self.work();
    }

    fn open(&mut self, conn: ConnKey) -> String {
        self.engine.connected(conn, address(1, 40_000));
        self.work();
        self.written(conn)
    }

    fn written(&mut self, conn: ConnKey) -> String {
        let text = String::from_utf8_lossy(self.engine.output(conn)).into_owned();
        self.engine.sent(conn, text.len());
        text
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.engine.begin_turn(self.now);
        self.work();
    }

    /// What the request was told; it must have gone on then, and not before.
    fn heard(&mut self) -> Option<Heard> {
        let key = self.waiter().exchange;
        let exchange = self.engine.exchanges.get_mut(key).unwrap();
        let heard = exchange.heard(0);
        assert_eq!(heard.is_none(), exchange.stage == Stage::FilterWaits(0));
        assert_eq!(heard.is_none(), exchange.asking.is_some());
        heard
    }
}

#[test]
fn the_answer_wakes_the_request_that_has_asked() {
    let mut rig = Rig::new(|_| {});
    let conn = rig.ask();
    let asked = rig.open(conn);
    assert!(asked.starts_with("POST /ask HTTP/1.1\r\nhost: asked\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\n7\r\nmay he?\r\n0\r\n\r\n") || asked.ends_with("\r\n\r\nmay he?"), "{asked}");
    rig.receive(conn, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-by: me\r\n\r\n6\r\nanswer\r\n");
    assert!(rig.heard().is_none(), "it has not ended");
    rig.receive(conn, b"0\r\ngrpc-status: 0\r\n\r\n");
    let told = rig.heard().unwrap().unwrap();
    assert_eq!((told.head.status, told.head.headers.get(b"x-by")), (200, Some(&b"me"[..])));
    assert_eq!((&told.body[..], told.is_cut), (&b"answer"[..], false));
    assert_eq!(told.trailers.get(b"grpc-status"), Some(&b"0"[..]));
    assert_eq!(rig.engine.census().pooled, 1, "the connection is kept");
    let origin = rig.connecting.pop().unwrap();
    assert!(rig.open(origin).starts_with("POST / HTTP/1.1\r\n"), "it goes on to the origin");
}

#[test]
fn no_more_of_an_answer_is_kept_than_was_to_be() {
    let mut rig = Rig::new(|_| {});
    let conn = rig.ask();
    rig.open(conn);
    rig.receive(conn, b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\ntwelve");
    rig.receive(conn, b"octets");
    let told = rig.heard().unwrap().unwrap();
    assert_eq!((&told.body[..], told.is_cut), (&b"twelveoc"[..], true));
}

#[test]
fn whatever_keeps_the_answer_away_wakes_it_too() {
    type Case = (&'static str, fn(&mut Rig, ConnKey), Flags, &'static str);
    let refused = |rig: &mut Rig, conn| {
        rig.engine.failed(conn, "refused");
        rig.work();
    };
    let late = |rig: &mut Rig, conn| {
        rig.open(conn);
        rig.pass(Duration::from_millis(4999));
        assert!(rig.heard().is_none());
        rig.pass(Duration::from_millis(1));
    };
    let never_connected = |rig: &mut Rig, _| rig.pass(Duration::from_secs(5));
    let broken = |rig: &mut Rig, conn| {
        rig.open(conn);
        rig.receive(conn, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbroken");
        rig.engine.end_of_input(conn);
        rig.work();
    };
    let garbage = |rig: &mut Rig, conn| {
        rig.open(conn);
        rig.receive(conn, b"what?\r\n\r\n");
    };
    let cases: [Case; 5] = [
        ("refused", refused, Flags::UPSTREAM_CONNECTION_FAILURE, details::UPSTREAM_CONNECTION_FAILURE),
        ("late", late, Flags::UPSTREAM_REQUEST_TIMEOUT, details::UPSTREAM_RESPONSE_TIMEOUT),
        ("never", never_connected, Flags::UPSTREAM_REQUEST_TIMEOUT, details::UPSTREAM_RESPONSE_TIMEOUT),
        ("broken", broken, Flags::UPSTREAM_PROTOCOL_ERROR, details::UPSTREAM_PROTOCOL_ERROR_AFTER_RESPONSE),
        ("garbage", garbage, Flags::UPSTREAM_PROTOCOL_ERROR, details::UPSTREAM_PROTOCOL_ERROR),
    ];
    for (name, run, flags, details) in cases {
        let mut rig = Rig::new(|cluster| cluster.connect_timeout = Duration::from_secs(60));
        let conn = rig.ask();
        run(&mut rig, conn);
        let why = rig.heard().unwrap().unwrap_err();
        assert_eq!(why, Unanswered { flags, details: details.into() }, "{name}");
        assert_eq!(rig.engine.census().exchanges, 1, "{name}");
    }
}

#[test]
fn a_client_that_goes_takes_its_question_with_it() {
    for http2 in [false, true] {
        let mut rig = Rig::new(|cluster| {
            if http2 {
                cluster.http.protocol = UpstreamProtocol::Http2;
            }
        });
        let conn = rig.ask();
        rig.open(conn);
        rig.engine.failed(rig.client, "reset");
        rig.work();
        assert_eq!(rig.engine.census().exchanges, 0);
        // An HTTP/1 connection is of no use to others; of an HTTP/2 one only the stream ends.
        assert_eq!(rig.closed.contains(&conn), !http2);
        assert_eq!(rig.engine.census().cluster_active, 0);
    }
}

#[test]
fn a_request_that_is_answered_otherwise_asks_no_more() {
    let mut rig = Rig::new(|_| {});
    let conn = rig.ask();
    rig.open(conn);
    let key = rig.waiter().exchange;
    rig.engine.reply_locally(key, crate::exchange::LocalReply::new(408, details::REQUEST_OVERALL_TIMEOUT));
    rig.engine.make_ready(key);
    rig.work();
    assert!(rig.closed.contains(&conn));
    assert!(rig.written(rig.client).starts_with("HTTP/1.1 408"));
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn a_request_that_waits_is_not_read_without_end() {
    let mut rig = Rig::new(|_| {});
    rig.ask();
    let piece = vec![b'x'; 16 * 1024];
    let mut sent = 0;
    while rig.engine.wants_read(rig.client) {
        rig.receive(rig.client, &piece);
        sent += piece.len();
        assert!(sent <= 2 << 20, "its client is read on");
    }
    assert!(rig.engine.census().largest_body <= 64 * 1024 + piece.len());
}

#[test]
fn one_is_woken_where_it_waits_and_only_there() {
    let mut rig = Rig::new(|_| {});
    let waiter = rig.waiter();
    rig.engine.wake(Waiter { filter: 1, ..waiter });
    assert_eq!(rig.engine.exchanges.get(waiter.exchange).unwrap().stage, Stage::FilterWaits(0));
    rig.engine.wake(waiter);
    rig.engine.wake(waiter);
    rig.work();
    assert_eq!(rig.engine.exchanges.get(waiter.exchange).unwrap().stage, Stage::Pending);
    rig.engine.wake(waiter);
    rig.work();
    assert_eq!(rig.engine.exchanges.get(waiter.exchange).unwrap().stage, Stage::Pending);
    rig.engine.failed(rig.client, "reset");
    rig.work();
    rig.engine.wake(waiter);
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn a_drain_waits_for_the_request_not_for_its_question() {
    let mut rig = Rig::new(|_| {});
    let conn = rig.ask();
    rig.open(conn);
    rig.engine.drain();
    rig.work();
    assert_eq!(rig.engine.downstream_connections(), 1, "the client is served");
    rig.engine.cut_off();
    rig.work();
    assert_eq!(rig.engine.census().exchanges, 0);
    assert!(rig.closed.contains(&conn));
}

#[test]
fn nobody_is_asked_where_there_is_no_cluster() {
    let mut rig = Rig::new(|_| {});
    let waiter = rig.waiter();
    let question =
        Question { cluster: "gone", timeout: Duration::from_secs(5), keep: 8, tells_the_way: false, body: b"" };
    let mut exchange = rig.engine.exchanges.lend(waiter.exchange).unwrap();
    assert!(!rig.engine.ask_for(&mut exchange, waiter, &question, |_| {}));
    rig.engine.exchanges.give_back(waiter.exchange, exchange);
    assert_eq!(rig.engine.census().exchanges, 1);
}
