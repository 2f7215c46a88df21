//! The static table (RFC 7541 appendix A), and what kind of field a name is.

use crate::headers::Known;
use crate::is_token_octet;

/// The pseudo-headers of RFC 9113 section 8.3 and RFC 8441.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
    /// `:protocol`
    Protocol,
}

/// What a field's name says about it, found once per table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A pseudo-header that exists.
    Pseudo(Pseudo),
    /// A name that the proxy knows.
    Known(Known),
    /// Any other valid name.
    Other,
    /// Upper case, not a token, an unknown pseudo-header, or a value with
    /// octets that no field may carry (RFC 9113 section 8.2.1).
    Malformed,
}

impl Token {
    /// Classifies and checks a field.
    pub fn of(name: &[u8], value: &[u8]) -> Token {
        let token = Token::of_name(name);
        if is_field_value(value) {
            token
        } else {
            Token::Malformed
        }
    }

    /// As [`Token::of`], where the table that gave the name may have classified it.
    pub(super) fn of_value(name_token: Option<Token>, name: &[u8], value: &[u8]) -> Token {
        match name_token {
            // A malformed entry can be so for its value; the new value counts.
            None | Some(Token::Malformed) => Token::of(name, value),
            Some(_) if !is_field_value(value) => Token::Malformed,
            Some(token) => token,
        }
    }

    fn of_name(name: &[u8]) -> Token {
        if let Some(pseudo) = name.strip_prefix(b":") {
            return match pseudo {
                b"authority" => Token::Pseudo(Pseudo::Authority),
                b"method" => Token::Pseudo(Pseudo::Method),
                b"path" => Token::Pseudo(Pseudo::Path),
                b"scheme" => Token::Pseudo(Pseudo::Scheme),
                b"status" => Token::Pseudo(Pseudo::Status),
                b"protocol" => Token::Pseudo(Pseudo::Protocol),
                _ => Token::Malformed,
            };
        }
        match Known::from_name(name) {
            Some(known) => Token::Known(known),
            None if is_lower_token(name) => Token::Other,
            None => Token::Malformed,
        }
    }
}

fn is_lower_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&octet| is_token_octet(octet) && !octet.is_ascii_uppercase())
}

/// No control characters but inner tabs, no white space at either end.
fn is_field_value(value: &[u8]) -> bool {
    let is_blank = |octet: Option<&u8>| matches!(octet, Some(b' ' | b'\t'));
    // A fold without early exit: the compiler vectorises it.
    let bad = value.iter().fold(false, |bad, &octet| bad | ((octet < 0x20) & (octet != b'\t')) | (octet == 0x7f));
    !bad && !is_blank(value.first()) && !is_blank(value.last())
}

/// Entries 1 to 61.
pub(super) static STATIC_TABLE: [(Token, &[u8], &[u8]); 61] = [
    (Token::Pseudo(Pseudo::Authority), b":authority", b""),
    (Token::Pseudo(Pseudo::Method), b":method", b"GET"),
    (Token::Pseudo(Pseudo::Method), b":method", b"POST"),
    (Token::Pseudo(Pseudo::Path), b":path", b"/"),
    (Token::Pseudo(Pseudo::Path), b":path", b"/index.html"),
    (Token::Pseudo(Pseudo::Scheme), b":scheme", b"http"),
    (Token::Pseudo(Pseudo::Scheme), b":scheme", b"https"),
    (Token::Pseudo(Pseudo::Status), b":status", b"200"),
    (Token::Pseudo(Pseudo::Status), b":status", b"204"),
    (Token::Pseudo(Pseudo::Status), b":status", b"206"),
    (Token::Pseudo(Pseudo::Status), b":status", b"304"),
    (Token::Pseudo(Pseudo::Status), b":status", b"400"),
    (Token::Pseudo(Pseudo::Status), b":status", b"404"),
    (Token::Pseudo(Pseudo::Status), b":status", b"500"),
    (Token::Other, b"accept-charset", b""),
    (Token::Known(Known::AcceptEncoding), b"accept-encoding", b"gzip, deflate"),
    (Token::Known(Known::AcceptLanguage), b"accept-language", b""),
    (Token::Other, b"accept-ranges", b""),
    (Token::Known(Known::Accept), b"accept", b""),
    (Token::Other, b"access-control-allow-origin", b""),
    (Token::Known(Known::Age), b"age", b""),
    (Token::Other, b"allow", b""),
    (Token::Known(Known::Authorization), b"authorization", b""),
    (Token::Known(Known::CacheControl), b"cache-control", b""),
    (Token::Other, b"content-disposition", b""),
    (Token::Known(Known::ContentEncoding), b"content-encoding", b""),
    (Token::Other, b"content-language", b""),
    (Token::Known(Known::ContentLength), b"content-length", b""),
    (Token::Other, b"content-location", b""),
    (Token::Other, b"content-range", b""),
    (Token::Known(Known::ContentType), b"content-type", b""),
    (Token::Known(Known::Cookie), b"cookie", b""),
    (Token::Known(Known::Date), b"date", b""),
    (Token::Known(Known::Etag), b"etag", b""),
    (Token::Known(Known::Expect), b"expect", b""),
    (Token::Other, b"expires", b""),
    (Token::Other, b"from", b""),
    (Token::Known(Known::Host), b"host", b""),
    (Token::Other, b"if-match", b""),
    (Token::Known(Known::IfModifiedSince), b"if-modified-since", b""),
    (Token::Known(Known::IfNoneMatch), b"if-none-match", b""),
    (Token::Other, b"if-range", b""),
    (Token::Other, b"if-unmodified-since", b""),
    (Token::Known(Known::LastModified), b"last-modified", b""),
    (Token::Other, b"link", b""),
    (Token::Known(Known::Location), b"location", b""),
    (Token::Other, b"max-forwards", b""),
    (Token::Known(Known::ProxyAuthenticate), b"proxy-authenticate", b""),
    (Token::Known(Known::ProxyAuthorization), b"proxy-authorization", b""),
    (Token::Known(Known::Range), b"range", b""),
    (Token::Known(Known::Referer), b"referer", b""),
    (Token::Other, b"refresh", b""),
    (Token::Other, b"retry-after", b""),
    (Token::Known(Known::Server), b"server", b""),
    (Token::Known(Known::SetCookie), b"set-cookie", b""),
    (Token::Other, b"strict-transport-security", b""),
    (Token::Known(Known::TransferEncoding), b"transfer-encoding", b""),
    (Token::Known(Known::UserAgent), b"user-agent", b""),
    (Token::Known(Known::Vary), b"vary", b""),
    (Token::Known(Known::Via), b"via", b""),
    (Token::Known(Known::WwwAuthenticate), b"www-authenticate", b""),
];

/// The entry whose name is this known name.
pub(super) const fn name_index(known: Known) -> Option<usize> {
    Some(match known {
        Known::AcceptEncoding => 16,
        Known::AcceptLanguage => 17,
        Known::Accept => 19,
        Known::Age => 21,
        Known::Authorization => 23,
        Known::CacheControl => 24,
        Known::ContentEncoding => 26,
        Known::ContentLength => 28,
        Known::ContentType => 31,
        Known::Cookie => 32,
        Known::Date => 33,
        Known::Etag => 34,
        Known::Expect => 35,
        Known::Host => 38,
        Known::IfModifiedSince => 40,
        Known::IfNoneMatch => 41,
        Known::LastModified => 44,
        Known::Location => 46,
        Known::ProxyAuthenticate => 48,
        Known::ProxyAuthorization => 49,
        Known::Range => 50,
        Known::Referer => 51,
        Known::Server => 54,
        Known::SetCookie => 55,
        Known::TransferEncoding => 57,
        Known::UserAgent => 58,
        Known::Vary => 59,
        Known::Via => 60,
        Known::WwwAuthenticate => 61,
        _ => return None,
    })
}
