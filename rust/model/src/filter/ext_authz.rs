//! External authorization (`envoy.filters.http.ext_authz`, `envoy.filters.network.ext_authz`): a service is asked whether
//! a request, or a connection, may pass.

use std::sync::Arc;
use std::time::Duration;

use crate::matcher::StringMatch;
use crate::metadata::MetadataMatch;
use crate::route::HeaderEdit;

/// The HTTP filter.
#[derive(Clone, Debug)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: AuthzService,
    /// `failure_mode_allow`: a request passes if there is no answer, or none that can be understood.
    pub allows_on_failure: bool,
    /// `failure_mode_allow_header_add`: such a request says so.
    pub tells_failure: bool,
    /// `with_request_body`: the service is shown the body.
    pub body: Option<AuthzBody>,
    /// `clear_route_cache`: a request that the service has changed is routed again.
    pub reroutes: bool,
    /// `status_on_error`: what a request is answered with if there is no answer.
    pub status_on_error: u16,
    /// `filter_enabled`, in millionths.
    pub enabled: u32,
    /// `filter_enabled_metadata`: only requests of which filters before have found out this.
    pub enabled_metadata: Option<MetadataMatch>,
    /// `deny_at_disable`: requests that are not asked about are refused.
    pub denies_if_disabled: bool,
    /// `include_peer_certificate`.
    pub shows_certificate: bool,
    /// `include_tls_session`.
    pub shows_tls_session: bool,
    /// `metadata_context_namespaces`: what filters before have found out, that the service is told.
    pub told: Vec<Arc<str>>,
    /// `enable_dynamic_metadata_ingestion`: what the service says of the request is told to filters behind.
    pub keeps_metadata: bool,
    /// `stat_prefix`, within the names of its counters.
    pub stat_prefix: Arc<str>,
    /// `allowed_headers`: those that the service is shown; `None`: all.
    pub shown: Option<HeaderNames>,
    /// `disallowed_headers`: those that it is not shown in any case.
    pub hidden: HeaderNames,
    /// `max_denied_response_body_bytes`; zero means no limit.
    pub most_denied_body: usize,
}

/// The network filter.
#[derive(Clone, Debug)]
pub struct ConnectionAuthz {
    /// Who is asked.
    pub service: GrpcAuthz,
    /// `failure_mode_allow`.
    pub allows_on_failure: bool,
    /// `include_peer_certificate`.
    pub shows_certificate: bool,
    /// `include_tls_session`.
    pub shows_tls_session: bool,
    /// `filter_enabled_metadata`.
    pub enabled_metadata: Option<MetadataMatch>,
    /// `metadata_context_namespaces`.
    pub told: Vec<Arc<str>>,
    /// `stat_prefix`.
    pub stat_prefix: Arc<str>,
}

/// Who is asked, and how.
#[derive(Clone, Debug)]
pub enum AuthzService {
    /// `grpc_service`: by `envoy.service.auth.v3.Authorization`.
    Grpc(GrpcAuthz),
    /// `http_service`: by a request like the client's.
    Http(Box<HttpAuthz>),
}

/// `GrpcService`, with an Envoy client.
#[derive(Clone, Debug)]
pub struct GrpcAuthz {
    /// The cluster of the service.
    pub cluster: Arc<str>,
    /// `:authority`; by default the name of the cluster.
    pub authority: Arc<str>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// `initial_metadata`.
    pub metadata: HeaderEdit,
}

/// `HttpService`.
#[derive(Clone, Debug)]
pub struct HttpAuthz {
    /// The cluster of the service.
    pub cluster: Arc<str>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// `path_prefix`, before the client's path.
    pub path_prefix: Box<str>,
    /// `authorization_request.headers_to_add`.
    pub add: HeaderEdit,
    /// `allowed_upstream_headers`: of an answer that allows, these go to the upstream in place of the client's.
    pub to_upstream: HeaderNames,
    /// `allowed_upstream_headers_to_append`: these beside the client's.
    pub to_upstream_too: HeaderNames,
    /// `allowed_client_headers`: of an answer that denies, these go to the client. Empty: all.
    pub to_client: HeaderNames,
    /// `allowed_client_headers_on_success`: of an answer that allows.
    pub to_client_on_success: HeaderNames,
    /// `dynamic_metadata_from_headers`: these become what filters behind are told.
    pub to_metadata: HeaderNames,
}

/// `BufferSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthzBody {
    /// `max_request_bytes`, not zero.
    pub most: usize,
    /// `allow_partial_message`: of a longer body the service is shown the beginning; else it is refused.
    pub partial: bool,
    /// `pack_as_bytes`: as it is, else as text. A route has no say in it.
    pub as_bytes: bool,
}

/// What a route says: `CheckSettings`.
#[derive(Clone, Debug, Default)]
pub struct AuthzRoute {
    /// `context_extensions`, in order of the keys: what the service is told of the route.
    pub context: Vec<(Box<str>, Box<str>)>,
    /// Whether it is shown the body.
    pub body: AuthzRouteBody,
}

/// What a route says of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthzRouteBody {
    /// As the filter says.
    #[default]
    AsFilter,
    /// `disable_request_body_buffering`.
    No,
    /// `with_request_body`.
    Own(AuthzBody),
}

impl AuthzRoute {
    /// Within what is said around it, only the context is joined, as in Envoy.
    #[must_use]
    pub fn within(&self, general: &AuthzRoute) -> AuthzRoute {
        let mut context = self.context.clone();
        let is_known = |key: &str| self.context.iter().any(|(known, _)| **known == *key);
        context.extend(general.context.iter().filter(|(key, _)| !is_known(key)).cloned());
        context.sort();
        AuthzRoute { context, body: self.body }
    }
}

/// `ListStringMatcher` over names of headers.
#[derive(Clone, Debug, Default)]
pub struct HeaderNames(pub Vec<StringMatch>);

impl HeaderNames {
    /// One of them matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|one| one.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_joins_the_context_of_what_is_around_it_and_nothing_else() {
        let pair = |key: &str, value: &str| (key.into(), value.into());
        let body = AuthzRouteBody::Own(AuthzBody { most: 8, partial: false, as_bytes: false });
        let host = AuthzRoute { context: vec![pair("a", "host"), pair("c", "host")], body };
        let route = AuthzRoute { context: vec![pair("b", "route"), pair("c", "route")], ..AuthzRoute::default() };
        let merged = route.within(&host);
        assert_eq!(merged.context, [pair("a", "host"), pair("b", "route"), pair("c", "route")]);
        assert_eq!(merged.body, AuthzRouteBody::AsFilter);
    }
}
