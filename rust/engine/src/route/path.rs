//! The one canonical form of the request target and host.
//!
//! Router, policy, filters, upstream and access log all see what this leaves
//! behind; nothing looks at the original target again. The steps and their
//! order are Envoy's: escaped slashes, dot segments (RFC 3986 section 5.2.4),
//! merged slashes, then the host.

use pymesh_http::RequestHead;
use pymesh_model::http::{EscapedSlashes, PathPolicy, StripPort};

use crate::telemetry::details;

/// What became of a request target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was canonical.
    Unchanged,
    /// It was rewritten; the original path is kept for the access log.
    Changed { original: Option<Vec<u8>> },
    /// The client is to come again at this path.
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
    if has_escaped && policy.escaped_slashes == EscapedSlashes::Redirect {
        return Outcome::Redirect(canonical);
    }
    let original = Some(target.to_vec());
    request.set_path(&canonical);
    Outcome::Changed { original }
}

fn strip_host(request: &mut RequestHead, policy: &PathPolicy, listener_port: u16) {
    let host = request.authority();
    let mut kept = host.len();
    if policy.strip_port != StripPort::Keep {
        if let Some((at, port)) = split_port(host) {
            if policy.strip_port == StripPort::Any || port == listener_port {
                kept = at;
            }
        }
    }
    if policy.strip_trailing_dot {
        // The dot stands before the port, if there is one.
        let (name_end, tail) = match split_port(host.get(..kept).unwrap_or_default()) {
            Some((at, _)) => (at, host.get(at..kept).unwrap_or_default().to_vec()),
            None => (kept, Vec::new()),
        };
        if let Some(name) = host.get(..name_end).and_then(|name| name.strip_suffix(b".")) {
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
    path.contains(&b'\\')
        || path.contains(&b'%')
        || path.windows(2).any(|pair| pair == b"/.")
}

/// Backslashes become slashes, percent-encoded unreserved characters are
/// decoded (RFC 3986 section 6.2.2.2), dot segments are removed. `None` for
/// what has no canonical form: a path above the root, or a broken escape.
fn normalize(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\\' => decoded.push(b'/'),
            b'%' => {
                let (high, low) = (hex(*tail.first()?)?, hex(*tail.get(1)?)?);
                let byte = high << 4 | low;
                if byte == 0 {
                    return None;
                }
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    decoded.push(byte);
                } else {
                    decoded.push(b'%');
                    decoded.extend(tail.get(..2).unwrap_or_default().to_ascii_uppercase());
                }
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => decoded.push(*first),
        }
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    let body = decoded.get(1..).unwrap_or_default();
    let mut parts = body.split(|b| *b == b'/').peekable();
    while let Some(segment) = parts.next() {
        let is_last = parts.peek().is_none();
        match segment {
            b"." if is_last => segments.push(b""),
            b"." => {}
            b".." => {
                segments.pop()?;
                if is_last {
                    segments.push(b"");
                }
            }
            _ => segments.push(segment),
        }
    }
    let mut out = Vec::with_capacity(decoded.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Some(out)
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
            ("/a%2fb", "/a%2Fb"),
            ("/a\\..\\b", "/b"),
            ("//a///b", "/a/b"),
            ("/a/..;/b", "/a/..;/b"),
            ("/...", "/..."),
        ] {
            assert_eq!(run(from, full()).1, to, "{from}");
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for path in ["/..", "/a/../../b", "/%zz", "/%", "/a#b", "a", "", "/%00"] {
            assert!(matches!(run(path, full()).0, Outcome::Refuse(_)), "{path}");
        }
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        let mut rng = crate::base::rng::Rng::new(11);
        let alphabet = [b'/', b'.', b'a', b'%', b'2', b'e', b'\\', b';', b'F', b'5', b'c'];
        for _ in 0..20_000 {
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
            assert_eq!(again, Outcome::Unchanged, "{:?} -> {:?}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&once));
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
