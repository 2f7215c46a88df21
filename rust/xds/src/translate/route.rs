//! `RouteConfiguration`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::filter::RouteFilters;
use pymesh_model::route::{
    Action, ClusterChoice, DirectResponse, Forward, GrpcTimeout, HostRewrite, Mirror, MirrorCluster, PathMatch,
    PathRewrite, Redirect, RedirectPath, Route, RouteMatch, RouteTable, SplitBy, StreamDuration, VirtualHost,
    WeightedCluster, WeightedClusters,
};

use super::common::{data_source, duration, duration_or, enumerator};
use super::header::{self, header_fields};
use super::{circuit_breaker, filter, hash_policy, http, matcher, mirror, retry, tracing, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use route::route_action::RequestMirrorPolicy;
use route::weighted_cluster::RandomValueSpecifier;

/// Envoy's default for `timeout` of a route.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's default for `max_direct_response_body_size_bytes`.
const DIRECT_BODY: u32 = 4096;

/// Translates a route table. `validate` is what Envoy does when
/// `validate_clusters` is not set: true for tables within a listener.
pub(crate) fn route_table(
    config: &route::RouteConfiguration,
    validate: bool,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> RouteTable {
    let mut table = Table {
        direct_body: config.max_direct_response_body_size_bytes.unwrap_or(DIRECT_BODY),
        validate: config.validate_clusters.unwrap_or(validate),
        filters: filter::route_filters(&config.typed_per_filter_config, &RouteFilters::default(), at),
        cx,
        mirrors: Arc::default(),
    };
    table.mirrors = table.mirrors(&config.request_mirror_policies, at);
    let hosts_at = at.field("virtual_hosts");
    let mut domains = HashSet::new();
    let mut names = HashSet::new();
    let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let at = hosts_at.index(index);
        if !names.insert(host.name.as_str()) {
            at.field("name").refuse(format!("virtual host `{}` stands here twice", host.name));
        }
        let host = table.virtual_host(host, &at);
        for (index, domain) in host.domains.iter().enumerate() {
            if !domains.insert(domain.clone()) {
                at.field("domains").index(index).refuse(format!("domain `{domain}` stands in this table twice"));
            }
        }
        virtual_hosts.push(host);
    }
    let table = RouteTable {
        name: config.name.as_str().into(),
        virtual_hosts,
        headers: header::operations(&header_fields!(config), at),
        most_specific_wins: config.most_specific_header_mutations_wins,
        ignore_port: config.ignore_port_in_host_matching,
        ..RouteTable::default()
    };
    // Here, so that no request waits for it.
    table.index();
    table
}

struct Table<'c, 'e> {
    direct_body: u32,
    validate: bool,
    /// What the table says of HTTP filters.
    filters: RouteFilters,
    cx: &'c mut Context<'e>,
    /// For routes that name none, of virtual hosts that name none.
    mirrors: Arc<[Mirror]>,
}

impl Table<'_, '_> {
    fn virtual_host(&mut self, host: &route::VirtualHost, at: &At<'_>) -> VirtualHost {
        use route::virtual_host::TlsRequirementType;
        let require_tls = match enumerator(host.require_tls) {
            TlsRequirementType::None => false,
            TlsRequirementType::All => true,
            TlsRequirementType::ExternalOnly => {
                at.field("require_tls").refuse_with_hint("EXTERNAL_ONLY is not supported", "write ALL or NONE");
                false
            }
        };
        let filters = filter::route_filters(&host.typed_per_filter_config, &self.filters, at);
        let of_table = self.mirrors.clone();
        if !host.request_mirror_policies.is_empty() {
            self.mirrors = self.mirrors(&host.request_mirror_policies, at);
        }
        let routes_at = at.field("routes");
        let virtual_host = VirtualHost {
            name: host.name.as_str().into(),
            domains: domains(&host.domains, &at.field("domains")),
            routes: host
                .routes
                .iter()
                .enumerate()
                .filter_map(|(index, route)| self.route(route, &filters, &routes_at.index(index)))
                .map(Arc::new)
                .collect(),
            headers: header::operations(&header_fields!(host), at),
            rate_limits: filter::rate_limits(&host.rate_limits, &at.field("rate_limits")),
            retry: host.retry_policy.as_ref().map(|policy| Arc::new(retry::policy(policy, &at.field("retry_policy")))),
            require_tls,
            attempt_count_in_request: host.include_request_attempt_count,
            attempt_count_in_response: host.include_attempt_count_in_response,
        };
        self.mirrors = of_table;
        virtual_host
    }

    fn mirrors(&mut self, policies: &[RequestMirrorPolicy], at: &At<'_>) -> Arc<[Mirror]> {
        let policies_at = at.field("request_mirror_policies");
        let mut mirrors = Vec::with_capacity(policies.len());
        for (index, policy) in policies.iter().enumerate() {
            let at = policies_at.index(index);
            let Some(mirror) = mirror::policy(policy, &at) else { continue };
            if let MirrorCluster::One(name) = &mirror.cluster {
                self.names_cluster(name, &at.field("cluster"));
            }
            mirrors.push(mirror);
        }
        mirrors.into()
    }

    fn route(&mut self, route: &route::Route, general: &RouteFilters, at: &At<'_>) -> Option<Route> {
        let filters = filter::route_filters(&route.typed_per_filter_config, general, at);
        let matches = matches(route.r#match.as_ref()?, &at.field("match"));
        let action = match route.action.as_ref()? {
            route::route::Action::Route(action) => {
                self.forward(action, &filters, &at.field("route")).map(|forward| Action::Forward(Arc::new(forward)))
            }
            route::route::Action::Redirect(action) => {
                redirect(action, &at.field("redirect")).map(|redirect| Action::Redirect(Arc::new(redirect)))
            }
            route::route::Action::DirectResponse(action) => self
                .direct_response(action, &at.field("direct_response"))
                .map(|response| Action::Direct(Arc::new(response))),
        };
        let headers = header::operations(&header_fields!(route), at);
        Some(Route {
            name: route.name.as_str().into(),
            matches: matches?,
            action: action?,
            headers,
            filters,
            decorator: route.decorator.as_ref().map(|config| tracing::decorator(config, &at.field("decorator"))),
            tracing: route.tracing.as_ref().map(|config| tracing::of_route(config, &at.field("tracing"), self.cx)),
        })
    }

    fn forward(&mut self, action: &route::RouteAction, filters: &RouteFilters, at: &At<'_>) -> Option<Forward> {
        use route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
        let cluster = match action.cluster_specifier.as_ref()? {
            ClusterSpecifier::Cluster(name) => {
                let name: Arc<str> = name.as_str().into();
                self.names_cluster(&name, &at.field("cluster"));
                ClusterChoice::One(name)
            }
            ClusterSpecifier::ClusterHeader(name) => ClusterChoice::Header(name.to_ascii_lowercase().into()),
            ClusterSpecifier::WeightedClusters(weighted) => {
                ClusterChoice::Weighted(self.weighted(weighted, filters, &at.field("weighted_clusters")))
            }
        };
        let path_rewrite = match (action.prefix_rewrite.as_str(), &action.regex_rewrite) {
            ("", None) => None,
            (prefix, None) => Some(PathRewrite::Prefix(prefix.into())),
            ("", Some(rewrite)) => matcher::substitution(rewrite, &at.field("regex_rewrite"))
                .map(|(pattern, with)| PathRewrite::Regex(pattern, with)),
            (_, Some(_)) => {
                at.field("regex_rewrite").refuse("only one of `prefix_rewrite` and `regex_rewrite` may be set");
                None
            }
        };
        let host_rewrite = match &action.host_rewrite_specifier {
            None | Some(HostRewriteSpecifier::AutoHostRewrite(false)) => None,
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host.as_str().into())),
            Some(HostRewriteSpecifier::AutoHostRewrite(true)) => Some(HostRewrite::Endpoint),
            Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
                Some(HostRewrite::Header(name.to_ascii_lowercase().into()))
            }
        };
        let stream_at = at.field("max_stream_duration");
        let stream = action.max_stream_duration.unwrap_or_default();
        let grpc = |max: Option<&prost_types::Duration>,
                    offset: Option<&prost_types::Duration>,
                    at: &At<'_>,
                    names: [&str; 2]| {
            let offset = duration(offset, &at.field(names[1])).unwrap_or_default();
            duration(max, &at.field(names[0])).map(|max| GrpcTimeout { max, offset })
        };
        let header = ["grpc_timeout_header_max", "grpc_timeout_header_offset"];
        let (max, offset) = (stream.grpc_timeout_header_max.as_ref(), stream.grpc_timeout_header_offset.as_ref());
        let stream_duration = StreamDuration {
            max: duration(stream.max_stream_duration.as_ref(), &stream_at.field("max_stream_duration")),
            grpc: grpc(max, offset, &stream_at, header),
        };
        let (max, offset) = (action.max_grpc_timeout.as_ref(), action.grpc_timeout_offset.as_ref());
        let grpc_timeout = grpc(max, offset, at, ["max_grpc_timeout", "grpc_timeout_offset"]);
        let hash_policy = hash_policy::policies(&action.hash_policy, &at.field("hash_policy"));
        let upgrades_at = at.field("upgrade_configs");
        let upgrades = action.upgrade_configs.iter().enumerate().map(|(index, upgrade)| {
            let at = upgrades_at.index(index);
            let terminates = upgrade.connect_config.is_some();
            if terminates && !upgrade.upgrade_type.eq_ignore_ascii_case("CONNECT") {
                at.field("connect_config").refuse("this is for `upgrade_type: CONNECT` only");
            }
            http::upgrade(&upgrade.upgrade_type, upgrade.enabled, terminates, &at)
        });
        let mirrors = match action.request_mirror_policies.as_slice() {
            [] => self.mirrors.clone(),
            own => self.mirrors(own, at),
        };
        Some(Forward {
            cluster,
            priority: circuit_breaker::priority(action.priority),
            timeout: match action.max_stream_duration {
                // As in Envoy, the newer of two ways to say it leaves no room for the older.
                Some(_) => Duration::ZERO,
                None => duration_or(action.timeout.as_ref(), TIMEOUT, &at.field("timeout")),
            },
            idle_timeout: duration(action.idle_timeout.as_ref(), &at.field("idle_timeout")),
            stream: stream_duration,
            grpc_timeout: grpc_timeout.filter(|_| action.max_stream_duration.is_none()),
            retry: action
                .retry_policy
                .as_ref()
                .map(|policy| Arc::new(retry::policy(policy, &at.field("retry_policy")))),
            path_rewrite,
            host_rewrite,
            append_x_forwarded_host: action.append_x_forwarded_host,
            cluster_not_found_status: match enumerator(action.cluster_not_found_response_code) {
                ClusterNotFoundResponseCode::ServiceUnavailable => 503,
                ClusterNotFoundResponseCode::NotFound => 404,
                ClusterNotFoundResponseCode::InternalServerError => 500,
            },
            rate_limits: filter::rate_limits(&action.rate_limits, &at.field("rate_limits")),
            upgrades: upgrades.collect(),
            mirrors,
            hash_policy,
        })
    }

    fn names_cluster(&mut self, name: &Arc<str>, at: &At<'_>) {
        if self.validate {
            self.cx.needs.clusters.push((at.path(), name.clone()));
        }
    }

    fn weighted(&mut self, weighted: &route::WeightedCluster, general: &RouteFilters, at: &At<'_>) -> WeightedClusters {
        use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let clusters_at = at.field("clusters");
        let mut clusters = Vec::with_capacity(weighted.clusters.len());
        for (index, entry) in weighted.clusters.iter().enumerate() {
            let at = clusters_at.index(index);
            if entry.name.is_empty() {
                at.field("name").refuse("this must be set, and not be empty");
            }
            let name: Arc<str> = entry.name.as_str().into();
            self.names_cluster(&name, &at.field("name"));
            let headers = header::operations(&header_fields!(entry), &at);
            let host_rewrite = entry.host_rewrite_specifier.as_ref().and_then(|specifier| match specifier {
                HostRewriteSpecifier::HostRewriteLiteral(host) => (!host.is_empty()).then(|| host.as_str().into()),
            });
            let filters = filter::route_filters(&entry.typed_per_filter_config, general, &at);
            clusters.push(WeightedCluster { name, weight: entry.weight.unwrap_or(0), headers, host_rewrite, filters });
        }
        check_total(clusters.iter().map(|cluster| cluster.weight), &clusters_at);
        let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if let Some(told) = weighted.total_weight.filter(|told| *told != 0 && u64::from(*told) != total) {
            at.field("total_weight").refuse_with_hint(
                format!("the weights add up to {total}, not to {told}"),
                "leave this out: weights are parts of their sum",
            );
        }
        let by = match &weighted.random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) if !name.is_empty() => {
                SplitBy::Header(name.to_ascii_lowercase().into())
            }
            Some(RandomValueSpecifier::UseHashPolicy(true)) => SplitBy::HashPolicy,
            None | Some(RandomValueSpecifier::HeaderName(_) | RandomValueSpecifier::UseHashPolicy(false)) => {
                SplitBy::Chance
            }
        };
        WeightedClusters { clusters, by }
    }

    fn direct_response(&self, action: &route::DirectResponseAction, at: &At<'_>) -> Option<DirectResponse> {
        let body_at = at.field("body");
        let body = match &action.body {
            None => Vec::new(),
            body => data_source(body.as_ref(), &body_at, self.cx)?,
        };
        if u32::try_from(body.len()).map_or(true, |size| size > self.direct_body) {
            body_at.refuse_with_hint(
                format!("the body has {} octets; at most {} are allowed", body.len(), self.direct_body),
                "raise `max_direct_response_body_size_bytes` of the route configuration",
            );
        }
        Some(DirectResponse { status: u16::try_from(action.status).ok()?, body: body.into() })
    }
}

/// Weights are parts of their sum, which must be a `uint32` above zero.
pub(super) fn check_total(mut weights: impl Iterator<Item = u32>, at: &At<'_>) {
    match weights.try_fold(0u32, u32::checked_add) {
        Some(0) => at.refuse("the sum of all weights must be above zero"),
        Some(_) => {}
        None => at.refuse(format!("the sum of all weights must not exceed {}", u32::MAX)),
    }
}

fn domains(domains: &[String], at: &At<'_>) -> Vec<Box<str>> {
    let mut lower = Vec::with_capacity(domains.len());
    for (index, domain) in domains.iter().enumerate() {
        let domain = domain.to_ascii_lowercase();
        let inner = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(&domain);
        if inner.contains('*') || domain.is_empty() {
            at.index(index).refuse_with_hint(
                format!("`{domain}` is not a domain"),
                "write a whole name, `*.suffix`, `prefix.*` or `*`",
            );
        }
        lower.push(domain.into());
    }
    lower
}

pub(super) fn matches(config: &route::RouteMatch, at: &At<'_>) -> Option<RouteMatch> {
    use route::route_match::PathSpecifier;
    let path = match config.path_specifier.as_ref()? {
        PathSpecifier::Prefix(prefix) => Some(PathMatch::Prefix(prefix.as_str().into())),
        PathSpecifier::Path(path) => Some(PathMatch::Exact(path.as_str().into())),
        PathSpecifier::SafeRegex(pattern) => matcher::whole(pattern, &at.field("safe_regex")).map(PathMatch::Regex),
        PathSpecifier::PathSeparatedPrefix(prefix) => Some(PathMatch::SeparatedPrefix(prefix.as_str().into())),
        PathSpecifier::ConnectMatcher(_) => Some(PathMatch::Connect),
    };
    if matches!(path, Some(PathMatch::Regex(_))) && config.case_sensitive == Some(false) {
        at.field("case_sensitive")
            .refuse_with_hint("it has no effect on `safe_regex`", "begin the pattern with `(?i)`");
    }
    let headers_at = at.field("headers");
    let headers = config.headers.iter().enumerate().filter_map(|(i, h)| matcher::header(h, &headers_at.index(i)));
    let headers = headers.collect();
    let query_at = at.field("query_parameters");
    let query = config.query_parameters.iter().enumerate().filter_map(|(i, q)| matcher::query(q, &query_at.index(i)));
    let query = query.collect();
    let metadata_at = at.field("dynamic_metadata");
    let metadata = config.dynamic_metadata.iter().enumerate();
    let metadata = metadata.filter_map(|(i, m)| matcher::metadata(m, &metadata_at.index(i))).collect();
    let fraction_at = at.field("runtime_fraction");
    let fraction = config.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value.as_ref());
    Some(RouteMatch {
        path: path?,
        case_sensitive: config.case_sensitive.unwrap_or(true),
        headers,
        query,
        metadata,
        grpc: config.grpc.is_some(),
        fraction: fraction.map(|fraction| matcher::millionths(fraction, &fraction_at.field("default_value"))),
    })
}

fn redirect(action: &route::RedirectAction, at: &At<'_>) -> Option<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let scheme = match &action.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.to_ascii_lowercase().into()),
    };
    let path = match &action.path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Full(path.as_str().into())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(prefix.as_str().into())),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (pattern, with) = matcher::substitution(rewrite, &at.field("regex_rewrite"))?;
            Some(RedirectPath::Regex(pattern, with))
        }
    };
    let port = match u16::try_from(action.port_redirect) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            at.field("port_redirect").refuse(format!("{} is not a port", action.port_redirect));
            None
        }
    };
    Some(Redirect {
        scheme,
        host: (!action.host_redirect.is_empty()).then(|| action.host_redirect.as_str().into()),
        port,
        path,
        status: match enumerator(action.response_code) {
            RedirectResponseCode::MovedPermanently => 301,
            RedirectResponseCode::Found => 302,
            RedirectResponseCode::SeeOther => 303,
            RedirectResponseCode::TemporaryRedirect => 307,
            RedirectResponseCode::PermanentRedirect => 308,
        },
        strip_query: action.strip_query,
    })
}
