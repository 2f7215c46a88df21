//! HTTP filters of a connection manager.

mod cors;
pub(super) mod ext_authz;
mod fault;
mod jwt_authn;
mod local_rate_limit;
pub(super) mod rbac;
mod route;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use pymesh_model::filter::{FailurePolicy, FilterId, FilterKind, HttpFilter, PythonFilter};
use pymesh_model::stats::Stats;

use super::common::{duration_or, enumerator, open, Opened};
use super::{stats, Context};
use crate::diagnostic::At;
use crate::proto;
use crate::proto::envoy::extensions::filters::http::cors::v3::Cors;
use crate::proto::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use crate::proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use crate::proto::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use crate::proto::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use crate::proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use crate::proto::envoy::extensions::filters::http::router::v3::Router;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::proto::pymesh::filters::v1 as python;
use crate::proto::stats::PluginConfig;
pub(super) use local_rate_limit::policies as rate_limits;
pub(super) use route::filters as route_filters;

/// As many as the engine has bits for.
const MOST_FILTERS: usize = 64;

/// The filters before the router, which must be the last one, and what Istio's stats filter says, if it is among them.
pub(super) fn filters(
    filters: &[hcm::HttpFilter],
    at: &At<'_>,
    cx: &Context<'_>,
) -> (Vec<Arc<HttpFilter>>, Option<Arc<Stats>>) {
    let mut translated = Vec::with_capacity(filters.len());
    let mut names = HashSet::new();
    let mut routers = 0usize;
    let mut counted = None;
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        if !names.insert(filter.name.as_str()) {
            at.field("name").refuse(format!("filter `{}` stands here twice", filter.name));
        }
        let config = filter.config_type.as_ref().map(|hcm::http_filter::ConfigType::TypedConfig(any)| any);
        if filter.is_optional && config.is_some_and(|any| proto::descriptor(&any.type_url).is_err()) {
            continue;
        }
        let at = at.field("typed_config");
        let Some(opened) = open(config, &at) else { continue };
        if opened.is::<Router>() {
            routers += 1;
            if index + 1 < filters.len() {
                at.refuse("the router must be the last HTTP filter");
            }
            if filter.disabled {
                at.refuse_with_hint("the router cannot be disabled", "leave `disabled` out");
            }
            continue;
        }
        if opened.is::<PluginConfig>() {
            if filter.disabled || counted.is_some() {
                at.refuse_with_hint("one stats filter says what is counted", "keep one, which is not disabled");
            }
            counted = opened.decode(&at).map(|config| Arc::new(stats::stats(&config, &at)));
            continue;
        }
        let kind = kind(&opened, &at, cx);
        translated.extend(kind.map(|(name, kind)| {
            let name = if name.is_empty() { filter.name.as_str().into() } else { name };
            Arc::new(HttpFilter { name, id: FilterId::of(&filter.name), disabled: filter.disabled, kind })
        }));
    }
    if translated.len() > MOST_FILTERS {
        at.refuse(format!("at most {MOST_FILTERS} filters may stand before the router, here are {}", translated.len()));
    }
    if routers == 0 {
        at.refuse_with_hint(
            "there is no router",
            "end the list with `{name: envoy.filters.http.router, typed_config: {\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}`",
        );
    }
    (translated, counted)
}

/// What a filter is, and the name that its configuration gives it.
fn kind(opened: &Opened<'_>, at: &At<'_>, cx: &Context<'_>) -> Option<(Arc<str>, FilterKind)> {
    if opened.is::<GrpcWeb>() {
        Some(("".into(), FilterKind::GrpcWeb))
    } else if opened.is::<Cors>() {
        Some(("".into(), FilterKind::Cors))
    } else if opened.is::<HttpFault>() {
        Some(("".into(), FilterKind::Fault(Arc::new(fault::fault(&opened.decode(at)?, at)))))
    } else if opened.is::<Rbac>() {
        Some(("".into(), FilterKind::Rbac(Arc::new(rbac::filter(&opened.decode(at)?, at)))))
    } else if opened.is::<ExtAuthz>() {
        Some(("".into(), FilterKind::ExtAuthz(Arc::new(ext_authz::filter(&opened.decode(at)?, at)?))))
    } else if opened.is::<JwtAuthentication>() {
        Some(("".into(), FilterKind::JwtAuthn(Arc::new(jwt_authn::filter(&opened.decode(at)?, at, cx)))))
    } else if opened.is::<LocalRateLimit>() {
        let limit = local_rate_limit::general(&opened.decode(at)?, at);
        Some(("".into(), FilterKind::LocalRateLimit(limit)))
    } else if opened.is::<python::PythonFilter>() {
        let config: python::PythonFilter = opened.decode(at)?;
        Some((config.name.as_str().into(), python_filter(&config, at)?))
    } else {
        let supported = [
            Router::full_name(),
            Cors::full_name(),
            HttpFault::full_name(),
            Rbac::full_name(),
            ExtAuthz::full_name(),
            JwtAuthentication::full_name(),
            GrpcWeb::full_name(),
            LocalRateLimit::full_name(),
            PluginConfig::full_name(),
            python::PythonFilter::full_name(),
        ];
        opened.refuse(&supported, at);
        None
    }
}

fn python_filter(config: &python::PythonFilter, at: &At<'_>) -> Option<FilterKind> {
    use python::python_filter::FailurePolicy as Policy;
    let (module, class) = config.class.split_once(':').unwrap_or_default();
    if module.is_empty() || class.is_empty() {
        at.field("class")
            .refuse_with_hint(format!("`{}` is not the name of a class", config.class), "write `module:Class`");
        return None;
    }
    let object = prost_types::Value {
        kind: Some(prost_types::value::Kind::StructValue(config.config.clone().unwrap_or_default())),
    };
    Some(FilterKind::Python(Arc::new(PythonFilter {
        class: config.class.as_str().into(),
        source: config.source.as_str().into(),
        config_json: json(&object).to_string().into(),
        failure_policy: match enumerator(config.failure_policy) {
            Policy::Closed => FailurePolicy::Closed,
            Policy::Open => FailurePolicy::Open,
        },
        timeout: duration_or(config.timeout.as_ref(), Duration::ZERO, &at.field("timeout")),
    })))
}

/// A protobuf value as JSON. Whole numbers have no fraction: a filter that is
/// configured with `limit: 3` gets an integer.
fn json(value: &prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(truth)) => (*truth).into(),
        #[allow(clippy::cast_possible_truncation)]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9.0e15 => (*number as i64).into(),
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect::<Vec<_>>().into(),
        Some(Kind::StructValue(object)) => object
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests;
