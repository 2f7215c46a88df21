//! Header block in, fields out.

use super::static_table::{Token, STATIC_TABLE};
use super::table::Table;
use super::{huffman, integer, Error, DEFAULT_TABLE_SIZE};

/// One decoded field; borrowed from the block, a table or the decoder's scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// What the name is, and whether name and value are well formed.
    pub token: Token,
    /// The name, as it came.
    pub name: &'a [u8],
    /// The value, as it came.
    pub value: &'a [u8],
    /// The peer asks never to index it (RFC 7541 section 6.2.3).
    pub sensitive: bool,
}

/// A buffer that one large field has made larger than this is given back behind its block.
const KEEP: usize = 16 * 1024;

/// The receiving half of HPACK.
pub struct Decoder {
    table: Table,
    /// Our SETTINGS_HEADER_TABLE_SIZE, once the peer has acknowledged it.
    allowed: usize,
    /// `allowed` fell below the table's size: the next block must say so first.
    update_due: bool,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder with an empty table of the default size.
    pub fn new() -> Decoder {
        let allowed = DEFAULT_TABLE_SIZE as usize;
        Decoder { table: Table::new(allowed), allowed, update_due: false, name: Vec::new(), value: Vec::new() }
    }

    /// The peer has acknowledged this SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_allowed_size(&mut self, allowed: u32) {
        self.allowed = allowed as usize;
        self.update_due = self.table.max_size() > self.allowed;
    }

    /// Gives `field` every field of a complete header block. The caller keeps
    /// its own count of what it stores: a block can be far larger than its wire form.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(Field<'_>)) -> Result<(), Error> {
        let mut rest = block;
        // RFC 7541 section 4.2: size updates stand at the start of a block only.
        let mut at_start = true;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            if first & 0xe0 == 0x20 {
                let size = integer::decode(first, 5, &mut rest)?;
                if !at_start || size > self.allowed {
                    return Err(Error::BadSizeUpdate);
                }
                self.table.set_max_size(size);
                self.update_due = false;
                continue;
            }
            if self.update_due {
                return Err(Error::BadSizeUpdate);
            }
            at_start = false;
            if first & 0x80 != 0 {
                let index = integer::decode(first, 7, &mut rest)?;
                let (token, name, value) = lookup(&self.table, index)?;
                field(Field { token, name, value, sensitive: false });
            } else {
                self.literal(first, &mut rest, &mut field)?;
            }
        }
        for buffer in [&mut self.name, &mut self.value] {
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
        }
        Ok(())
    }

    fn literal(&mut self, first: u8, rest: &mut &[u8], field: &mut impl FnMut(Field<'_>)) -> Result<(), Error> {
        let insert = first & 0x40 != 0;
        let index = integer::decode(first, if insert { 6 } else { 4 }, rest)?;
        let Decoder { table, name: name_buffer, value: value_buffer, .. } = self;
        if index != 0 && !insert {
            let (name_token, name, _) = lookup(table, index)?;
            let value = string(rest, value_buffer)?;
            let token = Token::of_value(Some(name_token), name, value);
            field(Field { token, name, value, sensitive: first & 0x10 != 0 });
            return Ok(());
        }
        let (name_token, name) = if index == 0 {
            (None, string(rest, name_buffer)?)
        } else {
            // Inserting may evict the entry that the name is taken from.
            let (token, name, _) = lookup(table, index)?;
            name_buffer.clear();
            name_buffer.extend_from_slice(name);
            (Some(token), name_buffer.as_slice())
        };
        let value = string(rest, value_buffer)?;
        let token = Token::of_value(name_token, name, value);
        field(Field { token, name, value, sensitive: first & 0x10 != 0 && !insert });
        if insert {
            table.insert(token, name, value);
        }
        Ok(())
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink(&mut self) {
        self.table.shrink();
        self.name = Vec::new();
        self.value = Vec::new();
    }
}

fn lookup(table: &Table, index: usize) -> Result<(Token, &[u8], &[u8]), Error> {
    let position = index.checked_sub(1).ok_or(Error::BadIndex)?;
    if let Some(&entry) = STATIC_TABLE.get(position) {
        return Ok(entry);
    }
    table.get(position - STATIC_TABLE.len()).ok_or(Error::BadIndex)
}

/// Reads a string literal (RFC 7541 section 5.2); Huffman data goes through `buffer`.
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Error> {
    let (&first, tail) = rest.split_first().ok_or(Error::Truncated)?;
    *rest = tail;
    let len = integer::decode(first, 7, rest)?;
    let (octets, tail) = rest.split_at_checked(len).ok_or(Error::Truncated)?;
    *rest = tail;
    if first & 0x80 == 0 {
        return Ok(octets);
    }
    buffer.clear();
    huffman::decode(octets, buffer)?;
    Ok(buffer)
}
