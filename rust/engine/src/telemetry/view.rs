//! What access logs and header formats can ask about, and how it is printed.

use std::fmt::Write as _;
use std::net::SocketAddr;

use pymesh_http::{Headers, RequestHead, ResponseHead};
use pymesh_model::format::{Operator, Part, Template};
use pymesh_model::metadata::{Metadata, Value};

use super::{date, json, Facts, Flags};
use crate::base::time::{Time, WallClock};

/// One request or TCP connection, seen by a formatter. What is not known (yet)
/// is `None`.
pub(crate) struct View<'a> {
    pub clock: WallClock,
    pub hostname: &'a str,
    pub facts: &'a Facts,
    pub metadata: &'a Metadata,
    pub request: Option<&'a RequestHead>,
    pub response: Option<&'a ResponseHead>,
    pub trailers: Option<&'a Headers>,
    pub flags: Flags,
    pub details: &'a str,
    /// Why TLS with the client came to its end.
    pub downstream_failure: Option<&'a str>,
    pub transport_failure: Option<&'a str>,
    /// Why the proxy has ended the connection.
    pub termination: Option<&'a str>,
    /// The trace that it is part of, and its span there.
    pub trace: Option<(u128, u64)>,
    pub route: Option<&'a str>,
    pub cluster: Option<&'a str>,
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub attempts: u32,
    pub received: u64,
    pub sent: u64,
    pub started: Time,
    pub request_received: Option<Time>,
    pub response_received: Option<Time>,
    pub now: Time,
}

impl View<'_> {
    /// Appends a whole template; `missing` stands for values that are not there.
    pub fn render(&self, template: &Template, missing: &str, out: &mut Vec<u8>) {
        for part in &template.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Op(operator) => {
                    if !self.operator(operator, out) {
                        out.extend_from_slice(missing.as_bytes());
                    }
                }
            }
        }
    }

    /// Appends one value; false if there is none.
    pub fn operator(&self, operator: &Operator, out: &mut Vec<u8>) -> bool {
        match operator {
            Operator::StartTime => {
                date::rfc3339(self.clock.unix_nanos(self.started), out);
                true
            }
            Operator::Protocol => text(self.request.map(|r| r.version.as_str()), out),
            Operator::ResponseCode => number(Some(self.response.map_or(0, |r| u64::from(r.status))), out),
            Operator::ResponseCodeDetails => text(Some(self.details).filter(|d| !d.is_empty()), out),
            Operator::ConnectionTerminationDetails => text(self.termination, out),
            Operator::VirtualClusterName => false,
            Operator::ResponseFlags => {
                if self.flags.is_empty() {
                    return false;
                }
                display(Some(self.flags), out)
            }
            Operator::DownstreamTransportFailureReason => text(self.downstream_failure, out),
            Operator::UpstreamTransportFailureReason => text(self.transport_failure, out),
            Operator::BytesReceived => number(Some(self.received), out),
            Operator::BytesSent => number(Some(self.sent), out),
            Operator::Duration => millis(Some(self.now), self.started, out),
            Operator::ResponseDuration => millis(self.response_received, self.started, out),
            Operator::RequestDuration => millis(self.request_received, self.started, out),
            Operator::Request(name, other, most) => {
                let found = self.request_value(name).or_else(|| self.request_value(other.as_deref()?));
                bytes(found, *most, out)
            }
            Operator::Response(name, other, most) => {
                let headers = self.response.map(|response| &response.headers);
                bytes(header(headers, name, other.as_deref()), *most, out)
            }
            Operator::Trailer(name, other, most) => bytes(header(self.trailers, name, other.as_deref()), *most, out),
            Operator::UpstreamHost => display(self.upstream, out),
            Operator::UpstreamCluster => text(self.cluster, out),
            Operator::UpstreamLocalAddress => display(self.upstream_local, out),
            Operator::UpstreamRequestAttemptCount => number(Some(u64::from(self.attempts)), out),
            Operator::DownstreamLocalAddress => display(Some(self.facts.local), out),
            Operator::DownstreamLocalAddressWithoutPort => display(Some(self.facts.local.ip()), out),
            Operator::DownstreamLocalPort => number(Some(u64::from(self.facts.local.port())), out),
            Operator::DownstreamRemoteAddress => display(Some(self.facts.remote), out),
            Operator::DownstreamRemoteAddressWithoutPort => display(Some(self.facts.remote.ip()), out),
            Operator::DownstreamDirectRemoteAddress => display(Some(self.facts.direct_remote), out),
            Operator::DownstreamDirectRemoteAddressWithoutPort => display(Some(self.facts.direct_remote.ip()), out),
            Operator::RequestedServerName => text(self.facts.server_name.as_deref(), out),
            Operator::RouteName => text(self.route.filter(|name| !name.is_empty()), out),
            Operator::DownstreamPeerUriSan => {
                text(self.facts.peer.as_ref().and_then(|p| p.sans.uri.first()).map(String::as_str), out)
            }
            Operator::DownstreamPeerSubject => text(self.facts.peer.as_ref().map(|p| p.subject.as_str()), out),
            Operator::DownstreamTlsVersion => text(self.facts.tls_version, out),
            Operator::DownstreamTlsCipher => text(self.facts.tls_cipher, out),
            Operator::Hostname => text(Some(self.hostname), out),
            Operator::TraceId => display(self.trace.map(|(trace, _)| format!("{trace:032x}")), out),
            Operator::SpanId => display(self.trace.map(|(_, span)| format!("{span:016x}")), out),
            Operator::DynamicMetadata(namespace, path, most) => match self.metadata(namespace, path) {
                None | Some(Value::Null) => false,
                Some(Value::String(found)) => bytes(Some(found.as_bytes()), *most, out),
                Some(found) => {
                    let begin = out.len();
                    json::value(&found, out);
                    out.truncate(begin.saturating_add(most.unwrap_or(usize::MAX)));
                    true
                }
            },
        }
    }

    /// What filters have found out.
    pub fn metadata(&self, namespace: &str, path: &[Box<str>]) -> Option<Value> {
        match path {
            [] => self.metadata.namespace(namespace).cloned().map(Value::Struct),
            _ => self.metadata.value(namespace, path).cloned(),
        }
    }

    fn request_value(&self, name: &str) -> Option<&[u8]> {
        let request = self.request?;
        let value = match name {
            ":method" => request.method_bytes(),
            ":path" => request.path(),
            ":authority" | "host" => request.authority(),
            ":scheme" => request.scheme.as_str().as_bytes(),
            _ => return request.headers.get(name.as_bytes()),
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

fn header<'a>(headers: Option<&'a Headers>, name: &str, other: Option<&str>) -> Option<&'a [u8]> {
    let headers = headers?;
    headers.get(name.as_bytes()).or_else(|| headers.get(other?.as_bytes()))
}

fn text(value: Option<&str>, out: &mut Vec<u8>) -> bool {
    bytes(value.map(str::as_bytes), None, out)
}

fn bytes(value: Option<&[u8]>, most: Option<usize>, out: &mut Vec<u8>) -> bool {
    let Some(value) = value else { return false };
    let end = most.unwrap_or(value.len()).min(value.len());
    out.extend_from_slice(value.get(..end).unwrap_or_default());
    true
}

fn number(value: Option<u64>, out: &mut Vec<u8>) -> bool {
    display(value, out)
}

fn millis(until: Option<Time>, from: Time, out: &mut Vec<u8>) -> bool {
    display(until.map(|until| until.since(from).as_millis()), out)
}

fn display(value: Option<impl std::fmt::Display>, out: &mut Vec<u8>) -> bool {
    let Some(value) = value else { return false };
    let _infallible = write!(Sink(out), "{value}");
    true
}

struct Sink<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Sink<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}
