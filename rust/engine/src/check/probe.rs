//! What a health check asks, and what it makes of the answer.

use std::borrow::Cow;
use std::ops::Range;

use pymesh_http::{RequestHead, Scheme};
use pymesh_model::health_check::{HealthCheck, HttpProbe, Probe};
use pymesh_model::route::HeaderEdit;

use super::grpc;
use crate::exchange::{add_field, Answer, Unanswered};
use crate::health::Verdict;
use crate::route;
use crate::telemetry::details;

/// Applications know health checks by Envoy's name.
const USER_AGENT: &[u8] = b"Envoy/HC";
const IMMEDIATE_FAIL: &[u8] = b"x-envoy-immediate-health-check-fail";
const DEGRADED: &[u8] = b"x-envoy-degraded";

/// The head of the question; a TCP check has none.
pub(super) fn write_head(head: &mut RequestHead, check: &HealthCheck, authority: &str, is_tls: bool) {
    head.scheme = if is_tls { Scheme::Https } else { Scheme::Http };
    head.set_authority(authority.as_bytes());
    match &check.probe {
        Probe::Http(http) => {
            head.set_method(http.method.as_bytes());
            head.set_path(http.path.as_bytes());
            head.headers.append(b"user-agent", USER_AGENT);
            edit(head, &http.headers);
            if !http.send.is_empty() {
                head.headers.set(b"content-length", http.send.len().to_string().as_bytes());
            }
        }
        Probe::Grpc(probe) => {
            head.set_method(b"POST");
            head.set_path(grpc::PATH);
            head.headers.append(b"te", b"trailers");
            head.headers.append(b"content-type", b"application/grpc");
            head.headers.append(b"user-agent", USER_AGENT);
            edit(head, &probe.metadata);
            head.headers.set(b"grpc-timeout", route::grpc::timeout_value(check.timeout).as_bytes());
        }
        Probe::Tcp(_) => {}
    }
}

fn edit(head: &mut RequestHead, edit: &HeaderEdit) {
    for name in &edit.remove {
        head.headers.remove(name.as_bytes());
    }
    for add in &edit.add {
        let value = add.value.as_literal().unwrap_or_default().as_bytes();
        match &*add.name {
            ":authority" => head.set_authority(value),
            ":path" => head.set_path(value),
            _ if value.is_empty() && !add.keep_empty => {}
            name => add_field(&mut head.headers, add.action, name.as_bytes(), value),
        }
    }
}

/// What follows the head.
pub(super) fn body(probe: &Probe) -> Cow<'_, [u8]> {
    match probe {
        Probe::Http(http) => Cow::Borrowed(&http.send),
        Probe::Tcp(tcp) => Cow::Borrowed(&tcp.send),
        Probe::Grpc(grpc) => Cow::Owned(grpc::request(&grpc.service)),
    }
}

/// What an exchange that is over comes to.
pub(super) fn verdict(probe: &Probe, outcome: Result<Answer<'_>, Unanswered>) -> Verdict {
    match (probe, outcome) {
        (_, Err(unanswered)) if *unanswered.details == *details::UPSTREAM_CONNECT_TIMEOUT => Verdict::Late,
        // A TCP connection that ends has not said what was to be heard, or it would have been left alone.
        (_, Err(_)) | (Probe::Tcp(_), Ok(_)) => Verdict::Unreachable,
        (Probe::Http(http), Ok(answer)) => judge_http(http, &answer),
        (Probe::Grpc(_), Ok(answer)) if grpc::is_serving(&answer) => Verdict::Healthy,
        (Probe::Grpc(_), Ok(_)) => Verdict::Bad { retriable: false, excluded: false },
    }
}

fn judge_http(http: &HttpProbe, answer: &Answer<'_>) -> Verdict {
    let has = |name: &[u8]| answer.head.headers.get(name).is_some();
    let excluded = has(IMMEDIATE_FAIL);
    if !contains(answer.body, &http.receive) {
        return Verdict::Bad { retriable: false, excluded };
    }
    let is_one_of = |ranges: &[Range<u16>]| ranges.iter().any(|range| range.contains(&answer.head.status));
    match is_one_of(&http.expected) {
        false => Verdict::Bad { retriable: is_one_of(&http.retriable), excluded },
        true if has(DEGRADED) => Verdict::Degraded,
        true => Verdict::Healthy,
    }
}

/// The pieces are there, in this order, whatever stands between them.
pub(super) fn contains(heard: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut rest = heard;
    pieces.iter().all(|piece| {
        let found = piece.is_empty() || rest.len() >= piece.len();
        let at = if piece.is_empty() { Some(0) } else { rest.windows(piece.len()).position(|window| window == piece) };
        rest = at.and_then(|at| rest.get(at + piece.len()..)).unwrap_or_default();
        found && at.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_in_order() {
        let pieces = |pieces: &[&str]| pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(contains(b"", &[]));
        assert!(contains(b"+PONG\r\n", &pieces(&["PONG"])));
        assert!(contains(b"one two three", &pieces(&["one", "three"])));
        assert!(!contains(b"one two three", &pieces(&["three", "one"])));
        assert!(!contains(b"aba", &pieces(&["ab", "ba"])), "no octet is found twice");
        assert!(!contains(b"PON", &pieces(&["PONG"])));
    }
}
