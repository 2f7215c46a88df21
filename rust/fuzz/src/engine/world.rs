//! The driver of `rust/net/src/worker.rs`, and sockets that do what the input says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::base::time::{Time, WallClock};
use pymesh_engine::telemetry::stats::Hub;
use pymesh_engine::{testing, Action, ConnKey, Engine, Options};
use pymesh_model::testing::address;
use pymesh_tls::SecretStore;

use super::client::Client;
use super::config::Config;
use super::upstream::Upstream;
use crate::input::Input;

/// Rounds of advancing and acting after which a turn is endless.
const ENDLESS: usize = 2_000;
/// Most octets that the driver reads at once.
const READ_SIZE: usize = 64 * 1024;
/// Connections of clients at one time.
const MOST_CLIENTS: usize = 8;

/// Who is at the other end.
pub(super) enum Other {
    Client(Client),
    Endpoint(Upstream),
}

pub(super) struct Socket {
    pub key: ConnKey,
    pub other: Other,
    connecting: bool,
    /// Said by the other end, not read yet; then it ends, if it does.
    incoming: Vec<u8>,
    ended: bool,
    end_is_read: bool,
    /// Octets that the engine may still read, or write.
    readable: usize,
    writable: usize,
    is_shut: bool,
}

pub(super) struct World {
    pub config: Config,
    pub engine: Engine,
    hub: Arc<Hub>,
    now: Time,
    version: usize,
    drained: bool,
    pub sockets: Vec<Socket>,
    dirty: Vec<ConnKey>,
    /// The number of the last request.
    pub last_id: u32,
    /// Attempts at each request, by number.
    attempts: HashMap<u32, u32>,
    /// What raw clients have said, and raw endpoints, each.
    relays: [Vec<Vec<u8>>; 2],
    /// A client has said what is no request: nobody knows what it has asked.
    is_wild: bool,
}

impl World {
    pub(super) fn new(config: Config) -> World {
        let hub = Arc::<Hub>::default();
        let mut engine = Engine::new(Options {
            worker: 0,
            seed: 1,
            clock: WallClock { origin_unix_nanos: 1_772_323_200_000_000_000 },
            stream_buffer: config.buffer_limit,
            drain_time: Duration::from_secs(600),
            overload: Arc::default(),
            commons: Arc::default(),
            hub: hub.clone(),
            shard: Arc::default(),
            secrets: Arc::new(SecretStore::new(pymesh_tls::testing::Clock::new())),
        });
        assert_eq!(engine.apply(config.snapshot(0)), Vec::<String>::new());
        let (sockets, dirty) = (Vec::new(), Vec::new());
        World {
            config,
            engine,
            hub,
            now: Time::from_nanos(1),
            version: 0,
            drained: false,
            sockets,
            dirty,
            last_id: 0,
            attempts: HashMap::new(),
            relays: Default::default(),
            is_wild: false,
        }
    }

    fn insert(&mut self, key: ConnKey, other: Other, connecting: bool) {
        assert!(self.sockets.iter().all(|socket| socket.key != key), "{key:?} is given out twice");
        self.sockets.push(Socket {
            key,
            other,
            connecting,
            incoming: Vec::new(),
            ended: false,
            end_is_read: false,
            readable: usize::MAX,
            writable: usize::MAX,
            is_shut: false,
        });
    }

    /// The nth of those sockets that `fits`, round and round.
    fn choose(&self, at: u8, fits: impl Fn(&Socket) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.sockets.len()).filter(|one| fits(&self.sockets[*one])).collect();
        fitting.get(usize::from(at) % fitting.len().max(1)).copied()
    }

    fn client(&self, at: u8) -> Option<usize> {
        self.choose(at, |socket| matches!(socket.other, Other::Client(_)) && !socket.ended)
    }

    fn endpoint(&self, at: u8) -> Option<usize> {
        self.choose(at, |socket| matches!(socket.other, Other::Endpoint(_)) && !socket.ended && !socket.connecting)
    }

    pub(super) fn accept(&mut self, at: u8) {
        let clients = self.sockets.iter().filter(|socket| matches!(socket.other, Other::Client(_))).count();
        if self.drained || clients >= MOST_CLIENTS {
            return;
        }
        let is_raw = at % 8 == 7;
        let local = if is_raw { Config::raw() } else { Config::web() };
        let listener = self.engine.listeners().find(|(_, config)| config.address == local).map(|(key, _)| key);
        let key = listener.and_then(|listener| self.engine.accept(listener, address(9, 5000), local));
        let client = if is_raw { Client::raw(&mut self.relays[0]) } else { Client::http(at % 2 == 1, &self.config) };
        self.insert(key.expect("the listener is there"), Other::Client(client), false);
    }

    fn say(&mut self, at: usize, octets: &[u8]) {
        let said = match &self.sockets[at].other {
            Other::Client(client) => client.relay().map(|relay| &mut self.relays[0][relay]),
            Other::Endpoint(upstream) => upstream.relay().map(|relay| &mut self.relays[1][relay]),
        };
        if let Some(said) = said {
            said.extend_from_slice(octets);
        }
        self.sockets[at].incoming.extend_from_slice(octets);
        self.read(at);
    }

    pub(super) fn client_asks(&mut self, at: u8, input: &mut Input<'_>) {
        let Some(at) = self.client(at) else { return };
        let Other::Client(client) = &mut self.sockets[at].other else { return };
        let octets = client.ask(input, &mut self.last_id);
        self.say(at, &octets);
    }

    pub(super) fn client_says(&mut self, at: u8, octets: &[u8]) {
        let Some(at) = self.client(at) else { return };
        let Other::Client(client) = &mut self.sockets[at].other else { return };
        self.is_wild |= client.relay().is_none();
        let octets = client.say(octets);
        self.say(at, &octets);
    }

    pub(super) fn client_continues(&mut self, at: u8, input: &mut Input<'_>) {
        let Some(at) = self.client(at) else { return };
        let Other::Client(client) = &mut self.sockets[at].other else { return };
        let octets = client.go_on(input);
        self.say(at, &octets);
    }

    pub(super) fn endpoint_answers(&mut self, at: u8, input: &mut Input<'_>) {
        let Some(at) = self.endpoint(at) else { return };
        let Other::Endpoint(upstream) = &mut self.sockets[at].other else { return };
        let octets = upstream.answer(input);
        self.say(at, &octets);
    }

    pub(super) fn endpoint_says(&mut self, at: u8, octets: &[u8]) {
        let Some(at) = self.endpoint(at) else { return };
        let Other::Endpoint(upstream) = &mut self.sockets[at].other else { return };
        upstream.is_wild();
        self.say(at, octets);
    }

    pub(super) fn connected(&mut self, at: u8) {
        let Some(at) = self.choose(at, |socket| socket.connecting) else { return };
        self.sockets[at].connecting = false;
        self.engine.connected(self.sockets[at].key, address(1, 40_000));
    }

    pub(super) fn refuse_connection(&mut self, at: u8) {
        let Some(at) = self.choose(at, |socket| socket.connecting) else { return };
        self.engine.failed(self.sockets[at].key, "connection refused");
    }

    pub(super) fn ends(&mut self, at: u8) {
        let Some(at) = self.choose(at, |socket| !socket.connecting && !socket.ended) else { return };
        self.sockets[at].ended = true;
        self.read(at);
    }

    pub(super) fn resets(&mut self, at: u8) {
        let Some(at) = self.choose(at, |_| true) else { return };
        let key = self.sockets[at].key;
        match self.engine.wants_read(key) || self.sockets[at].connecting {
            true => self.engine.failed(key, "reset"),
            false => self.engine.reset_unread(key),
        }
    }

    pub(super) fn block(&mut self, at: u8, left: u8) {
        let Some(at) = self.choose(at, |_| true) else { return };
        self.sockets[at].writable = left.into();
    }

    pub(super) fn unblock(&mut self, at: u8) {
        let Some(at) = self.choose(at, |socket| socket.writable < usize::MAX / 2) else { return };
        self.sockets[at].writable = usize::MAX;
        self.dirty.push(self.sockets[at].key);
    }

    pub(super) fn hold(&mut self, at: u8, left: u8) {
        let Some(at) = self.choose(at, |_| true) else { return };
        self.sockets[at].readable = left.into();
    }

    pub(super) fn release(&mut self, at: u8) {
        let Some(at) = self.choose(at, |socket| socket.readable < usize::MAX / 2) else { return };
        self.sockets[at].readable = usize::MAX;
        self.read(at);
    }

    pub(super) fn apply(&mut self, at: u8) {
        self.version += 1 + usize::from(at) % 3;
        assert_eq!(self.engine.apply(self.config.snapshot(self.version)), Vec::<String>::new());
    }

    pub(super) fn drain(&mut self) {
        self.drained = true;
        self.engine.drain();
    }

    /// Lets time pass, and every deadline on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..ENDLESS {
            let Some(due) = self.engine.next_timeout().filter(|due| *due <= end) else {
                self.now = end;
                self.engine.begin_turn(end);
                return;
            };
            self.now = self.now.max(due);
            self.engine.begin_turn(self.now);
            self.work();
        }
        panic!("time stands still at {:?}: {:?}", self.now, self.engine.census());
    }

    fn read(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        let key = socket.key;
        if socket.connecting || socket.end_is_read {
            return;
        }
        while self.engine.wants_read(key) {
            let count = socket.incoming.len().min(socket.readable).min(self.engine.read_size(key).min(READ_SIZE));
            if count == 0 {
                break;
            }
            let octets: Vec<u8> = socket.incoming.drain(..count).collect();
            if socket.readable < usize::MAX / 2 {
                socket.readable -= count;
            }
            match &mut socket.other {
                Other::Client(client) => client.is_heard(&octets),
                Other::Endpoint(upstream) => upstream.is_heard(&octets),
            }
            self.engine.receive(key, &octets);
        }
        if socket.ended && socket.incoming.is_empty() && self.engine.wants_read(key) {
            socket.end_is_read = true;
            self.engine.end_of_input(key);
        }
    }

    pub(super) fn work(&mut self) {
        for _ in 0..ENDLESS {
            self.engine.advance();
            let acted = self.act();
            let wrote = self.flush();
            if !acted && !wrote {
                self.engine.take_log_lines(|_, lines| {
                    assert!(lines.ends_with(b"\n"));
                    lines.clear();
                });
                return;
            }
        }
        panic!("the engine never rests: {:?}", self.engine.census());
    }

    fn act(&mut self) -> bool {
        let mut acted = false;
        while let Some(action) = self.engine.next_action() {
            acted = true;
            match action {
                Action::Connect(key, address) => {
                    let upstream = match address == Config::raw_endpoint() {
                        true => Upstream::raw(&mut self.relays[1]),
                        false => Upstream::http(&self.config),
                    };
                    self.insert(key, Other::Endpoint(upstream), true);
                }
                Action::ShutdownWrite(key) => {
                    let socket = self.sockets.iter_mut().find(|socket| socket.key == key);
                    let socket = socket.unwrap_or_else(|| panic!("{action:?} of nobody"));
                    assert!(!socket.is_shut, "{action:?} once more");
                    assert!(!socket.connecting, "{action:?} before it is connected");
                    socket.is_shut = true;
                }
                Action::Close(key) => {
                    let at = self.sockets.iter().position(|socket| socket.key == key);
                    self.sockets.remove(at.unwrap_or_else(|| panic!("{action:?} of nobody")));
                }
            }
        }
        acted
    }

    fn flush(&mut self) -> bool {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.engine.take_dirty(&mut dirty);
        let any = !dirty.is_empty();
        for key in dirty {
            self.flush_one(key);
        }
        any
    }

    fn flush_one(&mut self, key: ConnKey) {
        let Some(at) = self.sockets.iter().position(|socket| socket.key == key) else {
            return assert!(self.engine.output(key).is_empty(), "{key:?} is closed and has something to say");
        };
        if self.sockets[at].connecting {
            return;
        }
        loop {
            let output = self.engine.output(key);
            let count = output.len().min(self.sockets[at].writable);
            if count == 0 {
                break;
            }
            let octets = output[..count].to_vec();
            let socket = &mut self.sockets[at];
            assert!(!socket.is_shut, "{key:?} has said that it says no more, and says more");
            if socket.writable < usize::MAX / 2 {
                socket.writable -= count;
            }
            self.engine.sent(key, count);
            self.is_told(at, &octets);
        }
        self.engine.sent(key, 0);
        // Its input may be wanted again.
        self.read(at);
    }

    /// The other end has got octets.
    fn is_told(&mut self, at: usize, octets: &[u8]) {
        let (relays, is_wild) = (&self.relays, self.is_wild);
        match &mut self.sockets[at].other {
            Other::Client(client) => client.hear(octets, &relays[1]),
            Other::Endpoint(upstream) => upstream.hear(octets, &self.config, &relays[0], is_wild, &mut self.attempts),
        }
    }

    pub(super) fn check(&self) {
        let census = self.engine.census();
        let most = self.config.most_buffered();
        let largest = census.largest_output.max(census.largest_input).max(census.largest_body);
        assert!(largest <= most, "{largest} octets in one buffer, may be {most}: {census:?}");
        assert_eq!(census.connections, self.sockets.len(), "{census:?}");
        assert!(census.exchanges <= 100 * MOST_CLIENTS, "{census:?}");
    }

    /// Everybody goes, one after the other.
    pub(super) fn end(mut self) {
        while let Some(socket) = self.sockets.first() {
            let key = socket.key;
            self.engine.failed(key, "the end");
            self.work();
            assert!(self.sockets.iter().all(|socket| socket.key != key), "{key:?} has failed and is not closed");
            if self.sockets.is_empty() {
                self.pass(Duration::from_secs(3 * 3600));
            }
        }
        self.pass(Duration::from_secs(3 * 3600));
        let census = self.engine.census();
        assert!(census.is_empty(), "something is left: {census:?}");
        assert_eq!(testing::imbalances(&self.hub), Vec::<String>::new());
        let lost = self.hub.file_log(0).logs_dropped.value();
        assert_eq!(lost, 0);
    }
}
