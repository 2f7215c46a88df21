//! The engine and the interface of its driver.
//!
//! A driver owns sockets and a clock. In each turn of its loop it
//! 1. calls [`Engine::begin_turn`] with the time,
//! 2. reports what happened ([`Engine::accept`], [`Engine::connected`],
//!    [`Engine::receive`], [`Engine::end_of_input`], [`Engine::failed`]),
//! 3. calls [`Engine::advance`], and runs filter calls if there are any,
//! 4. carries out every [`Engine::next_action`],
//! 5. writes what each connection of [`Engine::take_dirty`] has to send
//!    ([`Engine::output`], [`Engine::sent`]).
//!
//! The same inputs in the same order give the same outputs: the engine reads
//! no clock, no random source and no socket.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_http::h2;
use pymesh_model::cluster::{Cluster, UpstreamBind};
use pymesh_model::format::{AccessLog, LogSink};
use pymesh_model::listener::Listener;
use pymesh_model::overload::OverloadAction;
use pymesh_model::route::RouteTable;
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;

use crate::base::rng::Rng;
use crate::base::slab::Slab;
use crate::base::time::{Time, WallClock};
use crate::capture::ListenerAddresses;
use crate::check::Check;
use crate::check::ASKING_WORKER;
use crate::cluster::{ClusterKey, ClusterRuntime, Counters};
use crate::conn::{Conn, ConnKey, Protocol, Relay};
use crate::deadlines::Deadlines;
use crate::decisions::{Decision, Decisions};
use crate::exchange::{Asker, CallAnswer, Due, Exchange, ExchangeKey, NoAnswer, FIRST_BUFFER};
use crate::filter::log::LogCall;
use crate::filter::{FilterCall, Gates};
use crate::generations::LeavingChains;
use crate::health::health_of;
use crate::http_filter::Limiters;
use crate::jwks::Fetcher;
use crate::listener::{ListenerKey, ListenerRuntime};
use crate::otlp::OtlpQueue;
use crate::overload::{Full, Overload, Slot};
use crate::shared::Commons;
use crate::telemetry::date::Dates;
use crate::telemetry::istio::Shard;
use crate::telemetry::stats::{Http2Stats, Hub};
use crate::telemetry::Recorder;

/// What does not change while an engine lives.
#[derive(Clone)]
pub struct Options {
    /// Number of this worker, from 0.
    pub worker: usize,
    /// Seed of everything that is random.
    pub seed: u64,
    /// The wall clock, for logs and `date`.
    pub clock: WallClock,
    /// Octets of a body that may wait in an exchange, in each direction.
    pub stream_buffer: usize,
    /// How long connections of a listener that is gone may take to end.
    pub drain_time: Duration,
    /// Counters shared with the admin side.
    pub hub: Arc<Hub>,
    /// Istio's metrics shared with the admin side.
    pub shard: Arc<Shard>,
    /// Certificates and trust.
    pub secrets: Arc<SecretStore>,
    /// What the process has taken on, shared by all workers.
    pub overload: Arc<Overload>,
    /// What all workers count together.
    pub commons: Arc<Commons>,
}

/// What the driver is asked to do with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect, then report [`Engine::connected`] or [`Engine::failed`].
    Connect(ConnKey, SocketAddr),
    /// Close our half; the connection stays.
    ShutdownWrite(ConnKey),
    /// Close; the key means nothing any more.
    Close(ConnKey),
}

/// One worker's proxy: every connection, every request, every decision.
pub struct Engine {
    pub(crate) options: Options,
    pub(crate) now: Time,
    pub(crate) clock: WallClock,
    pub(crate) rng: Rng,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Tables that only connections of replaced listeners still name.
    pub(crate) leaving_routes: HashMap<Arc<str>, Arc<RouteTable>>,
    pub(crate) listeners: Slab<Arc<ListenerRuntime>>,
    /// Those that are out of force, while the driver still accepts what is in their queues.
    leaving_listeners: Vec<ListenerKey>,
    pub(crate) leaving_chains: LeavingChains,
    pub(crate) listener_addresses: ListenerAddresses,
    pub(crate) clusters: Slab<ClusterRuntime>,
    pub(crate) cluster_names: HashMap<Arc<str>, ClusterKey>,
    /// Clusters that are asked before they are given their names ([`crate::check`]).
    pub(crate) warming: HashMap<Arc<str>, ClusterKey>,
    pub(crate) conns: Slab<Box<Conn>>,
    /// The number that the last of them was given.
    pub(crate) last_connection: u64,
    /// How many of them are downstream.
    pub(crate) clients: usize,
    pub(crate) exchanges: Slab<Box<Exchange>>,
    // Boxed as in the slab: recycling moves a pointer.
    #[allow(clippy::vec_box)]
    pub(crate) spare_exchanges: Vec<Box<Exchange>>,
    pub(crate) relays: Slab<Relay>,
    pub(crate) checks: Slab<Check>,
    pub(crate) fetchers: Slab<Fetcher>,
    pub(crate) otlp_queues: Slab<OtlpQueue>,
    pub(crate) timers: Deadlines,
    pub(crate) ready: VecDeque<ExchangeKey>,
    pub(crate) rescans: Vec<ConnKey>,
    pub(crate) dirty: Vec<ConnKey>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) filters: Gates,
    pub(crate) limiters: Limiters,
    pub(crate) filter_calls: Vec<FilterCall>,
    /// [`FilterCall::id`].
    pub(crate) last_filter_call: u64,
    /// Of those that run elsewhere: see `exchange/away.rs`.
    pub(crate) released_calls: Vec<u64>,
    pub(crate) call_answers: Vec<(Asker, Result<CallAnswer, NoAnswer>)>,
    pub(crate) log_calls: Vec<LogCall>,
    pub(crate) telemetry: Recorder,
    pub(crate) decisions: Decisions,
    /// HTTP/2 with clients.
    pub(crate) http2_stats: Arc<Http2Stats>,
    pub(crate) dates: Dates,
    pub(crate) scratch: h2::Scratch,
    pub(crate) plain: Vec<u8>,
    /// Room to compose a header value.
    pub(crate) text: Vec<u8>,
    /// Room to keep what a level of header operations is to do.
    pub(crate) edits: Vec<Due>,
    pub(crate) last_transport_failure: Option<String>,
    pub(crate) draining: bool,
    /// Of the secrets, as far as this worker has looked.
    pub(crate) removals: u64,
    pub(crate) moves: u64,
    /// Of the commons, as far as this worker has looked.
    pub(crate) health_version: u64,
}

/// Plaintext that one TLS flight takes at most, so that one connection with
/// much to send does not double its memory.
const TLS_FLIGHT: usize = 64 * 1024;

impl Engine {
    /// An engine without configuration.
    pub fn new(options: Options) -> Engine {
        Engine {
            now: Time::default(),
            clock: options.clock,
            rng: Rng::new(options.seed),
            secrets: options.secrets.clone(),
            snapshot: Arc::default(),
            leaving_routes: HashMap::new(),
            listeners: Slab::default(),
            leaving_listeners: Vec::new(),
            leaving_chains: LeavingChains::default(),
            listener_addresses: ListenerAddresses::default(),
            clusters: Slab::default(),
            cluster_names: HashMap::new(),
            warming: HashMap::new(),
            conns: Slab::default(),
            last_connection: 0,
            clients: 0,
            exchanges: Slab::default(),
            spare_exchanges: Vec::new(),
            relays: Slab::default(),
            checks: Slab::default(),
            fetchers: Slab::default(),
            otlp_queues: Slab::default(),
            timers: Deadlines::default(),
            ready: VecDeque::new(),
            rescans: Vec::new(),
            dirty: Vec::new(),
            actions: VecDeque::new(),
            filters: Gates::default(),
            limiters: Limiters::default(),
            filter_calls: Vec::new(),
            last_filter_call: 0,
            released_calls: Vec::new(),
            call_answers: Vec::new(),
            log_calls: Vec::new(),
            telemetry: Recorder::new(
                options.clock,
                Arc::default(),
                options.shard.clone(),
                options.hub.file_log(options.worker),
            ),
            decisions: Decisions::default(),
            http2_stats: options.hub.http2(options.worker),
            dates: Dates::default(),
            scratch: h2::Scratch::default(),
            plain: Vec::new(),
            text: Vec::new(),
            edits: Vec::new(),
            last_transport_failure: None,
            draining: false,
            removals: 0,
            moves: 0,
            health_version: 0,
            options,
        }
    }

    /// Sets the time for everything until the next turn.
    pub fn begin_turn(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.look_at_health();
    }

    /// Takes a new configuration. What is unchanged keeps its state; what has
    /// gone is drained. Returns what could not be used, in words; the rest is
    /// in force.
    pub fn apply(&mut self, snapshot: Arc<Snapshot>) -> Vec<String> {
        self.telemetry.reconfigure(&snapshot.node);
        self.apply_clusters(&snapshot);
        let errors = self.apply_listeners(&snapshot);
        self.apply_fetchers();
        self.limiters.apply(&snapshot, self.now, &self.options);
        self.keep_leaving_routes(&snapshot);
        self.snapshot = snapshot;
        self.look_at_trust();
        errors
    }

    /// Connections of a listener that was replaced serve what they have to
    /// serve by the tables that it named, although nobody else names them.
    fn keep_leaving_routes(&mut self, snapshot: &Snapshot) {
        let known = self.snapshot.routes.iter().chain(&self.leaving_routes);
        let lost: HashMap<Arc<str>, Arc<RouteTable>> = known
            .filter(|(name, _)| !snapshot.routes.contains_key(*name))
            .map(|(name, table)| (name.clone(), table.clone()))
            .collect();
        self.leaving_routes.clear();
        if lost.is_empty() {
            return;
        }
        for down in self.conns.iter().filter_map(|conn| conn.downstream()) {
            for name in down.listener.route_names() {
                if let Some(table) = lost.get(name) {
                    self.leaving_routes.insert(name.clone(), table.clone());
                }
            }
        }
    }

    fn apply_clusters(&mut self, snapshot: &Snapshot) {
        let (mut named, mut warming) = (std::mem::take(&mut self.cluster_names), std::mem::take(&mut self.warming));
        // One that has warmed up is given its name, if it takes the place of none.
        for name in snapshot.clusters.keys() {
            if !named.contains_key(name) {
                named.extend(warming.remove_entry(name));
            }
        }
        let mut changed = self.align_clusters(&mut named, &snapshot.clusters);
        let nobody = HashMap::new();
        let asks = self.options.worker == ASKING_WORKER;
        changed.extend(self.align_clusters(&mut warming, if asks { &snapshot.warming } else { &nobody }));
        (self.cluster_names, self.warming) = (named, warming);
        for key in changed {
            self.arm_sweep(key);
            self.apply_checks(key);
        }
    }

    /// Makes clusters by name what they are to be. Returns those that are new or have changed.
    fn align_clusters(
        &mut self,
        known: &mut HashMap<Arc<str>, ClusterKey>,
        wanted: &HashMap<Arc<str>, Arc<Cluster>>,
    ) -> Vec<ClusterKey> {
        let mut to_close: Vec<ConnKey> = Vec::new();
        let mut changed: Vec<ClusterKey> = Vec::new();
        // By name: each new cluster draws on the generator, so the order in
        // which a map happens to hold them must not count.
        let mut named: Vec<_> = wanted.iter().collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        for (name, config) in named {
            let current = known.get(name).copied();
            if let Some(cluster) = current.and_then(|key| self.clusters.get_mut(key)) {
                if Arc::ptr_eq(&cluster.config, config) {
                    continue;
                }
                if cluster.keeps_wire(config) {
                    let health = health_of(&self.options, name, config);
                    to_close.extend(cluster.update(config.clone(), health, self.now, &mut self.rng));
                    changed.extend(current);
                    continue;
                }
            }
            if let Some(old) = current {
                to_close.extend(self.retire_cluster(old));
            }
            let counters = Counters::new(config, self.options.worker, &self.options.hub);
            let commons = &self.options.commons;
            let health = health_of(&self.options, name, config);
            let runtime = ClusterRuntime::new(config.clone(), counters, commons, health, self.now, &mut self.rng);
            let key = self.clusters.insert_with(|_| runtime);
            changed.push(key);
            known.insert(name.clone(), key);
        }
        let mut gone: Vec<Arc<str>> = known.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        gone.sort_unstable();
        for name in gone {
            if let Some(key) = known.remove(&name) {
                to_close.extend(self.retire_cluster(key));
            }
        }
        self.retire_upstreams(to_close);
        changed
    }

    /// The cluster of this name in the snapshot in force.
    pub(crate) fn cluster_named(&self, name: &str) -> Option<ClusterKey> {
        self.cluster_names.get(name).copied()
    }

    /// Takes a cluster out of service; it goes with its last request.
    pub(crate) fn retire_cluster(&mut self, key: ClusterKey) -> Vec<ConnKey> {
        let Some(cluster) = self.clusters.get_mut(key) else { return Vec::new() };
        cluster.removed = true;
        let pooled: Vec<ConnKey> = cluster.hosts.iter().flat_map(|host| host.pooled()).collect();
        self.apply_checks(key);
        self.drop_cluster_if_over(key);
        pooled
    }

    /// Forgets a retired cluster that nobody uses any more.
    pub(crate) fn drop_cluster_if_over(&mut self, key: ClusterKey) {
        if self.clusters.get(key).is_some_and(ClusterRuntime::is_over) {
            self.clusters.remove(key);
        }
    }

    /// Closes pooled connections, each once it has no request.
    pub(crate) fn retire_upstreams(&mut self, keys: Vec<ConnKey>) {
        for key in keys {
            self.retire_upstream(key);
        }
    }

    fn retire_upstream(&mut self, key: ConnKey) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        let is_busy = match &conn.protocol {
            Protocol::Http2Client(h2) => h2.active_streams() > 0,
            Protocol::Http1Client(h1) => h1.exchange.is_some(),
            _ => false,
        };
        if let Some(up) = conn.upstream_mut() {
            up.draining = true;
        }
        if !is_busy {
            self.close_now(&mut conn);
        }
        self.conns.give_back(key, conn);
    }

    fn apply_listeners(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut errors = Vec::new();
        let mut stale: Vec<ListenerKey> = self
            .listeners()
            .filter(|(_, old)| !snapshot.listeners.iter().any(|new| Arc::ptr_eq(new, old)))
            .map(|(key, _)| key)
            .collect();
        for config in &snapshot.listeners {
            if self.listeners().any(|(_, old)| Arc::ptr_eq(&old, config)) {
                continue;
            }
            let at_its_address =
                |key: &&ListenerKey| self.listeners.get(**key).is_some_and(|old| old.config.address == config.address);
            let replaced = stale.iter().find(at_its_address).copied();
            let old = replaced.and_then(|key| self.listeners.get(key)).cloned();
            match ListenerRuntime::new(config, old.as_deref(), &self.options, self.now) {
                Ok(runtime) => {
                    let new = Arc::new(runtime);
                    if let Some(old) = &old {
                        self.keep_connections(old, &new);
                    }
                    self.listeners.insert_with(|_| new);
                }
                Err(error) => {
                    errors.push(error);
                    // What served at that address goes on.
                    stale.retain(|key| Some(*key) != replaced);
                }
            }
        }
        for key in stale {
            if let Some(old) = self.listeners.get(key).cloned() {
                self.leaving_listeners.push(key);
                self.keep_leaving_filters(&old);
                self.drain_listener(&old);
            }
        }
        self.listener_addresses = ListenerAddresses::of(self.listeners());
        errors
    }

    /// The listeners in force, for the driver to bind.
    pub fn listeners(&self) -> impl Iterator<Item = (ListenerKey, Arc<Listener>)> + '_ {
        self.listeners_in_force().map(|(key, listener)| (key, listener.config.clone()))
    }

    pub(crate) fn listeners_in_force(&self) -> impl Iterator<Item = (ListenerKey, &Arc<ListenerRuntime>)> + '_ {
        let in_force = self.listeners.keys().filter(|key| !self.leaving_listeners.contains(key));
        in_force.filter_map(|key| Some((key, self.listeners.get(key)?)))
    }

    /// Forgets the listeners that are out of force and that the driver accepts no more connections for.
    pub fn release_listeners(&mut self, is_in_use: impl Fn(ListenerKey) -> bool) {
        let (in_use, over): (Vec<_>, Vec<_>) = self.leaving_listeners.drain(..).partition(|key| is_in_use(*key));
        self.leaving_listeners = in_use;
        for key in over {
            self.listeners.remove(key);
        }
    }

    /// A client has connected. `None` if the listener is gone, or there is no place for the connection.
    pub fn accept(&mut self, listener: ListenerKey, remote: SocketAddr, local: SocketAddr) -> Option<ConnKey> {
        self.admit(listener, remote, local, false)
    }

    /// [`Engine::accept`] for a connection whose original destination, `wanted`, the driver has found out.
    pub fn accept_redirected(
        &mut self,
        listener: ListenerKey,
        remote: SocketAddr,
        wanted: SocketAddr,
    ) -> Option<ConnKey> {
        self.admit(listener, remote, wanted, true)
    }

    fn admit(
        &mut self,
        listener: ListenerKey,
        remote: SocketAddr,
        local: SocketAddr,
        is_redirected: bool,
    ) -> Option<ConnKey> {
        let is_leaving = self.leaving_listeners.contains(&listener);
        let ends_at = if is_leaving { self.now + self.options.drain_time } else { Time::NEVER };
        let listener = self.listeners.get(listener)?.clone();
        if self.options.overload.is_active(OverloadAction::RejectIncomingConnections) {
            listener.stats.downstream_cx_overload_reject.inc();
            return None;
        }
        let slot = match Slot::take(&self.options.overload, &listener.load) {
            Ok(slot) => slot,
            Err(Full::Listener) => {
                listener.stats.downstream_cx_overflow.inc();
                return None;
            }
            Err(Full::Process) => {
                listener.stats.downstream_global_cx_overflow.inc();
                return None;
            }
        };
        let (now, id) = (self.now, self.next_connection_id());
        let key = self.conns.insert_with(|key| {
            let conn = Conn::from_client(key, listener, slot, remote, local, now);
            Box::new(Conn { id, ..conn })
        });
        self.clients += 1;
        let mut conn = self.conns.lend(key)?;
        if let Some(down) = conn.downstream_mut() {
            // It was in the queue: it is served, and told.
            down.draining = self.draining || is_leaving;
            down.ends_at = ends_at;
            down.is_restored = is_redirected;
            down.hands_off = is_redirected && down.listener.config.capture.hand_off;
        }
        self.begin_inspection(&mut conn);
        self.conns.give_back(key, conn);
        Some(key)
    }

    /// Does everything that can be done now.
    pub fn advance(&mut self) {
        while let Some(expired) = self.timers.pop(self.now) {
            match expired {
                crate::deadlines::Expired::Conn(index) => self.check_conn(index),
                crate::deadlines::Expired::Exchange(index) => self.check_exchange(index),
                crate::deadlines::Expired::Cluster(index) => self.on_cluster_due(index),
                crate::deadlines::Expired::Check(index) => self.on_check_due(index),
                crate::deadlines::Expired::Fetcher(index) => self.on_fetcher_due(index),
                crate::deadlines::Expired::OtlpQueue(index) => self.on_otlp_queue_due(index),
            }
        }
        loop {
            while let Some(key) = self.rescans.pop() {
                self.process_again(key);
            }
            match self.ready.pop_front() {
                Some(key) => self.advance_exchange(key),
                None if self.rescans.is_empty() => break,
                None => {}
            }
        }
        self.queue_records();
        // Of what this worker has found out itself.
        self.look_at_health();
    }

    fn check_conn(&mut self, index: usize) {
        let Some(key) = self.conns.key_at(index) else { return };
        let Some(deadline) = self.conns.get(key).map(|conn| conn.deadline) else { return };
        match deadline > self.now {
            true => self.timers.arm_conn(key, deadline),
            false => self.on_conn_deadline(key),
        }
    }

    fn check_exchange(&mut self, index: usize) {
        let Some(key) = self.exchanges.key_at(index) else { return };
        let Some(deadline) = self.exchanges.get(key).map(|exchange| exchange.deadline) else { return };
        match deadline > self.now {
            true => self.timers.arm_exchange(key, deadline),
            false => self.on_exchange_deadline(key),
        }
    }

    /// When [`Engine::advance`] has something to do without any input.
    pub fn next_timeout(&self) -> Option<Time> {
        match self.ready.is_empty() && self.rescans.is_empty() {
            true => self.timers.next(),
            false => Some(self.now),
        }
    }

    /// The next thing to do with a socket.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Connections that have something to send, or may be read again.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnKey>) {
        into.append(&mut self.dirty);
        for key in into.iter() {
            if let Some(conn) = self.conns.get_mut(*key) {
                conn.is_dirty = false;
            }
        }
    }

    /// What the socket of an upstream connection is given before it connects.
    pub fn upstream_bind(&self, key: ConnKey) -> Option<&UpstreamBind> {
        let up = self.conns.get(key)?.upstream()?;
        self.clusters.get(up.cluster).map(|cluster| &cluster.config.bind)
    }

    /// What is to be written to the socket now.
    pub fn output(&mut self, key: ConnKey) -> &[u8] {
        let Some(conn) = self.conns.get_mut(key) else { return &[] };
        let Conn { tls, protocol, output, preamble, .. } = &mut **conn;
        if let Some(preamble) = preamble {
            return preamble.as_slice();
        }
        let Some(tls) = tls else {
            return match protocol {
                Protocol::Http2Server(h2) | Protocol::Http2Client(h2) => h2.output(),
                _ => output.as_slice(),
            };
        };
        if !tls.is_handshaking() && tls.output().is_empty() {
            match protocol {
                Protocol::Http2Server(h2) | Protocol::Http2Client(h2) => {
                    let flight = h2.output().len().min(TLS_FLIGHT);
                    tls.send(h2.output().get(..flight).unwrap_or_default());
                    h2.advance_output(flight);
                }
                _ => {
                    let flight = output.len().min(TLS_FLIGHT);
                    tls.send(output.as_slice().get(..flight).unwrap_or_default());
                    output.advance(flight);
                }
            }
            if matches!(protocol, Protocol::Closing { .. }) && output.is_empty() {
                tls.close();
            }
        }
        tls.output()
    }

    /// So much of [`Engine::output`] was written. Call it with 0 as well, when
    /// there was nothing to write.
    pub fn sent(&mut self, key: ConnKey, n: usize) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        conn.sent = conn.sent.wrapping_add(n as u64);
        let Conn { tls, protocol, output, preamble, .. } = &mut *conn;
        match (tls, protocol) {
            _ if preamble.is_some() => {
                let left = preamble.take().map(|mut octets| {
                    octets.advance(n);
                    octets
                });
                *preamble = left.filter(|octets| !octets.is_empty());
            }
            (Some(tls), _) => tls.advance_output(n),
            (None, Protocol::Http2Server(h2) | Protocol::Http2Client(h2)) => h2.advance_output(n),
            (None, _) => output.advance(n),
        }
        let unsent = conn.unsent();
        if unsent < conn.buffer_limit / 2 && !conn.waiting_for_room.is_empty() && !conn.is_full() {
            self.on_room(&mut conn);
        }
        if unsent == 0 {
            match conn.protocol {
                Protocol::Closing { .. } => self.on_closing_flushed(&mut conn),
                Protocol::Tcp(_) => self.on_relay_flushed(&mut conn),
                Protocol::Tunnel(_) => self.on_tunnel_flushed(&mut conn),
                _ => {}
            }
        }
        self.conns.give_back(key, conn);
    }

    /// There was no descriptor for a client's connection: it was closed.
    pub fn refuse_connection(&mut self, listener: ListenerKey) {
        if let Some(listener) = self.listeners.get(listener) {
            listener.stats.downstream_cx_overload_reject.inc();
        }
    }

    /// False while the driver should leave a connection's input in its socket.
    pub fn wants_read(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|conn| {
            // What a client sends is read on for a while, so that its end is noticed.
            let has_room = conn.downstream().is_some() && conn.input.len() < conn.buffer_limit;
            !conn.peer_closed && (!conn.paused || has_room)
        })
    }

    /// Most octets to read at once. Of an answer of which its client has taken nothing yet it is little: it may never
    /// take any.
    pub fn read_size(&self, key: ConnKey) -> usize {
        match self.conns.get(key).map(|conn| &conn.protocol) {
            Some(Protocol::Http1Client(h1)) => {
                let exchange = h1.exchange.and_then(|exchange| self.exchanges.get(exchange));
                exchange.map_or(FIRST_BUFFER, |exchange| exchange.response_room())
            }
            _ => usize::MAX,
        }
    }

    /// Downstream connections that are open.
    pub fn downstream_connections(&self) -> usize {
        self.clients
    }

    /// All connections, requests and relays: zero when nothing leaks and nothing runs.
    pub fn in_use(&self) -> (usize, usize, usize) {
        (self.conns.len(), self.exchanges.len(), self.relays.len())
    }

    /// Hands out access log lines; `write` empties what it has written.
    pub fn take_log_lines(&mut self, write: impl FnMut(&LogSink, &mut Vec<u8>)) {
        self.telemetry.take_lines(write);
    }

    /// True if there are lines to hand out.
    pub fn has_log_lines(&self) -> bool {
        self.telemetry.has_lines()
    }

    /// From now on every request is written to this log as well; to none with `None`.
    pub fn tap(&mut self, log: Option<Arc<AccessLog>>) {
        self.telemetry.tap = log;
    }

    /// True if requests are written to a log of [`Engine::tap`].
    pub fn is_tapped(&self) -> bool {
        self.telemetry.tap.is_some()
    }

    /// From now on decisions are kept for [`Engine::take_decisions`].
    pub fn explain(&mut self) {
        self.decisions = Decisions::wanted();
    }

    /// What was decided since the last time, in order; nothing unless [`Engine::explain`] was called.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        self.decisions.take()
    }
}
