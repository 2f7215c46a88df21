//! A driver around one engine, step for step that of `rust/net/src/worker.rs`,
//! with the virtual network in place of epoll and sockets. It keeps that
//! driver's edges and its list of sockets to read again, because an engine that
//! forgets to ask for a read hangs there and must hang here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_engine::base::time::{Time, WallClock};
use pymesh_engine::telemetry::stats::Hub;
use pymesh_engine::{Action, ConnKey, Engine, ListenerKey, Options};
use pymesh_model::Snapshot;

use super::chance::Chance;
use super::environment::{note, Environment};
use super::identity;
use super::payload::digest;
use super::plan::Plan;
use super::python;
use super::socket::{Input, SocketId};

pub(super) const READS_PER_TURN: usize = 4;
/// Rounds of advancing and acting after which a turn is endless.
const ENDLESS: usize = 10_000;

/// What the control plane or the operator asks.
pub enum Order {
    Apply(Arc<Snapshot>),
    Drain,
}

pub(super) struct Socket {
    id: SocketId,
    key: ConnKey,
    connecting: bool,
    readable: bool,
    read_closed: bool,
    writable: bool,
}

pub struct Sidecar {
    pub(super) name: &'static str,
    actor: usize,
    chance: Chance,
    pub engine: Engine,
    pub(super) hub: Arc<Hub>,
    pub(super) sockets: BTreeMap<usize, Socket>,
    by_id: BTreeMap<SocketId, ConnKey>,
    listening: Vec<(SocketAddr, ListenerKey)>,
    again: Vec<ConnKey>,
    dirty: Vec<ConnKey>,
    orders: Vec<(Time, Order)>,
    pub(super) read_size: usize,
    /// Ciphertext differs from run to run: its octets stay out of the transcript.
    opaque: bool,
    /// The largest of all configured buffer limits.
    pub(super) limit: usize,
    pub(super) mirrors: bool,
    pub filters: python::Host,
}

impl Sidecar {
    pub fn new(
        name: &'static str,
        actor: usize,
        plan: &Plan,
        mut chance: Chance,
        orders: Vec<(Time, Order)>,
    ) -> Sidecar {
        let hub = Arc::<Hub>::default();
        let engine = Engine::new(Options {
            worker: 0,
            seed: chance.bits(),
            clock: WallClock { origin_unix_nanos: 1_772_323_200_000_000_000 },
            overload: Arc::default(),
            commons: Arc::default(),
            stream_buffer: plan.stream_buffer,
            drain_time: std::time::Duration::MAX,
            hub: hub.clone(),
            shard: Arc::default(),
            secrets: identity::store(),
        });
        Sidecar {
            name,
            actor,
            engine,
            hub,
            sockets: BTreeMap::new(),
            by_id: BTreeMap::new(),
            listening: Vec::new(),
            again: Vec::new(),
            dirty: Vec::new(),
            orders,
            read_size: chance.size(64 * 1024).max(256),
            opaque: plan.tls,
            mirrors: plan.mirrors,
            filters: python::Host::default(),
            limit: plan.buffer_limit.max(plan.stream_buffer).max(plan.window as usize * 2).max(64 * 1024),
            chance,
        }
    }

    /// When it has something to do without being told.
    pub fn wake_at(&self) -> Option<Time> {
        match self.again.is_empty() {
            false => Some(Time::default()),
            true => self.engine.next_timeout().into_iter().chain(self.orders.first().map(|(due, _)| *due)).min(),
        }
    }

    pub fn turn(&mut self, env: &mut Environment) {
        self.engine.begin_turn(env.now);
        self.take_orders(env);
        let mut ready = env.network.edges(self.actor);
        self.chance.shuffle(&mut ready);
        if self.chance.one_in(4) {
            // As when there are more events than one poll returns.
            ready.truncate(self.chance.size(ready.len().max(1)));
        }
        for id in ready {
            self.on_edge(env, id);
        }
        self.read_leftovers(env);
        self.accept_all(env);
        self.work(env);
        note!(env, self.name, "rests until {:?}", self.engine.next_timeout());
        self.check_bounds();
    }

    fn take_orders(&mut self, env: &mut Environment) {
        while self.orders.first().is_some_and(|(due, _)| *due <= env.now) {
            match self.orders.remove(0).1 {
                Order::Apply(snapshot) => {
                    note!(env, self.name, "applies version {}", snapshot.version);
                    assert_eq!(self.engine.apply(snapshot), Vec::<String>::new());
                    python::Host::load(&mut self.engine);
                    if !self.engine.is_draining() {
                        self.bind(env);
                    }
                }
                Order::Drain => {
                    note!(env, self.name, "drains");
                    for (address, _) in self.listening.drain(..) {
                        env.network.stop_listening(env.now, address);
                    }
                    self.engine.drain();
                }
            }
        }
    }

    fn bind(&mut self, env: &mut Environment) {
        self.listening = self.engine.listeners().map(|(key, config)| (config.address, key)).collect();
        for (address, _) in &self.listening {
            env.network.listen(*address, self.actor);
        }
        self.engine.release_listeners(|_| false);
    }

    fn socket(&mut self, key: ConnKey) -> Option<&mut Socket> {
        self.sockets.get_mut(&key.index()).filter(|socket| socket.key == key)
    }

    fn on_edge(&mut self, env: &mut Environment, id: SocketId) {
        let edge = env.network.take_edge(id);
        let Some(socket) = self.by_id.get(&id).and_then(|key| self.sockets.get_mut(&key.index())) else { return };
        let key = socket.key;
        socket.read_closed |= edge.closed || edge.failed;
        socket.readable |= edge.readable || socket.read_closed;
        if edge.writable || edge.failed {
            socket.writable = true;
            if socket.connecting {
                match env.network.is_connected(id) {
                    None => return,
                    Some(true) => {
                        socket.connecting = false;
                        note!(env, self.name, "{key:?} is connected");
                        self.engine.connected(key, env.network.local(id));
                    }
                    Some(false) => {
                        note!(env, self.name, "{key:?} is refused");
                        return self.engine.failed(key, "connection refused");
                    }
                }
            } else if edge.writable {
                self.dirty.push(key);
            }
        }
        self.read(env, key);
    }

    fn read(&mut self, env: &mut Environment, key: ConnKey) {
        for _ in 0..READS_PER_TURN {
            let wants_read = self.engine.wants_read(key);
            let most = self.read_size;
            let Some(socket) = self.socket(key) else { return };
            if !socket.readable || socket.connecting || !wants_read {
                return;
            }
            match env.network.read(socket.id, most) {
                Input::Octets(octets) => {
                    // A short read has emptied the socket.
                    socket.readable = octets.len() == most || socket.read_closed;
                    let seen = if self.opaque { 0 } else { digest(&octets) };
                    note!(env, self.name, "{key:?} reads {} ({seen:x})", octets.len());
                    self.engine.receive(key, &octets);
                }
                Input::Nothing => {
                    socket.readable = false;
                    return;
                }
                Input::End => {
                    socket.readable = false;
                    note!(env, self.name, "{key:?} reads the end");
                    return self.engine.end_of_input(key);
                }
                Input::Reset => {
                    note!(env, self.name, "{key:?} is reset");
                    return self.engine.failed(key, "connection reset by peer");
                }
            }
        }
        self.again.push(key);
    }

    fn read_leftovers(&mut self, env: &mut Environment) {
        for key in std::mem::take(&mut self.again) {
            self.read(env, key);
        }
    }

    fn accept_all(&mut self, env: &mut Environment) {
        for at in 0..self.listening.len() {
            let (address, listener) = self.listening[at];
            while let Some((id, remote)) = env.network.accept(address) {
                let Some(key) = self.engine.accept(listener, remote, address) else {
                    env.network.close(env.now, id);
                    continue;
                };
                note!(env, self.name, "{key:?} accepted from {remote}");
                self.insert(env, id, key, false);
            }
        }
    }

    fn insert(&mut self, env: &mut Environment, id: SocketId, key: ConnKey, connecting: bool) {
        if let Some(gone) = self.sockets.remove(&key.index()) {
            // Whoever was here is gone from the engine.
            self.by_id.remove(&gone.id);
            env.network.close(env.now, gone.id);
        }
        let socket = Socket { id, key, connecting, readable: false, read_closed: false, writable: !connecting };
        self.by_id.insert(id, key);
        self.sockets.insert(key.index(), socket);
    }

    fn work(&mut self, env: &mut Environment) {
        for _ in 0..ENDLESS {
            self.engine.advance();
            let called = self.filters.call(&mut self.engine, &mut self.chance);
            let acted = self.act(env);
            let wrote = self.flush(env);
            if !acted && !wrote && !called {
                return;
            }
        }
        panic!("{} never rests: {:?}", self.name, self.engine.census());
    }

    fn act(&mut self, env: &mut Environment) -> bool {
        let mut acted = false;
        while let Some(action) = self.engine.next_action() {
            acted = true;
            note!(env, self.name, "{action:?}");
            match action {
                Action::Connect(key, address) => {
                    let id = env.network.connect(env.now, self.actor, address);
                    self.insert(env, id, key, true);
                }
                Action::ShutdownWrite(key) => {
                    if let Some(id) = self.socket(key).map(|socket| socket.id) {
                        env.network.shutdown(env.now, id);
                    }
                }
                Action::Close(key) => {
                    if let Some(id) = self.socket(key).map(|socket| socket.id) {
                        env.network.close(env.now, id);
                        self.sockets.remove(&key.index());
                        self.by_id.remove(&id);
                    }
                }
            }
        }
        acted
    }

    fn flush(&mut self, env: &mut Environment) -> bool {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.engine.take_dirty(&mut dirty);
        let any = !dirty.is_empty();
        for key in dirty {
            self.flush_one(env, key);
        }
        any
    }

    fn flush_one(&mut self, env: &mut Environment, key: ConnKey) {
        loop {
            let Some(socket) = self.sockets.get_mut(&key.index()).filter(|socket| socket.key == key) else { return };
            if socket.connecting {
                return;
            }
            let output = self.engine.output(key);
            if output.is_empty() || !socket.writable {
                break;
            }
            match env.network.write(env.now, socket.id, output) {
                Ok(0) => {
                    socket.writable = false;
                    break;
                }
                Ok(n) => {
                    note!(env, self.name, "{key:?} writes {n} of {}", output.len());
                    self.engine.sent(key, n);
                }
                Err(_) => {
                    note!(env, self.name, "{key:?} fails to write");
                    return self.engine.failed(key, "broken pipe");
                }
            }
        }
        self.engine.sent(key, 0);
        let wants_read = self.engine.wants_read(key);
        if self.socket(key).is_some_and(|socket| socket.readable) && wants_read {
            self.again.push(key);
        }
    }
}
