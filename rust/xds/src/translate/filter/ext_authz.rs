//! `extensions.filters.http.ext_authz.v3.ExtAuthz`, a route's part of it, and the network filter of that name.

use std::sync::Arc;
use std::time::Duration;

use pymesh_model::filter::{
    AuthzBody, AuthzRoute, AuthzRouteBody, AuthzService, ConnectionAuthz, ExtAuthz, GrpcAuthz, HeaderNames, HttpAuthz,
};
use pymesh_model::metadata::MetadataMatch;
use pymesh_model::route::HeaderEdit;

use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::http::ext_authz::v3 as authz;
use crate::proto::envoy::extensions::filters::network::ext_authz::v3 as network;
use crate::proto::envoy::r#type::matcher::v3::{ListStringMatcher, MetadataMatcher};
use crate::translate::common::{duration, envoy_grpc};
use crate::translate::{header, matcher};

/// Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);
const FORBIDDEN: u16 = 403;

/// `validate_mutations` says nothing new: an answer that cannot be carried out always refuses its request.
pub(super) fn filter(config: &authz::ExtAuthz, at: &At<'_>) -> Option<ExtAuthz> {
    only_version_3(config.transport_api_version, at);
    let body_at = at.field("with_request_body");
    let service = match &config.services {
        Some(authz::ext_authz::Services::GrpcService(service)) => {
            AuthzService::Grpc(grpc_service(service, &at.field("grpc_service"))?)
        }
        Some(authz::ext_authz::Services::HttpService(service)) => {
            AuthzService::Http(Box::new(http_service(service, &at.field("http_service"))?))
        }
        None => {
            at.refuse_with_hint("nobody is asked", "name who decides in `grpc_service` or `http_service`");
            return None;
        }
    };
    let is_http = matches!(service, AuthzService::Http(_));
    let shown = config.allowed_headers.as_ref().map(|list| names(Some(list), &at.field("allowed_headers")));
    Some(ExtAuthz {
        service,
        allows_on_failure: config.failure_mode_allow,
        tells_failure: config.failure_mode_allow_header_add,
        body: config.with_request_body.as_ref().map(|config| AuthzBody {
            // In a request of HTTP there is no other way.
            as_bytes: is_http || config.pack_as_bytes,
            ..body(config, &body_at)
        }),
        reroutes: config.clear_route_cache,
        // As in Envoy.
        status_on_error: config
            .status_on_error
            .and_then(|status| u16::try_from(status.code).ok())
            .filter(|code| (200..600).contains(code))
            .unwrap_or(FORBIDDEN),
        enabled: matcher::share(config.filter_enabled.as_ref(), 1_000_000, &at.field("filter_enabled")),
        enabled_metadata: enabled_metadata(config.filter_enabled_metadata.as_ref(), at),
        // Without a runtime the default is what counts.
        denies_if_disabled: config.deny_at_disable.as_ref().and_then(|flag| flag.default_value).unwrap_or(false),
        shows_certificate: config.include_peer_certificate,
        shows_tls_session: config.include_tls_session,
        told: namespaces(&config.metadata_context_namespaces),
        keeps_metadata: config.enable_dynamic_metadata_ingestion.unwrap_or(true),
        stat_prefix: config.stat_prefix.as_str().into(),
        // A service of HTTP is shown a few headers unless more are named, one of gRPC all.
        shown: if is_http { Some(shown.unwrap_or_default()) } else { shown },
        hidden: names(config.disallowed_headers.as_ref(), &at.field("disallowed_headers")),
        most_denied_body: usize::try_from(config.max_denied_response_body_bytes).unwrap_or(usize::MAX),
    })
}

/// `None`: requests of the route are not asked about.
pub(super) fn of_route(config: &authz::ExtAuthzPerRoute, at: &At<'_>) -> Option<AuthzRoute> {
    use authz::ext_authz_per_route::Override;
    let settings = match config.r#override.as_ref()? {
        Override::Disabled(is_disabled) => {
            if !is_disabled {
                at.field("disabled").refuse_with_hint("this can only be true", "leave the whole out to ask");
            }
            return None;
        }
        Override::CheckSettings(settings) => settings,
    };
    let at = at.field("check_settings");
    let own = settings.with_request_body.as_ref().map(|config| body(config, &at.field("with_request_body")));
    if own.is_some() && settings.disable_request_body_buffering {
        at.field("disable_request_body_buffering")
            .refuse_with_hint("this contradicts `with_request_body`", "leave one of them out");
    }
    let mut context: Vec<(Box<str>, Box<str>)> =
        settings.context_extensions.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    context.sort();
    let body = match own {
        Some(own) => AuthzRouteBody::Own(own),
        None if settings.disable_request_body_buffering => AuthzRouteBody::No,
        None => AuthzRouteBody::AsFilter,
    };
    Some(AuthzRoute { context, body })
}

pub(in crate::translate) fn connections(config: &network::ExtAuthz, at: &At<'_>) -> Option<ConnectionAuthz> {
    only_version_3(config.transport_api_version, at);
    let Some(service) = &config.grpc_service else {
        at.field("grpc_service").refuse("this must be set");
        return None;
    };
    let service_at = at.field("grpc_service");
    let translated = grpc_service(service, &service_at)?;
    let metadata_at = service_at.field("initial_metadata");
    for (index, value) in service.initial_metadata.iter().enumerate() {
        if value.value.replace("%%", "").contains('%') {
            metadata_at.index(index).field("value").refuse_with_hint(
                format!("`{}` asks for values of a request, and a connection has none", value.value.escape_debug()),
                "write a text",
            );
        }
    }
    Some(ConnectionAuthz {
        service: translated,
        allows_on_failure: config.failure_mode_allow,
        shows_certificate: config.include_peer_certificate,
        shows_tls_session: config.include_tls_session,
        enabled_metadata: enabled_metadata(config.filter_enabled_metadata.as_ref(), at),
        told: namespaces(&config.metadata_context_namespaces),
        stat_prefix: config.stat_prefix.as_str().into(),
    })
}

fn only_version_3(version: i32, at: &At<'_>) {
    if version != core::ApiVersion::V3 as i32 {
        at.field("transport_api_version").refuse_with_hint("other versions of the API are gone", "write V3");
    }
}

fn grpc_service(config: &core::GrpcService, at: &At<'_>) -> Option<GrpcAuthz> {
    let (cluster, authority) = envoy_grpc(config, at)?;
    Some(GrpcAuthz {
        cluster: cluster.into(),
        authority: authority.into(),
        timeout: limit(config.timeout.as_ref(), &at.field("timeout")),
        metadata: additions(&config.initial_metadata, &at.field("initial_metadata")),
    })
}

fn http_service(config: &authz::HttpService, at: &At<'_>) -> Option<HttpAuthz> {
    let uri_at = at.field("server_uri");
    let Some(uri) = &config.server_uri else {
        uri_at.refuse("this must be set");
        return None;
    };
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        uri_at.field("cluster").refuse("this must be set");
        return None;
    };
    if !config.path_prefix.is_empty() && !config.path_prefix.starts_with('/') {
        at.field("path_prefix").refuse_with_hint("a path begins with `/`", format!("write `/{}`", config.path_prefix));
    }
    let request_at = at.field("authorization_request");
    let add =
        config.authorization_request.as_ref().map(|request| request.headers_to_add.as_slice()).unwrap_or_default();
    let answer_at = at.field("authorization_response");
    let answer = config.authorization_response.clone().unwrap_or_default();
    Some(HttpAuthz {
        cluster: cluster.as_str().into(),
        timeout: limit(uri.timeout.as_ref(), &uri_at.field("timeout")),
        path_prefix: config.path_prefix.as_str().into(),
        add: additions(add, &request_at.field("headers_to_add")),
        to_upstream: names(answer.allowed_upstream_headers.as_ref(), &answer_at.field("allowed_upstream_headers")),
        to_upstream_too: names(
            answer.allowed_upstream_headers_to_append.as_ref(),
            &answer_at.field("allowed_upstream_headers_to_append"),
        ),
        to_client: names(answer.allowed_client_headers.as_ref(), &answer_at.field("allowed_client_headers")),
        to_client_on_success: names(
            answer.allowed_client_headers_on_success.as_ref(),
            &answer_at.field("allowed_client_headers_on_success"),
        ),
        to_metadata: names(
            answer.dynamic_metadata_from_headers.as_ref(),
            &answer_at.field("dynamic_metadata_from_headers"),
        ),
    })
}

/// Whoever is never answered would wait for ever.
fn limit(config: Option<&prost_types::Duration>, at: &At<'_>) -> Duration {
    let limit = duration(config, at).unwrap_or(TIMEOUT);
    if limit.is_zero() {
        at.refuse_with_hint(
            "without a limit a service that says nothing would hold requests for ever",
            "write how long an answer may take, as in `0.5s`",
        );
    }
    limit
}

/// Headers in place of others of their names.
fn additions(config: &[core::HeaderValue], at: &At<'_>) -> HeaderEdit {
    let action = core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32;
    let add = config.iter().enumerate().filter_map(|(index, value)| {
        let option = core::HeaderValueOption {
            header: Some(value.clone()),
            append_action: action,
            ..core::HeaderValueOption::default()
        };
        header::ordinary_addition(&option, &at.index(index))
    });
    HeaderEdit { remove: Vec::new(), add: add.collect() }
}

fn body(config: &authz::BufferSettings, at: &At<'_>) -> AuthzBody {
    if config.max_request_bytes == 0 {
        at.field("max_request_bytes")
            .refuse_with_hint("this must be above zero", "leave the whole out to show no body");
    }
    AuthzBody {
        most: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        partial: config.allow_partial_message,
        as_bytes: config.pack_as_bytes,
    }
}

/// One that cannot be understood must not make the filter ask about everything, nor about nothing: it is refused.
fn enabled_metadata(config: Option<&MetadataMatcher>, at: &At<'_>) -> Option<MetadataMatch> {
    matcher::metadata(config?, &at.field("filter_enabled_metadata"))
}

fn namespaces(config: &[String]) -> Vec<Arc<str>> {
    config.iter().map(|name| name.as_str().into()).collect()
}

fn names(config: Option<&ListStringMatcher>, at: &At<'_>) -> HeaderNames {
    let at = at.field("patterns");
    let patterns = config.into_iter().flat_map(|list| &list.patterns).enumerate();
    HeaderNames(patterns.filter_map(|(index, pattern)| matcher::string(pattern, &at.index(index))).collect())
}

#[cfg(test)]
mod tests;
