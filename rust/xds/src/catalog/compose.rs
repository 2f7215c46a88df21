//! Putting a snapshot together, sharing what did not change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Endpoints;
use pymesh_model::listener::Listener;
use pymesh_model::route::RouteTable;
use pymesh_model::Snapshot;

use super::warm::is_asked_first;
use super::{Catalog, Resource};
use crate::translate::{ClusterParts, EndpointSource};

type ByName<T> = HashMap<Arc<str>, Arc<T>>;

/// A cluster of the current snapshot, and what it was made of.
pub(super) struct LiveCluster {
    pub parts: Arc<Resource<ClusterParts>>,
    endpoints: Arc<Endpoints>,
    pub cluster: Arc<Cluster>,
}

impl Catalog {
    /// Makes the snapshot anew. False if nothing in it changed.
    pub(super) fn compose(&mut self) -> bool {
        let (clusters, warming) = self.compose_clusters();
        self.is_open |= !self.bootstrap_is_asked();
        let listeners = self.compose_listeners();
        let routes = self.compose_routes();
        let old = &self.snapshot;
        let same = same_map(&old.clusters, &clusters)
            && same_map(&old.warming, &warming)
            && same_map(&old.routes, &routes)
            && old.listeners.len() == listeners.len()
            && old.listeners.iter().zip(&listeners).all(|(a, b)| Arc::ptr_eq(a, b));
        if same && old.version > 0 {
            return false;
        }
        let version = old.version.saturating_add(1);
        let node = self.node.clone();
        self.snapshot = Arc::new(Snapshot { version, node, listeners, routes, clusters, warming });
        true
    }

    /// Those that serve, and those whose hosts are asked first.
    fn compose_clusters(&mut self) -> (ByName<Cluster>, ByName<Cluster>) {
        let (mut live, mut asked) = (BTreeMap::new(), BTreeMap::new());
        for (name, slot) in &self.clusters {
            let mut known: Vec<LiveCluster> =
                self.live.remove(name).into_iter().chain(self.asked.remove(name)).collect();
            if let Some(parts) = &slot.active {
                live.insert(name.clone(), self.compose_cluster(parts, &mut known));
            }
            if let Some(parts) = &slot.warming {
                if is_asked_first(slot, parts) && self.cluster_is_complete(parts) {
                    asked.insert(name.clone(), self.compose_cluster(parts, &mut known));
                }
            }
        }
        (self.live, self.asked) = (live, asked);
        let by_name = |from: &BTreeMap<Arc<str>, LiveCluster>| {
            from.iter().map(|(name, entry)| (name.clone(), entry.cluster.clone())).collect()
        };
        (by_name(&self.live), by_name(&self.asked))
    }

    /// The cluster of these parts: the one that there was, if that is still what they amount to.
    fn compose_cluster(&self, parts: &Arc<Resource<ClusterParts>>, known: &mut Vec<LiveCluster>) -> LiveCluster {
        let endpoints = self.endpoints_of(&parts.value);
        let is_same =
            |known: &LiveCluster| Arc::ptr_eq(&known.parts, parts) && Arc::ptr_eq(&known.endpoints, &endpoints);
        if let Some(at) = known.iter().position(is_same) {
            return known.swap_remove(at);
        }
        let cluster = Cluster { endpoints: endpoints.clone(), ..parts.value.cluster.clone() };
        LiveCluster { parts: parts.clone(), endpoints, cluster: Arc::new(cluster) }
    }

    /// A cluster of the bootstrap is not warm yet.
    fn bootstrap_is_asked(&self) -> bool {
        let mut fixed = self.clusters.values().filter(|slot| slot.is_static && slot.active.is_none());
        fixed.any(|slot| slot.warming.as_ref().is_some_and(|parts| is_asked_first(slot, parts)))
    }

    fn endpoints_of(&self, parts: &ClusterParts) -> Arc<Endpoints> {
        let found = match &parts.source {
            EndpointSource::Given => Some(&parts.cluster.endpoints),
            EndpointSource::Eds(name, _) => self.endpoints.get(name).map(|resource| &resource.value),
            EndpointSource::Dns(settings) => {
                self.resolved.iter().find(|(known, _)| Arc::ptr_eq(known, settings)).map(|(_, endpoints)| endpoints)
            }
        };
        found.unwrap_or(&self.no_endpoints).clone()
    }

    /// Static ones as their file has them, then the others by name; none before the bootstrap's clusters are warm.
    fn compose_listeners(&self) -> Vec<Arc<Listener>> {
        if !self.is_open {
            return Vec::new();
        }
        let fixed = self.static_listeners.iter().filter_map(|name| self.listeners.get(name));
        let dynamic = self.listeners.values().filter(|slot| !slot.is_static);
        fixed.chain(dynamic).filter_map(|slot| slot.active.as_ref()).map(|resource| resource.value.clone()).collect()
    }

    /// Every table that a live listener names. One that never came is empty:
    /// requests are answered 404, as Envoy does after `initial_fetch_timeout`.
    fn compose_routes(&self) -> HashMap<Arc<str>, Arc<RouteTable>> {
        let active = self.listeners.values().filter_map(|slot| slot.active.as_ref());
        let names = active.flat_map(|resource| resource.needs.routes.keys());
        let table = |name: &Arc<str>| match (self.routes.get(name), self.snapshot.routes.get(name)) {
            (Some(resource), _) => resource.value.clone(),
            (None, Some(empty)) if empty.virtual_hosts.is_empty() => empty.clone(),
            (None, _) => Arc::new(RouteTable { name: name.clone(), ..RouteTable::default() }),
        };
        names.map(|name| (name.clone(), table(name))).collect()
    }
}

fn same_map<T>(old: &HashMap<Arc<str>, Arc<T>>, new: &HashMap<Arc<str>, Arc<T>>) -> bool {
    old.len() == new.len()
        && new.iter().all(|(name, value)| old.get(name).is_some_and(|known| Arc::ptr_eq(known, value)))
}
