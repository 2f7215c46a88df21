//! Requests, responses and windows between our two ends.

use super::*;
use crate::{Known, Method};

/// Moves what one end has written to the other.
fn pump(from: &mut Connection, to: &mut Connection) -> Vec<String> {
    feed(to, &drain(from)).unwrap()
}

fn pair() -> (Connection, Connection) {
    let mut client = Connection::new(Config::new(Role::Client));
    let mut server = Connection::new(Config::new(Role::Server));
    pump(&mut client, &mut server);
    pump(&mut server, &mut client);
    pump(&mut client, &mut server);
    (client, server)
}

fn post() -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"POST");
    head.set_path(b"/upload");
    head.set_authority(b"shop");
    head
}

#[test]
fn a_request_and_its_answer_leave_nothing_behind() {
    let (mut client, mut server) = pair();
    let stream = client.open(&post(), false, 7).unwrap();
    assert_eq!(client.send_data(stream, b"hello", true), Ok(5));
    let events = pump(&mut client, &mut server);
    assert!(events[0].starts_with("Request { stream: StreamId(1), end_stream: false"), "{events:?}");
    server.release(stream, 5);
    let mut head = ResponseHead { status: 103, ..ResponseHead::default() };
    server.send_response(stream, &head, false).unwrap();
    head.status = 200;
    head.headers.append_known(Known::ContentLength, b"2");
    server.send_response(stream, &head, false).unwrap();
    server.send_data(stream, b"ok", false).unwrap();
    let mut trailers = Headers::new();
    trailers.append(b"grpc-status", b"0");
    server.send_trailers(stream, &trailers).unwrap();
    let events = pump(&mut server, &mut client);
    assert_eq!(events.last().unwrap(), "Trailers { stream: StreamId(1), tag: 7 }");
    assert_eq!(events.len(), 4);
    assert_eq!((client.active_streams(), server.active_streams()), (0, 0));
    assert_eq!(server.send_data(stream, b"x", false), Err(StreamGone));
}

#[test]
fn windows_hold_the_sender_and_a_reset_gives_them_back() {
    let (mut client, mut server) = pair();
    let body = vec![0; 2 << 20];
    for round in 0..20 {
        let stream = client.open(&post(), false, round).unwrap();
        assert_eq!(client.send_data(stream, &body, true), Ok(256 * 1024));
        assert_eq!(client.send_capacity(stream), 0);
        pump(&mut client, &mut server);
        if round % 2 == 0 {
            server.reset(stream, ErrorCode::CANCEL);
            server.release(stream, 256 * 1024);
        } else {
            client.reset(stream, ErrorCode::CANCEL);
            pump(&mut client, &mut server);
        }
        pump(&mut server, &mut client);
    }
    assert_eq!(server.recv_window + server.to_announce as i32, 1024 * 1024);
    assert_eq!((client.active_streams(), server.active_streams()), (0, 0));
}

/// A slow consumer of a large frame gives back in few frames, or its peer would count a flood.
#[test]
fn octets_that_are_taken_one_by_one_are_not_given_back_one_by_one() {
    let (mut client, mut server) = pair();
    let streams: Vec<StreamId> = (0..5).map(|tag| client.open(&post(), false, tag).unwrap()).collect();
    let sent: usize =
        streams.iter().map(|stream| client.send_data(*stream, &vec![0; 256 * 1024], false).unwrap()).sum();
    assert_eq!((sent, client.send_capacity(streams[4])), (1024 * 1024, 0));
    pump(&mut client, &mut server);
    for _ in 0..100_000 {
        server.release(streams[0], 1);
    }
    assert!(server.queued_frames() < 20, "{}", server.queued_frames());
    pump(&mut server, &mut client);
    assert!(client.send_window >= 50_000, "no batch of half a window had come together");
}

/// Both ends have reset the stream: what still comes on it breaks the rules (h2spec 5.1).
#[test]
fn data_behind_resets_that_crossed_is_refused() {
    let (mut connection, _) = server();
    feed(&mut connection, &frame(1, 4, 1, POST)).unwrap();
    connection.reset(StreamId(1), ErrorCode::NO_ERROR);
    drain(&mut connection);
    feed(&mut connection, &frame(0, 0, 1, b"on its way")).unwrap();
    assert_eq!(drain(&mut connection), b"");
    feed(&mut connection, &frame(3, 0, 1, &[0, 0, 0, 8])).unwrap();
    feed(&mut connection, &frame(0, 0, 1, b"too late")).unwrap();
    assert_eq!(drain(&mut connection), frame(3, 0, 1, &ErrorCode::STREAM_CLOSED.0.to_be_bytes()));
}

#[test]
fn a_smaller_initial_window_makes_windows_negative() {
    let (mut connection, _) = server();
    feed(&mut connection, &frame(1, 5, 1, GET)).unwrap();
    connection.send_response(StreamId(1), &ResponseHead { status: 200, ..Default::default() }, false).unwrap();
    assert_eq!(connection.send_data(StreamId(1), &[0; 60_000], false), Ok(60_000));
    feed(&mut connection, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    assert_eq!(connection.send_capacity(StreamId(1)), 0);
    feed(&mut connection, &frame(8, 0, 1, &60_001_u32.to_be_bytes())).unwrap();
    assert_eq!(connection.send_capacity(StreamId(1)), 1);
}

#[test]
fn go_away_returns_what_was_not_processed() {
    let (mut client, _) = pair();
    for tag in 1..=3 {
        client.open(&post(), true, tag).unwrap();
    }
    let events = feed(&mut client, &frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).unwrap();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[1].contains("tag: 2, code: REFUSED_STREAM"), "{events:?}");
    assert_eq!(client.active_streams(), 1);
    assert_eq!(client.open(&post(), true, 4), Err(OpenError::Closing));
}

#[test]
fn host_becomes_authority_and_may_not_disagree() {
    let (mut connection, mut scratch) = server();
    let host = |name: &[u8]| [&[0x0f, 23, name.len() as u8][..], name].concat();
    let good = frame(1, 5, 1, &[GET, &host(b"shop")].concat());
    assert!(matches!(connection.receive(&mut &good[..], &mut scratch), Ok(Some(Event::Request { .. }))));
    assert_eq!((scratch.request.authority(), scratch.request.headers.len()), (&b"shop"[..], 0));
    let bad = frame(1, 5, 3, &[GET, &[0x01, 1, b'a'], &host(b"b")].concat());
    let told = vec![r#"Malformed { fault: "http2.invalid.header.field" }"#.to_owned()];
    assert_eq!(feed(&mut connection, &bad), Ok(told));
    assert!(drain(&mut connection).ends_with(&frame(3, 0, 3, &[0, 0, 0, 1])));
}

/// A literal field that is not indexed, without Huffman's code.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

#[test]
fn te_goes_on_as_the_one_word_that_it_may_be() {
    let (mut connection, mut scratch) = server();
    let octets = frame(1, 5, 1, &[GET, &literal(b"te", b"TRAILERS")].concat());
    assert!(connection.receive(&mut &octets[..], &mut scratch).unwrap().is_some());
    assert_eq!(scratch.request.headers.get_known(Known::Te), Some(&b"trailers"[..]));
}

#[test]
fn trailers_that_come_too_late_cost_the_stream() {
    for (name, value) in [("authorization", "b"), ("content-type", "b"), ("content-length", "0"), ("trailer", "b")] {
        let (mut connection, _) = server();
        let octets = [frame(1, 4, 1, POST), frame(1, 5, 1, &literal(name.as_bytes(), value.as_bytes()))].concat();
        let events = feed(&mut connection, &octets).unwrap();
        assert!(events[1].starts_with("Reset") && events[1].contains("fault: Some("), "{name}: {events:?}");
    }
}

#[test]
fn cookie_crumbs_are_joined() {
    let (mut connection, mut scratch) = server();
    let block = [GET, &[0x0f, 17, 3], b"a=1", &[0x0f, 17, 3], b"b=2"].concat();
    connection.receive(&mut &frame(1, 5, 1, &block)[..], &mut scratch).unwrap();
    assert_eq!(scratch.request.headers.get_known(Known::Cookie), Some(&b"a=1; b=2"[..]));
}

#[test]
fn an_upgrade_is_said_by_extended_connect() {
    let offer = Config { enable_connect_protocol: true, ..Config::new(Role::Server) };
    let (mut client, mut server) = (Connection::new(Config::new(Role::Client)), Connection::new(offer));
    let mut head = RequestHead::default();
    head.set_path(b"/chat");
    head.set_authority(b"shop");
    head.set_protocol(b"websocket");
    assert_eq!(client.open(&head, false, 1), Err(OpenError::ConnectProtocolUnsupported));
    assert!(!client.knows_peer());
    pump(&mut server, &mut client);
    assert!(client.knows_peer());
    let stream = client.open(&head, false, 1).unwrap();
    let (octets, mut scratch) = (drain(&mut client), Scratch::default());
    let mut input = octets.as_slice();
    while let Some(event) = server.receive(&mut input, &mut scratch).unwrap() {
        assert!(
            matches!(event, Event::SettingsChanged | Event::Request { .. } | Event::WindowOpened { .. }),
            "{event:?}"
        );
    }
    assert_eq!((scratch.request.method, scratch.request.protocol()), (Method::Connect, &b"websocket"[..]));
    // What HTTP/1.1 says by 101.
    server.send_response(stream, &ResponseHead { status: 101, ..ResponseHead::default() }, false).unwrap();
    let octets = drain(&mut server);
    let mut input = octets.as_slice();
    while client.receive(&mut input, &mut scratch).unwrap().is_some() {}
    assert_eq!(scratch.response.status, 200);
}

#[test]
fn connect_has_no_content() {
    for (length, is_good) in [("0", true), ("3", false)] {
        let (mut client, mut server) = pair();
        let mut head = RequestHead::default();
        head.set_method(b"CONNECT");
        head.set_authority(b"shop:80");
        head.headers.append_known(Known::ContentLength, length.as_bytes());
        client.open(&head, false, 0).unwrap();
        let events = pump(&mut client, &mut server);
        assert_eq!(events.iter().any(|event| event.starts_with("Request")), is_good, "{events:?}");
    }
}

/// A stream that nobody takes holds no more than it began with; one that is taken gets room.
#[test]
fn a_window_grows_by_what_is_taken() {
    let limits = Limits { stream_window: 65_535, stream_window_most: 256 * 1024, ..Limits::default() };
    let mut client = Connection::new(Config { limits, ..Config::new(Role::Client) });
    let mut server = Connection::new(Config::new(Role::Server));
    pump(&mut client, &mut server);
    pump(&mut server, &mut client);
    pump(&mut client, &mut server);
    let stream = client.open(&post(), true, 1).unwrap();
    pump(&mut client, &mut server);
    server.send_response(stream, &ResponseHead { status: 200, ..ResponseHead::default() }, false).unwrap();
    let mut held = Vec::new();
    for _ in 0..6 {
        let sent = server.send_data(stream, &vec![0; 1 << 20], false).unwrap();
        held.push(sent);
        pump(&mut server, &mut client);
        assert_eq!(server.send_capacity(stream), 0);
        client.release(stream, sent);
        pump(&mut client, &mut server);
    }
    assert_eq!(held, [65_535, 131_070, 262_140, 262_144, 262_144, 262_144]);
}
