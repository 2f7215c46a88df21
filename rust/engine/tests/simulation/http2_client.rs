//! A client that sends its requests over HTTP/2, several at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::Limits;

use super::chance::Chance;
use super::config;
use super::environment::{note, Environment};
use super::http1::{check_trailers, id_of, request_head, trailers};
use super::ledger::Outcome;
use super::payload::{body, Expected, Way};
use super::plan::ClientPlan;
use super::socket::Input;
use super::wire::Wire;
use super::world::Client;

const MOST_FAILURES: u32 = 4;

pub struct Http2Client {
    name: String,
    actor: usize,
    plan: ClientPlan,
    chance: Chance,
    most_streams: usize,
    queue: VecDeque<u32>,
    link: Option<Link>,
    wake: Option<Time>,
    failures: u32,
}

struct Link {
    wire: Wire,
    codec: Connection,
    connected: bool,
    streams: BTreeMap<StreamId, Stream>,
    unreleased: VecDeque<(StreamId, usize)>,
    scratch: Scratch,
}

struct Stream {
    id: u32,
    body: Vec<u8>,
    sent: usize,
    ended: bool,
    status: u16,
    local: bool,
    expected: Option<Expected>,
    received: usize,
}

impl Http2Client {
    pub fn new(name: String, actor: usize, plan: ClientPlan, chance: Chance, most_streams: usize) -> Http2Client {
        let (queue, wake) = (plan.requests.iter().copied().collect(), Some(plan.start));
        Http2Client { name, actor, plan, chance, most_streams, queue, link: None, wake, failures: 0 }
    }
}

impl Client for Http2Client {
    fn wake_at(&self) -> Option<Time> {
        match &self.link {
            Some(link) if link.wire.may_have_more => Some(Time::default()),
            _ => self.wake,
        }
    }

    fn turn(&mut self, env: &mut Environment) {
        if self.wake.is_some_and(|due| due <= env.now) {
            self.wake = None;
        }
        for id in env.network.edges(self.actor) {
            env.network.take_edge(id);
        }
        if self.link.is_none() {
            if self.queue.is_empty() || self.wake.is_some() {
                return;
            }
            let id = env.network.connect(env.now, self.actor, config::entrance()[0]);
            note!(env, &self.name, "connects {id:?}");
            let limits = Limits { stream_window: self.plan.window, ..Limits::default() };
            self.link = Some(Link {
                wire: Wire::new(id, self.plan.read_size),
                codec: Connection::new(Config { limits, ..Config::new(Role::Client) }),
                connected: false,
                streams: BTreeMap::new(),
                unreleased: VecDeque::new(),
                scratch: Scratch::default(),
            });
        }
        let Some(mut link) = self.link.take() else { return };
        if !link.connected {
            match env.network.is_connected(link.wire.id) {
                None => return self.link = Some(link),
                Some(ok) => link.connected = ok,
            }
        }
        let failure = match link.connected {
            true => self.run(env, &mut link),
            false => Some("refused"),
        };
        self.settle(env, link, failure);
    }
}

impl Http2Client {
    /// Everything that can be done now; says why the connection is over, if it is.
    fn run(&mut self, env: &mut Environment, link: &mut Link) -> Option<&'static str> {
        self.release(env, link);
        let mut failure = None;
        match link.wire.read(env, &self.name) {
            Input::Octets(octets) => self.receive(env, link, &octets),
            Input::Nothing => {}
            Input::End => failure = Some("closed"),
            Input::Reset => failure = Some("reset"),
        }
        if failure.is_none() {
            self.send(env, link);
            link.wire.out.extend_from_slice(link.codec.output());
            let n = link.codec.output().len();
            link.codec.advance_output(n);
            if !link.wire.flush(env, &self.name) {
                failure = Some("write");
            }
        }
        failure
    }

    /// Gives windows back, sometimes late.
    fn release(&mut self, env: &mut Environment, link: &mut Link) {
        while let Some((stream, n)) = link.unreleased.pop_front() {
            link.codec.release(stream, n);
            if self.chance.one_in(8) && !link.unreleased.is_empty() {
                self.wake = Some(env.now + Duration::from_micros(200));
                break;
            }
        }
    }

    fn receive(&mut self, env: &mut Environment, link: &mut Link, octets: &[u8]) {
        let Link { codec, scratch, streams, unreleased, .. } = link;
        let mut input = octets;
        while let Some(event) = codec.receive(&mut input, scratch).expect("the proxy speaks HTTP/2") {
            let (stream, over) = match event {
                Event::Response { stream, end_stream, .. } if !scratch.response.is_interim() => {
                    if let Some(entry) = streams.get_mut(&stream) {
                        let (status, answered) = (scratch.response.status, id_of(&scratch.response.headers));
                        note!(env, &self.name, "gets {status} for {}", entry.id);
                        assert!(
                            answered.is_none_or(|id| id == entry.id),
                            "{} gets the response of {answered:?}",
                            entry.id
                        );
                        assert!(answered.is_some() || status >= 400, "{status} without an id for {}", entry.id);
                        entry.status = status;
                        entry.local = answered.is_none();
                        let spec = env.ledger.spec(entry.id);
                        let has_body = status == 200 && spec.method != "HEAD";
                        entry.expected = has_body.then(|| Expected::new(entry.id, Way::Response, spec.response.length));
                    }
                    (stream, end_stream)
                }
                Event::Data { stream, data, end_stream, .. } => {
                    unreleased.push_back((stream, data.len()));
                    if let Some(entry) = streams.get_mut(&stream) {
                        entry.received += data.len();
                        if let Some(expected) = &mut entry.expected {
                            expected.take(data);
                        }
                    }
                    (stream, end_stream)
                }
                Event::Trailers { stream, .. } => {
                    if let Some(entry) = streams.get(&stream) {
                        check_trailers(entry.id, &env.ledger.spec(entry.id).response, &scratch.trailers);
                    }
                    (stream, true)
                }
                Event::Reset { stream, code, fault, .. } => {
                    assert_eq!(fault, None, "the proxy broke the rules of a stream: {code}");
                    if let Some(entry) = streams.remove(&stream) {
                        note!(env, &self.name, "is reset for {}: {code}", entry.id);
                        env.ledger.conclude(entry.id, Outcome::Broken("stream reset"));
                    }
                    continue;
                }
                _ => continue,
            };
            if over {
                let Some(entry) = streams.remove(&stream) else { continue };
                if let Some(expected) = &entry.expected {
                    expected.finish();
                }
                let outcome = match entry.local {
                    true => Outcome::Local(entry.status),
                    false => Outcome::Answered(entry.status),
                };
                note!(env, &self.name, "has {outcome:?} for {}", entry.id);
                env.ledger.conclude(entry.id, outcome);
                if !entry.ended {
                    codec.reset(stream, ErrorCode::CANCEL);
                }
            }
        }
    }

    fn send(&mut self, env: &mut Environment, link: &mut Link) {
        while link.codec.can_open() && link.streams.len() < self.most_streams {
            let Some(id) = self.queue.pop_front() else { break };
            let spec = env.ledger.spec(id).clone();
            env.ledger.begin(id);
            let has_trailers = spec.request.trailers && spec.request.length > 0;
            let ended = spec.request.length == 0;
            let mut head = request_head(&spec);
            head.headers.remove(b"expect");
            let stream = link.codec.open(&head, ended, id).expect("there is room");
            note!(env, &self.name, "begins {id} on {}, trailers {has_trailers}", stream.value());
            if ended {
                env.ledger.sent(id);
            }
            let body = body(id, Way::Request, spec.request.length);
            link.streams.insert(
                stream,
                Stream { id, body, sent: 0, ended, status: 0, local: false, expected: None, received: 0 },
            );
        }
        let mut order: Vec<StreamId> = link.streams.keys().copied().collect();
        self.chance.shuffle(&mut order);
        for stream in order {
            let Some(entry) = link.streams.get_mut(&stream) else { continue };
            let spec = env.ledger.spec(entry.id);
            if spec.abort.is_some_and(|most| entry.sent + entry.received > most) {
                note!(env, &self.name, "gives {} up", entry.id);
                env.ledger.conclude(entry.id, Outcome::Aborted);
                link.codec.reset(stream, ErrorCode::CANCEL);
                link.streams.remove(&stream);
                continue;
            }
            if spec.stop.is_some_and(|most| entry.sent > most) {
                continue;
            }
            if !entry.ended && link.wire.out.len() - link.wire.written < 64 * 1024 {
                let has_trailers = spec.request.trailers;
                let piece = &entry.body[entry.sent..];
                let piece = &piece[..piece.len().min(self.chance.size(40_000))];
                let last = entry.sent + piece.len() == entry.body.len();
                let sent = link.codec.send_data(stream, piece, last && !has_trailers).expect("the stream is open");
                entry.sent += sent;
                if sent > 0 && entry.sent < entry.body.len() {
                    self.wake = Some(env.now + Duration::from_micros(50));
                }
                if entry.sent == entry.body.len() {
                    if has_trailers {
                        link.codec.send_trailers(stream, &trailers(entry.id)).expect("the stream is open");
                    }
                    entry.ended = true;
                    env.ledger.sent(entry.id);
                }
            }
        }
    }

    fn settle(&mut self, env: &mut Environment, mut link: Link, failure: Option<&'static str>) {
        let is_idle = link.streams.is_empty();
        let wants_more = !self.queue.is_empty() || self.plan.lingers;
        let is_done = is_idle && (!wants_more || link.codec.is_closing()) && link.wire.is_flushed();
        if failure.is_none() && !is_done {
            return self.link = Some(link);
        }
        let why = failure.unwrap_or("done");
        note!(env, &self.name, "closes {:?}: {why}", link.wire.id);
        env.network.close(env.now, link.wire.id);
        for entry in std::mem::take(&mut link.streams).into_values() {
            note!(env, &self.name, "has a broken {}: {why}", entry.id);
            env.ledger.conclude(entry.id, Outcome::Broken(why));
        }
        if failure.is_some() {
            self.failures += 1;
            if self.failures > MOST_FAILURES {
                self.queue.clear();
            }
        }
        self.wake = (!self.queue.is_empty()).then(|| env.now + Duration::from_millis(10 * u64::from(self.failures)));
    }
}
