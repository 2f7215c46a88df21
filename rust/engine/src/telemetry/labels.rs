//! The labels of Istio's metrics, as its stats filter makes them.
//!
//! Who reports is at one end: where traffic comes in it knows itself as the destination, and the source by its
//! certificate; where traffic goes out it knows itself as the source, and the destination as the control plane has
//! described the endpoint, and by its certificate.

use std::sync::Arc;

use pymesh_model::cluster::{Cluster, ServiceLabels};
use pymesh_model::endpoint::Endpoint;
use pymesh_model::listener::Direction;
use pymesh_model::snapshot::WorkloadLabels;
use pymesh_model::stats::LabelValue;
use pymesh_model::Node;

use super::istio::{Labels, Source};
use super::view::View;
use super::{Facts, Flags};

/// Octets of a label that a client has chosen.
const LONGEST: usize = 256;

/// What every series has in its labels: the names, made once, and what stands for what is not known.
pub(crate) struct Names {
    names: Vec<Arc<str>>,
    unknown: Arc<str>,
    latest: Arc<str>,
}

impl Default for Names {
    fn default() -> Self {
        Names { names: NAMES.map(Into::into).to_vec(), unknown: "unknown".into(), latest: "latest".into() }
    }
}

/// In the order in which they are written. Messages have those before [`OF_MESSAGES`] alone, which tell who talks to
/// whom: of a request that goes on nobody knows more. The last two are of requests alone.
const NAMES: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "response_code",
    "grpc_response_status",
];

const OF_MESSAGES: usize = 20;

/// Clusters that stand for no service and are called by their own names.
const OWN_NAMES: [&str; 3] = ["BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster"];

/// The identities that an endpoint and we have shown each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Principals {
    pub own: Option<Arc<str>>,
    pub peer: Option<Arc<str>>,
}

/// A request or connection, as metrics see it.
pub(crate) struct Counted<'a> {
    pub names: &'a Names,
    pub node: &'a Node,
    pub view: &'a View<'a>,
    pub direction: Direction,
    pub facts: &'a Facts,
    pub cluster: Option<&'a Cluster>,
    pub endpoint: Option<&'a Endpoint>,
    /// Where traffic goes out.
    pub upstream: Principals,
    pub flags: Flags,
    pub what: What,
}

/// What is counted.
pub(crate) enum What {
    Request {
        is_grpc: bool,
        status: u16,
        grpc_status: Option<u8>,
    },
    /// Those of a request.
    Messages,
    Connection,
}

impl Source for Counted<'_> {
    fn labels(&self) -> Labels {
        let Names { names, unknown, latest } = self.names;
        let or = |value: &Arc<str>, otherwise: &Arc<str>| match value.is_empty() {
            true => otherwise.clone(),
            false => value.clone(),
        };
        let or_unknown = |value: &Arc<str>| or(value, unknown);
        let is_inbound = self.direction == Direction::Inbound;
        let no_service = ServiceLabels::default();
        let service = self.cluster.map_or(&no_service, |cluster| &cluster.service);
        let peer = workload_of(self.facts.principal());
        let nobody = WorkloadLabels::default();
        let endpoint = self.endpoint.map_or(&nobody, |endpoint| &endpoint.workload);
        let (source, destination) = match is_inbound {
            true => (&peer, &self.node.workload),
            false => (&self.node.workload, endpoint),
        };
        let (source_principal, destination_principal) = match is_inbound {
            true => {
                (self.facts.principal().map(Into::into), self.facts.own_uris.first().map(|uri| uri.as_str().into()))
            }
            false => (self.upstream.own.clone(), self.upstream.peer.clone()),
        };
        let policy = match (is_inbound, self.facts.is_mutual_tls()) {
            (false, _) => "unknown",
            (true, true) => "mutual_tls",
            (true, false) => "none",
        };
        let values = [
            if is_inbound { "destination" } else { "source" }.into(),
            or_unknown(&source.name),
            or_unknown(&source.app),
            or(&source.version, latest),
            or_unknown(&source.namespace),
            source_principal.unwrap_or_else(|| unknown.clone()),
            or_unknown(&source.app),
            or_unknown(&source.version),
            or_unknown(&source.cluster),
            or_unknown(&destination.name),
            or_unknown(&destination.namespace),
            destination_principal.unwrap_or_else(|| unknown.clone()),
            or_unknown(&destination.app),
            or_unknown(&destination.version),
            or_unknown(&service.host),
            or_unknown(&destination.app),
            or(&destination.version, latest),
            or_unknown(&self.service_name(service)),
            or_unknown(&service.namespace),
            or_unknown(&destination.cluster),
            match self.what {
                What::Request { is_grpc: false, .. } => "http",
                What::Request { is_grpc: true, .. } | What::Messages => "grpc",
                What::Connection => "tcp",
            }
            .into(),
            self.flags.to_string().into(),
            policy.into(),
        ];
        let (shown, answer) = match self.what {
            What::Request { status, grpc_status, .. } => {
                let grpc_status = grpc_status.map_or("".into(), |status| status.to_string().into());
                (values.len(), Some([status.to_string().into(), grpc_status]))
            }
            What::Connection => (values.len(), None),
            What::Messages => (OF_MESSAGES, None),
        };
        names.iter().cloned().zip(values.into_iter().take(shown).chain(answer.into_iter().flatten())).collect()
    }

    fn value(&self, value: &LabelValue) -> Arc<str> {
        let mut text = Vec::new();
        let found = value.sources.iter().any(|source| self.view.operator(source, &mut text));
        text.truncate(LONGEST);
        if found {
            String::from_utf8_lossy(&text).into()
        } else {
            value.otherwise.clone()
        }
    }
}

impl Counted<'_> {
    /// The service's, or of what is for none the name that Istio gives it.
    fn service_name(&self, service: &ServiceLabels) -> Arc<str> {
        match (self.view.route, self.cluster) {
            (Some("block_all"), _) => "BlackHoleCluster".into(),
            (Some("allow_any"), _) => "PassthroughCluster".into(),
            (_, Some(cluster)) if OWN_NAMES.contains(&&*cluster.name) => cluster.name.clone(),
            _ => service.name.clone(),
        }
    }
}

/// What a SPIFFE ID says about its workload: `spiffe://td/ns/<ns>/sa/<account>`.
fn workload_of(principal: Option<&str>) -> WorkloadLabels {
    let mut parts = principal.unwrap_or_default().split('/').skip(3);
    let mut labels = WorkloadLabels::default();
    while let (Some(kind), Some(value)) = (parts.next(), parts.next()) {
        match kind {
            "ns" => labels.namespace = value.into(),
            "sa" => labels.name = value.into(),
            _ => {}
        }
    }
    labels
}
