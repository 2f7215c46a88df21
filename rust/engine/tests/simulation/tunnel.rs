//! Octets without HTTP, each way until its half is closed.

use super::payload::{body, Expected, Way};
use super::plan::Spec;
use super::wire::Wire;

/// The client's end of an upgraded or proxied connection.
pub struct Tunnel {
    id: u32,
    length: usize,
    expected: Expected,
    pub is_open: bool,
}

impl Tunnel {
    pub fn client(id: u32, spec: &Spec) -> Tunnel {
        let expected = Expected::new(id, Way::Response, spec.response.length);
        Tunnel { id, length: spec.request.length, expected, is_open: false }
    }

    /// Sends everything, then closes its half.
    pub fn open(&mut self, wire: &mut Wire) {
        self.is_open = true;
        wire.out.extend(body(self.id, Way::Request, self.length));
        wire.ends = true;
    }

    pub fn take(&mut self, octets: &[u8]) {
        self.expected.take(octets);
    }

    pub fn is_complete(&self) -> bool {
        self.expected.is_complete()
    }
}
