//! Collectors of OpenTelemetry, as tracers and access logs name them.

use std::time::Duration;

use pymesh_model::otlp::Collector;

use super::common::{duration, envoy_grpc, http_uri};
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;

/// How long an export may take if nothing else is said: as the exporters of OpenTelemetry.
const TIMEOUT: Duration = Duration::from_secs(10);

/// OTLP over gRPC.
pub(super) fn over_grpc(service: &core::GrpcService, at: &At<'_>) -> Option<Collector> {
    let (cluster, authority) = envoy_grpc(service, at)?;
    let metadata_at = at.field("initial_metadata");
    let headers = service.initial_metadata.iter().enumerate();
    Some(Collector {
        cluster: cluster.into(),
        authority,
        path: None,
        timeout: duration(service.timeout.as_ref(), &at.field("timeout")).unwrap_or(TIMEOUT),
        headers: headers.filter_map(|(index, value)| header(value, &metadata_at.index(index))).collect(),
    })
}

/// OTLP over HTTP.
pub(super) fn over_http(service: &core::HttpService, at: &At<'_>) -> Option<Collector> {
    let uri_at = at.field("http_uri");
    let Some(uri) = &service.http_uri else {
        uri_at.refuse("this must be set");
        return None;
    };
    let (cluster, authority, path) = http_uri(uri, &uri_at)?;
    let headers_at = at.field("request_headers_to_add");
    let headers = service.request_headers_to_add.iter().enumerate().filter_map(|(index, option)| {
        let at = headers_at.index(index);
        header(option.header.as_ref()?, &at.field("header"))
    });
    Some(Collector {
        cluster: cluster.into(),
        authority,
        path: Some(path),
        timeout: duration(uri.timeout.as_ref(), &uri_at.field("timeout")).unwrap_or(TIMEOUT),
        headers: headers.collect(),
    })
}

/// A header that every export carries: there is no request whose values it could show.
fn header(value: &core::HeaderValue, at: &At<'_>) -> Option<(Box<str>, Box<str>)> {
    let Ok(name) = ::http::HeaderName::from_bytes(value.key.as_bytes()) else {
        at.field("key").refuse(format!("`{}` is not the name of a header", value.key.escape_debug()));
        return None;
    };
    if value.value.contains('%') || ::http::HeaderValue::from_str(&value.value).is_err() {
        at.field("value")
            .refuse_with_hint("an export belongs to no request, and control characters end a header", "write a text");
        return None;
    }
    Some((name.as_str().into(), value.value.as_str().into()))
}
