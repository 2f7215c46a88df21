//! Header operations of route tables, virtual hosts, routes and weighted clusters.

use pymesh_model::format::Template;
use pymesh_model::route::{AppendAction, HeaderAdd, HeaderEdit, HeaderOps};

use super::common::enumerator;
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use core::header_value_option::HeaderAppendAction;

/// The four fields that every level has.
pub(super) struct Fields<'a> {
    pub(super) request_add: &'a [core::HeaderValueOption],
    pub(super) request_remove: &'a [String],
    pub(super) response_add: &'a [core::HeaderValueOption],
    pub(super) response_remove: &'a [String],
}

/// Names the four fields of a message.
macro_rules! header_fields {
    ($message:expr) => {
        $crate::translate::header::Fields {
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}
pub(super) use header_fields;

pub(super) fn operations(fields: &Fields<'_>, at: &At<'_>) -> HeaderOps {
    HeaderOps {
        request: HeaderEdit {
            remove: removals(fields.request_remove, &at.field("request_headers_to_remove")),
            add: additions(fields.request_add, true, &at.field("request_headers_to_add")),
        },
        response: HeaderEdit {
            remove: removals(fields.response_remove, &at.field("response_headers_to_remove")),
            add: additions(fields.response_add, false, &at.field("response_headers_to_add")),
        },
    }
}

/// What routing and framing rest on cannot be taken away.
pub(super) fn removals(names: &[String], at: &At<'_>) -> Vec<Box<str>> {
    names.iter().enumerate().filter_map(|(index, name)| removal(name, &at.index(index))).collect()
}

pub(super) fn removal(name: &str, at: &At<'_>) -> Option<Box<str>> {
    let name = name.to_ascii_lowercase();
    if name.starts_with(':') || name == "host" {
        at.refuse(format!("`{name}` cannot be removed"));
    } else if !is_field_name(&name) {
        at.refuse(format!("`{}` is not an HTTP header name", name.escape_debug()));
    } else {
        return Some(name.into());
    }
    None
}

pub(super) fn additions(options: &[core::HeaderValueOption], request: bool, at: &At<'_>) -> Vec<HeaderAdd> {
    options.iter().enumerate().filter_map(|(index, option)| addition(option, request, &at.index(index))).collect()
}

/// One that touches neither the target nor the host.
pub(super) fn ordinary_addition(option: &core::HeaderValueOption, at: &At<'_>) -> Option<HeaderAdd> {
    addition(option, false, at)
}

fn addition(option: &core::HeaderValueOption, request: bool, at: &At<'_>) -> Option<HeaderAdd> {
    let action = match enumerator(option.append_action) {
        HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
        HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    let header = option.header.as_ref()?;
    let at = &at.field("header");
    let mut name = header.key.to_ascii_lowercase();
    if name == "host" {
        ":authority".clone_into(&mut name);
    }
    let overwrites = matches!(action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists);
    match name.as_str() {
        ":path" | ":authority" if request && overwrites => {}
        ":path" | ":authority" if request => {
            at.field("key").refuse_with_hint(
                format!("`{}` cannot be added, only overwritten", header.key),
                "set `append_action: OVERWRITE_IF_EXISTS_OR_ADD`",
            );
        }
        _ if name.starts_with(':') => at.field("key").refuse(format!("`{name}` cannot be changed")),
        _ if is_connection_header(&name) => {
            at.field("key").refuse(format!("`{name}` belongs to one connection, so it cannot be set for a message"));
        }
        _ if !is_field_name(&name) => {
            at.field("key").refuse(format!("`{}` is not an HTTP header name", header.key.escape_debug()));
        }
        _ => {}
    }
    let value = at.field("value").ok(Template::parse(&header.value))?;
    Some(HeaderAdd { name: name.into(), value, action, keep_empty: option.keep_empty_value })
}

/// The name, in lower case, of a header that the proxy sets on a request.
pub(super) fn settable(name: &str, at: &At<'_>) -> Option<Box<str>> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        _ if !is_field_name(&lower) => at.refuse(format!("`{}` is not an HTTP header name", name.escape_debug())),
        "host" => at.refuse("`host` cannot be set here"),
        _ if is_connection_header(&lower) => {
            at.refuse(format!("`{lower}` belongs to one connection, so it cannot be set for a message"));
        }
        _ => return Some(lower.into()),
    }
    None
}

/// RFC 9110, section 5.1.
pub(super) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b))
}

/// RFC 9110, section 7.6.1, and what frames a message.
fn is_connection_header(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "te" | "content-length"
    )
}
