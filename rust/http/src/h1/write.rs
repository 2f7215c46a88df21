//! Heads on their way out.

use super::fields::parse_length;
use super::Framing;
use crate::{Headers, Known, Method, RequestHead, ResponseHead, Version};

/// How a request is framed for an HTTP/1.1 origin. `ended`: there is no body
/// and none will come.
pub fn request_framing(head: &RequestHead, ended: bool) -> Framing {
    match content_length(&head.headers) {
        Some(length) => Framing::Length(length),
        None if ended => Framing::None,
        None => Framing::Chunked,
    }
}

/// How a response is framed for a client of this version. `ended`: the whole
/// response is known and has no body.
pub fn response_framing(head: &ResponseHead, method: Method, client: Version, ended: bool) -> Framing {
    if has_no_body(head.status, method) {
        return Framing::None;
    }
    match content_length(&head.headers) {
        Some(length) => Framing::Length(length),
        None if ended => Framing::Length(0),
        None if client == Version::Http10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// Responses without a body, whatever their fields say (RFC 9112 section 6.3).
fn has_no_body(status: u16, method: Method) -> bool {
    let is_tunnel = method == Method::Connect && (200..300).contains(&status);
    is_tunnel || method == Method::Head || status < 200 || status == 204 || status == 304
}

fn content_length(headers: &Headers) -> Option<u64> {
    parse_length(headers.get_known(Known::ContentLength)?)
}

/// Appends a request head.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead, framing: Framing) {
    out.extend_from_slice(head.method_bytes());
    out.push(b' ');
    out.extend_from_slice(if head.method == Method::Connect { head.authority() } else { head.path() });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let headers = &head.headers;
    field(out, headers, b"host", head.authority());
    fields(out, headers);
    if headers.contains_known(Known::Upgrade) {
        field(out, headers, b"connection", b"upgrade");
    }
    match framing {
        Framing::None
            if matches!(head.method, Method::Get | Method::Head | Method::Delete | Method::Connect | Method::Trace) => {
        }
        // Methods that may carry content say that there is none (RFC 9110 section 8.6).
        Framing::None => length(out, headers, 0),
        framing => body(out, headers, framing),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head, final or interim.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead, framing: Framing, client: Version, keep_alive: bool) {
    // A client of HTTP/1.0 is answered in it, as by Envoy: it may take a higher version for a promise of chunks.
    out.extend_from_slice(if client == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    let (status, headers) = (head.status, &head.headers);
    for digit in [status / 100, status / 10 % 10, status % 10] {
        out.push(b'0' + (digit % 10) as u8);
    }
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, headers);
    match framing {
        // RFC 9110 section 8.6: forbidden with 1xx and 204. With HEAD and 304 it tells
        // the length that the body would have had.
        Framing::None if status < 200 || status == 204 => {}
        Framing::None => {
            if let Some(known) = content_length(headers) {
                length(out, headers, known);
            }
        }
        framing => body(out, headers, framing),
    }
    match (keep_alive, client) {
        _ if status == 101 => field(out, headers, b"connection", b"upgrade"),
        (false, _) => field(out, headers, b"connection", b"close"),
        (true, Version::Http10) => field(out, headers, b"connection", b"keep-alive"),
        (true, _) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Every field but those that say where the message ends or concern the connection.
/// The codec alone says these, from the framing it was given, so that nothing that
/// was put among the fields (by a route or a filter) can contradict it.
fn fields(out: &mut Vec<u8>, headers: &Headers) {
    for header in headers.iter() {
        match header.known {
            Some(
                Known::Connection
                | Known::ContentLength
                | Known::Host
                | Known::Http2Settings
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding,
            ) => {}
            _ => field(out, headers, header.name, header.value),
        }
    }
}

pub(super) fn field(out: &mut Vec<u8>, headers: &Headers, name: &[u8], value: &[u8]) {
    headers.write_name(out, name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn body(out: &mut Vec<u8>, headers: &Headers, framing: Framing) {
    match framing {
        Framing::Length(octets) => length(out, headers, octets),
        Framing::Chunked => field(out, headers, b"transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose => {}
    }
}

fn length(out: &mut Vec<u8>, headers: &Headers, mut octets: u64) {
    headers.write_name(out, b"content-length");
    out.extend_from_slice(b": ");
    let start = out.len();
    loop {
        out.push(b'0' + (octets % 10) as u8);
        octets /= 10;
        if octets == 0 {
            break;
        }
    }
    out.get_mut(start..).unwrap_or_default().reverse();
    out.extend_from_slice(b"\r\n");
}

/// Reason phrases of the IANA registry; nobody may depend on them.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
