//! Envoy's command operators, as far as they are known here.

use super::time::TimeFormat;

/// Command operators. A value that is not there is `-` in a text log, null in
/// a JSON log and nothing in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    /// When it began. Without a format RFC 3339 with milliseconds, UTC.
    StartTime(Option<TimeFormat>),
    /// When the line is written; likewise.
    EmitTime(Option<TimeFormat>),
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    ResponseFlags,
    /// By their long names.
    ResponseFlagsLong,
    GrpcStatus(GrpcStatusForm),
    DownstreamTransportFailureReason,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    /// Milliseconds from the first octet in to the last octet out.
    Duration,
    /// Milliseconds until the first octet of the response from the upstream.
    ResponseDuration,
    /// Milliseconds until the last octet of the request was read.
    RequestDuration,
    /// From one moment to another.
    Between(Instant, Instant, Unit),
    /// Of HTTP/3, which is not spoken.
    RoundtripDuration,
    /// Name, alternative name, longest length.
    Request(Box<str>, Option<Box<str>>, Option<usize>),
    Response(Box<str>, Option<Box<str>>, Option<usize>),
    Trailer(Box<str>, Option<Box<str>>, Option<usize>),
    /// With its query or without, from where, longest length.
    Path(bool, PathSource, Option<usize>),
    /// Name, longest length.
    QueryParameter(Box<str>, Option<usize>),
    /// The request's id.
    StreamId,
    UpstreamHost,
    UpstreamHostName,
    UpstreamHostNameWithoutPort,
    UpstreamCluster,
    UpstreamRequestAttemptCount,
    Address(Address, Shape),
    /// What TLS asked for, and where it was not asked the host, or the host first.
    RequestedServerName(HostSource),
    RouteName,
    /// Of the certificate that the peer has shown.
    Peer(Side, PeerFact),
    /// The URIs of the certificate that the peer was shown.
    LocalUriSan(Side),
    TlsVersion(Side),
    TlsCipher(Side),
    /// A number that no other connection of the process has; 0 where there is none to an endpoint.
    ConnectionId(Side),
    FilterChainName,
    /// What the line is about.
    AccessLogType,
    /// Octets of names and values.
    HeadersBytes(HeaderSource),
    VirtualClusterName,
    Hostname,
    /// Of the trace that the request is part of.
    TraceId,
    /// Of the request's span in it.
    SpanId,
    /// Namespace, keys from the outside in, longest length.
    DynamicMetadata(Box<str>, Vec<Box<str>>, Option<usize>),
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Side {
    Downstream,
    Upstream,
}

/// What a certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PeerFact {
    UriSan,
    DnsSan,
    IpSan,
    EmailSan,
    Subject,
    Issuer,
    Serial,
    Fingerprint256,
    ValidFrom,
    ValidUntil,
}

/// Which headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HeaderSource {
    Request,
    Response,
    ResponseTrailers,
}

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Address {
    DownstreamRemote,
    /// As the socket says, whatever was told in front of the connection.
    DownstreamDirectRemote,
    DownstreamLocal,
    UpstreamRemote,
    UpstreamLocal,
}

/// What of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shape {
    Whole,
    /// As many bits of it as are named, in CIDR notation.
    WithoutPort(Option<u8>),
    Port,
}

/// How a status of gRPC is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GrpcStatusForm {
    /// `NotFound`
    Camel,
    /// `NOT_FOUND`
    Snake,
    Number,
}

/// Which path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PathSource {
    /// Before it was rewritten.
    Original,
    Now,
    OriginalOrNow,
}

/// Which name stands for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HostSource {
    /// That of TLS alone.
    ServerName,
    /// That of TLS, or the request's host.
    ServerNameOrHost,
    Host,
}

/// A moment of a request (`COMMON_DURATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Instant {
    RequestBegins,
    RequestEnds,
    UpstreamRequestBegins,
    UpstreamRequestEnds,
    UpstreamResponseBegins,
    UpstreamResponseEnds,
    ResponseBegins,
    ResponseEnds,
}

/// Of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

const INSTANTS: &[(&str, Instant)] = &[
    ("DS_RX_BEG", Instant::RequestBegins),
    ("DS_RX_END", Instant::RequestEnds),
    ("US_TX_BEG", Instant::UpstreamRequestBegins),
    ("US_TX_END", Instant::UpstreamRequestEnds),
    ("US_RX_BEG", Instant::UpstreamResponseBegins),
    ("US_RX_END", Instant::UpstreamResponseEnds),
    ("DS_TX_BEG", Instant::ResponseBegins),
    ("DS_TX_END", Instant::ResponseEnds),
];

const UNITS: &[(&str, Unit)] = &[("ms", Unit::Millis), ("us", Unit::Micros), ("ns", Unit::Nanos)];

/// Those that need an argument.
const ARGUED: &str = "REQ, REQUEST_HEADER, RESP, RESPONSE_HEADER, TRAILER, RESPONSE_TRAILER, \
                      DYNAMIC_METADATA, METADATA, QUERY_PARAM, COMMON_DURATION";

impl Operator {
    pub(super) fn parse(command: &str) -> Result<Operator, String> {
        let (name, argument, length) = split_command(command)?;
        let without_length = |operator: Operator| match length {
            None => Ok(operator),
            Some(_) => Err(format!("`%{name}%` takes no length")),
        };
        match (name, argument) {
            ("REQ" | "REQUEST_HEADER", _) => {
                headers(name, argument).map(|(first, other)| Operator::Request(first, other, length))
            }
            ("RESP" | "RESPONSE_HEADER", _) => {
                headers(name, argument).map(|(first, other)| Operator::Response(first, other, length))
            }
            ("TRAILER" | "RESPONSE_TRAILER", _) => {
                headers(name, argument).map(|(first, other)| Operator::Trailer(first, other, length))
            }
            ("DYNAMIC_METADATA", _) => metadata(name, argument.unwrap_or_default(), length),
            ("METADATA", _) => match argument.unwrap_or_default().strip_prefix("DYNAMIC:") {
                Some(rest) => metadata(name, rest, length),
                None => {
                    Err(format!("`%{name}%` is supported for what filters find out alone: `%{name}(DYNAMIC:a:b)%`"))
                }
            },
            ("START_TIME", Some(format)) => without_length(Operator::StartTime(Some(TimeFormat::parse(format)?))),
            ("EMIT_TIME", Some(format)) => without_length(Operator::EmitTime(Some(TimeFormat::parse(format)?))),
            ("GRPC_STATUS", Some(form)) => without_length(Operator::GrpcStatus(grpc_status_form(form)?)),
            ("COMMON_DURATION", _) => without_length(between(argument.unwrap_or_default())?),
            ("PATH", _) => path(argument.unwrap_or_default(), length),
            ("QUERY_PARAM", _) => match argument.filter(|name| !name.is_empty()) {
                Some(parameter) => Ok(Operator::QueryParameter(parameter.into(), length)),
                None => Err(format!("`%{name}%` needs the name of a parameter: `%{name}(page)%`")),
            },
            ("REQUESTED_SERVER_NAME", Some(source)) => {
                without_length(Operator::RequestedServerName(host_source(source)?))
            }
            _ => match (PLAIN.iter().find(|(known, _)| *known == name), argument) {
                (Some((_, Operator::Address(address, Shape::WithoutPort(_)))), Some(bits)) => {
                    without_length(Operator::Address(*address, Shape::WithoutPort(Some(mask(bits)?))))
                }
                (Some((_, operator)), None) if length.is_none() => Ok(operator.clone()),
                (Some(_), _) => Err(format!("`%{name}%` takes no argument and no length")),
                (None, _) => {
                    let known: Vec<&str> = PLAIN.iter().map(|(known, _)| *known).collect();
                    let known = known.join(", ");
                    Err(format!("operator `%{name}%` is not supported; supported: {ARGUED}, PATH, {known}"))
                }
            },
        }
    }
}

/// The variable that `ENVIRONMENT(NAME):length` names; `None`: it is another command.
pub(super) fn variable(command: &str) -> Result<Option<(&str, Option<usize>)>, String> {
    match split_command(command)? {
        ("ENVIRONMENT", Some(name), length) if !name.is_empty() => Ok(Some((name, length))),
        ("ENVIRONMENT", ..) => {
            Err("`%ENVIRONMENT%` needs the name of a variable: `%ENVIRONMENT(POD_NAME)%`".to_owned())
        }
        _ => Ok(None),
    }
}

/// `x-name?x-other`
fn headers(name: &str, argument: Option<&str>) -> Result<(Box<str>, Option<Box<str>>), String> {
    let argument = argument
        .filter(|argument| !argument.is_empty())
        .ok_or_else(|| format!("`%{name}%` needs a header name: `%{name}(x-name)%`"))?;
    let (first, other) = argument.split_once('?').map_or((argument, None), |(first, other)| (first, Some(other)));
    Ok((first.to_ascii_lowercase().into(), other.map(|other| other.to_ascii_lowercase().into())))
}

fn metadata(name: &str, argument: &str, length: Option<usize>) -> Result<Operator, String> {
    let mut path = argument.split(':').map(Box::<str>::from);
    let namespace = path.next().filter(|namespace| !namespace.is_empty()).ok_or_else(|| {
        format!("`%{name}%` needs a namespace, and may have keys: `%{name}(envoy.filters.http.jwt_authn:key)%`")
    })?;
    Ok(Operator::DynamicMetadata(namespace, path.collect(), length))
}

fn grpc_status_form(form: &str) -> Result<GrpcStatusForm, String> {
    match form {
        "" | "CAMEL_STRING" => Ok(GrpcStatusForm::Camel),
        "SNAKE_STRING" => Ok(GrpcStatusForm::Snake),
        "NUMBER" => Ok(GrpcStatusForm::Number),
        _ => Err(format!("`%GRPC_STATUS({form})%`: it is CAMEL_STRING, SNAKE_STRING or NUMBER")),
    }
}

fn between(argument: &str) -> Result<Operator, String> {
    let mut parts = argument.split(':');
    let (Some(from), Some(to), Some(unit), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("write it as in `%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)%`".to_owned());
    };
    let instant = |name: &str| {
        INSTANTS.iter().find(|(known, _)| *known == name).map(|(_, instant)| *instant).ok_or_else(|| {
            let known: Vec<&str> = INSTANTS.iter().map(|(known, _)| *known).collect();
            format!("`{name}` in `%COMMON_DURATION%` is not supported; supported: {}", known.join(", "))
        })
    };
    let unit = UNITS.iter().find(|(known, _)| *known == unit).map(|(_, unit)| *unit);
    let unit = unit.ok_or_else(|| {
        format!("`{}` in `%COMMON_DURATION%` is not ms, us or ns", argument.rsplit(':').next().unwrap_or_default())
    })?;
    Ok(Operator::Between(instant(from)?, instant(to)?, unit))
}

fn path(argument: &str, length: Option<usize>) -> Result<Operator, String> {
    let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
    let with_query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        _ => return Err(format!("`{query}` in `%PATH%` is not WQ (with the query) or NQ (without)")),
    };
    let source = match source {
        "" | "ORIG_OR_PATH" => PathSource::OriginalOrNow,
        "ORIG" => PathSource::Original,
        "PATH" => PathSource::Now,
        _ => return Err(format!("`{source}` in `%PATH%` is not ORIG, PATH or ORIG_OR_PATH")),
    };
    Ok(Operator::Path(with_query, source, length))
}

fn host_source(argument: &str) -> Result<HostSource, String> {
    match argument {
        "" | "SNI_ONLY" => Ok(HostSource::ServerName),
        "SNI_FIRST" | "SNI_FIRST:HOST" => Ok(HostSource::ServerNameOrHost),
        "HOST_FIRST" | "HOST_FIRST:HOST" => Ok(HostSource::Host),
        _ => Err(format!(
            "`%REQUESTED_SERVER_NAME({argument})%` is not supported; supported: SNI_ONLY, SNI_FIRST, HOST_FIRST"
        )),
    }
}

fn mask(bits: &str) -> Result<u8, String> {
    bits.parse().ok().filter(|bits| *bits <= 128).ok_or_else(|| format!("`{bits}` is no number of bits up to 128"))
}

/// Splits `NAME(argument):length`.
fn split_command(command: &str) -> Result<(&str, Option<&str>, Option<usize>), String> {
    let (head, length) = match command.rsplit_once(':') {
        Some((head, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let length = digits.parse().map_err(|_| format!("`{digits}` is too large a length"))?;
            (head, Some(length))
        }
        _ => (command, None),
    };
    match head.split_once('(') {
        None => Ok((head, None, length)),
        Some((name, tail)) => match tail.strip_suffix(')') {
            Some(argument) => Ok((name, Some(argument), length)),
            None => Err(format!("`%{command}%` lacks a closing parenthesis")),
        },
    }
}

const DOWNSTREAM_REMOTE: Address = Address::DownstreamRemote;
const DIRECT_REMOTE: Address = Address::DownstreamDirectRemote;
const DOWNSTREAM_LOCAL: Address = Address::DownstreamLocal;
const UPSTREAM_REMOTE: Address = Address::UpstreamRemote;
const UPSTREAM_LOCAL: Address = Address::UpstreamLocal;
const DOWN: Side = Side::Downstream;
const UP: Side = Side::Upstream;

/// Those that need no argument.
const PLAIN: &[(&str, Operator)] = &[
    ("START_TIME", Operator::StartTime(None)),
    ("EMIT_TIME", Operator::EmitTime(None)),
    ("PROTOCOL", Operator::Protocol),
    ("UPSTREAM_PROTOCOL", Operator::UpstreamProtocol),
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    ("CONNECTION_TERMINATION_DETAILS", Operator::ConnectionTerminationDetails),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("RESPONSE_FLAGS_LONG", Operator::ResponseFlagsLong),
    ("GRPC_STATUS", Operator::GrpcStatus(GrpcStatusForm::Camel)),
    ("GRPC_STATUS_NUMBER", Operator::GrpcStatus(GrpcStatusForm::Number)),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Operator::DownstreamTransportFailureReason),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Operator::UpstreamTransportFailureReason),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("RESPONSE_DURATION", Operator::ResponseDuration),
    ("REQUEST_DURATION", Operator::RequestDuration),
    ("REQUEST_TX_DURATION", Operator::Between(Instant::RequestBegins, Instant::UpstreamRequestEnds, Unit::Millis)),
    ("RESPONSE_TX_DURATION", Operator::Between(Instant::UpstreamResponseBegins, Instant::ResponseEnds, Unit::Millis)),
    ("ROUNDTRIP_DURATION", Operator::RoundtripDuration),
    ("STREAM_ID", Operator::StreamId),
    ("UPSTREAM_HOST", Operator::UpstreamHost),
    ("UPSTREAM_HOST_NAME", Operator::UpstreamHostName),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", Operator::UpstreamHostNameWithoutPort),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    ("UPSTREAM_REMOTE_ADDRESS", Operator::Address(UPSTREAM_REMOTE, Shape::Whole)),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::Address(UPSTREAM_REMOTE, Shape::WithoutPort(None))),
    ("UPSTREAM_REMOTE_PORT", Operator::Address(UPSTREAM_REMOTE, Shape::Port)),
    ("UPSTREAM_LOCAL_ADDRESS", Operator::Address(UPSTREAM_LOCAL, Shape::Whole)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::Address(UPSTREAM_LOCAL, Shape::WithoutPort(None))),
    ("UPSTREAM_LOCAL_PORT", Operator::Address(UPSTREAM_LOCAL, Shape::Port)),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Operator::UpstreamRequestAttemptCount),
    ("DOWNSTREAM_LOCAL_ADDRESS", Operator::Address(DOWNSTREAM_LOCAL, Shape::Whole)),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::Address(DOWNSTREAM_LOCAL, Shape::WithoutPort(None))),
    ("DOWNSTREAM_LOCAL_PORT", Operator::Address(DOWNSTREAM_LOCAL, Shape::Port)),
    ("DOWNSTREAM_REMOTE_ADDRESS", Operator::Address(DOWNSTREAM_REMOTE, Shape::Whole)),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::Address(DOWNSTREAM_REMOTE, Shape::WithoutPort(None))),
    ("DOWNSTREAM_REMOTE_PORT", Operator::Address(DOWNSTREAM_REMOTE, Shape::Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Operator::Address(DIRECT_REMOTE, Shape::Whole)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Operator::Address(DIRECT_REMOTE, Shape::WithoutPort(None))),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Operator::Address(DIRECT_REMOTE, Shape::Port)),
    ("PATH", Operator::Path(true, PathSource::OriginalOrNow, None)),
    ("REQUESTED_SERVER_NAME", Operator::RequestedServerName(HostSource::ServerName)),
    ("ROUTE_NAME", Operator::RouteName),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::Peer(DOWN, PeerFact::UriSan)),
    ("DOWNSTREAM_PEER_DNS_SAN", Operator::Peer(DOWN, PeerFact::DnsSan)),
    ("DOWNSTREAM_PEER_IP_SAN", Operator::Peer(DOWN, PeerFact::IpSan)),
    ("DOWNSTREAM_PEER_EMAIL_SAN", Operator::Peer(DOWN, PeerFact::EmailSan)),
    ("DOWNSTREAM_PEER_SUBJECT", Operator::Peer(DOWN, PeerFact::Subject)),
    ("DOWNSTREAM_PEER_ISSUER", Operator::Peer(DOWN, PeerFact::Issuer)),
    ("DOWNSTREAM_PEER_SERIAL", Operator::Peer(DOWN, PeerFact::Serial)),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", Operator::Peer(DOWN, PeerFact::Fingerprint256)),
    ("DOWNSTREAM_PEER_CERT_V_START", Operator::Peer(DOWN, PeerFact::ValidFrom)),
    ("DOWNSTREAM_PEER_CERT_V_END", Operator::Peer(DOWN, PeerFact::ValidUntil)),
    ("DOWNSTREAM_LOCAL_URI_SAN", Operator::LocalUriSan(DOWN)),
    ("DOWNSTREAM_TLS_VERSION", Operator::TlsVersion(DOWN)),
    ("DOWNSTREAM_TLS_CIPHER", Operator::TlsCipher(DOWN)),
    ("UPSTREAM_PEER_URI_SAN", Operator::Peer(UP, PeerFact::UriSan)),
    ("UPSTREAM_PEER_DNS_SAN", Operator::Peer(UP, PeerFact::DnsSan)),
    ("UPSTREAM_PEER_IP_SAN", Operator::Peer(UP, PeerFact::IpSan)),
    ("UPSTREAM_PEER_SUBJECT", Operator::Peer(UP, PeerFact::Subject)),
    ("UPSTREAM_PEER_ISSUER", Operator::Peer(UP, PeerFact::Issuer)),
    ("UPSTREAM_PEER_CERT_V_START", Operator::Peer(UP, PeerFact::ValidFrom)),
    ("UPSTREAM_PEER_CERT_V_END", Operator::Peer(UP, PeerFact::ValidUntil)),
    ("UPSTREAM_LOCAL_URI_SAN", Operator::LocalUriSan(UP)),
    ("UPSTREAM_TLS_VERSION", Operator::TlsVersion(UP)),
    ("UPSTREAM_TLS_CIPHER", Operator::TlsCipher(UP)),
    ("CONNECTION_ID", Operator::ConnectionId(DOWN)),
    ("UPSTREAM_CONNECTION_ID", Operator::ConnectionId(UP)),
    ("FILTER_CHAIN_NAME", Operator::FilterChainName),
    ("ACCESS_LOG_TYPE", Operator::AccessLogType),
    ("REQUEST_HEADERS_BYTES", Operator::HeadersBytes(HeaderSource::Request)),
    ("RESPONSE_HEADERS_BYTES", Operator::HeadersBytes(HeaderSource::Response)),
    ("RESPONSE_TRAILERS_BYTES", Operator::HeadersBytes(HeaderSource::ResponseTrailers)),
    ("VIRTUAL_CLUSTER_NAME", Operator::VirtualClusterName),
    ("HOSTNAME", Operator::Hostname),
    ("TRACE_ID", Operator::TraceId),
    ("SPAN_ID", Operator::SpanId),
];
