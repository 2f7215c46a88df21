//! HTTP/2 on one connection: as many requests at a time as are wanted and the target allows.

use std::sync::Arc;

use pymesh_engine::base::time::Time;
use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::Limits;

use crate::connection::{Begun, Failure, Outcome};
use crate::request::Request;
use crate::tally::Kind;

/// Unsent octets beyond which no more of a body is handed to the codec.
const ENOUGH_OUTPUT: usize = 256 * 1024;
/// Streams that a client can open on a connection (RFC 9113 section 5.1.1).
const NUMBERS: u32 = 1 << 30;

/// The codec of one connection.
pub(crate) struct H2 {
    connection: Connection,
    scratch: Scratch,
    requests: Arc<[Request]>,
    streams: usize,
    /// By the tag of their stream.
    places: Vec<Option<Place>>,
    free: Vec<u32>,
    /// Tags of requests of which body octets are unsent.
    uploads: Vec<u32>,
    opened: u32,
    over: bool,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Place {
    begun: Begun,
    stream: StreamId,
    status: u16,
    octets: u64,
    uploaded: usize,
}

/// A generator does not hold its target back, and bears what a proxy would take for an attack.
fn limits() -> Limits {
    Limits {
        stream_window: 1 << 24,
        connection_window: 1 << 28,
        premature_resets: u32::MAX,
        empty_frames: 1 << 16,
        ..Limits::default()
    }
}

impl H2 {
    pub(crate) fn new(requests: Arc<[Request]>, streams: usize) -> H2 {
        H2 {
            connection: Connection::new(Config { limits: limits(), ..Config::new(Role::Client) }),
            scratch: Scratch::default(),
            requests,
            streams,
            places: Vec::new(),
            free: Vec::new(),
            uploads: Vec::new(),
            opened: 0,
            over: false,
        }
    }

    /// The target has said what it allows.
    pub(crate) fn is_ready(&self) -> bool {
        self.connection.knows_peer()
    }

    fn under_way(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn is_closing(&self) -> bool {
        self.over || self.connection.is_closing() || self.opened >= NUMBERS
    }

    pub(crate) fn room(&self) -> usize {
        match self.is_ready() && !self.is_closing() && self.connection.can_open() {
            true => self.streams.saturating_sub(self.under_way()),
            false => 0,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_closing() && self.under_way() == 0
    }

    /// False: the target allows no more now; nothing was sent.
    pub(crate) fn start(&mut self, begun: Begun) -> bool {
        let Some(request) = self.requests.get(begun.request) else { return false };
        let tag = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            // Bounded by the number of streams.
            (self.places.len() - 1) as u32
        });
        let ends = request.body.is_empty();
        let Ok(stream) = self.connection.open(&request.head, ends, tag) else {
            self.free.push(tag);
            return false;
        };
        self.opened += 1;
        if let Some(place) = self.places.get_mut(tag as usize) {
            *place = Some(Place { begun, stream, status: 0, octets: 0, uploaded: 0 });
        }
        if !ends {
            self.uploads.push(tag);
            self.upload();
        }
        true
    }

    /// Hands over as much of the bodies as the windows and our own patience allow.
    fn upload(&mut self) {
        let H2 { connection, places, uploads, requests, .. } = self;
        uploads.retain(|tag| {
            let Some(Some(place)) = places.get_mut(*tag as usize) else { return false };
            let Some(request) = requests.get(place.begun.request) else { return false };
            while connection.output().len() < ENOUGH_OUTPUT {
                let rest = request.body.get(place.uploaded..).unwrap_or_default();
                let piece = rest.get(..ENOUGH_OUTPUT).unwrap_or(rest);
                match connection.send_data(place.stream, piece, piece.len() == rest.len()) {
                    // The stream's end will be, or has been, told.
                    Err(_) => return false,
                    Ok(0) => return true,
                    Ok(n) => place.uploaded += n,
                }
                if place.uploaded == request.body.len() {
                    return false;
                }
            }
            true
        });
    }

    pub(crate) fn output(&self) -> &[u8] {
        self.connection.output()
    }

    pub(crate) fn advance_output(&mut self, n: usize) {
        self.connection.advance_output(n);
        if !self.uploads.is_empty() {
            self.upload();
        }
    }

    pub(crate) fn receive(&mut self, mut octets: &[u8], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        loop {
            let event = self.connection.receive(&mut octets, &mut self.scratch);
            let event = event.map_err(|error| Failure::new(Kind::Protocol, error.to_string()))?;
            let Some(event) = event else { return Ok(()) };
            match event {
                Event::Response { tag, end_stream, .. } if !self.scratch.response.is_interim() => {
                    if let Some(Some(place)) = self.places.get_mut(tag as usize) {
                        place.status = self.scratch.response.status;
                    }
                    if end_stream {
                        self.finish(tag, outcomes);
                    }
                }
                Event::Data { stream, tag, data, end_stream } => {
                    self.connection.release(stream, data.len());
                    if let Some(Some(place)) = self.places.get_mut(tag as usize) {
                        place.octets += data.len() as u64;
                    }
                    if end_stream {
                        self.finish(tag, outcomes);
                    }
                }
                Event::Trailers { tag, .. } => self.finish(tag, outcomes),
                Event::Reset { tag, code, fault, .. } => self.reset(tag, code, fault, outcomes),
                Event::WindowOpened { .. } | Event::SettingsChanged => self.upload(),
                _ => {}
            }
        }
    }

    fn take(&mut self, tag: u32) -> Option<Place> {
        let place = self.places.get_mut(tag as usize)?.take()?;
        self.free.push(tag);
        Some(place)
    }

    fn finish(&mut self, tag: u32, outcomes: &mut Vec<Outcome>) {
        if let Some(Place { begun, stream, status, octets, .. }) = self.take(tag) {
            // An answer that came before the whole request (RFC 9113 section 8.1): the rest is of no use. It does
            // nothing to a stream that has ended.
            self.connection.reset(stream, ErrorCode::CANCEL);
            outcomes.push(Outcome::Answered { begun, status, octets });
        }
    }

    fn reset(&mut self, tag: u32, code: ErrorCode, fault: Option<&str>, outcomes: &mut Vec<Outcome>) {
        let Some(Place { begun, .. }) = self.take(tag) else { return };
        let is_refused = code == ErrorCode::REFUSED_STREAM && fault.is_none();
        outcomes.push(match (fault, is_refused) {
            // Sent on its way before the target had said GOAWAY, and not processed: any client sends it again.
            (_, true) if self.connection.is_closing() => Outcome::Resend(begun),
            (_, true) => Outcome::Failed { begun, failure: Failure::new(Kind::Refused, "the stream was refused") },
            (Some(fault), _) => {
                Outcome::Failed { begun, failure: Failure::protocol(format!("the answer broke the protocol: {fault}")) }
            }
            (None, _) => {
                Outcome::Failed { begun, failure: Failure::new(Kind::Reset, format!("the stream was reset: {code}")) }
            }
        });
    }

    pub(crate) fn end_of_input(&mut self) -> Result<(), Failure> {
        self.over = true;
        match self.under_way() {
            _ if !self.is_ready() => Err(Failure::new(Kind::Connect, "the connection was closed before SETTINGS came")),
            0 => Ok(()),
            _ => Err(Failure::new(Kind::Closed, "the connection was closed with streams under way")),
        }
    }

    pub(crate) fn expire(&mut self, limit: Time, outcomes: &mut Vec<Outcome>) {
        for tag in 0..self.places.len() as u32 {
            let is_late = |place: &Place| place.begun.intended <= limit;
            if self.places.get(tag as usize).is_some_and(|place| place.as_ref().is_some_and(is_late)) {
                if let Some(Place { begun, stream, .. }) = self.take(tag) {
                    self.connection.reset(stream, ErrorCode::CANCEL);
                    outcomes.push(Outcome::Failed { begun, failure: Failure::timeout() });
                }
            }
        }
    }

    pub(crate) fn take_all(&mut self, each: &mut dyn FnMut(Begun)) {
        for tag in 0..self.places.len() as u32 {
            if let Some(place) = self.take(tag) {
                each(place.begun);
            }
        }
    }
}
