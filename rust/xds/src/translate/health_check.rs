//! `HealthCheck`.

use std::ops::Range;
use std::time::Duration;

use pymesh_model::health_check::{GrpcProbe, HealthCheck, HttpProbe, Pace, Probe, TcpProbe};
use pymesh_model::route::HeaderEdit;

use super::common::{duration, duration_or, enumerator};
use super::endpoint::text_pairs;
use super::header;
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::r#type::v3 as types;
use core::health_check::{payload, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck};

/// Envoy's defaults.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
const RESPONSE_BUFFER_SIZE: u64 = 1024;
/// In place of "as much as comes".
const LARGEST_RESPONSE_BUFFER: u64 = 1 << 20;

pub(super) fn health_checks(configs: &[core::HealthCheck], at: &At<'_>) -> Option<HealthCheck> {
    if configs.len() > 1 {
        at.index(1).refuse_with_hint("a cluster has at most one health check", "keep one of them");
    }
    health_check(configs.first()?, &at.index(0))
}

fn health_check(config: &core::HealthCheck, at: &At<'_>) -> Option<HealthCheck> {
    let probe = match &config.health_checker {
        None => {
            at.refuse("one of `http_health_check`, `tcp_health_check`, `grpc_health_check` must be set");
            return None;
        }
        Some(HealthChecker::HttpHealthCheck(http)) => Probe::Http(http_probe(http, &at.field("http_health_check"))),
        Some(HealthChecker::TcpHealthCheck(tcp)) => Probe::Tcp(tcp_probe(tcp, &at.field("tcp_health_check"))),
        Some(HealthChecker::GrpcHealthCheck(grpc)) => Probe::Grpc(grpc_probe(grpc, &at.field("grpc_health_check"))),
    };
    let port = config.alt_port.and_then(|port| port_number(port, &at.field("alt_port")));
    let criteria = config.transport_socket_match_criteria.as_ref();
    Some(HealthCheck {
        timeout: duration_or(config.timeout.as_ref(), Duration::ZERO, &at.field("timeout")),
        pace: pace(config, at),
        unhealthy_threshold: config.unhealthy_threshold.unwrap_or_default(),
        healthy_threshold: config.healthy_threshold.unwrap_or_default(),
        reuse_connection: config.reuse_connection.unwrap_or(true),
        port,
        transport_match: criteria.map(|criteria| text_pairs(criteria, &at.field("transport_socket_match_criteria"))),
        probe,
    })
}

fn pace(config: &core::HealthCheck, at: &At<'_>) -> Pace {
    let or = |value: Option<&prost_types::Duration>, default: Duration, name: &str| {
        duration_or(value, default, &at.field(name))
    };
    let interval = or(config.interval.as_ref(), Duration::ZERO, "interval");
    let no_traffic = or(config.no_traffic_interval.as_ref(), NO_TRAFFIC_INTERVAL, "no_traffic_interval");
    let unhealthy = or(config.unhealthy_interval.as_ref(), interval, "unhealthy_interval");
    Pace {
        interval,
        no_traffic,
        no_traffic_healthy: or(config.no_traffic_healthy_interval.as_ref(), no_traffic, "no_traffic_healthy_interval"),
        unhealthy,
        unhealthy_edge: or(config.unhealthy_edge_interval.as_ref(), unhealthy, "unhealthy_edge_interval"),
        healthy_edge: or(config.healthy_edge_interval.as_ref(), interval, "healthy_edge_interval"),
        initial_jitter: duration(config.initial_jitter.as_ref(), &at.field("initial_jitter")).unwrap_or_default(),
        jitter: duration(config.interval_jitter.as_ref(), &at.field("interval_jitter")).unwrap_or_default(),
        jitter_percent: config.interval_jitter_percent,
    }
}

fn http_probe(config: &HttpHealthCheck, at: &At<'_>) -> HttpProbe {
    let method: core::RequestMethod = enumerator(config.method);
    let method = match method {
        core::RequestMethod::MethodUnspecified => "GET",
        core::RequestMethod::Connect => {
            at.field("method").refuse_with_hint("CONNECT asks for a tunnel", "write GET");
            "GET"
        }
        method => method.as_str_name(),
    };
    let send = config.send.as_ref().map(|send| octets(send, &at.field("send"))).unwrap_or_default();
    if !send.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") {
        at.field("send").refuse_with_hint(format!("{method} has no body"), "set `method: POST`, or leave this out");
    }
    let receive = payloads(&config.receive, &at.field("receive"));
    let size = config.response_buffer_size.unwrap_or(RESPONSE_BUFFER_SIZE);
    let length: usize = receive.iter().map(Vec::len).sum();
    if size > 0 && u64::try_from(length).unwrap_or(u64::MAX) > size {
        at.field("receive").refuse_with_hint(
            format!("{length} octets do not fit into `response_buffer_size`, which is {size}"),
            "raise that",
        );
    }
    let size = if size == 0 { LARGEST_RESPONSE_BUFFER } else { size.min(LARGEST_RESPONSE_BUFFER) };
    let http2 = match enumerator(config.codec_client_type) {
        types::CodecClientType::Http1 => false,
        types::CodecClientType::Http2 => true,
        types::CodecClientType::Http3 => {
            at.field("codec_client_type").refuse_with_hint("HTTP/3 is not supported", "write HTTP1 or HTTP2");
            false
        }
    };
    if !config.path.starts_with('/') && !config.path.is_empty() {
        at.field("path")
            .refuse_with_hint(format!("`{}` is not a path", config.path.escape_debug()), "begin it with `/`");
    }
    let expected = statuses(&config.expected_statuses, &at.field("expected_statuses"));
    HttpProbe {
        host: config.host.as_str().into(),
        path: config.path.as_str().into(),
        method: method.into(),
        http2,
        headers: header_edit(
            &config.request_headers_to_add,
            "request_headers_to_add",
            &config.request_headers_to_remove,
            at,
        ),
        send,
        receive,
        response_buffer_size: usize::try_from(size).unwrap_or(usize::MAX),
        expected: if config.expected_statuses.is_empty() { std::iter::once(200..201).collect() } else { expected },
        retriable: statuses(&config.retriable_statuses, &at.field("retriable_statuses")),
    }
}

fn tcp_probe(config: &TcpHealthCheck, at: &At<'_>) -> TcpProbe {
    TcpProbe {
        send: config.send.as_ref().map(|send| octets(send, &at.field("send"))).unwrap_or_default(),
        receive: payloads(&config.receive, &at.field("receive")),
    }
}

fn grpc_probe(config: &GrpcHealthCheck, at: &At<'_>) -> GrpcProbe {
    GrpcProbe {
        service: config.service_name.as_str().into(),
        authority: config.authority.as_str().into(),
        metadata: header_edit(&config.initial_metadata, "initial_metadata", &[], at),
    }
}

/// There is no request whose values could be filled in.
fn header_edit(add: &[core::HeaderValueOption], name: &str, remove: &[String], at: &At<'_>) -> HeaderEdit {
    let add_at = at.field(name);
    let edit = HeaderEdit {
        remove: header::removals(remove, &at.field("request_headers_to_remove")),
        add: header::additions(add, true, &add_at),
    };
    for (index, option) in add.iter().enumerate() {
        let value = option.header.as_ref().map(|header| header.value.as_str()).unwrap_or_default();
        if value.replace("%%", "").contains('%') {
            add_at.index(index).field("header").field("value").refuse_with_hint(
                format!("`{}` asks for values of a request, and a health check has none", value.escape_debug()),
                "write a text",
            );
        }
    }
    edit
}

fn payloads(configs: &[Payload], at: &At<'_>) -> Vec<Vec<u8>> {
    configs.iter().enumerate().map(|(index, config)| octets(config, &at.index(index))).collect()
}

/// `text` is in hexadecimal digits.
fn octets(config: &Payload, at: &At<'_>) -> Vec<u8> {
    match &config.payload {
        None => {
            at.refuse("one of `text`, `binary` must be set");
            Vec::new()
        }
        Some(payload::Payload::Binary(octets)) => octets.clone(),
        Some(payload::Payload::Text(text)) => from_hex(text).unwrap_or_else(|| {
            at.field("text").refuse_with_hint(
                format!("`{}` is not hexadecimal", text.escape_debug()),
                "write two digits for each octet, as in 70696E67",
            );
            Vec::new()
        }),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    if digits.len() % 2 == 1 {
        return None;
    }
    Some(digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? * 16 + pair.last()?)).collect())
}

fn statuses(ranges: &[types::Int64Range], at: &At<'_>) -> Vec<Range<u16>> {
    let mut statuses = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.iter().enumerate() {
        let at = at.index(index);
        let is_within = |status: i64| (100..=600).contains(&status);
        match (u16::try_from(range.start), u16::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end && is_within(range.start) && is_within(range.end) => {
                statuses.push(start..end);
            }
            _ => at.refuse_with_hint(
                format!("{} to {} are no statuses", range.start, range.end),
                "from `start`, which is at least 100, to before `end`, which is at most 600",
            ),
        }
    }
    statuses
}

/// A port, not zero.
pub(super) fn port_number(port: u32, at: &At<'_>) -> Option<u16> {
    let number = u16::try_from(port).ok().filter(|port| *port > 0);
    if number.is_none() {
        at.refuse(format!("{port} is not a port"));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{refused, translated};

    const TIMES: &str = "timeout: 1s, interval: 10s, unhealthy_threshold: 2, healthy_threshold: 3";

    fn with(fields: &str) -> HealthCheck {
        let (cluster, problems) = translated(&format!("{{name: a, health_checks: [{{{TIMES}, {fields}}}]}}"));
        assert_eq!(problems, Vec::<String>::new());
        (*cluster.health_check.unwrap()).clone()
    }

    #[test]
    fn times_have_envoys_defaults() {
        let seconds = Duration::from_secs;
        let check = with("tcp_health_check: {}");
        assert_eq!((check.timeout, check.unhealthy_threshold, check.healthy_threshold), (seconds(1), 2, 3));
        let pace = check.pace;
        assert_eq!([pace.interval, pace.unhealthy, pace.unhealthy_edge, pace.healthy_edge], [seconds(10); 4]);
        assert_eq!([pace.no_traffic, pace.no_traffic_healthy], [seconds(60); 2]);
        assert_eq!([pace.initial_jitter, pace.jitter], [Duration::ZERO; 2]);
        assert!(check.reuse_connection);
        let pace = with(
            "tcp_health_check: {}, no_traffic_interval: 1s, no_traffic_healthy_interval: 2s, unhealthy_interval: 3s, \
             unhealthy_edge_interval: 4s, healthy_edge_interval: 5s, initial_jitter: 6s, interval_jitter: 7s, \
             interval_jitter_percent: 8",
        )
        .pace;
        let all = [pace.no_traffic, pace.no_traffic_healthy, pace.unhealthy, pace.unhealthy_edge, pace.healthy_edge];
        assert_eq!(all, [1, 2, 3, 4, 5].map(seconds));
        assert_eq!((pace.initial_jitter, pace.jitter, pace.jitter_percent), (seconds(6), seconds(7), 8));
    }

    #[test]
    fn each_kind_of_probe_is_taken() {
        let check = with(
            "alt_port: 81, reuse_connection: false, transport_socket_match_criteria: {plain: \"1\"}, \
             http_health_check: {host: h, path: /p, method: POST, send: {text: \"4869\"}, \
             receive: [{text: 6f6B}, {binary: IQ==}], response_buffer_size: 64, \
             expected_statuses: [{start: 200, end: 300}], retriable_statuses: [{start: 503, end: 504}], \
             codec_client_type: HTTP2, request_headers_to_add: [{header: {key: X-A, value: b}}], \
             request_headers_to_remove: [user-agent]}",
        );
        assert_eq!((check.port, check.reuse_connection), (Some(81), false));
        assert_eq!(check.transport_match, Some(vec![("plain".into(), "1".into())]));
        let Probe::Http(http) = check.probe else { panic!("another probe") };
        assert_eq!([&*http.host, &*http.path, &*http.method], ["h", "/p", "POST"]);
        assert_eq!((http.send.as_slice(), http.receive), (&b"Hi"[..], vec![b"ok".to_vec(), b"!".to_vec()]));
        assert_eq!((http.http2, http.response_buffer_size), (true, 64));
        let all: Vec<Range<u16>> = http.expected.into_iter().chain(http.retriable).collect();
        assert_eq!(all, [200..300, 503..504]);
        assert_eq!((&*http.headers.add[0].name, &*http.headers.remove[0]), ("x-a", "user-agent"));
        let Probe::Tcp(tcp) = with("tcp_health_check: {send: {text: \"00fF\"}}").probe else { panic!("another probe") };
        assert_eq!((tcp.send.as_slice(), tcp.receive.len()), (&[0, 255][..], 0));
        let Probe::Grpc(grpc) = with("grpc_health_check: {service_name: s, authority: x}").probe else {
            panic!("another probe")
        };
        assert_eq!([&*grpc.service, &*grpc.authority], ["s", "x"]);
    }

    #[test]
    fn endpoints_may_be_checked_elsewhere_or_not_at_all() {
        let endpoint = |config: &str| {
            let socket = "{socket_address: {address: 10.0.0.1, port_value: 80}}";
            format!(
                "{{name: a, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: \
                 {{address: {socket}, health_check_config: {config}}}}}]}}]}}}}"
            )
        };
        let (cluster, problems) = translated(&endpoint(
            "{port_value: 81, hostname: h, address: {socket_address: {address: 10.0.0.2, port_value: 0}}, \
             disable_active_health_check: true}",
        ));
        assert_eq!(problems, Vec::<String>::new());
        let check = cluster.endpoints.iter().next().unwrap().1.check.clone();
        assert_eq!((check.address, check.port), (Some([10, 0, 0, 2].into()), Some(81)));
        assert_eq!((&*check.hostname, check.is_disabled), ("h", true));
        assert_eq!(
            refused(&endpoint("{port_value: 65536}")),
            ["load_assignment.endpoints[0].lb_endpoints[0].endpoint.health_check_config.port_value: \
              this must be at most 65535, not 65536"]
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place() {
        let table = [
            ("", "health_checks[0]: one of `http_health_check`, `tcp_health_check`, `grpc_health_check` must be set"),
            (
                "custom_health_check: {name: redis}",
                "health_checks[0].custom_health_check: field `custom_health_check` of envoy.config.core.v3.HealthCheck \
                 is not supported (hint: use `http_health_check`, `tcp_health_check` or `grpc_health_check`)",
            ),
            (
                "http_health_check: {path: p}",
                "health_checks[0].http_health_check.path: `p` is not a path (hint: begin it with `/`)",
            ),
            (
                "http_health_check: {path: /, send: {text: \"00\"}}",
                "health_checks[0].http_health_check.send: GET has no body (hint: set `method: POST`, or leave this out)",
            ),
            (
                "http_health_check: {path: /, expected_statuses: [{start: 200, end: 200}]}",
                "health_checks[0].http_health_check.expected_statuses[0]: 200 to 200 are no statuses \
                 (hint: from `start`, which is at least 100, to before `end`, which is at most 600)",
            ),
            (
                "http_health_check: {path: /, receive: [{text: \"616263\"}], response_buffer_size: 2}",
                "health_checks[0].http_health_check.receive: 3 octets do not fit into `response_buffer_size`, \
                 which is 2 (hint: raise that)",
            ),
            (
                "http_health_check: {path: /, codec_client_type: HTTP3}",
                "health_checks[0].http_health_check.codec_client_type: HTTP/3 is not supported \
                 (hint: write HTTP1 or HTTP2)",
            ),
            (
                "http_health_check: {path: /, service_name_matcher: {exact: a}}",
                "health_checks[0].http_health_check.service_name_matcher: field `service_name_matcher` of \
                 envoy.config.core.v3.HealthCheck.HttpHealthCheck is not supported \
                 (hint: check what the service says in `receive`)",
            ),
            (
                "http_health_check: {path: /, request_headers_to_add: [{header: {key: a, value: \"%PROTOCOL%\"}}]}",
                "health_checks[0].http_health_check.request_headers_to_add[0].header.value: `%PROTOCOL%` asks for \
                 values of a request, and a health check has none (hint: write a text)",
            ),
            (
                "tcp_health_check: {send: {text: 7g}}",
                "health_checks[0].tcp_health_check.send.text: `7g` is not hexadecimal \
                 (hint: write two digits for each octet, as in 70696E67)",
            ),
            (
                "tcp_health_check: {}, event_log_path: /log",
                "health_checks[0].event_log_path: field `event_log_path` of envoy.config.core.v3.HealthCheck is not \
                 supported (hint: leave it out: counters and /clusters show what health checks find)",
            ),
        ];
        for (fields, wanted) in table {
            let text = format!("{{name: a, health_checks: [{{{TIMES}, {fields}}}]}}");
            assert_eq!(refused(&text), [wanted], "{fields}");
        }
        let one = format!("{{{TIMES}, tcp_health_check: {{}}}}");
        assert_eq!(
            refused(&format!("{{name: a, health_checks: [{one}, {one}]}}")),
            ["health_checks[1]: a cluster has at most one health check (hint: keep one of them)"]
        );
        assert_eq!(
            refused("{name: a, health_checks: [{tcp_health_check: {}}]}"),
            [
                "health_checks[0].timeout: this must be set",
                "health_checks[0].interval: this must be set",
                "health_checks[0].unhealthy_threshold: this must be set",
                "health_checks[0].healthy_threshold: this must be set"
            ]
        );
        assert_eq!(
            refused(&format!(
                "{{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, health_checks: [{{{TIMES}, \
                 tcp_health_check: {{}}}}]}}"
            )),
            ["health_checks: a cluster of type ORIGINAL_DST goes where the client wanted, whatever becomes of it \
              (hint: leave it out)"]
        );
    }
}
