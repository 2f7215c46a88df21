//! Response heads.

use super::{check_line_ends, check_unfinished, fields, syntax_error, Framing, Refusal, MAX_FIELDS};
use crate::{Known, Limits, Method, ResponseHead, Version};

/// What a response head says beside its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseInfo {
    /// Octets of the head.
    pub consumed: usize,
    /// Where the body ends.
    pub framing: Framing,
    /// The connection may carry another request.
    pub keep_alive: bool,
}

/// Reads a response head from the start of `buf` into `head`. `None`: more
/// octets are needed. A 101 is refused unless the request has asked for it
/// (`asked_upgrade`); what follows an accepted one is no longer HTTP.
///
/// # Errors
/// What is wrong. The status of the refusal is 502, for the client.
pub fn parse_response(
    buf: &[u8],
    request_method: Method,
    asked_upgrade: bool,
    limits: &Limits,
    head: &mut ResponseHead,
) -> Result<Option<ResponseInfo>, Refusal> {
    head.clear();
    parse(buf, request_method, asked_upgrade, limits, head).map_err(|refusal| Refusal { status: 502, ..refusal })
}

fn parse(
    buf: &[u8],
    request_method: Method,
    asked_upgrade: bool,
    limits: &Limits,
    head: &mut ResponseHead,
) -> Result<Option<ResponseInfo>, Refusal> {
    // `httparse` would skip empty lines before a response; nothing may stand there.
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(Refusal::bad("http1.empty_status_line"));
    }
    let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, buf, &mut storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            check_line_ends(buf)?;
            check_unfinished(buf, limits.header_list_size, limits.target_size)?;
            return Ok(None);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::bad("http1.too_many_headers")),
        Err(_) => return Err(syntax_error(buf)),
    };
    check_line_ends(buf.get(..length).unwrap_or_default())?;
    let status = parsed.code.unwrap_or_default();
    if !(100..=999).contains(&status) {
        return Err(Refusal::bad("http1.invalid_status"));
    }
    let is_http10 = parsed.version == Some(0);
    head.status = status;
    head.version = if is_http10 { Version::Http10 } else { Version::Http11 };
    let signals = fields::read(parsed.headers, head.version, limits, &mut head.headers)?;
    if status == 101 && !(asked_upgrade && signals.upgrade) {
        return Err(Refusal::bad("http1.unexpected_upgrade"));
    }
    if status != 101 {
        // An offer for this connection only, not for the client's.
        head.headers.remove_known(Known::Upgrade);
    }
    if is_http10 && signals.chunked {
        return Err(Refusal::bad("http1.transfer_encoding_with_http10"));
    }
    // RFC 9112 section 6.3: behind such an answer the tunnel begins, whatever the fields say.
    let is_tunnel = request_method == Method::Connect && (200..300).contains(&status);
    if is_tunnel {
        head.headers.remove_known(Known::ContentLength);
    }
    let has_no_body = is_tunnel || request_method == Method::Head || status < 200 || status == 204 || status == 304;
    if signals.chunked && (status < 200 || status == 204) && !is_tunnel {
        // RFC 9112 section 6.1.
        return Err(Refusal::bad("http1.transfer_encoding_without_body"));
    }
    let framing = match signals.framing() {
        _ if has_no_body => Framing::None,
        Some(Framing::Length(0)) => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    let keep_alive = match is_http10 {
        true => signals.keep_alive && !signals.close,
        false => !signals.close,
    };
    Ok(Some(ResponseInfo { consumed: length, framing, keep_alive: keep_alive && framing != Framing::UntilClose }))
}
