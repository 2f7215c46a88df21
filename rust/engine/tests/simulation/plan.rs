//! What a seed decides before a run starts: configuration, faults, clients and
//! every request with its answer.

use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_model::cluster::{Thresholds, UpstreamProtocol};

use super::chance::Chance;
use super::network::Weather;

/// What carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    /// HTTP/1 upgraded to a tunnel, with half-closes.
    Upgrade,
    /// The TCP proxies, with half-closes.
    Tcp,
}

/// A body and how its end is told.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub length: usize,
    /// By `content-length`; else by chunks or END_STREAM.
    pub declared: bool,
    pub trailers: bool,
}

/// What the app does with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers the whole request.
    Answer,
    /// Answers its head.
    AnswerEarly,
    /// 503, without a body.
    Unavailable,
    /// REFUSED_STREAM where that exists.
    Refuse,
    /// Says nothing, ever.
    Silence,
    /// Fails after so many octets of its answer.
    Break(usize),
    /// Answers what no client may accept.
    Nonsense,
}

#[derive(Clone, Debug)]
pub struct Spec {
    pub id: u32,
    pub kind: Kind,
    pub method: &'static str,
    pub request: Message,
    pub response: Message,
    /// For each attempt; the last for all that follow.
    pub behaviours: Vec<Behaviour>,
    pub delay: Duration,
    /// The client waits for `100 Continue`.
    pub expect: bool,
    /// The client gives up after so many octets of both bodies.
    pub abort: Option<usize>,
    /// The client sends so many octets of its body and then no more.
    pub stop: Option<usize>,
    /// Octets of a field that makes both heads long.
    pub padding: usize,
}

impl Spec {
    /// What an upgraded connection carries is no body.
    pub fn has_request_body(&self) -> bool {
        self.request.length > 0 && self.kind == Kind::Http
    }

    pub fn behaviour(&self, attempt: u32) -> Behaviour {
        let at = (attempt as usize - 1).min(self.behaviours.len() - 1);
        self.behaviours[at]
    }
}

/// Which failures a sidecar retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// Where nothing can have been processed.
    Safe(u32),
    /// Resets, 5xx and slow attempts too.
    Bold(u32),
}

impl Retry {
    /// The most attempts that may each have been processed.
    fn attempts(self) -> u32 {
        match self {
            Retry::Never | Retry::Safe(_) => 1,
            Retry::Bold(n) => n + 1,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub kind: ClientKind,
    pub requests: Vec<u32>,
    pub start: Time,
    pub read_size: usize,
    pub window: u32,
    /// Closes its half behind its last answer.
    pub half_closes: bool,
    /// Leaves its last connection to the proxy to close.
    pub lingers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// `pipelines`: does not wait for an answer before the next request.
    Http1 {
        pipelines: bool,
    },
    Http2 {
        streams: usize,
    },
    Tcp,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub faultless: bool,
    pub weather: Weather,
    pub tls: bool,
    /// Between the sidecars, and from the second to the app.
    pub mesh: UpstreamProtocol,
    pub app: UpstreamProtocol,
    pub retries: [Retry; 2],
    pub buffer_limit: usize,
    pub stream_buffer: usize,
    pub window: u32,
    pub requests_per_connection: u32,
    pub thresholds: Thresholds,
    /// Of the connections that clients make: their requests, their age.
    pub downstream_requests: u32,
    pub downstream_age: Duration,
    /// Streams that the second sidecar and the app allow.
    pub streams: [u32; 2],
    pub specs: Vec<Spec>,
    pub clients: Vec<ClientPlan>,
    /// When each sidecar gets another endpoint set.
    pub changes: [Vec<Time>; 2],
    /// A change brings new listeners too, so that the old ones are drained.
    pub relistens: bool,
    /// A change brings new clusters, so that the old ones are retired.
    pub replaces: bool,
    pub drains: [Option<Time>; 2],
    /// The first sidecar sends the app a copy of every request, past the second.
    pub mirrors: bool,
    /// Bodies pass filters, in both sidecars.
    pub filters: bool,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut chance = Chance::new(seed);
        let faultless = chance.one_in(4);
        let faults = |n: u64| if faultless { 0 } else { n };
        let weather = Weather {
            cuts: faults(*chance.pick(&[0, 5, 10, 40])),
            refusals: faults(*chance.pick(&[0, 4, 20])),
            losses: faults(*chance.pick(&[0, 0, 15])),
            stalls: faults(*chance.pick(&[0, 0, 500, 3000])),
            delay: Duration::from_micros(*chance.pick(&[0, 50, 1000, 5000])),
            capacity: *chance.pick(&[1024, 4096, 65_536]),
        };
        let tls = chance.one_in(3);
        let mut mesh = *chance.pick(&[UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Downstream]);
        if tls && chance.one_in(3) {
            mesh = UpstreamProtocol::Auto;
        }
        let app = *chance.pick(&[UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Downstream]);
        let mut retry = || *chance.pick(&[Retry::Never, Retry::Safe(2), Retry::Bold(2)]);
        let retries = [retry(), retry()];
        let mut plan = Plan {
            seed,
            mirrors: seed.is_multiple_of(3),
            filters: seed % 4 == 1,
            faultless,
            weather,
            tls,
            mesh,
            app,
            retries,
            buffer_limit: *chance.pick(&[1024, 16 * 1024, 256 * 1024]),
            stream_buffer: *chance.pick(&[1024, 16 * 1024, 256 * 1024]),
            window: *chance.pick(&[1024, 16 * 1024, 256 * 1024]),
            requests_per_connection: *chance.pick(&[0, 0, 1, 3]),
            thresholds: Thresholds {
                connections: *chance.pick(&[1024, 1, 2]),
                pending_requests: if faultless { 1024 } else { *chance.pick(&[1024, 1024, 1, 3]) },
                requests: if faultless { 1024 } else { *chance.pick(&[1024, 1024, 1, 3]) },
                retries: *chance.pick(&[3, 1]),
                ..Thresholds::default()
            },
            downstream_requests: *chance.pick(&[0, 0, 0, 1, 3]),
            downstream_age: Duration::from_millis(if faultless { 0 } else { *chance.pick(&[0, 0, 0, 5, 500]) }),
            // A stream beyond the limit is refused if it was opened before the limit was told.
            streams: if faultless { [100, 100] } else { [*chance.pick(&[100, 1, 3]), *chance.pick(&[100, 1, 3])] },
            specs: Vec::new(),
            clients: Vec::new(),
            changes: [Vec::new(), Vec::new()],
            relistens: !faultless && chance.one_in(3),
            replaces: chance.one_in(3),
            drains: [None, None],
        };
        for _ in 0..chance.range(1, 4) {
            plan.add_client(&mut chance);
        }
        let pipelines = plan.clients.iter().any(|c| c.kind == ClientKind::Http1 { pipelines: true });
        if faultless && pipelines {
            // What stands behind `connection: close` is not answered.
            plan.downstream_requests = 0;
        }
        for side in 0..2 {
            if chance.one_in(3) {
                plan.changes[side] = (0..chance.range(1, 4)).map(|_| moment(&mut chance)).collect();
                plan.changes[side].sort();
            }
            plan.drains[side] = (!faultless && chance.one_in(6)).then(|| moment(&mut chance));
        }
        plan
    }

    /// Attempts of one request that may each reach the app.
    pub fn most_attempts(&self) -> u32 {
        self.retries[0].attempts() * self.retries[1].attempts()
    }

    fn add_client(&mut self, chance: &mut Chance) {
        // An upgrade needs HTTP/1 all the way.
        let tunnels = self.mesh != UpstreamProtocol::Http2 && self.app != UpstreamProtocol::Http2;
        let kind = match chance.below(8) {
            0 => ClientKind::Tcp,
            1..=4 => ClientKind::Http1 { pipelines: chance.one_in(3) },
            _ => ClientKind::Http2 { streams: chance.range(1, 8) as usize },
        };
        let kind_of = |chance: &mut Chance| match kind {
            ClientKind::Tcp => Kind::Tcp,
            ClientKind::Http1 { pipelines: false }
                if tunnels && self.mesh != UpstreamProtocol::Auto && chance.one_in(8) =>
            {
                Kind::Upgrade
            }
            _ => Kind::Http,
        };
        let mut requests = Vec::new();
        let count = if kind == ClientKind::Tcp { chance.range(1, 3) } else { chance.range(1, 8) };
        for _ in 0..count {
            let id = self.specs.len() as u32;
            let kind = kind_of(chance);
            self.specs.push(spec(id, kind, self.faultless, chance));
            requests.push(id);
        }
        self.clients.push(ClientPlan {
            kind,
            requests,
            start: moment(chance),
            read_size: chance.size(64 * 1024).max(200),
            window: *chance.pick(&[100, 10_000, 1_000_000]),
            half_closes: chance.one_in(4),
            lingers: chance.one_in(4),
        });
    }
}

fn moment(chance: &mut Chance) -> Time {
    Time::from_nanos(chance.size(500_000_000) as u64)
}

fn spec(id: u32, kind: Kind, faultless: bool, chance: &mut Chance) -> Spec {
    let mut message = || Message {
        length: if chance.one_in(5) { 0 } else { chance.size(100 * 1024) },
        declared: chance.one_in(2),
        trailers: chance.one_in(4),
    };
    let (mut request, mut response) = (message(), message());
    if kind != Kind::Http {
        // Without one octet an answer and a cut look the same.
        response.length = response.length.max(1);
    }
    let method = *chance.pick(&["GET", "HEAD", "POST", "PUT", "DELETE"]);
    let method = if kind == Kind::Upgrade { "GET" } else { method };
    if kind == Kind::Http && !matches!(method, "POST" | "PUT") {
        request = Message { length: 0, declared: false, trailers: false };
    }
    let mut behaviour = || match chance.below(16) {
        0..8 if kind != Kind::Http => Behaviour::AnswerEarly,
        _ if kind != Kind::Http || faultless => Behaviour::Answer,
        0 => Behaviour::AnswerEarly,
        1 => Behaviour::Unavailable,
        2 => Behaviour::Refuse,
        3 => Behaviour::Silence,
        4 | 5 => Behaviour::Break(chance.size(100_000) - 1),
        6 => Behaviour::Nonsense,
        _ => Behaviour::Answer,
    };
    let behaviours = (0..3).map(|_| behaviour()).collect();
    let stops = !faultless && kind == Kind::Http && request.length > 0 && chance.one_in(12);
    Spec {
        id,
        kind,
        method,
        request,
        response,
        behaviours,
        delay: Duration::from_micros(*chance.pick(&[0, 0, 100, 20_000])),
        expect: method == "POST" && kind == Kind::Http && request.length > 0 && !stops && chance.one_in(4),
        abort: (!faultless && chance.one_in(10)).then(|| chance.size(100_000) - 1),
        stop: stops.then(|| chance.below(request.length as u64) as usize),
        padding: if chance.one_in(8) { chance.size(25_000) } else { 0 },
    }
}
