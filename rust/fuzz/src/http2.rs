//! HTTP/2 connections: raw octets cut in two ways, and frames that the input puts together.

use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId, PREFACE};
use pymesh_http::{Headers, Limits, RequestHead, ResponseHead};

use crate::frames::*;
use crate::input::Input;

/// What a peer did, in the order in which it was noticed.
#[derive(Debug, PartialEq)]
enum Did {
    Head(StreamId, String, bool),
    HeadTooLarge(StreamId),
    Data(StreamId, Vec<u8>, bool),
    Trailers(StreamId, String),
    Reset(StreamId, ErrorCode, Option<&'static str>),
    Other(String),
}

fn did(event: &Event<'_>, scratch: &Scratch) -> Did {
    match *event {
        Event::Request { stream, end_stream } => {
            let (head, octets) = (&scratch.request, |octets: &[u8]| String::from_utf8_lossy(octets).into_owned());
            assert!(!head.method_bytes().is_empty());
            assert!(head.path().is_empty() || head.path().starts_with(b"/") || head.path() == b"*");
            let first = [head.method_bytes(), head.authority(), head.path(), head.protocol()].map(octets).join(" ");
            Did::Head(stream, format!("{first} {:?} {:?}", head.scheme, head.headers), end_stream)
        }
        Event::Response { stream, end_stream, .. } => {
            let head = &scratch.response;
            assert!((100..1000).contains(&head.status) && head.status != 101);
            Did::Head(stream, format!("{} {:?}", head.status, head.headers), end_stream)
        }
        Event::HeadTooLarge { stream } => Did::HeadTooLarge(stream),
        Event::Data { stream, data, end_stream, .. } => {
            assert!(!data.is_empty() || end_stream, "DATA of nothing");
            Did::Data(stream, data.to_vec(), end_stream)
        }
        Event::Trailers { stream, .. } => Did::Trailers(stream, format!("{:?}", scratch.trailers)),
        Event::Reset { stream, code, fault, .. } => Did::Reset(stream, code, fault),
        other => Did::Other(format!("{other:?}")),
    }
}

/// An end under test, and the judge of what it says.
struct End {
    connection: Connection,
    scratch: Scratch,
    peer: Peer,
    role: Role,
    did: Vec<Did>,
    /// Streams that it has told, for the input to choose from.
    streams: Vec<StreamId>,
    /// Answers at once, and takes what it gets.
    answers: bool,
    failed: bool,
    heard: usize,
    said: usize,
}

impl End {
    fn new(role: Role, limits: Limits, answers: bool) -> End {
        let connection = Connection::new(Config { role, limits, enable_connect_protocol: true });
        let peer = Peer::new(role, limits.connection_window, limits.stream_window);
        let (scratch, did, streams) = (Scratch::default(), Vec::new(), Vec::new());
        End { connection, scratch, peer, role, did, streams, answers, failed: false, heard: 0, said: 0 }
    }

    fn hear(&mut self, octets: &[u8]) {
        self.heard += octets.len();
        let mut input = octets;
        loop {
            match self.connection.receive(&mut input, &mut self.scratch) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let did = did(&event, &self.scratch);
                    self.react(did);
                }
                Err(error) => {
                    assert_eq!(self.connection.receive(&mut &b"x"[..], &mut self.scratch), Err(error));
                    if !self.failed {
                        self.did.push(Did::Other(error.reason.to_owned()));
                    }
                    self.failed = true;
                    break;
                }
            }
        }
        self.flush();
        let is_bounded = !self.answers || self.said <= 65_536 + 64 * self.heard;
        assert!(is_bounded, "{} octets are answered by {}", self.heard, self.said);
    }

    fn react(&mut self, did: Did) {
        match &did {
            Did::Head(stream, ..) | Did::HeadTooLarge(stream) if self.role == Role::Server => {
                self.streams.push(*stream);
                if self.answers {
                    self.answer(*stream, stream.value() / 2 % 4);
                }
            }
            Did::Data(stream, octets, _) if self.answers => self.connection.release(*stream, octets.len()),
            _ => {}
        }
        // Pieces of a body are one piece here: where they are cut says nothing.
        if let (Did::Data(stream, octets, end), Some(Did::Data(last, before, ended))) = (&did, self.did.last_mut()) {
            if stream == last {
                before.extend_from_slice(octets);
                *ended |= *end;
                return;
            }
        }
        self.did.push(did);
    }

    /// A stream that has gone meanwhile is said to have gone, which is no fault.
    fn answer(&mut self, stream: StreamId, how: u32) {
        let head = ResponseHead { status: 200, ..ResponseHead::default() };
        let connection = &mut self.connection;
        let _gone = match how {
            1 => connection.send_response(stream, &head, true),
            2 => connection
                .send_response(stream, &head, false)
                .and_then(|()| connection.send_data(stream, &[b'd'; 100], true).map(|_| ())),
            3 => {
                connection.reset(stream, ErrorCode::CANCEL);
                Ok(())
            }
            _ => Ok(()),
        };
    }

    fn flush(&mut self) -> Vec<Said> {
        let output = self.connection.output().to_vec();
        self.said += output.len();
        self.connection.advance_output(output.len());
        let said = self.peer.hears(&output);
        assert!(self.peer.has_heard_all(), "half a frame");
        let most = Limits::default().concurrent_streams as usize;
        assert!(self.role == Role::Client || self.connection.active_streams() <= most, "too many streams");
        said
    }
}

/// The octets of a client. The first says whether it begins in good order, the second where its input is cut.
pub fn server(data: &[u8]) {
    raw(data, Role::Server);
}

/// The octets of a server, as [`server`].
pub fn client(data: &[u8]) {
    raw(data, Role::Client);
}

fn raw(data: &[u8], role: Role) {
    let mut input = Input::new(data);
    let (flags, cut) = (input.octet(), input.below(64) + 1);
    let mut wire = Vec::new();
    if flags & 1 == 0 {
        if role == Role::Server {
            wire.extend_from_slice(PREFACE);
        }
        wire.extend(frame(SETTINGS, 0, 0, &[]));
    }
    wire.extend_from_slice(input.rest());
    let ends = [wire.len().max(1), cut].map(|cut| {
        let mut end = End::new(role, Limits::default(), true);
        if role == Role::Client {
            for at in 0..flags / 2 % 8 {
                let mut head = RequestHead::default();
                head.set_method([&b"GET"[..], b"HEAD", b"POST", b"CONNECT"][usize::from(at) % 4]);
                head.set_authority(b"a:1");
                head.set_path(b"/");
                let stream = end.connection.open(&head, at % 3 == 0, at.into()).unwrap();
                end.streams.push(stream);
            }
        }
        end.flush();
        wire.chunks(cut).for_each(|piece| end.hear(piece));
        end
    });
    assert_eq!(ends[0].did, ends[1].did, "cut by {cut}");
    assert_eq!(ends[0].failed, ends[1].failed);
}

/// Heads that the input can choose from; the last one is its own.
fn fields(input: &mut Input<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    const HEADS: [&[(&str, &str)]; 10] = [
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
        &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("content-length", "5")],
        &[(":method", "HEAD"), (":scheme", "https"), (":path", "/a?b"), ("host", "a")],
        &[(":method", "CONNECT"), (":authority", "a:1")],
        &[(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
        &[(":status", "200")],
        &[(":status", "200"), ("content-length", "5")],
        &[(":status", "100")],
        &[(":status", "204")],
        &[("x-trailer", "a"), ("cookie", "a=1"), ("cookie", "b=2")],
    ];
    let head = HEADS[input.below(HEADS.len())];
    let mut fields: Vec<_> =
        head.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
    for _ in 0..input.below(4) {
        fields.push((input.string().to_vec(), input.string().to_vec()));
    }
    if input.octet() == 255 {
        fields.push((b"x-large".to_vec(), vec![b'x'; 62_000]));
    }
    fields
}

/// Frames with heads that HPACK can read, and what the end does in between. The judge keeps
/// account of all windows; in the end nothing of the connection's may be lost.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let role = if input.flag() { Role::Client } else { Role::Server };
    let limits = Limits { stream_window: u32::from(input.word()) + 1, connection_window: 65_535, ..Limits::default() };
    let mut end = End::new(role, limits, false);
    end.flush();
    let mut hpack = fluke_hpack::Encoder::new();
    let preface = if role == Role::Server { &PREFACE[..] } else { b"" };
    let start = [preface, &frame(SETTINGS, 0, 0, &[])].concat();
    end.peer.says(&start);
    end.hear(&start);
    while !input.is_empty() && !end.failed {
        let what = input.octet() % 20;
        let id = u32::from(input.octet() % 24) + 1;
        match what {
            0..=8 => {
                let octets = peer_frame(what, id, &mut input, &mut hpack);
                end.peer.says(&octets);
                end.hear(&octets);
            }
            _ => act(&mut end, what, id, &mut input),
        }
        end.flush();
    }
    if end.failed {
        return;
    }
    // What was not taken yet is taken, or given up.
    for stream in end.streams.clone() {
        end.connection.release(stream, usize::MAX);
        end.connection.reset(stream, ErrorCode::CANCEL);
    }
    end.flush();
    assert_eq!(end.connection.active_streams(), 0);
    assert!(end.peer.granted > 65_535 / 2, "only {} octets are left of the connection's window", end.peer.granted);
}

/// A frame, or a head of several, that the peer sends.
fn peer_frame(what: u8, id: u32, input: &mut Input<'_>, hpack: &mut fluke_hpack::Encoder<'_>) -> Vec<u8> {
    let flags = input.octet();
    match what {
        0 | 1 => {
            let fields = fields(input);
            let block = hpack.encode(fields.iter().map(|(name, value)| (&name[..], &value[..])));
            let mut payload = Vec::new();
            let padding = usize::from(flags & PADDED) * 2;
            if padding > 0 {
                payload.push(padding as u8);
            }
            if flags & WITH_PRIORITY != 0 {
                payload.extend_from_slice(&[0, 0, 0, input.octet() % 8, 16]);
            }
            let size = usize::from(input.octet()) * 64 + 1;
            let mut pieces: Vec<&[u8]> = block.chunks(size).collect();
            let first = pieces.remove(0);
            payload.extend_from_slice(first);
            payload.extend(vec![0; padding]);
            let known = flags & (END_STREAM | PADDED | WITH_PRIORITY);
            let last = |is_last: bool| if is_last { END_HEADERS } else { 0 };
            let mut octets = frame(HEADERS, known | last(pieces.is_empty()), id, &payload);
            for (at, piece) in pieces.iter().enumerate() {
                octets.extend(frame(CONTINUATION, last(at + 1 == pieces.len()), id, piece));
            }
            octets
        }
        2 | 3 => {
            let length = if flags & 64 == 0 { usize::from(input.octet()) } else { usize::from(input.word()) % 16_384 };
            let mut payload = vec![b'x'; length];
            if flags & PADDED != 0 {
                payload.insert(0, input.octet());
            }
            frame(DATA, flags & (END_STREAM | PADDED), id, &payload)
        }
        4 => frame(RST_STREAM, 0, id, &u32::from(flags % 16).to_be_bytes()),
        5 => {
            let mut payload = Vec::new();
            for _ in 0..flags % 4 {
                payload.extend_from_slice(&[0, input.octet() % 10]);
                let value = if input.flag() { input.long() } else { u32::from(input.octet()) };
                payload.extend_from_slice(&value.to_be_bytes());
            }
            frame(SETTINGS, u8::from(flags & 4 == 4), 0, if flags & 4 == 4 { &[] } else { &payload })
        }
        6 => {
            let more = if flags & 1 == 1 { input.long() } else { u32::from(input.word()) + 1 };
            frame(WINDOW_UPDATE, 0, if flags & 2 == 2 { 0 } else { id }, &more.to_be_bytes())
        }
        7 => match flags % 4 {
            0 => frame(PING, flags >> 2 & ACK, 0, &[7; 8]),
            1 => frame(GOAWAY, 0, 0, &[0, 0, 0, id as u8, 0, 0, 0, flags >> 2]),
            2 => frame(PRIORITY, 0, id, &[0, 0, 0, flags >> 2, 1]),
            _ => frame(flags >> 2, input.octet(), 0, input.string()),
        },
        _ => frame(flags % 12, input.octet(), id, input.string()),
    }
}

/// Something that the end's owner does.
fn act(end: &mut End, what: u8, id: u32, input: &mut Input<'_>) {
    let value = input.word();
    let stream = match end.streams.len() {
        0 => None,
        count => Some(end.streams[id as usize % count]),
    };
    let connection = &mut end.connection;
    let mut extra = Headers::new();
    extra.append(b"x-a", &[b'v'; 70][..usize::from(value) % 70]);
    // That a stream has gone is an answer, too.
    match (what, stream) {
        (9 | 10, _) if end.role == Role::Client => {
            let mut head = RequestHead::default();
            head.headers = extra;
            head.set_method([&b"GET"[..], b"HEAD", b"POST", b"CONNECT"][usize::from(value) % 4]);
            head.set_authority(b"a:1");
            head.set_path(b"/");
            if value % 8 == 7 {
                head.set_protocol(b"websocket");
            }
            let could = connection.can_open();
            match connection.open(&head, value & 16 == 16, id) {
                Ok(stream) => end.streams.push(stream),
                Err(error) => assert!(!could || !head.protocol().is_empty(), "{error:?}"),
            }
        }
        (9 | 10, Some(stream)) => {
            let head = ResponseHead { status: 100 + value % 500, headers: extra, ..ResponseHead::default() };
            let _gone = connection.send_response(stream, &head, value & 1024 != 0 && head.status >= 200);
        }
        (11 | 12, Some(stream)) => {
            let data = vec![b'd'; usize::from(value)];
            let capacity = connection.send_capacity(stream);
            if let Ok(sent) = connection.send_data(stream, &data, value & 1 == 1) {
                assert_eq!(sent, capacity.min(data.len()), "not what could be sent");
            }
        }
        (13, Some(stream)) => {
            let _gone = connection.send_trailers(stream, &extra);
        }
        (14, Some(stream)) => connection.reset(stream, ErrorCode(u32::from(value) % 16)),
        (15 | 16, Some(stream)) => connection.release(stream, value.into()),
        (17, _) => match value % 16 {
            0 => connection.go_away(ErrorCode::NO_ERROR),
            1 => connection.shutdown_notice(),
            2 => connection.ping([1; 8]),
            _ => connection.shrink_idle(),
        },
        _ => {}
    }
}
