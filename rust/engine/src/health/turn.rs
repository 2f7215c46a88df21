//! What an engine does about the health of hosts in its turns.

use std::sync::Arc;

use pymesh_model::cluster::Cluster;

use super::ClusterHealth;
use crate::cluster::ClusterKey;
use crate::engine::{Engine, Options};

/// What the process knows of a cluster's hosts, if anybody looks after them.
pub(crate) fn health_of(options: &Options, name: &Arc<str>, config: &Cluster) -> Option<Arc<ClusterHealth>> {
    let Options { commons, hub, .. } = options;
    let make = || ClusterHealth::new(commons.health_version.clone(), hub.outliers(name), hub.health_checks(name));
    ClusterHealth::is_for(config).then(|| commons.health.get(name, make))
}

impl Engine {
    /// Makes the pickers anew of clusters whose hosts are in another state, whoever has found that out.
    pub(crate) fn look_at_health(&mut self) {
        let version = self.options.commons.health_version.get();
        if version == self.health_version {
            return;
        }
        self.health_version = version;
        for cluster in self.clusters.iter_mut().filter(|cluster| cluster.has_changed_health()) {
            cluster.refresh_picker(self.now, &mut self.rng);
        }
    }

    /// Something of a cluster may be due: that its outliers are looked for, or its addresses forgotten.
    pub(crate) fn on_cluster_due(&mut self, index: usize) {
        self.sweep_original_hosts(index);
        let Some(key) = self.clusters.key_at(index) else { return };
        let Some(cluster) = self.clusters.get(key).filter(|cluster| !cluster.removed) else { return };
        if let Some(health) = &cluster.health {
            health.sweep(self.now, &mut self.rng);
        }
        self.arm_sweep(key);
    }

    /// Each worker comes to look for outliers; the first one does it.
    pub(crate) fn arm_sweep(&mut self, key: ClusterKey) {
        let health = self.clusters.get(key).and_then(|cluster| cluster.health.as_ref());
        if let Some(at) = health.and_then(|health| health.next_sweep()) {
            self.timers.arm_cluster(key, at);
        }
    }
}
