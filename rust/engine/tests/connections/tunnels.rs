//! Tunnels by hand, in every combination of the two versions and TCP: what opens them, what goes through, how they end.

use std::time::Duration;

use pymesh_engine::{Action, ConnKey};
use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::{Known, Method, RequestHead, ResponseHead};
use pymesh_model::cluster::{UpstreamHttp, UpstreamProtocol};
use pymesh_model::route::{PathMatch, Upgrade};

use super::rig::{upgrade, Rig, Setup};

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const CONNECT: &[u8] = b"CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn websocket(protocol: UpstreamProtocol) -> Setup {
    let upstream = UpstreamHttp { protocol, ..UpstreamHttp::default() };
    Setup { upgrades: vec![upgrade("websocket")], upstream, ..Setup::default() }
}

fn connect(protocol: UpstreamProtocol, terminates: bool) -> Setup {
    let rule = Upgrade { terminates, ..upgrade("connect") };
    Setup { route_upgrades: vec![rule], path: PathMatch::Connect, ..websocket(protocol) }
}

/// The other end of an HTTP/2 connection, and what has come over it.
struct Peer {
    codec: Connection,
    key: ConnKey,
    requests: Vec<(StreamId, RequestHead)>,
    answers: Vec<(ResponseHead, bool)>,
    data: Vec<u8>,
    ended: bool,
    reset: Option<ErrorCode>,
}

impl Peer {
    fn new(role: Role, enable_connect_protocol: bool, key: ConnKey) -> Peer {
        let codec = Connection::new(Config { enable_connect_protocol, ..Config::new(role) });
        let (requests, answers, data) = (Vec::new(), Vec::new(), Vec::new());
        Peer { codec, key, requests, answers, data, ended: false, reset: None }
    }

    /// Passes octets on, both ways, until there are no more.
    fn talk(&mut self, rig: &mut Rig) {
        loop {
            let heard = rig.written(self.key);
            let (mut input, mut scratch) = (heard.as_slice(), Scratch::default());
            while let Some(event) = self.codec.receive(&mut input, &mut scratch).unwrap() {
                match event {
                    Event::Request { stream, .. } => self.requests.push((stream, scratch.request.clone())),
                    Event::Response { end_stream, .. } => self.answers.push((scratch.response.clone(), end_stream)),
                    Event::Data { stream, data, end_stream, .. } => {
                        self.data.extend(data);
                        self.ended |= end_stream;
                        self.codec.release(stream, data.len());
                    }
                    Event::Reset { code, .. } => self.reset = Some(code),
                    _ => {}
                }
            }
            let said = self.codec.output().to_vec();
            self.codec.advance_output(said.len());
            if heard.is_empty() && said.is_empty() {
                return;
            }
            rig.receive(self.key, &said);
        }
    }

    fn say(&mut self, rig: &mut Rig, stream: StreamId, octets: &[u8], end: bool) {
        assert_eq!(self.codec.send_data(stream, octets, end), Ok(octets.len()));
        self.talk(rig);
    }

    fn ask_for_websocket(&mut self, rig: &mut Rig) -> StreamId {
        let mut head = RequestHead::default();
        head.set_method(b"CONNECT");
        head.set_protocol(b"websocket");
        head.set_authority(b"a");
        head.set_path(b"/chat");
        self.talk(rig);
        let stream = self.codec.open(&head, false, 0).unwrap();
        self.talk(rig);
        stream
    }
}

fn client(rig: &mut Rig) -> Peer {
    let key = rig.accept();
    Peer::new(Role::Client, false, key)
}

fn assert_over(mut rig: Rig) {
    rig.pass(Duration::from_secs(2 * 3600));
    assert!(rig.engine.census().is_empty(), "{:?}", rig.engine.census());
}

#[test]
fn http1_to_http1_both_halves() {
    let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
    let client = rig.accept();
    rig.receive(client, &[ASK, b"early"].concat());
    let upstream = rig.open();
    let asked = rig.text(upstream);
    assert!(asked.contains("upgrade: websocket\r\n") && asked.ends_with("\r\n\r\n"), "{asked}");
    rig.receive(upstream, &[AGREE, b"at once"].concat());
    let answer = rig.text(client);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nat once"), "{answer}");
    assert_eq!(rig.text(upstream), "early");
    rig.receive(client, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(rig.text(upstream), "GET / HTTP/1.1\r\n\r\n");
    rig.end(client);
    assert_eq!(rig.take_actions(), [Action::ShutdownWrite(upstream)]);
    rig.receive(upstream, b"last");
    assert_eq!(rig.text(client), "last");
    rig.end(upstream);
    let actions = rig.take_actions();
    assert!(actions.contains(&Action::Close(client)) && actions.contains(&Action::Close(upstream)), "{actions:?}");
    assert_over(rig);
}

#[test]
fn nothing_goes_through_before_the_answer() {
    for answer in [OK, b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nhello"] {
        for setup in [websocket(UpstreamProtocol::Http1), connect(UpstreamProtocol::Http1, false)] {
            let is_connect = !setup.route_upgrades.is_empty();
            if is_connect && answer == OK {
                continue;
            }
            let mut rig = Rig::new(&setup);
            let client = rig.accept();
            rig.receive(client, if is_connect { CONNECT } else { ASK });
            let upstream = rig.open();
            rig.receive(client, b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
            assert!(!rig.text(upstream).contains("smuggled"));
            rig.receive(upstream, answer);
            assert!(rig.text(client).ends_with("connection: close\r\n\r\nhello"));
            assert_eq!(rig.text(upstream), "", "what stood behind the request is void");
            assert_eq!(rig.take_actions(), [Action::Close(upstream), Action::ShutdownWrite(client)]);
            assert_over(rig);
        }
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_an_error() {
    let other = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
    for (request, answer) in [(&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], AGREE), (ASK, other)] {
        let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
        let client = rig.accept();
        rig.receive(client, request);
        let upstream = rig.open();
        rig.receive(upstream, answer);
        assert!(rig.text(client).starts_with("HTTP/1.1 502 "));
        assert!(rig.take_actions().contains(&Action::Close(upstream)));
        assert_over(rig);
    }
}

#[test]
fn content_goes_before_the_tunnel() {
    let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
    let client = rig.accept();
    let ask = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nhi";
    rig.receive(client, &[&ask[..], b"early"].concat());
    let upstream = rig.open();
    assert!(rig.text(upstream).ends_with("content-length: 2\r\n\r\nhi"));
    rig.receive(upstream, AGREE);
    assert_eq!(rig.text(upstream), "early");
    rig.receive(upstream, b"late");
    assert!(rig.text(client).ends_with("\r\n\r\nlate"));
    rig.engine.failed(client, "reset");
    rig.work();
    assert_over(rig);
}

#[test]
fn http2_to_http1() {
    let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
    let mut peer = client(&mut rig);
    let stream = peer.ask_for_websocket(&mut rig);
    peer.say(&mut rig, stream, b"early", false);
    let upstream = rig.open();
    let asked = rig.text(upstream);
    assert!(asked.starts_with("GET /chat HTTP/1.1\r\n") && asked.contains("\r\nupgrade: websocket\r\n"), "{asked}");
    assert!(asked.contains("\r\nconnection: upgrade\r\n") && asked.ends_with("\r\n\r\n"), "{asked}");
    // The key is ours, and so is the check of its answer.
    let key = asked.split("sec-websocket-key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    rig.receive(upstream, &agree_to(key));
    peer.talk(&mut rig);
    let (answer, ended) = &peer.answers[0];
    assert_eq!((answer.status, *ended), (200, false));
    assert!(answer.headers.get(b"sec-websocket-accept").is_none() && !answer.headers.contains_known(Known::Upgrade));
    assert_eq!(rig.text(upstream), "early");
    rig.receive(upstream, b"hello");
    peer.talk(&mut rig);
    assert_eq!(peer.data, b"hello");
    peer.say(&mut rig, stream, b"bye", true);
    assert_eq!(rig.text(upstream), "bye");
    assert_eq!(rig.take_actions(), [Action::ShutdownWrite(upstream)]);
    rig.end(upstream);
    peer.talk(&mut rig);
    assert!(peer.ended && peer.reset.is_none());
    assert_over(rig);
}

/// What a server of RFC 6455 says to this key.
fn agree_to(key: &str) -> Vec<u8> {
    let hash = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    let accept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    let head = String::from_utf8(AGREE[..AGREE.len() - 2].to_vec()).unwrap();
    format!("{head}sec-websocket-accept: {accept}\r\n\r\n").into_bytes()
}

#[test]
fn http2_is_told_of_no_agreement_that_there_was_not() {
    let wrong = [&AGREE[..AGREE.len() - 2], b"sec-websocket-accept: x\r\n\r\n"].concat();
    for answer in [OK, &wrong] {
        let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
        let mut peer = client(&mut rig);
        peer.ask_for_websocket(&mut rig);
        let upstream = rig.open();
        rig.receive(upstream, answer);
        peer.talk(&mut rig);
        assert_eq!(peer.answers[0].0.status, 502);
        assert_over(rig);
    }
}

#[test]
fn http1_to_http2_waits_for_the_offer() {
    for is_offered in [true, false] {
        let mut rig = Rig::new(&websocket(UpstreamProtocol::Http2));
        let client = rig.accept();
        rig.receive(client, ASK);
        let upstream = rig.open();
        let mut server = Peer::new(Role::Server, is_offered, upstream);
        let preface = rig.written(upstream);
        let (mut input, mut scratch) = (preface.as_slice(), Scratch::default());
        while let Some(event) = server.codec.receive(&mut input, &mut scratch).unwrap() {
            assert!(!matches!(event, Event::Request { .. }), "before the settings of the server have come");
        }
        server.talk(&mut rig);
        if !is_offered {
            assert!(rig.text(client).starts_with("HTTP/1.1 503 ") && server.requests.is_empty());
            continue;
        }
        let (stream, head) = server.requests[0].clone();
        assert_eq!((head.method, head.protocol(), head.path()), (Method::Connect, &b"websocket"[..], &b"/chat"[..]));
        server.codec.send_response(stream, &ResponseHead { status: 200, ..ResponseHead::default() }, false).unwrap();
        server.talk(&mut rig);
        let answer = rig.text(client);
        let accept = format!("sec-websocket-accept: {}\r\n", String::from_utf8_lossy(ACCEPT));
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("\r\nupgrade: websocket\r\n"), "{answer}");
        assert!(answer.contains(&accept), "{answer}");
        rig.receive(client, b"ping");
        server.talk(&mut rig);
        assert_eq!(server.data, b"ping");
        server.say(&mut rig, stream, b"pong", true);
        assert_eq!(rig.text(client), "pong");
        assert_eq!(rig.take_actions(), [Action::ShutdownWrite(client)]);
        rig.end(client);
        server.talk(&mut rig);
        assert!(server.ended && server.reset.is_none());
        assert_eq!(rig.take_actions(), [Action::Close(client)], "the connection to the endpoint serves others");
    }
}

#[test]
fn http2_to_http2_and_a_reset_goes_through() {
    let mut rig = Rig::new(&websocket(UpstreamProtocol::Http2));
    let mut peer = client(&mut rig);
    peer.ask_for_websocket(&mut rig);
    let upstream = rig.open();
    let mut server = Peer::new(Role::Server, true, upstream);
    server.talk(&mut rig);
    let (stream, head) = server.requests[0].clone();
    assert_eq!(head.protocol(), b"websocket");
    server.codec.send_response(stream, &ResponseHead { status: 200, ..ResponseHead::default() }, false).unwrap();
    server.talk(&mut rig);
    peer.talk(&mut rig);
    assert_eq!(peer.answers[0].0.status, 200);
    server.codec.reset(stream, ErrorCode::CANCEL);
    server.talk(&mut rig);
    peer.talk(&mut rig);
    assert_eq!(peer.reset, Some(ErrorCode::CONNECT_ERROR));
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn connect_ends_here_or_is_passed_on() {
    for terminates in [true, false] {
        let mut rig = Rig::new(&connect(UpstreamProtocol::Http1, terminates));
        let client = rig.accept();
        rig.receive(client, &[CONNECT, b"early"].concat());
        let upstream = rig.open();
        if !terminates {
            assert!(rig.text(upstream).starts_with("CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n"));
            // What frames a message means nothing here.
            rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n");
        }
        let answer = rig.text(client);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(!answer.contains("content-length") && !answer.contains("connection:"), "{answer}");
        assert_eq!(rig.text(upstream), "early");
        rig.receive(upstream, b"hello");
        assert_eq!(rig.text(client), "hello");
        rig.end(upstream);
        assert_eq!(rig.take_actions(), [Action::ShutdownWrite(client)]);
        rig.receive(client, b"more");
        assert_eq!(rig.text(upstream), "more");
        rig.end(client);
        assert_over(rig);
    }
}

#[test]
fn connect_over_http2_ends_here() {
    let mut rig = Rig::new(&connect(UpstreamProtocol::Http2, true));
    let mut peer = client(&mut rig);
    let mut head = RequestHead::default();
    head.set_method(b"CONNECT");
    head.set_authority(b"db:5432");
    let stream = peer.codec.open(&head, false, 0).unwrap();
    peer.talk(&mut rig);
    let upstream = rig.open();
    peer.talk(&mut rig);
    assert_eq!(peer.answers[0].0.status, 200);
    peer.say(&mut rig, stream, b"raw", false);
    assert_eq!(rig.text(upstream), "raw");
    rig.engine.failed(upstream, "reset");
    rig.work();
    peer.talk(&mut rig);
    assert_eq!(peer.reset, Some(ErrorCode::CONNECT_ERROR));
}

#[test]
fn connect_to_nobody_is_answered() {
    let mut rig = Rig::new(&connect(UpstreamProtocol::Http1, true));
    let client = rig.accept();
    rig.receive(client, CONNECT);
    let upstream = rig.connecting();
    rig.engine.failed(upstream, "refused");
    rig.work();
    assert!(rig.text(client).starts_with("HTTP/1.1 503 "));
    assert_over(rig);
}

#[test]
fn who_may_ask() {
    let off = Upgrade { enabled: false, ..upgrade("websocket") };
    let foo = upgrade("foo");
    for (manager, route, may) in [
        (vec![], vec![], false),
        (vec![upgrade("websocket")], vec![], true),
        (vec![], vec![upgrade("websocket")], true),
        (vec![upgrade("websocket")], vec![off], false),
        (vec![upgrade("websocket")], vec![foo.clone()], true),
        (vec![foo], vec![], false),
    ] {
        let mut rig = Rig::new(&Setup { upgrades: manager, route_upgrades: route, ..Setup::default() });
        let client = rig.accept();
        rig.receive(client, ASK);
        match may {
            true => drop(rig.connecting()),
            false => assert!(rig.text(client).starts_with("HTTP/1.1 403 ")),
        }
    }
}

#[test]
fn a_slow_reader_holds_the_other_end_back() {
    let piece = [b'x'; 16 * 1024];
    let setup = Setup { buffer_limit: 64 * 1024, ..websocket(UpstreamProtocol::Http1) };
    for client_is_slow in [true, false] {
        let mut rig = Rig::new(&setup);
        let client = rig.accept();
        rig.receive(client, ASK);
        let upstream = rig.open();
        rig.receive(upstream, AGREE);
        let (slow, fast) = if client_is_slow { (client, upstream) } else { (upstream, client) };
        rig.written(slow);
        rig.blocked.push(slow);
        let mut sent = 0;
        while rig.engine.wants_read(fast) {
            rig.receive(fast, &piece);
            sent += piece.len();
            assert!(sent < 1 << 20, "nothing holds it back");
        }
        let census = rig.engine.census();
        assert!(census.largest_output < 128 * 1024 && census.largest_body < 128 * 1024, "{census:?}");
        rig.unblock(slow);
        assert!(rig.engine.wants_read(fast));
        assert_eq!(rig.written(slow).len(), sent);
    }
}

#[test]
fn a_silent_tunnel_is_closed() {
    let mut rig = Rig::new(&websocket(UpstreamProtocol::Http1));
    let client = rig.accept();
    rig.receive(client, ASK);
    let upstream = rig.open();
    rig.receive(upstream, AGREE);
    // Longer than the time of the route, which is for the asking.
    rig.pass(Duration::from_secs(200));
    rig.receive(client, b"still here");
    rig.pass(Duration::from_secs(200));
    assert_eq!(rig.take_actions(), []);
    rig.pass(Duration::from_secs(101));
    let actions = rig.take_actions();
    assert!(actions.contains(&Action::Close(client)) && actions.contains(&Action::Close(upstream)), "{actions:?}");
    assert_over(rig);
}
