//! The Huffman code of RFC 7541 appendix B.
//!
//! The code is canonical: sorted by (length, symbol) the code words count
//! upwards. So the lengths alone define it, and the words are computed from
//! them at compile time.

/// Code length in bits of each octet.
pub(super) const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];

/// Length of the longest code words, among them EOS.
pub(super) const LONGEST: usize = 30;

/// The code words of one length, in a row.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// First code word, right aligned.
    pub(super) first: u32,
    /// How many there are.
    pub(super) count: u32,
    /// Where their symbols start in [`SYMBOLS`].
    pub(super) symbols: u32,
}

/// Symbols by (length, value): the order in which the code words count upwards.
pub(super) static SYMBOLS: [u8; 256] = sorted_symbols();

/// For each length its code words. EOS, the last word of 30 bits, is not among them.
pub(super) static ROWS: [Row; LONGEST + 1] = rows();

/// Code word and length of each octet.
pub(super) static CODES: [(u32, u8); 256] = codes();

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which would refuse a wrong index
const fn sorted_symbols() -> [u8; 256] {
    let mut symbols = [0; 256];
    let mut at = 0;
    let mut length = 1;
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u8;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which would refuse a wrong index
const fn rows() -> [Row; LONGEST + 1] {
    let mut rows = [Row { first: 0, count: 0, symbols: 0 }; LONGEST + 1];
    let (mut next, mut symbols, mut length) = (0, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        let (mut count, mut symbol) = (0, 0);
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                count += 1;
            }
            symbol += 1;
        }
        rows[length] = Row { first: next, count, symbols };
        next += count;
        symbols += count;
        length += 1;
    }
    rows
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which would refuse a wrong index
const fn codes() -> [(u32, u8); 256] {
    let (rows, symbols) = (rows(), sorted_symbols());
    let mut codes = [(0, 0); 256];
    let mut length = 1;
    while length <= LONGEST {
        let mut i = 0;
        while i < rows[length].count {
            let symbol = symbols[(rows[length].symbols + i) as usize];
            codes[symbol as usize] = (rows[length].first + i, length as u8);
            i += 1;
        }
        length += 1;
    }
    codes
}
