//! Access logs: file, standard output, standard error, and records for a collector of OpenTelemetry.

use std::sync::Arc;

use prost::Name as _;
use pymesh_model::format::{AccessLog, LogFormat, LogOutput, LogSink, RecordFormat, Template, ENVOY_TEXT_FORMAT};
use pymesh_model::otlp::{Exporter, Signal};

use super::common::{data_source, open};
use super::{log_filter, otlp, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::accesslog::v3 as accesslog;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::access_loggers::file::v3::{file_access_log, FileAccessLog};
use crate::proto::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use crate::proto::envoy::extensions::access_loggers::stream::v3::{
    stderr_access_log, stdout_access_log, StderrAccessLog, StdoutAccessLog,
};
use crate::proto::opentelemetry::proto::common::v1 as common;

/// Records of a worker that may wait for a collector.
const RECORDS: usize = 4096;

pub(super) fn access_logs(logs: &[accesslog::AccessLog], at: &At<'_>, cx: &mut Context<'_>) -> Vec<Arc<AccessLog>> {
    logs.iter().enumerate().filter_map(|(index, log)| access_log(log, &at.index(index), cx)).map(Arc::new).collect()
}

fn access_log(log: &accesslog::AccessLog, at: &At<'_>, cx: &mut Context<'_>) -> Option<AccessLog> {
    let filter = log.filter.as_ref().and_then(|filter| log_filter::filter(filter, &at.field("filter")));
    let at = &at.field("typed_config");
    let any = log.config_type.as_ref().map(|accesslog::access_log::ConfigType::TypedConfig(any)| any);
    let opened = open(any, at)?;
    let (sink, format) = if opened.is::<FileAccessLog>() {
        let config: FileAccessLog = opened.decode(at)?;
        let sink = match config.path.as_str() {
            "/dev/stdout" => LogSink::Stdout,
            "/dev/stderr" => LogSink::Stderr,
            path => LogSink::File(path.into()),
        };
        (sink, config.access_log_format.map(|file_access_log::AccessLogFormat::LogFormat(format)| format))
    } else if opened.is::<StdoutAccessLog>() {
        let config: StdoutAccessLog = opened.decode(at)?;
        let format = config.access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stdout, format)
    } else if opened.is::<StderrAccessLog>() {
        let config: StderrAccessLog = opened.decode(at)?;
        let format = config.access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(format)| format);
        (LogSink::Stderr, format)
    } else if opened.is::<OpenTelemetryAccessLogConfig>() {
        let (exporter, format) = records(&opened.decode(at)?, at, cx)?;
        return Some(AccessLog { output: LogOutput::Records(Arc::new(exporter), format), filter });
    } else {
        let supported = [
            FileAccessLog::full_name(),
            StdoutAccessLog::full_name(),
            StderrAccessLog::full_name(),
            OpenTelemetryAccessLogConfig::full_name(),
        ];
        opened.refuse(&supported, at);
        return None;
    };
    let format = match format {
        Some(format) => log_format(&format, &at.field("log_format"), cx)?,
        None => LogFormat::Text(at.ok(Template::parse(ENVOY_TEXT_FORMAT))?),
    };
    Some(AccessLog { output: LogOutput::Lines(sink, format), filter })
}

/// `OpenTelemetryAccessLogConfig`.
fn records(
    config: &OpenTelemetryAccessLogConfig,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<(Exporter, RecordFormat)> {
    let common_at = at.field("common_config");
    let Some(common) = &config.common_config else {
        common_at.refuse_with_hint("records have nowhere to go", "name a collector in its `grpc_service`");
        return None;
    };
    let Some(service) = &common.grpc_service else {
        common_at.field("grpc_service").refuse("this must be set");
        return None;
    };
    let collector = otlp::over_grpc(service, &common_at.field("grpc_service"))?;
    cx.needs.clusters.push((at.path(), collector.cluster.clone()));
    let resource = pairs(config.resource_attributes.as_ref(), &at.field("resource_attributes"), |value, at| {
        Some(text(value, at)?.into())
    });
    let exporter = Exporter {
        signal: Signal::Logs { labelled: (!config.disable_builtin_labels).then(|| common.log_name.as_str().into()) },
        collector,
        resource,
        queue: RECORDS,
    };
    let format = RecordFormat {
        body: config
            .body
            .as_ref()
            .and_then(|body| template(text(Some(body), &at.field("body"))?, &at.field("body"), cx)),
        attributes: pairs(config.attributes.as_ref(), &at.field("attributes"), |value, at| {
            template(text(value, at)?, at, cx)
        }),
    };
    Some((exporter, format))
}

/// The members of a list.
fn pairs<T>(
    list: Option<&common::KeyValueList>,
    at: &At<'_>,
    read: impl Fn(Option<&common::AnyValue>, &At<'_>) -> Option<T>,
) -> Vec<(Box<str>, T)> {
    let at = &at.field("values");
    let values = list.map(|list| list.values.as_slice()).unwrap_or_default().iter().enumerate();
    let member = |(index, pair): (usize, &common::KeyValue)| {
        Some((pair.key.as_str().into(), read(pair.value.as_ref(), &at.index(index).field("value"))?))
    };
    values.filter_map(member).collect()
}

fn template(format: &str, at: &At<'_>, cx: &Context<'_>) -> Option<Template> {
    let variables = |name: &str| cx.environment.sources.variable(name).ok();
    at.ok(Template::parse_in(format, Some(&variables)))
}

fn text<'a>(value: Option<&'a common::AnyValue>, at: &At<'_>) -> Option<&'a str> {
    match value.and_then(|value| value.value.as_ref()) {
        Some(common::any_value::Value::StringValue(text)) => Some(text),
        None => {
            at.refuse("`string_value` must be set");
            None
        }
    }
}

fn log_format(format: &core::SubstitutionFormatString, at: &At<'_>, cx: &Context<'_>) -> Option<LogFormat> {
    use core::substitution_format_string::Format;
    match format.format.as_ref()? {
        Format::TextFormat(text) => template(text, &at.field("text_format"), cx).map(LogFormat::Text),
        Format::TextFormatSource(source) => {
            let at = &at.field("text_format_source");
            let octets = data_source(Some(source), at, cx)?;
            let text = at.ok(String::from_utf8(octets))?;
            template(&text, at, cx).map(LogFormat::Text)
        }
        Format::JsonFormat(object) => {
            let at = &at.field("json_format");
            let mut members = Vec::with_capacity(object.fields.len());
            for (name, value) in &object.fields {
                let at = &at.key(name);
                match &value.kind {
                    Some(prost_types::value::Kind::StringValue(text)) => {
                        members.extend(template(text, at, cx).map(|template| (name.as_str().into(), template)));
                    }
                    _ => at.refuse("only strings with command operators are supported here"),
                }
            }
            Some(LogFormat::Json(members))
        }
    }
}

#[cfg(test)]
mod tests {
    /// The problems of a listener whose TCP proxy has an access log with this configuration.
    fn problems(config: &str) -> String {
        let yaml = format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: a
          access_log:
          - name: otel
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig
              {config}
  clusters: [{{name: a}}]
"
        );
        match crate::load_bootstrap("b.yaml", &yaml) {
            Ok(_) => String::new(),
            Err(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        }
    }

    const TO: &str =
        "common_config: {log_name: l, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: a}}}";

    #[test]
    fn a_collector_is_taken_and_what_is_not_done_is_refused_by_name() {
        assert_eq!(problems(&format!("{TO}\n              body: {{string_value: \"%PROTOCOL%\"}}")), "");
        for (config, said) in [
            ("disable_builtin_labels: true".to_owned(), "records have nowhere to go"),
            ("common_config: {log_name: l}".to_owned(), "grpc_service"),
            (format!("{TO}\n              body: {{string_value: \"%NOPE%\"}}"), "operator `%NOPE%` is not supported"),
            (format!("{TO}\n              body: {{int_value: 3}}"), "int_value"),
            (format!("{TO}\n              stat_prefix: mine"), "stat_prefix"),
            (TO.replace("cluster_name: a", "cluster_name: unknown"), "unknown"),
        ] {
            let found = problems(&config);
            assert!(found.contains(said), "{config}: {found}");
        }
    }
}
