//! One engine with one listener and one cluster, driven by hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::base::time::{Time, WallClock};
use pymesh_engine::filter::{FilterCall, Heads, Outcome};
use pymesh_engine::shared::Commons;
use pymesh_engine::telemetry::istio::Shard;
use pymesh_engine::telemetry::stats::Hub;
use pymesh_engine::{Action, ConnKey, Engine, ListenerKey, Options};
use pymesh_model::cluster::*;
use pymesh_model::filter::{HttpFilter, RouteFilters};
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::matcher::HeaderMatch;
use pymesh_model::route::*;
use pymesh_model::stats::Stats;
use pymesh_model::testing;
pub use pymesh_model::testing::address;
use pymesh_model::tracing::Tracing;
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;

/// What the tests vary.
#[derive(Clone)]
pub struct Setup {
    pub is_tcp: bool,
    pub upstream: UpstreamHttp,
    pub thresholds: Thresholds,
    pub retry: Option<RetryPolicy>,
    pub headers: HeaderOps,
    pub upgrades: Vec<Upgrade>,
    /// Of the route.
    pub route_upgrades: Vec<Upgrade>,
    pub path: PathMatch,
    pub route_headers: Vec<HeaderMatch>,
    pub stream: StreamDuration,
    pub filters: Vec<Arc<HttpFilter>>,
    /// What the route says of them.
    pub said: RouteFilters,
    pub proxy_100_continue: bool,
    pub header_case: HeaderCase,
    pub buffer_limit: usize,
    pub requests_per_connection: u32,
    /// Of the route; they may name the cluster `shadow`.
    pub mirrors: Vec<Mirror>,
    /// Of the chain.
    pub policies: Vec<ConnectionPolicy>,
    /// There is a cluster `asked`, for filters that ask.
    pub asked: Option<UpstreamHttp>,
    pub tracing: Option<Tracing>,
    /// Of Istio's metrics.
    pub stats: Option<Arc<Stats>>,
    pub direction: Direction,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            is_tcp: false,
            upstream: UpstreamHttp::default(),
            thresholds: Thresholds::default(),
            retry: None,
            headers: HeaderOps::default(),
            upgrades: vec![],
            route_upgrades: vec![],
            path: PathMatch::Prefix("/".into()),
            route_headers: vec![],
            stream: StreamDuration::default(),
            filters: vec![],
            said: RouteFilters::default(),
            proxy_100_continue: false,
            header_case: HeaderCase::Lower,
            buffer_limit: 1 << 20,
            requests_per_connection: 0,
            mirrors: vec![],
            policies: vec![],
            asked: None,
            tracing: None,
            stats: None,
            direction: Direction::Unspecified,
        }
    }
}

/// A kind of tunnel that may be asked for.
pub fn upgrade(protocol: &str) -> Upgrade {
    Upgrade { protocol: protocol.into(), enabled: true, terminates: false }
}

/// What Python filters would do.
pub type Script = Box<dyn FnMut(&FilterCall, &mut Heads) -> Outcome>;

pub struct Rig {
    pub engine: Engine,
    pub script: Option<Script>,
    // Not every test looks at numbers.
    #[allow(dead_code)]
    pub hub: Arc<Hub>,
    #[allow(dead_code)]
    pub shard: Arc<Shard>,
    commons: Arc<Commons>,
    #[allow(dead_code)]
    pub secrets: Arc<SecretStore>,
    now: Time,
    listener: ListenerKey,
    /// What was asked of sockets and not looked at yet.
    pub actions: Vec<Action>,
    written: HashMap<ConnKey, Vec<u8>>,
    /// Sockets that take nothing now.
    pub blocked: Vec<ConnKey>,
    upstream: Option<ConnKey>,
}

impl Rig {
    pub fn new(setup: &Setup) -> Rig {
        Rig::with(snapshot(setup))
    }

    pub fn with(snapshot: Arc<Snapshot>) -> Rig {
        Rig::worker(0, snapshot, Arc::default(), Arc::default())
    }

    /// Another worker of the same process.
    #[allow(dead_code)]
    pub fn beside(one: &Rig, setup: &Setup) -> Rig {
        Rig::sharing(one, snapshot(setup))
    }

    /// The same with the very snapshot.
    #[allow(dead_code)]
    pub fn sharing(one: &Rig, snapshot: Arc<Snapshot>) -> Rig {
        Rig::worker(1, snapshot, one.hub.clone(), one.commons.clone())
    }

    fn worker(worker: usize, snapshot: Arc<Snapshot>, hub: Arc<Hub>, commons: Arc<Commons>) -> Rig {
        // A virtual clock, by which certificates of tests are valid.
        let secrets = Arc::new(SecretStore::new(pymesh_tls::testing::Clock::new()));
        let shard: Arc<Shard> = Arc::default();
        let mut engine = Engine::new(Options {
            worker,
            seed: 1,
            clock: WallClock::default(),
            overload: Arc::default(),
            commons: commons.clone(),
            stream_buffer: 64 * 1024,
            drain_time: Duration::from_secs(600),
            hub: hub.clone(),
            shard: shard.clone(),
            secrets: secrets.clone(),
        });
        assert_eq!(engine.apply(snapshot), Vec::<String>::new());
        let listener = engine.listeners().next().unwrap().0;
        let (actions, written, blocked) = (Vec::new(), HashMap::new(), Vec::new());
        let script = None;
        Rig {
            engine,
            script,
            hub,
            shard,
            commons,
            secrets,
            now: Time::default(),
            listener,
            actions,
            written,
            blocked,
            upstream: None,
        }
    }

    pub fn accept(&mut self) -> ConnKey {
        let key = self.engine.accept(self.listener, address(9, 5000), address(1, 80)).unwrap();
        self.work();
        key
    }

    /// The listener takes nobody any more.
    pub fn refuses(&mut self) -> bool {
        self.engine.accept(self.listener, address(9, 5000), address(1, 80)).is_none()
    }

    pub fn receive(&mut self, key: ConnKey, octets: &[u8]) {
        self.engine.receive(key, octets);
        self.work();
    }

    pub fn end(&mut self, key: ConnKey) {
        self.engine.end_of_input(key);
        self.work();
    }

    /// The only connection that is to be opened; it opens.
    pub fn open(&mut self) -> ConnKey {
        let key = self.connecting();
        self.engine.connected(key, address(1, 40_000));
        self.work();
        key
    }

    /// The connection to the endpoint: the first opens, and serves every request after that.
    pub fn open_or_reuse(&mut self) -> ConnKey {
        match self.upstream {
            Some(upstream) => upstream,
            None => {
                let upstream = self.open();
                self.upstream = Some(upstream);
                upstream
            }
        }
    }

    pub fn connecting(&mut self) -> ConnKey {
        let connects: Vec<ConnKey> = self
            .take_actions()
            .into_iter()
            .filter_map(|action| if let Action::Connect(key, _) = action { Some(key) } else { None })
            .collect();
        assert_eq!(connects.len(), 1, "one connection is to be opened");
        connects[0]
    }

    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Lets time pass, and every deadline on the way.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.engine.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.engine.begin_turn(self.now);
            self.work();
        }
        self.now = end;
        self.engine.begin_turn(end);
    }

    /// Lets time pass; deadlines are looked at only after what comes in next, as in a turn of a busy worker.
    pub fn oversleep(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.engine.begin_turn(self.now);
    }

    /// What was written to a socket since the last time.
    pub fn written(&mut self, key: ConnKey) -> Vec<u8> {
        self.written.remove(&key).unwrap_or_default()
    }

    pub fn text(&mut self, key: ConnKey) -> String {
        String::from_utf8(self.written(key)).unwrap()
    }

    /// A socket takes octets again.
    pub fn unblock(&mut self, key: ConnKey) {
        self.blocked.retain(|blocked| *blocked != key);
        self.flush(key);
        self.work();
    }

    fn flush(&mut self, key: ConnKey) {
        while !self.blocked.contains(&key) {
            let output = self.engine.output(key).to_vec();
            if output.is_empty() {
                break;
            }
            self.engine.sent(key, output.len());
            self.written.entry(key).or_default().extend(output);
        }
        self.engine.sent(key, 0);
    }

    /// Does what the script says; false if nobody is to be called.
    fn call_filters(&mut self) -> bool {
        let Some(script) = self.script.as_mut().filter(|_| self.engine.has_filter_calls()) else { return false };
        let mut calls = Vec::new();
        self.engine.take_filter_calls(&mut calls);
        for call in calls {
            let Some(mut heads) = self.engine.lend_heads(&call) else { continue };
            let outcome = script(&call, &mut heads);
            self.engine.finish_filter(&call, heads, outcome);
        }
        true
    }

    pub fn work(&mut self) {
        loop {
            self.engine.advance();
            if self.call_filters() {
                continue;
            }
            while let Some(action) = self.engine.next_action() {
                self.actions.push(action);
            }
            let mut dirty = Vec::new();
            self.engine.take_dirty(&mut dirty);
            if dirty.is_empty() {
                return;
            }
            dirty.into_iter().for_each(|key| self.flush(key));
        }
    }
}

pub fn snapshot(setup: &Setup) -> Arc<Snapshot> {
    let forward = Forward {
        stream: setup.stream,
        retry: setup.retry.clone().map(Arc::new),
        upgrades: setup.route_upgrades.clone(),
        mirrors: setup.mirrors.clone().into(),
        ..testing::forward("origin")
    };
    let mut route = testing::route("/", pymesh_model::route::Action::Forward(Arc::new(forward)));
    route.matches.path = setup.path.clone();
    route.matches.headers = setup.route_headers.clone();
    route.headers = setup.headers.clone();
    route.filters = setup.said.clone();
    let manager = HttpConnectionManager {
        filters: setup.filters.clone(),
        limits: HttpLimits { requests_per_connection: setup.requests_per_connection, ..HttpLimits::default() },
        upgrades: setup.upgrades.clone(),
        allow_connect: true,
        proxy_100_continue: setup.proxy_100_continue,
        header_case: setup.header_case,
        tracing: setup.tracing.clone(),
        stats: setup.stats.clone(),
        ..testing::http("in", testing::routes([route]))
    };
    let network = match setup.is_tcp {
        true => NetworkFilter::Tcp(Arc::new(TcpProxy { stats: setup.stats.clone(), ..testing::tcp("in", "origin") })),
        false => NetworkFilter::Http(Arc::new(manager)),
    };
    let chain = FilterChain { policies: setup.policies.clone(), ..testing::filter_chain(network) };
    let listener = Listener {
        buffer_limit: setup.buffer_limit,
        direction: setup.direction,
        ..testing::listener("in", address(1, 80), chain)
    };
    let cluster = Cluster {
        circuit_breakers: setup.thresholds.into(),
        http: setup.upstream.clone(),
        buffer_limit: setup.buffer_limit,
        ..testing::cluster("origin", [address(3, 8080)])
    };
    let shadow = Cluster { buffer_limit: setup.buffer_limit, ..testing::cluster("shadow", [address(4, 8080)]) };
    let shadow = (!setup.mirrors.is_empty()).then_some(shadow);
    let asked = setup.asked.clone().map(|http| Cluster { http, ..testing::cluster("asked", [address(5, 8080)]) });
    Arc::new(testing::snapshot([listener], [cluster].into_iter().chain(shadow).chain(asked)))
}
