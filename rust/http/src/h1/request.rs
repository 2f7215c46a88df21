//! Request heads.

use super::{check_line_ends, check_unfinished, fields, syntax_error, Framing, Refusal, MAX_FIELDS};
use crate::authority::is_authority;
use crate::{is_token, Headers, Known, Limits, Method, RequestHead, Scheme, Span, Version};

/// What a request head says beside its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// Octets of the head, empty lines before it included.
    pub consumed: usize,
    /// Where the body ends.
    pub framing: Framing,
    /// The client will send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before its body.
    pub expect_continue: bool,
    /// The client asks for another protocol; `upgrade` is still among the fields.
    pub upgrade: bool,
}

/// Reads a request head from the start of `buf` into `head`. `None`: more
/// octets are needed.
///
/// `scheme` is the transport's, and becomes the request's: what a client writes
/// into an absolute target does not make its connection a secure one.
///
/// # Errors
/// What is wrong, and the status that says so. Limits apply to unfinished heads too.
pub fn parse_request(
    buf: &[u8],
    scheme: Scheme,
    limits: &Limits,
    head: &mut RequestHead,
) -> Result<Option<RequestInfo>, Refusal> {
    head.clear();
    if buf.starts_with(b"PRI * HTTP/2.0\r\n") {
        return Err(Refusal { status: 505, reason: "http1.http2_preface" });
    }
    // One empty line before a request is tolerated (RFC 9112 section 2.2).
    let skipped = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    let rest = buf.get(skipped..).unwrap_or_default();
    if rest.first().is_some_and(|b| matches!(b, b'\r' | b'\n')) && rest.len() > 1 {
        return Err(Refusal::bad("http1.empty_request_line"));
    }
    let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(rest, &mut storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            check_line_ends(rest)?;
            check_unfinished(rest, limits.header_list_size, limits.target_size)?;
            return Ok(None);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal { status: 431, reason: "http1.too_many_headers" }),
        Err(httparse::Error::Version) => return Err(version_refusal(rest)),
        Err(_) => return Err(syntax_error(rest)),
    };
    check_line_ends(rest.get(..length).unwrap_or_default())?;
    let version = match parsed.version {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    };
    let method = parsed.method.unwrap_or_default().as_bytes();
    let target = parsed.path.unwrap_or_default().as_bytes();
    if !is_token(method) {
        return Err(Refusal::bad("http1.invalid_method"));
    }
    if target.len() > limits.target_size {
        return Err(Refusal { status: 414, reason: "http1.target_too_long" });
    }
    head.version = version;
    head.scheme = scheme;
    head.set_method(method);
    let signals = fields::read(parsed.headers, version, limits, &mut head.headers)?;
    if version == Version::Http10 && signals.expect_continue {
        // RFC 9110 section 10.1.1: to be ignored. The origin, which is asked in HTTP/1.1, would not.
        head.headers.remove_known(Known::Expect);
    }
    set_target(head, method, target, signals.host)?;
    if version == Version::Http10 && signals.chunked {
        // RFC 9112 section 6.1: such a message has been tampered with or is an attack.
        return Err(Refusal::bad("http1.transfer_encoding_with_http10"));
    }
    if head.method == Method::Connect {
        check_tunnel(&signals, &mut head.headers)?;
    }
    let keep_alive = match version {
        Version::Http10 => signals.keep_alive && !signals.close,
        _ => !signals.close,
    };
    Ok(Some(RequestInfo {
        consumed: skipped + length,
        // Without a signal a request has no body, whatever its method.
        framing: match signals.framing() {
            None | Some(Framing::Length(0)) => Framing::None,
            Some(framing) => framing,
        },
        keep_alive,
        expect_continue: signals.expect_continue && version == Version::Http11,
        upgrade: signals.upgrade && head.method != Method::Connect,
    }))
}

/// CONNECT has no content (RFC 9110 section 9.3.6): what follows it is the tunnel's, and
/// whoever reads a length or chunks there sees another message than who does not.
fn check_tunnel(signals: &fields::Signals, headers: &mut Headers) -> Result<(), Refusal> {
    match signals.framing() {
        Some(Framing::Chunked) => Err(Refusal { status: 501, reason: "http1.invalid_transfer_encoding" }),
        Some(Framing::Length(1..)) => Err(Refusal::bad("http1.body_disallowed")),
        _ => {
            headers.remove_known(Known::ContentLength);
            headers.remove_known(Known::Upgrade);
            Ok(())
        }
    }
}

fn version_refusal(buf: &[u8]) -> Refusal {
    let line = buf.split(|b| *b == b'\n').next().unwrap_or_default();
    // Behind the target; a space in the target is another fault.
    let version = line.split(|b| *b == b' ').nth(2).unwrap_or_default();
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] => Refusal { status: 505, reason: "http1.unsupported_version" },
        _ => syntax_error(buf),
    }
}

/// The four forms of a request target (RFC 9112 section 3.2).
fn set_target(head: &mut RequestHead, method: &[u8], target: &[u8], host: Option<Span>) -> Result<(), Refusal> {
    let invalid = Refusal::bad("http1.invalid_url");
    // Whoever judges the request says what it lacks; where the target has an authority, nobody would miss it.
    let lacks_host = host.is_none() && head.version == Version::Http11;
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(invalid);
    }
    if method == b"CONNECT" {
        if !is_authority(target) || !target.contains(&b':') {
            return Err(invalid);
        }
        if lacks_host {
            return Err(Refusal::bad("missing_host_header"));
        }
        check_same_host(head, host, target)?;
        head.set_authority(target);
        return Ok(());
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        let host = host.unwrap_or_default();
        // An empty Host says that there is no authority (RFC 9110 section 7.2).
        if !host.is_empty() && !is_authority(head.headers.bytes(host)) {
            return Err(Refusal::bad("http.invalid_authority"));
        }
        head.set_authority_span(host);
        head.set_path(target);
        return Ok(());
    }
    let secure = strip_scheme(target, b"https://");
    if secure.is_some() && head.scheme == Scheme::Http {
        // Nobody behind us could tell that it came in the clear.
        return Err(Refusal { status: 403, reason: "http1.https_url_on_plaintext_connection" });
    }
    let known = secure.or_else(|| strip_scheme(target, b"http://"));
    let rest = known.or_else(|| strip_any_scheme(target)).ok_or(invalid)?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(invalid);
    }
    if known.is_none() {
        return Err(Refusal::bad("http1.invalid_scheme"));
    }
    if lacks_host {
        return Err(Refusal::bad("missing_host_header"));
    }
    check_same_host(head, host, authority)?;
    head.set_authority(authority);
    match path.first() {
        Some(b'/') => head.set_path(path),
        // RFC 9112 section 3.2.4: what asks about the server as a whole.
        None if method == b"OPTIONS" => head.set_path(b"*"),
        None => head.set_path(b"/"),
        Some(_) => head.set_path(&[b"/", path].concat()),
    }
    Ok(())
}

/// The target wins over Host (RFC 9112 section 3.2.2), but two that differ are a trap.
fn check_same_host(head: &RequestHead, host: Option<Span>, authority: &[u8]) -> Result<(), Refusal> {
    match host {
        Some(host) if !head.headers.bytes(host).eq_ignore_ascii_case(authority) => {
            Err(Refusal::bad("http1.host_mismatch"))
        }
        _ => Ok(()),
    }
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn strip_any_scheme(target: &[u8]) -> Option<&[u8]> {
    let end = target.windows(3).position(|octets| octets == b"://")?;
    target.get(end + 3..)
}
