use pymesh_model::filter::rbac::Principal;
use pymesh_model::filter::{
    AbortStatus, FaultDuration, FilterId, FilterKind, JwtKeys, JwtRequirement, LimitAction, RouteFilterConfig, RouteJwt,
};
use pymesh_model::http::{HttpConnectionManager, RouteSource};
use pymesh_model::listener::NetworkFilter;
use pymesh_model::metadata::ValueMatch;
use pymesh_model::route::{Action, ClusterChoice, RouteTable};

const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// A manager with these filters before the router, and a table of which parts may be said.
pub(super) struct Said<'a> {
    pub(super) filters: &'a str,
    pub(super) table: &'a str,
    pub(super) host: &'a str,
    pub(super) route: &'a str,
    pub(super) share: &'a str,
}

pub(super) const NOTHING: Said<'_> = Said { filters: "", table: "{}", host: "{}", route: "{}", share: "{}" };

fn yaml(said: &Said<'_>) -> String {
    let Said { filters, table, host, route, share } = said;
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    format!(
        "
static_resources:
  clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {hcm}
          stat_prefix: in
          http_filters: [{filters} {{name: router, typed_config: {{'@type': {router}}}}}]
          route_config:
            typed_per_filter_config: {table}
            virtual_hosts:
            - name: all
              domains: ['*']
              typed_per_filter_config: {host}
              routes:
              - match: {{prefix: /}}
                typed_per_filter_config: {route}
                route:
                  weighted_clusters: {{clusters: [{{name: a, weight: 1, typed_per_filter_config: {share}}}]}}
"
    )
}

pub(super) fn problems(said: &Said<'_>) -> String {
    match crate::load_bootstrap("b.yaml", &yaml(said)) {
        Ok(_) => "none".to_owned(),
        Err(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

pub(super) fn manager(said: &Said<'_>) -> std::sync::Arc<HttpConnectionManager> {
    let bootstrap = crate::load_bootstrap("b.yaml", &yaml(said)).map_err(|found| format!("{found:?}")).unwrap();
    let listener = bootstrap.statics.listeners[0].value.clone();
    match &listener.filter_chains.iter().next().unwrap().network {
        NetworkFilter::Http(manager) => manager.clone(),
        NetworkFilter::Tcp(_) => panic!("it speaks HTTP"),
    }
}

pub(super) fn table(manager: &HttpConnectionManager) -> &RouteTable {
    match &manager.routes {
        RouteSource::Inline(table) => table,
        RouteSource::Named(_) => panic!("the table is inline"),
    }
}

fn share_of(table: &RouteTable) -> &pymesh_model::filter::RouteFilters {
    let Action::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
    let ClusterChoice::Weighted(shares) = &forward.cluster else { panic!("by weight") };
    &shares.clusters[0].filters
}

#[test]
fn filters_are_read_with_their_place() {
    let filters = format!(
        "{{name: c, typed_config: {{'@type': {CORS}.Cors}}}}, \
         {{name: f, disabled: true, typed_config: {{'@type': {FAULT}, max_active_faults: 7, upstream_cluster: a, \
           downstream_nodes: [n], delay: {{fixed_delay: 0.25s, percentage: {{numerator: 5, denominator: MILLION}}}}, \
           abort: {{grpc_status: 9, percentage: {{numerator: 50}}}}}}}},"
    );
    let manager = manager(&Said { filters: &filters, ..NOTHING });
    let [cors, fault] = manager.filters.as_slice() else { panic!("two, and the router") };
    assert!(matches!(cors.kind, FilterKind::Cors) && !cors.disabled && cors.id == FilterId::of("c"));
    let FilterKind::Fault(config) = &fault.kind else { panic!("{fault:?}") };
    assert!(fault.disabled && config.max_active == Some(7) && config.upstream_cluster.as_deref() == Some("a"));
    let (delay, abort) = (config.delay.unwrap(), config.abort.unwrap());
    assert!(matches!(delay.duration, FaultDuration::Fixed(time) if time.as_millis() == 250));
    assert_eq!((delay.percentage.numerator, delay.percentage.denominator), (5, 1_000_000));
    assert!(matches!(abort.status, AbortStatus::Grpc(9)));
    assert_eq!((abort.percentage.numerator, abort.percentage.denominator), (50, 100));
}

#[test]
fn levels_are_resolved() {
    let policy = |fields: &str| format!("{{c: {{'@type': {CORS}.CorsPolicy, {fields}}}}}");
    let manager = manager(&Said {
        table: &policy("allow_methods: GET, max_age: '9'"),
        host: &format!("{{c: {{'@type': {CONFIG}, disabled: true}}, g: {{'@type': {CONFIG}, config: {{}}}}}}"),
        route: &policy("allow_methods: 'GET, PUT', filter_enabled: {default_value: {numerator: 1}}"),
        share: &format!("{{g: {{'@type': {CONFIG}, disabled: true}}}}"),
        ..NOTHING
    });
    let table = table(&manager);
    let route = &table.virtual_hosts[0].routes[0].filters;
    let cors = route.get(FilterId::of("c")).unwrap();
    assert_eq!(cors.enabled, Some(true), "who configures a filter wants it");
    let Some(RouteFilterConfig::Cors(policy)) = &cors.config else { panic!("{cors:?}") };
    assert_eq!((&*policy.allow_methods, &*policy.max_age, policy.enabled), ("GET, PUT", "9", 10_000));
    assert_eq!(route.get(FilterId::of("g")).unwrap().enabled, Some(true));
    assert_eq!(share_of(table).get(FilterId::of("g")).unwrap().enabled, Some(false));
    assert!(share_of(table).get(FilterId::of("c")).is_some());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let fault = |fields: &str| format!("{{name: f, typed_config: {{'@type': {FAULT}, {fields}}}}},");
    for (fields, expected) in [
        ("abort: {http_status: 100, percentage: {numerator: 1}}", "abort.http_status: this must be at least 200"),
        (
            "abort: {http_status: 503, percentage: {numerator: 101}}",
            "abort.percentage.numerator: 101 is more than the whole",
        ),
        (
            "abort: {percentage: {numerator: 1}}",
            "abort: one of `http_status`, `grpc_status`, `header_abort` must be set",
        ),
        ("delay: {percentage: {numerator: 1}}", "delay: one of `fixed_delay`, `header_delay` must be set"),
        ("delay: {fixed_delay: 0s}", "delay.fixed_delay: this must be longer than 0s"),
        ("response_rate_limit: {header_limit: {}}", "`response_rate_limit` of"),
        ("delay_percent_runtime: a", "there are no runtime values to look up"),
        (
            "headers: [{name: a, range_match: {start: 2, end: 1}}]",
            "headers[0].range_match: `start` must be below `end`",
        ),
    ] {
        let found = problems(&Said { filters: &fault(fields), ..NOTHING });
        assert!(found.contains(expected), "{fields}: {found}");
    }
    let router =
        "{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}},";
    for (said, expected) in [
        (
            Said { route: &format!("{{c: {{'@type': {CORS}.Cors}}}}"), ..NOTHING },
            "`envoy.extensions.filters.http.cors.v3.Cors` cannot be used here",
        ),
        (
            Said { host: &format!("{{c: {{'@type': {CONFIG}}}}}"), ..NOTHING },
            "typed_per_filter_config[\"c\"].config: this must be set (hint: to switch the filter on",
        ),
        (
            Said { table: "{c: {'@type': type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap}}", ..NOTHING },
            "Tap` is not supported",
        ),
        (
            Said { share: &format!("{{f: {{'@type': {FAULT}, abort: {{http_status: 600}}}}}}"), ..NOTHING },
            "http_status: this must be less than 600",
        ),
        (Said { filters: router, ..NOTHING }, "the router must be the last HTTP filter"),
    ] {
        let found = problems(&said);
        assert!(found.contains(expected), "{found}");
    }
    let many: String = (0..65).map(|i| format!("{{name: c{i}, typed_config: {{'@type': {CORS}.Cors}}}},")).collect();
    assert!(problems(&Said { filters: &many, ..NOTHING })
        .contains("at most 64 filters may stand before the router, here are 65"));
}

#[test]
fn what_is_optional_may_be_unknown() {
    let tap = "'@type': type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap, match: {any_match: true}";
    let filter = |optional| format!("{{name: t, is_optional: {optional}, typed_config: {{{tap}}}}},");
    let route = |optional| format!("{{t: {{'@type': {CONFIG}, is_optional: {optional}, config: {{{tap}}}}}}}");
    let (filters, said) = (filter(true), route(true));
    let left = Said { filters: &filters, route: &said, ..NOTHING };
    let manager = manager(&left);
    assert!(manager.filters.is_empty() && table(&manager).virtual_hosts[0].routes[0].filters.is_empty());
    let bootstrap = crate::load_bootstrap("b.yaml", &yaml(&left)).map_err(|found| format!("{found:?}")).unwrap();
    let raw = bootstrap.statics.listeners[0].raw.clone();
    let shown = crate::dump::message(&raw).to_string();
    assert!(shown.contains(r#""name":"t""#) && shown.contains(r#""is_optional":true"#), "{shown}");
    for wanted in [Said { filters: &filter(false), ..NOTHING }, Said { route: &route(false), ..NOTHING }] {
        assert!(problems(&wanted).contains("Tap` is not supported"), "{}", problems(&wanted));
    }
}

#[test]
fn metadata_of_policies_is_read_and_refused() {
    let rbac = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let policy = |principal: &str| {
        format!(
            "{{name: r, typed_config: {{'@type': {rbac}, rules: {{policies: {{p: {{permissions: [{{any: true}}], \
             principals: [{{{principal}}}]}}}}}}}}}},"
        )
    };
    let whole = policy(
        "sourced_metadata: {metadata_matcher: {filter: f, path: [{key: a}, {key: b}], invert: true, \
         value: {or_match: {value_matchers: [{list_match: {one_of: {string_match: {exact: x}}}}, \
         {double_match: {range: {start: 1, end: 2}}}]}}}}",
    );
    let manager = manager(&Said { filters: &whole, ..NOTHING });
    let FilterKind::Rbac(read) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    let principal = &read.rules.as_ref().unwrap().policies[0].principals[0];
    let Principal::Metadata(found) = principal else { panic!("{principal:?}") };
    assert!((&*found.filter, found.path.len(), found.invert) == ("f", 2, true), "{found:?}");
    let ValueMatch::Or(values) = &found.value else { panic!("{found:?}") };
    assert!(matches!(&values[..], [ValueMatch::OneOf(_), ValueMatch::Range(..)]), "{found:?}");

    let matcher = |value: &str| format!("metadata: {{filter: f, path: [{{key: a}}], value: {value}}}");
    for (principal, expected) in [
        (
            "sourced_metadata: {metadata_matcher: {filter: f, path: [{key: a}], value: {present_match: true}}, \
             metadata_source: ROUTE}",
            "sourced_metadata.metadata_source: the metadata of a route cannot be asked for",
        ),
        (&matcher("{}"), "metadata.value: one of `null_match`"),
        (&matcher("{double_match: {}}"), "metadata.value.double_match: one of `range`, `exact` must be set"),
        (&matcher("{list_match: {}}"), "metadata.value.list_match: `one_of` must be set"),
        (&matcher("{list_match: {one_of: {string_match: {}}}}"), "one_of.string_match: one of `exact`"),
        (&matcher("{or_match: {value_matchers: [{present_match: true}]}}"), "value_matchers: at least 2 must be given"),
        ("metadata: {filter: f, value: {present_match: true}}", "metadata.path: at least 1 must be given"),
        ("metadata: {filter: f, path: [{}], value: {present_match: true}}", "metadata.path[0]: `key` must be set"),
        ("metadata: {filter: f, path: [{key: a}]}", "metadata.value: this must be set"),
    ] {
        let found = problems(&Said { filters: &policy(principal), ..NOTHING });
        assert!(found.contains(expected), "{principal}: {found}");
    }
}

#[test]
fn limits_are_read_and_refused() {
    let bucket = "token_bucket: {max_tokens: 5, tokens_per_fill: 2, fill_interval: 1s}";
    let limit = |fields: &str| format!("{{name: l, typed_config: {{'@type': {LIMIT}, stat_prefix: p, {fields}}}}},");
    let entry = "entries: [{key: user, value: ''}]";
    let identity =
        "{extension: {name: i, typed_config: {'@type': type.googleapis.com/pymesh.filters.v1.ClientIdentity}}}";
    let whole = limit(&format!(
        "{bucket}, status: {{code: 200}}, filter_enabled: {{default_value: {{numerator: 50}}}}, \
         descriptors: [{{{entry}, {bucket}}}], rate_limits: [{{actions: [{identity}, {{remote_address: {{}}}}]}}]"
    ));
    let manager = manager(&Said { filters: &whole, ..NOTHING });
    let FilterKind::LocalRateLimit(read) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    assert_eq!((read.status, read.enabled, read.enforced), (429, 500_000, 0));
    assert_eq!(read.bucket.map(|bucket| (bucket.max_tokens, bucket.tokens_per_fill)), Some((5, 2)));
    assert!(read.descriptors[0].is_dynamic() && read.always_consume_default && read.max_dynamic_descriptors == 20);
    assert!(matches!(&read.policies[0].actions[0], LimitAction::ClientIdentity { key } if &**key == "client_identity"));
    for (fields, expected) in [
        (
            "token_bucket: {max_tokens: 1, fill_interval: 0.01s}",
            "token_bucket.fill_interval: this must be at least 50 ms",
        ),
        ("token_bucket: {max_tokens: 0, fill_interval: 1s}", "max_tokens: this must be greater than 0"),
        (
            "rate_limits: [{stage: 1, actions: [{remote_address: {}}]}]",
            "rate_limits[0].stage: a policy of a filter has no stage",
        ),
        ("rate_limits: [{disable_key: a, actions: [{remote_address: {}}]}]", "`disable_key` of"),
        ("rate_limits: [{actions: [{metadata: {descriptor_key: a}}]}]", "`metadata` of"),
        ("rate_limits: [{hits_addend: {number: 2}, actions: [{remote_address: {}}]}]", "`hits_addend` of"),
        ("local_cluster_rate_limit: {}", "each proxy has the whole limit"),
        (
            &format!("descriptors: [{{{entry}, {bucket}}}, {{{entry}, {bucket}}}]"),
            "descriptors[1]: this descriptor stands here twice",
        ),
    ] {
        let found = problems(&Said { filters: &limit(fields), ..NOTHING });
        assert!(found.contains(expected), "{fields}: {found}");
    }
    let route = format!("{{l: {{'@type': {LIMIT}, stat_prefix: p}}}}");
    assert!(problems(&Said { route: &route, ..NOTHING }).contains("token_bucket: this must be set for a route"));
}

const JWT: &str = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3";
const KEYS: &str = r#"local_jwks: {inline_string: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}'}"#;

fn tokens(fields: &str) -> String {
    format!("{{name: j, typed_config: {{'@type': {JWT}.JwtAuthentication, {fields}}}}},")
}

#[test]
fn token_policies_are_read() {
    let remote = "remote_jwks: {http_uri: {uri: 'https://idp.test/keys?x=1', cluster: a, timeout: 2s}, \
         cache_duration: 90.5s, async_fetch: {failed_refetch_duration: 3s}, retry_policy: {num_retries: 2}}";
    let whole = tokens(&format!(
        "providers: {{p: {{issuer: i, audiences: ['https://shop/'], {KEYS}, claim_to_headers: [{{header_name: X-Sub, \
         claim_name: sub}}]}}, q: {{{remote}, from_cookies: [c], jwt_cache_config: {{}}, clock_skew_seconds: 5}}}}, \
         requirement_map: {{both: {{requires_all: {{requirements: [{{provider_name: q}}, {{provider_and_audiences: \
         {{provider_name: p, audiences: [a]}}}}]}}}}}}, rules: [{{match: {{path: /x}}}}, {{match: {{prefix: /}}, \
         requirement_name: both}}, {{match: {{prefix: /}}, requires: {{requires_any: {{requirements: \
         [{{allow_missing: {{}}}}, {{provider_name: p}}]}}}}}}], bypass_cors_preflight: true"
    ));
    let route = format!("{{j: {{'@type': {JWT}.PerRouteConfig, requirement_name: both}}}}");
    let manager = manager(&Said { filters: &whole, route: &route, ..NOTHING });
    let FilterKind::JwtAuthn(read) = &manager.filters[0].kind else { panic!("{:?}", manager.filters) };
    let [p, q] = read.providers.as_slice() else { panic!("{read:?}") };
    assert!((&*p.issuer, &*p.from_headers[0].name, &*p.from_params[0]) == ("i", "authorization", "access_token"));
    assert!(matches!(p.keys, JwtKeys::Local(_)) && &*p.claims_to_headers[0].0 == "x-sub" && p.clock_skew == 60);
    let JwtKeys::Remote(keys) = &q.keys else { panic!("{q:?}") };
    assert_eq!((&*keys.authority, &*keys.path, keys.retries), ("idp.test", "/keys?x=1", 2));
    assert_eq!([keys.timeout.as_secs(), keys.cache_duration.as_secs(), keys.base_interval.as_secs()], [2, 90, 1]);
    assert_eq!(keys.in_background.map(|wait| wait.as_secs()), Some(3));
    assert!(q.from_headers.is_empty() && q.from_params.is_empty() && q.clock_skew == 5);
    assert_eq!(q.cache.map(|cache| (cache.tokens, cache.longest)), Some((100, 4096)));
    let JwtRequirement::All(both) = &read.requirements[0].1 else { panic!("{read:?}") };
    assert!(matches!(&both[..], [JwtRequirement::Provider(1, _), JwtRequirement::Provider(0, audiences)]
        if audiences.allow(["a"].into_iter())));
    let [nothing, named, _] = read.rules.as_slice() else { panic!("{read:?}") };
    assert!(nothing.requirement.is_none() && matches!(named.requirement, Some(JwtRequirement::All(_))));
    let said = share_of(table(&manager)).get(FilterId::of("j")).and_then(|said| said.config.as_ref());
    assert!(matches!(said, Some(RouteFilterConfig::JwtAuthn(said)) if matches!(&**said, RouteJwt::Requires(_))));
}

#[test]
fn token_policies_are_refused() {
    let provider = |fields: &str| format!("providers: {{p: {{{fields}}}}}");
    let remote = |fields: &str| provider(&format!("remote_jwks: {{{fields}}}"));
    let uri = |fields: &str| remote(&format!("http_uri: {{{fields}}}"));
    let good = provider(KEYS);
    for (fields, expected) in [
        (provider(""), "providers[\"p\"]: one of `remote_jwks`, `local_jwks` must be set (hint: without keys"),
        (
            provider("local_jwks: {inline_string: '{\"keys\": []}'}"),
            "providers[\"p\"].local_jwks: Jwks doesn't have any valid public key (hint: write a key set of RFC 7517",
        ),
        (provider("local_jwks: {inline_string: 'keys'}"), "local_jwks: Jwks is an invalid JSON"),
        (provider("local_jwks: {inline_string: '{}'}"), "local_jwks: Jwks does not have [keys] field"),
        (provider("local_jwks: {filename: /no/such/file}"), "local_jwks.filename: file `/no/such/file` cannot be read"),
        (provider(&format!("{KEYS}, subjects: {{}}")), "subjects: one of `exact`, `prefix`"),
        (provider(&format!("{KEYS}, max_lifetime: -1s")), "max_lifetime: a duration here must not be negative"),
        (provider(&format!("{KEYS}, from_headers: [{{}}]")), "from_headers[0].name: this must be set, and not be empty"),
        (
            provider(&format!("{KEYS}, claim_to_headers: [{{header_name: 'a b', claim_name: c}}]")),
            "claim_to_headers[0].header_name: `a b` is not an HTTP header name",
        ),
        (remote(""), "remote_jwks.http_uri: this must be set"),
        (uri("uri: 'http://h/', timeout: 1s"), "http_uri: `cluster` must be set"),
        (uri("uri: '/keys', cluster: a, timeout: 1s"), "http_uri.uri: `/keys` is not a URI with a host"),
        (uri("uri: 'http://h/', cluster: a"), "http_uri.timeout: this must be set"),
        (
            uri("uri: 'http://h/', cluster: a, timeout: 0s"),
            "http_uri.timeout: requests must not wait for keys without end (hint: say how long",
        ),
        (
            remote("http_uri: {uri: 'http://h/', cluster: a, timeout: 1s}, retry_policy: {retry_on: reset}"),
            "`retry_on` of envoy.config.core.v3.RetryPolicy is not supported",
        ),
        (
            format!("{good}, rules: [{{match: {{prefix: /}}, requires: {{provider_name: q}}}}]"),
            "rules[0].requires.provider_name: there is no provider `q` (hint: known: p)",
        ),
        (
            format!("{good}, rules: [{{match: {{prefix: /}}, requirement_name: r}}]"),
            "rules[0].requirement_name: there is no requirement `r` in `requirement_map`",
        ),
        (
            format!("{good}, rules: [{{match: {{prefix: /, grpc: {{}}}}, requires: {{provider_name: p}}}}]"),
            "rules[0].match.grpc: a rule does not look at what kind of request it is",
        ),
        (
            format!(
                "{good}, rules: [{{match: {{prefix: /, dynamic_metadata: [{{filter: f, path: [{{key: a}}], value: \
                 {{present_match: true}}}}]}}}}]"
            ),
            "rules[0].match.dynamic_metadata: a rule does not look at what other filters have found out",
        ),
        (
            format!("{good}, rules: [{{requires: {{requires_any: {{requirements: [{{provider_name: p}}]}}}}}}]"),
            "rules[0].match: this must be set",
        ),
        (
            format!("{good}, rules: [{{match: {{prefix: /}}, requires: {{requires_any: {{requirements: []}}}}}}]"),
            "requires_any.requirements: at least 2 must be given",
        ),
        (
            format!("{good}, filter_state_rules: {{name: f}}"),
            "field `filter_state_rules` of envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication is not supported \
             (hint: use `requirement_map`, and routes that name a requirement",
        ),
    ] {
        let found = problems(&Said { filters: &tokens(&fields), ..NOTHING });
        assert!(found.contains(expected), "{fields}: {found}");
    }
    let empty = format!("{{j: {{'@type': {JWT}.PerRouteConfig}}}}");
    assert!(problems(&Said { route: &empty, ..NOTHING }).contains("one of `disabled`, `requirement_name` must be set"));
}
