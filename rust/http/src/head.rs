//! Message heads: what a request or response says before its body.

use crate::authority::is_authority;
use crate::headers::{Headers, Span};

/// The HTTP version a message arrived with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As written in access logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

/// `http` or `https`; a request with any other scheme is refused by the codecs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Cleartext.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The scheme of this name, in either case (RFC 3986 section 3.1).
    pub fn from_name(name: &[u8]) -> Option<Scheme> {
        [Scheme::Http, Scheme::Https].into_iter().find(|scheme| name.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
    }

    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// A request method. Methods are case sensitive (RFC 9110 section 9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// Any other token; the octets stand in the head's arena.
    Other(Span),
}

impl Method {
    /// The standard method with these octets, if it is one.
    pub fn from_standard(name: &[u8]) -> Option<Method> {
        Some(match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            _ => return None,
        })
    }

    /// Idempotent by RFC 9110 section 9.2.2.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

/// A request without its body.
///
/// `authority`, `path` and `protocol` are spans of `headers`' arena; read them
/// with the methods below. HTTP/1's `host` becomes `authority` and is not kept
/// among the fields, so there is one place to look for either version.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Fields, without pseudo-headers and without `host`.
    pub headers: Headers,
    /// The method.
    pub method: Method,
    /// From `:scheme`, the absolute form, or the transport.
    pub scheme: Scheme,
    /// The version it arrived with.
    pub version: Version,
    authority: Span,
    path: Span,
    protocol: Span,
}

impl RequestHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.method = Method::Get;
        self.scheme = Scheme::Http;
        self.version = Version::Http11;
        self.authority = Span::default();
        self.path = Span::default();
        self.protocol = Span::default();
    }

    /// What the head counts for while it is kept: its header list, with the pseudo-headers as fields.
    pub fn memory(&self) -> usize {
        self.headers.list_size() + self.authority.len() + self.path.len() + self.protocol.len() + 4 * 32
    }

    /// The method's octets.
    pub fn method_bytes(&self) -> &[u8] {
        match self.method {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Connect => b"CONNECT",
            Method::Options => b"OPTIONS",
            Method::Trace => b"TRACE",
            Method::Patch => b"PATCH",
            Method::Other(span) => self.headers.bytes(span),
        }
    }

    /// Sets the method, storing it if it is not a standard one.
    pub fn set_method(&mut self, name: &[u8]) {
        self.method = match Method::from_standard(name) {
            Some(method) => method,
            None => Method::Other(self.headers.store(name)),
        };
    }

    /// Host and optional port; empty if the request named none.
    pub fn authority(&self) -> &[u8] {
        self.headers.bytes(self.authority)
    }

    /// Sets host and optional port.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.headers.store(authority);
    }

    /// Sets host and optional port to octets that stand in the arena already.
    pub(crate) fn set_authority_span(&mut self, authority: Span) {
        self.authority = authority;
    }

    /// Path and query, starting with `/`; `*` for OPTIONS; empty for CONNECT.
    pub fn path(&self) -> &[u8] {
        self.headers.bytes(self.path)
    }

    /// Sets path and query.
    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.headers.store(path);
    }

    /// Whether every recipient reads the target and the authority alike. Those that the
    /// codecs let in do; what configuration or a filter has made of them need not.
    pub fn is_well_formed(&self) -> bool {
        let (path, authority) = (self.path(), self.authority());
        match self.method {
            Method::Connect if path.is_empty() => is_authority(authority),
            method => {
                is_target(path)
                    && (path != b"*" || method == Method::Options)
                    && (authority.is_empty() || is_authority(authority))
            }
        }
    }

    /// The `:protocol` of an extended CONNECT (RFC 8441); empty otherwise.
    pub fn protocol(&self) -> &[u8] {
        self.headers.bytes(self.protocol)
    }

    /// Sets the `:protocol` of an extended CONNECT.
    pub fn set_protocol(&mut self, protocol: &[u8]) {
        self.protocol = self.headers.store(protocol);
    }
}

/// Origin form or `*`; visible ASCII without a fragment.
pub(crate) fn is_target(value: &[u8]) -> bool {
    (value.first() == Some(&b'/') || value == b"*")
        && !value.iter().fold(false, |bad, &octet| bad | !octet.is_ascii_graphic() | (octet == b'#'))
}

/// A response without its body.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Fields, without `:status`.
    pub headers: Headers,
    /// Status code, 100 to 999.
    pub status: u16,
    /// The version it arrived with.
    pub version: Version,
}

impl ResponseHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.status = 0;
        self.version = Version::Http11;
    }

    /// 1xx, other than 101 which ends the HTTP exchange.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_recipients_could_read_differently_is_not_well_formed() {
        let head = |method: &str, path: &str, authority: &str| {
            let mut head = RequestHead::default();
            head.set_method(method.as_bytes());
            head.set_path(path.as_bytes());
            head.set_authority(authority.as_bytes());
            head.is_well_formed()
        };
        for (method, path, authority) in
            [("GET", "/a?b", "a:80"), ("GET", "/", ""), ("OPTIONS", "*", "a"), ("CONNECT", "", "a:80")]
        {
            assert!(head(method, path, authority), "{method} {path} {authority}");
        }
        for (method, path, authority) in [
            ("GET", "", "a"),
            ("GET", "a", "a"),
            ("GET", "*", "a"),
            ("GET", "/a HTTP/1.1", "a"),
            ("GET", "/\u{e9}", "a"),
            ("GET", "/#a", "a"),
            ("GET", "/", "a b"),
            ("GET", "/", "user@a"),
            ("CONNECT", "", ""),
        ] {
            assert!(!head(method, path, authority), "{method} {path} {authority}");
        }
    }
}
