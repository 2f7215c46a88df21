//! Fields of Envoy's API that the descriptor set leaves out: their names, by
//! which they are refused, and what to use instead.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Made with the descriptor set by `proto/generate.py`.
static TABLE: &str = include_str!("../proto/unsupported.tsv");

#[derive(Default)]
struct Message {
    names: HashMap<u32, &'static str>,
    numbers: HashMap<&'static str, u32>,
}

fn table() -> &'static HashMap<&'static str, Message> {
    static PARSED: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut messages: HashMap<&str, Message> = HashMap::new();
        for line in TABLE.lines() {
            let mut columns = line.split('\t');
            if let (Some(message), Some(Ok(number)), Some(name)) =
                (columns.next(), columns.next().map(str::parse), columns.next())
            {
                let message = messages.entry(message).or_default();
                message.names.insert(number, name);
                message.numbers.insert(name, number);
            }
        }
        messages
    })
}

/// The name of a field of `message` that Envoy has and we do not support.
pub(crate) fn name_of(message: &str, number: u32) -> Option<&'static str> {
    table().get(message)?.names.get(&number).copied()
}

/// True if Envoy has a field `name` in `message` that we do not support.
pub(crate) fn has(message: &str, name: &str) -> bool {
    table().get(message).is_some_and(|message| message.numbers.contains_key(name))
}

/// What does the work of a field that is not supported. The message is named
/// by the end of its full name.
pub(crate) fn alternative(message: &str, field: &str) -> Option<&'static str> {
    let of = |end: &str| message.ends_with(end);
    Some(match field {
        "exact_match" | "prefix_match" | "suffix_match" | "contains_match" | "safe_regex_match"
            if of(".HeaderMatcher") =>
        {
            "use `string_match`"
        }
        "hidden_envoy_deprecated_regex" | "regex" if of(".RouteMatch") => "use `safe_regex`",
        "append" if of(".HeaderValueOption") => "use `append_action`",
        "raw_value" if of(".HeaderValue") => "use `value`",
        "http2_protocol_options"
        | "http_protocol_options"
        | "common_http_protocol_options"
        | "upstream_http_protocol_options"
            if of(".Cluster") =>
        {
            "use `typed_extension_protocol_options` with envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        }
        "load_balancing_policy" => "use `lb_policy`",
        "hosts" if of(".Cluster") => "use `load_assignment`",
        "tls_context" => "use `transport_socket`",
        "pass_through_tlvs" | "added_tlvs" | "rules" if message.contains("roxy") => {
            "leave it out: what follows the addresses in a PROXY protocol header is skipped"
        }
        "respect_dns_ttl" => "use `dns_refresh_rate`",
        "zone_aware_lb_config" => "use `locality_weighted_lb_config`, or priorities for the nearest endpoints",
        "update_merge_window" => "leave it out: changes take effect at once",
        "endpoint_stale_after" => "leave it out: endpoints are kept until the control plane says otherwise",
        "custom_health_check" => "use `http_health_check`, `tcp_health_check` or `grpc_health_check`",
        "service_name_matcher" => "check what the service says in `receive`",
        "proxy_protocol_config" if of(".TcpHealthCheck") => "check another port of the endpoint with `alt_port`",
        "tls_options" if of(".HealthCheck") => "name another transport socket with `transport_socket_match_criteria`",
        "event_log_path" | "event_logger" | "event_service" if of(".HealthCheck") => {
            "leave it out: counters and /clusters show what health checks find"
        }
        "always_log_health_check_failures" | "always_log_health_check_success" => {
            "leave it out: counters and /clusters show what health checks find"
        }
        "monitors" if of(".OutlierDetection") => "use its `consecutive_*`, `success_rate_*` and `failure_percentage_*`",
        "cors" => {
            "use `typed_per_filter_config` with envoy.extensions.filters.http.cors.v3.CorsPolicy, and the filter \
             envoy.filters.http.cors"
        }
        "include_vh_rate_limits" => "use `vh_rate_limits` of the filter",
        "disable_key" if of(".RateLimit") => "leave it out: there are no runtime values to look up",
        "dynamic_metadata" | "metadata" if of(".RateLimit.Action") => {
            "use `request_headers`, `generic_key` or another action that needs no metadata"
        }
        "local_cluster_rate_limit" => "leave it out: each proxy has the whole limit",
        "response_rate_limit" => "leave it out: answers are not slowed down",
        "filter_state_rules" if of(".JwtAuthentication") => {
            "use `requirement_map`, and routes that name a requirement in `typed_per_filter_config`"
        }
        "retry_on" | "retry_host_predicate" | "host_selection_retry_max_attempts" if of(".core.v3.RetryPolicy") => {
            "leave it out: another attempt follows each failure and each 5xx"
        }
        "filter_state" if of(".HashPolicy") => "hash a header, a cookie, a query parameter or the source address",
        "pipe" | "envoy_internal_address" => "use `socket_address`",
        "named_port" => "use `port_value`",
        "api_config_source" | "path" | "path_config_source" | "self" if of(".ConfigSource") => "use `ads: {}`",
        "google_grpc" => "use `envoy_grpc`",
        "access_log_path" | "access_log" if of(".Admin") => "leave it out: admin requests are not logged",
        "format" | "typed_json_format" if of(".FileAccessLog") => "use `log_format.text_format_source`",
        "json_format" if of(".FileAccessLog") => "use `log_format.json_format`",
        "verbose" if of(".Tracing") => "leave it out: spans have no events",
        "operation" | "upstream_operation" if of(".Tracing") => "name the operation in the `decorator` of a route",
        "sampler" if of(".OpenTelemetryConfig") => {
            "leave it out: whoever begins a trace decides, by `random_sampling` and its kin"
        }
        "resource_detectors" if of(".OpenTelemetryConfig") => "leave it out, and set `service_name`",
        "metadata" | "value" if of(".CustomTag") => "use `literal`, `environment` or `request_header`",
        "tracing" if of(".Bootstrap") => "set `tracing` of the connection managers",
        "disable_stateless_session_resumption" | "disable_stateful_session_resumption" | "session_ticket_keys" => {
            "leave it out: sessions are resumed by tickets of this process, and only where clients need no certificate"
        }
        "cipher_suites" | "ecdh_curves" | "signature_algorithms" => "leave it out: only strong ones are offered",
        "retry_priority" => "leave it out: every attempt chooses among all priorities by their health",
        "retry_options_predicates" => "leave it out: an attempt is sent with the options of the first",
        "hedge_policy" => "leave it out: an attempt is over before the next begins (`retry_policy.per_try_timeout`)",
        "retry_policy_typed_config" => "use `retry_policy`",
        "unix_sockets" if of(".InternalAddressConfig") => "leave it out: clients come by TCP",
        "use_proxy_proto" => "use `listener_filters` with envoy.filters.listener.proxy_protocol",
        "metadata_key" if of(".OriginalDstLbConfig") => "use `use_http_header`",
        "freebind" => "leave it out: a source address must be one of this machine's",
        "additional_source_addresses" => "use `extra_source_addresses`",
        "disk_layer" | "admin_layer" | "rtds_layer" => "write the values in a `static_layer`",
        "scaled" if of(".Trigger") => "use `threshold`",
        "allowed_headers" if of(".AuthorizationRequest") => "use `allowed_headers` of the filter",
        "grpc_service" | "http_service" if of(".CheckSettings") => {
            "ask one service, and tell it with `context_extensions` where it is asked for"
        }
        "retry_policy" if of(".ext_authz.v3.HttpService") || of(".GrpcService") || of(".EnvoyGrpc") => {
            "leave it out: a question is asked once"
        }
        "max_receive_message_length" if of(".EnvoyGrpc") => "leave it out: answers have a limit",
        "skip_envoy_headers" if of(".EnvoyGrpc") => "leave it out: a question has no such headers",
        "typed_metadata_context_namespaces"
        | "route_metadata_context_namespaces"
        | "route_typed_metadata_context_namespaces" => "use `metadata_context_namespaces`",
        "bootstrap_metadata_labels_key" => "leave it out: the service is told the principal of the destination",
        "charge_cluster_response_stats" => "leave it out: the cluster of a request that is denied counts its status",
        "encode_raw_headers" => "leave it out: headers are sent as text",
        "decoder_header_mutation_rules" => "use `validate_mutations`",
        "filter_metadata" | "emit_filter_state_stats" if of(".ext_authz.v3.ExtAuthz") => {
            "leave it out: counters show what the service answers"
        }
        "enforce_response_header_limits" => "leave it out: responses have limits",
        "send_tls_alert_on_denial" => "leave it out: a connection that is denied is closed",
        "tcp_reporting_duration" if of("stats.PluginConfig") => "leave it out: octets are counted as they pass",
        "definitions" if of("stats.PluginConfig") => "leave it out: Istio's own metrics are counted",
        "reporter" if of("stats.PluginConfig") => "leave it out: the listener's `traffic_direction` says who reports",
        "rotation_interval" | "graceful_deletion_interval" if of("stats.PluginConfig") => {
            "leave it out: series stay as long as the process"
        }
        "match" if of("stats.MetricConfig") => "leave it out, and give each listener its own filter",
        "not_health_check_filter" | "traceable_filter" | "extension_filter" | "metadata_filter" | "log_type_filter" => {
            "use `status_code_filter`, `duration_filter`, `header_filter`, `response_flag_filter`, `grpc_status_filter`, \
             `runtime_filter`, and join them with `and_filter` and `or_filter`"
        }
        "runtime_key"
        | "runtime_key_prefix"
        | "delay_percent_runtime"
        | "abort_percent_runtime"
        | "delay_duration_runtime"
        | "abort_http_status_runtime"
        | "abort_grpc_status_runtime"
        | "max_active_faults_runtime" => "leave it out: there are no runtime values to look up",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        let fields: usize = table().values().map(|message| message.names.len()).sum();
        assert_eq!(fields, TABLE.lines().count());
        assert_eq!(name_of("envoy.config.listener.v3.Listener", 11), Some("freebind"));
        assert!(has("envoy.config.cluster.v3.OutlierDetection", "monitors"));
        assert!(!has("envoy.config.cluster.v3.Cluster", "name"));
    }
}
