//! What access logs and header formats can ask about, and how it is printed.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pymesh_http::{Headers, RequestHead, ResponseHead, Version};
use pymesh_model::format::{
    Address, GrpcStatusForm, HeaderSource, HostSource, Instant, Operator, Part, PathSource, PeerFact, Shape, Side,
    Template, TimeFormat, Unit,
};
use pymesh_model::http::Forwarding;
use pymesh_model::metadata::{Metadata, Value};
use pymesh_tls::PeerIdentity;

use super::log_filter::said_grpc_status;
use super::{date, json, Facts, Flags, UpstreamFacts};
use crate::base::grpc;
use crate::base::time::{Time, WallClock};
use crate::exchange::forward::trusted_client;
use crate::route::matcher::query_value;

/// One request or TCP connection, seen by a formatter. What is not known (yet)
/// is `None`.
pub(crate) struct View<'a> {
    pub clock: WallClock,
    pub hostname: &'a str,
    pub facts: &'a Facts,
    /// Of a request: whom `x-forwarded-for` is believed from.
    pub forwarding: Option<&'a Forwarding>,
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
    /// Its name, which may be empty.
    pub upstream_name: &'a str,
    pub upstream_local: Option<SocketAddr>,
    /// What is spoken there.
    pub upstream_version: Option<Version>,
    pub upstream_facts: Option<&'a UpstreamFacts>,
    /// Envoy's word for what is logged.
    pub event: &'static str,
    pub attempts: u32,
    pub received: u64,
    pub sent: u64,
    pub started: Time,
    pub request_received: Option<Time>,
    pub response_received: Option<Time>,
    /// Other moments of a request.
    pub moments: Moments,
    pub now: Time,
}

/// Moments of a request that only `%COMMON_DURATION%` and its kin ask about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub upstream_request_began: Option<Time>,
    pub upstream_request_ended: Option<Time>,
    pub upstream_response_ended: Option<Time>,
    pub response_began: Option<Time>,
    pub response_ended: Option<Time>,
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
            Operator::StartTime(format) => self.time(self.started, format.as_ref(), out),
            Operator::EmitTime(format) => self.time(self.now, format.as_ref(), out),
            Operator::UpstreamProtocol => text(self.upstream_version.map(Version::as_str), out),
            Operator::Protocol => text(self.request.map(|r| r.version.as_str()), out),
            Operator::ResponseCode => number(Some(self.response.map_or(0, |r| u64::from(r.status))), out),
            Operator::ResponseCodeDetails => text(Some(self.details).filter(|d| !d.is_empty()), out),
            Operator::ConnectionTerminationDetails => text(self.termination, out),
            Operator::VirtualClusterName => false,
            Operator::ResponseFlags => display(Some(self.flags), out),
            Operator::ResponseFlagsLong => display(Some(self.flags.long()), out),
            Operator::GrpcStatus(form) => self.grpc_status(*form, out),
            Operator::DownstreamTransportFailureReason => text(self.downstream_failure, out),
            Operator::UpstreamTransportFailureReason => text(self.transport_failure, out),
            Operator::BytesReceived => number(Some(self.received), out),
            Operator::BytesSent => number(Some(self.sent), out),
            Operator::Duration => millis(Some(self.now), self.started, out),
            Operator::ResponseDuration => millis(self.response_received, self.started, out),
            Operator::RequestDuration => millis(self.request_received, self.started, out),
            Operator::Between(from, to, unit) => self.between(*from, *to, *unit, out),
            Operator::RoundtripDuration => false,
            Operator::Path(with_query, source, most) => {
                let original = || self.request_value("x-envoy-original-path");
                let found = match source {
                    PathSource::Original => original(),
                    PathSource::Now => self.request_value(":path"),
                    PathSource::OriginalOrNow => original().or_else(|| self.request_value(":path")),
                };
                bytes(found.map(|path| if *with_query { path } else { without_query(path) }), *most, out)
            }
            Operator::QueryParameter(name, most) => {
                let found = self.request_value(":path").and_then(|target| query_value(target, name.as_bytes()));
                bytes(found.map(percent_decoded).as_deref(), *most, out)
            }
            Operator::StreamId => bytes(self.request_value("x-request-id"), None, out),
            Operator::UpstreamHostName => match self.upstream_name {
                "" => display(self.upstream, out),
                name => text(Some(name), out),
            },
            Operator::UpstreamHostNameWithoutPort => match self.upstream_name {
                "" => display(self.upstream.map(|address| address.ip()), out),
                name => text(Some(name.rsplit_once(':').map_or(name, |(host, _)| host)), out),
            },
            Operator::Address(address, shape) => self.address(*address, *shape, out),
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
            Operator::UpstreamRequestAttemptCount => number(Some(u64::from(self.attempts)), out),
            Operator::RequestedServerName(source) => {
                let name = self.facts.server_name.as_deref().map(str::as_bytes);
                let host = || self.request_value("x-envoy-original-host").or_else(|| self.request_value(":authority"));
                let found = match source {
                    HostSource::ServerName => name,
                    HostSource::ServerNameOrHost => name.or_else(host),
                    HostSource::Host => host(),
                };
                bytes(found, None, out)
            }
            Operator::RouteName => text(self.route.filter(|name| !name.is_empty()), out),
            Operator::Peer(side, fact) => self.peer(*side).is_some_and(|peer| certificate(peer, *fact, out)),
            Operator::LocalUriSan(Side::Downstream) => list(Some(&self.facts.own_uris[..]), out),
            Operator::LocalUriSan(Side::Upstream) => list(self.upstream_facts.map(|facts| &facts.own_uris[..]), out),
            Operator::TlsVersion(Side::Downstream) => text(self.facts.tls_version, out),
            Operator::TlsVersion(Side::Upstream) => text(self.upstream_facts.and_then(|facts| facts.tls_version), out),
            Operator::TlsCipher(Side::Downstream) => text(self.facts.tls_cipher, out),
            Operator::TlsCipher(Side::Upstream) => text(self.upstream_facts.and_then(|facts| facts.tls_cipher), out),
            Operator::ConnectionId(Side::Downstream) => number(Some(self.facts.id), out),
            Operator::ConnectionId(Side::Upstream) => {
                number(Some(self.upstream_facts.map_or(0, |facts| facts.id)), out)
            }
            Operator::FilterChainName => text(Some(&*self.facts.chain).filter(|name| !name.is_empty()), out),
            Operator::AccessLogType => text(Some(self.event), out),
            Operator::HeadersBytes(source) => number(Some(self.headers_bytes(*source)), out),
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

    fn time(&self, time: Time, format: Option<&TimeFormat>, out: &mut Vec<u8>) -> bool {
        let nanos = self.clock.unix_nanos(time);
        match format {
            None => date::rfc3339(nanos, out),
            Some(format) => date::formatted(nanos, format, out),
        }
        true
    }

    fn address(&self, address: Address, shape: Shape, out: &mut Vec<u8>) -> bool {
        let address = match address {
            Address::DownstreamRemote => Some(self.client()),
            Address::DownstreamDirectRemote => Some(self.facts.direct_remote),
            Address::DownstreamLocal => Some(self.facts.local),
            // That of a connection, which there has to be.
            Address::UpstreamRemote => self.upstream.filter(|_| self.upstream_local.is_some()),
            Address::UpstreamLocal => self.upstream_local,
        };
        match shape {
            Shape::Whole => display(address, out),
            Shape::Port => number(address.map(|address| u64::from(address.port())), out),
            Shape::WithoutPort(None) => display(address.map(|address| address.ip()), out),
            Shape::WithoutPort(Some(bits)) => {
                let network = address.and_then(|address| network(address.ip(), bits));
                display(network.map(|network| format!("{network}/{bits}")), out)
            }
        }
    }

    /// Who is at the other end of the connection, or of that of a proxy in front, as it tells (then without a port).
    fn client(&self) -> SocketAddr {
        let peer = self.facts.remote;
        let (Some(request), Some(how)) = (self.request, self.forwarding) else { return peer };
        match trusted_client(&request.headers, how, peer.ip()) {
            client if client == peer.ip().to_canonical() => peer,
            client => SocketAddr::new(client, 0),
        }
    }

    fn peer(&self, side: Side) -> Option<&PeerIdentity> {
        match side {
            Side::Downstream => self.facts.peer.as_ref(),
            Side::Upstream => self.upstream_facts?.peer.as_deref(),
        }
    }

    /// Names and values, those of pseudo-headers among them.
    fn headers_bytes(&self, source: HeaderSource) -> u64 {
        let fields = |headers: Option<&Headers>| -> usize {
            let fields = headers.into_iter().flat_map(Headers::iter);
            fields.map(|field| field.name.len() + field.value.len()).sum()
        };
        let octets = match source {
            HeaderSource::Request => {
                let pseudo = [":method", ":path", ":authority", ":scheme"];
                let pseudo = pseudo.iter().filter_map(|name| Some(name.len() + self.request_value(name)?.len()));
                pseudo.sum::<usize>() + fields(self.request.map(|request| &request.headers))
            }
            HeaderSource::Response => {
                let status = self.response.map_or(0, |_| ":status".len() + "200".len());
                status + fields(self.response.map(|response| &response.headers))
            }
            HeaderSource::ResponseTrailers => fields(self.trailers),
        };
        octets as u64
    }

    fn grpc_status(&self, form: GrpcStatusForm, out: &mut Vec<u8>) -> bool {
        if !self.request.is_some_and(|request| grpc::is_grpc(&request.headers)) || self.response.is_none() {
            return false;
        }
        let status = said_grpc_status(self);
        let names = match form {
            GrpcStatusForm::Camel => &CAMEL,
            GrpcStatusForm::Snake => &SNAKE,
            GrpcStatusForm::Number => return number(Some(status), out),
        };
        match usize::try_from(status).ok().and_then(|status| names.get(status)) {
            Some(name) => text(Some(name), out),
            None => number(Some(status), out),
        }
    }

    fn between(&self, from: Instant, to: Instant, unit: Unit, out: &mut Vec<u8>) -> bool {
        let moment = |instant| match instant {
            _ if self.request.is_none() => None,
            Instant::RequestBegins => Some(self.started),
            Instant::RequestEnds => self.request_received,
            Instant::UpstreamRequestBegins => self.moments.upstream_request_began,
            Instant::UpstreamRequestEnds => self.moments.upstream_request_ended,
            Instant::UpstreamResponseBegins => self.response_received,
            Instant::UpstreamResponseEnds => self.moments.upstream_response_ended,
            Instant::ResponseBegins => self.moments.response_began,
            Instant::ResponseEnds => self.moments.response_ended,
        };
        let (Some(from), Some(to)) = (moment(from), moment(to)) else { return false };
        let (passed, sign) = if to >= from { (to.since(from), "") } else { (from.since(to), "-") };
        let passed = match unit {
            Unit::Millis => passed.as_millis(),
            Unit::Micros => passed.as_micros(),
            Unit::Nanos => passed.as_nanos(),
        };
        let sign = if passed == 0 { "" } else { sign };
        display(Some(format_args!("{sign}{passed}")), out)
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

fn certificate(peer: &PeerIdentity, fact: PeerFact, out: &mut Vec<u8>) -> bool {
    let mut at = |seconds: i64| {
        date::rfc3339(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000), out);
        true
    };
    match fact {
        PeerFact::ValidFrom => at(peer.not_before),
        PeerFact::ValidUntil => at(peer.not_after),
        PeerFact::UriSan => list(Some(&peer.sans.uri[..]), out),
        PeerFact::DnsSan => list(Some(&peer.sans.dns[..]), out),
        PeerFact::EmailSan => list(Some(&peer.sans.email[..]), out),
        PeerFact::IpSan => list(Some(&peer.sans.ip[..]), out),
        PeerFact::Subject => text(Some(&peer.subject), out),
        PeerFact::Issuer => text(Some(&peer.issuer), out),
        PeerFact::Serial => text(Some(&peer.serial), out),
        PeerFact::Fingerprint256 => peer.sha256.iter().all(|octet| display(Some(format_args!("{octet:02x}")), out)),
    }
}

fn header<'a>(headers: Option<&'a Headers>, name: &str, other: Option<&str>) -> Option<&'a [u8]> {
    let headers = headers?;
    headers.get(name.as_bytes()).or_else(|| headers.get(other?.as_bytes()))
}

/// The names of gRPC's statuses, as Envoy and as Abseil write them.
const CAMEL: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const SNAKE: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn without_query(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|octet| *octet == b'?').unwrap_or(target.len());
    target.get(..end).unwrap_or_default()
}

/// What is no escape stays as it is.
fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let hex = |octet: Option<&u8>| char::from(*octet?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (*first, hex(behind.first()), hex(behind.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => decoded.push(*first),
        }
    }
    decoded
}

/// The first bits of an address; none if it has not as many.
fn network(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(bits)?).unwrap_or(0);
            Some(Ipv4Addr::from_bits(address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(bits)?).unwrap_or(0);
            Some(Ipv6Addr::from_bits(address.to_bits() & mask).into())
        }
    }
}

/// Separated by commas; nothing if there are none.
fn list(values: Option<&[impl std::fmt::Display]>, out: &mut Vec<u8>) -> bool {
    let Some(values) = values.filter(|values| !values.is_empty()) else { return false };
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        display(Some(value), out);
    }
    true
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
