use pymesh_model::filter::{FilterId, FilterKind, RouteFilterConfig};
use pymesh_model::listener::ConnectionPolicy;

use super::*;
use crate::translate::filter::tests::{manager, problems, table, Said, NOTHING};

const AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";
const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: a}}";
const HTTP: &str = "server_uri: {uri: http://a, cluster: a, timeout: 1s}";

fn with(fields: &str) -> String {
    format!("{{name: z, typed_config: {{'@type': {AUTHZ}.ExtAuthz, transport_api_version: V3, {fields}}}}},")
}

fn read(fields: &str) -> Arc<ExtAuthz> {
    let manager = manager(&Said { filters: &with(fields), ..NOTHING });
    match &manager.filters[0].kind {
        FilterKind::ExtAuthz(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_of_grpc_with_envoys_defaults() {
    let config = read(GRPC);
    let AuthzService::Grpc(service) = &config.service else { panic!("{config:?}") };
    assert_eq!((&*service.cluster, &*service.authority, service.timeout.as_millis()), ("a", "a", 200));
    assert_eq!((config.status_on_error, config.enabled, config.body), (403, 1_000_000, None));
    assert!(config.shown.is_none() && config.keeps_metadata && !config.allows_on_failure && !config.denies_if_disabled);
    let config = read(
        "grpc_service: {envoy_grpc: {cluster_name: a, authority: b}, timeout: 1.5s, \
           initial_metadata: [{key: X-By, value: '%REQ(x-user)%'}]}, \
         failure_mode_allow: true, status_on_error: {code: 503}, stat_prefix: p, clear_route_cache: true, \
         with_request_body: {max_request_bytes: 9, allow_partial_message: true}, \
         filter_enabled: {default_value: {numerator: 50}}, deny_at_disable: {default_value: true, runtime_key: k}, \
         allowed_headers: {patterns: [{exact: x-user}]}, disallowed_headers: {patterns: [{prefix: x-}]}, \
         metadata_context_namespaces: [one], enable_dynamic_metadata_ingestion: false, \
         filter_enabled_metadata: {filter: f, path: [{key: k}], value: {present_match: true}}",
    );
    let AuthzService::Grpc(service) = &config.service else { panic!("{config:?}") };
    assert_eq!((&*service.authority, service.timeout.as_millis()), ("b", 1500));
    assert_eq!(&*service.metadata.add[0].name, "x-by");
    assert_eq!((config.status_on_error, config.enabled, &*config.stat_prefix), (503, 500_000, "p"));
    assert_eq!(config.body, Some(AuthzBody { most: 9, partial: true, as_bytes: false }));
    assert!(config.shown.as_ref().unwrap().matches(b"x-user") && config.hidden.matches(b"x-other"));
    assert!(config.enabled_metadata.is_some() && !config.keeps_metadata && config.denies_if_disabled);
    assert_eq!(config.told, ["one".into()]);
}

#[test]
fn a_service_of_http() {
    let config = read(&format!(
        "http_service: {{{HTTP}, path_prefix: /check, authorization_request: {{headers_to_add: [{{key: A, value: b}}]}}, \
           authorization_response: {{allowed_upstream_headers: {{patterns: [{{exact: x-a}}]}}}}}}, \
         with_request_body: {{max_request_bytes: 9}}"
    ));
    let AuthzService::Http(service) = &config.service else { panic!("{config:?}") };
    assert_eq!((&*service.cluster, &*service.path_prefix, service.timeout.as_secs()), ("a", "/check", 1));
    assert!(service.to_upstream.matches(b"x-a") && !service.to_client.matches(b"x-a"));
    assert!(config.shown.as_ref().is_some_and(|shown| !shown.matches(b"x-a")), "few headers are shown");
    assert!(config.body.is_some_and(|body| body.as_bytes));
}

#[test]
fn routes_have_a_switch_and_a_context() {
    let own = |fields: &str| format!("{{z: {{'@type': {AUTHZ}.ExtAuthzPerRoute, {fields}}}}}");
    let entry = |host: &str, route: &str| {
        let manager = manager(&Said { filters: &with(GRPC), host, route, ..NOTHING });
        let route = table(&manager).virtual_hosts[0].routes[0].clone();
        route.filters.get(FilterId::of("z")).cloned().unwrap()
    };
    let off = own("disabled: true");
    let settings = own("check_settings: {context_extensions: {a: '1', b: '2'}, disable_request_body_buffering: true}");
    assert_eq!(entry("{}", &off).enabled, Some(false));
    let on = entry(&off, &settings);
    let Some(RouteFilterConfig::ExtAuthz(said)) = &on.config else { panic!("{on:?}") };
    assert_eq!((on.enabled, said.body, said.context.len()), (Some(true), AuthzRouteBody::No, 2));
    assert_eq!(entry(&settings, &off).enabled, Some(false));
    let joined = entry(&settings, &own("check_settings: {context_extensions: {b: '3'}}"));
    let Some(RouteFilterConfig::ExtAuthz(said)) = &joined.config else { panic!("{joined:?}") };
    assert_eq!(said.context, [("a".into(), "1".into()), ("b".into(), "3".into())]);
    let wrapped = format!(
        "{{z: {{'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, \
           config: {{'@type': {AUTHZ}.ExtAuthzPerRoute, disabled: true}}}}}}"
    );
    assert_eq!(entry("{}", &wrapped).enabled, Some(false));
}

/// What is said of a listener whose one chain has this filter in front of a TCP proxy.
fn of_connections(fields: &str) -> Result<Arc<ConnectionAuthz>, String> {
    let network = "type.googleapis.com/envoy.extensions.filters.network";
    let yaml = format!(
        "
static_resources:
  clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}}
    filter_chains:
    - filters:
      - {{name: z, typed_config: {{'@type': {network}.ext_authz.v3.ExtAuthz, {fields}}}}}
      - {{name: t, typed_config: {{'@type': {network}.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: a}}}}
"
    );
    let bootstrap = crate::load_bootstrap("b.yaml", &yaml)
        .map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let listener = bootstrap.statics.listeners[0].value.clone();
    let chain = listener.filter_chains.iter().next().unwrap().clone();
    match &chain.policies[..] {
        [ConnectionPolicy::ExtAuthz(config)] => Ok(config.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_are_asked_about() {
    let metadata = "filter_enabled_metadata: {filter: f, path: [{key: k}], value: {present_match: true}}";
    let config = of_connections(&format!(
        "stat_prefix: p, transport_api_version: V3, {GRPC}, failure_mode_allow: true, include_tls_session: true, \
         include_peer_certificate: true, metadata_context_namespaces: [one], {metadata}"
    ))
    .unwrap();
    assert_eq!((&*config.stat_prefix, &*config.service.cluster), ("p", "a"));
    assert!(config.allows_on_failure && config.shows_tls_session && config.shows_certificate);
    assert!(config.enabled_metadata.is_some() && config.told == ["one".into()]);
    let v3 = "stat_prefix: p, transport_api_version: V3";
    for (fields, expected) in [
        (v3.to_owned(), "grpc_service: this must be set"),
        (format!("transport_api_version: V3, {GRPC}"), "stat_prefix: this must"),
        (format!("stat_prefix: p, {GRPC}"), "transport_api_version: other versions"),
        (format!("{v3}, {GRPC}, send_tls_alert_on_denial: true"), "a connection that is denied is closed"),
        (format!("{v3}, {GRPC}, bootstrap_metadata_labels_key: a"), "the principal of the destination"),
        (
            format!("{v3}, {}", GRPC.replace("}}", "}, initial_metadata: [{key: a, value: '%REQ(b)%'}]}")),
            "initial_metadata[0].value: `%REQ(b)%` asks for values of a request",
        ),
    ] {
        let found = of_connections(&fields).unwrap_err();
        assert!(found.contains(expected), "{fields}: {found}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let z = |fields: &str| with(&format!("{GRPC}, {fields}"));
    let http = |fields: &str| with(&format!("http_service: {{{HTTP}, {fields}}}"));
    for (filters, expected) in [
        (with(""), "nobody is asked"),
        (with(GRPC).replace("transport_api_version: V3, ", ""), "transport_api_version: other versions of the API"),
        (with("grpc_service: {google_grpc: {target_uri: a, stat_prefix: p}}"), "use `envoy_grpc`"),
        (with("grpc_service: {envoy_grpc: {cluster_name: a}, timeout: 0s}"), "timeout: without a limit"),
        (with("grpc_service: {envoy_grpc: {cluster_name: a, retry_policy: {}}}"), "a question is asked once"),
        (with("http_service: {}"), "server_uri: this must be set"),
        (with("http_service: {server_uri: {uri: http://a, cluster: a, timeout: 0s}}"), "timeout: without a limit"),
        (http("path_prefix: check"), "path_prefix: a path begins with `/` (hint: write `/check`)"),
        (http("authorization_request: {allowed_headers: {patterns: [{exact: a}]}}"), "`allowed_headers` of the filter"),
        (http("authorization_request: {headers_to_add: [{key: ':path', value: /}]}"), "`:path` cannot be changed"),
        (http("authorization_request: {headers_to_add: [{key: te, value: x}]}"), "`te` belongs to one connection"),
        (http("retry_policy: {}"), "a question is asked once"),
        (z("with_request_body: {}"), "max_request_bytes: this must be greater than 0"),
        (z("allowed_headers: {patterns: [{}]}"), "allowed_headers.patterns[0]: one of `exact`"),
        (z("allowed_headers: {}"), "patterns: at least 1 must be given"),
        (
            z("filter_enabled_metadata: {filter: f, path: [{key: k}]}"),
            "filter_enabled_metadata.value: this must be set",
        ),
        (z("typed_metadata_context_namespaces: [a]"), "use `metadata_context_namespaces`"),
        (z("encode_raw_headers: true"), "headers are sent as text"),
        (z("decoder_header_mutation_rules: {}"), "use `validate_mutations`"),
        (z("bootstrap_metadata_labels_key: a"), "`bootstrap_metadata_labels_key` of"),
        (z("charge_cluster_response_stats: false"), "`charge_cluster_response_stats` of"),
        (z("emit_filter_state_stats: true"), "counters show what the service answers"),
        (z("filter_enabled: {default_value: {numerator: 101}}"), "filter_enabled.default_value.numerator: 101 is more"),
    ] {
        let found = problems(&Said { filters: &filters, ..NOTHING });
        assert!(found.contains(expected), "{filters}: {found}");
    }
    let own = |fields: &str| format!("{{z: {{'@type': {AUTHZ}.ExtAuthzPerRoute, {fields}}}}}");
    for (route, expected) in [
        (own(""), "must be set"),
        (own("disabled: false"), "disabled: this can only be true"),
        (
            own("check_settings: {disable_request_body_buffering: true, with_request_body: {max_request_bytes: 1}}"),
            "this contradicts `with_request_body`",
        ),
        (own("check_settings: {grpc_service: {envoy_grpc: {cluster_name: a}}}"), "ask one service"),
    ] {
        let found = problems(&Said { filters: &with(GRPC), route: &route, ..NOTHING });
        assert!(found.contains(expected), "{route}: {found}");
    }
}
