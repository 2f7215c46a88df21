//! A proxy without sockets, threads and clock: what a control plane says goes in as octets, and so does what its
//! connections bring; what it does with them comes out. The parts are those of the proxy that serves: its translation
//! of xDS, its engine, its filters.
//!
//! Whoever holds it is its network and its clock (`pymesh explain`, the simulator). A turn is that of a worker
//! (`rust/net/src/worker.rs`): report what has happened, [`SimulatedProxy::turn`], carry out what it returns.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::base::time::{Time, WallClock};
use pymesh_engine::telemetry::stats::Hub;
use pymesh_engine::{Action, ConnKey, Decision, Engine, ListenerKey};
use pymesh_model::format::LogSink;
use pymesh_model::listener::Listener;
use pymesh_net::FilterHost;
use pymesh_tls::{SecretStore, TimeProvider};
use pymesh_xds::offline::Offline;
use pymesh_xds::LoadFilter;
use rustls::pki_types::UnixTime;

/// What is asked of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect, then report [`SimulatedProxy::connected`] or [`SimulatedProxy::failed`].
    Connect(ConnKey, SocketAddr),
    /// These octets go to the peer.
    Send(ConnKey, Vec<u8>),
    /// No more of them will.
    ShutdownWrite(ConnKey),
    /// The connection is over, both ways.
    Close(ConnKey),
}

/// See the module.
pub struct SimulatedProxy<H> {
    configuration: Offline,
    engine: Engine,
    host: H,
    clock: Arc<Clock>,
    hub: Arc<Hub>,
    version: u64,
    /// What has arrived and was not read: the buffers of the sockets.
    unread: HashMap<ConnKey, Unread>,
}

#[derive(Default)]
struct Unread {
    octets: Vec<u8>,
    is_end: bool,
}

/// The time by which certificates are judged.
#[derive(Debug)]
struct Clock {
    wall: WallClock,
    now: AtomicU64,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let nanos = self.wall.unix_nanos(Time::from_nanos(self.now.load(Ordering::Relaxed)));
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
    }
}

impl<H: FilterHost> SimulatedProxy<H> {
    /// With a bootstrap's static resources. `load_filter` is as in [`crate::run`], for one worker. `seed` decides what is
    /// random, and `unix_nanos` is the wall clock at time zero.
    ///
    /// # Errors
    /// Everything that is wrong with the bootstrap.
    pub fn new(
        bootstrap: &str,
        seed: u64,
        unix_nanos: u64,
        host: H,
        load_filter: LoadFilter,
    ) -> Result<Self, Vec<String>> {
        let bootstrap = pymesh_xds::load_bootstrap("bootstrap", bootstrap).map_err(|found| crate::lines(&found))?;
        let wall = WallClock { origin_unix_nanos: unix_nanos };
        let clock = Arc::new(Clock { wall, now: AtomicU64::default() });
        let secrets = Arc::new(SecretStore::new(clock.clone()));
        let hub: Arc<Hub> = Arc::default();
        let mut engine = Engine::new(pymesh_engine::Options {
            worker: 0,
            seed,
            clock: wall,
            stream_buffer: crate::STREAM_BUFFER,
            drain_time: Duration::from_secs(600),
            hub: hub.clone(),
            shard: Arc::default(),
            secrets: secrets.clone(),
            overload: Arc::default(),
            commons: Arc::default(),
        });
        engine.explain();
        let counting = crate::count_filters(&hub);
        let configuration = Offline::with_statics(bootstrap, secrets).with_filters(load_filter, counting);
        let mut proxy = SimulatedProxy { configuration, engine, host, clock, hub, version: 0, unread: HashMap::new() };
        let problems = proxy.apply();
        if problems.is_empty() {
            Ok(proxy)
        } else {
            Err(problems)
        }
    }

    /// Takes in a `DeltaDiscoveryResponse`. Returns what was refused of it, in words.
    pub fn hear(&mut self, response: &[u8]) -> Vec<String> {
        let mut refused = match self.configuration.hear(true, response) {
            Some(refused) => refused,
            None => vec!["what came is no DeltaDiscoveryResponse".to_owned()],
        };
        refused.extend(self.apply());
        refused
    }

    /// What is waited for longer than this is not waited for any more: the rest of the configuration goes live.
    pub fn pass(&mut self, time: Duration) -> Vec<String> {
        self.configuration.pass(time);
        self.apply()
    }

    fn apply(&mut self) -> Vec<String> {
        let snapshot = self.configuration.snapshot();
        if snapshot.version == self.version {
            return Vec::new();
        }
        self.version = snapshot.version;
        let problems = self.engine.apply(snapshot);
        self.load_filters();
        self.engine.release_listeners(|_| false);
        problems
    }

    fn load_filters(&mut self) {
        let gates = self.host.load(self.engine.python_filters());
        self.engine.set_filter_gates(gates);
    }

    /// The listeners in force.
    pub fn listeners(&self) -> Vec<(ListenerKey, Arc<Listener>)> {
        self.engine.listeners().collect()
    }

    /// A client has connected to a listener. With `is_redirected` capture has led it there, and `local` is the address
    /// that it wanted. `None` if it is turned away.
    pub fn accept(
        &mut self,
        listener: ListenerKey,
        remote: SocketAddr,
        local: SocketAddr,
        is_redirected: bool,
    ) -> Option<ConnKey> {
        match is_redirected {
            true => self.engine.accept_redirected(listener, remote, local),
            false => self.engine.accept(listener, remote, local),
        }
    }

    /// A connection that was asked for is there.
    pub fn connected(&mut self, key: ConnKey, local: SocketAddr) {
        self.engine.connected(key, local);
    }

    /// Octets have arrived; they are read when the engine wants them.
    pub fn receive(&mut self, key: ConnKey, octets: &[u8]) {
        self.unread.entry(key).or_default().octets.extend_from_slice(octets);
    }

    /// Behind what has arrived, nothing more comes.
    pub fn end_of_input(&mut self, key: ConnKey) {
        self.unread.entry(key).or_default().is_end = true;
    }

    /// A connection could not be made, or was reset.
    pub fn failed(&mut self, key: ConnKey, reason: &str) {
        self.unread.remove(&key);
        self.engine.failed(key, reason);
    }

    /// Does everything that can be done at `now`.
    pub fn turn(&mut self, now: Time) -> Vec<Effect> {
        self.clock.now.store(now.as_nanos(), Ordering::Relaxed);
        self.engine.begin_turn(now);
        let mut effects = Vec::new();
        let mut calls = Vec::new();
        loop {
            let has_read = self.read();
            self.host.turn(&mut self.engine);
            self.engine.advance();
            if self.engine.has_filter_calls() {
                self.engine.take_filter_calls(&mut calls);
                self.host.run(&mut self.engine, &calls);
                calls.clear();
                continue;
            }
            let before = effects.len();
            self.act(&mut effects);
            let has_written = self.write(&mut effects);
            if !has_read && !has_written && effects.len() == before && !self.engine.has_news_of_calls() {
                break;
            }
        }
        if self.engine.has_log_calls() {
            let mut over = Vec::new();
            self.engine.take_log_calls(&mut over);
            self.host.log(&over);
        }
        if self.engine.has_lost_filters() {
            self.load_filters();
        }
        effects
    }

    fn read(&mut self) -> bool {
        // In the order of the connections, not of the map.
        let mut keys: Vec<ConnKey> = self.unread.keys().copied().collect();
        keys.sort_unstable_by_key(|key| key.index());
        let mut has_read = false;
        for key in keys {
            if !self.engine.wants_read(key) {
                continue;
            }
            let Some(unread) = self.unread.remove(&key) else { continue };
            has_read = true;
            if !unread.octets.is_empty() {
                self.engine.receive(key, &unread.octets);
                if unread.is_end {
                    self.end_of_input(key);
                }
            } else if unread.is_end {
                self.engine.end_of_input(key);
            }
        }
        has_read
    }

    fn act(&mut self, effects: &mut Vec<Effect>) {
        while let Some(action) = self.engine.next_action() {
            effects.push(match action {
                Action::Connect(key, address) => Effect::Connect(key, address),
                Action::ShutdownWrite(key) => Effect::ShutdownWrite(key),
                Action::Close(key) => {
                    self.unread.remove(&key);
                    Effect::Close(key)
                }
            });
        }
    }

    fn write(&mut self, effects: &mut Vec<Effect>) -> bool {
        let mut dirty = Vec::new();
        self.engine.take_dirty(&mut dirty);
        let has_written = !dirty.is_empty();
        for key in dirty {
            loop {
                let octets = self.engine.output(key).to_vec();
                if octets.is_empty() {
                    break;
                }
                self.engine.sent(key, octets.len());
                effects.push(Effect::Send(key, octets));
            }
            self.engine.sent(key, 0);
        }
        has_written
    }

    /// When a turn has something to do without any input.
    pub fn next_timeout(&self) -> Option<Time> {
        [self.engine.next_timeout(), self.host.due()].into_iter().flatten().min()
    }

    /// Access log lines since the last time, to wherever they go. What the process itself would say on its standard
    /// error is left out: of decisions there is more to be had.
    pub fn take_log(&mut self) -> Vec<u8> {
        let mut log = Vec::new();
        self.engine.take_log_lines(|sink, lines| match sink {
            LogSink::Stderr | LogSink::Tap => lines.clear(),
            LogSink::Stdout | LogSink::File(_) => log.append(lines),
        });
        log
    }

    /// What was decided since the last time.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        self.engine.take_decisions()
    }

    /// The page `/stats`: one `name: value` a line.
    pub fn stats(&self) -> String {
        crate::admin::pages::stats(&self.hub, &[], &[])
    }
}
