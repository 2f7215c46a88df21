//! The five types of resources that ADS carries.

/// A type of resource, in the order in which a server should send them: what
/// is referred to comes before what refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `Cluster` (CDS).
    Cluster,
    /// `ClusterLoadAssignment` (EDS).
    Endpoints,
    /// `Listener` (LDS).
    Listener,
    /// `RouteConfiguration` (RDS).
    Routes,
    /// `Secret` (SDS).
    Secret,
}

impl ResourceKind {
    /// Every type.
    pub const ALL: [ResourceKind; 5] = [
        ResourceKind::Cluster,
        ResourceKind::Endpoints,
        ResourceKind::Listener,
        ResourceKind::Routes,
        ResourceKind::Secret,
    ];

    /// The type URL of its resources.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceKind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceKind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            ResourceKind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceKind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceKind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type that a URL names.
    pub fn of(type_url: &str) -> Option<Self> {
        ResourceKind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// True for types of which the server decides which ones we get.
    pub fn is_wildcard(self) -> bool {
        matches!(self, ResourceKind::Cluster | ResourceKind::Listener)
    }

    /// For messages.
    pub fn noun(self) -> &'static str {
        match self {
            ResourceKind::Cluster => "cluster",
            ResourceKind::Endpoints => "cluster load assignment",
            ResourceKind::Listener => "listener",
            ResourceKind::Routes => "route configuration",
            ResourceKind::Secret => "secret",
        }
    }
}
