//! Connections that are told to end: whoever asks on them gets an answer.

use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::{Action, ConnKey};
use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::RequestHead;
use pymesh_model::listener::{FilterChain, FilterChainMatch, FilterChains, Lineage};
use pymesh_model::Snapshot;

use super::rig::{snapshot, Rig, Setup};
use crate::{GET, OK};

const HIGHEST: u32 = 0x7FFF_FFFF;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP/2 client and what it has heard.
struct Client {
    codec: Connection,
    key: ConnKey,
    /// The last streams that GOAWAYs have named.
    last_streams: Vec<u32>,
    refused: Vec<StreamId>,
    answered: usize,
}

impl Client {
    fn new(rig: &mut Rig) -> Client {
        let codec = Connection::new(Config::new(Role::Client));
        let key = rig.accept();
        Client { codec, key, last_streams: vec![], refused: vec![], answered: 0 }
    }

    fn ask(&mut self) -> StreamId {
        let mut head = RequestHead::default();
        head.set_path(b"/");
        head.set_authority(b"a");
        self.codec.open(&head, true, 0).unwrap()
    }

    /// Sends what it has to say.
    fn say(&mut self, rig: &mut Rig) {
        let octets = self.codec.output().to_vec();
        self.codec.advance_output(octets.len());
        rig.receive(self.key, &octets);
    }

    /// Reads what has come.
    fn hear(&mut self, rig: &mut Rig) {
        let octets = rig.written(self.key);
        let (mut input, mut scratch) = (octets.as_slice(), Scratch::default());
        while let Some(event) = self.codec.receive(&mut input, &mut scratch).unwrap() {
            match event {
                Event::GoAway { last_stream, code } => {
                    assert_eq!(code, ErrorCode::NO_ERROR);
                    self.last_streams.push(last_stream.value());
                }
                Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, fault: None, .. } => self.refused.push(stream),
                Event::Data { end_stream: true, .. } => self.answered += 1,
                _ => {}
            }
        }
    }

    fn talk(&mut self, rig: &mut Rig) {
        self.say(rig);
        self.hear(rig);
    }
}

fn is_closed(rig: &mut Rig, key: ConnKey) -> bool {
    rig.take_actions().iter().any(|action| matches!(action, Action::ShutdownWrite(k) | Action::Close(k) if *k == key))
}

/// The same configuration with its listener changed.
fn changed(setup: &Setup) -> Arc<Snapshot> {
    snapshot(&Setup { buffer_limit: setup.buffer_limit + 1, ..setup.clone() })
}

#[test]
fn an_idle_http1_connection_is_answered_once_more_and_told() {
    let mut rig = Rig::new(&Setup::default());
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.receive(upstream, OK);
    assert!(!rig.text(client).contains("connection: close"));
    rig.engine.drain();
    rig.work();
    assert!(!is_closed(&mut rig, client), "a request may be on its way");
    rig.receive(client, GET);
    rig.receive(upstream, OK);
    assert!(rig.text(client).contains("connection: close\r\n"));
    assert!(is_closed(&mut rig, client));
}

#[test]
fn an_http1_connection_without_use_goes_after_the_drain_timeout() {
    let mut rig = Rig::new(&Setup::default());
    let (silent, late) = (rig.accept(), rig.accept());
    rig.engine.drain();
    rig.pass(DRAIN_TIMEOUT - Duration::from_secs(1));
    rig.receive(late, GET);
    let upstream = rig.open();
    rig.receive(upstream, OK);
    assert!(rig.text(late).contains("connection: close\r\n"));
    assert!(!is_closed(&mut rig, silent));
    rig.pass(Duration::from_secs(2));
    assert!(is_closed(&mut rig, silent));
}

#[test]
fn an_answer_that_was_under_way_could_not_say_close() {
    let mut rig = Rig::new(&Setup::default());
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    let (head, rest) = OK.split_at(OK.len() - 2);
    rig.receive(upstream, head);
    assert!(!rig.text(client).contains("connection: close"));
    rig.engine.drain();
    rig.receive(upstream, rest);
    assert!(!is_closed(&mut rig, client), "the client was told nothing and may ask again");
    rig.receive(client, GET);
    rig.receive(upstream, OK);
    assert!(rig.text(client).contains("connection: close\r\n"));
    assert!(is_closed(&mut rig, client));
}

#[test]
fn requests_pipelined_behind_a_drain_are_answered_up_to_the_close() {
    let mut rig = Rig::new(&Setup::default());
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.engine.drain();
    rig.receive(upstream, OK);
    let answer = rig.text(client);
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("hello"), "{answer}");
}

#[test]
fn http2_is_told_twice_a_round_trip_apart() {
    let mut rig = Rig::new(&Setup::default());
    let mut client = Client::new(&mut rig);
    client.talk(&mut rig);
    client.ask();
    rig.engine.drain();
    rig.work();
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST]);
    // Its request and the answer to the PING go out together.
    client.say(&mut rig);
    let upstream = rig.open();
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST, 1]);
    assert!(!is_closed(&mut rig, client.key));
    rig.receive(upstream, OK);
    client.hear(&mut rig);
    assert_eq!((client.answered, client.refused.len()), (1, 0));
    assert!(is_closed(&mut rig, client.key));
}

#[test]
fn an_http2_client_that_answers_no_ping_is_told_after_the_drain_timeout() {
    let mut rig = Rig::new(&Setup::default());
    let mut client = Client::new(&mut rig);
    client.talk(&mut rig);
    rig.engine.drain();
    rig.pass(DRAIN_TIMEOUT + Duration::from_secs(1));
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST, 0]);
    assert!(is_closed(&mut rig, client.key));
}

#[test]
fn a_stream_behind_the_last_goaway_is_refused_by_it() {
    let mut rig = Rig::new(&Setup::default());
    let mut client = Client::new(&mut rig);
    client.talk(&mut rig);
    client.ask();
    client.say(&mut rig);
    let upstream = rig.open();
    rig.engine.drain();
    rig.pass(DRAIN_TIMEOUT + Duration::from_secs(1));
    // It has not read anything yet.
    let late = client.ask();
    client.talk(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST, 1]);
    assert_eq!(client.refused, [late], "safe to send again elsewhere (RFC 9113 section 6.8)");
    rig.receive(upstream, OK);
    client.hear(&mut rig);
    assert_eq!(client.answered, 1);
}

#[test]
fn a_used_up_http2_connection_answers_all_and_is_told_twice() {
    let mut rig = Rig::new(&Setup { requests_per_connection: 2, ..Setup::default() });
    let mut client = Client::new(&mut rig);
    client.talk(&mut rig);
    client.ask();
    client.say(&mut rig);
    let first = rig.open();
    rig.receive(first, OK);
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [0_u32; 0], "one more is allowed");
    client.ask();
    client.say(&mut rig);
    rig.receive(first, OK);
    // This one is on its way when the client is told.
    client.ask();
    client.say(&mut rig);
    rig.receive(first, OK);
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST]);
    client.talk(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST, 5]);
    assert_eq!((client.answered, client.refused.len()), (3, 0));
    assert!(is_closed(&mut rig, client.key));
}

#[test]
fn whoever_is_accepted_in_a_drain_is_served_and_told() {
    let mut rig = Rig::new(&Setup::default());
    rig.engine.drain();
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.receive(upstream, OK);
    assert!(rig.text(client).contains("connection: close\r\n"));
    let mut client = Client::new(&mut rig);
    client.ask();
    client.say(&mut rig);
    client.hear(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST]);
    client.talk(&mut rig);
    assert_eq!(client.last_streams, [HIGHEST, 1]);
    rig.receive(upstream, OK);
    client.hear(&mut rig);
    assert_eq!(client.answered, 1);
}

#[test]
fn whoever_waits_in_the_queue_of_a_removed_listener_is_served_and_told() {
    let mut rig = Rig::new(&Setup::default());
    rig.engine.apply(Arc::new(Snapshot { listeners: vec![], ..(*snapshot(&Setup::default())).clone() }));
    assert_eq!(rig.engine.listeners().count(), 0);
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.receive(upstream, OK);
    assert!(rig.text(client).contains("connection: close\r\n"));
    rig.engine.release_listeners(|_| false);
    assert!(rig.refuses(), "its socket is closed");
}

#[test]
fn a_changed_listener_costs_no_request() {
    let setup = Setup::default();
    let mut rig = Rig::new(&setup);
    let idle = rig.accept();
    rig.receive(idle, GET);
    let upstream = rig.open();
    rig.receive(upstream, OK);
    rig.text(idle);
    let mut client = Client::new(&mut rig);
    client.talk(&mut rig);
    let mut next = (*changed(&setup)).clone();
    next.clusters = snapshot(&setup).clusters.clone();
    rig.engine.apply(Arc::new(next));
    rig.work();
    for _ in 0..2 {
        client.ask();
    }
    client.say(&mut rig);
    assert!(!is_closed(&mut rig, idle));
    rig.receive(idle, GET);
    client.hear(&mut rig);
    assert_eq!(client.last_streams.first(), Some(&HIGHEST));
    rig.pass(Duration::from_secs(20));
    client.hear(&mut rig);
    assert!(rig.text(idle).contains("connection: close\r\n"));
}

#[test]
fn a_relay_and_a_tunnel_outlast_everything_but_the_deadline() {
    let mut rig = Rig::new(&Setup { is_tcp: true, ..Setup::default() });
    let client = rig.accept();
    let upstream = rig.open();
    rig.engine.drain();
    rig.pass(Duration::from_secs(60));
    rig.receive(client, b"ask");
    assert_eq!(rig.text(upstream), "ask");
    rig.receive(upstream, b"last");
    assert!(!is_closed(&mut rig, client));
    rig.engine.cut_off();
    rig.work();
    assert_eq!(rig.text(client), "last", "what had come is passed on");
    assert!(is_closed(&mut rig, client));
}

#[test]
fn the_deadline_ends_what_is_left_and_says_so() {
    let mut rig = Rig::new(&Setup::default());
    let (http1, mut http2) = (rig.accept(), Client::new(&mut rig));
    rig.receive(http1, GET);
    http2.ask();
    http2.say(&mut rig);
    rig.engine.drain();
    rig.engine.cut_off();
    rig.work();
    http2.hear(&mut rig);
    assert_eq!(http2.last_streams.last(), Some(&1));
    rig.pass(Duration::from_secs(3600));
    assert!(rig.engine.census().is_empty(), "{:?}", rig.engine.census());
}

/// The same listener with one more chain, for another port; `kept` is the chain that stays.
fn with_another_chain(of: &Snapshot, kept: bool) -> Arc<Snapshot> {
    let mut listener = (*of.listeners[0]).clone();
    let first = listener.filter_chains.iter().next().unwrap().clone();
    let elsewhere = FilterChainMatch { destination_port: Some(9), ..FilterChainMatch::default() };
    let second = Arc::new(FilterChain { matches: elsewhere, lineage: Lineage::default(), ..(*first).clone() });
    let another = FilterChain { lineage: Lineage::default(), ..(*first).clone() };
    let first = if kept { first } else { Arc::new(another) };
    listener.filter_chains = FilterChains::new(vec![first, second]).unwrap();
    Arc::new(Snapshot { listeners: vec![Arc::new(listener)], ..of.clone() })
}

#[test]
fn a_filter_chain_that_stays_keeps_its_connections() {
    let first = snapshot(&Setup::default());
    for kept in [true, false] {
        let mut rig = Rig::with(first.clone());
        let client = rig.accept();
        rig.receive(client, GET);
        let upstream = rig.open();
        rig.receive(upstream, OK);
        rig.text(client);
        rig.engine.apply(with_another_chain(&first, kept));
        rig.work();
        rig.receive(client, GET);
        rig.receive(upstream, OK);
        let is_told = rig.text(client).contains("connection: close\r\n");
        assert_eq!(is_told, !kept);
    }
}

#[test]
fn what_a_removed_listener_leaves_ends_with_the_drain_time() {
    let mut rig = Rig::new(&Setup { is_tcp: true, ..Setup::default() });
    let client = rig.accept();
    let upstream = rig.open();
    let gone = Snapshot { listeners: vec![], ..(*snapshot(&Setup::default())).clone() };
    rig.engine.apply(Arc::new(gone));
    rig.engine.release_listeners(|_| false);
    rig.pass(Duration::from_secs(599));
    rig.receive(client, b"still here");
    assert_eq!(rig.text(upstream), "still here");
    rig.pass(Duration::from_secs(2));
    assert!(is_closed(&mut rig, client));
}
