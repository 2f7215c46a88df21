//! A request costs no heap allocation once the engine is warm, whichever version of HTTP either side speaks.
//!
//! The engine is driven by hand through what its driver does for a request on
//! two connections that are open already. Routing, metrics, request ids,
//! `x-forwarded-*`, header operations and an access log are on. Set `PYMESH_TRACE_ALLOCATIONS`
//! to see where those come from that should not be there.

// A global allocator is unsafe to write; this one only counts.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::base::time::{Time, WallClock};
use pymesh_engine::{Action, ConnKey, Engine, Options};
use pymesh_http::{h2, Headers, Method, RequestHead, ResponseHead};
use pymesh_model::balance::*;
use pymesh_model::cluster::*;
use pymesh_model::format::{AccessLog, LogFormat, LogOutput, LogSink, Template};
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::route::*;
use pymesh_model::testing::{self, address};
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;

struct Counting;

thread_local! {
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    if let Ok(Some(n)) = COUNT.try_with(Cell::get) {
        COUNT.set(None);
        if std::env::var_os("PYMESH_TRACE_ALLOCATIONS").is_some() {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
        COUNT.set(Some(n + 1));
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Adds the allocations of this thread while `work` runs to `total`.
fn counted<T>(total: &mut u64, work: impl FnOnce() -> T) -> T {
    COUNT.set(Some(0));
    let result = work();
    *total += COUNT.take().unwrap_or_default();
    result
}

/// The engine and what its driver keeps.
struct Rig {
    engine: Engine,
    now: u64,
    client: ConnKey,
    upstream: Option<ConnKey>,
    dirty: Vec<ConnKey>,
    to_client: Vec<u8>,
    to_upstream: Vec<u8>,
    /// Heap allocations so far, of the engine alone.
    allocations: u64,
}

impl Rig {
    fn new(upstream: UpstreamProtocol) -> Rig {
        Rig::of(snapshot(), upstream)
    }

    fn of(mut snapshot: Snapshot, upstream: UpstreamProtocol) -> Rig {
        for cluster in snapshot.clusters.values_mut() {
            Arc::get_mut(cluster).unwrap().http.protocol = upstream;
        }
        let mut engine = Engine::new(Options {
            worker: 0,
            seed: 1,
            clock: WallClock::default(),
            overload: Arc::default(),
            commons: Arc::default(),
            stream_buffer: 256 * 1024,
            drain_time: Duration::MAX,
            hub: Arc::default(),
            shard: Arc::default(),
            secrets: Arc::new(SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
        });
        assert_eq!(engine.apply(Arc::new(snapshot)), Vec::<String>::new());
        let (listener, _) = engine.listeners().next().unwrap();
        let client = engine.accept(listener, address(2, 5000), address(1, 80)).unwrap();
        let (to_client, to_upstream) = (Vec::with_capacity(64 * 1024), Vec::with_capacity(64 * 1024));
        Rig {
            engine,
            now: 1,
            client,
            upstream: None,
            dirty: Vec::with_capacity(64),
            to_client,
            to_upstream,
            allocations: 0,
        }
    }

    /// One turn of the driver, after `input` has been reported.
    fn turn(&mut self, from: Option<ConnKey>, input: &[u8]) {
        let mut allocations = self.allocations;
        counted(&mut allocations, || self.uncounted_turn(from, input));
        self.allocations = allocations;
    }

    fn uncounted_turn(&mut self, from: Option<ConnKey>, input: &[u8]) {
        self.now += 100_000;
        self.engine.begin_turn(Time::from_nanos(self.now));
        if let Some(from) = from {
            self.engine.receive(from, input);
        }
        loop {
            self.engine.advance();
            while let Some(action) = self.engine.next_action() {
                match action {
                    Action::Connect(key, _) => {
                        self.upstream = Some(key);
                        self.engine.connected(key, address(1, 40_000));
                    }
                    other => panic!("{other:?} in steady state"),
                }
            }
            self.engine.take_dirty(&mut self.dirty);
            if self.dirty.is_empty() {
                return;
            }
            for at in 0..self.dirty.len() {
                let key = self.dirty[at];
                let output = self.engine.output(key);
                let n = output.len();
                match Some(key) == self.upstream {
                    true => self.to_upstream.extend_from_slice(output),
                    false => self.to_client.extend_from_slice(output),
                }
                self.engine.sent(key, n);
            }
            self.dirty.clear();
        }
    }

    fn exchange(&mut self, request: &[u8], response: &[u8]) {
        self.to_client.clear();
        self.to_upstream.clear();
        // In two pieces, as the network likes it.
        let (head, tail) = request.split_at(request.len() - 5);
        self.turn(Some(self.client), head);
        self.turn(Some(self.client), tail);
        if self.to_upstream.is_empty() {
            self.turn(None, b"");
        }
        self.turn(self.upstream, response);
        self.take_log_lines();
    }

    fn take_log_lines(&mut self) {
        assert!(self.engine.has_log_lines());
        self.engine.take_log_lines(|_, lines| lines.clear());
    }
}

fn check(request: &[u8], response: &[u8]) {
    check_in(Rig::new(UpstreamProtocol::Http1), request, response);
}

fn check_in(mut rig: Rig, request: &[u8], response: &[u8]) {
    for _ in 0..100 {
        rig.exchange(request, response);
        assert!(rig.to_client.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&rig.to_client));
        assert!(rig.to_upstream.windows(14).any(|at| at == b"\r\nx-request-id"));
    }
    rig.allocations = 0;
    for _ in 0..100 {
        rig.exchange(request, response);
    }
    assert_eq!(rig.allocations, 0, "allocations in 100 requests");
}

#[test]
fn a_get_allocates_nothing() {
    check(
        b"GET /shop/cart?id=7 HTTP/1.1\r\nhost: shop.example\r\nuser-agent: test\r\naccept: */*\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello",
    );
}

#[test]
fn a_forwarded_get_with_cookies_allocates_nothing() {
    check(
        b"GET / HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\r\n\
          cookie: a=1; b=2\r\nx-custom: yes\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nset-cookie: a=2\r\nset-cookie: b=3\r\ncontent-length: 0\r\n\r\n",
    );
}

#[test]
fn a_post_allocates_nothing() {
    check(
        b"POST /orders HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 20\r\n\r\n01234567890123456789",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
}

#[test]
fn a_chunked_post_allocates_nothing() {
    check(
        b"POST /orders HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    );
}

#[test]
fn a_sticky_get_allocates_nothing() {
    let by = |of| HashPolicy { of, terminal: false };
    let cookie = HashCookie { name: "user".into(), ttl: Some(Duration::ZERO), path: "/".into(), attributes: vec![] };
    let shares = ["origin", "other"]
        .map(|name| WeightedCluster { weight: if name == "origin" { 100 } else { 0 }, ..testing::share(name) });
    let forward = Forward {
        cluster: ClusterChoice::Weighted(WeightedClusters { clusters: shares.into(), by: SplitBy::HashPolicy }),
        hash_policy: vec![
            by(HashOf::Cookie(cookie)),
            by(HashOf::Header("x-user".into(), None)),
            by(HashOf::QueryParameter("id".into())),
            by(HashOf::SourceIp),
        ],
        ..testing::forward("origin")
    };
    let maglev =
        Maglev { table_size: 101, hashing: ConsistentHashing { use_hostname: false, balance_factor: Some(500) } };
    check_in(
        Rig::of(snapshot_of(forward, LbPolicy::Maglev(maglev)), UpstreamProtocol::Http1),
        b"GET /shop/cart?id=7 HTTP/1.1\r\nhost: shop.example\r\nx-user: ann\r\ncookie: a=b; user=ann\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
}

#[test]
fn a_call_with_a_deadline_allocates_nothing() {
    let heard = Some(GrpcTimeout::default());
    let by_stream = Forward { stream: StreamDuration { max: None, grpc: heard }, ..testing::forward("origin") };
    let by_route = Forward { grpc_timeout: heard, ..testing::forward("origin") };
    for forward in [by_stream, by_route] {
        check_in(
            Rig::of(snapshot_of(forward, LbPolicy::RoundRobin), UpstreamProtocol::Http1),
            b"POST /shop.Cart/Get HTTP/1.1\r\nhost: shop.example\r\ncontent-type: application/grpc\r\n\
              grpc-timeout: 1500000u\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
        );
    }
}

#[test]
fn http2_on_both_sides_allocates_nothing() {
    check_http2();
}

/// A client and an origin that speak HTTP/2.
struct Ends {
    client: h2::Connection,
    origin: h2::Connection,
    heads: h2::Scratch,
    answers: usize,
}

impl Ends {
    fn new() -> Ends {
        let end = |role| h2::Connection::new(h2::Config::new(role));
        Ends { client: end(h2::Role::Client), origin: end(h2::Role::Server), heads: Default::default(), answers: 0 }
    }

    /// Several requests at once on one connection, each with a body and trailers.
    fn exchange(&mut self, rig: &mut Rig) {
        const STREAMS: usize = 4;
        let mut request = RequestHead::default();
        request.set_authority(b"shop.example");
        request.method = Method::Post;
        request.set_path(b"/shop/cart?id=7");
        request.headers.append(b"user-agent", b"test");
        request.headers.append(b"cookie", b"a=1; b=2");
        let mut trailers = Headers::new();
        trailers.append(b"x-checksum", b"1");
        for _ in 0..STREAMS {
            let stream = self.client.open(&request, false, 0).unwrap();
            assert_eq!(self.client.send_data(stream, b"hello", false), Ok(5));
            self.client.send_trailers(stream, &trailers).unwrap();
        }
        self.answers = 0;
        for _ in 0..20 {
            if self.answers == STREAMS {
                return rig.take_log_lines();
            }
            self.client_turn(rig);
            self.origin_turn(rig);
        }
        panic!("{} of {STREAMS} answers", self.answers);
    }

    fn client_turn(&mut self, rig: &mut Rig) {
        let octets = self.client.output().to_vec();
        self.client.advance_output(octets.len());
        rig.turn(Some(rig.client), &octets);
        let octets = std::mem::take(&mut rig.to_client);
        let mut input = octets.as_slice();
        while let Some(event) = self.client.receive(&mut input, &mut self.heads).unwrap() {
            let ended = match event {
                h2::Event::Response { end_stream, .. } => {
                    assert_eq!(self.heads.response.status, 200);
                    end_stream
                }
                h2::Event::Data { stream, data, end_stream, .. } => {
                    let n = data.len();
                    self.client.release(stream, n);
                    end_stream
                }
                h2::Event::Trailers { .. } => true,
                h2::Event::Reset { .. } => panic!("reset"),
                _ => false,
            };
            self.answers += usize::from(ended);
        }
        rig.to_client = octets;
        rig.to_client.clear();
    }

    fn origin_turn(&mut self, rig: &mut Rig) {
        let mut response = ResponseHead::default();
        response.headers.append(b"content-type", b"application/grpc");
        response.status = 200;
        let octets = std::mem::take(&mut rig.to_upstream);
        let mut input = octets.as_slice();
        let mut complete = Vec::new();
        while let Some(event) = self.origin.receive(&mut input, &mut self.heads).unwrap() {
            match event {
                h2::Event::Data { stream, data, .. } => {
                    let n = data.len();
                    self.origin.release(stream, n);
                }
                h2::Event::Trailers { stream, .. } => complete.push(stream),
                _ => {}
            }
        }
        rig.to_upstream = octets;
        rig.to_upstream.clear();
        for stream in complete {
            self.origin.send_response(stream, &response, false).unwrap();
            assert_eq!(self.origin.send_data(stream, b"hello", false), Ok(5));
            self.origin.send_trailers(stream, &Headers::new()).unwrap();
        }
        let octets = self.origin.output().to_vec();
        self.origin.advance_output(octets.len());
        rig.turn(rig.upstream, &octets);
    }
}

fn check_http2() {
    let (mut rig, mut ends) = (Rig::new(UpstreamProtocol::Http2), Ends::new());
    for _ in 0..100 {
        ends.exchange(&mut rig);
    }
    rig.allocations = 0;
    for _ in 0..100 {
        ends.exchange(&mut rig);
    }
    assert_eq!(rig.allocations, 0, "allocations in 400 requests");
}

fn snapshot() -> Snapshot {
    snapshot_of(testing::forward("origin"), LbPolicy::RoundRobin)
}

fn snapshot_of(forward: Forward, policy: LbPolicy) -> Snapshot {
    let on = RetryOn { connect_failure: true, server_error: true, ..RetryOn::default() };
    let retry = RetryPolicy { per_try_timeout: Duration::from_secs(2), ..testing::retry(on, 2) };
    let forward = Forward { retry: Some(Arc::new(retry)), ..forward };
    let add = HeaderAdd {
        name: "x-added".into(),
        value: Template::parse("yes").unwrap(),
        action: AppendAction::OverwriteIfExistsOrAdd,
        keep_empty: false,
    };
    let edit = HeaderEdit { remove: vec!["x-custom".into()], add: vec![add] };
    let headers = HeaderOps { request: edit.clone(), response: edit };
    let action = pymesh_model::route::Action::Forward(Arc::new(forward));
    let route = Route { headers, ..testing::route("/", action) };
    let host = VirtualHost {
        domains: vec!["shop.example".into()],
        routes: vec![Arc::new(route)],
        attempt_count_in_request: true,
        attempt_count_in_response: true,
        ..VirtualHost::default()
    };
    let line = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \"%REQ(X-REQUEST-ID)%\" \"%UPSTREAM_HOST%\"\n";
    let format = LogFormat::Text(Template::parse(line).unwrap());
    let log = AccessLog { output: LogOutput::Lines(LogSink::Stdout, format), filter: None };
    let manager = HttpConnectionManager {
        path: PathPolicy { normalize: true, merge_slashes: true, ..PathPolicy::default() },
        forwarding: Forwarding { use_remote_address: true, ..Forwarding::default() },
        always_set_request_id_in_response: true,
        via: Some("1.1 pymesh".into()),
        access_logs: vec![Arc::new(log)],
        ..testing::http("ingress", RouteTable { virtual_hosts: vec![host], ..RouteTable::default() })
    };
    let chain = testing::filter_chain(NetworkFilter::Http(Arc::new(manager)));
    let listener = testing::listener("in", address(1, 80), chain);
    let origin = Cluster { balance: Balance::by(policy), ..testing::cluster("origin", [address(3, 8080)]) };
    testing::snapshot([listener], [origin, testing::cluster("other", [])])
}
