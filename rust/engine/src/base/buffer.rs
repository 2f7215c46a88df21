//! A byte queue: appended at the back, taken from the front.

/// Octets that wait. Gives its memory back when it is empty and was large, so
/// that an idle connection costs little.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    taken: usize,
}

/// Capacity that an empty buffer may keep.
const KEEP: usize = 16 * 1024;

impl Buffer {
    /// What waits.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// How much waits, octets.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vector to append to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes `n` octets from the front; more than there are takes all.
    pub fn advance(&mut self, n: usize) {
        self.taken = self.taken.saturating_add(n).min(self.bytes.len());
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
            if self.bytes.capacity() > KEEP {
                self.bytes = Vec::new();
            }
        } else if self.taken > self.bytes.len() / 2 && self.taken >= KEEP {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Drops everything; memory as after [`Buffer::advance`].
    pub fn clear(&mut self) {
        self.advance(self.len());
    }

    /// Gives all memory back if nothing waits.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Buffer::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_from_the_front_and_compacts() {
        let mut buffer = Buffer::default();
        buffer.extend(&vec![7; 100_000]);
        buffer.advance(60_000);
        assert_eq!(buffer.len(), 40_000);
        assert_eq!(buffer.bytes.len(), 40_000);
        buffer.advance(usize::MAX);
        assert!(buffer.is_empty());
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
