//! What a filter may write into a message, in whatever language it is written: one place that judges names, values,
//! paths and authorities.

use std::borrow::Cow;
use std::fmt;

use pymesh_http::{has_control_octets, is_token};
use pyo3::exceptions::PyValueError;
use pyo3::PyErr;

/// Why something was not written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Name(String),
    Protected(String),
    Value,
    NotLatin1,
    Path,
    Authority(String),
    Status(i64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Name(name) => write!(f, "`{name}` is not a header name"),
            Refusal::Protected(name) => write!(f, "`{name}` is written by the proxy and cannot be set by a filter"),
            Refusal::Value => f.write_str("a header value must not contain control characters"),
            Refusal::NotLatin1 => f.write_str("header text must be Latin-1: encode other text first"),
            Refusal::Path => f.write_str("a path starts with `/` and is percent-encoded ASCII without `#`"),
            Refusal::Authority(authority) => write!(f, "`{authority}` is not a host and port"),
            Refusal::Status(status) => write!(f, "a reply's status is 200 to 599, not {status}"),
        }
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> PyErr {
        PyValueError::new_err(refusal.to_string())
    }
}

/// Fields that frame the message or belong to one connection are not a
/// filter's to set: the proxy writes them.
const PROTECTED: [&[u8]; 6] =
    [b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"];

/// A name in lower case, as header blocks want it.
pub(crate) fn lower(name: &[u8]) -> Cow<'_, [u8]> {
    match name.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// A field name: a token, in lower case (RFC 9110 section 5.1).
pub(crate) fn field_name(name: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if !is_token(name) {
        return Err(Refusal::Name(String::from_utf8_lossy(name).into_owned()));
    }
    Ok(lower(name))
}

/// The name of a field that filters may set or remove.
pub(crate) fn settable(name: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    let name = field_name(name)?;
    if PROTECTED.contains(&&*name) {
        return Err(Refusal::Protected(String::from_utf8_lossy(&name).into_owned()));
    }
    Ok(name)
}

/// A field value: no control characters but tab (RFC 9110 section 5.5).
pub(crate) fn field_value(value: &[u8]) -> Result<(), Refusal> {
    match has_control_octets(value) {
        true => Err(Refusal::Value),
        false => Ok(()),
    }
}

/// Path and query: origin form, visible ASCII without a fragment.
pub(crate) fn path(path: &[u8]) -> Result<(), Refusal> {
    match path.first() == Some(&b'/') && path.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        true => Ok(()),
        false => Err(Refusal::Path),
    }
}

/// Host and optional port.
pub(crate) fn authority(authority: &[u8]) -> Result<(), Refusal> {
    let is_host = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%:[]".contains(b);
    match !authority.is_empty() && authority.iter().all(is_host) {
        true => Ok(()),
        false => Err(Refusal::Authority(String::from_utf8_lossy(authority).into_owned())),
    }
}

/// The status of a reply.
pub(crate) fn status(status: i64) -> Result<u16, Refusal> {
    let known = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    known.ok_or(Refusal::Status(status))
}
