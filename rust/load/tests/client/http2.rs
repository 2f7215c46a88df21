//! HTTP/2 against the server's side of the codec.

use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::ResponseHead;
use pymesh_load::{Kind, Plan, Protocol};

use crate::world::{ms, plan, request, World};

struct Target {
    connection: Connection,
    /// Requests that have come and are unanswered, in order.
    asked: Vec<StreamId>,
    resets: Vec<ErrorCode>,
    body_octets: usize,
    /// Requests that have come whole.
    whole: Vec<StreamId>,
}

impl Target {
    fn new(streams: u32) -> Target {
        let mut config = Config::new(Role::Server);
        config.limits.concurrent_streams = streams;
        Target {
            connection: Connection::new(config),
            asked: Vec::new(),
            resets: Vec::new(),
            body_octets: 0,
            whole: Vec::new(),
        }
    }

    /// Takes what the client has sent, says what there is to say, until both rest.
    fn exchange(&mut self, world: &mut World, at: usize) {
        let mut scratch = Scratch::default();
        loop {
            let heard = world.heard(at);
            let mut input = heard.as_slice();
            while let Some(event) = self.connection.receive(&mut input, &mut scratch).unwrap() {
                match event {
                    Event::Request { stream, end_stream } => {
                        self.asked.push(stream);
                        self.whole.extend(end_stream.then_some(stream));
                    }
                    Event::Data { stream, data, end_stream, .. } => {
                        self.body_octets += data.len();
                        self.whole.extend(end_stream.then_some(stream));
                        self.connection.release(stream, data.len());
                    }
                    Event::Reset { code, .. } => self.resets.push(code),
                    _ => {}
                }
            }
            let output = self.connection.output().to_vec();
            self.connection.advance_output(output.len());
            if output.is_empty() && heard.is_empty() {
                return;
            }
            if !output.is_empty() {
                world.say(at, output);
            }
        }
    }

    fn answer(&mut self, stream: StreamId) {
        let head = ResponseHead { status: 200, ..ResponseHead::default() };
        self.connection.send_response(stream, &head, false).unwrap();
        self.connection.send_data(stream, b"ok", true).unwrap();
    }
}

fn with(streams: usize, count: u64) -> Plan {
    Plan { streams, ..plan(Protocol::Http2, count) }
}

/// A world whose connection has seen the target's SETTINGS, with requests under way.
fn started(plan: Plan, allowed: u32) -> (World, Target) {
    let mut world = World::connecting(plan);
    assert!(!world.client.is_settled(), "SETTINGS have not come");
    let mut target = Target::new(allowed);
    target.exchange(&mut world, 0);
    assert!(world.client.is_settled());
    world.client.begin(world.time());
    world.work();
    target.exchange(&mut world, 0);
    (world, target)
}

#[test]
fn streams_share_a_connection_and_answers_may_come_in_any_order() {
    let (mut world, mut target) = started(with(4, 10), 100);
    assert_eq!(target.asked.len(), 4);
    while let Some(stream) = target.asked.pop() {
        world.wait(ms(1));
        target.answer(stream);
        target.exchange(&mut world, 0);
        assert!(target.asked.len() <= 4);
    }
    assert!(world.client.is_done());
    assert_eq!((world.tally().answered(), world.tally().body_octets), (10, 20));
    assert_eq!(world.tally().connections.opened, 1);
}

#[test]
fn no_more_streams_than_the_target_allows() {
    let (mut world, mut target) = started(with(10, 10), 3);
    assert_eq!(target.asked.len(), 3);
    for stream in std::mem::take(&mut target.asked) {
        target.answer(stream);
    }
    target.exchange(&mut world, 0);
    assert_eq!(target.asked.len(), 3);
    assert_eq!(world.tally().failed(), 0);
}

#[test]
fn what_a_goaway_leaves_behind_goes_to_the_next_connection_and_keeps_its_start() {
    let (mut world, mut target) = started(with(2, 4), 100);
    world.wait(ms(5));
    // The first stream was processed; the client's others cannot have been. The codec names the last that it knows.
    let first = target.asked[0];
    target.answer(first);
    target.exchange(&mut world, 0);
    let mut goaway = Vec::from([0, 0, 8, 7, 0, 0, 0, 0, 0]);
    goaway.extend_from_slice(&first.value().to_be_bytes());
    goaway.extend_from_slice(&[0; 4]);
    world.say(0, goaway);
    assert_eq!(world.tally().answered(), 1);
    assert_eq!((world.tally().resent, world.tally().failed()), (2, 0));
    assert_eq!(world.wires[&0].opened, 2, "a new connection");
    let mut target = Target::new(100);
    target.exchange(&mut world, 0);
    while let Some(stream) = target.asked.pop() {
        target.answer(stream);
        target.exchange(&mut world, 0);
    }
    assert!(world.client.is_done());
    assert_eq!((world.tally().answered(), world.tally().begun), (4, 4));
    // One of those that were sent again had started at time zero.
    assert!(world.tally().latency.max() >= 5_000_000);
    assert!(world.tally().service.max() <= 5_005_000);
}

#[test]
fn resets_are_told_apart() {
    let (mut world, mut target) = started(with(3, 3), 100);
    for (stream, code) in std::mem::take(&mut target.asked).into_iter().zip([
        ErrorCode::REFUSED_STREAM,
        ErrorCode::INTERNAL_ERROR,
        ErrorCode::NO_ERROR,
    ]) {
        target.connection.reset(stream, code);
    }
    target.exchange(&mut world, 0);
    assert_eq!((world.failures(Kind::Refused), world.failures(Kind::Reset)), (1, 2));
    assert!(world.client.is_done());
    assert_eq!(world.wires[&0].opened, 1, "the connection goes on");
}

#[test]
fn a_stream_that_times_out_is_cancelled_and_the_others_go_on() {
    let (mut world, mut target) = started(with(2, 3), 100);
    world.wait(ms(5_000));
    let answered = target.asked.remove(0);
    target.answer(answered);
    target.exchange(&mut world, 0);
    world.wait(ms(5_100));
    target.exchange(&mut world, 0);
    assert_eq!(target.resets, [ErrorCode::CANCEL]);
    assert_eq!(world.failures(Kind::Timeout), 1);
    target.answer(*target.asked.last().unwrap());
    target.exchange(&mut world, 0);
    assert_eq!(world.tally().answered(), 2);
    assert!(world.client.is_done());
    assert_eq!(world.wires[&0].opened, 1);
}

#[test]
fn bodies_flow_as_the_windows_allow() {
    let mut plan = with(4, 8);
    let body = vec![b'x'; 1_000_000];
    plan.requests = vec![request(Protocol::Http2, "POST", &body)].into();
    let (mut world, mut target) = started(plan, 100);
    while let Some(stream) = target.whole.pop() {
        target.answer(stream);
        target.exchange(&mut world, 0);
    }
    assert!(world.client.is_done());
    assert_eq!(world.tally().answered(), 8);
    assert_eq!(target.body_octets, 8 * body.len());
}

#[test]
fn a_target_that_does_not_speak_http2_is_told_apart() {
    let mut world = World::connecting(with(1, 1));
    world.say(0, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    assert!(world.client.is_settled());
    assert_eq!(world.client.ready(), 0);
    assert!(world.client.trouble().unwrap().starts_with("HTTP/2 connection error"), "{:?}", world.client.trouble());
}

#[test]
fn a_connection_that_breaks_fails_all_that_is_on_it() {
    let (mut world, _) = started(with(3, 3), 100);
    world.close(0);
    assert_eq!(world.failures(Kind::Closed), 3);
    assert!(world.client.is_done());
}
