//! Everything that was accepted, and the snapshot that it amounts to.
//!
//! Invariants:
//! * what is rejected changes nothing: the last good resource of its name stays; a Python filter that cannot be loaded
//!   is rejected alone, without the rest of its listener (`chains.rs`);
//! * a cluster or listener goes live only when all that it needs is here, or
//!   has been waited for long enough; until then the one it replaces serves;
//! * a cluster with health checks that takes the place of none goes live when
//!   each of its hosts has been asked once, and so do listeners at the start;
//! * what nobody refers to any more is forgotten, keys included;
//! * parts of a snapshot that did not change are the same `Arc` in the next.
//!
//! No clock and no network: instants are arguments, counted from any epoch.

mod accept;
mod chains;
mod compose;
#[cfg(test)]
mod tests;
mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Endpoints;
use pymesh_model::filter::PythonFilter;
use pymesh_model::listener::Listener;
use pymesh_model::route::RouteTable;
use pymesh_model::snapshot::Snapshot;
use pymesh_model::tls::SecretName;
use pymesh_model::Node;
use pymesh_tls::SecretStore;

use crate::diagnostic::Diagnostic;
use crate::identity;
use crate::kind::ResourceKind;
use crate::translate::{ClusterParts, DnsSettings, EndpointSource, Environment, Material, Needs};
use compose::LiveCluster;
use warm::Wait;

pub(crate) use accept::{refuse_keepalive, Incoming, Removal};

/// How often is looked whether clusters have become warm.
const LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) struct Catalog {
    environment: Environment,
    store: Arc<SecretStore>,
    node: Arc<Node>,
    clusters: BTreeMap<Arc<str>, Slot<ClusterParts>>,
    listeners: BTreeMap<Arc<str>, Slot<Arc<Listener>>>,
    routes: BTreeMap<Arc<str>, Arc<Resource<Arc<RouteTable>>>>,
    endpoints: BTreeMap<Arc<str>, Arc<Resource<Arc<Endpoints>>>>,
    secrets: BTreeMap<Arc<str>, Arc<Resource<()>>>,
    /// Secrets of the bootstrap.
    static_secrets: BTreeSet<SecretName>,
    /// Keys and roots under generated names that are in the store.
    generated: BTreeSet<SecretName>,
    resolved: Vec<(Arc<DnsSettings>, Arc<Endpoints>)>,
    waits: BTreeMap<(ResourceKind, Arc<str>), Wait>,
    rejected: BTreeMap<(ResourceKind, String), Rejected>,
    /// The server has said which clusters there are.
    heard_of_clusters: bool,
    /// That, and once all of them served.
    had_clusters: bool,
    /// Static listeners stay in the order of their file.
    static_listeners: Vec<Arc<str>>,
    live: BTreeMap<Arc<str>, LiveCluster>,
    /// Those whose hosts are asked before they go live.
    asked: BTreeMap<Arc<str>, LiveCluster>,
    is_warm: IsWarm,
    load_filter: LoadFilter,
    count_filter: CountFilter,
    /// The bootstrap's clusters are warm, and were waited for.
    is_open: bool,
    /// When [`Catalog::settle`] was called last.
    settled: Duration,
    no_endpoints: Arc<Endpoints>,
    snapshot: Arc<Snapshot>,
}

/// Says whether each host of a cluster that was published as warming has been asked.
pub type IsWarm = Box<dyn Fn(&Arc<Cluster>) -> bool + Send>;

/// Loads a Python filter for all workers before they are told of it; says why that cannot be done.
pub type LoadFilter = Box<dyn Fn(&Arc<PythonFilter>) -> Result<Loaded, String> + Send>;

/// Is told, by a filter's name in its chains, that a configuration brought another generation of it, and whether that
/// could be loaded.
pub type CountFilter = Box<dyn Fn(&Arc<str>, bool) + Send>;

/// When a filter was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// By this call.
    Now,
    /// By an earlier one.
    Before,
}

/// Cluster or listener: the one that serves and the one that will replace it.
pub(crate) struct Slot<T> {
    pub(crate) is_static: bool,
    pub(crate) active: Option<Arc<Resource<T>>>,
    pub(crate) warming: Option<Arc<Resource<T>>>,
}

impl<T> Slot<T> {
    fn resources(&self) -> impl Iterator<Item = &Arc<Resource<T>>> {
        self.active.iter().chain(&self.warming)
    }

    /// What was accepted last.
    pub(crate) fn newest(&self) -> Option<&Arc<Resource<T>>> {
        self.warming.as_ref().or(self.active.as_ref())
    }
}

/// An accepted resource: translated, and as it came.
#[derive(Debug)]
pub(crate) struct Resource<T> {
    pub(crate) value: T,
    pub(crate) needs: Needs,
    pub(crate) raw: prost_types::Any,
    pub(crate) version: String,
}

/// The last rejected form of a resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) problems: Vec<Diagnostic>,
}

/// What a bootstrap file brings along.
#[derive(Default)]
pub(crate) struct Statics {
    pub(crate) clusters: Vec<Arc<Resource<ClusterParts>>>,
    pub(crate) listeners: Vec<Arc<Resource<Arc<Listener>>>>,
    pub(crate) secrets: Vec<Material>,
}

impl Catalog {
    /// A catalog of static resources, which have been checked already. Their
    /// keys are put into the store.
    pub(crate) fn new(
        environment: Environment,
        node: Arc<Node>,
        statics: Statics,
        store: Arc<SecretStore>,
        is_warm: IsWarm,
    ) -> Self {
        let snapshot = Arc::new(Snapshot { node: node.clone(), ..Snapshot::default() });
        let mut catalog = Catalog {
            environment,
            store,
            node,
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            secrets: BTreeMap::new(),
            static_secrets: BTreeSet::new(),
            generated: BTreeSet::new(),
            resolved: Vec::new(),
            waits: BTreeMap::new(),
            rejected: BTreeMap::new(),
            heard_of_clusters: false,
            had_clusters: false,
            static_listeners: Vec::new(),
            live: BTreeMap::new(),
            asked: BTreeMap::new(),
            is_warm,
            load_filter: Box::new(|_| Ok(Loaded::Before)),
            count_filter: Box::new(|_, _| {}),
            is_open: false,
            settled: Duration::ZERO,
            no_endpoints: Arc::default(),
            snapshot,
        };
        for material in statics.secrets {
            catalog.static_secrets.insert(material.name.clone());
            catalog.load_static(&material);
        }
        for cluster in statics.clusters {
            cluster.needs.materials.iter().for_each(|material| catalog.load_static(material));
            let name = cluster.value.cluster.name.clone();
            catalog.clusters.insert(name, Slot { is_static: true, active: None, warming: Some(cluster) });
        }
        for listener in statics.listeners {
            listener.needs.materials.iter().for_each(|material| catalog.load_static(material));
            let name = listener.value.name.clone();
            catalog.static_listeners.push(name.clone());
            catalog.listeners.insert(name, Slot { is_static: true, active: None, warming: Some(listener) });
        }
        catalog
    }

    /// Static material has been through [`check_material`] with the same
    /// contents, so that a refusal here can only mean that it has expired
    /// since. Then its name stays empty, and handshakes say so.
    fn load_static(&mut self, material: &Material) {
        if accept::put(&self.store, material).is_ok() {
            self.generated.insert(material.name.clone());
        }
    }

    /// Roots of the mesh that came with a certificate. What ADS has said of them is newer.
    pub(crate) fn roots_of_authority(&mut self, pem: &[u8]) {
        if self.secrets.contains_key(identity::ROOTS) {
            return;
        }
        if let Err(error) = self.store.put_trust(&SecretName::from(identity::ROOTS), pem) {
            eprintln!("roots of the certificate authority: {error}");
        }
    }

    /// Has Python filters loaded when their listeners come, instead of by each worker for itself.
    pub(crate) fn load_filters_by(&mut self, load_filter: LoadFilter, count_filter: CountFilter) {
        self.load_filter = load_filter;
        self.count_filter = count_filter;
    }

    /// Names that ADS must be asked for, beside those it decides itself.
    pub(crate) fn wanted(&self, kind: ResourceKind) -> BTreeSet<String> {
        self.asked_for().into_iter().filter(|((of, _), _)| *of == kind).map(|((_, name), _)| name.to_string()).collect()
    }

    /// Clusters whose endpoints a resolver has to find.
    pub(crate) fn names_to_resolve(&self) -> Vec<(Arc<str>, Arc<DnsSettings>)> {
        let mut found = Vec::new();
        for (name, slot) in &self.clusters {
            for resource in slot.resources() {
                if let EndpointSource::Dns(settings) = &resource.value.source {
                    found.push((name.clone(), settings.clone()));
                }
            }
        }
        found
    }

    /// A resolver's answer; an empty one is an answer too.
    pub(crate) fn resolved(&mut self, settings: &Arc<DnsSettings>, endpoints: Endpoints) {
        self.resolved.retain(|(known, _)| !Arc::ptr_eq(known, settings));
        self.resolved.push((settings.clone(), Arc::new(endpoints)));
    }

    /// True while something that was accepted does not serve yet.
    pub(crate) fn is_warming(&self) -> bool {
        self.clusters.values().any(|slot| slot.warming.is_some())
            || self.listeners.values().any(|slot| slot.warming.is_some())
    }

    /// True once listeners may be opened; stays true.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// True once every cluster that the server named first can serve; stays true.
    pub(crate) fn has_had_clusters(&self) -> bool {
        self.had_clusters
    }

    /// What the engine reads now.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn clusters(&self) -> &BTreeMap<Arc<str>, Slot<ClusterParts>> {
        &self.clusters
    }

    pub(crate) fn listeners(&self) -> &BTreeMap<Arc<str>, Slot<Arc<Listener>>> {
        &self.listeners
    }

    pub(crate) fn routes(&self) -> &BTreeMap<Arc<str>, Arc<Resource<Arc<RouteTable>>>> {
        &self.routes
    }

    pub(crate) fn endpoints(&self) -> &BTreeMap<Arc<str>, Arc<Resource<Arc<Endpoints>>>> {
        &self.endpoints
    }

    /// Where its keys and certificates are.
    pub(crate) fn store(&self) -> &SecretStore {
        &self.store
    }

    pub(crate) fn secrets(&self) -> &BTreeMap<Arc<str>, Arc<Resource<()>>> {
        &self.secrets
    }

    /// What was sent last is in use, except for a part that was refused.
    pub(crate) fn is_refused_in_part(&self, kind: ResourceKind, name: &str) -> bool {
        let Some(refused) = self.rejected.get(&(kind, name.to_owned())) else { return false };
        let newest = self.listeners.get(name).and_then(Slot::newest).filter(|_| kind == ResourceKind::Listener);
        newest.is_some_and(|newest| newest.version == refused.version)
    }

    pub(crate) fn rejected(&self) -> &BTreeMap<(ResourceKind, String), Rejected> {
        &self.rejected
    }

    /// When [`Catalog::settle`] has to be called even if nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        // Nobody tells that a host has answered.
        let look = (!self.asked.is_empty()).then(|| self.settled.saturating_add(LOOK));
        self.waits.values().filter_map(Wait::deadline).chain(look).min()
    }
}

/// Reports what a store would say about this material.
pub(crate) fn check_material(material: &Material, scratch: &SecretStore) -> Result<(), Diagnostic> {
    accept::put(scratch, material)
}
