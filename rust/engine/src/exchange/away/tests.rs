//! A hook is handed over, and whoever runs it is played by hand.

use std::sync::Arc;

use pymesh_model::filter::{FailurePolicy, FilterId, FilterKind, HttpFilter, PythonFilter};
use pymesh_model::listener::NetworkFilter;
use pymesh_model::route::Action as RouteAction;
use pymesh_model::testing::{self, address};
use pymesh_tls::SecretStore;

use super::*;
use crate::base::time::WallClock;
use crate::conn::ConnKey;
use crate::engine::{Action, Options};
use crate::filter::{Gate, Hook};
use crate::telemetry::stats::sum;

struct Rig {
    engine: Engine,
    options: Options,
    now: Time,
    client: ConnKey,
    connecting: Vec<ConnKey>,
    closed: Vec<ConnKey>,
}

impl Rig {
    /// A client has asked; two filters, with a second for each, lie before the origin.
    fn new(policy: FailurePolicy) -> Rig {
        let mut rig = Rig::with(policy, &[Hook::RequestHeaders, Hook::ResponseHeaders]);
        rig.receive(rig.client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        rig
    }

    fn with(policy: FailurePolicy, hooks: &[Hook]) -> Rig {
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
        let mut engine = Engine::new(options.clone());
        let filter = |name: &str| HttpFilter {
            name: name.into(),
            id: FilterId::of(name),
            disabled: false,
            kind: FilterKind::Python(Arc::new(PythonFilter {
                class: format!("{name}:{name}").into(),
                source: "".into(),
                config_json: "{}".into(),
                failure_policy: policy,
                timeout: Duration::from_secs(1),
            })),
        };
        let routes = [testing::route("/", RouteAction::Forward(Arc::new(testing::forward("origin"))))];
        let mut http = testing::http("in", testing::routes(routes));
        http.filters = vec![Arc::new(filter("first")), Arc::new(filter("second"))];
        let chain = testing::filter_chain(NetworkFilter::Http(Arc::new(http)));
        let listener = testing::listener("in", address(1, 80), chain);
        let clusters = [testing::cluster("origin", [address(2, 80)]), testing::cluster("asked", [address(3, 80)])];
        assert_eq!(engine.apply(Arc::new(testing::snapshot([listener], clusters))), Vec::<String>::new());
        let gate = Gate { hooks: hooks.iter().copied().collect(), max_body: 1024, ..Gate::default() };
        let gates = engine.python_filters().into_iter().map(|filter| (filter, Ok(gate.clone()))).collect();
        engine.set_filter_gates(gates);
        let (listener, _) = engine.listeners().next().unwrap();
        let client = engine.accept(listener, address(9, 50_000), address(1, 80)).unwrap();
        Rig { engine, options, now: Time::default(), client, connecting: Vec::new(), closed: Vec::new() }
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

    /// The next hook is called, elsewhere.
    fn hand_over(&mut self) -> (FilterCall, Heads) {
        let mut calls = Vec::new();
        self.engine.take_filter_calls(&mut calls);
        let call = calls.pop().unwrap();
        let heads = self.engine.hand_over(&call).unwrap();
        (call, heads)
    }

    fn finish(&mut self, call: &FilterCall, heads: Heads) {
        self.engine.finish_filter(call, heads, Outcome::PASS);
        self.work();
    }

    fn open(&mut self) -> ConnKey {
        let conn = self.connecting.pop().unwrap();
        self.engine.connected(conn, address(1, 40_000));
        self.work();
        conn
    }

    fn sent(&mut self, conn: ConnKey) -> String {
        let octets = self.engine.output(conn).to_vec();
        self.engine.sent(conn, octets.len());
        String::from_utf8(octets).unwrap()
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.engine.begin_turn(self.now);
        self.work();
    }

    fn released(&mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        self.engine.take_released_calls(&mut ids);
        ids
    }

    fn answers(&mut self) -> Vec<Result<CallAnswer, NoAnswer>> {
        let mut answers = Vec::new();
        self.engine.take_call_answers(&mut answers);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn count(&self, name: &str) -> u64 {
        let groups = self.options.hub.lock();
        let numbers = sum(groups.python_filters.get("first").unwrap());
        numbers.into_iter().find(|(known, ..)| *known == name).unwrap().2
    }
}

fn question(cluster: &str) -> CallQuestion {
    CallQuestion {
        cluster: cluster.to_owned(),
        method: "GET".to_owned(),
        path: "/ask".to_owned(),
        authority: "asked".to_owned(),
        headers: vec![(b"x-who".to_vec(), b"me".to_vec())],
        body: Vec::new(),
        timeout: Duration::ZERO,
        most: 8,
    }
}

#[test]
fn what_a_hook_has_changed_counts_when_it_returns() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    let (call, mut heads) = rig.hand_over();
    heads.request.headers.append(b"x-seen", b"yes");
    rig.work();
    assert!(rig.connecting.is_empty(), "it waits");
    rig.finish(&call, heads);
    let (call, heads) = rig.hand_over();
    rig.finish(&call, heads);
    let origin = rig.open();
    assert!(rig.sent(origin).contains("x-seen: yes"));
    assert!(rig.released().is_empty());
}

#[test]
fn a_late_hook_is_answered_for_by_the_policy() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    let (call, heads) = rig.hand_over();
    rig.pass(Duration::from_millis(999));
    assert!(rig.sent(rig.client).is_empty());
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.released(), [call.id]);
    assert!(rig.sent(rig.client).starts_with("HTTP/1.1 500"));
    assert_eq!(rig.count("timeouts"), 1);
    rig.finish(&call, heads);
    assert!(rig.sent(rig.client).is_empty(), "it was too late");
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_filters() {
    let mut rig = Rig::new(FailurePolicy::Open);
    let (late, mut heads) = rig.hand_over();
    heads.request.headers.append(b"x-late", b"yes");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.released(), [late.id]);
    let (second, mut its) = rig.hand_over();
    assert_ne!(late.id, second.id);
    its.request.headers.append(b"x-second", b"yes");
    rig.finish(&late, heads);
    assert!(rig.connecting.is_empty(), "the second filter has it");
    rig.finish(&second, its);
    let origin = rig.open();
    let sent = rig.sent(origin);
    assert!(sent.contains("x-second: yes") && !sent.contains("x-late"), "{sent}");
}

#[test]
fn a_client_that_goes_away_releases_the_call() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    let (call, heads) = rig.hand_over();
    rig.engine.failed(rig.client, "reset");
    rig.work();
    assert_eq!(rig.released(), [call.id]);
    rig.finish(&call, heads);
    assert_eq!(rig.engine.in_use(), (0, 0, 0));
}

#[test]
fn an_upstream_that_breaks_off_releases_the_response_hook() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    for _ in 0..2 {
        let (call, heads) = rig.hand_over();
        rig.finish(&call, heads);
    }
    let origin = rig.open();
    rig.receive(origin, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    let (call, heads) = rig.hand_over();
    assert_eq!(call.hook, Hook::ResponseHeaders);
    rig.engine.failed(origin, "reset");
    rig.work();
    assert_eq!(rig.released(), [call.id]);
    assert!(rig.sent(rig.client).starts_with("HTTP/1.1 502"));
    rig.finish(&call, heads);
    assert!(rig.sent(rig.client).is_empty());
}

#[test]
fn a_hook_asks_and_is_told() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    let (call, heads) = rig.hand_over();
    rig.engine.ask_for_call(&call, 1, &question("asked"));
    rig.work();
    let asked = rig.open();
    let sent = rig.sent(asked);
    assert!(sent.starts_with("GET /ask HTTP/1.1\r\nhost: asked\r\n") && sent.contains("x-who: me"), "{sent}");
    rig.receive(asked, b"HTTP/1.1 201 Created\r\nx-it: is\r\ncontent-length: 2\r\n\r\nhi");
    assert!(rig.engine.has_news_of_calls());
    let answer = rig.answers().pop().unwrap().unwrap();
    assert_eq!((answer.status, &*answer.body), (201, &b"hi"[..]));
    assert!(answer.headers.contains(&(b"x-it".to_vec(), b"is".to_vec())));

    rig.engine.ask_for_call(&call, 2, &question("asked"));
    rig.work();
    rig.receive(asked, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnine long");
    assert_eq!(rig.answers().pop().unwrap().unwrap_err().reason, "the answer is longer than 8 octets");
    rig.engine.ask_for_call(&call, 3, &question("nobody"));
    let failure = rig.answers().pop().unwrap().unwrap_err();
    assert_eq!(failure.reason, "there is no cluster `nobody`; known are asked, origin");
    rig.finish(&call, heads);
}

#[test]
fn questions_fail_with_flags_and_end_with_their_call() {
    let mut rig = Rig::new(FailurePolicy::Closed);
    let (call, _) = rig.hand_over();
    rig.engine.ask_for_call(&call, 1, &question("asked"));
    rig.work();
    let asked = rig.connecting.pop().unwrap();
    rig.engine.failed(asked, "refused");
    rig.work();
    assert_eq!(rig.answers().pop().unwrap().unwrap_err().flags, "UF");

    rig.engine.ask_for_call(&call, 2, &question("asked"));
    rig.engine.ask_for_call(&call, 3, &CallQuestion { timeout: Duration::from_millis(500), ..question("asked") });
    rig.work();
    rig.pass(Duration::from_millis(500));
    assert_eq!(rig.answers().pop().unwrap().unwrap_err().flags, "UT");
    rig.pass(Duration::from_millis(500));
    assert_eq!(rig.released(), [call.id]);
    assert!(rig.answers().is_empty(), "nobody waits for it");
    rig.engine.ask_for_call(&call, 4, &question("asked"));
    assert!(rig.answers().is_empty());
    rig.sent(rig.client);
    rig.work();
    assert_eq!(rig.engine.in_use().1, 0, "no question is left");
}

#[test]
fn a_late_hook_of_a_body_gives_it_back() {
    for hook in [Hook::RequestBody, Hook::RequestChunk] {
        let mut rig = Rig::with(FailurePolicy::Open, &[hook]);
        rig.receive(rig.client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        let (call, heads) = rig.hand_over();
        assert_eq!((call.hook, heads.body.as_slice()), (hook, &b"hello"[..]));
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.released(), [call.id]);
        // The second filter has the same hook.
        let (call, heads) = rig.hand_over();
        assert_eq!(heads.body.as_slice(), b"hello");
        rig.finish(&call, heads);
        let origin = rig.open();
        assert!(rig.sent(origin).contains("hello"));
    }
}

#[test]
fn a_client_that_goes_away_releases_hooks_of_the_stream() {
    let mut rig = Rig::with(FailurePolicy::Open, &[Hook::RequestChunk]);
    rig.receive(rig.client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhell");
    let (call, heads) = rig.hand_over();
    rig.engine.failed(rig.client, "reset");
    rig.work();
    assert_eq!(rig.released(), [call.id]);
    rig.finish(&call, heads);
}
