//! One ADS stream as a pure machine: what is asked, and what is answered to
//! each answer. No network and no clock.
//!
//! Both variants of the protocol (xDS, "Incremental" and "State of the World")
//! keep one subscription for each type: the names that the server knows we
//! want, and the nonce of its last answer. After every answer, and whenever the
//! catalog has settled, [`Session::refresh`] brings the names in line with what
//! the catalog wants.
//!
//! Invariants:
//! * the node is told once, in the first request of a stream;
//! * every response is answered once: accepted (ACK), or refused with the
//!   reasons (NACK) while the last good resources stay in use;
//! * listeners and clusters are wildcards; the others are asked for by name,
//!   and not at all while no name is wanted;
//! * at the start listeners are asked for only when the clusters can serve
//!   them: no server could time that, since routes do not warm up;
//! * nonces end with their stream, versions do not.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, Incoming, Rejected, Removal, Resource, Slot};
use crate::kind::ResourceKind;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::service::discovery::v3 as discovery;
use crate::proto::google::rpc;

/// gRPC's `INVALID_ARGUMENT`, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// A server needs the gist of what is wrong, not a transcript.
const LONGEST_REASON: usize = 4096;

/// Which of the two protocols is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Delta,
    StateOfTheWorld,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Delta(discovery::DeltaDiscoveryRequest),
    StateOfTheWorld(discovery::DiscoveryRequest),
}

impl Request {
    /// Why what it answers was refused, if it was.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let status = match self {
            Request::Delta(request) => &request.error_detail,
            Request::StateOfTheWorld(request) => &request.error_detail,
        };
        status.as_ref().map(|status| status.message.as_str())
    }
}

/// See the module. One per stream.
pub(crate) struct Session {
    variant: Variant,
    /// Taken by the first request.
    node: Option<core::Node>,
    /// Wildcard types that come from here (`lds_config`, `cds_config`).
    wildcards: BTreeSet<ResourceKind>,
    /// Of types that this stream has not asked for yet (state of the world).
    earlier: BTreeMap<ResourceKind, String>,
    subscriptions: BTreeMap<ResourceKind, Subscription>,
}

#[derive(Default)]
struct Subscription {
    names: BTreeSet<String>,
    /// Of the last answer.
    nonce: String,
    /// Of the last answer that was accepted, on whichever stream (state of the world).
    version: String,
}

impl Session {
    /// For a new stream; `earlier` is what the one before it has left in
    /// [`Session::accepted_versions`].
    pub(crate) fn new(
        variant: Variant,
        node: core::Node,
        wildcards: impl IntoIterator<Item = ResourceKind>,
        earlier: BTreeMap<ResourceKind, String>,
    ) -> Self {
        let wildcards = wildcards.into_iter().collect();
        Session { variant, node: Some(node), wildcards, earlier, subscriptions: BTreeMap::new() }
    }

    /// The version of each type that is in use. It belongs to the resources and
    /// outlives the stream (xDS, "ACK/NACK and resource type instance version").
    pub(crate) fn accepted_versions(&self) -> BTreeMap<ResourceKind, String> {
        let mut versions = self.earlier.clone();
        versions.extend(self.subscriptions.iter().map(|(kind, subscription)| (*kind, subscription.version.clone())));
        versions
    }

    /// The nonce of the last answer of a type on this stream; none before the first.
    pub(crate) fn nonce(&self, kind: ResourceKind) -> Option<&str> {
        self.subscriptions.get(&kind).map(|subscription| subscription.nonce.as_str()).filter(|nonce| !nonce.is_empty())
    }

    /// Requests that bring the subscriptions in line with what is wanted. On a
    /// new stream that is everything.
    pub(crate) fn refresh(&mut self, catalog: &Catalog) -> Vec<Request> {
        let mut requests = Vec::new();
        for kind in ResourceKind::ALL {
            let is_new = !self.subscriptions.contains_key(&kind);
            let wanted = if kind.is_wildcard() { BTreeSet::new() } else { catalog.wanted(kind) };
            let is_asked = if kind.is_wildcard() { self.wildcards.contains(&kind) } else { !wanted.is_empty() };
            if is_new && (!is_asked || self.must_wait(kind, catalog)) {
                continue;
            }
            let earlier = &mut self.earlier;
            let subscription = self.subscriptions.entry(kind).or_insert_with(|| Subscription {
                version: earlier.remove(&kind).unwrap_or_default(),
                ..Subscription::default()
            });
            if !is_new && subscription.names == wanted {
                continue;
            }
            let added = wanted.difference(&subscription.names).cloned().collect();
            let removed = subscription.names.difference(&wanted).cloned().collect();
            subscription.names = wanted;
            let request = match self.variant {
                Variant::Delta => {
                    let known = if is_new { versions(catalog, kind) } else { BTreeMap::new() };
                    self.delta(kind, added, removed, known, None)
                }
                Variant::StateOfTheWorld => self.state_of_the_world(kind, None),
            };
            requests.push(request);
        }
        requests
    }

    fn must_wait(&self, kind: ResourceKind, catalog: &Catalog) -> bool {
        kind == ResourceKind::Listener && self.wildcards.contains(&ResourceKind::Cluster) && !catalog.has_had_clusters()
    }

    /// Takes in an answer of the delta protocol and answers it.
    pub(crate) fn on_delta(
        &mut self,
        response: discovery::DeltaDiscoveryResponse,
        catalog: &mut Catalog,
    ) -> Vec<Request> {
        let Some(kind) = ResourceKind::of(&response.type_url) else { return Vec::new() };
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return Vec::new() };
        subscription.nonce = response.nonce;
        let incoming = response
            .resources
            .into_iter()
            .filter_map(|one| Some(Incoming { name: one.name, version: one.version, raw: one.resource? }))
            .collect();
        let rejected = catalog.update(kind, incoming, Removal::Names(response.removed_resources));
        vec![self.delta(kind, Vec::new(), Vec::new(), BTreeMap::new(), reason(&rejected))]
    }

    /// Takes in an answer of the state-of-the-world protocol and answers it.
    pub(crate) fn on_state_of_the_world(
        &mut self,
        response: discovery::DiscoveryResponse,
        catalog: &mut Catalog,
    ) -> Vec<Request> {
        let Some(kind) = ResourceKind::of(&response.type_url) else { return Vec::new() };
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return Vec::new() };
        subscription.nonce = response.nonce;
        let version = response.version_info;
        let incoming = response
            .resources
            .into_iter()
            .map(|raw| Incoming { name: String::new(), version: version.clone(), raw })
            .collect();
        let reason = reason(&catalog.update(kind, incoming, Removal::Rest));
        if reason.is_none() {
            if let Some(subscription) = self.subscriptions.get_mut(&kind) {
                subscription.version = version;
            }
        }
        vec![self.state_of_the_world(kind, reason)]
    }

    fn delta(
        &mut self,
        kind: ResourceKind,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        known: BTreeMap<String, String>,
        error: Option<rpc::Status>,
    ) -> Request {
        let is_answer = subscribe.is_empty() && unsubscribe.is_empty() && known.is_empty();
        let nonce = self.subscriptions.get(&kind).map_or("", |subscription| &subscription.nonce);
        Request::Delta(discovery::DeltaDiscoveryRequest {
            // A change of names answers nothing, so it carries no nonce.
            response_nonce: if is_answer { nonce.to_owned() } else { String::new() },
            node: self.node.take(),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: known.into_iter().collect(),
            error_detail: error,
        })
    }

    fn state_of_the_world(&mut self, kind: ResourceKind, error: Option<rpc::Status>) -> Request {
        let node = self.node.take();
        let subscription = self.subscriptions.entry(kind).or_default();
        Request::StateOfTheWorld(discovery::DiscoveryRequest {
            version_info: subscription.version.clone(),
            node,
            resource_names: subscription.names.iter().cloned().collect(),
            type_url: kind.type_url().to_owned(),
            response_nonce: subscription.nonce.clone(),
            error_detail: error,
        })
    }
}

/// What a new stream need not send again.
fn versions(catalog: &Catalog, kind: ResourceKind) -> BTreeMap<String, String> {
    fn of<'a, T: 'a>(
        resources: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a std::sync::Arc<Resource<T>>)>,
    ) -> BTreeMap<String, String> {
        resources.map(|(name, resource)| (name.to_string(), resource.version.clone())).collect()
    }
    fn dynamic<'a, T>(
        slots: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a Slot<T>)>,
    ) -> impl Iterator<Item = (&'a std::sync::Arc<str>, &'a std::sync::Arc<Resource<T>>)>
    where
        T: 'a,
    {
        slots.filter(|(_, slot)| !slot.is_static).filter_map(|(name, slot)| Some((name, slot.newest()?)))
    }
    match kind {
        ResourceKind::Cluster => of(dynamic(catalog.clusters().iter())),
        // What was refused in part comes again, so that the reason is told again.
        ResourceKind::Listener => of(dynamic(catalog.listeners().iter())
            .filter(|(name, _)| !catalog.is_refused_in_part(ResourceKind::Listener, name))),
        ResourceKind::Routes => of(catalog.routes().iter()),
        ResourceKind::Endpoints => of(catalog.endpoints().iter()),
        ResourceKind::Secret => of(catalog.secrets().iter()),
    }
}

/// Why resources were refused, as a NACK says it; `None` if none was.
fn reason(rejected: &[Rejected]) -> Option<rpc::Status> {
    if rejected.is_empty() {
        return None;
    }
    let lines: Vec<String> = rejected
        .iter()
        .flat_map(|one| {
            one.problems.iter().map(move |problem| match one.name.as_str() {
                "" => problem.to_string(),
                name => format!("{name}: {problem}"),
            })
        })
        .collect();
    let mut message = lines.join("\n");
    let end = (0..=LONGEST_REASON.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    message.truncate(end);
    Some(rpc::Status { code: INVALID_ARGUMENT, message, ..Default::default() })
}

#[cfg(test)]
mod tests;
