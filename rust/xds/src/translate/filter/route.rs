//! What routes say of HTTP filters: `typed_per_filter_config`.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Name as _;
use pymesh_model::filter::{FilterId, RouteFilter, RouteFilterConfig, RouteFilters};

use super::{cors, ext_authz, fault, jwt_authn, local_rate_limit, rbac};
use crate::diagnostic::At;
use crate::proto;
use crate::proto::envoy::config::route::v3::FilterConfig;
use crate::proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use crate::proto::envoy::extensions::filters::http::ext_authz::v3::ExtAuthzPerRoute;
use crate::proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use crate::proto::envoy::extensions::filters::http::jwt_authn::v3::PerRouteConfig;
use crate::proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::proto::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use crate::translate::common::{open, Opened};

/// What is said at one level, within what is said around it.
pub(in crate::translate) fn filters(
    said: &HashMap<String, prost_types::Any>,
    general: &RouteFilters,
    at: &At<'_>,
) -> RouteFilters {
    let at = at.field("typed_per_filter_config");
    let mut names: Vec<&String> = said.keys().collect();
    names.sort_unstable();
    let entry = |name: &String| {
        let at = at.key(name);
        let opened = open(said.get(name), &at)?;
        let (enabled, config) = match opened.is::<FilterConfig>() {
            true => wrapped(&opened.decode(&at)?, &at)?,
            false => switched(&opened, &at)?,
        };
        Some(RouteFilter { filter: FilterId::of(name), enabled: Some(enabled), config })
    };
    RouteFilters::within(names.into_iter().filter_map(entry).collect(), general)
}

/// `FilterConfig`: a switch, and perhaps configuration.
fn wrapped(said: &FilterConfig, at: &At<'_>) -> Option<(bool, Option<RouteFilterConfig>)> {
    let at = at.field("config");
    match &said.config {
        _ if said.disabled => Some((false, None)),
        None => {
            at.refuse_with_hint(
                "this must be set",
                "to switch the filter on as it is configured for the connection manager, write `config: {}`",
            );
            None
        }
        Some(empty) if empty.type_url.is_empty() => Some((true, None)),
        Some(unknown) if said.is_optional && proto::descriptor(&unknown.type_url).is_err() => None,
        packed => switched(&open(packed.as_ref(), &at)?, &at),
    }
}

/// Who configures a filter wants it, unless the configuration has a switch of its own.
fn switched(opened: &Opened<'_>, at: &At<'_>) -> Option<(bool, Option<RouteFilterConfig>)> {
    if opened.is::<ExtAuthzPerRoute>() {
        let own = ext_authz::of_route(&opened.decode(at)?, at);
        return Some((own.is_some(), own.map(|own| RouteFilterConfig::ExtAuthz(Arc::new(own)))));
    }
    Some((true, Some(config(opened, at)?)))
}

fn config(opened: &Opened<'_>, at: &At<'_>) -> Option<RouteFilterConfig> {
    if opened.is::<CorsPolicy>() {
        return Some(RouteFilterConfig::Cors(Arc::new(cors::policy(&opened.decode(at)?, at))));
    }
    if opened.is::<HttpFault>() {
        return Some(RouteFilterConfig::Fault(Arc::new(fault::fault(&opened.decode(at)?, at))));
    }
    if opened.is::<RbacPerRoute>() {
        return Some(RouteFilterConfig::Rbac(Arc::new(rbac::of_route(&opened.decode(at)?, at))));
    }
    if opened.is::<PerRouteConfig>() {
        return Some(RouteFilterConfig::JwtAuthn(Arc::new(jwt_authn::of_route(&opened.decode(at)?, at)?)));
    }
    if opened.is::<LocalRateLimit>() {
        let limit = local_rate_limit::limit(&opened.decode(at)?, true, at);
        return Some(RouteFilterConfig::LocalRateLimit(Arc::new(limit)));
    }
    let supported = [
        FilterConfig::full_name(),
        CorsPolicy::full_name(),
        HttpFault::full_name(),
        RbacPerRoute::full_name(),
        ExtAuthzPerRoute::full_name(),
        PerRouteConfig::full_name(),
        LocalRateLimit::full_name(),
    ];
    opened.refuse(&supported, at);
    None
}
