//! Huffman coding of strings (RFC 7541 section 5.2).
//!
//! Decoding looks up eight bits at a time in a table of 512 octets, which
//! holds every symbol that header fields are made of; the rare longer words
//! are found by their length's first word. A bigger table (the usual state
//! machine takes 16 KiB) decodes a little faster while it is in the cache, and
//! beside a busy application it is not.

use super::huffman_code::{CODES, LENGTHS, LONGEST, ROWS, SYMBOLS};
use super::Error;

const ROOT_BITS: usize = 8;

/// (symbol, length) for every word of up to eight bits; length 0 means longer.
static ROOT: [(u8, u8); 1 << ROOT_BITS] = root();

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which would refuse a wrong index
const fn root() -> [(u8, u8); 1 << ROOT_BITS] {
    let codes = CODES;
    let mut table = [(0, 0); 1 << ROOT_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let (code, length) = codes[symbol];
        if length as usize <= ROOT_BITS {
            let spare = ROOT_BITS - length as usize;
            let mut i = 0;
            while i < 1 << spare {
                table[((code as usize) << spare) + i] = (symbol as u8, length);
                i += 1;
            }
        }
        symbol += 1;
    }
    table
}

/// Appends the decoded octets of `input` to `out`.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    // The shortest word has five bits.
    out.reserve(input.len() * 8 / 5 + 1);
    let mut rest = input;
    // The next bits, left aligned; `held` of them are real.
    let (mut bits, mut held) = (0_u64, 0_usize);
    loop {
        if held < LONGEST {
            if let Some((word, tail)) = rest.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (32 - held);
                held += 32;
                rest = tail;
            } else {
                while let Some((&octet, tail)) = rest.split_first() {
                    bits |= u64::from(octet) << (56 - held);
                    held += 8;
                    rest = tail;
                    if held > 56 {
                        break;
                    }
                }
            }
        }
        let (symbol, length) = match ROOT.get((bits >> (64 - ROOT_BITS)) as usize) {
            Some(&(symbol, length)) if length != 0 => (symbol, usize::from(length)),
            _ => match long_word(bits) {
                Some(found) => found,
                None if held < ROOT_BITS => return check_padding(bits, held),
                None => return Err(Error::BadHuffman),
            },
        };
        if length > held {
            return check_padding(bits, held);
        }
        out.push(symbol);
        bits <<= length;
        held -= length;
    }
}

fn long_word(bits: u64) -> Option<(u8, usize)> {
    let start = ROOT_BITS + 1;
    ROWS.iter().enumerate().skip(start).find_map(|(length, row)| {
        let word = (bits >> (64 - length)) as u32;
        let nth = word.checked_sub(row.first).filter(|nth| *nth < row.count)?;
        let symbol = SYMBOLS.get((row.symbols + nth) as usize)?;
        Some((*symbol, length))
    })
}

/// What is left must be fewer than eight bits, all of them ones.
fn check_padding(bits: u64, held: usize) -> Result<(), Error> {
    let ones = bits.leading_ones() as usize;
    if held < 8 && ones >= held {
        Ok(())
    } else {
        Err(Error::BadHuffman)
    }
}

/// Octets that `input` takes when encoded.
pub(super) fn encoded_len(input: &[u8]) -> usize {
    static LENGTH_OF: [u8; 256] = LENGTHS;
    let bits: usize =
        input.iter().map(|&octet| usize::from(LENGTH_OF.get(usize::from(octet)).copied().unwrap_or(30))).sum();
    bits.div_ceil(8)
}

/// Appends the encoded `input` to `out`.
pub(super) fn encode(input: &[u8], out: &mut Vec<u8>) {
    // Right aligned; at most 31 + 30 bits are held.
    let (mut bits, mut held) = (0_u64, 0_u32);
    for &octet in input {
        let (code, length) = CODES.get(usize::from(octet)).copied().unwrap_or_default();
        bits = bits << length | u64::from(code);
        held += u32::from(length);
        if held >= 32 {
            held -= 32;
            out.extend_from_slice(&((bits >> held) as u32).to_be_bytes());
        }
    }
    while held >= 8 {
        held -= 8;
        out.push((bits >> held) as u8);
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
}
