//! Bodies: where they end on the way in, how their end is said on the way out.

use std::ops::Range;

use super::{trim, unreadable, Framing, Refusal};
use crate::{has_control_octets, is_token, Headers, Known, Limits};

/// What one call of [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Octets of the input that are done with.
    pub consumed: usize,
    /// Which of them are payload.
    pub data: Range<usize>,
    /// The body is complete; trailers, if any, have been filled in.
    pub ended: bool,
}

/// Finds the payload of one body.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    line_limit: usize,
    trailer_limit: usize,
    trailer_count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// At the start of a chunk-size line.
    Size,
    /// So many octets of the chunk are to come.
    Chunk(u64),
    /// The CRLF behind a chunk.
    ChunkEnd,
    Trailers,
    Ended,
}

impl BodyDecoder {
    /// For a message that is framed like this.
    pub fn new(framing: Framing, limits: &Limits) -> BodyDecoder {
        BodyDecoder {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Ended,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::Size,
                Framing::UntilClose => State::UntilClose,
            },
            line_limit: limits.chunk_line_size,
            trailer_limit: limits.header_list_size,
            trailer_count: limits.header_count,
        }
    }

    /// Looks at the octets that have arrived. If nothing was consumed, more are
    /// needed. Call it again with the rest until then.
    ///
    /// # Errors
    /// The chunks are malformed.
    pub fn decode(&mut self, buf: &[u8], trailers: &mut Headers) -> Result<Step, Refusal> {
        let mut used = 0;
        loop {
            let rest = buf.get(used..).unwrap_or_default();
            let nothing = Step { consumed: used, data: used..used, ended: false };
            match self.state {
                State::Ended => return Ok(Step { ended: true, ..nothing }),
                State::UntilClose => {
                    return Ok(Step { consumed: buf.len(), data: used..buf.len(), ended: false });
                }
                State::Length(left) => {
                    let n = fit(left, rest.len());
                    self.state = if n as u64 == left { State::Ended } else { State::Length(left - n as u64) };
                    let ended = self.state == State::Ended;
                    return Ok(Step { consumed: used + n, data: used..used + n, ended });
                }
                State::Size => match self.size_line(rest)? {
                    None => return Ok(nothing),
                    Some((n, 0)) => {
                        used += n;
                        self.state = State::Trailers;
                    }
                    Some((n, size)) => {
                        used += n;
                        self.state = State::Chunk(size);
                    }
                },
                State::Chunk(left) => {
                    let n = fit(left, rest.len());
                    if n == 0 {
                        return Ok(nothing);
                    }
                    self.state = if n as u64 == left { State::ChunkEnd } else { State::Chunk(left - n as u64) };
                    return Ok(Step { consumed: used + n, data: used..used + n, ended: false });
                }
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        used += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(nothing),
                    _ => return Err(Refusal::bad("http1.missing_crlf_after_chunk")),
                },
                State::Trailers => match self.trailers(rest, trailers)? {
                    None => return Ok(nothing),
                    Some(n) => {
                        self.state = State::Ended;
                        return Ok(Step { consumed: used + n, data: used..used, ended: true });
                    }
                },
            }
        }
    }

    /// The connection has ended. Is the body complete?
    ///
    /// # Errors
    /// It was cut off.
    pub fn finish_at_eof(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Ended | State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(Refusal::bad("http1.truncated_body")),
        }
    }

    /// `chunk-size [chunk-ext] CRLF` (RFC 9112 section 7.1). Extensions are dropped.
    fn size_line(&self, buf: &[u8]) -> Result<Option<(usize, u64)>, Refusal> {
        let invalid = Refusal::bad("http1.invalid_chunk_size");
        let Some(end) = buf.iter().position(|b| *b == b'\n') else {
            let digits = buf.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            // Cut before its line feed, a line that is just short enough is not too long.
            let line = buf.strip_suffix(b"\r").unwrap_or(buf);
            if line.len() > self.line_limit || digits > 16 {
                return Err(Refusal::bad("http1.chunk_line_too_long"));
            }
            if digits == 0 && !buf.is_empty() {
                return Err(invalid);
            }
            return Ok(None);
        };
        let line = buf.get(..end).unwrap_or_default();
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(Refusal::bad("http1.bare_line_feed"));
        };
        if line.len() > self.line_limit {
            return Err(Refusal::bad("http1.chunk_line_too_long"));
        }
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        if digits == 0 || digits > 16 {
            return Err(invalid);
        }
        // What follows the size is nothing, or an extension that starts with `;`.
        match trim(extension).first() {
            None if extension.is_empty() => {}
            Some(b';') if !has_control_octets(extension) => {}
            _ => return Err(Refusal::bad("http1.invalid_chunk_extension")),
        }
        let text = std::str::from_utf8(size).map_err(|_| invalid)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| invalid)?;
        Ok(Some((end + 1, size)))
    }

    /// Trailer fields up to the empty line; fields that frame or route a message are refused.
    fn trailers(&self, buf: &[u8], trailers: &mut Headers) -> Result<Option<usize>, Refusal> {
        trailers.clear();
        let mut used = 0;
        loop {
            let rest = buf.get(used..).unwrap_or_default();
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                return match buf.len() > self.trailer_limit {
                    true => Err(Refusal { status: 431, reason: "http1.headers_too_large" }),
                    false => Ok(None),
                };
            };
            let line = rest.get(..end).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(Refusal::bad("http1.bare_line_feed"));
            };
            used += end + 1;
            if used > self.trailer_limit {
                // White space counts too, or it would depend on where the input is cut.
                return Err(Refusal { status: 431, reason: "http1.headers_too_large" });
            }
            if line.is_empty() {
                return Ok(Some(used));
            }
            let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::bad("http1.invalid_trailer"))?;
            let (name, value) = line.split_at(colon);
            let value = trim(value.get(1..).unwrap_or_default());
            if !is_token(name) || has_control_octets(value) {
                return Err(unreadable(line, "http1.invalid_trailer"));
            }
            trailers.append_lower(name, value);
            if trailers.len() > self.trailer_count || trailers.list_size() > self.trailer_limit {
                return Err(Refusal { status: 431, reason: "http1.headers_too_large" });
            }
            if trailers.iter().last().and_then(|field| field.known).is_some_and(Known::is_too_late) {
                return Err(Refusal::bad("http1.forbidden_trailer"));
            }
        }
    }
}

fn fit(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

/// More or less octets than `content-length` has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthMismatch;

impl std::fmt::Display for LengthMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body does not have the length that was promised")
    }
}

impl std::error::Error for LengthMismatch {}

/// Writes one body.
#[derive(Clone, Debug)]
pub struct BodyEncoder {
    framing: Framing,
    left: u64,
}

impl BodyEncoder {
    /// For a message whose head said so.
    pub fn new(framing: Framing) -> BodyEncoder {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        BodyEncoder { framing, left }
    }

    /// Appends payload.
    ///
    /// # Errors
    /// It is more than was promised; nothing is written.
    pub fn encode(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), LengthMismatch> {
        if data.is_empty() {
            return Ok(());
        }
        match self.framing {
            Framing::None => return Err(LengthMismatch),
            Framing::Length(_) => {
                self.left = self.left.checked_sub(data.len() as u64).ok_or(LengthMismatch)?;
                out.extend_from_slice(data);
            }
            Framing::UntilClose => out.extend_from_slice(data),
            Framing::Chunked => {
                write_hex(out, data.len());
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Says that the body is complete. Trailers need chunks; elsewhere they are dropped.
    ///
    /// # Errors
    /// It is less than was promised.
    pub fn finish(&mut self, out: &mut Vec<u8>, trailers: Option<&Headers>) -> Result<(), LengthMismatch> {
        match self.framing {
            Framing::Length(_) if self.left > 0 => Err(LengthMismatch),
            Framing::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    trailers.iter().for_each(|field| super::write::field(out, trailers, field.name, field.value));
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn write_hex(out: &mut Vec<u8>, n: usize) {
    let digits = (usize::BITS - n.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        let nibble = (n >> (at * 4)) & 0xf;
        out.push(b"0123456789abcdef".get(nibble).copied().unwrap_or(b'0'));
    }
}
