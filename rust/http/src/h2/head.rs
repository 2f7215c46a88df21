//! Header blocks to checked heads (RFC 9113 section 8).

use super::reason;
use crate::authority::is_authority;
use crate::head::is_target;
use crate::hpack::{self, Decoder, Field, Pseudo, Token};
use crate::{is_token, Headers, Known, Limits, Method, RequestHead, ResponseHead, Scheme, Span, Version};

/// What came of a block that HPACK could decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The head is good; this is its `content-length`.
    Good(Option<u64>),
    /// A stream error (RFC 9113 section 8.1.1), and which rule was broken.
    Malformed(&'static str),
    /// Beyond the limits; what was stored is incomplete.
    TooLarge,
}

/// Which pseudo-headers came, as bits.
#[derive(Clone, Copy, Default)]
struct Seen(u8);

impl Seen {
    fn has(self, pseudo: Pseudo) -> bool {
        self.0 & 1 << pseudo as u8 != 0
    }

    /// False if it came before.
    fn add(&mut self, pseudo: Pseudo) -> bool {
        let first = !self.has(pseudo);
        self.0 |= 1 << pseudo as u8;
        first
    }
}

/// What all three kinds of block have in common.
struct Collector<'a> {
    limits: &'a Limits,
    cookies: &'a mut Vec<u8>,
    size: usize,
    count: usize,
    too_large: bool,
    malformed: bool,
    /// Each field is good, but they make no message.
    unfit: bool,
    /// A regular field has come: pseudo-headers may not follow.
    regular: bool,
    cookie_crumbs: usize,
    seen: Seen,
    content_length: Option<u64>,
    host: Option<Span>,
}

impl<'a> Collector<'a> {
    fn new(limits: &'a Limits, cookies: &'a mut Vec<u8>) -> Collector<'a> {
        cookies.clear();
        Collector {
            limits,
            cookies,
            size: 0,
            count: 0,
            too_large: false,
            malformed: false,
            unfit: false,
            regular: false,
            cookie_crumbs: 0,
            seen: Seen::default(),
            content_length: None,
            host: None,
        }
    }

    /// Counts a field; false if it is not to be stored.
    fn admit(&mut self, field: &Field<'_>) -> bool {
        self.size = self.size.saturating_add(field.name.len() + field.value.len() + 32);
        self.count += 1;
        self.too_large |= self.size > self.limits.header_list_size || self.count > self.limits.header_count;
        self.malformed |= field.token == Token::Malformed;
        !self.too_large && !self.malformed
    }

    /// Notes a pseudo-header; false if it may not stand here.
    fn pseudo(&mut self, pseudo: Pseudo) -> bool {
        let good = !self.regular && self.seen.add(pseudo);
        self.malformed |= !good;
        good
    }

    fn regular(&mut self, known: Option<Known>, field: &Field<'_>, headers: &mut Headers) {
        self.regular = true;
        match known {
            // RFC 9113 section 8.2.2: HTTP/1's hop-by-hop fields have no place here.
            Some(
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade,
            ) => self.malformed = true,
            // In lower case, since there are readers who do not fold it.
            Some(Known::Te) if field.value.eq_ignore_ascii_case(b"trailers") => {
                headers.append_known(Known::Te, b"trailers");
            }
            Some(Known::Te) => self.malformed = true,
            Some(Known::ContentLength) => {
                let length = parse_length(field.value);
                // A second one, even the same, is a smuggler's tool.
                self.malformed |= length.is_none() || self.content_length.is_some();
                self.content_length = length;
                headers.append_known(Known::ContentLength, field.value);
            }
            // RFC 9113 section 8.2.3: crumbs are joined before they are forwarded.
            Some(Known::Cookie) => {
                if self.cookie_crumbs > 0 {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(field.value);
                self.cookie_crumbs += 1;
            }
            _ => {
                headers.append_resolved(known, field.name, field.value);
                if field.sensitive {
                    headers.mark_last_sensitive();
                }
            }
        }
    }

    fn flush_cookies(&self, headers: &mut Headers) {
        if self.cookie_crumbs > 0 {
            headers.append_known(Known::Cookie, self.cookies);
        }
    }

    fn verdict(&self) -> Verdict {
        match (self.malformed, self.too_large, self.unfit) {
            (true, ..) => Verdict::Malformed(reason::INVALID_FIELD),
            (_, true, _) => Verdict::TooLarge,
            (_, _, true) => Verdict::Malformed(reason::MESSAGING_RULE),
            _ => Verdict::Good(self.content_length),
        }
    }
}

/// Decodes a request head.
pub(super) fn read_request(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &Limits,
    cookies: &mut Vec<u8>,
    allow_protocol: bool,
    head: &mut RequestHead,
) -> Result<Verdict, hpack::Error> {
    head.clear();
    head.version = Version::Http2;
    let mut fields = Collector::new(limits, cookies);
    decoder.decode(block, |field| {
        if !fields.admit(&field) {
            return;
        }
        match field.token {
            Token::Pseudo(pseudo) => {
                if !fields.pseudo(pseudo) {
                    return;
                }
                match pseudo {
                    Pseudo::Method if is_token(field.value) => head.set_method(field.value),
                    Pseudo::Scheme if field.value.eq_ignore_ascii_case(b"http") => head.scheme = Scheme::Http,
                    Pseudo::Scheme if field.value.eq_ignore_ascii_case(b"https") => head.scheme = Scheme::Https,
                    Pseudo::Authority if is_authority(field.value) => head.set_authority(field.value),
                    Pseudo::Path if field.value.len() > limits.target_size => fields.too_large = true,
                    Pseudo::Path if is_target(field.value) => head.set_path(field.value),
                    Pseudo::Path if !matches!(field.value, [] | [b'/', ..]) => fields.unfit = true,
                    Pseudo::Protocol if allow_protocol && is_token(field.value) => head.set_protocol(field.value),
                    _ => fields.malformed = true,
                }
            }
            Token::Known(Known::Host) => {
                fields.regular = true;
                fields.malformed |= fields.host.is_some() || !is_authority(field.value);
                fields.host = Some(head.headers.store(field.value));
            }
            Token::Known(known) => fields.regular(Some(known), &field, &mut head.headers),
            Token::Other => fields.regular(None, &field, &mut head.headers),
            Token::Malformed => {}
        }
    })?;
    if !fields.too_large {
        fields.unfit |= !has_right_pseudos(fields.seen, head);
    }
    // RFC 9113 section 8.3.1: `host` and `:authority` may not disagree.
    if let Some(host) = fields.host {
        if !fields.seen.has(Pseudo::Authority) {
            head.set_authority_span(host);
        } else if !head.headers.bytes(host).eq_ignore_ascii_case(head.authority()) {
            fields.malformed = true;
        }
    }
    if head.method == Method::Connect {
        // RFC 9110 section 9.3.6: it has no content; what follows is the tunnel's.
        fields.malformed |= fields.content_length.is_some_and(|length| length > 0);
        head.headers.remove_known(Known::ContentLength);
    }
    fields.flush_cookies(&mut head.headers);
    Ok(fields.verdict())
}

/// RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4.
fn has_right_pseudos(seen: Seen, head: &RequestHead) -> bool {
    let has = |pseudo| seen.has(pseudo);
    if !has(Pseudo::Method) || has(Pseudo::Status) {
        return false;
    }
    let extended = has(Pseudo::Protocol);
    if head.method == Method::Connect && !extended {
        return has(Pseudo::Authority) && !head.authority().is_empty() && !has(Pseudo::Scheme) && !has(Pseudo::Path);
    }
    if extended && (head.method != Method::Connect || !has(Pseudo::Authority)) {
        return false;
    }
    has(Pseudo::Scheme) && has(Pseudo::Path) && (head.path() != b"*" || head.method == Method::Options)
}

/// Decodes a response head; `status` 101 is malformed (RFC 9113 section 8.6).
pub(super) fn read_response(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &Limits,
    cookies: &mut Vec<u8>,
    head: &mut ResponseHead,
) -> Result<Verdict, hpack::Error> {
    head.clear();
    head.version = Version::Http2;
    let mut fields = Collector::new(limits, cookies);
    decoder.decode(block, |field| {
        if !fields.admit(&field) {
            return;
        }
        match field.token {
            Token::Pseudo(Pseudo::Status) => {
                if fields.pseudo(Pseudo::Status) {
                    head.status = parse_status(field.value).unwrap_or(0);
                }
            }
            Token::Known(known) => fields.regular(Some(known), &field, &mut head.headers),
            Token::Other => fields.regular(None, &field, &mut head.headers),
            Token::Pseudo(_) | Token::Malformed => fields.malformed = true,
        }
    })?;
    if !fields.too_large {
        fields.unfit |= head.status < 100 || head.status == 101;
    }
    fields.flush_cookies(&mut head.headers);
    Ok(fields.verdict())
}

/// Decodes trailers: no pseudo-header may be among them (RFC 9113 section 8.1).
pub(super) fn read_trailers(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &Limits,
    cookies: &mut Vec<u8>,
    trailers: &mut Headers,
) -> Result<Verdict, hpack::Error> {
    trailers.clear();
    let mut fields = Collector::new(limits, cookies);
    decoder.decode(block, |field| {
        if !fields.admit(&field) {
            return;
        }
        match field.token {
            Token::Pseudo(_) | Token::Malformed => fields.malformed = true,
            Token::Known(known) if known.is_too_late() => fields.malformed = true,
            Token::Known(known) => fields.regular(Some(known), &field, trailers),
            Token::Other => fields.regular(None, &field, trailers),
        }
    })?;
    fields.flush_cookies(trailers);
    Ok(fields.verdict())
}

/// Decodes a block that nobody wants, to keep the table in step.
pub(super) fn discard(decoder: &mut Decoder, block: &[u8]) -> Result<(), hpack::Error> {
    decoder.decode(block, |_| {})
}

fn parse_length(value: &[u8]) -> Option<u64> {
    // The largest u64 stands for "none given" in the stream table.
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0_u64, |length, &octet| octet.is_ascii_digit().then(|| length * 10 + u64::from(octet - b'0')))
}

fn parse_status(value: &[u8]) -> Option<u16> {
    match value {
        [h @ b'1'..=b'9', t @ b'0'..=b'9', o @ b'0'..=b'9'] => {
            Some(u16::from(h - b'0') * 100 + u16::from(t - b'0') * 10 + u16::from(o - b'0'))
        }
        _ => None,
    }
}
