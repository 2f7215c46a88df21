//! The app in HTTP/1.1.

use pymesh_engine::base::time::Time;
use pymesh_http::h1::{self, Framing};
use pymesh_http::{Limits, Method, RequestHead, Scheme};

use super::app::Fate;
use super::app_tcp::AppTcp;
use super::environment::{note, Environment};
use super::http1::{check_padding, id_of, response_head, write_response, Body};
use super::payload::Way;
use super::plan::{Behaviour, Kind};
use super::wire::Wire;

pub struct AppHttp1 {
    pub input: Vec<u8>,
    is_moody: bool,
    serving: Option<Serving>,
    tunnel: Option<AppTcp>,
    /// The connection goes when everything up to here is out: in order, or not.
    close_after: Option<usize>,
    break_after: Option<usize>,
    served: u32,
}

struct Serving {
    id: u32,
    is_copy: bool,
    method: Method,
    behaviour: Behaviour,
    body: Option<Body>,
    answer_at: Option<Time>,
    answered: bool,
    keep_alive: bool,
}

impl AppHttp1 {
    pub fn new(input: Vec<u8>, is_moody: bool) -> AppHttp1 {
        let (close_after, break_after) = (None, None);
        AppHttp1 { input, is_moody, serving: None, tunnel: None, close_after, break_after, served: 0 }
    }

    pub fn wants_read(&self) -> bool {
        self.input.len() < 64 * 1024
    }

    pub fn advance(&mut self, env: &mut Environment, wire: &mut Wire, ended: bool) -> (Fate, Option<Time>) {
        loop {
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.receive(env, wire, &std::mem::take(&mut self.input));
                return (tunnel.advance(env, wire, ended), None);
            }
            if ended {
                // A proxy that closes does not want an answer any more.
                return (Fate::Close, None);
            }
            let Some(serving) = &mut self.serving else {
                match self.read_head(env, wire) {
                    true => continue,
                    false => return (Fate::Goes, None),
                }
            };
            if let Some(body) = &mut serving.body {
                if body.take(&mut self.input) {
                    serving.body = None;
                    note!(env, "app", "has all of {}", serving.id);
                    if !serving.is_copy {
                        env.ledger.complete(serving.id);
                    }
                    if serving.answer_at.is_none() {
                        serving.answer_at = Some(env.now + env.ledger.spec(serving.id).delay);
                    }
                }
            }
            if serving.answer_at.is_some_and(|due| due <= env.now) && !serving.answered {
                serving.answered = true;
                self.answer(env, wire);
            }
            let Some(serving) = &mut self.serving else { continue };
            if !serving.answered || serving.body.is_some() {
                return (Fate::Goes, serving.answer_at.filter(|due| *due > env.now));
            }
            if !serving.keep_alive {
                return (Fate::Goes, None);
            }
            self.serving = None;
        }
    }

    fn read_head(&mut self, env: &mut Environment, wire: &Wire) -> bool {
        let mut head = RequestHead::default();
        let parsed = h1::parse_request(&self.input, Scheme::Http, &Limits::default(), &mut head);
        let Some(info) = parsed.expect("requests are well formed") else { return false };
        self.input.drain(..info.consumed);
        let id = id_of(&head.headers).expect("requests say whose they are");
        let is_copy = head.headers.get(b"x-envoy-internal").is_some();
        let attempt = if is_copy { env.ledger.copy(id) } else { env.ledger.attempt(id) };
        let spec = env.ledger.spec(id).clone();
        assert_eq!(head.method_bytes(), spec.method.as_bytes());
        assert_eq!(head.path(), format!("/{id}?of=simulation").as_bytes());
        check_padding(&spec, &head.headers);
        let behaviour = spec.behaviour(attempt);
        note!(env, "app", "serves {id} on {:?}, attempt {attempt}: {behaviour:?}", wire.id);
        let mut body = Some(Body::new(info.framing, id, Way::Request, spec.request, true));
        let early = behaviour == Behaviour::AnswerEarly;
        let mut answer_at = early.then(|| env.now + spec.delay);
        if info.framing == Framing::None {
            body = None;
            if !is_copy {
                env.ledger.complete(id);
            }
            answer_at = Some(env.now + spec.delay);
        }
        let (method, answered) = (head.method, false);
        self.serving =
            Some(Serving { id, is_copy, method, behaviour, body, answer_at, answered, keep_alive: info.keep_alive });
        true
    }

    fn answer(&mut self, env: &mut Environment, wire: &mut Wire) {
        let Some(serving) = &mut self.serving else { return };
        let spec = env.ledger.spec(serving.id).clone();
        self.served += 1;
        let leaves = self.is_moody && (serving.id + self.served).is_multiple_of(3);
        serving.keep_alive &= !(leaves && self.served.is_multiple_of(2));
        let start = wire.out.len();
        let status = match serving.behaviour {
            Behaviour::Silence => return,
            Behaviour::Unavailable | Behaviour::Refuse => 503,
            Behaviour::Answer | Behaviour::AnswerEarly | Behaviour::Break(_) => 200,
            Behaviour::Nonsense => {
                note!(env, "app", "answers nonsense to {}", serving.id);
                wire.out.extend_from_slice(b"HTTP/1.1 200 OK\r\nx-id: 0\r\ncontent-length: 1, 2\r\n\r\nabc");
                self.close_after = Some(wire.out.len());
                return;
            }
        };
        note!(env, "app", "answers {} to {}", status, serving.id);
        if spec.kind == Kind::Upgrade && status == 200 {
            let head = response_head(&spec, 101);
            h1::write_response(&mut wire.out, &head, Framing::None, pymesh_http::Version::Http11, true);
            self.tunnel = Some(AppTcp::upgraded(env, serving.id));
            return;
        }
        if serving.id.is_multiple_of(5) {
            // Early hints, which say nothing about what follows.
            let hints = response_head(&spec, 103);
            h1::write_response(&mut wire.out, &hints, Framing::None, pymesh_http::Version::Http11, true);
        }
        write_response(&spec, serving.method, status, serving.keep_alive, &mut wire.out);
        if let Behaviour::Break(n) = serving.behaviour {
            let end = wire.out.len().min(start + n);
            wire.out.truncate(end);
            self.break_after = Some(end);
        } else if leaves || !serving.keep_alive {
            // With or without having said so.
            self.close_after = Some(wire.out.len());
        }
    }

    pub fn after_flush(&self, wire: &Wire) -> Fate {
        let is_out = |end: Option<usize>| end.is_some_and(|end| wire.written >= end);
        match (is_out(self.break_after), is_out(self.close_after)) {
            (true, _) if wire.id.is_even() => Fate::Abort,
            (true, _) | (_, true) => Fate::Close,
            _ if self.tunnel.as_ref().is_some_and(AppTcp::is_over) && wire.is_flushed() => Fate::Close,
            _ => Fate::Goes,
        }
    }
}
