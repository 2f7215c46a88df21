//! Clients: what they ask, and that they get answers to that and to nothing else.

use std::collections::{HashMap, HashSet, VecDeque};

use pymesh_http::h2::{Role, PREFACE};

use super::config::Config;
use crate::frames::{self, frame, Peer, Said};
use crate::input::Input;
use crate::strict::{self, show, Body};

/// The field that numbers a request, and the one that says to which number an answer belongs.
pub(super) const ID: &str = "x-id";
pub(super) const FOR: &str = "x-for";

pub(super) enum Client {
    Raw { relay: usize, heard: Vec<u8> },
    Http1(Http1),
    Http2(Box<Http2>),
}

/// A request line's parts and what else there is.
struct Request {
    id: u32,
    method: &'static str,
    path: Vec<u8>,
    fields: Vec<(&'static str, Vec<u8>)>,
}

fn request(input: &mut Input<'_>, last_id: &mut u32) -> Request {
    *last_id += 1;
    let method = *input.pick(&["GET", "POST", "HEAD", "PUT", "OPTIONS", "GET", "POST", "DELETE"]);
    let paths = ["/", "/a/b", "/redirect", "/direct", "/nowhere", "/a/../b?c=/..", "//a%2fb", "/%2e/"];
    let path = input.pick(&paths).as_bytes().to_vec();
    let mut fields = vec![(ID, last_id.to_string().into_bytes())];
    let value = |octets: &[u8]| octets.iter().copied().filter(|octet| matches!(octet, 9 | 32..=126 | 128..)).collect();
    for _ in 0..input.below(4) {
        let names = ["x-path", "x-host", "x-authority", "x-copy", "x-removed", "cookie", "x_underscore", "x-marker"];
        fields.push((*input.pick(&names), value(input.string())));
    }
    Request { id: *last_id, method, path, fields }
}

impl Client {
    pub(super) fn raw(relays: &mut Vec<Vec<u8>>) -> Client {
        relays.push(Vec::new());
        Client::Raw { relay: relays.len() - 1, heard: Vec::new() }
    }

    pub(super) fn http(is_http2: bool, config: &Config) -> Client {
        match is_http2 {
            false => Client::Http1(Http1::default()),
            true => Client::Http2(Box::new(Http2::new(config))),
        }
    }

    /// Of a raw one: where what it says is kept.
    pub(super) fn relay(&self) -> Option<usize> {
        match self {
            Client::Raw { relay, .. } => Some(*relay),
            _ => None,
        }
    }

    /// Whole requests, as a good client makes them, or the beginning of one.
    pub(super) fn ask(&mut self, input: &mut Input<'_>, last_id: &mut u32) -> Vec<u8> {
        match self {
            Client::Raw { .. } => input.string().to_vec(),
            Client::Http1(client) => client.ask(input, last_id),
            Client::Http2(client) => client.ask(input, last_id),
        }
    }

    /// Any octets.
    pub(super) fn say(&mut self, octets: &[u8]) -> Vec<u8> {
        match self {
            Client::Raw { .. } => octets.to_vec(),
            Client::Http1(client) => {
                client.is_wild = true;
                octets.to_vec()
            }
            Client::Http2(client) => {
                client.is_wild = true;
                [client.start(), octets.to_vec()].concat()
            }
        }
    }

    /// More of a request that was begun.
    pub(super) fn go_on(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        match self {
            Client::Raw { .. } => vec![b'r'; usize::from(input.word())],
            Client::Http1(client) => client.go_on(input),
            Client::Http2(client) => client.go_on(input),
        }
    }

    /// The engine is about to read this of what was said.
    pub(super) fn is_heard(&mut self, octets: &[u8]) {
        if let Client::Http2(client) = self {
            client.peer.says(octets);
        }
    }

    pub(super) fn hear(&mut self, octets: &[u8], said: &[Vec<u8>]) {
        match self {
            Client::Raw { heard, .. } => {
                heard.extend_from_slice(octets);
                assert!(said.iter().any(|said| said.starts_with(heard)), "no endpoint has said {}", show(heard));
            }
            Client::Http1(client) => client.hear(octets),
            Client::Http2(client) => client.hear(octets),
        }
    }
}

#[derive(Default)]
pub(super) struct Http1 {
    is_wild: bool,
    /// Requests that were not answered yet: number, and whether it was HEAD.
    asked: VecDeque<(u32, bool)>,
    /// Octets of a body that are still to be sent, or a chunked one is open.
    body_left: usize,
    is_chunked: bool,
    unread: Vec<u8>,
}

impl Http1 {
    fn ask(&mut self, input: &mut Input<'_>, last_id: &mut u32) -> Vec<u8> {
        let mut octets = self.finish();
        let request = request(input, last_id);
        self.asked.push_back((request.id, request.method == "HEAD"));
        let how = input.octet();
        let version = if how % 16 == 15 { "1.0" } else { "1.1" };
        octets.extend(format!("{} ", request.method).bytes());
        octets.extend(&request.path);
        octets.extend(format!(" HTTP/{version}\r\nHost: a.example:80\r\n").bytes());
        for (name, value) in &request.fields {
            octets.extend(format!("{name}: ").bytes());
            octets.extend(value);
            octets.extend(b"\r\n");
        }
        // Bodies look like requests, so that one that is taken for a head shows.
        let body = b"GET /evil HTTP/1.1\r\nhost: evil\r\n\r\n";
        match how % 16 {
            0..=3 | 15 => octets.extend(b"\r\n"),
            4 | 5 => {
                octets.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                octets.extend(body);
            }
            6 | 7 => {
                octets.extend(format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).bytes());
                octets.extend(body);
                octets.extend(b"\r\n0\r\nx-trailer: a\r\n\r\n");
            }
            8 => {
                self.body_left = usize::from(input.word());
                octets.extend(format!("content-length: {}\r\n\r\n", self.body_left).bytes());
            }
            9 => {
                self.is_chunked = true;
                octets.extend(b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n");
            }
            10 => octets.extend(b"connection: close\r\n\r\n"),
            11 => octets.extend(b"connection: x-copy, te\r\nte: trailers\r\n\r\n"),
            _ => {
                // Who changes the protocol sends nothing until it has changed, and is no client afterwards.
                self.is_wild = true;
                octets.extend(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
            }
        }
        octets
    }

    /// What is missing of the last request.
    fn finish(&mut self) -> Vec<u8> {
        let mut octets = vec![b'b'; std::mem::take(&mut self.body_left)];
        if std::mem::take(&mut self.is_chunked) {
            octets.extend(b"0\r\n\r\n");
        }
        octets
    }

    fn go_on(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let count = usize::from(input.word());
        match (self.body_left, self.is_chunked, count) {
            (0, false, _) => Vec::new(),
            (0, true, 0) => self.finish(),
            (0, true, count) => [format!("{count:x}\r\n").as_bytes(), &vec![b'c'; count], b"\r\n"].concat(),
            (left, ..) => {
                self.body_left = left.saturating_sub(count);
                vec![b'b'; left.min(count)]
            }
        }
    }

    fn hear(&mut self, octets: &[u8]) {
        if self.is_wild {
            return;
        }
        self.unread.extend_from_slice(octets);
        while let Some(used) = self.hear_one() {
            self.unread.drain(..used);
        }
    }

    /// The length of a whole answer.
    fn hear_one(&mut self) -> Option<usize> {
        let head = strict::response(&self.unread)
            .unwrap_or_else(|error| panic!("a client hears {}: {error}", show(&self.unread)))?;
        if head.second.starts_with(b"1") {
            assert_eq!(head.second, b"100", "nobody has asked for another protocol");
            return Some(head.length);
        }
        let (id, is_head) =
            *self.asked.front().unwrap_or_else(|| panic!("an answer to nothing: {}", show(&self.unread)));
        let of: Vec<&[u8]> = head.all(FOR).collect();
        assert!(of.iter().all(|of| *of == id.to_string().as_bytes()), "the answer to {id} is that of {:?}", of);
        let body = match head.body {
            _ if is_head || matches!(head.second, b"204" | b"304") => Some(0),
            Body::Length(length) => (self.unread.len() >= head.length + length as usize).then_some(length as usize),
            Body::Chunked => {
                let body = strict::chunked(&self.unread[head.length..]);
                body.unwrap_or_else(|error| panic!("a client hears {}: {error}", show(&self.unread)))
                    .map(|(_, length)| length)
            }
            // Until the connection closes.
            Body::Unsaid => None,
        };
        let used = head.length + body?;
        self.asked.pop_front();
        Some(used)
    }
}

pub(super) struct Http2 {
    is_wild: bool,
    has_begun: bool,
    hpack: fluke_hpack::Encoder<'static>,
    peer: Peer,
    next: u32,
    /// Streams whose request is not complete.
    open: Vec<u32>,
    ids: HashMap<u32, u32>,
    answered: HashSet<u32>,
}

impl Http2 {
    fn new(config: &Config) -> Http2 {
        let mut peer = Peer::new(Role::Server, config.window, config.window);
        peer.is_slow = true;
        Http2 {
            is_wild: false,
            has_begun: false,
            hpack: fluke_hpack::Encoder::new(),
            peer,
            next: 1,
            open: Vec::new(),
            ids: HashMap::new(),
            answered: HashSet::new(),
        }
    }

    fn start(&mut self) -> Vec<u8> {
        match std::mem::replace(&mut self.has_begun, true) {
            true => Vec::new(),
            false => [&PREFACE[..], &frame(frames::SETTINGS, 0, 0, &[])].concat(),
        }
    }

    fn ask(&mut self, input: &mut Input<'_>, last_id: &mut u32) -> Vec<u8> {
        let mut octets = self.start();
        let request = request(input, last_id);
        let how = input.octet();
        let stream = self.next;
        self.next += 2;
        self.ids.insert(stream, request.id);
        let head: [(&[u8], &[u8]); 4] = [
            (b":method", request.method.as_bytes()),
            (b":scheme", b"http"),
            (b":path", &request.path),
            (b":authority", b"a.example:80"),
        ];
        let mut fields = head.to_vec();
        fields.extend(request.fields.iter().map(|(name, value)| (name.as_bytes(), &value[..])));
        if how % 4 == 1 {
            fields.push((b"content-length", b"5"));
        }
        let block = self.hpack.encode(fields);
        let ends = how.is_multiple_of(4);
        octets.extend(frame(frames::HEADERS, frames::END_HEADERS | u8::from(ends), stream, &block));
        match how % 4 {
            0 => {}
            1 | 2 => octets.extend(frame(frames::DATA, frames::END_STREAM, stream, b"hello")),
            _ => self.open.push(stream),
        }
        octets
    }

    fn go_on(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let (what, count) = (input.octet(), usize::from(input.word()));
        let begin = self.start();
        let at = count % self.open.len().max(1);
        let Some(&stream) = self.open.get(at) else {
            let ack = frame(frames::SETTINGS, frames::ACK, 0, &[]);
            return [begin, ack].concat();
        };
        let octets = match what % 8 {
            0..=2 => frame(frames::DATA, 0, stream, &vec![b'd'; count % 16_384]),
            3 => {
                self.open.remove(at);
                frame(frames::DATA, frames::END_STREAM, stream, b"end")
            }
            4 => {
                self.open.remove(at);
                let block = self.hpack.encode([(&b"x-trailer"[..], &b"a"[..])]);
                frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &block)
            }
            5 => {
                self.open.remove(at);
                frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8])
            }
            6 => frame(
                frames::WINDOW_UPDATE,
                0,
                if count % 2 == 0 { 0 } else { stream },
                &(count as u32 + 1).to_be_bytes(),
            ),
            _ => {
                let window = u32::from(input.word()).to_be_bytes();
                frame(frames::SETTINGS, 0, 0, &[&[0, 4][..], &window].concat())
            }
        };
        [begin, octets].concat()
    }

    fn hear(&mut self, octets: &[u8]) {
        for said in self.peer.hears(octets) {
            let Said::Fields { stream, fields, .. } = said else { continue };
            let get =
                |name: &str| fields.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| &value[..]);
            let Some(status) = get(":status") else { continue };
            if self.is_wild || status.starts_with(b"1") {
                continue;
            }
            let id = self.ids.get(&stream).unwrap_or_else(|| panic!("an answer on stream {stream}, which is not open"));
            assert!(self.answered.insert(stream), "a second answer on stream {stream}");
            let of = get(FOR);
            assert!(
                of.is_none_or(|of| of == id.to_string().as_bytes()),
                "the answer to {id} is that of {:?}",
                of.map(show)
            );
        }
    }
}
