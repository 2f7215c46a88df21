//! HTTP/1.1 (RFC 9112), both sides, without sockets.
//!
//! `httparse` finds the tokens; everything that decides where a message ends
//! is decided here, strictly: what two implementations could read differently
//! is refused, and a head is always written from its parsed form, never copied.
//!
//! Fields that belong to one connection (RFC 9110 section 7.6.1) are acted on
//! and taken out; `host` becomes the authority. What remains may be forwarded.

mod body;
mod fields;
mod request;
mod response;
mod write;

#[cfg(test)]
mod tests;

use crate::is_token_octet;

pub use body::{BodyDecoder, BodyEncoder, LengthMismatch, Step};
pub use request::{parse_request, RequestInfo};
pub use response::{parse_response, ResponseInfo};
pub use write::{reason_phrase, request_framing, response_framing, write_request, write_response};

/// Where the body of a message ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `content-length` octets.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection closes (responses only).
    UntilClose,
}

/// A message that is not understood. The connection is of no further use,
/// because nobody can say where the next message starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What a client is told: 400, 403, 414, 431, 501 or 505.
    pub status: u16,
    /// A stable code for logs, which is Envoy's unless that would say less (`tests/conformance/vectors/envoy.toml`).
    pub reason: &'static str,
}

impl Refusal {
    pub(crate) const fn bad(reason: &'static str) -> Refusal {
        Refusal { status: 400, reason }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.status)
    }
}

impl std::error::Error for Refusal {}

/// Remembers how the names of a parsed head were spelled (Envoy's `preserve_case`). `head` are its octets.
pub fn keep_spelling(head: &[u8], headers: &mut crate::Headers) {
    for line in head.split(|octet| *octet == b'\n').skip(1) {
        if let Some(name) = line.iter().position(|octet| *octet == b':').and_then(|end| line.get(..end)) {
            headers.keep_spelling(name);
        }
    }
}

/// Without optional white space at either end (RFC 9110 section 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The members of a comma-separated list.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|member| !member.is_empty())
}

/// Most fields that one parse has room for; [`crate::Limits::header_count`] is applied after.
const MAX_FIELDS: usize = 256;

/// `httparse` takes a bare LF for a line end, and empty lines before a message for
/// nothing. Origins do not agree on the former and the latter is for requests only,
/// so both are refused here.
fn check_line_ends(head: &[u8]) -> Result<(), Refusal> {
    // No early return: this reads every head once, and so it can do many octets at a time.
    let bare = head
        .iter()
        .zip(head.iter().skip(1))
        .fold(false, |bare, (before, octet)| bare | ((*octet == b'\n') & (*before != b'\r')));
    if bare || head.first() == Some(&b'\n') {
        return Err(Refusal::bad("http1.bare_line_feed"));
    }
    Ok(())
}

/// What `httparse` could not read. What does not even begin like a message may be any protocol.
fn syntax_error(buf: &[u8]) -> Refusal {
    if !buf.first().is_some_and(|octet| is_token_octet(*octet)) {
        return Refusal::bad("http1.codec_error");
    }
    let end = buf.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap_or(buf.len());
    unreadable(buf.get(..end).unwrap_or_default(), "http1.codec_error")
}

/// Control characters are told apart from other faults, as Envoy does: no client sends them by mistake.
fn unreadable(octets: &[u8], otherwise: &'static str) -> Refusal {
    let is_control = |octet: &u8| octet.is_ascii_control() && !matches!(octet, b'\t' | b'\r' | b'\n');
    Refusal::bad(if octets.iter().any(is_control) { "http1.invalid_characters" } else { otherwise })
}

/// Octets by which an unfinished head grows before it is looked at again.
const NEXT_LOOK: usize = 4096;

/// Whether to parse a head again of which `tried` octets were not the whole.
///
/// Parsing begins at the first octet each time. A peer that sends a long head octet by
/// octet would make that quadratic, so a head is parsed when its end has come, and until
/// then now and then, to refuse early what is wrong or too long.
pub fn is_worth_parsing(head: &[u8], tried: usize) -> bool {
    let grown = head.len().saturating_sub(tried);
    let news = head.get(tried.saturating_sub(2)..).unwrap_or_default();
    let is_end = |at: &[u8]| matches!(at, [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n']);
    grown >= tried.min(NEXT_LOOK) || news.windows(3).any(is_end) || news.ends_with(b"\n\n")
}

/// Looks at an unfinished head: how long may it still become?
fn check_unfinished(buf: &[u8], limit: usize, target_limit: usize) -> Result<(), Refusal> {
    if !buf.contains(&b'\n') && buf.len() > target_limit.saturating_add(64) {
        return Err(Refusal { status: 414, reason: "http1.target_too_long" });
    }
    // Each field costs 32 beside its octets, so a head within the limit is shorter than it.
    if buf.len() > limit.saturating_add(target_limit) {
        return Err(Refusal { status: 431, reason: "http1.headers_too_large" });
    }
    Ok(())
}
