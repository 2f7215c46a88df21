//! Messages that two implementations could read differently, and why each is refused.

use super::{request, response};
use crate::Method;

/// Bytes, status, reason.
const REQUESTS: &[(&str, u16, &str)] = &[
    ("GET http://a/ HTTP/1.1\r\n\r\n", 400, "missing_host_header"),
    ("CONNECT a:1 HTTP/1.1\r\n\r\n", 400, "missing_host_header"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "http1.several_hosts"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "http.invalid_authority"),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, "http.invalid_authority"),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.host_mismatch"),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_scheme"),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\nHost: a\n\n", 400, "http1.bare_line_feed"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "http1.bare_line_feed"),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", 400, "http1.invalid_characters"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "http1.invalid_characters"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http1.unsupported_version"),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "http1.unsupported_version"),
    ("GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET /\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http1.http2_preface"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        400,
        "http1.several_content_lengths",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "http1.invalid_content_length"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "http1.content_length_and_chunked_not_allowed",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", 400, "http1.invalid_characters"),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "http1.transfer_encoding_with_http10"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400, "http1.connection_header_rejected"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n",
        400,
        "http1.connection_header_rejected",
    ),
    ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.empty_request_line"),
    ("GET http://b/ HTTP/1.1\r\nHost:\r\n\r\n", 400, "http1.host_mismatch"),
    ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.invalid_url"),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "http.invalid_authority"),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, "http.invalid_authority"),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "http.invalid_authority"),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "http.invalid_authority"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:2\r\n\r\n", 400, "http1.host_mismatch"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\n", 400, "http1.body_disallowed"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.empty_request_line"),
    ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.empty_request_line"),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\rHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", 400, "http1.invalid_characters"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: 1\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", 400, "http1.codec_error"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n", 400, "http1.invalid_characters"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
        "http1.several_content_lengths",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", 400, "http1.invalid_content_length"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", 400, "http1.invalid_content_length"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        400,
        "http1.content_length_and_chunked_not_allowed",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        501,
        "http1.invalid_transfer_encoding",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{a0}chunked\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400, "http1.codec_error"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 400, "http1.codec_error"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "http1.connection_header_rejected",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: authorization\r\n\r\n", 400, "http1.connection_header_rejected"),
];

/// Bytes, reason; the client is told 502.
const RESPONSES: &[(&str, &str)] = &[
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "http1.content_length_and_chunked_not_allowed",
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "http1.several_content_lengths"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "http1.invalid_content_length"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "http1.invalid_transfer_encoding"),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "http1.transfer_encoding_with_http10"),
    ("HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", "http1.transfer_encoding_without_body"),
    ("HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n", "http1.transfer_encoding_without_body"),
    ("HTTP/1.1 101 X\r\n\r\n", "http1.unexpected_upgrade"),
    ("HTTP/1.1 099 X\r\n\r\n", "http1.invalid_status"),
    ("HTTP/1.1 20 X\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 2000 X\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 +20 X\r\n\r\n", "http1.codec_error"),
    ("HTTP/2.0 200 OK\r\n\r\n", "http1.codec_error"),
    ("ICY 200 OK\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", "http1.bare_line_feed"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", "http1.bare_line_feed"),
    ("HTTP/1.1 200 O\rK\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 200 OK\r\n: 1\r\n\r\n", "http1.codec_error"),
    ("HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "http1.invalid_characters"),
    ("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "http1.codec_error"),
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", "http1.empty_status_line"),
    ("\nHTTP/1.1 200 OK\r\n\r\n", "http1.empty_status_line"),
    ("garbage\r\n\r\n", "http1.codec_error"),
];

#[test]
fn ambiguous_requests_are_refused() {
    for (bytes, status, reason) in REQUESTS {
        match request(bytes.as_bytes()).0 {
            Err(refusal) => assert_eq!((refusal.status, refusal.reason), (*status, *reason), "{bytes:?}"),
            other => panic!("{bytes:?} gave {other:?}"),
        }
    }
}

/// However the octets arrive, none of these is ever taken for a message.
#[test]
fn pieces_do_not_make_them_clear() {
    for (bytes, ..) in REQUESTS {
        for end in 0..bytes.len() {
            let piece = bytes.as_bytes().get(..end).unwrap();
            assert!(!matches!(request(piece).0, Ok(Some(_))), "{:?}", String::from_utf8_lossy(piece));
        }
    }
}

#[test]
fn ambiguous_responses_are_refused() {
    for (bytes, reason) in RESPONSES {
        match response(bytes, Method::Get) {
            Err(refusal) => assert_eq!((refusal.status, refusal.reason), (502, *reason), "{bytes:?}"),
            other => panic!("{bytes:?} gave {other:?}"),
        }
    }
}
