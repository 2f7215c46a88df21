//! Where a request goes instead: rewritten paths and redirects.

use std::borrow::Cow;

use pymesh_http::{RequestHead, Scheme};
use pymesh_model::route::{PathMatch, PathRewrite, Redirect, RedirectPath, RouteMatch};
use regex::bytes::Regex;

use super::matcher::path_of;
use super::path::split_port;

/// The target after `prefix_rewrite` or `regex_rewrite`.
pub(crate) fn path(rewrite: &PathRewrite, rule: &RouteMatch, target: &[u8]) -> Vec<u8> {
    let path = path_of(target);
    let query = target.get(path.len()..).unwrap_or_default();
    let new = match rewrite {
        PathRewrite::Prefix(prefix) => replace_matched(rule, path, prefix.as_bytes()),
        PathRewrite::Regex(regex, substitution) => substitute(regex, path, substitution),
    };
    [&new, query].concat()
}

/// What the route matched is replaced, the rest of the path stays.
fn replace_matched(rule: &RouteMatch, path: &[u8], with: &[u8]) -> Vec<u8> {
    let matched = match &rule.path {
        PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => prefix.len(),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => path.len(),
    };
    [with, path.get(matched..).unwrap_or_default()].concat()
}

/// RE2 replacement: `\0` to `\9` are groups, `\\` is a backslash.
pub(super) fn substitute(regex: &Regex, path: &[u8], substitution: &str) -> Vec<u8> {
    regex
        .replace_all(path, |captures: &regex::bytes::Captures<'_>| {
            let mut out = Vec::new();
            let mut bytes = substitution.bytes();
            while let Some(byte) = bytes.next() {
                match (byte, byte == b'\\') {
                    (_, false) => out.push(byte),
                    (_, true) => match bytes.next() {
                        Some(digit @ b'0'..=b'9') => {
                            let group = captures.get(usize::from(digit - b'0'));
                            out.extend_from_slice(group.map_or(&b""[..], |group| group.as_bytes()));
                        }
                        Some(other) => out.push(other),
                        None => {}
                    },
                }
            }
            out
        })
        .into_owned()
}

/// The `location` of a redirect, built as Envoy does: the old scheme's own port goes
/// when the scheme changes, a port that the route names is always written, and a path
/// that brings its own query keeps it.
pub(crate) fn location(redirect: &Redirect, rule: &RouteMatch, request: &RequestHead) -> Vec<u8> {
    let old_scheme = request.scheme.as_str();
    let scheme = redirect.scheme.as_deref().unwrap_or(old_scheme);
    let authority = request.authority();
    let (name, port) = match split_port(authority) {
        Some((at, port)) => (authority.get(..at).unwrap_or_default(), Some(port)),
        None => (authority, None),
    };
    let mut host = redirect.host.as_ref().map_or(name, |host| host.as_bytes()).to_vec();
    let keeps_default =
        |port: u16| !matches!((old_scheme, scheme, port), ("http", "https", 80) | ("https", "http", 443));
    let port = match (redirect.port, &redirect.host) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => port.filter(|port| keeps_default(*port)),
    };
    if let Some(port) = port {
        host.extend(format!(":{port}").bytes());
    }
    let target = request.path();
    let path = path_of(target);
    let query = target.get(path.len()..).unwrap_or_default();
    let (new_path, brings_query) = match &redirect.path {
        Some(RedirectPath::Full(full)) if !full.is_empty() => (Cow::Borrowed(full.as_bytes()), full.contains('?')),
        Some(RedirectPath::Prefix(prefix)) if !prefix.is_empty() => {
            (Cow::Owned(replace_matched(rule, path, prefix.as_bytes())), false)
        }
        Some(RedirectPath::Regex(regex, substitution)) => (Cow::Owned(substitute(regex, path, substitution)), false),
        // What is empty is as good as not set.
        _ => (Cow::Borrowed(path), false),
    };
    let query = if redirect.strip_query || brings_query { &b""[..] } else { query };
    [scheme.as_bytes(), b"://", &host, &new_path, query].concat()
}

/// The same resource over https, for virtual hosts that require TLS.
pub(crate) fn https_location(request: &RequestHead) -> Vec<u8> {
    let authority = request.authority();
    let name = match split_port(authority) {
        Some((at, 80)) if request.scheme == Scheme::Http => authority.get(..at).unwrap_or(authority),
        _ => authority,
    };
    [b"https://", name, request.path()].concat()
}

#[cfg(test)]
mod tests {
    use pymesh_model::testing::rule;

    use super::*;

    fn request(authority: &str, path: &str) -> RequestHead {
        let mut request = RequestHead::default();
        request.set_authority(authority.as_bytes());
        request.set_path(path.as_bytes());
        request
    }

    #[test]
    fn rewrites() {
        let prefix = rule(PathMatch::Prefix("/old".into()));
        let to = |new: &str, target: &str| path(&PathRewrite::Prefix(new.into()), &prefix, target.as_bytes());
        assert_eq!(to("/new", "/old/x?q=/old"), b"/new/x?q=/old");
        assert_eq!(to("/old", "/old/x"), b"/old/x");
        let regex = PathRewrite::Regex(Regex::new("^/service/([^/]+)(/.*)$").unwrap(), "\\2/instance/\\1".into());
        let new = path(&regex, &prefix, b"/service/foo/v1/api?a=1");
        assert_eq!(new, b"/v1/api/instance/foo?a=1");
    }

    #[test]
    fn locations() {
        let any = rule(PathMatch::Prefix("/a".into()));
        let scheme = |scheme: &str| Redirect { scheme: Some(scheme.into()), ..Redirect::default() };
        let full = |path: &str, strip_query| Redirect {
            path: Some(RedirectPath::Full(path.into())),
            strip_query,
            ..Redirect::default()
        };
        let regex = |pattern: &str, with: &str| Redirect {
            path: Some(RedirectPath::Regex(Regex::new(pattern).unwrap(), with.into())),
            ..Redirect::default()
        };
        for (redirect, authority, target, wanted) in [
            (scheme("https"), "h:80", "/a?q", "https://h/a?q"),
            (scheme("https"), "h:8080", "/a", "https://h:8080/a"),
            (Redirect { host: Some("new".into()), ..Redirect::default() }, "h:8080", "/a", "http://new/a"),
            (Redirect { port: Some(99), ..Redirect::default() }, "h:8080", "/a", "http://h:99/a"),
            (
                Redirect { path: Some(RedirectPath::Full("/z?b".into())), ..Redirect::default() },
                "h",
                "/a?q",
                "http://h/z?b",
            ),
            (
                Redirect { path: Some(RedirectPath::Prefix("/z".into())), ..Redirect::default() },
                "h",
                "/a/b?q",
                "http://h/z/b?q",
            ),
            (Redirect { strip_query: true, ..Redirect::default() }, "h", "/a?q", "http://h/a"),
            (scheme("https"), "[::1]:443", "/a?", "https://[::1]:443/a?"),
            (Redirect { port: Some(443), ..scheme("https") }, "h:80", "/a", "https://h:443/a"),
            (Redirect { port: Some(80), ..Redirect::default() }, "[::1]:8080", "/a", "http://[::1]:80/a"),
            (Redirect { host: Some("new:1".into()), ..scheme("https") }, "h:80", "/a", "https://new:1/a"),
            (full("/z", false), "h", "/a?q", "http://h/z?q"),
            (full("/z", true), "h", "/a?q", "http://h/z"),
            (full("/z?b", true), "h", "/a?q", "http://h/z?b"),
            (full("", false), "h:80", "/a?q", "http://h:80/a?q"),
            (
                Redirect { path: Some(RedirectPath::Prefix("/z?k".into())), ..Redirect::default() },
                "h",
                "/a/b?q",
                "http://h/z?k/b?q",
            ),
            (
                Redirect { path: Some(RedirectPath::Prefix("".into())), ..Redirect::default() },
                "h",
                "/a/b",
                "http://h/a/b",
            ),
            (regex("/a/([a-z]+)", "/\\1\\1"), "h", "/a/x?q", "http://h/xx?q"),
            (regex("/b/([a-z]+)", "/\\1"), "h", "/a/x", "http://h/a/x"),
        ] {
            let found = location(&redirect, &any, &request(authority, target));
            assert_eq!(String::from_utf8(found).unwrap(), wanted);
        }
        assert_eq!(https_location(&request("h:80", "/a")), b"https://h/a");
        assert_eq!(https_location(&request("h:8080", "/a")), b"https://h:8080/a");
    }
}
