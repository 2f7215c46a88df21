//! What this end says: heads, DATA, trailers.

use super::frame::{flag, kind, DEFAULT_FRAME_SIZE, MAX_31};
use super::streams::Stream;
use super::{Connection, OpenError, Role, StreamGone, StreamId};
use crate::hpack::encoder::Indexing;
use crate::hpack::Encoder;
use crate::{Headers, Known, Method, RequestHead, ResponseHead, Scheme};

/// Larger frames would let one stream hold up the others.
const LARGEST_DATA: usize = 64 * 1024;

mod index {
    pub(super) const AUTHORITY: usize = 1;
    pub(super) const METHOD: usize = 2;
    pub(super) const PATH: usize = 4;
    pub(super) const STATUS: usize = 8;
}

impl Connection {
    /// Client: whether the peer's settings and GOAWAY leave room for one more stream.
    pub fn can_open(&self) -> bool {
        self.check_open().is_ok()
    }

    fn check_open(&self) -> Result<(), OpenError> {
        if self.config.role != Role::Client {
            Err(OpenError::NotClient)
        } else if self.is_closing() || self.next_stream > MAX_31 {
            Err(OpenError::Closing)
        } else if self.active >= self.peer.concurrent_streams as usize {
            Err(OpenError::TooManyStreams)
        } else {
            Ok(())
        }
    }

    /// Client: opens a stream with a request. `tag` is the engine's key for it.
    pub fn open(&mut self, head: &RequestHead, end_stream: bool, tag: u32) -> Result<StreamId, OpenError> {
        self.check_open()?;
        if !head.protocol().is_empty() && !self.peer.connect_protocol {
            return Err(OpenError::ConnectProtocolUnsupported);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        let mut stream = Stream::new(id, self.initial_send_window(), self.initial_recv_window());
        stream.tag = tag;
        stream.announced = true;
        // What was announced, although the peer may count on more until it has seen that.
        stream.granted = self.config.limits.stream_window;
        stream.local_done = end_stream;
        stream.head_request = head.method == Method::Head;
        stream.connect_request = head.method == Method::Connect || !head.protocol().is_empty();
        self.streams.insert(stream);
        self.active += 1;
        self.opened += 1;
        self.send_head(id, end_stream, |encoder, out| encode_request(encoder, head, out));
        Ok(StreamId(id))
    }

    fn send_head(&mut self, id: u32, end_stream: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let Connection { encoder, output, peer, .. } = self;
        output.headers(id, end_stream, peer.frame_size as usize, |out| {
            encoder.begin_block(out);
            encode(encoder, out);
        });
    }

    /// The stream, if this end may still send on it.
    fn sendable(&mut self, stream: StreamId) -> Result<&mut Stream, StreamGone> {
        self.streams.get_mut(stream.0).filter(|stream| !stream.local_done).ok_or(StreamGone)
    }

    /// Server: sends a response head, interim (1xx) ones included.
    pub fn send_response(&mut self, stream: StreamId, head: &ResponseHead, end_stream: bool) -> Result<(), StreamGone> {
        self.sendable(stream)?.local_done = end_stream;
        self.send_head(stream.0, end_stream, |encoder, out| {
            encode_status(encoder, head.status, out);
            encode_fields(encoder, &head.headers, out);
        });
        self.settle(stream.0);
        Ok(())
    }

    /// Sends as much of `data` as the windows allow and says how much that was.
    /// END_STREAM goes out only if it was all.
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end_stream: bool) -> Result<usize, StreamGone> {
        let connection_window = self.send_window;
        let frame_size = (self.peer.frame_size as usize).min(LARGEST_DATA);
        let entry = self.sendable(stream)?;
        let capacity = usize::try_from(entry.send_window.min(connection_window)).unwrap_or(0);
        let accepted = data.get(..capacity).unwrap_or(data);
        let finish = end_stream && accepted.len() == data.len();
        if accepted.is_empty() && !finish {
            return Ok(0);
        }
        // At most a window, so it fits; both windows stay at zero or above.
        entry.send_window -= accepted.len() as i32;
        entry.local_done = finish;
        self.send_window -= accepted.len() as i32;
        let mut rest = accepted;
        loop {
            let (payload, tail) = rest.split_at(rest.len().min(frame_size));
            let last = tail.is_empty();
            let flags = if finish && last { flag::END_STREAM } else { 0 };
            self.output.frame(kind::DATA, flags, stream.0, payload);
            // In units of what everybody accepts: of a large frame a peer may give back in many pieces.
            self.data_frames_sent += payload.len().div_ceil(DEFAULT_FRAME_SIZE as usize).max(1) as u64;
            if last {
                break;
            }
            rest = tail;
        }
        self.settle(stream.0);
        Ok(accepted.len())
    }

    /// Sends trailers, which end the stream.
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Headers) -> Result<(), StreamGone> {
        self.sendable(stream)?.local_done = true;
        self.send_head(stream.0, true, |encoder, out| encode_fields(encoder, trailers, out));
        self.settle(stream.0);
        Ok(())
    }

    /// How many octets [`Connection::send_data`] would accept now.
    pub fn send_capacity(&self, stream: StreamId) -> usize {
        match self.streams.get(stream.0).filter(|stream| !stream.local_done) {
            Some(stream) => usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0),
            None => 0,
        }
    }

    /// The peer accepts extended CONNECT (RFC 8441).
    pub fn peer_allows_connect_protocol(&self) -> bool {
        self.peer.connect_protocol
    }

    /// The peer's first SETTINGS have come: what they do not say, it does not offer.
    pub fn knows_peer(&self) -> bool {
        self.peer_known
    }

    pub(super) fn initial_send_window(&self) -> i32 {
        // SETTINGS above 2^31-1 are refused.
        self.peer.initial_window as i32
    }
}

fn encode_request(encoder: &mut Encoder, head: &RequestHead, out: &mut Vec<u8>) {
    let extended = !head.protocol().is_empty();
    match head.method {
        // RFC 8441 section 4: whatever it is in HTTP/1.1, where an upgrade is a GET.
        _ if extended => encoder.field(b":method", b"CONNECT", Some(index::METHOD), Indexing::Always, out),
        Method::Get => encoder.static_entry(2, out),
        Method::Post => encoder.static_entry(3, out),
        _ => encoder.field(b":method", head.method_bytes(), Some(index::METHOD), Indexing::Always, out),
    }
    // RFC 9113 section 8.5: plain CONNECT has neither scheme nor path.
    if head.method != Method::Connect || extended {
        encoder.static_entry(if head.scheme == Scheme::Https { 7 } else { 6 }, out);
        let path = head.path();
        let indexing = if path.contains(&b'?') { Indexing::No } else { Indexing::IfRepeated };
        match path {
            b"/" => encoder.static_entry(4, out),
            _ => encoder.field(b":path", path, Some(index::PATH), indexing, out),
        }
    }
    if !head.authority().is_empty() {
        encoder.field(b":authority", head.authority(), Some(index::AUTHORITY), Indexing::Always, out);
    }
    if extended {
        encoder.field(b":protocol", head.protocol(), None, Indexing::Always, out);
    }
    encode_fields(encoder, &head.headers, out);
}

fn encode_status(encoder: &mut Encoder, status: u16, out: &mut Vec<u8>) {
    let entry = match status {
        // RFC 8441 section 5: what 101 says in HTTP/1.1. There is no 101 here (RFC 9113 section 8.6).
        101 | 200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let digit = |n: u16| b'0' + (n % 10) as u8;
            let value = [digit(status / 100), digit(status / 10), digit(status)];
            return encoder.field(b":status", &value, Some(index::STATUS), Indexing::Always, out);
        }
    };
    encoder.static_entry(entry, out);
}

fn encode_fields(encoder: &mut Encoder, headers: &Headers, out: &mut Vec<u8>) {
    for field in headers.iter() {
        match field.known {
            // RFC 9113 section 8.2.2: what belongs to an HTTP/1 connection stops here.
            Some(
                Known::Connection
                | Known::Host
                | Known::Http2Settings
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade,
            ) => {}
            Some(Known::Te) if !field.value.eq_ignore_ascii_case(b"trailers") => {}
            Some(known) => encoder.known(known, field.value, field.sensitive, out),
            None => encoder.other(field.name, field.value, field.sensitive, out),
        }
    }
}
