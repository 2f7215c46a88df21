//! Substitution formats: header values and access logs (Envoy command operators).

use std::sync::Arc;

use crate::log_filter::LogFilter;

/// Text with substitutions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// In order.
    pub parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Taken as it is.
    Text(Box<str>),
    /// Filled in for each request.
    Op(Operator),
}

/// Command operators. A value that is not there is `-` in a text log, null in
/// a JSON log and nothing in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    /// RFC 3339 with milliseconds, UTC.
    StartTime,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    ResponseFlags,
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
    /// Name, alternative name, longest length.
    Request(Box<str>, Option<Box<str>>, Option<usize>),
    Response(Box<str>, Option<Box<str>>, Option<usize>),
    Trailer(Box<str>, Option<Box<str>>, Option<usize>),
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    UpstreamRequestAttemptCount,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    RequestedServerName,
    RouteName,
    DownstreamPeerUriSan,
    DownstreamPeerSubject,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    VirtualClusterName,
    Hostname,
    /// Of the trace that the request is part of.
    TraceId,
    /// Of the request's span in it.
    SpanId,
    /// Namespace, keys from the outside in, longest length.
    DynamicMetadata(Box<str>, Vec<Box<str>>, Option<usize>),
}

impl Template {
    /// Parses a format string.
    ///
    /// # Errors
    /// One message that names the operator and says what is known instead.
    pub fn parse(format: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            let (before, after) = rest.split_at(at);
            text.push_str(before);
            let after = after.get(1..).unwrap_or_default();
            if let Some(tail) = after.strip_prefix('%') {
                text.push('%');
                rest = tail;
                continue;
            }
            let end =
                command_end(after).ok_or_else(|| format!("`%{after}` is not closed; write `%%` for a percent sign"))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            let command = after.get(..end).unwrap_or_default();
            parts.push(Part::Op(Operator::parse(command)?));
            rest = after.get(end + 1..).unwrap_or_default();
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Template { parts })
    }

    /// A template that is only text.
    pub fn literal(text: &str) -> Template {
        Template { parts: vec![Part::Text(text.into())] }
    }

    /// The text, if there are no substitutions.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// The closing `%`: parentheses may hold any character but `)`.
fn command_end(after: &str) -> Option<usize> {
    let mut in_parentheses = false;
    for (at, c) in after.char_indices() {
        match c {
            '(' => in_parentheses = true,
            ')' => in_parentheses = false,
            '%' if !in_parentheses => return Some(at),
            _ => {}
        }
    }
    None
}

impl Operator {
    fn parse(command: &str) -> Result<Operator, String> {
        let (name, argument, length) = split_command(command)?;
        let plain = |operator: Operator| match (argument, length) {
            (None, None) => Ok(operator),
            _ => Err(format!("`%{name}%` takes no argument and no length")),
        };
        match name {
            "REQ" | "RESP" | "TRAILER" => {
                let argument = argument
                    .filter(|a| !a.is_empty())
                    .ok_or_else(|| format!("`%{name}%` needs a header name: `%{name}(x-name)%`"))?;
                let (first, other) = match argument.split_once('?') {
                    Some((first, other)) => (first, Some(other.to_ascii_lowercase().into())),
                    None => (argument, None),
                };
                let first = first.to_ascii_lowercase().into();
                Ok(match name {
                    "REQ" => Operator::Request(first, other, length),
                    "RESP" => Operator::Response(first, other, length),
                    _ => Operator::Trailer(first, other, length),
                })
            }
            "DYNAMIC_METADATA" => {
                let mut path = argument.unwrap_or_default().split(':').map(Box::<str>::from);
                let namespace = path.next().filter(|namespace| !namespace.is_empty()).ok_or_else(|| {
                    format!(
                        "`%{name}%` needs a namespace, and may have keys: `%{name}(envoy.filters.http.jwt_authn:key)%`"
                    )
                })?;
                Ok(Operator::DynamicMetadata(namespace, path.collect(), length))
            }
            _ => match PLAIN.iter().find(|(known, _)| *known == name) {
                Some((_, operator)) => plain(operator.clone()),
                None => {
                    let known: Vec<&str> = PLAIN.iter().map(|(known, _)| *known).collect();
                    Err(format!(
                        "operator `%{name}%` is not supported; supported: REQ, RESP, TRAILER, DYNAMIC_METADATA, {}",
                        known.join(", ")
                    ))
                }
            },
        }
    }
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

const PLAIN: &[(&str, Operator)] = &[
    ("START_TIME", Operator::StartTime),
    ("PROTOCOL", Operator::Protocol),
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    ("CONNECTION_TERMINATION_DETAILS", Operator::ConnectionTerminationDetails),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Operator::DownstreamTransportFailureReason),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Operator::UpstreamTransportFailureReason),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("RESPONSE_DURATION", Operator::ResponseDuration),
    ("REQUEST_DURATION", Operator::RequestDuration),
    ("UPSTREAM_HOST", Operator::UpstreamHost),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    ("UPSTREAM_LOCAL_ADDRESS", Operator::UpstreamLocalAddress),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Operator::UpstreamRequestAttemptCount),
    ("DOWNSTREAM_LOCAL_ADDRESS", Operator::DownstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::DownstreamLocalAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_PORT", Operator::DownstreamLocalPort),
    ("DOWNSTREAM_REMOTE_ADDRESS", Operator::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Operator::DownstreamDirectRemoteAddress),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamDirectRemoteAddressWithoutPort),
    ("REQUESTED_SERVER_NAME", Operator::RequestedServerName),
    ("ROUTE_NAME", Operator::RouteName),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::DownstreamPeerUriSan),
    ("DOWNSTREAM_PEER_SUBJECT", Operator::DownstreamPeerSubject),
    ("DOWNSTREAM_TLS_VERSION", Operator::DownstreamTlsVersion),
    ("DOWNSTREAM_TLS_CIPHER", Operator::DownstreamTlsCipher),
    ("VIRTUAL_CLUSTER_NAME", Operator::VirtualClusterName),
    ("HOSTNAME", Operator::Hostname),
    ("TRACE_ID", Operator::TraceId),
    ("SPAN_ID", Operator::SpanId),
];

/// Where one line per request (or TCP connection) goes.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Destination.
    pub sink: LogSink,
    /// What a line says.
    pub format: LogFormat,
    /// Which requests are logged; without it all of them.
    pub filter: Option<LogFilter>,
}

/// Destination of an access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum LogSink {
    Stdout,
    Stderr,
    File(Arc<str>),
    /// Whoever looks at requests at the moment; no configuration names it.
    Tap,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text; the newline is part of the template.
    Text(Template),
    /// A flat JSON object in this order; a newline follows.
    Json(Vec<(Box<str>, Template)>),
}

/// Istio's default text line.
pub const ISTIO_TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Envoy's default text line.
pub const ENVOY_TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_defaults_and_names_what_it_does_not_know() {
        for text in [ISTIO_TEXT_FORMAT, ENVOY_TEXT_FORMAT] {
            let parts = Template::parse(text).unwrap().parts;
            let operators = parts.iter().filter(|part| matches!(part, Part::Op(_))).count();
            assert_eq!(operators * 2, text.matches('%').count(), "an operator stands between two percent signs");
        }
        assert_eq!(Template::parse("100%%").unwrap().as_literal(), Some("100%"));
        assert_eq!(
            Template::parse("%REQ(X-A?:PATH):12%").unwrap().parts,
            [Part::Op(Operator::Request("x-a".into(), Some(":path".into()), Some(12)))]
        );
        assert_eq!(
            Template::parse("%DYNAMIC_METADATA(a.b:c:d):3%").unwrap().parts,
            [Part::Op(Operator::DynamicMetadata("a.b".into(), vec!["c".into(), "d".into()], Some(3)))]
        );
        assert!(Template::parse("%DYNAMIC_METADATA%").unwrap_err().contains("needs a namespace"));
        let error = Template::parse("%NOPE%").unwrap_err();
        assert!(error.starts_with("operator `%NOPE%` is not supported; supported: REQ"), "{error}");
        assert!(Template::parse("%REQ").unwrap_err().contains("not closed"));
        assert!(Template::parse("%REQ()%").unwrap_err().contains("header name"));
        assert!(Template::parse("%PROTOCOL(x)%").unwrap_err().contains("no argument"));
    }
}
