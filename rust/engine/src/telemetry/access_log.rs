//! Access logs: lines for files, and records for collectors of OpenTelemetry.

use std::collections::HashMap;
use std::sync::Arc;

use pymesh_model::format::{
    AccessLog, GrpcStatusForm, LogFormat, LogOutput, LogSink, Operator, Part, RecordFormat, Shape, Template,
};
use pymesh_model::metadata::Value;
use pymesh_model::otlp::Exporter;

use super::json;
use super::view::View;
use crate::base::protobuf::Message;
use crate::otlp::{text_attribute, text_value};

/// Lines that wait for whoever writes them to their sinks. Bounded: a slow
/// sink loses lines, and the loss is counted; it never holds up a request.
#[derive(Default)]
pub(crate) struct Lines {
    by_sink: HashMap<LogSink, Vec<u8>>,
    pub dropped: u64,
    /// Those of this turn, for the queues of their collectors.
    pub records: Vec<(Arc<Exporter>, Message)>,
}

/// Most octets that wait for one sink.
const MOST_WAITING: usize = 1 << 20;

impl Lines {
    /// Writes one line or record.
    pub fn log(&mut self, log: &AccessLog, view: &View<'_>) {
        let (sink, format) = match &log.output {
            LogOutput::Lines(sink, format) => (sink, format),
            LogOutput::Records(exporter, format) => {
                return self.records.push((exporter.clone(), record(format, view)));
            }
        };
        if !self.by_sink.contains_key(sink) {
            self.by_sink.insert(sink.clone(), Vec::new());
        }
        let Some(out) = self.by_sink.get_mut(sink) else { return };
        if out.len() > MOST_WAITING {
            self.dropped += 1;
            return;
        }
        match format {
            LogFormat::Text(template) => text(template, view, out),
            LogFormat::Json(fields) => object(fields, view, out),
        }
    }

    /// Writes a whole line as it is.
    pub fn raw(&mut self, sink: &LogSink, line: &[u8]) {
        let out = self.by_sink.entry(sink.clone()).or_default();
        match out.len() > MOST_WAITING {
            true => self.dropped += 1,
            false => out.extend_from_slice(line),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_sink.values().all(Vec::is_empty)
    }

    /// Everything that waits, by sink.
    pub fn take(&mut self, mut write: impl FnMut(&LogSink, &mut Vec<u8>)) {
        for (sink, lines) in self.by_sink.iter_mut().filter(|(_, lines)| !lines.is_empty()) {
            write(sink, lines);
        }
    }
}

/// The fields of a `LogRecord`.
fn record(format: &RecordFormat, view: &View<'_>) -> Message {
    let mut record = Message::default();
    record.fixed64(1, view.clock.unix_nanos(view.started));
    let mut value = Vec::new();
    let mut rendered = |template: &Template, write: &mut dyn FnMut(&[u8])| {
        value.clear();
        view.render(template, "-", &mut value);
        write(&value);
    };
    if let Some(body) = &format.body {
        rendered(body, &mut |text| record.message(5, |any| text_value(any, text)));
    }
    for (name, template) in &format.attributes {
        rendered(template, &mut |text| text_attribute(&mut record, 6, name, text));
    }
    if let Some((trace, span)) = view.trace {
        record.octets(9, &trace.to_be_bytes());
        record.octets(10, &span.to_be_bytes());
    }
    record
}

/// A control character in a value could forge a line: it is escaped.
fn text(template: &Template, view: &View<'_>, out: &mut Vec<u8>) {
    for part in &template.parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Op(operator) => {
                let start = out.len();
                if !view.operator(operator, out) {
                    out.push(b'-');
                } else if out.get(start..).is_some_and(|value| value.iter().any(|b| *b < 0x20)) {
                    let value = out.split_off(start);
                    for byte in value {
                        match byte {
                            0..=0x1f => out.extend(format!("\\x{byte:02x}").bytes()),
                            _ => out.push(byte),
                        }
                    }
                }
            }
        }
    }
}

fn object(fields: &[(Box<str>, Template)], view: &View<'_>, out: &mut Vec<u8>) {
    let mut value = Vec::new();
    let mut separator = b'{';
    for (name, template) in fields {
        out.push(separator);
        separator = b',';
        json::string(name.as_bytes(), out);
        out.push(b':');
        value.clear();
        match template.parts.as_slice() {
            [Part::Op(Operator::DynamicMetadata(namespace, path, None))] => {
                json::value(&view.metadata(namespace, path).unwrap_or(Value::Null), out);
            }
            [Part::Op(operator)] => match view.operator(operator, &mut value) {
                false => out.extend(b"null"),
                true if is_number(operator) => out.extend(&value),
                true => json::string(&value, out),
            },
            _ => {
                view.render(template, "-", &mut value);
                json::string(&value, out);
            }
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.extend(b"}\n");
}

fn is_number(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::ResponseCode
            | Operator::BytesReceived
            | Operator::BytesSent
            | Operator::Duration
            | Operator::RequestDuration
            | Operator::ResponseDuration
            | Operator::Between(..)
            | Operator::GrpcStatus(GrpcStatusForm::Number)
            | Operator::UpstreamRequestAttemptCount
            | Operator::ConnectionId(_)
            | Operator::HeadersBytes(_)
            | Operator::Address(_, Shape::Port)
    )
}
