//! `HttpConnectionManager`.

use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use pymesh_model::http::{
    ClientCert, ClientCertDetails, Codec, EscapedSlashes, Forwarding, HeaderCase, Http2Guards, HttpConnectionManager,
    HttpLimits, HttpTimeouts, PathPolicy, RouteSource, ServerHeader, StripPort, Underscores,
};
use pymesh_model::route::Upgrade;

use super::common::{config_source, duration, duration_or, enumerator, open, prefixes};
use super::{access_log, filter, route, tracing, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use hcm::http_connection_manager as field;

/// Envoy's default for `server_name`.
const SERVER_NAME: &str = "envoy";

pub(super) fn connection_manager(
    config: &hcm::HttpConnectionManager,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<HttpConnectionManager> {
    let codec = match enumerator(config.codec_type) {
        field::CodecType::Auto => Codec::Auto,
        field::CodecType::Http1 => Codec::Http1,
        field::CodecType::Http2 => Codec::Http2,
        field::CodecType::Http3 => {
            at.field("codec_type").refuse_with_hint("HTTP/3 is not supported", "write AUTO");
            Codec::Auto
        }
    };
    let routes = match config.route_specifier.as_ref()? {
        field::RouteSpecifier::RouteConfig(table) => {
            RouteSource::Inline(Arc::new(route::route_table(table, true, &at.field("route_config"), cx)))
        }
        field::RouteSpecifier::Rds(rds) => {
            let at = &at.field("rds");
            let patience = config_source(rds.config_source.as_ref(), &at.field("config_source"), cx);
            if rds.route_config_name.is_empty() {
                at.field("route_config_name").refuse("this must be set, and not be empty");
            }
            let name: Arc<str> = rds.route_config_name.as_str().into();
            cx.needs.routes.insert(name.clone(), patience);
            RouteSource::Named(name)
        }
    };
    let http1 = config.http_protocol_options.as_ref();
    let upgrades_at = at.field("upgrade_configs");
    let upgrades = config.upgrade_configs.iter().enumerate();
    let upgrades = upgrades.map(|(i, u)| upgrade(&u.upgrade_type, u.enabled, false, &upgrades_at.index(i)));
    let (filters, stats) = filter::filters(&config.http_filters, &at.field("http_filters"), cx);
    Some(HttpConnectionManager {
        stat_prefix: config.stat_prefix.as_str().into(),
        codec,
        routes,
        filters,
        timeouts: timeouts(config, at),
        limits: limits(config, at),
        path: path_policy(config, at),
        forwarding: forwarding(config, at),
        server_name: if config.server_name.is_empty() { SERVER_NAME } else { &config.server_name }.into(),
        server_header: match enumerator(config.server_header_transformation) {
            field::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            field::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            field::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        generate_request_id: config.generate_request_id.unwrap_or(true),
        preserve_external_request_id: config.preserve_external_request_id,
        always_set_request_id_in_response: config.always_set_request_id_in_response,
        upgrades: upgrades.collect(),
        allow_connect: config.http2_protocol_options.as_ref().is_some_and(|http2| http2.allow_connect),
        proxy_100_continue: config.proxy_100_continue,
        default_host_for_http_10: http1
            .map(|http1| http1.default_host_for_http_10.as_str())
            .filter(|host| !host.is_empty())
            .map(Into::into),
        header_case: http1.map_or(HeaderCase::Lower, |http1| header_case(http1, &at.field("http_protocol_options"))),
        via: (!config.via.is_empty()).then(|| config.via.as_str().into()),
        access_logs: access_log::access_logs(&config.access_log, &at.field("access_log"), cx),
        tracing: config.tracing.as_ref().and_then(|config| tracing::tracing(config, &at.field("tracing"), cx)),
        stats,
    })
}

fn timeouts(config: &hcm::HttpConnectionManager, at: &At<'_>) -> HttpTimeouts {
    let default = HttpTimeouts::default();
    let common = config.common_http_protocol_options.as_ref();
    let common_at = at.field("common_http_protocol_options");
    let own = |value: &Option<prost_types::Duration>, default: Duration, name: &str| {
        duration_or(value.as_ref(), default, &at.field(name))
    };
    HttpTimeouts {
        idle: duration_or(common.and_then(|c| c.idle_timeout.as_ref()), default.idle, &common_at.field("idle_timeout")),
        stream_idle: own(&config.stream_idle_timeout, default.stream_idle, "stream_idle_timeout"),
        request: own(&config.request_timeout, default.request, "request_timeout"),
        request_headers: own(&config.request_headers_timeout, default.request_headers, "request_headers_timeout"),
        drain: own(&config.drain_timeout, default.drain, "drain_timeout"),
        max_connection_duration: duration(
            common.and_then(|c| c.max_connection_duration.as_ref()),
            &common_at.field("max_connection_duration"),
        )
        .unwrap_or_default(),
        max_stream_duration: duration(
            common.and_then(|c| c.max_stream_duration.as_ref()),
            &common_at.field("max_stream_duration"),
        )
        .unwrap_or_default(),
    }
}

/// What HTTP/1 options say on either side. Trailers always pass, so `enable_trailers` says nothing new.
pub(super) fn header_case(http1: &core::Http1ProtocolOptions, at: &At<'_>) -> HeaderCase {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    if http1.allow_absolute_url == Some(false) {
        at.field("allow_absolute_url").refuse_with_hint(
            "targets with a scheme and a host are always understood (RFC 9112 section 3.2.2)",
            "leave it out",
        );
    }
    let at = at.field("header_key_format");
    match http1.header_key_format.as_ref().and_then(|format| format.header_format.as_ref()) {
        None => HeaderCase::Lower,
        Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::Proper,
        Some(HeaderFormat::StatefulFormatter(extension)) => {
            let at = at.field("stateful_formatter");
            let at = at.field("typed_config");
            match open(extension.typed_config.as_ref(), &at) {
                Some(opened) if opened.is::<PreserveCaseFormatterConfig>() => HeaderCase::Preserve,
                Some(opened) => {
                    opened.refuse(&[PreserveCaseFormatterConfig::full_name()], &at);
                    HeaderCase::Lower
                }
                None => HeaderCase::Lower,
            }
        }
    }
}

fn limits(config: &hcm::HttpConnectionManager, at: &At<'_>) -> HttpLimits {
    let mut limits = HttpLimits::default();
    if let Some(kibibytes) = config.max_request_headers_kb {
        limits.header_list_size = octets(kibibytes);
    }
    if let Some(common) = &config.common_http_protocol_options {
        let at = &at.field("common_http_protocol_options");
        if common.max_response_headers_kb.is_some() {
            at.field("max_response_headers_kb").refuse("this belongs to a cluster's `HttpProtocolOptions`");
        }
        if let Some(count) = common.max_headers_count {
            limits.header_count = usize::try_from(count).unwrap_or(usize::MAX);
        }
        limits.requests_per_connection = common.max_requests_per_connection.unwrap_or(limits.requests_per_connection);
        limits.underscores = underscores(common);
    }
    if let Some(http1) = &config.http_protocol_options {
        limits.accept_http_10 = http1.accept_http_10;
    }
    if let Some(http2) = &config.http2_protocol_options {
        let at = &at.field("http2_protocol_options");
        limits.concurrent_streams = http2.max_concurrent_streams.unwrap_or(limits.concurrent_streams);
        limits.stream_window = http2.initial_stream_window_size.unwrap_or(limits.stream_window);
        limits.connection_window = http2.initial_connection_window_size.unwrap_or(limits.connection_window);
        limits.http2 = http2_guards(http2);
        if http2.connection_keepalive.is_some() {
            at.field("connection_keepalive").refuse_with_hint(
                "this is supported only on the clusters of the ADS server and the certificate authority",
                "use `stream_idle_timeout` and `common_http_protocol_options.idle_timeout`",
            );
        }
    }
    limits
}

/// How much a peer may do that says nothing; for both sides alike.
pub(super) fn http2_guards(http2: &core::Http2ProtocolOptions) -> Http2Guards {
    let default = Http2Guards::default();
    Http2Guards {
        outbound_frames: http2.max_outbound_frames.unwrap_or(default.outbound_frames),
        outbound_control_frames: http2.max_outbound_control_frames.unwrap_or(default.outbound_control_frames),
        empty_frames: http2.max_consecutive_inbound_frames_with_empty_payload.unwrap_or(default.empty_frames),
        priority_frames_per_stream: http2
            .max_inbound_priority_frames_per_stream
            .unwrap_or(default.priority_frames_per_stream),
        window_updates_per_data_frame: http2
            .max_inbound_window_update_frames_per_data_frame_sent
            .unwrap_or(default.window_updates_per_data_frame),
    }
}

fn underscores(common: &core::HttpProtocolOptions) -> Underscores {
    use core::http_protocol_options::HeadersWithUnderscoresAction;
    match enumerator(common.headers_with_underscores_action) {
        HeadersWithUnderscoresAction::Allow => Underscores::Allow,
        HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
        HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
    }
}

/// A size in KiB as octets.
pub(super) fn octets(kibibytes: u32) -> usize {
    usize::try_from(kibibytes).unwrap_or(usize::MAX).saturating_mul(1024)
}

fn path_policy(config: &hcm::HttpConnectionManager, at: &At<'_>) -> PathPolicy {
    use field::PathWithEscapedSlashesAction as Action;
    let any_port = config.strip_port_mode == Some(field::StripPortMode::StripAnyHostPort(true));
    if any_port && config.strip_matching_host_port {
        at.field("strip_matching_host_port").refuse("`strip_any_host_port` is set as well; set only one of them");
    }
    PathPolicy {
        normalize: config.normalize_path.unwrap_or(false),
        merge_slashes: config.merge_slashes,
        escaped_slashes: match enumerator(config.path_with_escaped_slashes_action) {
            Action::ImplementationSpecificDefault | Action::KeepUnchanged => EscapedSlashes::Keep,
            Action::RejectRequest => EscapedSlashes::Reject,
            Action::UnescapeAndRedirect => EscapedSlashes::Redirect,
            Action::UnescapeAndForward => EscapedSlashes::Unescape,
        },
        strip_port: match (any_port, config.strip_matching_host_port) {
            (true, _) => StripPort::Any,
            (false, true) => StripPort::Matching,
            (false, false) => StripPort::Keep,
        },
        strip_trailing_dot: config.strip_trailing_host_dot,
    }
}

fn forwarding(config: &hcm::HttpConnectionManager, at: &At<'_>) -> Forwarding {
    use field::ForwardClientCertDetails as Details;
    let set = config.set_current_client_cert_details.unwrap_or_default();
    let internal_at = at.field("internal_address_config");
    let internal = config.internal_address_config.as_ref().map(|config| config.cidr_ranges.as_slice());
    Forwarding {
        use_remote_address: config.use_remote_address.unwrap_or(false),
        xff_trusted_hops: config.xff_num_trusted_hops,
        skip_xff_append: config.skip_xff_append,
        internal: prefixes(internal.unwrap_or_default(), &internal_at.field("cidr_ranges")),
        client_cert: match enumerator(config.forward_client_cert_details) {
            Details::Sanitize => ClientCert::Sanitize,
            Details::ForwardOnly => ClientCert::ForwardOnly,
            Details::AppendForward => ClientCert::AppendForward,
            Details::SanitizeSet => ClientCert::SanitizeSet,
            Details::AlwaysForwardOnly => ClientCert::AlwaysForwardOnly,
        },
        client_cert_details: ClientCertDetails { subject: set.subject.unwrap_or(false), uri: set.uri, dns: set.dns },
    }
}

/// One `UpgradeConfig`. Any protocol may be asked for, but for those that would need more than a tunnel.
pub(super) fn upgrade(name: &str, enabled: Option<bool>, terminates: bool, at: &At<'_>) -> Upgrade {
    let protocol = name.to_ascii_lowercase();
    if matches!(protocol.as_str(), "h2c" | "connect-udp" | "connect-ip") {
        at.field("upgrade_type").refuse_with_hint(
            format!("upgrades to `{name}` are not supported"),
            "write the name of a protocol that travels in a stream of octets, such as `websocket`, or `CONNECT`",
        );
    }
    Upgrade { protocol: protocol.into(), enabled: enabled.unwrap_or(true), terminates }
}
