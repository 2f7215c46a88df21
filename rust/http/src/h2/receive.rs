//! What the peer says: octets to frames, frames to events.

use super::frame::{flag, kind, ErrorCode, FrameHeader, DEFAULT_WINDOW, HEADER_LEN, MAX_31, PREFACE};
use super::head::{self, Verdict};
use super::settings::own_frame_size;
use super::streams::{Ending, Stream, NO_LENGTH};
use super::{reason, Connection, ConnectionError, Event, Role, Scratch, StreamId};
use crate::{hpack, Method};

/// Where in the input the next octet stands.
#[derive(Clone, Copy)]
enum State {
    /// Server: so many octets of the client's preface have come.
    Preface(usize),
    /// Before or inside a frame header.
    Header,
    /// Inside a payload that is handled when it is complete.
    Payload(FrameHeader),
    /// Before the pad length of a DATA frame.
    PadLength(FrameHeader),
    /// Inside the octets of a DATA frame: (stream, left, padding after them, END_STREAM).
    Data { stream: u32, left: u32, padding: u32, end_stream: bool },
    /// So many octets mean nothing.
    Skip(u32),
}

/// A header block whose CONTINUATION frames are still to come.
#[derive(Clone, Copy)]
struct OpenBlock {
    stream: u32,
    end_stream: bool,
    depends_on_itself: bool,
    frames: u32,
}

/// The reading side's place in the input and what it holds of it.
pub(super) struct Reading {
    state: State,
    /// A frame header or payload that came in pieces.
    partial: Vec<u8>,
    block: Vec<u8>,
    open_block: Option<OpenBlock>,
    first_frame: bool,
    window_opened: bool,
    /// The peer's GOAWAY: streams of ours above are gone.
    refused_above: Option<u32>,
    /// The frame that the connection failed with was of a new request's head.
    failed_in_head: bool,
}

impl Reading {
    pub(super) fn new(role: Role) -> Reading {
        Reading {
            state: if role == Role::Server { State::Preface(0) } else { State::Header },
            partial: Vec::new(),
            block: Vec::new(),
            open_block: None,
            first_frame: true,
            window_opened: false,
            refused_above: None,
            failed_in_head: false,
        }
    }

    pub(super) fn is_reading_head(&self) -> bool {
        let in_head = |header: &FrameHeader| matches!(header.kind, kind::HEADERS | kind::CONTINUATION);
        self.open_block.is_some() || matches!(&self.state, State::Payload(header) if in_head(header))
    }

    pub(super) fn shrink(&mut self) {
        self.partial.shrink_to_fit();
        self.block.shrink_to_fit();
    }
}

fn error<T>(code: ErrorCode, reason: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError { code, reason })
}

fn protocol_error<T>(reason: &'static str) -> Result<T, ConnectionError> {
    error(ErrorCode::PROTOCOL_ERROR, reason)
}

fn too_much<T>(reason: &'static str) -> Result<T, ConnectionError> {
    error(ErrorCode::ENHANCE_YOUR_CALM, reason)
}

type Outcome<'a> = Result<Option<Event<'a>>, ConnectionError>;

impl Connection {
    /// Takes from `input` up to the next event. `None`: all of it is used up.
    /// After an error, GOAWAY stands in the output; write it, then close.
    pub fn receive<'a>(
        &mut self,
        input: &mut &'a [u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        let outcome = self.next_event(input, scratch);
        if let Err(failure) = outcome {
            self.failed = Some(failure);
            self.go_away(failure.code);
        }
        outcome
    }

    fn next_event<'a>(&mut self, input: &mut &'a [u8], scratch: &mut Scratch) -> Outcome<'a> {
        loop {
            if let Some(event) = self.next_pending() {
                return Ok(Some(event));
            }
            // Looked at after the reset was told, so that the engine can forgive it.
            if self.premature_resets > self.config.limits.premature_resets {
                return too_much(reason::PREMATURE_RESETS);
            }
            let event = match self.reading.state {
                State::Preface(matched) => {
                    let expected = PREFACE.get(matched..).unwrap_or_default();
                    let n = expected.len().min(input.len());
                    let (head, tail) = input.split_at(n);
                    if !expected.starts_with(head) {
                        return protocol_error("bad_preface");
                    }
                    *input = tail;
                    if n < expected.len() {
                        self.reading.state = State::Preface(matched + n);
                        return Ok(None);
                    }
                    self.reading.state = State::Header;
                    None
                }
                State::Header => {
                    let Some(header) = self.read_header(input) else { return Ok(None) };
                    self.start_frame(header)?
                }
                State::Payload(header) => {
                    let need = header.length as usize;
                    if self.reading.partial.is_empty() && input.len() >= need {
                        let (payload, tail) = input.split_at(need);
                        *input = tail;
                        self.reading.state = State::Header;
                        self.frame(header, payload, scratch)?
                    } else {
                        let missing = need.saturating_sub(self.reading.partial.len());
                        let (piece, tail) = input.split_at(missing.min(input.len()));
                        *input = tail;
                        self.reading.partial.extend_from_slice(piece);
                        if piece.len() < missing {
                            return Ok(None);
                        }
                        self.reading.state = State::Header;
                        let mut payload = std::mem::take(&mut self.reading.partial);
                        let event = self.frame(header, &payload, scratch)?;
                        payload.clear();
                        self.reading.partial = payload;
                        event
                    }
                }
                State::PadLength(header) => {
                    let Some((&padding, tail)) = input.split_first() else { return Ok(None) };
                    *input = tail;
                    self.start_data(header, u32::from(padding))?
                }
                State::Data { left, .. } if left > 0 && input.is_empty() => return Ok(None),
                State::Data { stream, left, padding, end_stream } => {
                    let (data, tail) = input.split_at(input.len().min(left as usize));
                    *input = tail;
                    let left = left - data.len() as u32;
                    self.reading.state = match left {
                        0 => State::Skip(padding),
                        _ => State::Data { stream, left, padding, end_stream },
                    };
                    self.deliver(stream, data, end_stream && left == 0)
                }
                State::Skip(0) => {
                    self.reading.state = State::Header;
                    None
                }
                State::Skip(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let n = input.len().min(left as usize);
                    *input = input.get(n..).unwrap_or_default();
                    self.reading.state = State::Skip(left - n as u32);
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Events that no octet of their own stands for.
    fn next_pending(&mut self) -> Option<Event<'static>> {
        if let Some(last) = self.reading.refused_above {
            let refused = self.streams.iter_mut().map(|stream| stream.id).filter(|id| *id > last).min();
            let gone = refused.and_then(|id| self.forget(id, Ending::ResetByPeer));
            match gone {
                // It had ended both ways: only a release was missing.
                Some(stream) if stream.is_closed() => {}
                Some(Stream { id, tag, .. }) => {
                    let code = ErrorCode::REFUSED_STREAM;
                    return Some(Event::Reset { stream: StreamId(id), tag, code, fault: None });
                }
                None => self.reading.refused_above = None,
            }
        }
        std::mem::take(&mut self.reading.window_opened).then_some(Event::WindowOpened { stream: None })
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Option<FrameHeader> {
        let partial = &mut self.reading.partial;
        if partial.is_empty() {
            if let Some((octets, tail)) = input.split_first_chunk::<HEADER_LEN>() {
                *input = tail;
                return Some(FrameHeader::parse(*octets));
            }
        }
        let (piece, tail) = input.split_at(input.len().min(HEADER_LEN - partial.len()));
        partial.extend_from_slice(piece);
        *input = tail;
        let octets = *partial.first_chunk::<HEADER_LEN>()?;
        partial.clear();
        Some(FrameHeader::parse(octets))
    }

    /// Checks what a frame header alone shows, before any payload is held.
    fn start_frame(&mut self, header: FrameHeader) -> Outcome<'static> {
        if header.length > own_frame_size(self.config.limits.frame_size) {
            return error(ErrorCode::FRAME_SIZE_ERROR, "frame_too_large");
        }
        if self.reading.first_frame && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return protocol_error("first_frame_not_settings");
        }
        self.reading.first_frame = false;
        if self.output.queued() > self.config.limits.outbound_frames as usize {
            return too_much(reason::OUTBOUND_FLOOD);
        }
        let continues = header.kind == kind::CONTINUATION;
        match self.reading.open_block {
            Some(block) if !continues || header.stream != block.stream => {
                return protocol_error("header_block_interrupted")
            }
            None if continues => return protocol_error("unexpected_continuation"),
            _ => {}
        }
        if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
            self.count_empty(header, header.length)?;
        }
        let on_stream = header.stream != 0;
        let (right_place, right_length) = match header.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => (on_stream, true),
            kind::PRIORITY => (on_stream, header.length == 5),
            kind::RST_STREAM => (on_stream, header.length == 4),
            kind::SETTINGS if header.has(flag::ACK) => (!on_stream, header.length == 0),
            kind::SETTINGS => (!on_stream, header.length.is_multiple_of(6)),
            kind::PING => (!on_stream, header.length == 8),
            kind::GOAWAY => (!on_stream, header.length >= 8),
            kind::WINDOW_UPDATE => (true, header.length == 4),
            // We never allow push (RFC 9113 section 8.4).
            kind::PUSH_PROMISE => return protocol_error("push_promise"),
            // RFC 9113 section 5.5: what is unknown is ignored.
            _ => {
                self.reading.state = State::Skip(header.length);
                return Ok(None);
            }
        };
        if !right_place {
            return protocol_error("frame_on_wrong_stream");
        }
        if !right_length {
            return error(ErrorCode::FRAME_SIZE_ERROR, "frame_length");
        }
        self.reading.state = match header.kind {
            kind::DATA if header.has(flag::PADDED) && header.length == 0 => {
                return error(ErrorCode::FRAME_SIZE_ERROR, "no_pad_length")
            }
            kind::DATA if header.has(flag::PADDED) => State::PadLength(header),
            kind::DATA => return self.start_data(header, 0),
            _ => State::Payload(header),
        };
        Ok(None)
    }

    /// CVE-2019-9518: frames that carry nothing cost their receiver more than their sender. Padding is nothing.
    fn count_empty(&mut self, header: FrameHeader, length: u32) -> Result<(), ConnectionError> {
        // END_STREAM's bit means nothing on CONTINUATION.
        let ends = header.kind != kind::CONTINUATION && header.has(flag::END_STREAM);
        if length > 0 || ends {
            self.empty_frames = 0;
            return Ok(());
        }
        self.empty_frames += 1;
        match self.empty_frames > self.config.limits.empty_frames {
            true => too_much(reason::EMPTY_FRAMES),
            false => Ok(()),
        }
    }

    /// Everything about a DATA frame is decided here; then its octets flow.
    fn start_data(&mut self, header: FrameHeader, padding: u32) -> Outcome<'static> {
        let overhead = if header.has(flag::PADDED) { padding + 1 } else { 0 };
        let Some(length) = header.length.checked_sub(overhead) else {
            return protocol_error("padding_too_long");
        };
        let end_stream = header.has(flag::END_STREAM);
        self.count_empty(header, length)?;
        // A frame is shorter than 2^24.
        let charge = header.length as i32;
        if charge > self.recv_window {
            return error(ErrorCode::FLOW_CONTROL_ERROR, "connection_window");
        }
        self.recv_window -= charge;
        self.give_back(overhead);
        let refusal = match self.streams.get_mut(header.stream) {
            None => {
                self.reading.state = State::Skip(length + padding);
                self.give_back(length);
                return self.data_on_missing(header.stream);
            }
            Some(stream) if stream.is_closed() => return error(ErrorCode::STREAM_CLOSED, "data_after_end"),
            Some(stream) if stream.remote_done => Some(reset_for(ErrorCode::STREAM_CLOSED)),
            Some(stream) if !stream.head_received => Some(reset_for(ErrorCode::PROTOCOL_ERROR)),
            Some(stream) if charge > stream.recv_window => Some(reset_for(ErrorCode::FLOW_CONTROL_ERROR)),
            Some(stream) => {
                stream.recv_window -= charge;
                let fits = take_expected(stream, length, end_stream);
                (!fits).then_some((ErrorCode::PROTOCOL_ERROR, reason::MESSAGING_RULE))
            }
        };
        if let Some((code, fault)) = refusal {
            self.reading.state = State::Skip(length + padding);
            self.give_back(length);
            return self.reset_faulty(header.stream, code, fault);
        }
        self.give_back_stream(header.stream, overhead);
        self.reading.state = State::Data { stream: header.stream, left: length, padding, end_stream };
        Ok(None)
    }

    fn data_on_missing(&mut self, id: u32) -> Outcome<'static> {
        if self.is_idle(id) {
            return protocol_error("data_on_idle_stream");
        }
        match self.streams.ending(id) {
            Some(Ending::Finished) => error(ErrorCode::STREAM_CLOSED, "data_after_end"),
            // They were on their way when we reset the stream, or nobody knows any more.
            Some(Ending::ResetByUs) | None => Ok(None),
            Some(Ending::ResetByPeer) => self.stream_error(id, ErrorCode::STREAM_CLOSED),
        }
    }

    /// A piece of DATA whose stream was there when the frame began.
    fn deliver<'a>(&mut self, id: u32, data: &'a [u8], end_stream: bool) -> Option<Event<'a>> {
        let length = data.len() as u32;
        let Some(stream) = self.streams.get_mut(id) else {
            // The engine has reset it in the middle of the frame.
            self.give_back(length);
            return None;
        };
        stream.unreleased += length;
        stream.remote_done |= end_stream;
        let tag = stream.tag;
        self.settle(id);
        (length > 0 || end_stream).then_some(Event::Data { stream: StreamId(id), tag, data, end_stream })
    }

    /// Handles a complete frame, other than DATA.
    fn frame(&mut self, header: FrameHeader, payload: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let word = |at: usize| {
            let octets = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
            octets.map_or(0, |octets| u32::from_be_bytes(*octets))
        };
        match header.kind {
            kind::HEADERS | kind::CONTINUATION => {
                let is_new = self.is_new_request(header.stream);
                let outcome = match header.kind {
                    kind::HEADERS => self.headers(header, payload, scratch),
                    _ => self.continuation(header, payload, scratch),
                };
                self.reading.failed_in_head = is_new && outcome.is_err();
                outcome
            }
            kind::PRIORITY => self.priority(header.stream, word(0) & MAX_31),
            kind::RST_STREAM => self.rst_stream(header.stream, ErrorCode(word(0))),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING => self.ping_frame(header, payload),
            kind::GOAWAY => {
                self.go_away_received = true;
                let last = word(0) & MAX_31;
                if self.config.role == Role::Client {
                    self.reading.refused_above = Some(last);
                }
                Ok(Some(Event::GoAway { last_stream: StreamId(last), code: ErrorCode(word(4)) }))
            }
            kind::WINDOW_UPDATE => self.window_update(header.stream, word(0) & MAX_31),
            _ => Ok(None),
        }
    }

    fn headers(&mut self, header: FrameHeader, payload: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let mut fragment = payload;
        let mut padding = 0;
        if header.has(flag::PADDED) {
            let Some((&length, tail)) = fragment.split_first() else {
                return error(ErrorCode::FRAME_SIZE_ERROR, "no_pad_length");
            };
            (padding, fragment) = (usize::from(length), tail);
        }
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let Some((priority, tail)) = fragment.split_first_chunk::<5>() else {
                return error(ErrorCode::FRAME_SIZE_ERROR, "no_priority");
            };
            let &[d3, d2, d1, d0, _] = priority;
            depends_on_itself = u32::from_be_bytes([d3, d2, d1, d0]) & MAX_31 == header.stream;
            fragment = tail;
        }
        let Some(fragment) = fragment.len().checked_sub(padding).and_then(|length| fragment.get(..length)) else {
            return protocol_error("padding_too_long");
        };
        let end_stream = header.has(flag::END_STREAM);
        let block = OpenBlock { stream: header.stream, end_stream, depends_on_itself, frames: 0 };
        if header.has(flag::END_HEADERS) {
            return self.header_block(block, fragment, scratch);
        }
        self.reading.block.clear();
        self.reading.block.extend_from_slice(fragment);
        self.reading.open_block = Some(block);
        Ok(None)
    }

    fn continuation(&mut self, header: FrameHeader, payload: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let Some(mut open) = self.reading.open_block else {
            return protocol_error("unexpected_continuation");
        };
        open.frames += 1;
        if open.frames > self.config.limits.continuations() {
            return too_much(reason::CONTINUATION_FRAMES);
        }
        self.reading.open_block = Some(open);
        self.reading.block.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Ok(None);
        }
        self.reading.open_block = None;
        let block = std::mem::take(&mut self.reading.block);
        self.header_block(open, &block, scratch)
    }

    fn header_block(&mut self, block: OpenBlock, octets: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let id = block.stream;
        if self.config.role == Role::Server && self.is_idle(id) {
            return self.request(block, octets, scratch);
        }
        let Some(stream) = self.streams.get(id) else {
            self.discard_block(octets)?;
            return match self.streams.ending(id) {
                _ if self.is_idle(id) => protocol_error("headers_on_idle_stream"),
                Some(Ending::Finished) => error(ErrorCode::STREAM_CLOSED, "headers_after_end"),
                Some(Ending::ResetByUs) => Ok(None),
                Some(Ending::ResetByPeer) => self.stream_error(id, ErrorCode::STREAM_CLOSED),
                // RFC 9113 section 5.1.1: a number that was skipped, or used long ago.
                None if id > self.accept_up_to => Ok(None),
                // One of ours, reset so long ago that it is forgotten: its answer was on the way.
                None if self.config.role == Role::Client => Ok(None),
                None => protocol_error("stream_id_not_increasing"),
            };
        };
        let (closed, remote_done, head_received) = (stream.is_closed(), stream.remote_done, stream.head_received);
        if closed || remote_done || block.depends_on_itself {
            self.discard_block(octets)?;
            return match (closed, remote_done) {
                (true, _) => error(ErrorCode::STREAM_CLOSED, "headers_after_end"),
                (_, true) => self.stream_error(id, ErrorCode::STREAM_CLOSED),
                _ => self.stream_error(id, ErrorCode::PROTOCOL_ERROR),
            };
        }
        if head_received {
            self.trailers(block, octets, scratch)
        } else {
            self.response(block, octets, scratch)
        }
    }

    fn request(&mut self, block: OpenBlock, octets: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let id = block.stream;
        if id.is_multiple_of(2) {
            return protocol_error("even_stream_from_client");
        }
        self.last_peer_stream = id;
        if id > self.accept_up_to {
            self.discard_block(octets)?;
            return Ok(None);
        }
        let refused = self.active >= self.config.limits.concurrent_streams as usize;
        if refused || block.depends_on_itself {
            self.discard_block(octets)?;
            // Before it knows our settings a client cannot know how many are too many.
            self.tally.stream_refused += u32::from(refused);
            if refused && !self.settings_acked {
                return self.refuse(id);
            }
            return match refused {
                true => self.stream_error(id, ErrorCode::REFUSED_STREAM),
                false => self.malformed(id, reason::of(ErrorCode::PROTOCOL_ERROR)),
            };
        }
        let (limits, allow_protocol) = (&self.config.limits, self.config.enable_connect_protocol);
        let verdict = head::read_request(
            &mut self.decoder,
            octets,
            limits,
            &mut self.cookies,
            allow_protocol,
            &mut scratch.request,
        );
        let mut stream = Stream::new(id, self.initial_send_window(), self.initial_recv_window());
        stream.head_received = true;
        stream.remote_done = block.end_stream;
        let is_tunnel = scratch.request.method == Method::Connect;
        match compressed(verdict)? {
            Verdict::Good(length) => {
                stream.expected = length.filter(|_| !is_tunnel).unwrap_or(NO_LENGTH);
                if block.end_stream && length.is_some_and(|length| length != 0) {
                    return self.malformed(id, reason::MESSAGING_RULE);
                }
                let size = scratch.request.memory();
                if self.active > 0 && self.header_memory + size > self.config.limits.header_memory {
                    self.tally.header_memory_overflow += 1;
                    return self.refuse(id);
                }
                stream.head_size = u32::try_from(size).unwrap_or(u32::MAX);
                self.header_memory += stream.head_size as usize;
                self.announce(stream);
                Ok(Some(Event::Request { stream: StreamId(id), end_stream: block.end_stream }))
            }
            Verdict::TooLarge => {
                self.tally.header_overflow += 1;
                self.announce(stream);
                Ok(Some(Event::HeadTooLarge { stream: StreamId(id) }))
            }
            Verdict::Malformed(fault) => {
                self.tally.rx_messaging_error += 1;
                self.malformed(id, fault)
            }
        }
    }

    /// A request that never becomes one.
    fn malformed(&mut self, id: u32, fault: &'static str) -> Outcome<'static> {
        self.reset_faulty(id, ErrorCode::PROTOCOL_ERROR, fault)?;
        Ok(Some(Event::Malformed { fault }))
    }

    fn announce(&mut self, mut stream: Stream) {
        stream.announced = true;
        self.streams.insert(stream);
        self.active += 1;
        self.opened += 1;
    }

    /// The stream finds no room, through no fault of the peer's: nothing was processed, so it may try again.
    fn refuse(&mut self, id: u32) -> Outcome<'static> {
        self.streams.remember(id, Ending::ResetByUs);
        self.tally.tx_reset += 1;
        self.reply_with(|output| output.rst_stream(id, ErrorCode::REFUSED_STREAM))?;
        Ok(None)
    }

    /// A malformed message (RFC 9113 section 8.1.1).
    fn messaging_error(&mut self, id: u32, fault: &'static str) -> Outcome<'static> {
        self.tally.rx_messaging_error += 1;
        self.reset_faulty(id, ErrorCode::PROTOCOL_ERROR, fault)
    }

    fn overflow(&mut self, id: u32) -> Outcome<'static> {
        self.tally.header_overflow += 1;
        self.stream_error(id, ErrorCode::ENHANCE_YOUR_CALM)
    }

    fn response(&mut self, block: OpenBlock, octets: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let (id, head) = (block.stream, &mut scratch.response);
        let verdict = head::read_response(&mut self.decoder, octets, &self.config.limits, &mut self.cookies, head);
        let length = match compressed(verdict)? {
            Verdict::Good(length) => length,
            Verdict::Malformed(fault) => return self.messaging_error(id, fault),
            Verdict::TooLarge => return self.overflow(id),
        };
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        if head.is_interim() {
            stream.interims += 1;
            if stream.interims > self.config.limits.interim_responses {
                self.tally.too_many_header_frames += 1;
                return self.stream_error(id, ErrorCode::ENHANCE_YOUR_CALM);
            }
        } else {
            stream.head_received = true;
            stream.remote_done = block.end_stream;
            // RFC 9110 section 6.4.1: these have no body, whatever they claim.
            let bodiless = stream.head_request || matches!(head.status, 204 | 304);
            // RFC 9110 section 9.3.6: a tunnel has no length.
            let tunnel = stream.connect_request && (200..300).contains(&head.status);
            stream.expected = match length {
                _ if tunnel => NO_LENGTH,
                _ if bodiless => 0,
                Some(length) => length,
                None => NO_LENGTH,
            };
        }
        let missing = block.end_stream && !matches!(stream.expected, 0 | NO_LENGTH);
        if missing || (head.is_interim() && block.end_stream) {
            stream.remote_done = false;
            return self.reset_faulty(id, ErrorCode::PROTOCOL_ERROR, reason::MESSAGING_RULE);
        }
        let tag = stream.tag;
        self.settle(id);
        Ok(Some(Event::Response { stream: StreamId(id), tag, end_stream: block.end_stream }))
    }

    fn trailers(&mut self, block: OpenBlock, octets: &[u8], scratch: &mut Scratch) -> Outcome<'static> {
        let (id, trailers) = (block.stream, &mut scratch.trailers);
        let verdict = head::read_trailers(&mut self.decoder, octets, &self.config.limits, &mut self.cookies, trailers);
        let verdict = compressed(verdict)?;
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        let complete = block.end_stream && matches!(stream.expected, 0 | NO_LENGTH);
        match verdict {
            Verdict::Good(_) if complete => {
                stream.remote_done = true;
                let tag = stream.tag;
                self.settle(id);
                Ok(Some(Event::Trailers { stream: StreamId(id), tag }))
            }
            Verdict::TooLarge => self.overflow(id),
            Verdict::Good(_) => self.messaging_error(id, reason::MESSAGING_RULE),
            Verdict::Malformed(fault) => self.messaging_error(id, fault),
        }
    }

    fn discard_block(&mut self, octets: &[u8]) -> Result<(), ConnectionError> {
        compressed(head::discard(&mut self.decoder, octets))
    }

    /// The peer broke a rule that costs it the stream only.
    fn stream_error(&mut self, id: u32, code: ErrorCode) -> Outcome<'static> {
        self.reset_faulty(id, code, reason::of(code))
    }

    fn reset_faulty(&mut self, id: u32, code: ErrorCode, fault: &'static str) -> Outcome<'static> {
        let gone = self.forget(id, Ending::ResetByUs);
        if gone.is_none() {
            self.streams.remember(id, Ending::ResetByUs);
        }
        self.tally.tx_reset += 1;
        // RFC 9113 section 10.5: whoever makes us tear streams down is counted as one who resets them.
        self.premature_resets += 1;
        self.reply_with(|output| output.rst_stream(id, code))?;
        let known = gone.filter(|stream| stream.announced && !stream.is_closed());
        Ok(known.map(|stream| Event::Reset { stream: StreamId(id), tag: stream.tag, code, fault: Some(fault) }))
    }

    fn reply_with(&mut self, write: impl FnOnce(&mut super::output::Output)) -> Result<(), ConnectionError> {
        if self.output.queued_replies() >= self.config.limits.outbound_control_frames {
            return too_much(reason::OUTBOUND_CONTROL_FLOOD);
        }
        self.output.reply(write);
        Ok(())
    }

    /// RFC 9113 section 5.3.2: deprecated; only what cannot be is refused.
    fn priority(&mut self, id: u32, depends_on: u32) -> Outcome<'static> {
        self.priority_frames += 1;
        if self.priority_frames > self.config.limits.priority_frames(self.opened) {
            return too_much(reason::PRIORITY_FRAMES);
        }
        match depends_on == id {
            false => Ok(None),
            true if self.is_idle(id) => protocol_error("stream_depends_on_itself"),
            true => self.stream_error(id, ErrorCode::PROTOCOL_ERROR),
        }
    }

    fn rst_stream(&mut self, id: u32, code: ErrorCode) -> Outcome<'static> {
        if self.is_idle(id) {
            return protocol_error("rst_stream_on_idle_stream");
        }
        let Some(stream) = self.streams.get(id).filter(|stream| !stream.is_closed()) else {
            // Resets that crossed: what was on its way to us ends with the peer's.
            self.streams.amend(id, Ending::ResetByUs, Ending::ResetByPeer);
            return Ok(None);
        };
        let tag = stream.tag;
        self.forget(id, Ending::ResetByPeer);
        self.tally.rx_reset += 1;
        // What a server takes back costs the client that asked nothing.
        self.premature_resets += u32::from(self.config.role == Role::Server);
        Ok(Some(Event::Reset { stream: StreamId(id), tag, code, fault: None }))
    }

    fn ping_frame(&mut self, header: FrameHeader, payload: &[u8]) -> Outcome<'static> {
        if header.has(flag::ACK) {
            return Ok(payload.first_chunk::<8>().map(|opaque| Event::PingAck(*opaque)));
        }
        self.reply_with(|output| output.frame(kind::PING, flag::ACK, 0, payload))?;
        Ok(None)
    }

    fn settings(&mut self, header: FrameHeader, payload: &[u8]) -> Outcome<'static> {
        if header.has(flag::ACK) {
            self.settings_acked = true;
            self.decoder.set_allowed_size(self.config.limits.header_table_size);
            return Ok(None);
        }
        let before = self.peer.initial_window;
        let sender = match self.config.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        let encoder = &mut self.encoder;
        self.peer.apply(payload, sender, |size| encoder.set_allowed_size(size))?;
        self.peer_known = true;
        // RFC 9113 section 6.9.2: both are below 2^31; windows may go below zero.
        let change = self.peer.initial_window as i32 - before as i32;
        for stream in self.streams.iter_mut() {
            match stream.send_window.checked_add(change) {
                Some(window) => stream.send_window = window,
                None => return error(ErrorCode::FLOW_CONTROL_ERROR, "initial_window_overflow"),
            }
        }
        self.reading.window_opened |= change > 0 && self.active > 0;
        self.reply_with(|output| output.frame(kind::SETTINGS, flag::ACK, 0, &[]))?;
        Ok(Some(Event::SettingsChanged))
    }

    fn window_update(&mut self, id: u32, increment: u32) -> Outcome<'static> {
        self.window_updates += 1;
        if self.window_updates > self.config.limits.window_updates(self.opened, self.data_frames_sent) {
            return too_much(reason::WINDOW_UPDATE_FRAMES);
        }
        if id == 0 {
            return match self.send_window.checked_add_unsigned(increment) {
                _ if increment == 0 => protocol_error("window_update_of_zero"),
                None => error(ErrorCode::FLOW_CONTROL_ERROR, "connection_window_overflow"),
                Some(window) => {
                    self.send_window = window;
                    Ok(Some(Event::WindowOpened { stream: None }))
                }
            };
        }
        if self.is_idle(id) {
            return protocol_error("window_update_on_idle_stream");
        }
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.is_closed()) else { return Ok(None) };
        match stream.send_window.checked_add_unsigned(increment) {
            _ if increment == 0 => self.stream_error(id, ErrorCode::PROTOCOL_ERROR),
            None => self.stream_error(id, ErrorCode::FLOW_CONTROL_ERROR),
            Some(window) => {
                stream.send_window = window;
                let opened = Event::WindowOpened { stream: Some((StreamId(id), stream.tag)) };
                Ok((!stream.local_done).then_some(opened))
            }
        }
    }

    /// Never used so far (RFC 9113 section 5.1).
    fn is_idle(&self, id: u32) -> bool {
        match self.config.role {
            Role::Server => id > self.last_peer_stream,
            Role::Client => id.is_multiple_of(2) || id >= self.next_stream,
        }
    }

    /// A request has begun and was neither announced nor refused: its head is being read, or the connection failed in it.
    pub fn is_in_new_head(&self) -> bool {
        let begun = match (&self.reading.open_block, &self.reading.state) {
            (Some(block), _) => Some(block.stream),
            (None, State::Payload(header)) if header.kind == kind::HEADERS => Some(header.stream),
            _ => None,
        };
        self.reading.failed_in_head || begun.is_some_and(|id| self.is_new_request(id))
    }

    fn is_new_request(&self, id: u32) -> bool {
        self.config.role == Role::Server && !id.is_multiple_of(2) && self.is_idle(id)
    }

    pub(super) fn initial_recv_window(&self) -> i32 {
        let window = self.config.limits.stream_window.min(MAX_31);
        // Until it has seen our settings the peer may count on the default.
        let window = if self.settings_acked { window } else { window.max(DEFAULT_WINDOW) };
        window as i32
    }
}

fn reset_for(code: ErrorCode) -> (ErrorCode, &'static str) {
    (code, reason::of(code))
}

/// Counts DATA against `content-length` (RFC 9113 section 8.1.1); false if it is too much or too little.
fn take_expected(stream: &mut Stream, length: u32, end_stream: bool) -> bool {
    if stream.expected == NO_LENGTH {
        return true;
    }
    let Some(left) = stream.expected.checked_sub(u64::from(length)) else { return false };
    stream.expected = left;
    !end_stream || left == 0
}

fn compressed<T>(decoded: Result<T, hpack::Error>) -> Result<T, ConnectionError> {
    decoded.or_else(|failure| error(ErrorCode::COMPRESSION_ERROR, failure.reason()))
}
