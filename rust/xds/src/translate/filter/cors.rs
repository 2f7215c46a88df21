//! `extensions.filters.http.cors.v3.CorsPolicy`.

use pymesh_model::filter::CorsPolicy;

use crate::diagnostic::At;
use crate::proto::envoy::extensions::filters::http::cors::v3 as cors;
use crate::translate::matcher;

pub(super) fn policy(config: &cors::CorsPolicy, at: &At<'_>) -> CorsPolicy {
    let origins_at = at.field("allow_origin_string_match");
    let origins = config.allow_origin_string_match.iter().enumerate();
    CorsPolicy {
        allow_origins: origins.filter_map(|(i, origin)| matcher::string(origin, &origins_at.index(i))).collect(),
        allow_methods: config.allow_methods.as_str().into(),
        allow_headers: config.allow_headers.as_str().into(),
        expose_headers: config.expose_headers.as_str().into(),
        max_age: config.max_age.as_str().into(),
        allow_credentials: config.allow_credentials,
        allow_private_network_access: config.allow_private_network_access,
        forward_not_matching_preflights: config.forward_not_matching_preflights,
        enabled: matcher::share(config.filter_enabled.as_ref(), 1_000_000, &at.field("filter_enabled")),
        shadow: matcher::share(config.shadow_enabled.as_ref(), 0, &at.field("shadow_enabled")),
    }
}
