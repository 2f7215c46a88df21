//! A request that is sent again and again: made once, in both versions' forms.

use std::sync::Arc;

use pymesh_http::h1::{write_request, Framing};
use pymesh_http::{has_control_octets, is_token, Known, Method, RequestHead, Scheme};

use crate::plan::Protocol;

/// A request as it is sent each time.
#[derive(Clone)]
pub struct Request {
    pub(crate) head: RequestHead,
    pub(crate) body: Arc<[u8]>,
    /// Head and body in HTTP/1.1.
    pub(crate) octets: Arc<[u8]>,
}

impl Request {
    /// Names of `fields` are in lower case.
    ///
    /// # Errors
    /// What cannot be sent, or would say two things about where the request ends.
    pub fn new(
        protocol: Protocol,
        scheme: Scheme,
        method: &str,
        authority: &str,
        path: &str,
        fields: &[(String, String)],
        body: &[u8],
    ) -> Result<Request, String> {
        let mut head = RequestHead::default();
        head.scheme = scheme;
        head.set_method(method.as_bytes());
        head.set_authority(authority.as_bytes());
        head.set_path(path.as_bytes());
        if head.method == Method::Connect {
            return Err(
                "a tunnel is no request that could be answered again and again: CONNECT is not supported".into()
            );
        }
        if !is_token(method.as_bytes()) {
            return Err(format!("`{method}` is not a method"));
        }
        if !head.is_well_formed() {
            return Err(format!("`{path}` at `{authority}` is not a target that every server reads alike"));
        }
        for (name, value) in fields {
            let known = Known::from_name(name.as_bytes());
            if !is_token(name.as_bytes()) || name.bytes().any(|octet| octet.is_ascii_uppercase()) {
                return Err(format!("`{name}` is not the name of a header field"));
            }
            if has_control_octets(value.as_bytes()) {
                return Err(format!("the value of `{name}` has control characters"));
            }
            if let Some(instead) = known.and_then(says_framing) {
                return Err(format!("`{name}` is not for a header field to say; {instead}"));
            }
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        // HTTP/1.1 says the length by itself; HTTP/2 needs no length, but servers behind a gateway like to know it.
        let needs_length = !body.is_empty() || matches!(head.method, Method::Post | Method::Put | Method::Patch);
        if needs_length {
            head.headers.append_known(Known::ContentLength, body.len().to_string().as_bytes());
        }
        let mut octets = Vec::new();
        let framing = if body.is_empty() { Framing::None } else { Framing::Length(body.len() as u64) };
        write_request(&mut octets, &head, framing);
        if protocol == (Protocol::Http1 { keep_alive: false }) {
            // The codec leaves that to whoever owns the connection.
            octets.truncate(octets.len().saturating_sub(2));
            octets.extend_from_slice(b"connection: close\r\n\r\n");
        }
        octets.extend_from_slice(body);
        Ok(Request { head, body: body.into(), octets: octets.into() })
    }
}

/// What says where a message ends, or concerns the connection: what to write in place of it.
fn says_framing(known: Known) -> Option<&'static str> {
    Some(match known {
        Known::ContentLength | Known::TransferEncoding => "hint: the length is that of --body",
        Known::Connection | Known::KeepAlive | Known::ProxyConnection => "hint: --no-keepalive closes connections",
        Known::Upgrade | Known::Http2Settings => "hint: --http 2 speaks HTTP/2",
        Known::Host => "hint: a `Host` is the authority of the URL",
        Known::Trailer => "hint: trailers are not sent",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Protocol = Protocol::Http1 { keep_alive: true };

    fn octets(protocol: Protocol, method: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<String, String> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request::new(protocol, Scheme::Http, method, "a:1", "/x?y", &fields, body)?;
        Ok(String::from_utf8(request.octets.to_vec()).unwrap())
    }

    #[test]
    fn is_written_once_and_whole() {
        assert_eq!(
            octets(KEPT, "GET", &[("x-a", "1"), ("x-a", "2")], b"").unwrap(),
            "GET /x?y HTTP/1.1\r\nhost: a:1\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
        );
        assert_eq!(
            octets(KEPT, "POST", &[], b"body").unwrap(),
            "POST /x?y HTTP/1.1\r\nhost: a:1\r\ncontent-length: 4\r\n\r\nbody"
        );
        assert_eq!(
            octets(KEPT, "POST", &[], b"").unwrap(),
            "POST /x?y HTTP/1.1\r\nhost: a:1\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(
            octets(Protocol::Http1 { keep_alive: false }, "PUT", &[], b"b").unwrap(),
            "PUT /x?y HTTP/1.1\r\nhost: a:1\r\ncontent-length: 1\r\nconnection: close\r\n\r\nb"
        );
    }

    #[test]
    fn what_would_say_two_things_is_refused() {
        for (method, name, value, message) in [
            (
                "CONNECT",
                "x",
                "",
                "a tunnel is no request that could be answered again and again: CONNECT is not supported",
            ),
            ("G T", "x", "", "`G T` is not a method"),
            ("GET", "a b", "", "`a b` is not the name of a header field"),
            ("GET", "x", "a\r\nb: c", "the value of `x` has control characters"),
            (
                "GET",
                "content-length",
                "3",
                "`content-length` is not for a header field to say; hint: the length is that of --body",
            ),
            (
                "GET",
                "connection",
                "close",
                "`connection` is not for a header field to say; hint: --no-keepalive closes connections",
            ),
        ] {
            assert_eq!(octets(KEPT, method, &[(name, value)], b"").unwrap_err(), message);
        }
    }
}
