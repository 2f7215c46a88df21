//! HTTP/1.1: where an answer ends, and what becomes of the connection.

use pymesh_load::{Kind, Protocol};

use crate::world::{ms, plan, request, World, KEPT, OK};

#[test]
fn answers_are_told_apart_however_they_are_framed_and_cut() {
    // (method, answer, body octets, the connection goes on)
    let answers: &[(&str, &str, u64, bool)] = &[
        ("GET", OK, 2, true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 0, true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", 0, true),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", 0, true),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx-t: 1\r\n\r\n", 3, true),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n",
            0,
            true,
        ),
        ("GET", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx", 1, false),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 1, false),
        ("GET", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx", 1, true),
    ];
    for (method, answer, body, goes_on) in answers {
        for size in [1, 2, 7, 1000] {
            let mut plan = plan(KEPT, 2);
            plan.requests = vec![request(KEPT, method, b"")].into();
            let mut world = World::new(plan);
            for piece in answer.as_bytes().chunks(size) {
                assert_eq!(world.tally().answered(), 0, "{answer} in pieces of {size}");
                world.say(0, piece);
            }
            assert_eq!((world.tally().answered(), world.tally().failed()), (1, 0), "{answer} in pieces of {size}");
            assert_eq!(world.tally().body_octets, *body, "{answer}");
            assert_eq!(world.wires[&0].opened, if *goes_on { 1 } else { 2 }, "{answer}");
        }
    }
}

#[test]
fn a_request_is_sent_when_the_one_before_it_is_answered_and_not_earlier() {
    let mut world = World::new(plan(KEPT, 3));
    for number in 0..3 {
        assert_eq!(world.heard(0), b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n", "{number}");
        world.wait(ms(5));
        assert_eq!(world.heard(0), b"", "never pipelined");
        world.say(0, OK);
    }
    assert!(world.client.is_done());
    assert_eq!(world.tally().begun, 3);
    assert_eq!(world.tally().window, ms(15));
    assert_eq!(world.tally().connections.opened, 1);
}

#[test]
fn an_answer_until_the_end_of_the_connection_is_whole_when_it_ends() {
    let mut world = World::new(plan(KEPT, 2));
    world.say(0, "HTTP/1.1 200 OK\r\n\r\nsome octets");
    assert_eq!(world.tally().answered(), 0);
    world.close(0);
    assert_eq!((world.tally().answered(), world.tally().body_octets), (1, 11));
    assert_eq!(world.tally().connections.closed_by_target, 0, "that was its answer's end");
    assert_eq!(world.wires[&0].opened, 2);
}

#[test]
fn failures_are_told_apart() {
    let run = |what: &dyn Fn(&mut World)| {
        let mut world = World::new(plan(KEPT, 1));
        what(&mut world);
        let failed: Vec<_> = Kind::ALL.into_iter().filter(|kind| world.failures(*kind) > 0).collect();
        assert_eq!(failed.len(), 1, "one kind, once");
        assert_eq!((world.tally().failed(), world.tally().answered()), (1, 0));
        assert!(world.client.is_done());
        let why = world.tally().failures(failed[0]).examples.clone();
        (failed[0], why.join(";"))
    };
    let now = |world: &World| world.time();
    let closed = |text: &str| (Kind::Closed, text.to_owned());
    assert_eq!(run(&|world| world.close(0)), closed("the connection was closed without an answer"));
    let within = "the connection was closed within the answer";
    for part in ["HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"] {
        let cut = |world: &mut World| {
            world.say(0, part);
            world.close(0);
        };
        assert_eq!(run(&cut), closed(within), "{part}");
    }
    let reset = |world: &mut World| world.client.failed(0, "connection reset by peer", now(world));
    assert_eq!(run(&reset), (Kind::Reset, "connection reset by peer".to_owned()));
    for (answer, reason) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", "http1.codec_error"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "http1.unexpected_upgrade"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "http1.invalid_chunk_size"),
    ] {
        assert_eq!(run(&|world| world.say(0, answer)), (Kind::Protocol, reason.to_owned()), "{answer}");
    }
    let interims = "HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    let (kind, why) = run(&|world| world.say(0, &interims));
    assert_eq!((kind, why.as_str()), (Kind::Protocol, "too many interim responses"));
    let (kind, why) = run(&|world| world.wait(ms(10_200)));
    assert_eq!((kind, why.as_str()), (Kind::Timeout, "no answer in time"));
}

#[test]
fn a_request_that_times_out_takes_its_connection_with_it_and_counts_in_the_latencies() {
    let mut world = World::new(plan(KEPT, 2));
    world.wait(ms(10_100));
    assert_eq!(world.failures(Kind::Timeout), 1);
    assert_eq!(world.wires[&0].opened, 2, "what comes late must not answer the next request");
    assert!(world.tally().latency.max() >= 10_000_000_000);
    world.say(0, OK);
    assert_eq!((world.tally().answered(), world.tally().latency.len()), (1, 2));
    assert!(world.client.is_done());
}

#[test]
fn a_connection_that_is_closed_between_requests_fails_nothing() {
    let mut plan = plan(KEPT, 10);
    plan.pace = pymesh_load::Pace::Open { rate: 10.0, arrivals: pymesh_load::Arrivals::Constant };
    let mut world = World::new(plan);
    world.say(0, OK);
    world.close(0);
    assert_eq!(world.wires[&0].opened, 2);
    // Octets that nobody has asked for, as some servers send before they close.
    world.say(0, "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n");
    world.wait(ms(100));
    world.say(0, OK);
    assert_eq!((world.tally().answered(), world.tally().failed()), (2, 0));
    assert_eq!(world.tally().connections.closed_by_target, 1);
    assert_eq!(world.wires[&0].opened, 3);
}

#[test]
fn without_keep_alive_each_request_has_a_connection() {
    let mut world = World::new(plan(Protocol::Http1 { keep_alive: false }, 3));
    for _ in 0..3 {
        assert!(String::from_utf8(world.heard(0)).unwrap().ends_with("\r\nconnection: close\r\n\r\n"));
        world.say(0, OK);
    }
    assert!(world.client.is_done());
    assert_eq!((world.tally().answered(), world.wires[&0].opened), (3, 3));
}

#[test]
fn an_answer_before_the_whole_request_counts_and_ends_the_connection() {
    let mut plan = plan(KEPT, 2);
    plan.requests = vec![request(KEPT, "POST", &[b'x'; 100])].into();
    let mut world = World::connecting(plan);
    world.client.begin(world.time());
    world.client.advance(world.time());
    // The socket takes only a part of it.
    let part = world.client.output(0).len() / 2;
    world.client.sent(0, part);
    world.client.receive(0, b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n", world.time());
    world.work();
    assert_eq!(world.tally().statuses().into_iter().collect::<Vec<_>>(), [(413, 1)]);
    assert_eq!(world.wires[&0].opened, 2);
    assert!(world.heard(0).starts_with(b"POST / "), "the next request begins at its beginning");
}

#[test]
fn requests_take_turns() {
    let mut plan = plan(KEPT, 4);
    plan.requests = vec![request(KEPT, "GET", b""), request(KEPT, "HEAD", b"")].into();
    let mut world = World::new(plan);
    let mut methods = Vec::new();
    for _ in 0..4 {
        let heard = world.heard(0);
        methods.push(heard[0]);
        world.say(0, if heard[0] == b'H' { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" } else { OK });
    }
    assert_eq!(methods, b"GHGH");
    assert_eq!(world.tally().answered(), 4);
}
