//! The one canonical form of the request target and host.
//!
//! Router, policy, filters, upstream and access log all see what this leaves
//! behind; nothing looks at the original target again. The steps and their
//! order are Envoy's: escaped slashes, dot segments (RFC 3986 section 5.2.4),
//! merged slashes, then the host. So are the results, but for two cases in which
//! Envoy's own output would change if it were normalised again: a path of slashes
//! only is merged into one, and `..;x` is a dot segment also where the dots or the
//! slash before them came escaped or as a backslash.

use pymesh_http::RequestHead;
use pymesh_model::http::{EscapedSlashes, PathPolicy, StripPort};

use crate::telemetry::details;

/// What became of a request target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was canonical.
    Unchanged,
    /// It was rewritten.
    Changed,
    /// The client is to come again at this path, which is the request's now.
    Redirect(Vec<u8>),
    /// It is ambiguous; the reason is a response code detail.
    Refuse(&'static str),
}

/// Makes path and host of a request canonical.
pub(crate) fn canonicalize(request: &mut RequestHead, policy: &PathPolicy, port: u16) -> Outcome {
    strip_host(request, policy, port);
    let target = request.path();
    if target == b"*" {
        return Outcome::Unchanged;
    }
    // A fragment is not part of a request target (RFC 9112 section 3.2).
    if target.contains(&b'#') || target.first() != Some(&b'/') {
        return Outcome::Refuse(details::PATH_NORMALIZATION_FAILED);
    }
    let path_end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_end);
    let has_escaped = policy.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(path);
    if has_escaped && policy.escaped_slashes == EscapedSlashes::Reject {
        return Outcome::Refuse(details::PATH_NORMALIZATION_FAILED);
    }
    let needs_dots = policy.normalize && needs_normalizing(path);
    let needs_merge = policy.merge_slashes && path.windows(2).any(|pair| pair == b"//");
    if !has_escaped && !needs_dots && !needs_merge {
        return Outcome::Unchanged;
    }
    let mut canonical = path.to_vec();
    if has_escaped {
        canonical = unescape_slashes(&canonical);
    }
    if policy.normalize {
        match normalize(&canonical) {
            Some(normal) => canonical = normal,
            None => return Outcome::Refuse(details::PATH_NORMALIZATION_FAILED),
        }
    }
    if policy.merge_slashes {
        canonical.dedup_by(|b, a| *a == b'/' && *b == b'/');
    }
    canonical.extend_from_slice(query);
    if canonical == target {
        return Outcome::Unchanged;
    }
    request.set_path(&canonical);
    match has_escaped && policy.escaped_slashes == EscapedSlashes::Redirect {
        true => Outcome::Redirect(canonical),
        false => Outcome::Changed,
    }
}

fn strip_host(request: &mut RequestHead, policy: &PathPolicy, listener_port: u16) {
    let host = request.authority();
    let mut kept = host.len();
    if policy.strip_port != StripPort::Keep {
        if let Some((at, port)) = split_port(host) {
            if policy.strip_port == StripPort::Any || port == listener_port {
                kept = at;
            }
        } else if host.ends_with(b":") {
            // RFC 3986 section 6.2.3: an empty port is none. Envoy leaves the colon.
            kept -= 1;
        }
    }
    if policy.strip_trailing_dot {
        // The dot stands before the port, if there is one.
        let (name_end, tail) = match split_port(host.get(..kept).unwrap_or_default()) {
            Some((at, _)) => (at, host.get(at..kept).unwrap_or_default().to_vec()),
            None => (kept, Vec::new()),
        };
        let name = host.get(..name_end).and_then(|name| name.strip_suffix(b"."));
        // The dot alone is a name: the root of the DNS.
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let stripped = [name, &tail].concat();
            return request.set_authority(&stripped);
        }
    }
    if kept != host.len() {
        let stripped = host.get(..kept).unwrap_or_default().to_vec();
        request.set_authority(&stripped);
    }
}

/// Where the `:port` of an authority starts, and the port.
pub(crate) fn split_port(host: &[u8]) -> Option<(usize, u16)> {
    let colon = host.iter().rposition(|b| *b == b':')?;
    // An IPv6 literal has colons of its own, inside its brackets.
    if host.iter().rposition(|b| *b == b']').is_some_and(|bracket| bracket > colon) {
        return None;
    }
    let digits = std::str::from_utf8(host.get(colon + 1..)?).ok()?;
    let port = if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok()? } else { return None };
    Some((colon, port))
}

fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3).any(|w| matches!(w, [b'%', b'2', b'f' | b'F'] | [b'%', b'5', b'c' | b'C']))
}

fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        match rest {
            [b'%', b'2', b'f' | b'F', tail @ ..] => {
                out.push(b'/');
                rest = tail;
            }
            [b'%', b'5', b'c' | b'C', tail @ ..] => {
                out.push(b'\\');
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn needs_normalizing(path: &[u8]) -> bool {
    path.windows(2).any(|pair| pair == b"/.")
        || path.iter().any(|octet| matches!(octet, b'\\' | b'%') || is_encoded(*octet))
}

/// Octets that stand in a path only percent-encoded (RFC 3986 section 3.3).
fn is_encoded(octet: u8) -> bool {
    matches!(octet, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// The canonical form of a path; `None` if it holds a NUL.
///
/// Its canonical form is its own canonical form: whoever decodes and resolves
/// behind us finds nothing left to do.
fn normalize(path: &[u8]) -> Option<Vec<u8>> {
    Some(remove_dot_segments(&recode(path)?))
}

/// Backslashes become slashes, what is encoded needlessly is decoded and the other way
/// round (RFC 3986 section 6.2.2.2); other escapes stay as they are, also their case.
/// As browsers do, a `%` that starts no escape is let through, but never so that it
/// starts one with what was decoded behind it: `/%%32e` is `/%252e`.
fn recode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut loose_percent = None;
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\\' => out.push(b'/'),
            b'%' => match escape(tail) {
                Some(0) => return None,
                Some(octet) => {
                    if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                        out.push(octet);
                    } else {
                        out.push(b'%');
                        out.extend_from_slice(tail.get(..2).unwrap_or_default());
                    }
                    rest = tail.get(2..).unwrap_or_default();
                }
                None => {
                    loose_percent = Some(out.len());
                    out.push(b'%');
                    continue;
                }
            },
            octet if is_encoded(*octet) => out.extend_from_slice(format!("%{octet:02X}").as_bytes()),
            octet => out.push(*octet),
        }
        if let Some(at) = loose_percent {
            let behind = out.get(at + 1..).unwrap_or_default();
            if behind.len() >= 2 {
                if escape(behind).is_some() {
                    out.splice(at + 1..at + 1, *b"25");
                }
                loose_percent = None;
            }
        }
    }
    Some(out)
}

/// The octet that two hexadecimal digits stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    match digits {
        [high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

/// RFC 3986 section 5.2.4. A dot segment with parameters (`..;x`) is one, because
/// servers drop the parameters before they resolve it.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.get(1..).unwrap_or_default().split(|octet| *octet == b'/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(|octet| *octet == b';').next().unwrap_or_default();
        if !matches!(name, b"." | b"..") {
            out.push(b'/');
            out.extend_from_slice(segment);
            continue;
        }
        if name == b".." {
            let parent = out.iter().rposition(|octet| *octet == b'/').unwrap_or(0);
            out.truncate(parent);
        }
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: &str, policy: PathPolicy) -> (Outcome, String) {
        let mut request = RequestHead::default();
        request.set_path(path.as_bytes());
        let outcome = canonicalize(&mut request, &policy, 80);
        (outcome, String::from_utf8(request.path().to_vec()).unwrap())
    }

    fn full() -> PathPolicy {
        PathPolicy { normalize: true, merge_slashes: true, ..Default::default() }
    }

    #[test]
    fn normalization_table() {
        for (from, to) in [
            ("/", "/"),
            ("/a/b?x=/../y", "/a/b?x=/../y"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%61/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2Fb%5c%25", "/a%2Fb%5c%25"),
            ("/%7E%7e%2d%41%5f", "/~~-A_"),
            ("/a\\..\\b", "/b"),
            ("//a///b", "/a/b"),
            ("/a//../b", "/a/b"),
            ("/a//", "/a/"),
            ("//", "/"),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("/a/./", "/a/"),
            ("/a/%2e%2E/", "/"),
            ("/...", "/..."),
            ("/..a", "/..a"),
            ("/a/..;/b", "/b"),
            ("/a/..;x;y/b", "/b"),
            ("/a/.;x/b", "/a/b"),
            ("/a/..;?x", "/?x"),
            ("/a/;../b", "/a/;../b"),
            ("/a;x/../b", "/b"),
            ("/a/..%3bx/b", "/a/..%3bx/b"),
            ("/x\"<>^`{|}y", "/x%22%3C%3E%5E%60%7B%7C%7Dy"),
            ("/%zz", "/%zz"),
            ("/%", "/%"),
            ("/%%", "/%%"),
            ("/100%/2e", "/100%/2e"),
            ("/%%2e", "/%."),
            ("/%2%65", "/%252e"),
            ("/%%32e%%32e/b", "/%252e%252e/b"),
            ("/%252e%252e/", "/%252e%252e/"),
        ] {
            assert_eq!(run(from, full()).1, to, "{from}");
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for path in ["/a#b", "a", "", "/%00", "/xyz/AAAAA%%0000/abc"] {
            assert!(matches!(run(path, full()).0, Outcome::Refuse(_)), "{path}");
        }
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        let mut rng = crate::base::rng::Rng::new(11);
        let alphabet = [b'/', b'.', b'a', b'%', b'2', b'3', b'e', b'\\', b';', b'F', b'5', b'c', b'<'];
        for _ in 0..200_000 {
            let mut path = b"/".to_vec();
            for _ in 0..rng.below(12) {
                path.push(alphabet[rng.below(alphabet.len() as u64) as usize]);
            }
            let mut request = RequestHead::default();
            request.set_path(&path);
            let policy = PathPolicy { escaped_slashes: EscapedSlashes::Unescape, ..full() };
            if let Outcome::Refuse(_) = canonicalize(&mut request, &policy, 80) {
                continue;
            }
            let once = request.path().to_vec();
            let again = canonicalize(&mut request, &policy, 80);
            assert_eq!(
                again,
                Outcome::Unchanged,
                "{:?} -> {:?}",
                String::from_utf8_lossy(&path),
                String::from_utf8_lossy(&once)
            );
        }
    }

    #[test]
    fn escaped_slashes() {
        let with = |escaped_slashes| PathPolicy { escaped_slashes, ..full() };
        assert!(matches!(run("/a%2Fb", with(EscapedSlashes::Reject)).0, Outcome::Refuse(_)));
        assert_eq!(run("/a%2f..%5cb?q", with(EscapedSlashes::Redirect)).0, Outcome::Redirect(b"/b?q".to_vec()));
        assert_eq!(run("/a%2Fb", with(EscapedSlashes::Unescape)).1, "/a/b");
    }

    #[test]
    fn hosts() {
        for (host, strip_port, dot, expected) in [
            ("a.example:80", StripPort::Matching, false, "a.example"),
            ("a.example:81", StripPort::Matching, false, "a.example:81"),
            ("a.example:81", StripPort::Any, false, "a.example"),
            ("[::1]:80", StripPort::Any, false, "[::1]"),
            ("[::1]", StripPort::Any, false, "[::1]"),
            ("a.example.:81", StripPort::Keep, true, "a.example:81"),
            ("a.example.", StripPort::Any, true, "a.example"),
            ("a:b", StripPort::Any, false, "a:b"),
            ("a.example:", StripPort::Any, false, "a.example"),
            ("a.example.:", StripPort::Matching, true, "a.example"),
            ("[::1]:", StripPort::Any, false, "[::1]"),
            ("a.example:", StripPort::Keep, false, "a.example:"),
            ("A:1", StripPort::Any, false, "A"),
            ("a..", StripPort::Keep, true, "a."),
            (".", StripPort::Any, true, "."),
            ("[::1]:80", StripPort::Keep, true, "[::1]:80"),
        ] {
            let mut request = RequestHead::default();
            request.set_authority(host.as_bytes());
            request.set_path(b"/");
            let policy = PathPolicy { strip_port, strip_trailing_dot: dot, ..Default::default() };
            canonicalize(&mut request, &policy, 80);
            assert_eq!(request.authority(), expected.as_bytes(), "{host}");
        }
    }
}
