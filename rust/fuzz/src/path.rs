//! The canonical form of a request's path and host.

use http::uri::{Authority, PathAndQuery};
use pymesh_engine::testing::canonicalize;
use pymesh_http::{h1, Limits, RequestHead, Scheme};
use pymesh_model::http::{EscapedSlashes, PathPolicy, StripPort};

use crate::input::Input;
use crate::strict::show;

fn policy(input: &mut Input<'_>) -> PathPolicy {
    use EscapedSlashes::*;
    PathPolicy {
        normalize: input.flag(),
        merge_slashes: input.flag(),
        escaped_slashes: *input.pick(&[Keep, Reject, Redirect, Unescape]),
        strip_port: *input.pick(&[StripPort::Keep, StripPort::Matching, StripPort::Any]),
        strip_trailing_dot: input.flag(),
    }
}

/// A policy, a host with its length, and a target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let policy = policy(&mut input);
    let (host, target) = (input.string(), input.rest());
    let mut request = RequestHead::default();
    // Only what the codec lets through gets here.
    let octets = [b"GET ", target, b" HTTP/1.1\r\nhost: ", host, b"\r\n\r\n"].concat();
    match h1::parse_request(&octets, Scheme::Http, &Limits::default(), &mut request) {
        Ok(Some(_)) => {}
        _ => return,
    }
    let host = request.authority().to_vec();
    if !host.is_empty() {
        // The judge knows no encoding in a host name, RFC 3986 does.
        let plain: Vec<u8> = host.iter().map(|octet| if *octet == b'%' { b'-' } else { *octet }).collect();
        assert!(Authority::try_from(&plain[..]).is_ok_and(|judged| !judged.as_str().contains('@')), "{}", show(&host));
    }
    let original = request.path().to_vec();
    if !canonicalize(&mut request, &policy, 80) {
        return;
    }
    let original_host = host;
    let (path, host) = (request.path().to_vec(), request.authority().to_vec());
    assert!(canonicalize(&mut request, &policy, 80), "{} is refused now", show(&path));
    assert_eq!(request.path(), path, "{} has two canonical forms", show(&original));
    // Of several dots at the end one goes, as in Envoy.
    let has_dots = original_host.windows(2).any(|pair| pair == b"..");
    assert!(has_dots || request.authority() == host, "the host has two canonical forms: {}", show(&original_host));
    // The codec takes a few octets that a URI may not have.
    let is_uri = |target: &[u8]| PathAndQuery::try_from(target).is_ok();
    assert!(!is_uri(&original) || is_uri(&path), "{} becomes {}", show(&original), show(&path));
    let end = path.iter().position(|octet| *octet == b'?').unwrap_or(path.len());
    let start = original.iter().position(|octet| *octet == b'?').unwrap_or(original.len());
    assert_eq!(path[end..], original[start..], "the query is not the path's");
    if policy.normalize {
        for segment in path[..end].split(|octet| *octet == b'/') {
            let name = segment.split(|octet| *octet == b';').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace("%2e", ".");
            assert!(!matches!(&name[..], "." | ".."), "{} keeps a dot segment: {}", show(&original), show(&path));
        }
        assert!(!path[..end].contains(&b'\\'), "{} keeps a backslash: {}", show(&original), show(&path));
    }
    assert!(!policy.merge_slashes || !path[..end].windows(2).any(|pair| pair == b"//"), "{}", show(&path));
}
