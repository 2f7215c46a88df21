//! Substitution formats: header values and access logs (Envoy command operators).

mod operator;
mod time;

use std::sync::Arc;

pub use operator::{
    Address, GrpcStatusForm, HeaderSource, HostSource, Instant, Operator, PathSource, PeerFact, Shape, Side, Unit,
};
pub use time::{TimeField, TimeFormat, TimePart};

use crate::log_filter::LogFilter;
use crate::otlp::Exporter;

/// The variables of the process's environment.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

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

impl Template {
    /// Parses a format string.
    ///
    /// # Errors
    /// One message that names the operator and says what is known instead.
    pub fn parse(format: &str) -> Result<Template, String> {
        Template::parse_in(format, None)
    }

    /// The same where `%ENVIRONMENT(NAME)%` may stand, which is looked up here, once: a variable that is not set is `-`.
    ///
    /// # Errors
    /// Likewise; and a value that could end a line.
    pub fn parse_in(format: &str, environment: Option<&Variables<'_>>) -> Result<Template, String> {
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
            let command = after.get(..end).unwrap_or_default();
            rest = after.get(end + 1..).unwrap_or_default();
            if let Some((variables, (name, length))) = environment.zip(operator::variable(command)?) {
                text.push_str(&variable(variables, name, length)?);
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Op(Operator::parse(command)?));
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

fn variable(variables: &Variables<'_>, name: &str, length: Option<usize>) -> Result<String, String> {
    let value = variables(name).unwrap_or_else(|| "-".to_owned());
    match value.contains(char::is_control) {
        true => Err(format!("the environment variable `{name}` has control characters, which end a line")),
        false => Ok(value.chars().take(length.unwrap_or(usize::MAX)).collect()),
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

/// What is told of each request (or TCP connection), and where.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// What is told to whom.
    pub output: LogOutput,
    /// Which requests are logged; without it all of them.
    pub filter: Option<LogFilter>,
}

/// What an access log tells, and to whom.
#[derive(Clone, Debug)]
pub enum LogOutput {
    /// A line each.
    Lines(LogSink, LogFormat),
    /// A record each, for a collector of OpenTelemetry.
    Records(Arc<Exporter>, RecordFormat),
}

/// What a record says (OTLP `LogRecord`), beside when the request came and its place in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFormat {
    /// Its body, if it has one.
    pub body: Option<Template>,
    /// Its attributes.
    pub attributes: Vec<(Box<str>, Template)>,
}

/// Destination of lines.
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
        let variables = |name: &str| (name == "POD").then(|| "web-1".to_owned());
        let parsed = |text| Template::parse_in(text, Some(&variables));
        assert_eq!(parsed("<%ENVIRONMENT(POD):3%> %ENVIRONMENT(X)%").unwrap().as_literal(), Some("<web> -"));
        assert!(parsed("%ENVIRONMENT%").unwrap_err().contains("name of a variable"));
        assert!(Template::parse("%ENVIRONMENT(POD)%").unwrap_err().contains("not supported"));
        assert!(Template::parse_in("%ENVIRONMENT(A)%", Some(&|_| Some("a\nb".into())))
            .unwrap_err()
            .contains("control"));
        assert!(Template::parse("%REQ").unwrap_err().contains("not closed"));
        assert!(Template::parse("%REQ()%").unwrap_err().contains("header name"));
        assert!(Template::parse("%PROTOCOL(x)%").unwrap_err().contains("no argument"));
        for (wrong, said) in [
            ("%START_TIME(%Q)%", "`%Q`"),
            ("%START_TIME(%0f)%", "`%0f`"),
            ("%START_TIME(%Y):3%", "no length"),
            ("%GRPC_STATUS(HEX)%", "CAMEL_STRING, SNAKE_STRING or NUMBER"),
            ("%GRPC_STATUS_NUMBER(x)%", "no argument"),
            ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END)%", "COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)"),
            ("%COMMON_DURATION(DS_RX_BEG:US_CX_BEG:ms)%", "`US_CX_BEG`"),
            ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%", "`s`"),
            ("%METADATA(CLUSTER:a)%", "DYNAMIC"),
            ("%PATH(X)%", "`X`"),
            ("%PATH(NQ:X)%", "`X`"),
            ("%REQUESTED_SERVER_NAME(X)%", "SNI_ONLY, SNI_FIRST, HOST_FIRST"),
            ("%QUERY_PARAM%", "parameter"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(129)%", "129"),
            ("%DOWNSTREAM_REMOTE_ADDRESS(16)%", "no argument"),
            ("%UPSTREAM_WIRE_BYTES_SENT%", "not supported"),
            ("%REQ_WITHOUT_QUERY(:PATH)%", "not supported"),
        ] {
            let error = Template::parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
