//! HTTP/1.1 on one connection: one request at a time, never pipelined.

use std::sync::Arc;

use pymesh_http::h1::{is_worth_parsing, parse_response, BodyDecoder, Framing};
use pymesh_http::{Headers, Limits, Method, ResponseHead};

use crate::connection::{Begun, Failure, Outcome};
use crate::request::Request;
use crate::tally::Kind;

/// The codec of one connection.
pub(crate) struct H1 {
    keep_alive: bool,
    limits: Limits,
    requests: Arc<[Request]>,
    under_way: Option<Begun>,
    /// Octets of the request that have been written.
    sent: usize,
    reading: Reading,
    head: ResponseHead,
    trailers: Headers,
    /// Input that is not understood before more has come; of a head `tried` octets have been looked at.
    partial: Vec<u8>,
    tried: usize,
    interims: u32,
    /// The connection may not carry another request.
    over: bool,
}

/// Where in an answer the next octet stands.
enum Reading {
    Head,
    Body { decoder: BodyDecoder, octets: u64, keep_alive: bool },
}

impl H1 {
    pub(crate) fn new(requests: Arc<[Request]>, keep_alive: bool) -> H1 {
        H1 {
            keep_alive,
            limits: Limits::default(),
            requests,
            under_way: None,
            sent: 0,
            reading: Reading::Head,
            head: ResponseHead::default(),
            trailers: Headers::new(),
            partial: Vec::new(),
            tried: 0,
            interims: 0,
            over: false,
        }
    }

    pub(crate) fn room(&self) -> usize {
        usize::from(self.under_way.is_none() && !self.over)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn start(&mut self, begun: Begun) {
        self.under_way = Some(begun);
        self.sent = 0;
        self.interims = 0;
    }

    pub(crate) fn output(&self) -> &[u8] {
        let request = self.under_way.and_then(|begun| self.requests.get(begun.request));
        request.and_then(|request| request.octets.get(self.sent..)).unwrap_or_default()
    }

    pub(crate) fn advance_output(&mut self, n: usize) {
        self.sent += n;
    }

    pub(crate) fn receive(&mut self, octets: &[u8], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        if self.partial.is_empty() {
            let used = self.read(octets, outcomes)?;
            self.partial.extend_from_slice(octets.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.partial);
        buffer.extend_from_slice(octets);
        if !matches!(self.reading, Reading::Head) || is_worth_parsing(&buffer, self.tried) {
            let used = self.read(&buffer, outcomes)?;
            buffer.drain(..used);
        }
        self.partial = buffer;
        Ok(())
    }

    /// How many octets are done with.
    fn read(&mut self, octets: &[u8], outcomes: &mut Vec<Outcome>) -> Result<usize, Failure> {
        let mut used = 0;
        loop {
            let rest = octets.get(used..).unwrap_or_default();
            match &mut self.reading {
                Reading::Head if rest.is_empty() => return Ok(used),
                Reading::Head => {
                    let Some(begun) = self.under_way else {
                        // An answer that nobody asked for: 408 on an idle connection, or what makes no sense.
                        self.over = true;
                        return Ok(octets.len());
                    };
                    let method = self.requests.get(begun.request).map_or(Method::Get, |request| request.head.method);
                    let parsed = parse_response(rest, method, false, &self.limits, &mut self.head);
                    let Some(info) = parsed.map_err(|refusal| Failure::protocol(refusal.reason))? else {
                        self.tried = rest.len();
                        return Ok(used);
                    };
                    used += info.consumed;
                    if self.head.is_interim() {
                        self.interims += 1;
                        if self.interims > self.limits.interim_responses {
                            return Err(Failure::protocol("too many interim responses"));
                        }
                        continue;
                    }
                    match info.framing {
                        Framing::None => self.finish(0, info.keep_alive, outcomes),
                        framing => {
                            let decoder = BodyDecoder::new(framing, &self.limits);
                            self.reading = Reading::Body { decoder, octets: 0, keep_alive: info.keep_alive };
                        }
                    }
                }
                Reading::Body { decoder, octets: body, keep_alive } => {
                    let step = decoder.decode(rest, &mut self.trailers);
                    let step = step.map_err(|refusal| Failure::protocol(refusal.reason))?;
                    used += step.consumed;
                    *body += step.data.len() as u64;
                    if step.ended {
                        let (body, keep_alive) = (*body, *keep_alive);
                        self.finish(body, keep_alive, outcomes);
                    } else if step.consumed == 0 {
                        return Ok(used);
                    }
                }
            }
        }
    }

    fn finish(&mut self, octets: u64, keep_alive: bool, outcomes: &mut Vec<Outcome>) {
        // An answer that came before the whole request: where the next one begins is lost.
        let is_sent = self.output().is_empty();
        self.over |= !(keep_alive && self.keep_alive && is_sent);
        self.reading = Reading::Head;
        self.tried = 0;
        if let Some(begun) = self.under_way.take() {
            outcomes.push(Outcome::Answered { begun, status: self.head.status, octets });
        }
    }

    /// `whole`: the end was no truncation.
    pub(crate) fn end_of_input(&mut self, whole: bool, outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        self.over = true;
        if let Reading::Body { decoder, octets, .. } = &mut self.reading {
            let octets = *octets;
            if !whole || decoder.finish_at_eof().is_err() {
                return Err(Failure::new(Kind::Closed, "the connection was closed within the answer"));
            }
            self.finish(octets, false, outcomes);
        }
        match self.under_way {
            Some(_) if self.partial.is_empty() => {
                Err(Failure::new(Kind::Closed, "the connection was closed without an answer"))
            }
            Some(_) => Err(Failure::new(Kind::Closed, "the connection was closed within the answer")),
            None => Ok(()),
        }
    }

    /// Gives up what was to start by `limit`.
    pub(crate) fn expire(&mut self, limit: pymesh_engine::base::time::Time, outcomes: &mut Vec<Outcome>) {
        if let Some(begun) = self.under_way.take_if(|begun| begun.intended <= limit) {
            self.over = true;
            outcomes.push(Outcome::Failed { begun, failure: Failure::timeout() });
        }
    }

    pub(crate) fn take_all(&mut self, each: &mut dyn FnMut(Begun)) {
        self.under_way.take().into_iter().for_each(each);
    }
}
