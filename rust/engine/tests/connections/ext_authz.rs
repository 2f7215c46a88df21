//! A service decides whether a request, or a connection, may pass. Whatever becomes of its answer, nothing passes without.

use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::telemetry::stats::sum;
use pymesh_engine::testing::imbalances;
use pymesh_engine::{Action, ConnKey};
use pymesh_http::h2::{Config, Connection, Event, Role, Scratch};
use pymesh_http::{Headers, RequestHead, ResponseHead};
use pymesh_model::cluster::{UpstreamHttp, UpstreamProtocol};
use pymesh_model::filter::*;
use pymesh_model::listener::ConnectionPolicy;
use pymesh_model::route::{HeaderEdit, PathMatch};

use super::rig::{Rig, Setup};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: shop\r\nx-user: ann\r\n\r\n";
const ALLOWED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const DENIED: &[u8] = b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-length: 2\r\n\r\nno";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const TIMEOUT: Duration = Duration::from_millis(500);

fn over_http() -> AuthzService {
    let none = HeaderNames::default;
    AuthzService::Http(Box::new(HttpAuthz {
        cluster: "asked".into(),
        timeout: TIMEOUT,
        path_prefix: "/check".into(),
        add: HeaderEdit::default(),
        to_upstream: none(),
        to_upstream_too: none(),
        to_client: none(),
        to_client_on_success: none(),
        to_metadata: none(),
    }))
}

fn over_grpc() -> GrpcAuthz {
    let (cluster, authority) = ("asked".into(), "asked".into());
    GrpcAuthz { cluster, authority, timeout: TIMEOUT, metadata: HeaderEdit::default() }
}

fn config(service: AuthzService) -> ExtAuthz {
    ExtAuthz {
        service,
        allows_on_failure: false,
        tells_failure: false,
        body: None,
        reroutes: false,
        status_on_error: 403,
        enabled: 1_000_000,
        enabled_metadata: None,
        denies_if_disabled: false,
        shows_certificate: false,
        shows_tls_session: false,
        told: vec![],
        keeps_metadata: true,
        stat_prefix: "".into(),
        shown: Some(HeaderNames::default()),
        hidden: HeaderNames::default(),
        most_denied_body: 0,
    }
}

fn setup(config: ExtAuthz) -> Setup {
    let is_grpc = matches!(config.service, AuthzService::Grpc(_));
    let protocol = if is_grpc { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
    let kind = FilterKind::ExtAuthz(Arc::new(config));
    let filter = HttpFilter { name: "authz".into(), id: FilterId::of("authz"), disabled: false, kind };
    Setup {
        filters: vec![Arc::new(filter)],
        asked: Some(UpstreamHttp { protocol, ..UpstreamHttp::default() }),
        ..Setup::default()
    }
}

fn count(rig: &Rig, name: &str) -> u64 {
    let all = sum(&rig.hub.lock().ext_authz["http.in.ext_authz."]);
    all.into_iter().find(|(known, ..)| *known == name).unwrap().2
}

/// A client whose request is asked about over HTTP, and the open connection to the service.
fn asking(rig: &mut Rig, request: &[u8]) -> (ConnKey, ConnKey) {
    let client = rig.accept();
    rig.receive(client, request);
    let service = rig.open();
    (client, service)
}

/// All is over and nothing is left but what may be kept.
fn settled(rig: &Rig) {
    let census = rig.engine.census();
    assert_eq!((census.exchanges, census.cluster_active, census.cluster_pending), (0, 0, 0));
}

#[test]
fn a_request_waits_for_the_answer_and_goes_on_with_it() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (client, service) = asking(&mut rig, GET);
    let asked = rig.text(service);
    assert!(asked.starts_with("GET /check/a HTTP/1.1\r\nhost: shop\r\n"), "{asked}");
    assert!(asked.contains("content-length: 0\r\n") && asked.contains("x-envoy-internal: true\r\n"), "{asked}");
    assert!(!asked.contains("x-user"), "only what is allowed is shown: {asked}");
    rig.pass(Duration::from_millis(400));
    assert!(rig.take_actions().is_empty() && rig.text(client).is_empty(), "it waits");
    rig.receive(service, ALLOWED);
    let origin = rig.open();
    assert!(rig.text(origin).starts_with("GET /a HTTP/1.1\r\nhost: shop\r\n"));
    rig.receive(origin, OK);
    assert!(rig.text(client).ends_with("hello"));
    assert_eq!((count(&rig, "ok"), rig.engine.census().pooled), (1, 2));
    settled(&rig);
}

#[test]
fn the_service_sees_all_credentials() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (_, service) =
        asking(&mut rig, b"GET /a HTTP/1.1\r\nhost: shop\r\nauthorization: good\r\nauthorization: bad\r\n\r\n");
    let asked = rig.text(service);
    assert!(asked.contains("authorization: good,bad\r\n"), "the upstream may take any of them: {asked}");
}

#[test]
fn what_frames_a_request_is_not_the_services_to_remove() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (_, service) =
        asking(&mut rig, b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\nx-user: ann\r\n\r\nhello");
    rig.receive(
        service,
        b"HTTP/1.1 200 OK\r\nx-envoy-auth-headers-to-remove: x-user, Content-Length\r\ncontent-length: 0\r\n\r\n",
    );
    let origin = rig.open();
    let sent = rig.text(origin);
    assert!(sent.contains("content-length: 5\r\n") && !sent.contains("x-user"), "{sent}");
}

#[test]
fn who_has_no_route_yet_is_asked_about_if_one_may_be_found() {
    let named =
        |name: &str, kind| Arc::new(HttpFilter { name: name.into(), id: FilterId::of(name), disabled: false, kind });
    let behind = named("jwt", FilterKind::JwtAuthn(Arc::default()));
    for (behind, is_asked) in [(None, false), (Some(behind), true)] {
        let mut setup = setup(config(over_http()));
        setup.filters.extend(behind);
        setup.path = PathMatch::Prefix("/other".into());
        let mut rig = Rig::new(&setup);
        let client = rig.accept();
        rig.receive(client, GET);
        assert_eq!(rig.text(client).starts_with("HTTP/1.1 404 "), !is_asked);
        if is_asked {
            let service = rig.open();
            rig.receive(service, DENIED);
            assert!(rig.text(client).starts_with("HTTP/1.1 401 "));
        }
    }
}

#[test]
fn who_is_denied_is_told_what_the_service_says() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (client, service) = asking(&mut rig, GET);
    rig.receive(service, DENIED);
    let answer = rig.text(client);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.ends_with("\r\n\r\nno"), "{answer}");
    assert!(answer.contains("www-authenticate: Basic"), "{answer}");
    assert!(rig.take_actions().is_empty(), "the origin is not connected to");
    assert_eq!(count(&rig, "denied"), 1);
    settled(&rig);
}

/// What keeps an answer away, given the connection to the service that is being opened.
type Failure = (&'static str, fn(&mut Rig, ConnKey));

fn opened(rig: &mut Rig, service: ConnKey) {
    rig.engine.connected(service, super::rig::address(1, 40_000));
    rig.work();
}

const FAILURES: [Failure; 7] = [
    ("nobody listens", |rig, service| {
        rig.engine.failed(service, "refused");
        rig.work();
    }),
    ("nobody accepts", |rig, _| rig.pass(TIMEOUT)),
    ("slow", |rig, service| {
        opened(rig, service);
        rig.pass(TIMEOUT);
    }),
    ("slow in the middle", |rig, service| {
        opened(rig, service);
        rig.receive(service, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel");
        rig.pass(TIMEOUT);
    }),
    ("rubbish", |rig, service| {
        opened(rig, service);
        rig.receive(service, b"220 mail.test ESMTP\r\n");
    }),
    ("it breaks off", |rig, service| {
        opened(rig, service);
        rig.receive(service, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel");
        rig.end(service);
    }),
    ("too long", |rig, service| {
        opened(rig, service);
        rig.receive(service, b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n");
        rig.receive(service, &vec![b'x'; 1_048_577]);
    }),
];

#[test]
fn without_an_answer_nothing_passes() {
    for (name, fail) in FAILURES {
        let mut rig = Rig::new(&setup(config(over_http())));
        let client = rig.accept();
        rig.receive(client, GET);
        let service = rig.connecting();
        fail(&mut rig, service);
        let answer = rig.text(client);
        assert!(answer.starts_with("HTTP/1.1 403"), "{name}: {answer}");
        assert!(!rig.take_actions().iter().any(|action| matches!(action, Action::Connect(..))), "{name}");
        assert_eq!((count(&rig, "error"), count(&rig, "ok")), (1, 0), "{name}");
        settled(&rig);
    }
}

#[test]
fn only_who_asks_for_it_lets_requests_pass_without_an_answer() {
    for (name, fail) in FAILURES {
        let open = ExtAuthz { allows_on_failure: true, tells_failure: true, ..config(over_http()) };
        let mut rig = Rig::new(&setup(open));
        let client = rig.accept();
        rig.receive(client, GET);
        let service = rig.connecting();
        fail(&mut rig, service);
        let origin = rig.open();
        assert!(rig.text(origin).contains("x-envoy-auth-failure-mode-allowed: true\r\n"), "{name}");
        assert_eq!((count(&rig, "error"), count(&rig, "failure_mode_allowed")), (1, 1), "{name}");
    }
}

#[test]
fn nobody_passes_where_the_service_has_no_cluster() {
    let setup = Setup { asked: None, ..setup(config(over_http())) };
    let mut rig = Rig::new(&setup);
    let client = rig.accept();
    rig.receive(client, GET);
    assert!(rig.text(client).starts_with("HTTP/1.1 403"));
    settled(&rig);
}

#[test]
fn a_service_that_was_dead_is_asked_again() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let client = rig.accept();
    rig.receive(client, GET);
    let service = rig.connecting();
    rig.engine.failed(service, "refused");
    rig.work();
    assert!(rig.text(client).starts_with("HTTP/1.1 403"));
    rig.receive(client, GET);
    let service = rig.open();
    rig.receive(service, ALLOWED);
    let origin = rig.open();
    rig.receive(origin, OK);
    assert!(rig.text(client).ends_with("hello"));
}

#[test]
fn a_client_that_goes_is_asked_about_no_more() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (client, service) = asking(&mut rig, GET);
    rig.engine.failed(client, "reset");
    rig.work();
    assert!(rig.take_actions().contains(&Action::Close(service)));
    settled(&rig);
    assert_eq!(imbalances(&rig.hub), Vec::<String>::new());
}

#[test]
fn a_drain_waits_for_the_answer_and_the_request() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (client, service) = asking(&mut rig, GET);
    rig.engine.drain();
    rig.work();
    rig.receive(service, ALLOWED);
    let origin = rig.open();
    rig.receive(origin, OK);
    let answer = rig.text(client);
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("hello"), "{answer}");
    rig.end(client);
    assert_eq!(rig.engine.downstream_connections(), 0);
}

fn with_body(most: usize, partial: bool) -> Setup {
    setup(ExtAuthz { body: Some(AuthzBody { most, partial, as_bytes: true }), ..config(over_http()) })
}

#[test]
fn a_body_is_waited_for_and_shown() {
    let mut rig = Rig::new(&with_body(100, false));
    let client = rig.accept();
    rig.receive(client, b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(rig.text(client), "HTTP/1.1 100 Continue\r\n\r\n", "or it would not come");
    rig.receive(client, b"01234");
    assert!(rig.take_actions().is_empty(), "there is more of it");
    rig.receive(client, b"56789");
    let service = rig.open();
    let asked = rig.text(service);
    assert!(asked.ends_with("\r\n\r\n0123456789") && asked.contains("x-envoy-auth-partial-body: false"), "{asked}");
    rig.receive(service, ALLOWED);
    let origin = rig.open();
    assert!(rig.text(origin).ends_with("\r\n\r\n0123456789"), "the origin gets it too");
}

#[test]
fn of_a_long_body_the_beginning_is_shown_or_it_is_refused() {
    let post = b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 1000\r\n\r\n0123456789";
    let mut rig = Rig::new(&with_body(8, true));
    let client = rig.accept();
    rig.receive(client, post);
    let service = rig.open();
    let asked = rig.text(service);
    assert!(asked.ends_with("\r\n\r\n01234567") && asked.contains("x-envoy-auth-partial-body: true"), "{asked}");

    let mut rig = Rig::new(&with_body(8, false));
    let client = rig.accept();
    rig.receive(client, post);
    let answer = rig.text(client);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("Payload Too Large"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(!rig.take_actions().iter().any(|action| matches!(action, Action::Connect(..))));
    settled(&rig);
}

#[test]
fn a_body_that_is_longer_than_a_window_still_comes() {
    const LENGTH: usize = 900_000;
    let mut rig = Rig::new(&with_body(LENGTH, false));
    let conn = rig.accept();
    let mut client = Connection::new(Config::new(Role::Client));
    let mut head = RequestHead::default();
    head.set_method(b"POST");
    head.set_authority(b"shop");
    head.set_path(b"/a");
    let stream = client.open(&head, false, 0).unwrap();
    let body = vec![b'x'; LENGTH];
    let mut sent = 0;
    for _ in 0..200 {
        sent += client.send_data(stream, &body[sent..], false).unwrap();
        if sent == LENGTH {
            break;
        }
        let output = client.output().to_vec();
        client.advance_output(output.len());
        rig.receive(conn, &output);
        let written = rig.written(conn);
        let (mut input, mut scratch) = (written.as_slice(), Scratch::default());
        while client.receive(&mut input, &mut scratch).unwrap().is_some() {}
    }
    assert_eq!(sent, LENGTH, "flow control is given back while the filter waits");
    client.send_data(stream, &[], true).unwrap();
    let output = client.output().to_vec();
    rig.receive(conn, &output);
    let service = rig.open();
    assert!(rig.written(service).len() > LENGTH);
}

#[test]
fn a_request_that_waits_holds_no_more_than_any_other() {
    let mut rig = Rig::new(&setup(config(over_http())));
    let (client, _service) = asking(&mut rig, b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 100000000\r\n\r\n");
    let mut sent = 0;
    while rig.engine.wants_read(client) && sent < 100_000_000 {
        rig.receive(client, &[b'x'; 65_536]);
        sent += 65_536;
    }
    assert!(sent < 4_000_000, "{sent} octets were read");
    assert!(rig.engine.census().largest_body <= 2 * 65_536);
}

/// A service of gRPC: what it was asked, and how it answers.
struct Service {
    codec: Connection,
    conn: ConnKey,
}

impl Service {
    fn new(conn: ConnKey) -> Service {
        Service { codec: Connection::new(Config::new(Role::Server)), conn }
    }

    /// Answers what it has been asked with a message and a status.
    fn answers(&mut self, rig: &mut Rig, message: &[u8], status: &[u8]) -> Vec<u8> {
        let (written, mut scratch, mut asked) = (rig.written(self.conn), Scratch::default(), Vec::new());
        let mut input = written.as_slice();
        let mut stream = None;
        while let Some(event) = self.codec.receive(&mut input, &mut scratch).unwrap() {
            match event {
                Event::Request { stream: opened, .. } => stream = Some(opened),
                Event::Data { data, .. } => asked.extend_from_slice(data),
                _ => {}
            }
        }
        let stream = stream.unwrap();
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.append(b"content-type", b"application/grpc");
        self.codec.send_response(stream, &head, false).unwrap();
        let mut framed = vec![0, 0, 0, 0, message.len() as u8];
        framed.extend_from_slice(message);
        self.codec.send_data(stream, &framed, false).unwrap();
        let mut trailers = Headers::new();
        trailers.append(b"grpc-status", status);
        self.codec.send_trailers(stream, &trailers).unwrap();
        let output = self.codec.output().to_vec();
        self.codec.advance_output(output.len());
        rig.receive(self.conn, &output);
        asked
    }
}

/// `CheckResponse` with the code 0, which has no octets of its own.
const PASS: &[u8] = &[0x0a, 0];
/// With the code 7.
const DENY: &[u8] = &[0x0a, 2, 8, 7];

#[test]
fn one_connection_to_a_service_of_grpc_serves_many_requests() {
    let mut rig = Rig::new(&setup(ExtAuthz { shown: None, ..config(AuthzService::Grpc(over_grpc())) }));
    let (client, conn) = asking(&mut rig, GET);
    let mut service = Service::new(conn);
    let asked = service.answers(&mut rig, PASS, b"0");
    assert!(asked.windows(6).any(|part| part == b"x-user") && asked.windows(3).any(|part| part == b"ann"));
    let origin = rig.open();
    rig.receive(origin, OK);
    assert!(rig.text(client).ends_with("hello"));
    for (message, status) in [(DENY, b"0".as_slice()), (PASS, b"14"), (b"\xff", b"0"), (b"", b"0")] {
        rig.receive(client, GET);
        service.answers(&mut rig, message, status);
        let answer = rig.text(client);
        assert!(answer.starts_with("HTTP/1.1 403"), "{message:?} {answer}");
    }
    assert!(rig.take_actions().is_empty(), "no other connection is opened");
    assert_eq!((count(&rig, "ok"), count(&rig, "denied"), count(&rig, "error")), (1, 1, 3));
}

fn connections(allows_on_failure: bool) -> Setup {
    let config = ConnectionAuthz {
        service: over_grpc(),
        allows_on_failure,
        shows_certificate: false,
        shows_tls_session: false,
        enabled_metadata: None,
        told: vec![],
        stat_prefix: "tcp".into(),
    };
    Setup {
        is_tcp: true,
        policies: vec![ConnectionPolicy::ExtAuthz(Arc::new(config))],
        asked: Some(UpstreamHttp { protocol: UpstreamProtocol::Http2, ..UpstreamHttp::default() }),
        ..Setup::default()
    }
}

fn connection_count(rig: &Rig, name: &str) -> u64 {
    let all = sum(&rig.hub.lock().connection_ext_authz["tcp"]);
    all.into_iter().find(|(known, ..)| *known == name).unwrap().2
}

#[test]
fn a_connection_waits_with_what_it_sends_and_nobody_is_connected_to() {
    let mut rig = Rig::new(&connections(false));
    let client = rig.accept();
    let mut service = Service::new(rig.open());
    rig.receive(client, b"first");
    rig.receive(client, b" words");
    assert!(rig.take_actions().is_empty());
    assert_eq!(connection_count(&rig, "active"), 1);
    service.answers(&mut rig, PASS, b"0");
    let origin = rig.open();
    assert_eq!(rig.text(origin), "first words");
    rig.receive(origin, b"welcome");
    assert_eq!(rig.text(client), "welcome");
    assert_eq!((connection_count(&rig, "ok"), connection_count(&rig, "active")), (1, 0));
}

#[test]
fn a_half_that_is_closed_meanwhile_stays_closed() {
    let mut rig = Rig::new(&connections(false));
    let client = rig.accept();
    let mut service = Service::new(rig.open());
    rig.receive(client, b"last words");
    rig.end(client);
    service.answers(&mut rig, PASS, b"0");
    let origin = rig.open();
    assert_eq!(rig.text(origin), "last words");
    assert!(rig.take_actions().contains(&Action::ShutdownWrite(origin)));
}

#[test]
fn a_connection_that_may_not_pass_is_closed() {
    type Case = (&'static str, fn(&mut Rig, ConnKey));
    let cases: [Case; 4] = [
        ("denied", |rig, conn| {
            opened(rig, conn);
            Service::new(conn).answers(rig, DENY, b"0");
        }),
        ("error", |rig, conn| {
            opened(rig, conn);
            Service::new(conn).answers(rig, PASS, b"14");
        }),
        ("slow", |rig, conn| {
            opened(rig, conn);
            rig.pass(TIMEOUT);
        }),
        ("dead", |rig, conn| {
            rig.engine.failed(conn, "refused");
            rig.work();
        }),
    ];
    for (name, fail) in cases {
        for allows_on_failure in [false, true] {
            let mut rig = Rig::new(&connections(allows_on_failure));
            let client = rig.accept();
            rig.receive(client, b"hello?");
            let conn = rig.connecting();
            fail(&mut rig, conn);
            let passes = allows_on_failure && name != "denied";
            let actions = rig.take_actions();
            assert_eq!(actions.contains(&Action::Close(client)), !passes, "{name}");
            assert_eq!(actions.iter().any(|action| matches!(action, Action::Connect(..))), passes, "{name}");
            let expected = (u64::from(name == "denied"), u64::from(name != "denied"), u64::from(!passes));
            let counted = ["denied", "error", "cx_closed"].map(|counter| connection_count(&rig, counter));
            assert_eq!(counted, [expected.0, expected.1, expected.2], "{name}");
        }
    }
}

#[test]
fn a_connection_that_goes_is_asked_about_no_more() {
    let mut rig = Rig::new(&connections(false));
    let client = rig.accept();
    rig.open();
    rig.engine.failed(client, "reset");
    rig.work();
    settled(&rig);
    assert_eq!(connection_count(&rig, "active"), 0);
    assert_eq!(rig.engine.downstream_connections(), 0);
}
