//! Corners of a message by hand: interim answers, names as they were spelled, time limits, gRPC-Web.

use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::Action;
use pymesh_model::cluster::UpstreamHttp;
use pymesh_model::filter::{FilterId, FilterKind, HttpFilter};
use pymesh_model::http::HeaderCase;
use pymesh_model::route::{GrpcTimeout, StreamDuration};

use super::rig::{Rig, Setup};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[test]
fn an_interim_answer_passes_if_it_may() {
    for proxy_100_continue in [true, false] {
        let mut rig = Rig::new(&Setup { proxy_100_continue, ..Setup::default() });
        let client = rig.accept();
        rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
        let upstream = rig.open();
        assert_eq!(rig.text(upstream).contains("expect: 100-continue"), proxy_100_continue);
        assert_eq!(rig.text(client).contains("HTTP/1.1 100 "), !proxy_100_continue);
        rig.receive(upstream, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(rig.text(client), if proxy_100_continue { interim } else { "" });
        rig.receive(client, b"hi");
        rig.receive(upstream, OK);
        assert!(rig.text(client).ends_with("hello"));
    }
}

#[test]
fn interim_answers_do_not_pile_up() {
    let mut rig = Rig::new(&Setup { proxy_100_continue: true, buffer_limit: 256, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let upstream = rig.open();
    rig.blocked.push(client);
    for _ in 0..pymesh_http::Limits::default().interim_responses {
        rig.receive(upstream, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    }
    assert!(rig.engine.census().largest_output < 512);
    rig.receive(upstream, OK);
    rig.unblock(client);
    assert!(rig.text(client).ends_with("hello"));
}

#[test]
fn names_are_written_as_they_came() {
    let upstream = UpstreamHttp { header_case: HeaderCase::Preserve, ..UpstreamHttp::default() };
    let mut rig = Rig::new(&Setup { header_case: HeaderCase::Preserve, upstream, ..Setup::default() });
    let client = rig.accept();
    // The second request has nothing of the first one's spelling.
    for (name, spelled) in [("HOST: a\r\nX-One", "HOST: a\r\nX-One"), ("Host: a\r\nx-ONE", "Host: a\r\nx-ONE")] {
        rig.receive(client, format!("GET / HTTP/1.1\r\n{name}: 1\r\n\r\n").as_bytes());
        let upstream = rig.open_or_reuse();
        let asked = rig.text(upstream);
        assert!(asked.starts_with(&format!("GET / HTTP/1.1\r\n{spelled}: 1\r\nx-forwarded-proto")), "{asked}");
        rig.receive(upstream, b"HTTP/1.1 200 OK\r\nCONTENT-length: 0\r\nX-Two: 2\r\n\r\n");
        let answer = rig.text(client);
        assert!(answer.contains("\r\nCONTENT-length: 0\r\n") && answer.contains("\r\nX-Two: 2\r\n"), "{answer}");
    }
}

#[test]
fn an_early_answer_ends_the_connection_of_a_request_that_goes_on() {
    let mut rig = Rig::new(&Setup::default());
    let client = rig.accept();
    rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nhello");
    let upstream = rig.open();
    rig.receive(upstream, OK);
    let answer = rig.text(client);
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("hello"), "{answer}");
    assert_eq!(rig.take_actions(), [Action::Close(upstream), Action::ShutdownWrite(client)]);
}

#[test]
fn a_stream_lasts_as_long_as_it_may() {
    let second = Duration::from_secs(1);
    let grpc = Some(GrpcTimeout { max: 5 * second, offset: second });
    for (stream, asked, seconds) in [
        (StreamDuration { max: Some(3 * second), grpc: None }, "", 3),
        (StreamDuration { max: Some(3 * second), grpc }, "grpc-timeout: 3S\r\n", 2),
        (StreamDuration { max: Some(3 * second), grpc }, "grpc-timeout: 1H\r\n", 4),
        (StreamDuration { max: None, grpc }, "grpc-timeout: 1S\r\n", 0),
    ] {
        let mut rig = Rig::new(&Setup { stream, ..Setup::default() });
        let client = rig.accept();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n{asked}\r\n");
        rig.receive(client, head.as_bytes());
        rig.open();
        rig.pass(Duration::from_millis(seconds * 1000 - u64::from(seconds > 0)));
        if seconds > 0 {
            assert_eq!(rig.text(client), "", "{stream:?}");
        }
        rig.pass(Duration::from_millis(2));
        let answer = rig.text(client);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\ngrpc-status: 4\r\n"), "{answer}");
    }
}

#[test]
fn an_upstream_that_keeps_the_same_deadline_does_not_get_ahead_of_it() {
    let grpc = Some(GrpcTimeout { max: Duration::ZERO, offset: Duration::ZERO });
    for (milliseconds, status) in [(9, 14), (10, 4)] {
        let mut rig = Rig::new(&Setup { stream: StreamDuration { max: None, grpc }, ..Setup::default() });
        let client = rig.accept();
        let fields = "content-type: application/grpc\r\ngrpc-timeout: 10m\r\n";
        rig.receive(client, format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        let upstream = rig.open();
        rig.oversleep(Duration::from_millis(milliseconds));
        rig.end(upstream);
        let answer = rig.text(client);
        assert!(answer.contains(&format!("\r\ngrpc-status: {status}\r\n")), "{answer}");
    }
}

#[test]
fn grpc_web_of_any_length_waits_for_its_reader() {
    let filter = HttpFilter {
        name: "grpc-web".into(),
        id: FilterId::of("grpc-web"),
        disabled: false,
        kind: FilterKind::GrpcWeb,
    };
    let mut rig = Rig::new(&Setup { filters: vec![Arc::new(filter)], buffer_limit: 64 * 1024, ..Setup::default() });
    let client = rig.accept();
    let fields = "content-type: application/grpc-web-text\r\naccept: application/grpc-web-text\r\n";
    rig.receive(client, format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}content-length: 8\r\n\r\nAAAA").as_bytes());
    let upstream = rig.open();
    rig.receive(client, b"AAA=");
    let asked = rig.written(upstream);
    let asked = String::from_utf8_lossy(&asked).into_owned();
    assert!(asked.contains("content-type: application/grpc\r\n") && asked.contains("te: trailers\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n3\r\n\0\0\0\r\n2\r\n\0\0\r\n0\r\n\r\n"), "{asked:?}");
    rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n");
    rig.blocked.push(client);
    let piece = [b"4000\r\n", [0u8; 0x4000].as_slice(), b"\r\n"].concat();
    let mut sent = 0;
    while rig.engine.wants_read(upstream) {
        rig.receive(upstream, &piece);
        sent += 0x4000;
        assert!(sent < 1 << 20, "nothing holds it back");
    }
    assert!(rig.engine.census().largest_body < 256 * 1024);
    rig.unblock(client);
    rig.receive(upstream, b"0\r\ngrpc-status: 0\r\n\r\n");
    let answer = rig.text(client);
    assert!(answer.contains("content-type: application/grpc-web-text+proto\r\n"));
    assert!(answer.ends_with("\r\n0\r\n\r\n") && !answer.contains("grpc-status:"), "the trailers are in the body");
    assert!(answer.len() > sent * 4 / 3);
}
