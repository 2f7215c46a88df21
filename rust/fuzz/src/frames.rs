//! HTTP/2 frames: written for what the input wants to say, and read as a peer
//! would that minds every rule that our codec has to keep when it sends.

use std::collections::HashMap;

use pymesh_http::h2::{Role, PREFACE};

use crate::strict::show;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MOST: i64 = 0x7fff_ffff;
const START: i64 = 65_535;

/// One frame's octets.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Kind, flags, stream, payload.
type Frame<'a> = (u8, u8, u32, &'a [u8]);

/// The frames at the start of `octets`, and how long they are.
pub(crate) fn split(octets: &[u8]) -> (Vec<Frame<'_>>, usize) {
    let (mut frames, mut used) = (Vec::new(), 0);
    while let Some(&[a, b, c, kind, flags, d, e, f, g]) = octets[used..].first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = octets[used..].get(9..9 + length) else { break };
        frames.push((kind, flags, u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff, payload));
        used += 9 + length;
    }
    (frames, used)
}

fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.chunks_exact(6).map(|entry| {
        (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    })
}

/// A message or part of one that was sent to the peer.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Fields { stream: u32, fields: Vec<(Vec<u8>, Vec<u8>)>, end: bool },
    Data { stream: u32, octets: Vec<u8>, end: bool },
    Reset { stream: u32 },
    GoAway,
}

/// The other end of a connection: what it may be sent, and what it has been allowed to send.
pub(crate) struct Peer {
    hpack: fluke_hpack::Decoder<'static>,
    unread: Vec<u8>,
    /// What it has said of a frame, and whether its own preface comes first.
    unsaid: Vec<u8>,
    begins: bool,
    /// The DATA frame that is not complete yet counts already.
    is_counted: bool,
    /// What it is sent may be older than what it has said last.
    pub is_slow: bool,
    /// The preface is to come.
    expects_preface: bool,
    expects_settings: bool,
    block: Option<(u32, bool, Vec<u8>)>,
    /// What it takes: its windows and largest frame.
    window: i64,
    initial: i64,
    windows: HashMap<u32, i64>,
    frame_size: usize,
    /// What it was given: more than this may not be left to it at any time.
    pub granted: i64,
    given: HashMap<u32, i64>,
    limits: (i64, i64),
}

impl Peer {
    /// Of an end with this role, which was configured with a window for the connection and for each stream.
    pub(crate) fn new(of: Role, connection_window: u32, stream_window: u32) -> Peer {
        Peer {
            hpack: fluke_hpack::Decoder::new(),
            unread: Vec::new(),
            unsaid: Vec::new(),
            begins: of == Role::Server,
            is_counted: false,
            is_slow: false,
            expects_preface: of == Role::Client,
            expects_settings: true,
            block: None,
            window: START,
            initial: START,
            windows: HashMap::new(),
            frame_size: 16_384,
            granted: START,
            given: HashMap::new(),
            limits: (i64::from(connection_window).max(START), i64::from(stream_window)),
        }
    }

    /// It says something: what changes by it what it may be sent. To be called before the end hears it.
    pub(crate) fn says(&mut self, octets: &[u8]) {
        self.unsaid.extend_from_slice(octets);
        if self.begins && self.unsaid.len() >= PREFACE.len() {
            self.unsaid.drain(..PREFACE.len());
            self.begins = false;
        }
        if self.begins {
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        let (frames, used) = split(&unsaid);
        self.unsaid = unsaid[used..].to_vec();
        for (kind, flags, stream, payload) in frames {
            match kind {
                DATA if std::mem::take(&mut self.is_counted) => {}
                DATA => self.takes_window(stream, payload.len() as i64),
                SETTINGS if flags & ACK == 0 => {
                    for (name, value) in settings(payload) {
                        match name {
                            INITIAL_WINDOW_SIZE => {
                                let least = if self.is_slow { 0 } else { i64::MIN };
                                let change = (i64::from(value) - self.initial).max(least);
                                self.windows.values_mut().for_each(|window| *window += change);
                                self.initial += change;
                            }
                            MAX_FRAME_SIZE => self.frame_size = self.frame_size.max(value as usize),
                            _ => {}
                        }
                    }
                }
                WINDOW_UPDATE => {
                    let Some(word) = payload.first_chunk::<4>() else { continue };
                    let more = i64::from(u32::from_be_bytes(*word) & 0x7fff_ffff);
                    match stream {
                        0 => self.window += more,
                        _ => *self.windows.entry(stream).or_insert(self.initial) += more,
                    }
                }
                _ => {}
            }
        }
        // Its octets are taken as they come, but its window is taken at once.
        if let (Some(&[a, b, c, DATA, _, d, e, f, g]), false) = (self.unsaid.first_chunk::<9>(), self.is_counted) {
            self.is_counted = true;
            let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
            self.takes_window(stream, i64::from(u32::from_be_bytes([0, a, b, c])));
        }
    }

    fn takes_window(&mut self, stream: u32, length: i64) {
        self.granted -= length;
        *self.given.entry(stream).or_insert(self.limits.1) -= length;
    }

    /// It hears what the end has sent, and minds.
    pub(crate) fn hears(&mut self, octets: &[u8]) -> Vec<Said> {
        self.unread.extend_from_slice(octets);
        if self.expects_preface && self.unread.len() >= PREFACE.len() {
            assert!(self.unread.starts_with(PREFACE), "no preface: {}", show(&self.unread));
            self.unread.drain(..PREFACE.len());
            self.expects_preface = false;
        }
        if self.expects_preface {
            return Vec::new();
        }
        let unread = std::mem::take(&mut self.unread);
        let (frames, used) = split(&unread);
        let said =
            frames.into_iter().filter_map(|(kind, flags, stream, payload)| self.frame(kind, flags, stream, payload));
        let said = said.collect();
        self.unread = unread[used..].to_vec();
        assert!(self.unread.len() < self.frame_size + 9, "a frame is longer than allowed");
        said
    }

    /// Nothing is left of a frame.
    pub(crate) fn has_heard_all(&self) -> bool {
        self.unread.is_empty() && self.block.is_none()
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<Said> {
        assert!(payload.len() <= self.frame_size, "a frame of {} octets", payload.len());
        assert!(!self.expects_settings || (kind == SETTINGS && flags & ACK == 0), "first comes a frame of kind {kind}");
        self.expects_settings = false;
        assert!(self.block.is_none() || kind == CONTINUATION, "a head is interrupted by a frame of kind {kind}");
        match kind {
            DATA => {
                let length = payload.len() as i64;
                let initial = self.initial;
                let window = self.windows.entry(stream).or_insert(initial);
                assert!(length == 0 || length <= *window, "stream {stream}: {length} octets for a window of {window}");
                assert!(length == 0 || length <= self.window, "{length} octets for a window of {}", self.window);
                *window -= length;
                self.window -= length;
                Some(Said::Data { stream, octets: payload.to_vec(), end: flags & END_STREAM != 0 })
            }
            HEADERS | CONTINUATION => {
                let (owner, end, mut block) = match kind {
                    HEADERS => (stream, flags & END_STREAM != 0, Vec::new()),
                    _ => self.block.take().expect("CONTINUATION of nothing"),
                };
                assert!(owner == stream && stream != 0, "a head goes on on another stream");
                let initial = self.initial;
                self.windows.entry(stream).or_insert(initial);
                block.extend_from_slice(payload);
                if flags & END_HEADERS == 0 {
                    self.block = Some((owner, end, block));
                    return None;
                }
                let fields = self.hpack.decode(&block).unwrap_or_else(|error| panic!("{error:?}: {}", show(&block)));
                check_fields(&fields);
                Some(Said::Fields { stream, fields, end })
            }
            RST_STREAM => Some(Said::Reset { stream }).filter(|_| payload.len() == 4 && stream != 0),
            SETTINGS => {
                assert!(stream == 0 && payload.len().is_multiple_of(6), "bad SETTINGS");
                None
            }
            PING => {
                assert!(stream == 0 && payload.len() == 8, "bad PING");
                None
            }
            GOAWAY => Some(Said::GoAway).filter(|_| stream == 0 && payload.len() >= 8),
            WINDOW_UPDATE => {
                let more = i64::from(u32::from_be_bytes(payload.try_into().expect("four octets")));
                assert!((1..=MOST).contains(&more), "WINDOW_UPDATE by {more}");
                let (left, most) = match stream {
                    0 => (&mut self.granted, self.limits.0),
                    _ => (self.given.entry(stream).or_insert(self.limits.1), self.limits.1),
                };
                *left += more;
                assert!(*left <= most, "stream {stream} has a window of {left}, its limit is {most}");
                None
            }
            other => panic!("a frame of kind {other}"),
        }
    }
}

/// RFC 9113 sections 8.2 and 8.3.
fn check_fields(fields: &[(Vec<u8>, Vec<u8>)]) {
    let mut regular = false;
    for (name, value) in fields {
        let is_pseudo = name.starts_with(b":");
        assert!(!is_pseudo || !regular, "{} comes late", show(name));
        regular |= !is_pseudo;
        let plain = name.strip_prefix(b":").unwrap_or(name);
        let is_token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
        assert!(!plain.is_empty() && plain.iter().all(is_token), "a field is called {}", show(name));
        assert!(!name.iter().any(u8::is_ascii_uppercase), "a field is called {}", show(name));
        assert!(!value.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')), "{}: {}", show(name), show(value));
        let of_connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"];
        assert!(!of_connection.iter().any(|other| other.as_bytes() == &name[..]), "{} is sent", show(name));
        assert!(&name[..] != b"te" || &value[..] == b"trailers", "te: {}", show(value));
    }
}
