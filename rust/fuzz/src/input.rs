//! Decisions taken from the input, for targets that build something of it.

use arbitrary::Unstructured;

/// The input as a sequence of small decisions. When it is used up everything is 0 and empty.
pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Input<'a> {
        Input(Unstructured::new(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from(self.octet()) << 8 | u16::from(self.octet())
    }

    pub(crate) fn long(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.octet()) % end.max(1)
    }

    pub(crate) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// So many octets, or what there is.
    pub(crate) fn octets(&mut self, count: usize) -> &'a [u8] {
        self.0.bytes(count.min(self.0.len())).unwrap_or_default()
    }

    /// A length octet, then so many.
    pub(crate) fn string(&mut self) -> &'a [u8] {
        let count = usize::from(self.octet());
        self.octets(count)
    }

    /// A length of two octets, then so many.
    pub(crate) fn long_string(&mut self) -> &'a [u8] {
        let count = usize::from(self.word());
        self.octets(count)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.octets(usize::MAX)
    }
}
