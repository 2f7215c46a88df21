//! Warming: when something that was accepted may serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::tls::SecretName;

use super::{Catalog, Resource, Slot};
use crate::identity;
use crate::kind::ResourceKind;
use crate::translate::{ClusterParts, EndpointSource, Needs, Patience};

/// How a wait for a missing resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Until(Duration),
    Forever,
    Over,
}

impl Wait {
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Wait::Until(deadline) => Some(*deadline),
            Wait::Forever | Wait::Over => None,
        }
    }
}

/// A resource that another one needs, and who provides it.
type Wanted = BTreeMap<(ResourceKind, Arc<str>), Patience>;

impl Catalog {
    /// Lets everything that is ready go live and forgets what nobody needs.
    /// True if the snapshot is a new one.
    pub(crate) fn settle(&mut self, now: Duration) -> bool {
        self.settled = now;
        self.update_waits(now);
        let clusters = ready_names(&self.clusters, |slot, parts| {
            self.cluster_is_complete(parts) && (!is_asked_first(slot, parts) || self.has_answered(parts))
        });
        let listeners = ready_names(&self.listeners, |_, resource| self.has_needs(&resource.needs));
        promote(&mut self.clusters, &clusters);
        promote(&mut self.listeners, &listeners);
        self.had_clusters |= self.heard_of_clusters && self.clusters.values().all(|slot| slot.active.is_some());
        self.forget();
        self.compose()
    }

    /// Everything that is needed from ADS by what serves and what warms up.
    pub(super) fn asked_for(&self) -> Wanted {
        let mut wanted = self.needed();
        wanted.retain(|_, patience| matches!(patience, Patience::Ads(_)));
        wanted
    }

    fn needed(&self) -> Wanted {
        let mut wanted = Wanted::new();
        for resource in self.clusters.values().flat_map(Slot::resources) {
            if let EndpointSource::Eds(name, patience) = &resource.value.source {
                wanted.insert((ResourceKind::Endpoints, name.clone()), *patience);
            }
            add(&mut wanted, &resource.needs);
        }
        for resource in self.listeners.values().flat_map(Slot::resources) {
            add(&mut wanted, &resource.needs);
        }
        // The roots of the mesh rotate over ADS, beside what the authority says with each certificate.
        let roots = SecretName::from(identity::ROOTS);
        if self.environment.ads && self.environment.own_secrets.contains(&roots) {
            wanted.insert((ResourceKind::Secret, roots.as_str().into()), Patience::Ads(None));
        }
        wanted
    }

    fn is_here(&self, kind: ResourceKind, name: &str) -> bool {
        match kind {
            ResourceKind::Endpoints => self.endpoints.contains_key(name),
            ResourceKind::Routes => self.routes.contains_key(name),
            ResourceKind::Secret => self.store.contains(&SecretName::from(name)),
            ResourceKind::Cluster => self.clusters.contains_key(name),
            ResourceKind::Listener => self.listeners.contains_key(name),
        }
    }

    /// The server says that there is none: who waits for it need not wait any
    /// longer. One that was here already serves on.
    pub(super) fn stop_waiting(&mut self, kind: ResourceKind, name: &str) {
        let key = (kind, Arc::from(name));
        if !self.is_here(kind, name) && self.asked_for().contains_key(&key) {
            self.waits.insert(key, Wait::Over);
        }
    }

    fn update_waits(&mut self, now: Duration) {
        let mut waits = BTreeMap::new();
        for ((kind, name), patience) in self.needed() {
            if self.is_here(kind, &name) {
                continue;
            }
            let wait = match (self.waits.get(&(kind, name.clone())), patience) {
                (Some(Wait::Until(deadline)), _) if *deadline <= now => Wait::Over,
                (Some(wait), _) => *wait,
                (None, Patience::Ads(Some(limit))) => Wait::Until(now.saturating_add(limit)),
                (None, Patience::Ads(None) | Patience::Local) => Wait::Forever,
            };
            waits.insert((kind, name), wait);
        }
        self.waits = waits;
    }

    /// True if it is here, or has been waited for long enough.
    fn is_settled(&self, kind: ResourceKind, name: &str) -> bool {
        self.is_here(kind, name) || self.waits.get(&(kind, name.into())) == Some(&Wait::Over)
    }

    fn has_needs(&self, needs: &Needs) -> bool {
        needs.routes.keys().all(|name| self.is_settled(ResourceKind::Routes, name))
            && needs.secrets.keys().all(|name| self.is_settled(ResourceKind::Secret, name.as_str()))
    }

    /// Each host of a cluster that was published to be asked has been.
    fn has_answered(&self, parts: &Arc<Resource<ClusterParts>>) -> bool {
        let asked = self.asked.get(&parts.value.cluster.name).filter(|asked| Arc::ptr_eq(&asked.parts, parts));
        asked.is_some_and(|asked| (self.is_warm)(&asked.cluster))
    }

    pub(super) fn cluster_is_complete(&self, resource: &Resource<ClusterParts>) -> bool {
        let endpoints = match &resource.value.source {
            EndpointSource::Given => true,
            EndpointSource::Eds(name, _) => self.is_settled(ResourceKind::Endpoints, name),
            EndpointSource::Dns(settings) => self.resolved.iter().any(|(known, _)| Arc::ptr_eq(known, settings)),
        };
        endpoints && self.has_needs(&resource.needs)
    }

    /// Drops what was accepted for somebody who is gone.
    fn forget(&mut self) {
        let needed = self.needed();
        let wanted = |kind: ResourceKind, name: &Arc<str>| needed.contains_key(&(kind, name.clone()));
        self.routes.retain(|name, _| wanted(ResourceKind::Routes, name));
        self.endpoints.retain(|name, _| wanted(ResourceKind::Endpoints, name));
        let store = &self.store;
        self.secrets.retain(|name, _| {
            let keep = wanted(ResourceKind::Secret, name);
            if !keep {
                store.remove(&SecretName::from(&**name));
            }
            keep
        });
        self.rejected.retain(|(kind, name), _| kind.is_wildcard() || wanted(*kind, &name.as_str().into()));

        let clusters = self.clusters.values().flat_map(Slot::resources).map(|resource| &resource.needs);
        let listeners = self.listeners.values().flat_map(Slot::resources).map(|resource| &resource.needs);
        let in_use: BTreeSet<&SecretName> =
            clusters.chain(listeners).flat_map(|needs| &needs.materials).map(|material| &material.name).collect();
        let static_secrets = &self.static_secrets;
        self.generated.retain(|name| {
            let keep = in_use.contains(name) || static_secrets.contains(name);
            if !keep {
                store.remove(name);
            }
            keep
        });

        let settings: Vec<_> = self.names_to_resolve().into_iter().map(|(_, settings)| settings).collect();
        self.resolved.retain(|(known, _)| settings.iter().any(|wanted| Arc::ptr_eq(wanted, known)));
    }
}

fn add(wanted: &mut Wanted, needs: &Needs) {
    for (name, patience) in &needs.routes {
        wanted.insert((ResourceKind::Routes, name.clone()), *patience);
    }
    for (name, patience) in &needs.secrets {
        wanted.insert((ResourceKind::Secret, name.as_str().into()), *patience);
    }
}

/// Its hosts are asked before it goes live. One that takes the place of another whose hosts are looked after knows them.
pub(super) fn is_asked_first(slot: &Slot<ClusterParts>, parts: &Resource<ClusterParts>) -> bool {
    let looks_after = |active: &Arc<Resource<ClusterParts>>| {
        let cluster = &active.value.cluster;
        cluster.health_check.is_some() || cluster.outlier_detection.is_some()
    };
    parts.value.cluster.health_check.is_some() && !slot.active.as_ref().is_some_and(looks_after)
}

fn ready_names<T>(
    slots: &BTreeMap<Arc<str>, Slot<T>>,
    ready: impl Fn(&Slot<T>, &Arc<Resource<T>>) -> bool,
) -> Vec<Arc<str>> {
    let is_ready = |slot: &Slot<T>| slot.warming.as_ref().is_some_and(|resource| ready(slot, resource));
    slots.iter().filter(|(_, slot)| is_ready(slot)).map(|(name, _)| name.clone()).collect()
}

fn promote<T>(slots: &mut BTreeMap<Arc<str>, Slot<T>>, names: &[Arc<str>]) {
    for name in names {
        if let Some(slot) = slots.get_mut(name) {
            slot.active = slot.warming.take();
        }
    }
}
