//! Endpoints: that they see nothing but requests of the proxy, and what they answer.

use std::collections::{HashMap, VecDeque};

use pymesh_http::h2::{Role, PREFACE};

use super::client::{FOR, ID};
use super::config::{Config, MARKER};
use crate::frames::{self, frame, Peer, Said};
use crate::input::Input;
use crate::strict::{self, show, Body};

pub(super) struct Upstream {
    kind: Kind,
    /// It has said what is no answer: nobody knows what it has answered.
    is_wild: bool,
    windows: u32,
}

enum Kind {
    Raw {
        relay: usize,
        heard: Vec<u8>,
    },
    /// What it has heard is too little to tell the version.
    Unknown(Vec<u8>),
    Http1(Http1),
    Http2(Box<Http2>),
}

/// A request that waits for an answer.
struct Asked {
    id: Option<u32>,
    is_head: bool,
    asks_upgrade: bool,
}

/// Checks that a request is one of the proxy's, and counts it.
fn recognise(
    fields: &[(&[u8], &[u8])],
    config: &Config,
    is_wild: bool,
    attempts: &mut HashMap<u32, u32>,
) -> Option<u32> {
    let of = |name: &str| {
        fields.iter().filter(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let marks = of(MARKER);
    assert_eq!(marks, [config.secret.as_bytes()], "a request that the proxy has not made");
    let id = of(ID).first().and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())?;
    let count = attempts.entry(id).or_insert(0);
    *count += 1;
    assert!(is_wild || *count <= 1 + config.retries, "attempt {count} at request {id}");
    Some(id)
}

impl Upstream {
    pub(super) fn raw(relays: &mut Vec<Vec<u8>>) -> Upstream {
        relays.push(Vec::new());
        Upstream { kind: Kind::Raw { relay: relays.len() - 1, heard: Vec::new() }, is_wild: false, windows: 0 }
    }

    pub(super) fn http(config: &Config) -> Upstream {
        Upstream { kind: Kind::Unknown(Vec::new()), is_wild: false, windows: config.window }
    }

    /// Of a raw one: where what it says is kept.
    pub(super) fn relay(&self) -> Option<usize> {
        match self.kind {
            Kind::Raw { relay, .. } => Some(relay),
            _ => None,
        }
    }

    /// From now on it says anything.
    pub(super) fn is_wild(&mut self) {
        self.is_wild = true;
        if let Kind::Http1(http1) = &mut self.kind {
            // It may have changed the protocol.
            http1.is_tunnel |= http1.asked.iter().any(|asked| asked.asks_upgrade);
        }
    }

    /// The engine is about to read this of what was said.
    pub(super) fn is_heard(&mut self, octets: &[u8]) {
        if let Kind::Http2(http2) = &mut self.kind {
            http2.peer.says(octets);
        }
    }

    pub(super) fn hear(
        &mut self,
        octets: &[u8],
        config: &Config,
        said: &[Vec<u8>],
        is_wild: bool,
        attempts: &mut HashMap<u32, u32>,
    ) {
        if let Kind::Unknown(heard) = &mut self.kind {
            heard.extend_from_slice(octets);
            let known = heard.len().min(PREFACE.len());
            if heard[..known] != PREFACE[..known] {
                let unread = std::mem::take(heard);
                self.kind = Kind::Http1(Http1 { unread, ..Http1::default() });
                return self.hear(&[], config, said, is_wild, attempts);
            }
            if known == PREFACE.len() {
                let heard = std::mem::take(heard);
                self.kind = Kind::Http2(Box::new(Http2::new(self.windows)));
                self.hear(&heard, config, said, is_wild, attempts);
            }
            return;
        }
        match &mut self.kind {
            Kind::Raw { heard, .. } => {
                heard.extend_from_slice(octets);
                assert!(said.iter().any(|said| said.starts_with(heard)), "no client has said {}", show(heard));
            }
            Kind::Http1(http1) => {
                http1.hear(octets, self.is_wild, |fields| recognise(fields, config, is_wild, attempts))
            }
            Kind::Http2(http2) => http2.hear(octets, |fields| recognise(fields, config, is_wild, attempts)),
            Kind::Unknown(_) => {}
        }
    }

    /// What it says next, mostly the answer to what it was asked first.
    pub(super) fn answer(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        match &mut self.kind {
            Kind::Raw { .. } => input.string().to_vec(),
            Kind::Unknown(_) => Vec::new(),
            Kind::Http1(http1) => http1.answer(input, self.is_wild),
            Kind::Http2(http2) => http2.answer(input, self.is_wild),
        }
    }
}

#[derive(Default)]
struct Http1 {
    unread: Vec<u8>,
    asked: VecDeque<Asked>,
    /// Octets of a body to come, or a chunked one.
    body: Option<Body>,
    is_tunnel: bool,
}

impl Http1 {
    fn hear(&mut self, octets: &[u8], is_wild: bool, mut recognise: impl FnMut(&[(&[u8], &[u8])]) -> Option<u32>) {
        if self.is_tunnel {
            return;
        }
        self.unread.extend_from_slice(octets);
        loop {
            let used = match self.body {
                Some(Body::Length(length)) => {
                    let count = self.unread.len().min(length as usize);
                    self.body = (length as usize > count).then_some(Body::Length(length - count as u64));
                    Some(count)
                }
                Some(_) => {
                    let body = strict::chunked(&self.unread);
                    let body = body.unwrap_or_else(|error| panic!("an endpoint hears {}: {error}", show(&self.unread)));
                    self.body = self.body.filter(|_| body.is_none());
                    body.map(|(_, length)| length)
                }
                None => {
                    let head = strict::request(&self.unread);
                    let head = head.unwrap_or_else(|error| panic!("an endpoint hears {}: {error}", show(&self.unread)));
                    head.map(|head| {
                        assert!(self.asked.is_empty() || is_wild, "a request before the last one is answered");
                        let id = recognise(&head.fields);
                        let (is_head, asks_upgrade) = (head.first == b"HEAD", head.has("upgrade"));
                        self.asked.push_back(Asked { id, is_head, asks_upgrade });
                        self.body = Some(head.body).filter(|body| !matches!(body, Body::Unsaid | Body::Length(0)));
                        head.length
                    })
                }
            };
            match used {
                None | Some(0) => return,
                Some(used) => drop(self.unread.drain(..used)),
            }
        }
    }

    fn answer(&mut self, input: &mut Input<'_>, is_wild: bool) -> Vec<u8> {
        if self.is_tunnel {
            return input.string().to_vec();
        }
        let Some(Asked { id, is_head, asks_upgrade }) = self.asked.pop_front() else { return Vec::new() };
        let how = input.octet() % 16;
        let of = match id {
            Some(id) if !is_wild => format!("{FOR}: {id}\r\n"),
            _ => String::new(),
        };
        let body = |body: &str| if is_head { String::new() } else { body.to_owned() };
        let text = match how {
            0..=3 => format!("HTTP/1.1 200 OK\r\n{of}content-length: 5\r\n\r\n{}", body("hello")),
            4 | 5 => format!(
                "HTTP/1.1 200 OK\r\n{of}transfer-encoding: chunked\r\n\r\n{}",
                body("5\r\nhello\r\n0\r\nx: y\r\n\r\n")
            ),
            6 => format!("HTTP/1.1 204 No Content\r\n{of}\r\n"),
            7 => format!("HTTP/1.1 304 Not Modified\r\n{of}content-length: 5\r\n\r\n"),
            8 => format!("HTTP/1.1 503 Service Unavailable\r\n{of}content-length: 0\r\n\r\n"),
            9 => format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{of}content-length: 5\r\n\r\n{}",
                body("hello")
            ),
            10 => format!("HTTP/1.1 200 OK\r\n{of}connection: close\r\ncontent-length: 5\r\n\r\n{}", body("hello")),
            11 => format!("HTTP/1.0 200 OK\r\n{of}\r\n{}", body("until the end")),
            12 if asks_upgrade => {
                self.is_tunnel = true;
                format!("HTTP/1.1 101 Switching Protocols\r\n{of}connection: upgrade\r\nupgrade: websocket\r\n\r\n")
            }
            13 => format!("HTTP/1.1 200 OK\r\n{of}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            14 => format!("HTTP/1.1 200 OK\r\n{of}content-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"),
            _ => {
                let length = usize::from(input.word());
                format!("HTTP/1.1 200 OK\r\n{of}content-length: {length}\r\n\r\n{}", body(&"x".repeat(length)))
            }
        };
        text.into_bytes()
    }
}

struct Http2 {
    peer: Peer,
    hpack: fluke_hpack::Encoder<'static>,
    has_begun: bool,
    asked: Vec<(u32, Asked)>,
    /// Streams whose answer is not complete.
    open: Vec<u32>,
    seen: u32,
}

impl Http2 {
    fn new(window: u32) -> Http2 {
        let mut peer = Peer::new(Role::Client, window, window);
        peer.is_slow = true;
        Http2 {
            peer,
            hpack: fluke_hpack::Encoder::new(),
            has_begun: false,
            asked: Vec::new(),
            open: Vec::new(),
            seen: 0,
        }
    }

    fn hear(&mut self, octets: &[u8], mut recognise: impl FnMut(&[(&[u8], &[u8])]) -> Option<u32>) {
        for said in self.peer.hears(octets) {
            match said {
                Said::Fields { stream, fields, .. } if stream > self.seen => {
                    self.seen = stream;
                    let fields: Vec<(&[u8], &[u8])> =
                        fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
                    let get = |name: &str| {
                        let found: Vec<&[u8]> =
                            fields.iter().filter(|(known, _)| *known == name.as_bytes()).map(|f| f.1).collect();
                        assert!(found.len() <= 1, "{name} is sent {} times", found.len());
                        found.first().copied().unwrap_or_default()
                    };
                    let (method, path) = (get(":method"), get(":path"));
                    let is_plain = path.iter().all(|octet| octet.is_ascii_graphic() && *octet != b'#');
                    let is_origin = path.starts_with(b"/") || path == b"*" || method == b"CONNECT";
                    assert!(is_plain && is_origin, "an endpoint is asked for {}", show(path));
                    assert!(!get(":authority")
                        .iter()
                        .any(|octet| !octet.is_ascii_graphic() || b"@/?#".contains(octet)));
                    let id = recognise(&fields);
                    self.asked.push((stream, Asked { id, is_head: method == b"HEAD", asks_upgrade: false }));
                }
                Said::Fields { fields, .. } => {
                    assert!(fields.iter().all(|(name, _)| !name.starts_with(b":")), "a second head on a stream");
                }
                Said::Reset { stream } => {
                    self.asked.retain(|(asked, _)| *asked != stream);
                    self.open.retain(|open| *open != stream);
                }
                Said::Data { .. } | Said::GoAway => {}
            }
        }
    }

    fn answer(&mut self, input: &mut Input<'_>, is_wild: bool) -> Vec<u8> {
        let (how, at, count) = (input.octet() % 16, input.octet(), usize::from(input.octet()));
        let mut octets = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            octets.extend(frame(frames::SETTINGS, 0, 0, &[]));
        }
        if how < 3 && !self.open.is_empty() {
            let at = usize::from(at) % self.open.len();
            let stream = self.open[at];
            let end = how == 0;
            octets.extend(frame(frames::DATA, u8::from(end), stream, &vec![b'd'; count * 16]));
            if end {
                self.open.remove(at);
            }
            return octets;
        }
        if how > 12 {
            octets.extend(match how {
                13 => frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, at, count as u8]),
                14 => frame(frames::GOAWAY, 0, 0, &[0, 0, 0, at, 0, 0, 0, 0]),
                _ => frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, at, 1]),
            });
            return octets;
        }
        if self.asked.is_empty() {
            return octets;
        }
        let (stream, asked) = self.asked.remove(usize::from(at) % self.asked.len());
        let of = asked.id.map(|id| id.to_string()).filter(|_| !is_wild);
        let status: &[u8] = match how {
            3 => b"503",
            4 => b"204",
            _ => b"200",
        };
        let mut fields = vec![(&b":status"[..], status)];
        if let Some(of) = &of {
            fields.push((FOR.as_bytes(), of.as_bytes()));
        }
        if how == 5 {
            fields.push((b"content-length", b"5"));
        }
        let ends = asked.is_head || matches!(how, 4 | 6);
        let block = self.hpack.encode(fields);
        match how {
            7 => return [octets, frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, at % 14])].concat(),
            _ => octets.extend(frame(frames::HEADERS, frames::END_HEADERS | u8::from(ends), stream, &block)),
        }
        match how {
            _ if ends => {}
            8 | 9 => self.open.push(stream),
            10 => {
                let block = self.hpack.encode([(&b"grpc-status"[..], &b"0"[..])]);
                octets.extend(frame(frames::DATA, 0, stream, b"hello"));
                octets.extend(frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &block));
            }
            _ => octets.extend(frame(frames::DATA, frames::END_STREAM, stream, b"hello")),
        }
        octets
    }
}
