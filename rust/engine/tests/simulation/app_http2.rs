//! The app in HTTP/2.

use std::collections::BTreeMap;

use pymesh_engine::base::time::Time;
use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::Limits;

use super::app::{soon, Fate};
use super::chance::Chance;
use super::environment::{note, Environment};
use super::http1::{check_padding, check_trailers, id_of, response_head, trailers};
use super::payload::{body, Expected, Way};
use super::plan::Behaviour;
use super::wire::Wire;

pub struct AppHttp2 {
    codec: Connection,
    chance: Chance,
    is_moody: bool,
    scratch: Scratch,
    streams: BTreeMap<StreamId, Serving>,
    unreleased: Vec<(StreamId, usize)>,
    served: u32,
    failed: bool,
}

struct Serving {
    id: u32,
    is_copy: bool,
    behaviour: Behaviour,
    expected: Expected,
    request_ended: bool,
    answer_at: Option<Time>,
    /// The body of the answer, once its head was sent, and how much of it was.
    answer: Option<Vec<u8>>,
    sent: usize,
}

impl AppHttp2 {
    pub fn new(window: u32, streams: u32, is_moody: bool, chance: Chance) -> AppHttp2 {
        let limits = Limits { stream_window: window, concurrent_streams: streams, ..Limits::default() };
        AppHttp2 {
            codec: Connection::new(Config { limits, ..Config::new(Role::Server) }),
            chance,
            is_moody,
            scratch: Scratch::default(),
            streams: BTreeMap::new(),
            unreleased: Vec::new(),
            served: 0,
            failed: false,
        }
    }

    pub fn receive(&mut self, env: &mut Environment, octets: &[u8]) {
        let AppHttp2 { codec, scratch, streams, unreleased, .. } = self;
        let mut input = octets;
        while let Some(event) = codec.receive(&mut input, scratch).expect("the proxy speaks HTTP/2") {
            let (stream, over) = match event {
                Event::Request { stream, end_stream } => {
                    let id = id_of(&scratch.request.headers).expect("requests say whose they are");
                    assert_eq!(scratch.request.path(), format!("/{id}?of=simulation").as_bytes());
                    let spec = env.ledger.spec(id).clone();
                    let is_copy = scratch.request.headers.get(b"x-envoy-internal").is_some();
                    if !is_copy && spec.behaviour(1) == Behaviour::Refuse && env.ledger.refuse(id) {
                        note!(env, "app", "refuses {id}");
                        codec.reset(stream, ErrorCode::REFUSED_STREAM);
                        continue;
                    }
                    check_padding(&spec, &scratch.request.headers);
                    let attempt = if is_copy { env.ledger.copy(id) } else { env.ledger.attempt(id) };
                    let behaviour = spec.behaviour(attempt);
                    note!(env, "app", "serves {id} on {}, attempt {attempt}: {behaviour:?}", stream.value());
                    let expected = Expected::new(id, Way::Request, spec.request.length);
                    let answer_at = (behaviour == Behaviour::AnswerEarly).then(|| env.now + spec.delay);
                    let (request_ended, answer) = (false, None);
                    streams.insert(
                        stream,
                        Serving { id, is_copy, behaviour, expected, request_ended, answer_at, answer, sent: 0 },
                    );
                    (stream, end_stream)
                }
                Event::Data { stream, data, end_stream, .. } => {
                    unreleased.push((stream, data.len()));
                    if let Some(serving) = streams.get_mut(&stream) {
                        serving.expected.take(data);
                    }
                    (stream, end_stream)
                }
                Event::Trailers { stream, .. } => {
                    if let Some(serving) = streams.get(&stream) {
                        check_trailers(serving.id, &env.ledger.spec(serving.id).request, &scratch.trailers);
                    }
                    (stream, true)
                }
                Event::Reset { stream, code, fault, .. } => {
                    assert_eq!(fault, None, "the proxy broke the rules of a stream: {code}");
                    streams.remove(&stream);
                    continue;
                }
                _ => continue,
            };
            if let (true, Some(serving)) = (over, streams.get_mut(&stream)) {
                serving.expected.finish();
                serving.request_ended = true;
                note!(env, "app", "has all of {}", serving.id);
                if !serving.is_copy {
                    env.ledger.complete(serving.id);
                }
                if serving.answer_at.is_none() {
                    serving.answer_at = Some(env.now + env.ledger.spec(serving.id).delay);
                }
            }
        }
    }

    pub fn advance(&mut self, env: &mut Environment, wire: &mut Wire, ended: bool) -> (Fate, Option<Time>) {
        for (stream, n) in self.unreleased.drain(..) {
            self.codec.release(stream, n);
        }
        if ended || self.failed {
            return (Fate::Close, None);
        }
        let mut wake = None;
        let mut order: Vec<StreamId> = self.streams.keys().copied().collect();
        self.chance.shuffle(&mut order);
        for stream in order {
            let due = self.serve(env, wire, stream);
            wake = wake.into_iter().chain(due).min();
            if self.failed {
                return (Fate::Abort, None);
            }
        }
        if self.is_moody && self.served > 3 && !self.codec.is_closing() {
            note!(env, "app", "goes away on {:?}", wire.id);
            self.codec.go_away(ErrorCode::NO_ERROR);
        }
        wire.out.extend_from_slice(self.codec.output());
        let n = self.codec.output().len();
        self.codec.advance_output(n);
        wire.ends |= self.codec.is_drained() && self.streams.is_empty();
        (Fate::Goes, wake)
    }

    /// Moves one answer on; says when to look again.
    fn serve(&mut self, env: &mut Environment, wire: &Wire, stream: StreamId) -> Option<Time> {
        let serving = self.streams.get_mut(&stream)?;
        let due = serving.answer_at?;
        if due > env.now {
            return Some(due);
        }
        let spec = env.ledger.spec(serving.id).clone();
        let has_body = spec.method != "HEAD";
        let status = match serving.behaviour {
            Behaviour::Silence => return None,
            Behaviour::Unavailable | Behaviour::Refuse => 503,
            Behaviour::Answer | Behaviour::AnswerEarly | Behaviour::Break(_) => 200,
            Behaviour::Nonsense => {
                note!(env, "app", "answers nonsense to {}", serving.id);
                let mut head = response_head(&spec, 503);
                head.status = 200;
                self.codec.send_response(stream, &head, false).ok()?;
                // More than `content-length` has promised.
                self.codec.send_data(stream, b"abc", true).ok()?;
                return self.finish(stream);
            }
        };
        if serving.answer.is_none() && serving.id.is_multiple_of(5) {
            self.codec.send_response(stream, &response_head(&spec, 103), false).ok()?;
        }
        if serving.behaviour == Behaviour::Break(0) {
            self.codec.reset(stream, ErrorCode::INTERNAL_ERROR);
            self.streams.remove(&stream);
            return None;
        }
        if serving.answer.is_none() {
            note!(env, "app", "answers {status} to {}", serving.id);
            self.served += 1;
            let length = if has_body && status == 200 { spec.response.length } else { 0 };
            let trailers = spec.response.trailers && status == 200 && has_body;
            let over = length == 0 && !trailers;
            let mut head = response_head(&spec, status);
            if over && status == 200 && has_body && !spec.response.declared {
                head.headers.append(b"x-empty", b"1");
            }
            self.codec.send_response(stream, &head, over).ok()?;
            serving.answer = Some(body(serving.id, Way::Response, length));
            if over {
                return self.finish(stream);
            }
        }
        let serving = self.streams.get_mut(&stream)?;
        if wire.out.len() - wire.written > 64 * 1024 {
            return None;
        }
        let answer = serving.answer.as_ref()?;
        let piece = &answer[serving.sent..];
        let piece = &piece[..piece.len().min(self.chance.size(40_000))];
        let last = serving.sent + piece.len() == answer.len();
        let sent = self.codec.send_data(stream, piece, last && !spec.response.trailers).ok()?;
        serving.sent += sent;
        if matches!(serving.behaviour, Behaviour::Break(n) if serving.sent >= n) {
            if serving.id.is_multiple_of(3) {
                self.failed = true;
            } else {
                self.codec.reset(stream, ErrorCode::INTERNAL_ERROR);
                self.streams.remove(&stream);
            }
            return None;
        }
        if serving.sent < answer.len() {
            return (sent > 0).then(|| soon(env)).flatten();
        }
        if spec.response.trailers {
            self.codec.send_trailers(stream, &trailers(serving.id)).ok()?;
        }
        self.finish(stream)
    }

    /// The answer is out; what is left of the request is not wanted.
    fn finish(&mut self, stream: StreamId) -> Option<Time> {
        let serving = self.streams.remove(&stream)?;
        if !serving.request_ended {
            self.codec.reset(stream, ErrorCode::NO_ERROR);
        }
        None
    }
}
