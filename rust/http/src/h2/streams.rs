//! The streams of a connection, and a short memory of those that are gone.
//!
//! Streams stand in a slab; a hash table of slots, at most half full, finds
//! them. Numbers are handed out in sequence: multiplied by the golden ratio they
//! spread evenly, so that a look-up is one probe and a removal, which has to look
//! at all entries up to the next gap, finds that gap at once.

/// `content-length` was not given.
pub(super) const NO_LENGTH: u64 = u64::MAX;
/// A tag that the engine has not set.
pub(super) const NO_TAG: u32 = u32::MAX;
/// Closed streams that are remembered.
const REMEMBERED: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// 0 if the place is free.
    pub(super) id: u32,
    pub(super) tag: u32,
    /// May be negative (RFC 9113 section 6.9.2).
    pub(super) send_window: i32,
    pub(super) recv_window: i32,
    /// What the peer may have under way: its window, what is held of it and what is to be announced.
    pub(super) granted: u32,
    /// Delivered and not yet released by the consumer.
    pub(super) unreleased: u32,
    /// Released and not yet announced to the peer.
    pub(super) to_announce: u32,
    /// Body octets still to come by `content-length`, or [`NO_LENGTH`].
    pub(super) expected: u64,
    /// Server: the size of the request head, which counts as held while the stream is open.
    pub(super) head_size: u32,
    /// Client: interim responses so far.
    pub(super) interims: u32,
    /// We have said END_STREAM.
    pub(super) local_done: bool,
    /// The peer has said END_STREAM.
    pub(super) remote_done: bool,
    /// The request or final response head has come.
    pub(super) head_received: bool,
    /// Client: the request was HEAD.
    pub(super) head_request: bool,
    /// Client: the request was CONNECT.
    pub(super) connect_request: bool,
    /// The engine has been told of the stream.
    pub(super) announced: bool,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: i32, recv_window: i32) -> Stream {
        Stream {
            id,
            tag: NO_TAG,
            send_window,
            recv_window,
            granted: u32::try_from(recv_window).unwrap_or(0),
            unreleased: 0,
            to_announce: 0,
            expected: NO_LENGTH,
            head_size: 0,
            interims: 0,
            local_done: false,
            remote_done: false,
            head_received: false,
            head_request: false,
            connect_request: false,
            announced: false,
        }
    }

    /// Both sides are done; it may still wait for a release.
    pub(super) fn is_closed(&self) -> bool {
        self.local_done && self.remote_done
    }
}

/// How a stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Finished,
    ResetByPeer,
    ResetByUs,
}

#[derive(Default)]
pub(super) struct Streams {
    slab: Vec<Stream>,
    free: Vec<u32>,
    /// Slab place + 1, or 0; length a power of two, at most half full.
    index: Vec<u32>,
    used: usize,
    endings: Vec<(u32, Ending)>,
    next_ending: usize,
}

impl Streams {
    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        let place = self.place(id)?;
        self.slab.get(place)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id)?;
        self.slab.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slab.iter().filter(|stream| stream.id != 0)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slab.iter_mut().filter(|stream| stream.id != 0)
    }

    fn home(&self, id: u32) -> usize {
        const GOLDEN_RATIO: u32 = 0x9e37_79b9;
        let spread = u64::from((id >> 1).wrapping_mul(GOLDEN_RATIO));
        // The high half of the product: the index's length has no more than 32 bits.
        ((spread * self.index.len() as u64) >> 32) as usize
    }

    /// Where in the index `id` stands.
    fn probe(&self, id: u32) -> Option<usize> {
        let mut at = self.home(id);
        loop {
            let place = (*self.index.get(at)?).checked_sub(1)?;
            if self.slab.get(place as usize).is_some_and(|stream| stream.id == id) {
                return Some(at);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    fn place(&self, id: u32) -> Option<usize> {
        let at = self.probe(id)?;
        (*self.index.get(at)?).checked_sub(1).map(|place| place as usize)
    }

    pub(super) fn insert(&mut self, stream: Stream) {
        if (self.used + 1) * 2 > self.index.len() {
            self.grow();
        }
        let place = match self.free.pop() {
            Some(place) => place as usize,
            None => {
                self.slab.push(stream);
                self.slab.len() - 1
            }
        };
        if let Some(slot) = self.slab.get_mut(place) {
            *slot = stream;
        }
        self.used += 1;
        self.link(stream.id, place);
    }

    fn link(&mut self, id: u32, place: usize) {
        let mask = self.index.len() - 1;
        let mut at = self.home(id);
        while let Some(slot) = self.index.get_mut(at) {
            if *slot == 0 {
                *slot = place as u32 + 1;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let len = (self.index.len() * 2).max(8);
        self.index.clear();
        self.index.resize(len, 0);
        for place in 0..self.slab.len() {
            if let Some(id) = self.slab.get(place).map(|stream| stream.id).filter(|id| *id != 0) {
                self.link(id, place);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let hole = self.probe(id)?;
        let place = (*self.index.get(hole)?).checked_sub(1)?;
        self.close_hole(hole);
        let slot = self.slab.get_mut(place as usize)?;
        let stream = *slot;
        slot.id = 0;
        self.free.push(place);
        self.used -= 1;
        Some(stream)
    }

    /// Moves back the entries that probed past the hole.
    fn close_hole(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let link = self.index.get(at).copied().unwrap_or(0);
            let Some(stream) = link.checked_sub(1).and_then(|place| self.slab.get(place as usize)) else { break };
            let home = self.home(stream.id);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                if let Some(slot) = self.index.get_mut(hole) {
                    *slot = link;
                }
                hole = at;
            }
        }
        if let Some(slot) = self.index.get_mut(hole) {
            *slot = 0;
        }
    }

    /// Remembers how a stream ended.
    pub(super) fn remember(&mut self, id: u32, ending: Ending) {
        if let Some(place) = self.endings.get_mut(self.next_ending) {
            *place = (id, ending);
        } else {
            self.endings.push((id, ending));
        }
        self.next_ending = (self.next_ending + 1) % REMEMBERED;
    }

    /// Remembers that a stream ended in another way.
    pub(super) fn amend(&mut self, id: u32, from: Ending, to: Ending) {
        if let Some(place) = self.endings.iter_mut().find(|place| **place == (id, from)) {
            place.1 = to;
        }
    }

    /// How a stream ended, if that was not long ago.
    pub(super) fn ending(&self, id: u32) -> Option<Ending> {
        self.endings.iter().find(|(ended, _)| *ended == id).map(|(_, ending)| *ending)
    }

    /// Gives memory back if there are no streams.
    pub(super) fn shrink(&mut self) {
        if self.used == 0 {
            self.slab = Vec::new();
            self.free = Vec::new();
            self.index = Vec::new();
        }
    }
}
