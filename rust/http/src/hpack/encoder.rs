//! Fields in, header block out.
//!
//! What a proxy sends falls in four classes ([`Indexing`]):
//!
//! * constant for a peer (`user-agent`, `:authority`, `server`, ...): put in
//!   the dynamic table at first sight;
//! * perhaps repeated (`:path`, names that we do not know): put in the table
//!   when seen a second time, so that unique values evict nothing;
//! * new each time (`date`, `x-request-id`, `content-length`, ...): sent as
//!   they are, without a look-up;
//! * secret (`authorization`, short cookies, what is flagged): sent as never
//!   to be indexed (RFC 7541 section 7.1.3).
//!
//! The look-up is a small direct-mapped cache from hash to table entry. A
//! collision forgets an entry, which costs a few octets and never correctness:
//! a hit is compared octet by octet.

use super::static_table::{name_index, Token, STATIC_TABLE};
use super::table::Table;
use super::{huffman, integer, DEFAULT_TABLE_SIZE};
use crate::headers::Known;

/// Slots of the look-up cache.
const SLOTS: usize = 128;
/// Shorter strings are sent as they are: the few octets that Huffman coding
/// would save cost more time on both sides than they are worth.
const HUFFMAN_FROM: usize = 64;
/// A cookie below this is cheap to guess (RFC 7541 section 7.1.3).
const SHORT_COOKIE: usize = 20;

/// How a field is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// Put in the table at first sight.
    Always,
    /// Put in the table at second sight.
    IfRepeated,
    /// Literal without indexing.
    No,
    /// Literal never indexed.
    Never,
}

/// The class of a field with a known name.
fn indexing_of(known: Known, value: &[u8]) -> Indexing {
    match known {
        Known::Authorization | Known::ProxyAuthorization => Indexing::Never,
        Known::Cookie if value.len() < SHORT_COOKIE => Indexing::Never,
        Known::Age
        | Known::ContentLength
        | Known::Date
        | Known::Etag
        | Known::GrpcMessage
        | Known::GrpcTimeout
        | Known::IfModifiedSince
        | Known::IfNoneMatch
        | Known::LastModified
        | Known::Location
        | Known::Range
        | Known::SetCookie
        | Known::Traceparent
        | Known::Tracestate
        | Known::XEnvoyUpstreamServiceTime
        | Known::XForwardedFor
        | Known::XRequestId => Indexing::No,
        Known::Cookie | Known::Referer | Known::XEnvoyOriginalPath => Indexing::IfRepeated,
        _ => Indexing::Always,
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    serial: u32,
    /// False: the field was seen once and is not in the table.
    stored: bool,
}

/// The sending half of HPACK.
pub struct Encoder {
    table: Table,
    /// Allocated with the first entry.
    slots: Vec<Slot>,
    /// Smallest size since the last block, if the size changed: it must be announced.
    smallest_update: Option<usize>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder with an empty table of the default size.
    pub fn new() -> Encoder {
        Encoder { table: Table::new(DEFAULT_TABLE_SIZE as usize), slots: Vec::new(), smallest_update: None }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. We use no more than the default of it.
    pub fn set_allowed_size(&mut self, allowed: u32) {
        let size = allowed.min(DEFAULT_TABLE_SIZE) as usize;
        if size != self.table.max_size() {
            self.table.set_max_size(size);
            self.smallest_update = Some(self.smallest_update.map_or(size, |smallest| smallest.min(size)));
        }
    }

    /// To be called before the first field of every block.
    pub fn begin_block(&mut self, out: &mut Vec<u8>) {
        // RFC 7541 section 4.2: the smallest size in between, then the last.
        if let Some(smallest) = self.smallest_update.take() {
            integer::encode(smallest, 5, 0x20, out);
            if smallest != self.table.max_size() {
                integer::encode(self.table.max_size(), 5, 0x20, out);
            }
        }
    }

    /// Writes an entry of the static table.
    pub fn static_entry(&mut self, index: u8, out: &mut Vec<u8>) {
        out.push(0x80 | index);
    }

    /// Writes a field with a known name.
    pub fn known(&mut self, known: Known, value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        let indexing = if sensitive { Indexing::Never } else { indexing_of(known, value) };
        self.field(known.name().as_bytes(), value, name_index(known), indexing, out);
    }

    /// Writes a field with any other name.
    pub fn other(&mut self, name: &[u8], value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        let indexing = if sensitive { Indexing::Never } else { Indexing::IfRepeated };
        self.field(name, value, None, indexing, out);
    }

    /// Writes a field; `static_name` is the index of its name in the static table.
    pub fn field(
        &mut self,
        name: &[u8],
        value: &[u8],
        static_name: Option<usize>,
        indexing: Indexing,
        out: &mut Vec<u8>,
    ) {
        match indexing {
            Indexing::Never => return self.literal(0x10, 4, name, value, static_name, out),
            Indexing::No => return self.literal(0x00, 4, name, value, static_name, out),
            Indexing::Always | Indexing::IfRepeated => {}
        }
        // RFC 7541 section 4.1: an entry costs 32 octets more than it holds. One that
        // would push out most of the table is not worth it.
        if (name.len() + value.len() + 32) * 4 > self.table.max_size() {
            return self.literal(0x00, 4, name, value, static_name, out);
        }
        let hash = hash_of(name, value);
        let slot = self.slot(hash);
        if slot.hash == hash && slot.stored {
            if let Some(position) = self.table.position(slot.serial) {
                if self.table.get(position).is_some_and(|(_, n, v)| n == name && v == value) {
                    return integer::encode(STATIC_TABLE.len() + 1 + position, 7, 0x80, out);
                }
            }
        }
        let seen = slot.hash == hash;
        let stored = indexing == Indexing::Always || seen;
        self.set_slot(Slot { hash, serial: self.table.next_serial(), stored });
        if stored {
            self.literal(0x40, 6, name, value, static_name, out);
            self.table.insert(Token::Other, name, value);
            if static_name.is_none() {
                let serial = self.table.next_serial().wrapping_sub(1);
                self.set_slot(Slot { hash: hash_of(name, b""), serial, stored: true });
            }
        } else {
            self.literal(0x00, 4, name, value, static_name, out);
        }
    }

    fn literal(
        &self,
        pattern: u8,
        prefix_bits: u32,
        name: &[u8],
        value: &[u8],
        static_name: Option<usize>,
        out: &mut Vec<u8>,
    ) {
        match static_name.or_else(|| self.dynamic_name(name)) {
            Some(index) => integer::encode(index, prefix_bits, pattern, out),
            None => {
                out.push(pattern);
                string(name, out);
            }
        }
        string(value, out);
    }

    /// Index of an entry with this name, if the cache remembers one.
    fn dynamic_name(&self, name: &[u8]) -> Option<usize> {
        let hash = hash_of(name, b"");
        let slot = self.slot(hash);
        if slot.hash != hash || !slot.stored {
            return None;
        }
        let position = self.table.position(slot.serial)?;
        let (_, found, _) = self.table.get(position)?;
        (found == name).then_some(STATIC_TABLE.len() + 1 + position)
    }

    fn slot(&self, hash: u32) -> Slot {
        self.slots.get(hash as usize % SLOTS).copied().unwrap_or_default()
    }

    fn set_slot(&mut self, slot: Slot) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, Slot::default());
        }
        if let Some(place) = self.slots.get_mut(slot.hash as usize % SLOTS) {
            *place = slot;
        }
    }

    /// Empties the table and gives its memory back; the next block says so to the peer.
    pub fn shrink(&mut self) {
        if self.table.len() > 0 {
            let size = self.table.max_size();
            self.table.set_max_size(0);
            self.table.set_max_size(size);
            self.smallest_update = Some(0);
        }
        self.table.shrink();
        self.slots = Vec::new();
    }
}

fn string(octets: &[u8], out: &mut Vec<u8>) {
    if octets.len() >= HUFFMAN_FROM {
        let len = huffman::encoded_len(octets);
        if len < octets.len() {
            integer::encode(len, 7, 0x80, out);
            huffman::encode(octets, out);
            return;
        }
    }
    integer::encode(octets.len(), 7, 0x00, out);
    out.extend_from_slice(octets);
}

/// Not a defence against chosen collisions, which can only cost compression.
fn hash_of(name: &[u8], value: &[u8]) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (name.len() as u64) << 32 | value.len() as u64;
    for octets in [name, value] {
        let mut chunks = octets.chunks_exact(8);
        for chunk in chunks.by_ref() {
            let word = chunk.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word));
            hash = (hash.rotate_left(5) ^ word).wrapping_mul(K);
        }
        for &octet in chunks.remainder() {
            hash = (hash.rotate_left(5) ^ u64::from(octet)).wrapping_mul(K);
        }
    }
    // Zero means an empty slot.
    (hash >> 32) as u32 | 1 << 31
}
