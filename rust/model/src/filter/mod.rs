//! HTTP filters before the router: the chain of a connection manager, and what routes say of it.
//!
//! A filter stands in the chain once, with its general configuration. A route may switch it on or off for its requests,
//! or give it other configuration (`typed_per_filter_config`). What the levels of a route table say is resolved when the
//! table is translated: each route, and each entry of its weighted clusters, holds what counts for it ([`RouteFilters`]).

mod cors;
mod ext_authz;
mod fault;
mod jwt_authn;
mod local_rate_limit;
pub mod rbac;

use std::sync::Arc;
use std::time::Duration;

pub use cors::CorsPolicy;
pub use ext_authz::{
    AuthzBody, AuthzRoute, AuthzRouteBody, AuthzService, ConnectionAuthz, ExtAuthz, GrpcAuthz, HeaderNames, HttpAuthz,
};
pub use fault::{AbortStatus, Fault, FaultAbort, FaultDelay, FaultDuration, Percentage};
pub use jwt_authn::{
    Audiences, JwtAuthn, JwtCache, JwtHeader, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteJwks, RouteJwt,
};
pub use local_rate_limit::{LimitAction, LimitDescriptor, LocalRateLimit, RateLimit, TokenBucket, VirtualHostLimits};
pub use rbac::Rbac;

/// One HTTP filter of a connection manager.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// Name for people.
    pub name: Arc<str>,
    /// Of its instance name, which is unique in its chain.
    pub id: FilterId,
    /// No request passes it, unless its route switches it on.
    pub disabled: bool,
    /// What it does.
    pub kind: FilterKind,
}

/// The filters that exist.
#[derive(Clone, Debug)]
pub enum FilterKind {
    /// User code, run by a host outside the engine.
    Python(Arc<PythonFilter>),
    /// `envoy.filters.http.grpc_web`: gRPC for browsers.
    GrpcWeb,
    /// `envoy.filters.http.cors`: acts by the policies of routes only.
    Cors,
    /// `envoy.filters.http.fault`: delays and aborts.
    Fault(Arc<Fault>),
    /// `envoy.filters.http.rbac`: who may do what.
    Rbac(Arc<Rbac>),
    /// `envoy.filters.http.ext_authz`: as a service says.
    ExtAuthz(Arc<ExtAuthz>),
    /// `envoy.filters.http.jwt_authn`: who has which token.
    JwtAuthn(Arc<JwtAuthn>),
    /// `envoy.filters.http.local_ratelimit`: as many requests as there are tokens.
    LocalRateLimit(Arc<LocalRateLimit>),
}

/// A filter's instance name as a number, so that a request needs to compare no names: a hash of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterId(u64);

impl FilterId {
    /// The same name gives the same number (FNV-1a).
    pub fn of(name: &str) -> FilterId {
        FilterId(
            name.bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)),
        )
    }
}

/// What a route says of filters; at most one entry for each. Most routes say nothing.
#[derive(Clone, Debug, Default)]
pub struct RouteFilters(Option<Arc<[RouteFilter]>>);

/// What a route says of one filter.
#[derive(Clone, Debug)]
pub struct RouteFilter {
    /// Which filter.
    pub filter: FilterId,
    /// Whether requests pass it; `None`: as the chain says.
    pub enabled: Option<bool>,
    /// In place of the filter's general configuration.
    pub config: Option<RouteFilterConfig>,
}

/// Configuration that a route may give to a filter.
#[derive(Clone, Debug)]
pub enum RouteFilterConfig {
    /// For [`FilterKind::Cors`].
    Cors(Arc<CorsPolicy>),
    /// For [`FilterKind::Fault`].
    Fault(Arc<Fault>),
    /// For [`FilterKind::Rbac`].
    Rbac(Arc<Rbac>),
    /// For [`FilterKind::ExtAuthz`].
    ExtAuthz(Arc<AuthzRoute>),
    /// For [`FilterKind::JwtAuthn`].
    JwtAuthn(Arc<RouteJwt>),
    /// For [`FilterKind::LocalRateLimit`].
    LocalRateLimit(Arc<LocalRateLimit>),
}

impl RouteFilters {
    /// Nothing is said of any filter.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What is said of a filter.
    pub fn get(&self, filter: FilterId) -> Option<&RouteFilter> {
        self.entries().iter().find(|entry| entry.filter == filter)
    }

    /// Everything that is said.
    pub fn entries(&self) -> &[RouteFilter] {
        self.0.as_deref().unwrap_or_default()
    }

    /// What counts where `own` is said at one level and `general` at those around it: of each filter the most specific.
    pub fn within(own: Vec<RouteFilter>, general: &RouteFilters) -> RouteFilters {
        if own.is_empty() {
            return general.clone();
        }
        let mut merged = own;
        for outer in general.entries() {
            match merged.iter_mut().find(|entry| entry.filter == outer.filter) {
                None => merged.push(outer.clone()),
                Some(entry) => {
                    entry.enabled = entry.enabled.or(outer.enabled);
                    entry.config = match (entry.config.take(), &outer.config) {
                        // As Envoy's filter does: field by field, not policy by policy.
                        (Some(RouteFilterConfig::Cors(own)), Some(RouteFilterConfig::Cors(outer))) => {
                            Some(RouteFilterConfig::Cors(Arc::new(own.within(outer))))
                        }
                        (Some(RouteFilterConfig::ExtAuthz(own)), Some(RouteFilterConfig::ExtAuthz(outer))) => {
                            Some(RouteFilterConfig::ExtAuthz(Arc::new(own.within(outer))))
                        }
                        (own, outer) => own.or_else(|| outer.clone()),
                    };
                }
            }
        }
        RouteFilters(Some(merged.into()))
    }
}

/// `pymesh.filters.v1.PythonFilter`: see `pymesh/filters/SPEC.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PythonFilter {
    /// `module:Class`.
    pub class: Arc<str>,
    /// Source of the module; empty to import it from the environment.
    pub source: Arc<str>,
    /// Configuration as a JSON object.
    pub config_json: Arc<str>,
    /// What happens to a request when the filter raises or takes too long.
    pub failure_policy: FailurePolicy,
    /// Longest a hook may take before the failure policy applies; zero means no limit.
    pub timeout: Duration,
}

/// What a failed filter means for its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// Answer 500.
    #[default]
    Closed,
    /// Go on as if the filter were not there.
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(filter: &str, enabled: Option<bool>, methods: Option<&str>) -> RouteFilter {
        let policy = |methods: &str| CorsPolicy { allow_methods: methods.into(), ..CorsPolicy::default() };
        let config = methods.map(|methods| RouteFilterConfig::Cors(Arc::new(policy(methods))));
        RouteFilter { filter: FilterId::of(filter), enabled, config }
    }

    #[test]
    fn the_most_specific_level_counts() {
        let table = RouteFilters::within(
            vec![said("a", Some(true), Some("GET")), said("b", Some(false), None)],
            &RouteFilters::default(),
        );
        assert!(RouteFilters::within(vec![], &RouteFilters::default()).is_empty());
        let host = RouteFilters::within(vec![said("a", Some(false), None)], &table);
        let entry = host.get(FilterId::of("a")).unwrap();
        assert_eq!(entry.enabled, Some(false));
        assert!(entry.config.is_some(), "switched off, its configuration stays");
        assert_eq!(host.get(FilterId::of("b")).unwrap().enabled, Some(false));
        assert!(host.get(FilterId::of("c")).is_none());
        let route = RouteFilters::within(vec![said("a", Some(true), Some(""))], &host);
        let Some(RouteFilterConfig::Cors(policy)) = &route.get(FilterId::of("a")).unwrap().config else { panic!() };
        assert_eq!(&*policy.allow_methods, "GET", "what the route leaves out comes from around it");
    }
}
