//! Filters that see a body as it streams.
//!
//! A filter with such hooks takes its place in the stream when the head passes it ([`Engine::open_stream`]). From then on
//! octets go from place to place on their way into the exchange's [`Pipe`](super::Pipe), where they wait for whoever takes
//! them. So what waits, is kept for another attempt, or goes to mirrors is what the filters have made of the body, and no
//! octet passes a filter twice. gRPC-Web has its place among them, and needs nobody outside to translate.
//!
//! ```text
//! codec -> waiting -> hook -> waiting -> hook -> Pipe -> codec
//! ```
//!
//! # States of a place
//! [`Progress::Flows`] until the end of the body has come to it; [`Progress::Ended`] until its filter was told;
//! [`Progress::BodyTold`] until the trailers, if there are any, have passed it; [`Progress::Passed`]: the end is at the
//! next place.
//!
//! # Invariants
//! * A place has one call at a time, of all that waits there: pieces that come meanwhile are one piece in the next.
//! * What waits at a place, or is with its filter, counts as what waits in the exchange, and flow control is not given
//!   back for it.
//! * The end of a body is told once, in order, behind its last octet; trailers behind that.
//! * An answer of the proxy's own ends the stream of the request, and passes no stream of the response.

use pymesh_http::{Headers, Known};

use super::{Exchange, ExchangeKey, Pipe};
use crate::base::buffer::Buffer;
use crate::engine::Engine;
use crate::filter::{FilterCall, Heads, Hook, Outcome};

/// The places of one direction, in the order in which octets pass them.
#[derive(Default)]
pub(crate) struct Stream {
    places: Vec<Place>,
}

struct Place {
    /// What each of its calls is made from.
    template: FilterCall,
    /// Octets that its filter has not been given.
    waiting: Buffer,
    progress: Progress,
    call: Option<Lent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Flows,
    Ended,
    BodyTold,
    Passed,
}

/// A call that is under way.
struct Lent {
    id: u64,
    octets: usize,
    end: bool,
}

/// One of the two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Response,
}

impl Way {
    fn of(hook: Hook) -> Way {
        if hook.is_request() {
            Way::Request
        } else {
            Way::Response
        }
    }

    fn chunk(self) -> Hook {
        match self {
            Way::Request => Hook::RequestChunk,
            Way::Response => Hook::ResponseChunk,
        }
    }

    fn trailers(self) -> Hook {
        match self {
            Way::Request => Hook::RequestTrailers,
            Way::Response => Hook::ResponseTrailers,
        }
    }

    /// Whether a filter with one place in the chain is passed before one with another.
    fn passes(self, first: usize, then: usize) -> bool {
        match self {
            Way::Request => first < then,
            Way::Response => first > then,
        }
    }
}

impl Stream {
    /// The end has passed every place.
    pub fn is_over(&self) -> bool {
        self.places.iter().all(|place| place.progress == Progress::Passed)
    }

    /// Octets that are in it.
    pub fn held(&self) -> usize {
        self.places.iter().map(|place| place.waiting.len() + place.call.as_ref().map_or(0, |call| call.octets)).sum()
    }

    fn index(&self, at: usize) -> Option<usize> {
        self.places.get(at).map(|place| place.template.index)
    }
}

impl Exchange {
    fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Request => &mut self.request_body,
            Way::Response => &mut self.response_body,
        }
    }

    fn place(&mut self, way: Way, at: usize) -> Option<&mut Place> {
        self.pipe(way).stream.as_mut()?.places.get_mut(at)
    }

    /// Octets of the body pass something on their way into its pipe.
    pub(super) fn is_translated(&self, way: Way) -> bool {
        match way {
            Way::Request => self.request_body.stream.is_some() || self.grpc_web.is_some(),
            Way::Response => {
                self.response_body.stream.is_some() || self.grpc_web.as_ref().is_some_and(|web| web.is_grpc_answer)
            }
        }
    }

    /// gRPC-Web is between two places; without a first one, behind where the octets come from.
    fn has_grpc_web_between(&self, way: Way, from: Option<usize>, to: usize) -> bool {
        let Some(web) = &self.grpc_web else { return false };
        let pipe = if way == Way::Request { &self.request_body } else { &self.response_body };
        let index = |at| pipe.stream.as_ref().and_then(|stream| stream.index(at));
        (way == Way::Request || web.is_grpc_answer)
            && from.and_then(index).is_none_or(|from| way.passes(from, web.index))
            && index(to).is_none_or(|to| way.passes(web.index, to))
    }

    /// What a call of a stream's hook works on.
    pub(crate) fn lend_of_stream(&mut self, call: &FilterCall) -> Option<Heads> {
        let pipe = self.pipe(Way::of(call.hook));
        let places = &mut pipe.stream.as_mut()?.places;
        let is_called = |place: &&mut Place| place.call.as_ref().is_some_and(|lent| lent.id == call.id);
        let place = places.iter_mut().find(is_called)?;
        if matches!(call.hook, Hook::RequestTrailers | Hook::ResponseTrailers) {
            return Some(Heads { trailers: std::mem::take(&mut pipe.trailers), ..Heads::default() });
        }
        let body = std::mem::take(&mut place.waiting);
        let end = place.progress == Progress::Ended;
        place.call = Some(Lent { id: call.id, octets: body.len(), end });
        Some(Heads { body, end, ..Heads::default() })
    }
}

impl Engine {
    /// A filter takes its place in the stream, if it has hooks for that. What has come of the body passes it first.
    pub(crate) fn open_stream(&mut self, key: ExchangeKey, template: &FilterCall) {
        let way = Way::of(template.hook);
        let sees_octets = template.hooks.has(way.chunk());
        if !sees_octets && !template.hooks.has(way.trailers()) {
            return;
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if sees_octets {
            let headers = match way {
                Way::Request => &mut exchange.request.headers,
                Way::Response => &mut exchange.response.headers,
            };
            headers.remove_known(Known::ContentLength);
        }
        let pipe = exchange.pipe(way);
        let progress = if pipe.is_complete() { Progress::Ended } else { Progress::Flows };
        let waiting = if sees_octets { std::mem::take(&mut pipe.buffer) } else { Buffer::default() };
        let places = &mut pipe.stream.get_or_insert_default().places;
        let at = places.len();
        places.push(Place { template: template.clone(), waiting, progress, call: None });
        self.advance_place(key, way, at);
    }

    /// Octets of a body leave a place, or come from where it is read.
    pub(super) fn stream_data(&mut self, key: ExchangeKey, way: Way, from: Option<usize>, data: &[u8]) {
        let to = from.map_or(0, |at| at + 1);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.has_grpc_web_between(way, from, to) {
            return self.bring(key, way, to, data);
        }
        let Some(web) = &mut exchange.grpc_web else { return };
        let mut translated = std::mem::take(&mut self.text);
        translated.clear();
        let outcome = match way {
            Way::Request => web.request_data(data, &mut translated),
            Way::Response => {
                web.answer_data(data, &mut translated);
                Ok(())
            }
        };
        match outcome {
            Ok(()) => self.bring(key, way, to, &translated),
            Err(_not_base64) => self.break_grpc_web(key),
        }
        self.text = translated;
    }

    /// Octets come to a place; behind the last one is the pipe.
    fn bring(&mut self, key: ExchangeKey, way: Way, to: usize, data: &[u8]) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        match exchange.place(way, to) {
            Some(place) if place.template.hooks.has(way.chunk()) => {
                place.waiting.extend(data);
                self.advance_place(key, way, to);
            }
            Some(_) => self.stream_data(key, way, Some(to), data),
            None if way == Way::Request => {
                exchange.messages.request_data(data);
                if !exchange.mirrors.is_empty() {
                    self.mirror_data(key, data);
                }
                self.keep_request_data(key, data);
            }
            None => {
                exchange.response_body.buffer.extend(data);
                self.make_ready(key);
            }
        }
    }

    /// The end of a body leaves a place, or comes from where it is read.
    pub(super) fn stream_end(&mut self, key: ExchangeKey, way: Way, from: Option<usize>) {
        let to = from.map_or(0, |at| at + 1);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.has_grpc_web_between(way, from, to) {
            let Some(web) = &mut exchange.grpc_web else { return };
            match way {
                Way::Request if web.request_end().is_err() => return self.break_grpc_web(key),
                Way::Request => {}
                Way::Response => {
                    let mut frame = Vec::new();
                    web.answer_trailers(&exchange.response_body.trailers, &mut frame);
                    exchange.response_body.trailers.clear();
                    self.bring(key, way, to, &frame);
                }
            }
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        match exchange.place(way, to) {
            Some(place) => {
                place.progress = Progress::Ended;
                self.advance_place(key, way, to);
            }
            None => {
                // Of what was answered here the mirrors have not been told everything: they are cut off with it.
                if way == Way::Request && !exchange.mirrors.is_empty() && !exchange.is_local {
                    self.end_mirrors(key);
                }
                self.make_ready(key);
            }
        }
    }

    /// Has the filter at a place called, if there is something for it, or passes the end on.
    fn advance_place(&mut self, key: ExchangeKey, way: Way, at: usize) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let has_trailers = !exchange.pipe(way).trailers.is_empty();
        let Some(place) = exchange.place(way, at).filter(|place| place.call.is_none()) else { return };
        let hooks = place.template.hooks;
        let wants_end = place.progress == Progress::Ended && hooks.has(way.chunk());
        let hook = match place.progress {
            _ if wants_end || !place.waiting.is_empty() => way.chunk(),
            Progress::Ended | Progress::BodyTold if has_trailers && hooks.has(way.trailers()) => way.trailers(),
            Progress::Ended | Progress::BodyTold => {
                place.progress = Progress::Passed;
                return self.stream_end(key, way, Some(at));
            }
            Progress::Flows | Progress::Passed => return,
        };
        let call = FilterCall { hook, ..place.template.clone() };
        let id = self.call_hook(call);
        if let Some(place) = self.exchanges.get_mut(key).and_then(|exchange| exchange.place(way, at)) {
            place.call = Some(Lent { id, octets: 0, end: false });
        }
    }

    /// A hook of a stream has returned.
    pub(crate) fn finish_stream_hook(&mut self, call: &FilterCall, heads: Heads, outcome: Outcome) {
        let (key, way) = (call.exchange, Way::of(call.hook));
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(stream) = &mut exchange.pipe(way).stream else { return };
        let is_its = |place: &Place| place.call.as_ref().is_some_and(|lent| lent.id == call.id);
        let Some(at) = stream.places.iter().position(is_its) else { return };
        let Some(place) = stream.places.get_mut(at) else { return };
        let lent = place.call.take();
        exchange.kept = heads.kept;
        let is_of_trailers = call.hook == way.trailers();
        let pipe = exchange.pipe(way);
        if is_of_trailers {
            pipe.trailers = heads.trailers;
        }
        let data = match outcome {
            Outcome::Continue { body: Some(made), .. } => {
                pipe.is_replaced = true;
                made
            }
            Outcome::Continue { body: None, .. } => heads.body.as_slice().to_vec(),
            Outcome::Reply { .. } | Outcome::Failed(_) | Outcome::TimedOut | Outcome::Overflow => {
                self.filter_failed(key, call.filter.failure_policy);
                self.make_ready(key);
                heads.body.as_slice().to_vec()
            }
        };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        // A failure may have ended the stream.
        let Some(place) = exchange.place(way, at) else { return };
        if is_of_trailers {
            place.progress = Progress::Passed;
            return self.stream_end(key, way, Some(at));
        }
        if lent.is_some_and(|lent| lent.end) {
            place.progress = Progress::BodyTold;
        }
        if !data.is_empty() {
            self.stream_data(key, way, Some(at), &data);
        }
        self.advance_place(key, way, at);
        self.release_streamed(key, way);
        self.make_ready(key);
    }

    /// What a filter has taken and made nothing of waits nowhere: its sender may go on.
    fn release_streamed(&mut self, key: ExchangeKey, way: Way) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let back = exchange.pipe(way).give_back(0);
        match way {
            Way::Request => self.release_downstream(key, back),
            Way::Response => self.release_upstream(key, back),
        }
    }

    /// The gRPC-Web filter's turn at the request. What has come of the body waits in the exchange, and is translated
    /// there.
    pub(crate) fn open_grpc_web(&mut self, key: ExchangeKey, index: usize) {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.grpc_web.is_none()) else { return };
        let Some(mut web) = super::GrpcWeb::open(&mut exchange.request, index) else { return };
        let mut translated = Vec::new();
        let pipe = &mut exchange.request_body;
        let waiting = std::mem::take(&mut pipe.buffer);
        let taken = web.request_data(waiting.as_slice(), &mut translated);
        let taken = taken.and_then(|()| if pipe.is_complete() { web.request_end() } else { Ok(()) });
        pipe.buffer.extend(&translated);
        exchange.grpc_web = Some(web);
        if taken.is_err() {
            self.break_grpc_web(key);
        }
    }

    /// The same at the response.
    pub(crate) fn open_grpc_web_answer(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(web) = &mut exchange.grpc_web else { return };
        web.begin_answer(&mut exchange.response);
        if !web.is_grpc_answer {
            return;
        }
        let pipe = &mut exchange.response_body;
        let waiting = std::mem::take(&mut pipe.buffer);
        web.answer_data(waiting.as_slice(), pipe.buffer.tail());
        // What is trailers only has its status in the head.
        let is_head_only = pipe.total == 0 && pipe.trailers.is_empty();
        if pipe.is_complete() && !is_head_only {
            let trailers: Headers = std::mem::take(&mut pipe.trailers);
            web.answer_trailers(&trailers, pipe.buffer.tail());
        }
    }
}
