//! Access log lines.

use std::collections::HashMap;

use pymesh_model::format::{AccessLog, GrpcStatusForm, LogFormat, LogSink, Operator, Part, Shape, Template};
use pymesh_model::metadata::Value;

use super::json;
use super::view::View;

/// Lines that wait for whoever writes them to their sinks. Bounded: a slow
/// sink loses lines, and the loss is counted; it never holds up a request.
#[derive(Default)]
pub(crate) struct Lines {
    by_sink: HashMap<LogSink, Vec<u8>>,
    pub dropped: u64,
}

/// Most octets that wait for one sink.
const MOST_WAITING: usize = 1 << 20;

impl Lines {
    /// Writes one line.
    pub fn log(&mut self, log: &AccessLog, view: &View<'_>) {
        if !self.by_sink.contains_key(&log.sink) {
            self.by_sink.insert(log.sink.clone(), Vec::new());
        }
        let Some(out) = self.by_sink.get_mut(&log.sink) else { return };
        if out.len() > MOST_WAITING {
            self.dropped += 1;
            return;
        }
        match &log.format {
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
            | Operator::Address(_, Shape::Port)
    )
}
