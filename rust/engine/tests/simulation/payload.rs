//! Bodies that say whose they are.
//!
//! The octets of a body follow from the request's number, the direction and
//! the position alone. So whoever receives one knows what must be there: an
//! octet of another message, one too many, one missing or two exchanged are
//! all found, at the first wrong position.

use super::chance::Chance;

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Request,
    Response,
}

pub fn body(id: u32, way: Way, length: usize) -> Vec<u8> {
    let mut source = Chance::new(u64::from(id) << 1 | u64::from(way == Way::Response));
    let mut octets = Vec::with_capacity(length + 8);
    while octets.len() < length {
        octets.extend_from_slice(&source.bits().to_le_bytes());
    }
    octets.truncate(length);
    octets
}

/// Compares a body with what it must be, piece by piece.
pub struct Expected {
    octets: Vec<u8>,
    seen: usize,
    what: String,
}

impl Expected {
    pub fn new(id: u32, way: Way, length: usize) -> Expected {
        Expected { octets: body(id, way, length), seen: 0, what: format!("{way:?} body of request {id}") }
    }

    pub fn take(&mut self, piece: &[u8]) {
        let expected = self.octets.get(self.seen..self.seen + piece.len());
        assert!(expected.is_some(), "{}: {} octets are too many", self.what, self.seen + piece.len());
        assert!(expected == Some(piece), "{}: wrong octets from position {}", self.what, self.seen);
        self.seen += piece.len();
    }

    pub fn is_complete(&self) -> bool {
        self.seen == self.octets.len()
    }

    pub fn finish(&self) {
        assert!(self.is_complete(), "{}: {} octets of {}", self.what, self.seen, self.octets.len());
    }
}

/// A short digest for the transcript.
pub fn digest(octets: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ octets.len() as u64;
    let mut words = octets.chunks_exact(8);
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for word in &mut words {
        mix(u64::from_le_bytes(word.try_into().unwrap()));
    }
    words.remainder().iter().for_each(|octet| mix(u64::from(*octet)));
    hash
}
