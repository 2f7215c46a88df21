//! Taking in what a server sent, resource by resource.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use pymesh_model::listener::Listener;
use pymesh_tls::SecretStore;

use super::{Catalog, Rejected, Resource, Slot};
use crate::check;
use crate::diagnostic::{At, Diagnostic, Problems};
use crate::kind::ResourceKind;
use crate::proto::envoy::config::{
    cluster::v3 as cluster, endpoint::v3 as endpoint, listener::v3 as listener, route::v3 as route,
};
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use crate::translate::{self, Context, Material, MaterialKind, Needs, Patience};

/// A resource as it came.
pub(crate) struct Incoming {
    /// What the server calls it; empty where only the resource itself says so.
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) raw: prost_types::Any,
}

/// What is no longer there.
pub(crate) enum Removal {
    /// These (delta).
    Names(Vec<String>),
    /// Whatever did not come (state of the world).
    Rest,
}

/// A resource after translation.
// One at a time, and moved into the catalog at once: boxing would buy nothing.
#[allow(clippy::large_enum_variant)]
enum Accepted {
    Cluster(translate::ClusterParts, Needs),
    Listener(Listener, Needs),
    Routes(pymesh_model::route::RouteTable, Needs),
    Endpoints(pymesh_model::endpoint::Endpoints),
    Secret(Material),
}

impl Catalog {
    /// Takes in what is good and says what is not. The caller settles afterwards.
    pub(crate) fn update(&mut self, kind: ResourceKind, incoming: Vec<Incoming>, removal: Removal) -> Vec<Rejected> {
        self.heard_of_clusters |= kind == ResourceKind::Cluster;
        // What had no name cannot be told from what comes now.
        self.rejected.remove(&(kind, String::new()));
        let asked: BTreeSet<String> = if kind.is_wildcard() { BTreeSet::new() } else { self.wanted(kind) };
        let mut rejected = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        let mut all_named = true;
        let mut accepted = Vec::with_capacity(incoming.len());
        for resource in incoming {
            let problems = Problems::default();
            let name = match self.name_of(kind, &resource, &At::root("", &problems)) {
                Some(name) => name,
                None => {
                    all_named = false;
                    rejected.push(rejection(resource.name, resource.version, problems));
                    continue;
                }
            };
            if !seen.insert(name.clone()) {
                At::root("", &problems).refuse(format!("{} `{name}` was sent twice", kind.noun()));
                rejected.push(rejection(name, resource.version, problems));
                continue;
            }
            // A server may send more than was asked for; that is not ours to judge.
            if kind.is_wildcard() || asked.contains(&name) {
                accepted.push((name, resource));
            }
        }
        match removal {
            Removal::Names(names) => names.iter().for_each(|name| self.remove(kind, name)),
            // A resource that could not even be named may be any of them.
            Removal::Rest if kind.is_wildcard() && all_named => {
                let gone: Vec<String> = self.dynamic_names(kind).filter(|name| !seen.contains(name)).collect();
                gone.iter().for_each(|name| self.remove(kind, name));
                self.rejected.retain(|(of, name), _| *of != kind || seen.contains(name));
            }
            Removal::Rest => {}
        }
        for (name, resource) in accepted {
            if self.is_unchanged(kind, &name, &resource) && !self.is_refused_in_part(kind, &name) {
                self.rejected.remove(&(kind, name));
                continue;
            }
            let problems = Problems::default();
            let mut remarks = Vec::new();
            let version = resource.version.clone();
            let translated = self.translate(kind, &name, &resource, &At::root("", &problems), &mut remarks);
            match (translated, problems.len()) {
                (Some(translated), 0) => {
                    self.insert(&name, resource, translated);
                    self.rejected.remove(&(kind, name.clone()));
                    if !remarks.is_empty() {
                        rejected.push(Rejected { name, version, problems: remarks });
                    }
                }
                _ => rejected.push(rejection(name, version, problems)),
            }
        }
        for rejection in &rejected {
            self.rejected.insert((kind, rejection.name.clone()), rejection.clone());
        }
        rejected
    }

    fn name_of(&self, kind: ResourceKind, resource: &Incoming, at: &At<'_>) -> Option<String> {
        if resource.raw.type_url != kind.type_url() {
            at.refuse(format!(
                "a resource of type `{}` came where `{}` belongs",
                resource.raw.type_url,
                kind.type_url()
            ));
            return None;
        }
        let octets = resource.raw.value.as_slice();
        let name = match kind {
            ResourceKind::Cluster => name_in(octets, |m: cluster::Cluster| m.name),
            ResourceKind::Listener => name_in(octets, |m: listener::Listener| m.name),
            ResourceKind::Routes => name_in(octets, |m: route::RouteConfiguration| m.name),
            ResourceKind::Endpoints => name_in(octets, |m: endpoint::ClusterLoadAssignment| m.cluster_name),
            ResourceKind::Secret => name_in(octets, |m: tls::Secret| m.name),
        };
        let name = at.ok(name)?;
        if name.is_empty() {
            at.refuse("it has no name");
            return None;
        }
        if !resource.name.is_empty() && resource.name != name {
            at.refuse(format!("it is called `{name}`, but was sent as `{}`", resource.name));
            return None;
        }
        Some(name)
    }

    /// Names that a state-of-the-world answer may take away by leaving them out.
    fn dynamic_names(&self, kind: ResourceKind) -> impl Iterator<Item = String> + '_ {
        let clusters = self.clusters.iter().filter(|(_, slot)| !slot.is_static).map(|(name, _)| name);
        let listeners = self.listeners.iter().filter(|(_, slot)| !slot.is_static).map(|(name, _)| name);
        let clusters = (kind == ResourceKind::Cluster).then_some(clusters).into_iter().flatten();
        let listeners = (kind == ResourceKind::Listener).then_some(listeners).into_iter().flatten();
        clusters.chain(listeners).map(|name| name.to_string())
    }

    /// Endpoints, routes and secrets go when nobody wants them any more, not
    /// when the server withdraws them: the last good ones serve until then, as
    /// in Envoy.
    fn remove(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Cluster => remove_slot(&mut self.clusters, name),
            ResourceKind::Listener => remove_slot(&mut self.listeners, name),
            ResourceKind::Endpoints | ResourceKind::Routes | ResourceKind::Secret => self.stop_waiting(kind, name),
        }
        self.rejected.remove(&(kind, name.to_owned()));
    }

    fn is_unchanged(&self, kind: ResourceKind, name: &str, resource: &Incoming) -> bool {
        let known = match kind {
            ResourceKind::Cluster => self.clusters.get(name).and_then(Slot::newest).map(|known| &known.raw),
            ResourceKind::Listener => self.listeners.get(name).and_then(Slot::newest).map(|known| &known.raw),
            ResourceKind::Routes => self.routes.get(name).map(|known| &known.raw),
            ResourceKind::Endpoints => self.endpoints.get(name).map(|known| &known.raw),
            ResourceKind::Secret => self.secrets.get(name).map(|known| &known.raw),
        };
        known.is_some_and(|known| known.value == resource.raw.value)
    }

    /// `remarks` are told to the server, but do not keep the resource from being used.
    fn translate(
        &mut self,
        kind: ResourceKind,
        name: &str,
        resource: &Incoming,
        at: &At<'_>,
        remarks: &mut Vec<Diagnostic>,
    ) -> Option<Accepted> {
        let octets = resource.raw.value.as_slice();
        let mut cx = Context::new(&self.environment);
        let translated = match kind {
            ResourceKind::Cluster => {
                let parts = translate::cluster(&check::decode(octets, at)?, at, &mut cx);
                refuse_keepalive(&parts, at.problems());
                if self.clusters.get(name).is_some_and(|slot| slot.is_static) {
                    at.refuse("a static cluster has this name");
                }
                Accepted::Cluster(parts, cx.needs)
            }
            ResourceKind::Listener => {
                let config = check::decode(octets, at)?;
                let mut listener = translate::listener(&config, at, &mut cx)?;
                if at.problems().len() == 0 {
                    remarks.extend(self.load_filters(name, &mut listener));
                }
                self.keep_chains(name, &config, &mut listener);
                if self.listeners.get(name).is_some_and(|slot| slot.is_static) {
                    at.refuse("a static listener has this name");
                }
                Accepted::Listener(listener, cx.needs)
            }
            ResourceKind::Routes => {
                let table = translate::route_table(&check::decode(octets, at)?, false, at, &mut cx);
                Accepted::Routes(table, cx.needs)
            }
            ResourceKind::Endpoints => Accepted::Endpoints(translate::endpoints(&check::decode(octets, at)?, at)),
            ResourceKind::Secret => Accepted::Secret(translate::secret(&check::decode(octets, at)?, at, &cx)?),
        };
        self.check_references(&translated, at);
        self.store_materials(&translated, at.problems());
        Some(translated)
    }

    /// What must be here already when a resource comes.
    fn check_references(&self, translated: &Accepted, at: &At<'_>) {
        let needs = match translated {
            Accepted::Cluster(_, needs) | Accepted::Routes(_, needs) => needs,
            Accepted::Listener(listener, needs) => {
                let others = self.listeners.iter().filter(|(name, _)| **name != listener.name);
                for (name, slot) in others {
                    // Also of those that are not bound: original destinations must mean one listener.
                    if slot.newest().is_some_and(|other| other.value.address == listener.address) {
                        at.field("address").refuse(format!("listener `{name}` has this address, {}", listener.address));
                    }
                }
                needs
            }
            Accepted::Endpoints(_) | Accepted::Secret(_) => return,
        };
        for (path, name) in &needs.clusters {
            if !self.clusters.contains_key(name) {
                at.problems().push(Diagnostic {
                    place: None,
                    path: path.clone(),
                    message: format!("there is no cluster `{name}`"),
                    hint: Some("send the cluster first, or set `validate_clusters: false`".to_owned()),
                });
            }
        }
        for (name, patience) in &needs.secrets {
            let own = self.environment.own_secrets.contains(name) || self.static_secrets.contains(name);
            if *patience == Patience::Local && !own {
                at.refuse_with_hint(format!("there is no static secret `{name}`"), "set `sds_config: {ads: {}}`");
            }
        }
    }

    fn store_materials(&mut self, translated: &Accepted, problems: &Problems) {
        if problems.len() > 0 {
            return;
        }
        let materials = match translated {
            Accepted::Cluster(_, needs) | Accepted::Listener(_, needs) => needs.materials.as_slice(),
            Accepted::Secret(material) => std::slice::from_ref(material),
            Accepted::Routes(..) | Accepted::Endpoints(_) => &[],
        };
        let generated = !matches!(translated, Accepted::Secret(_));
        for material in materials {
            match put(&self.store, material) {
                Ok(()) if generated => drop(self.generated.insert(material.name.clone())),
                Ok(()) => {}
                Err(problem) => problems.push(problem),
            }
        }
    }

    fn insert(&mut self, name: &str, incoming: Incoming, translated: Accepted) {
        let name: Arc<str> = name.into();
        let Incoming { version, raw, .. } = incoming;
        match translated {
            Accepted::Cluster(value, needs) => {
                warm_up(&mut self.clusters, name, Resource { value, needs, raw, version });
            }
            Accepted::Listener(listener, needs) => {
                warm_up(&mut self.listeners, name, Resource { value: Arc::new(listener), needs, raw, version });
            }
            Accepted::Routes(table, needs) => {
                self.routes.insert(name, Arc::new(Resource { value: Arc::new(table), needs, raw, version }));
            }
            Accepted::Endpoints(endpoints) => {
                let resource = Resource { value: Arc::new(endpoints), needs: Needs::default(), raw, version };
                self.endpoints.insert(name, Arc::new(resource));
            }
            Accepted::Secret(_) => {
                self.secrets.insert(name, Arc::new(Resource { value: (), needs: Needs::default(), raw, version }));
            }
        }
    }
}

/// Only the name; everything else is judged later.
fn name_in<T: prost::Message + Default>(octets: &[u8], name: impl FnOnce(T) -> String) -> Result<String, String> {
    T::decode(octets).map(name).map_err(|error| format!("it cannot be decoded: {error}"))
}

fn rejection(name: String, version: String, problems: Problems) -> Rejected {
    Rejected { name, version, problems: problems.into_vec() }
}

fn remove_slot<T>(slots: &mut std::collections::BTreeMap<Arc<str>, Slot<T>>, name: &str) {
    if slots.get(name).is_some_and(|slot| !slot.is_static) {
        slots.remove(name);
    }
}

fn warm_up<T>(slots: &mut std::collections::BTreeMap<Arc<str>, Slot<T>>, name: Arc<str>, resource: Resource<T>) {
    let slot = slots.entry(name).or_insert(Slot { is_static: false, active: None, warming: None });
    slot.warming = Some(Arc::new(resource));
}

/// Pings have no place in the engine; see [`translate::Keepalive`].
pub(crate) fn refuse_keepalive(parts: &translate::ClusterParts, problems: &Problems) {
    if let Some((path, _)) = &parts.keepalive.http2 {
        problems.push(Diagnostic {
            place: None,
            path: path.clone(),
            message: "keepalive is supported only on the clusters of the ADS server and the certificate authority"
                .into(),
            hint: Some("use `upstream_connection_options.tcp_keepalive`".into()),
        });
    }
}

/// Puts material into a store, which checks it.
pub(super) fn put(store: &SecretStore, material: &Material) -> Result<(), Diagnostic> {
    let result = match &material.kind {
        MaterialKind::Identity { chain, key } => store.put_identity(&material.name, chain, key).map(|_validity| ()),
        MaterialKind::Trust { roots } => store.put_trust(&material.name, roots),
    };
    result.map_err(|error| Diagnostic {
        place: None,
        path: material.path.clone(),
        message: error.to_string(),
        hint: None,
    })
}
