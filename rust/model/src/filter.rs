//! HTTP filters before the router.

use std::sync::Arc;
use std::time::Duration;

/// One HTTP filter of a connection manager.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// Instance name, unique in its chain.
    pub name: Arc<str>,
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
}

/// `pymesh.filters.v1.PythonFilter`: see `pymesh/filters/SPEC.md`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
