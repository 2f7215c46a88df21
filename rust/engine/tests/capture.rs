//! Connections that were meant for another address: who serves them, and where original-destination clusters take them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod connections {
    // The other test uses the rest of it.
    #![allow(dead_code)]
    pub mod rig;
}

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use connections::rig::{address, snapshot, Rig, Setup};
use pymesh_engine::base::time::Time;
use pymesh_engine::{Action, ConnKey};
use pymesh_model::cluster::{Cluster, Discovery, OriginalDst};
use pymesh_model::listener::{Capture, Listener, ListenerFilter, ListenerFilterKind};
use pymesh_model::Snapshot;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const INTERVAL: Duration = Duration::from_secs(5);

fn settings() -> OriginalDst {
    OriginalDst { port: None, header: None, cleanup_interval: INTERVAL, max_addresses: 100 }
}

/// A listener on every address that hands off, in front of the cluster that takes connections where they wanted to go.
fn passthrough(setup: &Setup, settings: OriginalDst) -> Snapshot {
    let mut made = (*snapshot(setup)).clone();
    let listener = made.listeners[0].clone();
    let capture = Capture { restore: true, hand_off: true, transparent: false };
    let bound = SocketAddr::from(([0, 0, 0, 0], 15001));
    made.listeners =
        vec![Arc::new(Listener { name: "virtual".into(), address: bound, capture, ..(*listener).clone() })];
    let cluster = (*made.clusters["origin"]).clone();
    let cluster = Cluster { discovery: Discovery::OriginalDst(settings), endpoints: Arc::default(), ..cluster };
    made.clusters = [("origin".into(), Arc::new(cluster))].into();
    made
}

fn tcp() -> Setup {
    Setup { is_tcp: true, ..Setup::default() }
}

fn rig(config: Snapshot) -> Rig {
    let mut rig = Rig::new(&Setup::default());
    assert_eq!(rig.engine.apply(Arc::new(config)), Vec::<String>::new());
    rig
}

/// A client that wanted `wanted` arrives at the listener of that name.
fn arrive(rig: &mut Rig, listener: &str, wanted: SocketAddr) -> Option<ConnKey> {
    let (key, _) = rig.engine.listeners().find(|(_, config)| &*config.name == listener).unwrap();
    let conn = rig.engine.accept_redirected(key, address(9, 5000), wanted);
    rig.work();
    conn
}

fn connects(rig: &mut Rig) -> Vec<SocketAddr> {
    let actions = rig.take_actions().into_iter();
    actions.filter_map(|action| if let Action::Connect(_, to) = action { Some(to) } else { None }).collect()
}

fn stat(rig: &Rig, group: &str, name: &str) -> u64 {
    let groups = rig.hub.lock();
    let sums = match group {
        "cluster" => pymesh_engine::telemetry::stats::sum(groups.clusters.get("origin").unwrap()),
        listener => pymesh_engine::telemetry::stats::sum(groups.listeners.get(listener).unwrap()),
    };
    sums.iter().find(|(known, _, _)| *known == name).unwrap().2
}

#[test]
fn tcp_goes_where_the_client_wanted() {
    let mut rig = rig(passthrough(&tcp(), settings()));
    arrive(&mut rig, "virtual", address(7, 3306)).unwrap();
    assert_eq!(connects(&mut rig), [address(7, 3306)]);
}

#[test]
fn a_server_may_speak_first() {
    let mut rig = rig(passthrough(&tcp(), settings()));
    let client = arrive(&mut rig, "virtual", address(7, 3306)).unwrap();
    let server = rig.open();
    rig.receive(server, b"220 hello");
    assert_eq!(rig.text(client), "220 hello");
}

#[test]
fn http_goes_where_the_client_wanted_and_connections_are_kept_by_address() {
    let mut rig = rig(passthrough(&Setup::default(), settings()));
    let mut servers = HashMap::new();
    for (host, fresh) in [(7, true), (8, true), (7, false)] {
        let client = arrive(&mut rig, "virtual", address(host, 80)).unwrap();
        rig.receive(client, GET);
        let mut opened = Vec::new();
        for action in rig.take_actions() {
            if let Action::Connect(key, to) = action {
                assert_eq!(to, address(host, 80));
                opened.push(key);
            }
        }
        assert_eq!(opened.len(), usize::from(fresh));
        if let [server] = opened[..] {
            rig.engine.connected(server, address(1, 40_000));
            rig.work();
            servers.insert(host, server);
        }
        let server = servers[&host];
        assert!(rig.text(server).starts_with("GET / "));
        rig.receive(server, OK);
        assert!(rig.text(client).ends_with("hello"));
    }
}

#[test]
fn the_port_may_be_another() {
    let mut rig = rig(passthrough(&tcp(), OriginalDst { port: Some(8443), ..settings() }));
    arrive(&mut rig, "virtual", address(7, 443)).unwrap();
    assert_eq!(connects(&mut rig), [address(7, 8443)]);
}

#[test]
fn a_header_names_another_address_and_nonsense_does_not() {
    let header = Some("x-envoy-original-dst-host".into());
    let mut rig = rig(passthrough(&Setup::default(), OriginalDst { header, ..settings() }));
    for (value, expected) in [("10.0.0.8:81", address(8, 81)), ("example.com:80", address(7, 80)), ("", address(7, 80))]
    {
        let client = arrive(&mut rig, "virtual", address(7, 80)).unwrap();
        let head =
            format!("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-original-dst-host: {value}\r\nconnection: close\r\n\r\n");
        rig.receive(client, head.as_bytes());
        let to = connects(&mut rig);
        assert!(to.is_empty() || to == [expected], "{value}: {to:?}");
    }
    assert_eq!(stat(&rig, "cluster", "original_dst_host_invalid"), 2);
    assert_eq!(stat(&rig, "cluster", "membership_total"), 2);
}

#[test]
fn a_client_that_was_not_redirected_has_no_destination() {
    let mut rig = rig(passthrough(&Setup::default(), settings()));
    let (key, _) = rig.engine.listeners().next().unwrap();
    let client = rig.engine.accept(key, address(9, 5000), address(1, 15001)).unwrap();
    rig.receive(client, GET);
    assert!(rig.text(client).starts_with("HTTP/1.1 503 "));
    assert_eq!(connects(&mut rig), []);
}

#[test]
fn a_loop_is_refused_and_counted() {
    let mut rig = rig(passthrough(&tcp(), settings()));
    // The client is gone at once, so there is no key to be had.
    arrive(&mut rig, "virtual", address(1, 15001));
    assert_eq!(connects(&mut rig), []);
    assert_eq!(stat(&rig, "cluster", "original_dst_loop"), 1);
    assert_eq!(rig.engine.in_use(), (0, 0, 0));
}

#[test]
fn the_listener_at_the_destination_takes_over_or_the_one_at_its_port() {
    let mut config = passthrough(&tcp(), settings());
    let mut fixed = (*snapshot(&tcp())).clone();
    let plain = fixed.listeners.remove(0);
    let listener = |name: &str, address: SocketAddr| {
        Arc::new(Listener { name: name.into(), address, bind_to_port: false, ..(*plain).clone() })
    };
    config.listeners.push(listener("exact", address(7, 80)));
    config.listeners.push(listener("wild", SocketAddr::from(([0, 0, 0, 0], 80))));
    config.listeners.push(listener("six", "[::]:81".parse().unwrap()));
    let both = Listener { ipv4_compat: true, ..(*listener("both", "[::]:82".parse().unwrap())).clone() };
    config.listeners.push(Arc::new(both));
    let mut rig = rig(config);
    for (wanted, taken_by) in [
        (address(7, 80), "10.0.0.7_80"),
        (address(8, 80), "0.0.0.0_80"),
        ("[fd00::1]:81".parse().unwrap(), "[__]_81"),
        (address(8, 82), "[__]_82"),
        (address(8, 81), "0.0.0.0_15001"),
    ] {
        let before = stat(&rig, taken_by, "downstream_cx_total");
        let client = arrive(&mut rig, "virtual", wanted).unwrap();
        assert_eq!(stat(&rig, taken_by, "downstream_cx_total"), before + 1, "{wanted}");
        rig.end(client);
        rig.engine.failed(client, "gone");
        rig.work();
        assert_eq!(stat(&rig, taken_by, "downstream_cx_active"), 0, "{wanted}");
    }
    assert_eq!(stat(&rig, "0.0.0.0_15001", "downstream_cx_total"), 1);
}

#[test]
fn what_was_seen_before_the_hand_off_is_not_lost() {
    let mut config = passthrough(&Setup::default(), settings());
    let listener_filters = vec![ListenerFilter { kind: ListenerFilterKind::HttpInspector, disabled: None }];
    let listener_filters_timeout = Duration::from_secs(1);
    let front = Listener { listener_filters, listener_filters_timeout, ..(*config.listeners[0]).clone() };
    let behind = Listener { name: "behind".into(), address: address(7, 80), bind_to_port: false, ..front.clone() };
    config.listeners = vec![Arc::new(front), Arc::new(behind)];
    let mut rig = rig(config);
    let client = arrive(&mut rig, "virtual", address(7, 80)).unwrap();
    rig.receive(client, b"GET / HT");
    assert_eq!(stat(&rig, "10.0.0.7_80", "downstream_cx_total"), 0);
    rig.receive(client, b"TP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(stat(&rig, "10.0.0.7_80", "downstream_cx_total"), 1);
    assert_eq!(connects(&mut rig), [address(7, 80)]);

    // One that says nothing is closed, and was never anybody's.
    arrive(&mut rig, "virtual", address(7, 80)).unwrap();
    rig.pass(Duration::from_secs(2));
    assert_eq!(stat(&rig, "0.0.0.0_15001", "downstream_cx_total"), 0);
    assert_eq!(stat(&rig, "0.0.0.0_15001", "downstream_cx_active"), 0);
}

#[test]
fn addresses_that_nobody_asks_for_are_forgotten_with_their_connections() {
    let mut rig = rig(passthrough(&Setup::default(), settings()));
    let client = arrive(&mut rig, "virtual", address(7, 80)).unwrap();
    rig.receive(client, GET);
    let server = rig.open();
    // A request in flight keeps its address, however long it takes.
    rig.pass(INTERVAL * 2);
    assert_eq!(stat(&rig, "cluster", "membership_total"), 1);
    rig.receive(server, OK);
    rig.end(client);
    rig.take_actions();
    rig.pass(INTERVAL * 3);
    assert_eq!(stat(&rig, "cluster", "membership_total"), 0);
    assert!(rig.take_actions().contains(&Action::Close(server)));
    assert_eq!(rig.engine.in_use(), (0, 0, 0));
    // Nobody looks while there is nothing: what is left in the queue is the idle timeout of the stream that was.
    assert!(rig.engine.next_timeout().is_none_or(|next| next > Time::from_nanos(200_000_000_000)));
}

#[test]
fn a_long_connection_keeps_its_address() {
    let mut rig = rig(passthrough(&tcp(), settings()));
    arrive(&mut rig, "virtual", address(7, 80)).unwrap();
    let server = rig.open();
    rig.pass(INTERVAL * 3);
    assert_eq!(stat(&rig, "cluster", "membership_total"), 1);
    rig.engine.failed(server, "gone");
    rig.work();
    rig.pass(INTERVAL * 3);
    assert_eq!(stat(&rig, "cluster", "membership_total"), 0);
}

#[test]
fn addresses_are_bounded_and_idle_ones_make_room() {
    let mut rig = rig(passthrough(&tcp(), OriginalDst { max_addresses: 2, ..settings() }));
    for host in [1, 2] {
        arrive(&mut rig, "virtual", address(host, 80)).unwrap();
    }
    let servers: Vec<ConnKey> = rig
        .take_actions()
        .into_iter()
        .filter_map(|action| if let Action::Connect(key, _) = action { Some(key) } else { None })
        .collect();
    arrive(&mut rig, "virtual", address(3, 80));
    assert_eq!(connects(&mut rig), []);
    assert_eq!(stat(&rig, "cluster", "upstream_cx_pool_overflow"), 1);
    rig.engine.failed(servers[0], "gone");
    rig.work();
    arrive(&mut rig, "virtual", address(3, 80)).unwrap();
    assert_eq!(connects(&mut rig), [address(3, 80)]);
}
