//! Octets that wait to be written: frames are built in place, one after another.

use super::frame::{flag, kind, ErrorCode, FrameHeader, HEADER_LEN};

/// A drained buffer larger than this is given back.
const KEEP: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Output {
    octets: Vec<u8>,
    sent: usize,
    /// Frames since the buffer was last empty that the peer made us send.
    replies: u32,
}

impl Output {
    pub(super) fn unsent(&self) -> &[u8] {
        self.octets.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.sent = self.octets.len().min(self.sent.saturating_add(n));
        if self.sent == self.octets.len() {
            self.octets.clear();
            self.sent = 0;
            self.replies = 0;
            if self.octets.capacity() > KEEP {
                self.octets = Vec::new();
            }
        } else if self.sent > KEEP && self.sent > self.octets.len() / 2 {
            self.octets.drain(..self.sent);
            self.sent = 0;
        }
    }

    pub(super) fn shrink(&mut self) {
        self.octets.shrink_to_fit();
    }

    /// Counts a frame that answers the peer; the number that wait unsent.
    pub(super) fn count_reply(&mut self) -> u32 {
        self.replies = self.replies.saturating_add(1);
        self.replies
    }

    pub(super) fn raw(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = payload.len() as u32;
        self.octets.reserve(HEADER_LEN + payload.len());
        self.octets.extend_from_slice(&FrameHeader { length, kind, flags, stream }.encode());
        self.octets.extend_from_slice(payload);
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
