//! Access logs: file, standard output and standard error.

use std::sync::Arc;

use prost::Name as _;
use pymesh_model::format::{AccessLog, LogFormat, LogSink, Template, ENVOY_TEXT_FORMAT};

use super::common::{data_source, open};
use super::{log_filter, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::accesslog::v3 as accesslog;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::access_loggers::file::v3::{file_access_log, FileAccessLog};
use crate::proto::envoy::extensions::access_loggers::stream::v3::{
    stderr_access_log, stdout_access_log, StderrAccessLog, StdoutAccessLog,
};

pub(super) fn access_logs(logs: &[accesslog::AccessLog], at: &At<'_>, cx: &Context<'_>) -> Vec<Arc<AccessLog>> {
    logs.iter().enumerate().filter_map(|(index, log)| access_log(log, &at.index(index), cx)).map(Arc::new).collect()
}

fn access_log(log: &accesslog::AccessLog, at: &At<'_>, cx: &Context<'_>) -> Option<AccessLog> {
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
    } else {
        opened.refuse(&[FileAccessLog::full_name(), StdoutAccessLog::full_name(), StderrAccessLog::full_name()], at);
        return None;
    };
    let format = match format {
        Some(format) => log_format(&format, &at.field("log_format"), cx)?,
        None => LogFormat::Text(at.ok(Template::parse(ENVOY_TEXT_FORMAT))?),
    };
    Some(AccessLog { sink, format, filter })
}

fn log_format(format: &core::SubstitutionFormatString, at: &At<'_>, cx: &Context<'_>) -> Option<LogFormat> {
    use core::substitution_format_string::Format;
    match format.format.as_ref()? {
        Format::TextFormat(text) => at.field("text_format").ok(Template::parse(text)).map(LogFormat::Text),
        Format::TextFormatSource(source) => {
            let at = &at.field("text_format_source");
            let octets = data_source(Some(source), at, cx)?;
            let text = at.ok(String::from_utf8(octets))?;
            at.ok(Template::parse(&text)).map(LogFormat::Text)
        }
        Format::JsonFormat(object) => {
            let at = &at.field("json_format");
            let mut members = Vec::with_capacity(object.fields.len());
            for (name, value) in &object.fields {
                let at = &at.key(name);
                match &value.kind {
                    Some(prost_types::value::Kind::StringValue(text)) => {
                        members.extend(at.ok(Template::parse(text)).map(|template| (name.as_str().into(), template)));
                    }
                    _ => at.refuse("only strings with command operators are supported here"),
                }
            }
            Some(LogFormat::Json(members))
        }
    }
}
