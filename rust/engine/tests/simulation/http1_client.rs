//! A client that sends its requests over HTTP/1.1, one connection at a time.

use std::collections::VecDeque;
use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_http::h1::{self, Framing};
use pymesh_http::{Limits, Method, ResponseHead};

use super::config;
use super::environment::{note, Environment};
use super::http1::{self, Body};
use super::ledger::Outcome;
use super::payload::Way;
use super::plan::{ClientPlan, Kind};
use super::socket::Input;
use super::tunnel::Tunnel;
use super::wire::Wire;
use super::world::Client;

/// Connections that fail before a client gives its other requests up.
const MOST_FAILURES: u32 = 4;

pub struct Http1Client {
    name: String,
    actor: usize,
    plan: ClientPlan,
    pipelines: bool,
    queue: VecDeque<u32>,
    link: Option<Link>,
    wake: Option<Time>,
    failures: u32,
}

struct Link {
    wire: Wire,
    connected: bool,
    input: Vec<u8>,
    in_flight: VecDeque<Sent>,
    reading: Option<Reading>,
    tunnel: Option<Tunnel>,
    last: bool,
}

struct Sent {
    id: u32,
    /// Where in the output it begins and ends.
    start: usize,
    end: usize,
    told: bool,
    /// What waits for `100 Continue`.
    held: Vec<u8>,
}

struct Reading {
    status: u16,
    local: bool,
    body: Body,
}

/// How a turn left the connection.
enum Fate {
    Goes,
    /// No request follows on it.
    Over,
    Failed(&'static str),
    Abort,
}

impl Http1Client {
    pub fn new(name: String, actor: usize, plan: ClientPlan, pipelines: bool) -> Http1Client {
        let (queue, wake) = (plan.requests.iter().copied().collect(), Some(plan.start));
        Http1Client { name, actor, plan, pipelines, queue, link: None, wake, failures: 0 }
    }
}

impl Client for Http1Client {
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
            self.link = Some(Link {
                wire: Wire::new(id, self.plan.read_size),
                connected: false,
                input: Vec::new(),
                in_flight: VecDeque::new(),
                reading: None,
                tunnel: None,
                last: false,
            });
        }
        let Some(mut link) = self.link.take() else { return };
        if !link.connected {
            match env.network.is_connected(link.wire.id) {
                None => return self.link = Some(link),
                Some(ok) => link.connected = ok,
            }
        }
        let fate = match link.connected {
            true => self.run(env, &mut link),
            false => Fate::Failed("refused"),
        };
        self.settle(env, link, fate);
    }
}

impl Http1Client {
    fn run(&mut self, env: &mut Environment, link: &mut Link) -> Fate {
        self.send_next(env, link);
        if !link.wire.flush(env, &self.name) {
            // What has arrived before the reset is still worth reading.
            while let Input::Octets(octets) = link.wire.read(env, &self.name) {
                link.input.extend(octets);
            }
            let read = self.take_input(env, link);
            return if matches!(read, Fate::Goes) { Fate::Failed("write") } else { read };
        }
        self.tell_sent(env, link);
        let fate = match link.wire.read(env, &self.name) {
            Input::Octets(octets) => {
                link.input.extend(octets);
                self.take_input(env, link)
            }
            Input::Nothing => Fate::Goes,
            Input::End => self.on_end(env, link),
            Input::Reset => Fate::Failed("reset"),
        };
        if matches!(fate, Fate::Goes) && self.is_fed_up(env, link) {
            return Fate::Abort;
        }
        if matches!(fate, Fate::Goes) {
            self.send_next(env, link);
            if !link.wire.flush(env, &self.name) {
                return Fate::Failed("write");
            }
            self.tell_sent(env, link);
        }
        fate
    }

    fn is_answered(&self, link: &Link) -> bool {
        self.queue.is_empty() && link.in_flight.is_empty() && !link.last
    }

    fn is_done(&self) -> bool {
        self.queue.is_empty() && !self.plan.lingers
    }

    fn send_next(&mut self, env: &mut Environment, link: &mut Link) {
        // Who closes it earlier has left.
        link.wire.ends |= self.plan.half_closes && self.is_answered(link);
        while !link.last && (link.in_flight.is_empty() || self.pipelines) && link.tunnel.is_none() {
            let Some(id) = self.queue.pop_front() else { break };
            let spec = env.ledger.spec(id).clone();
            env.ledger.begin(id);
            note!(env, &self.name, "begins {id}");
            let start = link.wire.out.len();
            let head = http1::write_request(&spec, &mut link.wire.out);
            let held = match (spec.expect, spec.stop) {
                (true, _) => link.wire.out.split_off(head),
                (false, Some(n)) => link.wire.out.split_off(head + n),
                (false, None) => Vec::new(),
            };
            if spec.kind == Kind::Upgrade {
                link.tunnel = Some(Tunnel::client(id, &spec));
            }
            link.last = spec.kind == Kind::Upgrade || spec.expect || spec.stop.is_some();
            link.in_flight.push_back(Sent { id, start, end: link.wire.out.len() + held.len(), told: false, held });
        }
    }

    fn tell_sent(&mut self, env: &mut Environment, link: &mut Link) {
        for sent in link.in_flight.iter_mut().filter(|sent| !sent.told && link.wire.written >= sent.end) {
            sent.told = true;
            env.ledger.sent(sent.id);
        }
    }

    /// Octets of the first exchange, both ways, have reached where its script ends.
    fn is_fed_up(&self, env: &Environment, link: &Link) -> bool {
        let Some(first) = link.in_flight.front() else { return false };
        let sent = link.wire.written.min(first.end).saturating_sub(first.start);
        let received = link.reading.as_ref().map_or(0, |reading| reading.body.received);
        env.ledger.spec(first.id).abort.is_some_and(|most| sent + received > most)
    }

    fn take_input(&mut self, env: &mut Environment, link: &mut Link) -> Fate {
        loop {
            if link.in_flight.is_empty() && !link.input.is_empty() {
                panic!("{}: octets that nobody asked for", self.name);
            }
            let Some(first) = link.in_flight.front() else { return Fate::Goes };
            let id = first.id;
            if let Some(tunnel) = link.tunnel.as_mut().filter(|tunnel| tunnel.is_open) {
                tunnel.take(&std::mem::take(&mut link.input));
                return Fate::Goes;
            }
            let Some(reading) = &mut link.reading else {
                match self.read_head(env, link, id) {
                    true => continue,
                    false => return Fate::Goes,
                }
            };
            if !reading.body.take(&mut link.input) {
                return Fate::Goes;
            }
            let (status, local) = (reading.status, reading.local);
            link.reading = None;
            let Some(first) = link.in_flight.pop_front() else { return Fate::Goes };
            let outcome = if local { Outcome::Local(status) } else { Outcome::Answered(status) };
            note!(env, &self.name, "has {outcome:?} for {id}");
            env.ledger.conclude(id, outcome);
            if !first.told || link.last && link.in_flight.is_empty() {
                // An early answer: the rest of the request is of no use.
                return Fate::Over;
            }
        }
    }

    /// Reads a response head; false if more is needed.
    fn read_head(&mut self, env: &mut Environment, link: &mut Link, id: u32) -> bool {
        let spec = env.ledger.spec(id).clone();
        let mut head = ResponseHead::default();
        let method = Method::from_standard(spec.method.as_bytes()).unwrap();
        let is_upgrade = spec.kind == Kind::Upgrade;
        let parsed = h1::parse_response(&link.input, method, is_upgrade, &Limits::default(), &mut head);
        let Some(info) = parsed.expect("responses are well formed") else { return false };
        link.input.drain(..info.consumed);
        if head.is_interim() {
            assert!(spec.expect && head.status == 100, "an interim answer that nobody asked for");
            if let Some(first) = link.in_flight.front_mut() {
                link.wire.out.append(&mut first.held);
            }
            return true;
        }
        note!(env, &self.name, "gets {} for {id}", head.status);
        let answered = http1::id_of(&head.headers);
        assert!(answered.is_none_or(|answered| answered == id), "request {id} gets the response of {answered:?}");
        if head.status == 101 {
            if let Some(tunnel) = &mut link.tunnel {
                tunnel.open(&mut link.wire);
            }
            return true;
        }
        assert!(answered.is_some() || head.status >= 400, "{} without an id for {id}", head.status);
        if answered.is_some() {
            http1::check_padding(&spec, &head.headers);
        }
        assert_ne!(info.framing, Framing::UntilClose, "HTTP/1.1 says where a response ends");
        link.last |= !info.keep_alive || is_upgrade;
        let body =
            Body::new(info.framing, id, Way::Response, spec.response, head.status == 200 && spec.method != "HEAD");
        link.reading = Some(Reading { status: head.status, local: answered.is_none(), body });
        true
    }

    fn on_end(&mut self, env: &mut Environment, link: &mut Link) -> Fate {
        match (&link.tunnel, link.in_flight.front()) {
            (Some(tunnel), Some(first)) if tunnel.is_open => {
                let id = first.id;
                if !tunnel.is_complete() {
                    return Fate::Failed("tunnel cut");
                }
                if !link.wire.is_flushed() {
                    // It may still want to read what is not sent yet.
                    return Fate::Goes;
                }
                env.ledger.conclude(id, Outcome::Answered(200));
                link.in_flight.clear();
                Fate::Over
            }
            (_, None) => Fate::Over,
            _ => Fate::Failed("closed"),
        }
    }

    fn settle(&mut self, env: &mut Environment, mut link: Link, fate: Fate) {
        let why = match fate {
            Fate::Goes if link.in_flight.is_empty() && (link.last || self.is_done()) => "done",
            Fate::Goes => return self.link = Some(link),
            Fate::Over => "over",
            Fate::Failed(why) => why,
            Fate::Abort => "fed up",
        };
        note!(env, &self.name, "closes {:?}: {why}", link.wire.id);
        let mut aborts = matches!(fate, Fate::Abort);
        if aborts && link.wire.id.is_even() {
            env.network.abort(env.now, link.wire.id);
        } else {
            env.network.close(env.now, link.wire.id);
        }
        for sent in link.in_flight.drain(..) {
            let outcome = if aborts { Outcome::Aborted } else { Outcome::Broken(why) };
            note!(env, &self.name, "has {outcome:?} for {}", sent.id);
            env.ledger.conclude(sent.id, outcome);
            aborts = false;
        }
        if matches!(fate, Fate::Failed(_)) {
            self.failures += 1;
            if self.failures > MOST_FAILURES {
                self.queue.clear();
            }
        }
        if !self.queue.is_empty() {
            self.wake = Some(env.now + Duration::from_millis(10 * u64::from(self.failures)));
        }
    }
}
