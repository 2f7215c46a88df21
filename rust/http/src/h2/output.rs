//! Octets that wait to be written: frames are built in place, one after another.

use std::collections::VecDeque;

use super::frame::{flag, kind, ErrorCode, FrameHeader, HEADER_LEN};

/// A drained buffer larger than this is given back.
const KEEP: usize = 64 * 1024;

/// Invariant: `frames` has an entry for each frame of which the last octet is not sent.
#[derive(Default)]
pub(super) struct Output {
    octets: Vec<u8>,
    sent: usize,
    /// Octets of the connection before the first of `octets`.
    before: u64,
    frames: VecDeque<Queued>,
    replies: u32,
}

/// A frame that waits: where it ends, in octets of the connection, and whether the peer made us send it.
#[derive(Clone, Copy)]
struct Queued(u64);

impl Queued {
    fn new(end: u64, is_reply: bool) -> Queued {
        Queued(end << 1 | u64::from(is_reply))
    }

    fn end(self) -> u64 {
        self.0 >> 1
    }

    fn is_reply(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Output {
    pub(super) fn unsent(&self) -> &[u8] {
        self.octets.get(self.sent..).unwrap_or_default()
    }

    /// Frames of which something is unsent.
    pub(super) fn queued(&self) -> usize {
        self.frames.len()
    }

    /// Those among them that answer the peer.
    pub(super) fn queued_replies(&self) -> u32 {
        self.replies
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.sent = self.octets.len().min(self.sent.saturating_add(n));
        if self.sent == self.octets.len() {
            self.before += self.sent as u64;
            self.octets.clear();
            self.frames.clear();
            self.sent = 0;
            self.replies = 0;
            if self.octets.capacity() > KEEP {
                self.octets = Vec::new();
            }
            return;
        }
        let gone = self.before + self.sent as u64;
        while let Some(frame) = self.frames.front().filter(|frame| frame.end() <= gone) {
            self.replies -= u32::from(frame.is_reply());
            self.frames.pop_front();
        }
        if self.sent > KEEP && self.sent > self.octets.len() / 2 {
            self.octets.drain(..self.sent);
            self.before = gone;
            self.sent = 0;
        }
    }

    /// The frames that `write` writes answer the peer.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Output)) {
        let first = self.frames.len();
        write(self);
        for frame in self.frames.iter_mut().skip(first) {
            *frame = Queued::new(frame.end(), true);
            self.replies += 1;
        }
    }

    /// A frame was written to its end.
    fn note_frame(&mut self) {
        let end = self.before + self.octets.len() as u64;
        self.frames.push_back(Queued::new(end, false));
    }

    pub(super) fn shrink(&mut self) {
        self.octets.shrink_to_fit();
        self.frames.shrink_to_fit();
    }

    pub(super) fn raw(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = payload.len() as u32;
        self.octets.reserve(HEADER_LEN + payload.len());
        self.octets.extend_from_slice(&FrameHeader { length, kind, flags, stream }.encode());
        self.octets.extend_from_slice(payload);
        self.note_frame();
    }

    pub(super) fn rst_stream(&mut self, stream: u32, code: ErrorCode) {
        self.frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
    }

    pub(super) fn window_update(&mut self, stream: u32, increment: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }

    pub(super) fn go_away(&mut self, last_stream: u32, code: ErrorCode) {
        let mut payload = [0; 8];
        let (last, rest) = payload.split_at_mut(4);
        last.copy_from_slice(&last_stream.to_be_bytes());
        rest.copy_from_slice(&code.0.to_be_bytes());
        self.frame(kind::GOAWAY, 0, 0, &payload);
    }

    /// Writes a header block, built in place by `encode`, as HEADERS and, beyond
    /// `frame_size`, CONTINUATION frames.
    pub(super) fn headers(
        &mut self,
        stream: u32,
        end_stream: bool,
        frame_size: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.octets.len();
        self.octets.extend_from_slice(&[0; HEADER_LEN]);
        encode(&mut self.octets);
        let length = self.octets.len() - start - HEADER_LEN;
        let mut flags = if end_stream { flag::END_STREAM } else { 0 };
        if length <= frame_size {
            flags |= flag::END_HEADERS;
            let header = FrameHeader { length: length as u32, kind: kind::HEADERS, flags, stream };
            if let Some(place) = self.octets.get_mut(start..start + HEADER_LEN) {
                place.copy_from_slice(&header.encode());
            }
            self.note_frame();
            return;
        }
        let block = self.octets.split_off(start + HEADER_LEN);
        self.octets.truncate(start);
        let mut fragments = block.chunks(frame_size).peekable();
        let mut kind = kind::HEADERS;
        while let Some(fragment) = fragments.next() {
            if fragments.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            self.frame(kind, flags, stream, fragment);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }
}
