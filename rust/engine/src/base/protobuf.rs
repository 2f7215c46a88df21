//! The wire format of protobuf, as far as the few messages need it that the engine speaks itself.
//!
//! [`Message`] writes fields in the order of the calls. [`Fields`] reads them one by one and says what kind each is; it
//! ends with an error at the first octet that cannot be right, so that a message is read whole or not at all.

use std::borrow::Cow;

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// The octets so far.
    pub fn into_octets(self) -> Vec<u8> {
        self.0
    }

    /// Octets so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Octets or text. What is empty is the default of proto3, and left out.
    pub fn octets(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.part(field, value);
        }
    }

    /// Text of which it is not known that it is UTF-8 ([`sanitized`]).
    pub fn text(&mut self, field: u32, value: &[u8]) {
        self.octets(field, &sanitized(value));
    }

    /// An integer or an enumerator; zero is left out.
    pub fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
    }

    /// A double, also if it is zero.
    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `fixed64`, also if it is zero.
    pub fn fixed64(&mut self, field: u32, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// The fields of another message, as if they had been written here.
    pub fn append(&mut self, mut fields: Message) {
        self.0.append(&mut fields.0);
    }

    /// An integer, also if it is zero: a member of a `oneof`.
    pub fn chosen_number(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// Octets, also if there are none: a member of a `oneof`.
    pub fn chosen_octets(&mut self, field: u32, value: &[u8]) {
        self.part(field, value);
    }

    /// A message, also if it is empty.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.part(field, &inner.0);
    }

    /// An entry of a map whose keys and values are text.
    pub fn entry(&mut self, field: u32, key: &[u8], value: &[u8]) {
        self.message(field, |entry| {
            entry.text(1, key);
            entry.text(2, value);
        });
    }

    fn part(&mut self, field: u32, value: &[u8]) {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn key(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// As UTF-8: each octet that is not becomes `!`, as in Envoy.
pub fn sanitized(value: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(value).is_ok() {
        return Cow::Borrowed(value);
    }
    let mut clean = Vec::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        clean.extend_from_slice(chunk.valid().as_bytes());
        clean.extend(chunk.invalid().iter().map(|_| b'!'));
    }
    Cow::Owned(clean)
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer, a truth value, an enumerator.
    Number(u64),
    /// Text, octets, a message.
    Octets(&'a [u8]),
    /// A double.
    Double(f64),
    /// Four octets that no message here has.
    Fixed32,
}

impl<'a> Value<'a> {
    /// The integer; `None` if it is no integer.
    pub fn number(self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The octets; `None` if there are none.
    pub fn octets(self) -> Option<&'a [u8]> {
        match self {
            Value::Octets(octets) => Some(octets),
            _ => None,
        }
    }
}

/// The octets are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The fields of a message, in the order in which they were written.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        // A field's number has 29 bits.
        let key = u32::try_from(key).ok().filter(|key| *key > 7)?;
        let (number, kind) = (key >> 3, key as u8 & 7);
        let value = match kind {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => Value::Double(f64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            LENGTH => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Octets(self.take(length)?)
            }
            FIXED32 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (octet, rest) = self.0.split_first()?;
            self.0 = rest;
            if shift == 63 && *octet > 1 {
                // It would say more than 64 bits.
                return None;
            }
            number |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::default();
        message.number(1, 300);
        message.number(2, 0);
        message.octets(3, b"");
        message.text(4, b"a\xffb\xc3\xa9");
        message.double(5, 1.5);
        message.chosen_number(6, 0);
        message.chosen_octets(7, b"");
        message.message(16, |inner| inner.entry(1, b"k", b"v"));
        let octets = message.into_octets();
        let read: Vec<_> = Fields(&octets).map(Result::unwrap).collect();
        assert_eq!(
            read,
            [
                (1, Value::Number(300)),
                (4, Value::Octets("a!bé".as_bytes())),
                (5, Value::Double(1.5)),
                (6, Value::Number(0)),
                (7, Value::Octets(b"")),
                (16, Value::Octets(&[0x0a, 6, 0x0a, 1, b'k', 0x12, 1, b'v'])),
            ]
        );
    }

    #[test]
    fn garbage_ends_with_an_error() {
        for garbage in [
            &[0xff][..],
            &[0x08],
            &[0x0a, 5, 1],
            &[0x00, 1],
            &[0x0b],
            &[0x09, 1, 2, 3],
            &[0x0d, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x88, 0x80, 0x80, 0x80, 0x10, 1],
        ] {
            assert_eq!(Fields(garbage).last(), Some(Err(Malformed)), "{garbage:?}");
        }
        assert_eq!(Fields(&[]).next(), None);
        let most = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Fields(&most).next(), Some(Ok((1, Value::Number(u64::MAX)))));
        assert_eq!(Fields(&[0xf8, 0xff, 0xff, 0xff, 0x0f, 0]).next(), Some(Ok(((1 << 29) - 1, Value::Number(0)))));
        assert_eq!(Fields(&[0x0d, 1, 2, 3, 4]).next(), Some(Ok((1, Value::Fixed32))));
    }
}
