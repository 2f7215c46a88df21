//! A trust bundle loses a root: what becomes of the connections that were made with it.

use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::{Action, ConnKey};
use pymesh_model::cluster::Cluster;
use pymesh_model::listener::{FilterChain, FilterChains};
use pymesh_model::tls::{ClientTls, ServerTls};
use pymesh_model::Snapshot;
use pymesh_tls::testing::{client, mesh_client, mesh_server, mesh_store, name, put, server, svid, Authority, Clock};
use pymesh_tls::{SecretStore, Session};

use super::rig::{snapshot, Rig, Setup};
use crate::{GET, OK};

/// Longer than what is on its way may take.
const OVER: Duration = Duration::from_millis(3001);

/// The engine's own certificate is of the new root; at first it trusts both.
struct Roots {
    old: Authority,
    new: Authority,
    clock: Arc<Clock>,
}

impl Roots {
    /// With an engine of this configuration.
    fn in_rig(configured: &Arc<Snapshot>) -> (Roots, Rig) {
        let roots = Roots { old: Authority::new("root"), new: Authority::new("root"), clock: Clock::new() };
        let rig = Rig::with(configured.clone());
        put(&rig.secrets, "default", &roots.new.issue(&svid("spiffe://cluster.local/ns/shop/sa/reviews")));
        rig.secrets.put_trust(&name("ROOTCA"), roots.both().as_bytes()).unwrap();
        (roots, rig)
    }

    fn both(&self) -> String {
        format!("{}{}", self.new.pem, self.old.pem)
    }

    /// What somebody outside has, with a certificate of this root.
    fn member(&self, of: &Authority) -> Arc<SecretStore> {
        let store = mesh_store(&self.clock, of, "ui");
        store.put_trust(&name("ROOTCA"), self.both().as_bytes()).unwrap();
        store
    }

    fn remove_the_old(&self, rig: &mut Rig, snapshot: &Arc<Snapshot>) {
        rig.secrets.put_trust(&name("ROOTCA"), self.new.pem.as_bytes()).unwrap();
        // As the driver does when it is told: the same configuration.
        assert_eq!(rig.engine.apply(snapshot.clone()), Vec::<String>::new());
        rig.work();
    }
}

/// HTTP/1.1: no protocol is agreed on.
fn plain_server() -> ServerTls {
    ServerTls { alpn: vec![], ..mesh_server() }
}

fn plain_client() -> ClientTls {
    ClientTls { alpn: vec![], ..mesh_client() }
}

/// Whether and how TLS is spoken on either side of the engine.
fn secured(down: bool, up: bool) -> Arc<Snapshot> {
    let mut made = Snapshot::clone(&snapshot(&Setup::default()));
    if down {
        let mut listener = (*made.listeners[0]).clone();
        let chain = listener.filter_chains.iter().next().unwrap();
        let chain = FilterChain { tls: Some(plain_server().into()), ..FilterChain::clone(chain) };
        listener.filter_chains = FilterChains::new(vec![Arc::new(chain)]).unwrap();
        made.listeners[0] = Arc::new(listener);
    }
    if up {
        let mut cluster = Cluster::clone(&made.clusters["origin"]);
        cluster.transport.default.tls = Some(Arc::new(plain_client()));
        made.clusters.insert("origin".into(), Arc::new(cluster));
    }
    Arc::new(made)
}

/// Somebody at the other end of a connection of the engine's.
struct Peer {
    key: ConnKey,
    session: Session,
    heard: Vec<u8>,
}

impl Peer {
    fn new(rig: &mut Rig, key: ConnKey, session: Session) -> Peer {
        let mut peer = Peer { key, session, heard: vec![] };
        peer.talk(rig);
        peer
    }

    fn client(rig: &mut Rig, store: &Arc<SecretStore>) -> Peer {
        let key = rig.accept();
        Peer::new(rig, key, client(&plain_client(), store))
    }

    /// Carries octets both ways until there are none.
    fn talk(&mut self, rig: &mut Rig) {
        loop {
            let said = self.session.output().to_vec();
            self.session.advance_output(said.len());
            if !said.is_empty() {
                rig.receive(self.key, &said);
            }
            let heard = rig.written(self.key);
            self.session.receive(&heard, &mut self.heard).unwrap();
            if said.is_empty() && heard.is_empty() {
                return;
            }
        }
    }

    fn say(&mut self, rig: &mut Rig, octets: &[u8]) {
        self.session.send(octets);
        self.talk(rig);
    }

    fn hear(&mut self, rig: &mut Rig) -> String {
        self.talk(rig);
        String::from_utf8(std::mem::take(&mut self.heard)).unwrap()
    }
}

fn ends(rig: &mut Rig, key: ConnKey) -> bool {
    rig.take_actions().iter().any(|action| matches!(action, Action::ShutdownWrite(k) | Action::Close(k) if *k == key))
}

#[test]
fn a_client_between_requests() {
    let configured = secured(true, false);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let mut stays = Peer::client(&mut rig, &roots.member(&roots.new));
    let mut goes = Peer::client(&mut rig, &roots.member(&roots.old));
    for peer in [&mut stays, &mut goes] {
        peer.say(&mut rig, GET);
        let origin = rig.open_or_reuse();
        rig.receive(origin, OK);
        assert!(peer.hear(&mut rig).ends_with("hello"));
    }
    roots.remove_the_old(&mut rig, &configured);
    assert!(!ends(&mut rig, goes.key), "it may have a request on its way");
    rig.pass(OVER);
    assert!(ends(&mut rig, goes.key));
    stays.say(&mut rig, GET);
    let origin = rig.open_or_reuse();
    rig.receive(origin, OK);
    let answer = stays.hear(&mut rig);
    assert!(answer.ends_with("hello") && !answer.contains("connection: close"), "{answer}");
}

#[test]
fn a_client_that_asks_in_time_is_answered_once_more() {
    let configured = secured(true, false);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let mut peer = Peer::client(&mut rig, &roots.member(&roots.old));
    peer.say(&mut rig, GET);
    let origin = rig.open();
    roots.remove_the_old(&mut rig, &configured);
    rig.pass(Duration::from_secs(2));
    rig.receive(origin, OK);
    let answer = peer.hear(&mut rig);
    assert!(answer.contains("connection: close") && answer.ends_with("hello"), "{answer}");
    assert!(ends(&mut rig, peer.key));
}

#[test]
fn a_request_that_takes_longer_is_cut_off() {
    let configured = secured(true, false);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let mut peer = Peer::client(&mut rig, &roots.member(&roots.old));
    peer.say(&mut rig, GET);
    let origin = rig.open();
    roots.remove_the_old(&mut rig, &configured);
    rig.pass(OVER);
    rig.work();
    let actions = rig.take_actions();
    let closed = |key| actions.iter().any(|a| matches!(a, Action::ShutdownWrite(k) | Action::Close(k) if *k == key));
    assert!(closed(peer.key) && closed(origin), "{actions:?}");
    assert_eq!(peer.hear(&mut rig), "");
}

#[test]
fn a_client_amid_its_handshake_does_not_slip_in() {
    let configured = secured(true, false);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let key = rig.accept();
    let mut session = client(&plain_client(), &roots.member(&roots.old));
    let hello = session.output().to_vec();
    session.advance_output(hello.len());
    rig.receive(key, &hello);
    let answer = rig.written(key);
    session.receive(&answer, &mut vec![]).unwrap();
    roots.remove_the_old(&mut rig, &configured);
    session.send(GET);
    let rest = session.output().to_vec();
    rig.receive(key, &rest);
    assert!(ends(&mut rig, key), "its certificate comes when its root is gone");
}

#[test]
fn an_endpoint_is_asked_over_another_connection() {
    let configured = secured(false, true);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let client = rig.accept();
    rig.receive(client, GET);
    let key = rig.open();
    let mut origin = Peer::new(&mut rig, key, server(&plain_server(), &roots.member(&roots.old)));
    assert!(origin.hear(&mut rig).starts_with("GET / "));
    origin.say(&mut rig, OK);
    assert!(rig.text(client).ends_with("hello"));
    roots.remove_the_old(&mut rig, &configured);
    assert!(ends(&mut rig, key), "nobody uses it");
    rig.receive(client, GET);
    let key = rig.open();
    let mut origin = Peer::new(&mut rig, key, server(&plain_server(), &roots.member(&roots.new)));
    assert!(origin.hear(&mut rig).starts_with("GET / "));
    origin.say(&mut rig, OK);
    assert!(rig.text(client).ends_with("hello"));
}

#[test]
fn what_an_endpoint_was_asked_has_its_time() {
    let configured = secured(false, true);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let clients = [rig.accept(), rig.accept()];
    let mut origins = vec![];
    for client in clients {
        rig.receive(client, GET);
        let key = rig.open();
        origins.push(Peer::new(&mut rig, key, server(&plain_server(), &roots.member(&roots.old))));
    }
    roots.remove_the_old(&mut rig, &configured);
    rig.pass(Duration::from_secs(2));
    origins[0].say(&mut rig, OK);
    assert!(rig.text(clients[0]).ends_with("hello"));
    assert!(ends(&mut rig, origins[0].key), "it is not used again");
    rig.pass(Duration::from_millis(1001));
    rig.work();
    let answer = rig.text(clients[1]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(ends(&mut rig, origins[1].key));
}

#[test]
fn what_stands_by_our_old_certificate_ends_in_its_own_time() {
    let configured = secured(true, true);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let mut peer = Peer::client(&mut rig, &roots.member(&roots.old));
    peer.say(&mut rig, GET);
    let key = rig.open();
    let mut origin = Peer::new(&mut rig, key, server(&plain_server(), &roots.member(&roots.old)));
    assert!(origin.hear(&mut rig).starts_with("GET / "));

    rig.secrets.note_move(&name("ROOTCA"));
    assert_eq!(rig.engine.apply(configured.clone()), Vec::<String>::new());
    // Much longer than a root that is removed would leave it.
    rig.pass(Duration::from_secs(12));
    origin.say(&mut rig, OK);
    let answer = peer.hear(&mut rig);
    assert!(answer.contains("connection: close") && answer.ends_with("hello"), "{answer}");
    let actions = rig.take_actions();
    for key in [peer.key, origin.key] {
        let ends = |action: &Action| matches!(action, Action::ShutdownWrite(k) | Action::Close(k) if *k == key);
        assert!(actions.iter().any(ends), "{actions:?}");
    }

    // Whoever comes now is none of them, and stays.
    let mut peer = Peer::client(&mut rig, &roots.member(&roots.old));
    for _ in 0..2 {
        peer.say(&mut rig, GET);
        if origin.key == key {
            let key = rig.open();
            origin = Peer::new(&mut rig, key, server(&plain_server(), &roots.member(&roots.new)));
        }
        origin.talk(&mut rig);
        origin.say(&mut rig, OK);
        let answer = peer.hear(&mut rig);
        assert!(answer.ends_with("hello") && !answer.contains("connection: close"), "{answer}");
        assert_eq!(rig.engine.apply(configured.clone()), Vec::<String>::new());
    }
}

#[test]
fn other_bundles_are_not_moved() {
    let configured = secured(true, false);
    let (roots, mut rig) = Roots::in_rig(&configured);
    let mut peer = Peer::client(&mut rig, &roots.member(&roots.old));
    rig.secrets.note_move(&name("another"));
    assert_eq!(rig.engine.apply(configured.clone()), Vec::<String>::new());
    peer.say(&mut rig, GET);
    let origin = rig.open();
    rig.receive(origin, OK);
    assert!(!peer.hear(&mut rig).contains("connection: close"));
}
