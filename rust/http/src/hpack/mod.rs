//! HPACK (RFC 7541): header compression for HTTP/2.
//!
//! Both tables live and die with a connection, and one wrong octet makes
//! everything after it meaningless; so every decoding failure ends the
//! connection, and a block whose fields are refused is still decoded to its
//! end.
//!
//! * [`Decoder`]: block in, `(Token, name, value)` out. Names and values are
//!   classified and checked once, when they enter the table; a field that the
//!   peer repeats costs a table look-up and nothing else.
//! * [`Encoder`]: fields out, in the representation that suits a proxy. See
//!   [`encoder`] for what is indexed and what is not.
mod decoder;
pub mod encoder;
mod huffman;
mod huffman_code;
mod integer;
mod static_table;
mod table;

pub use decoder::{Decoder, Field};
pub use encoder::Encoder;
pub use static_table::{Pseudo, Token};

/// Size that both tables start with (RFC 9113 section 6.5.2).
pub const DEFAULT_TABLE_SIZE: u32 = 4096;

/// Why a header block could not be decoded. All are connection errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ended inside a field.
    Truncated,
    /// An integer beyond 2^28.
    IntegerOverflow,
    /// An index that neither table holds.
    BadIndex,
    /// Huffman data with EOS, or with padding that is not a prefix of EOS.
    BadHuffman,
    /// A size update beyond what SETTINGS allowed, misplaced, or missing.
    BadSizeUpdate,
}

impl Error {
    /// A stable reason for logs and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Error::Truncated => "hpack_truncated",
            Error::IntegerOverflow => "hpack_integer_overflow",
            Error::BadIndex => "hpack_bad_index",
            Error::BadHuffman => "hpack_bad_huffman",
            Error::BadSizeUpdate => "hpack_bad_size_update",
        }
    }
}

#[cfg(test)]
mod tests;
