//! A driver without sockets: a clock that tests move, and the octets of each connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_http::Scheme;
use pymesh_load::{Action, Client, End, Kind, Pace, Plan, Protocol, Request, Share, Tally};

pub const KEPT: Protocol = Protocol::Http1 { keep_alive: true };
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A plan for tests: one worker, one connection, a closed loop of so many requests.
pub fn plan(protocol: Protocol, count: u64) -> Plan {
    Plan {
        address: SocketAddr::from(([127, 0, 0, 1], 80)),
        tls: None,
        protocol,
        requests: vec![request(protocol, "GET", b"")].into(),
        workers: 1,
        connections: 1,
        streams: 1,
        pace: Pace::Closed,
        end: End::Requests(count),
        warm_up: Duration::ZERO,
        timeout: Duration::from_secs(10),
    }
}

pub fn request(protocol: Protocol, method: &str, body: &[u8]) -> Request {
    Request::new(protocol, Scheme::Http, method, "a.test", "/", &[], body).unwrap()
}

/// A connection as the target sees it.
#[derive(Default)]
pub struct Wire {
    /// What the client has sent and no test has taken.
    pub sent: Vec<u8>,
    /// How often the client has connected in this place.
    pub opened: usize,
    pub is_open: bool,
}

pub struct World {
    pub client: Client,
    pub now: Duration,
    pub wires: BTreeMap<usize, Wire>,
    /// What a connection attempt meets; otherwise it succeeds at once.
    pub refuse: Option<&'static str>,
}

impl World {
    /// All connections are up, and requests begin at time zero.
    pub fn new(plan: Plan) -> World {
        let mut world = World::connecting(plan);
        world.client.begin(world.time());
        world.work();
        world
    }

    /// Connections are on their way.
    pub fn connecting(plan: Plan) -> World {
        let client = Client::new(plan, Share { worker: 0, of: 1 }, Time::default());
        let mut world = World { client, now: Duration::ZERO, wires: BTreeMap::new(), refuse: None };
        world.work();
        world
    }

    pub fn time(&self) -> Time {
        Time::default() + self.now
    }

    /// Lets the client advance until it rests.
    pub fn work(&mut self) {
        let mut dirty = Vec::new();
        loop {
            let now = self.time();
            self.client.advance(now);
            let mut acted = false;
            while let Some(action) = self.client.next_action() {
                acted = true;
                match action {
                    Action::Close(at) => self.wires.entry(at).or_default().is_open = false,
                    Action::Connect(at) => {
                        let wire = self.wires.entry(at).or_default();
                        assert!(!wire.is_open);
                        match self.refuse {
                            Some(why) => self.client.failed(at, why, now),
                            None => {
                                *wire = Wire { sent: Vec::new(), opened: wire.opened + 1, is_open: true };
                                self.client.connected(at, now);
                            }
                        }
                    }
                }
            }
            self.client.take_dirty(&mut dirty);
            for at in &dirty {
                loop {
                    let output = self.client.output(*at).to_vec();
                    if output.is_empty() {
                        break;
                    }
                    let wire = self.wires.entry(*at).or_default();
                    assert!(wire.is_open, "output on a closed connection");
                    wire.sent.extend_from_slice(&output);
                    self.client.sent(*at, output.len());
                }
            }
            if !acted && dirty.is_empty() {
                return;
            }
        }
    }

    /// Octets of the target arrive.
    pub fn say(&mut self, at: usize, octets: impl AsRef<[u8]>) {
        assert!(self.wires[&at].is_open, "nobody listens");
        let now = self.time();
        self.client.receive(at, octets.as_ref(), now);
        self.work();
    }

    /// The target closes.
    pub fn close(&mut self, at: usize) {
        let now = self.time();
        self.client.end_of_input(at, now);
        self.work();
    }

    /// Takes what the client has sent.
    pub fn heard(&mut self, at: usize) -> Vec<u8> {
        std::mem::take(&mut self.wires.get_mut(&at).unwrap().sent)
    }

    /// Time goes by; the client does what comes due.
    pub fn wait(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(due) = self.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.work();
            if self.next_timeout() == Some(due) {
                break;
            }
        }
        self.now = until;
        self.work();
    }

    pub fn next_timeout(&self) -> Option<Duration> {
        let next = self.client.next_timeout();
        (next != Time::NEVER).then(|| next.since(Time::default()))
    }

    pub fn tally(&self) -> &Tally {
        self.client.tally()
    }

    pub fn failures(&self, kind: Kind) -> u64 {
        self.tally().failures(kind).count
    }
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
