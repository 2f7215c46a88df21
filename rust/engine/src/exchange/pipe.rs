//! One direction of a message body on its way through the proxy.

use pymesh_http::Headers;

use super::stream::Stream;
use super::Collect;
use crate::base::buffer::Buffer;

/// Octets between the side that sends them and the side that takes them.
///
/// Invariants:
/// * `buffer` holds what arrived and was not taken, or, while `replay` is
///   kept, all that arrived, of which `taken` octets were taken;
/// * `ended` is set when the source has said all, trailers included; what filters still make of that is in `stream`;
/// * `finished` is set when the sink has been told so.
#[derive(Default)]
pub(crate) struct Pipe {
    pub buffer: Buffer,
    /// Octets of a kept buffer that the sink has taken.
    taken: usize,
    /// Keep what was taken, so that it can be sent again.
    pub replay: bool,
    pub ended: bool,
    pub finished: bool,
    pub trailers: Headers,
    /// Octets that arrived in all.
    pub total: u64,
    /// A filter has made of them what waits: `total` says nothing of that.
    pub is_replaced: bool,
    /// Filters that see the octets before they wait here.
    pub stream: Option<Box<Stream>>,
    /// A filter waits for them, as far as it wants to see them.
    pub collects: Option<Collect>,
    /// Octets that the source's flow control has not been given back for.
    pub unreleased: usize,
}

impl Pipe {
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.taken = 0;
        self.replay = false;
        self.ended = false;
        self.finished = false;
        self.trailers.clear();
        self.total = 0;
        self.is_replaced = false;
        self.stream = None;
        self.collects = None;
        self.unreleased = 0;
    }

    /// What the sink has not taken.
    pub fn waiting(&self) -> &[u8] {
        self.buffer.as_slice().get(self.taken..).unwrap_or_default()
    }

    /// The sink took `n` octets.
    pub fn take(&mut self, n: usize) {
        match self.replay {
            true => self.taken = self.taken.saturating_add(n).min(self.buffer.len()),
            false => self.buffer.advance(n),
        }
    }

    /// How much the source's flow control is given back when the sink has taken `n` octets: all of it when nothing
    /// waits, since a translated body has not as many octets as have come.
    pub fn give_back(&mut self, n: usize) -> usize {
        let back = if self.waiting().is_empty() && self.held() == 0 { self.unreleased } else { n.min(self.unreleased) };
        self.unreleased -= back;
        back
    }

    /// Nothing has to be sent again any more.
    pub fn stop_replay(&mut self) {
        if self.replay {
            self.replay = false;
            self.buffer.advance(self.taken);
            self.taken = 0;
        }
    }

    /// A new sink starts from the first octet.
    pub fn rewind(&mut self) {
        self.taken = 0;
        self.finished = false;
    }

    pub fn has_trailers(&self) -> bool {
        self.ended && !self.trailers.is_empty()
    }

    /// Nothing more will come to wait here.
    pub fn is_complete(&self) -> bool {
        self.ended && self.stream.as_ref().is_none_or(|stream| stream.is_over())
    }

    /// Octets that are with filters.
    pub fn held(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.held())
    }

    /// All octets were taken and no more will come: the end may be told.
    pub fn is_drained(&self) -> bool {
        self.is_complete() && self.waiting().is_empty()
    }
}
