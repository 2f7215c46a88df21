//! The dynamic table (RFC 7541 section 2.3.2), used by both sides.
//!
//! Entries are appended to one buffer of octets and leave at its front. When
//! the buffer's end is reached the live octets slide back to its start; it is
//! twice as large as the table, so a slide moves each octet at most about
//! once. Every entry is therefore one slice, and in steady state nothing
//! allocates.

use std::collections::VecDeque;

use super::static_table::Token;

/// What an entry costs beyond its octets (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;

#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    name_len: u32,
    value_len: u32,
    token: Token,
}

impl Entry {
    fn size(&self) -> usize {
        self.octets() + OVERHEAD
    }

    fn octets(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

pub(super) struct Table {
    octets: Vec<u8>,
    /// Newest at the back.
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
    /// Entries inserted so far, wrapping: names an entry for good.
    inserted: u32,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Table {
        Table { octets: Vec::new(), entries: VecDeque::new(), size: 0, max_size, inserted: 0 }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number that the next inserted entry will have.
    pub(super) fn next_serial(&self) -> u32 {
        self.inserted
    }

    /// Position (0 is the newest) of the entry with this number, if it is still there.
    pub(super) fn position(&self, serial: u32) -> Option<usize> {
        let age = self.inserted.wrapping_sub(serial).wrapping_sub(1) as usize;
        (age < self.entries.len()).then_some(age)
    }

    /// Token, name and value at a position; 0 is the newest.
    pub(super) fn get(&self, position: usize) -> Option<(Token, &[u8], &[u8])> {
        let at = self.entries.len().checked_sub(position)?.checked_sub(1)?;
        let entry = self.entries.get(at)?;
        let octets = self.octets.get(entry.at as usize..)?.get(..entry.octets())?;
        let (name, value) = octets.split_at_checked(entry.name_len as usize)?;
        Some((entry.token, name, value))
    }

    /// Adds an entry and evicts what no longer fits (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, token: Token, name: &[u8], value: &[u8]) {
        let octets = name.len() + value.len();
        let size = octets + OVERHEAD;
        if size > self.max_size {
            self.evict_to(0);
            return;
        }
        self.evict_to(self.max_size - size);
        if self.octets.len() + octets > self.octets.capacity() && self.octets.len() + octets > 2 * self.max_size {
            self.slide();
        }
        let at = self.octets.len() as u32;
        self.octets.extend_from_slice(name);
        self.octets.extend_from_slice(value);
        let (name_len, value_len) = (name.len() as u32, value.len() as u32);
        self.entries.push_back(Entry { at, name_len, value_len, token });
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
    }

    pub(super) fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict_to(max_size);
    }

    fn evict_to(&mut self, most: usize) {
        while self.size > most {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.size();
        }
        if self.entries.is_empty() {
            self.octets.clear();
        }
    }

    /// Moves the live octets to the front of the buffer.
    fn slide(&mut self) {
        let dead = self.entries.front().map_or(self.octets.len(), |oldest| oldest.at as usize);
        self.octets.drain(..dead);
        for entry in &mut self.entries {
            entry.at -= dead as u32;
        }
    }

    /// Gives back all memory that live entries do not need.
    pub(super) fn shrink(&mut self) {
        self.slide();
        self.octets.shrink_to_fit();
        self.entries.shrink_to_fit();
    }
}
