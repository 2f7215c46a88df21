//! Which host serves the next request. Randomness and time are arguments.
//!
//! A choice has three steps, Envoy's, each with a file of its own:
//!
//! 1. **priority** ([`priority`]): the health of each priority says what part of the load it takes, and
//!    whether its healthy or its degraded hosts take it, or all of them (panic);
//! 2. **locality** ([`locality`]): perhaps those hosts are taken apart by locality, each with a share by
//!    its weight and its health;
//! 3. **policy** ([`policy`]): one of the hosts that are left.
//!
//! What does not depend on the request is decided when hosts or their health change: a [`Picker`] is made
//! anew ([`ClusterRuntime::refresh_picker`](super::ClusterRuntime::refresh_picker)) and holds one
//! [`Branch`] for each set of hosts that has a part of the load. Mostly that is one, and costs nothing.
//!
//! A policy that looks up the request's hash in a table ([`hashed`]) takes the place of the last two steps;
//! localities are then part of the table's weights. The same hash decides on the priority.

mod bounded_load;
mod edf;
mod hash_table;
mod hashed;
mod level;
mod locality;
mod maglev;
mod policy;
mod priority;
mod ring_hash;
mod slow_start;

use pymesh_model::balance::LocalityLb;
use pymesh_model::cluster::Cluster;

use super::host::Host;
use super::HostKey;
use crate::base::rng::Rng;
use crate::base::slab::Slab;
use crate::base::time::Time;
use crate::shared::Registry;
use crate::telemetry::stats::ClusterStats;
pub(crate) use hash_table::{HashTable, Plan};
use hashed::Hashed;
use level::{Available, Level};
use locality::Localities;
use policy::Policy;

/// A host with the index of its locality in the cluster's endpoints.
pub(crate) type Listed = (HostKey, usize);

/// What a choice depends on besides the hosts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pick<'a> {
    pub now: Time,
    /// Of the request, where its route has hash policies.
    pub hash: Option<u64>,
    /// Requests that this worker has on a connection to the cluster, or waiting for one: for policies that hash.
    pub active: u32,
    /// Hosts that another attempt has been at; one of them is taken only if
    pub avoid: &'a [HostKey],
    /// this many choices more have found no other.
    pub reselections: u32,
}

/// How many hosts there are, and how they are. Excluded ones are counted by no other than `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub total: usize,
    pub healthy: usize,
    pub degraded: usize,
    pub excluded: usize,
}

/// Chooses among the hosts of one cluster.
#[derive(Default)]
pub(crate) struct Picker {
    branches: Vec<Branch>,
    membership: Membership,
}

/// A set of hosts that takes part of the load.
struct Branch {
    /// The last of the numbers from 1 to 100 that come here.
    up_to: u32,
    /// All hosts of the priority are in it, whatever their health.
    is_panic: bool,
    spread: Spread,
}

/// How hosts share what comes to their branch.
enum Spread {
    Pool(Policy),
    ByLocality(Localities),
    Hashed(Hashed),
}

impl Picker {
    /// `listed` names each endpoint's host, with the index of its locality.
    pub fn new(
        cluster: &Cluster,
        listed: &[Listed],
        hosts: &Slab<Host>,
        tables: &Registry<HashTable, Plan>,
        now: Time,
        rng: &mut Rng,
    ) -> Picker {
        let levels = level::levels(cluster, listed, hosts);
        let loads = priority::loads(&levels, &cluster.endpoints, cluster.balance.panic_threshold);
        let mut branches = Vec::new();
        let mut up_to = 0;
        for load in loads {
            let Some(level) = levels.get(load.priority) else { continue };
            let available = match load.is_panic {
                true => Available::Any,
                false => load.of,
            };
            up_to += load.percent;
            let spread = match Hashed::new(&cluster.balance, level, available, hosts, tables) {
                Some(hashed) => Spread::Hashed(hashed),
                None => Spread::new(cluster, level, available, hosts, now, rng),
            };
            branches.push(Branch { up_to, is_panic: load.is_panic, spread });
        }
        Picker { branches, membership: level::membership(&levels) }
    }

    pub fn membership(&self) -> Membership {
        self.membership
    }

    /// The host for the next request. `None`: nobody may serve it.
    pub fn pick(
        &mut self,
        pick: &Pick<'_>,
        hosts: &Slab<Host>,
        stats: &ClusterStats,
        rng: &mut Rng,
    ) -> Option<HostKey> {
        let mut chosen = None;
        for attempt in 0..=pick.reselections {
            chosen = self.pick_once(pick, attempt, hosts, stats, rng);
            match chosen {
                Some(host) if pick.avoid.contains(&host) => {}
                _ => break,
            }
        }
        chosen
    }

    fn pick_once(
        &mut self,
        pick: &Pick<'_>,
        attempt: u32,
        hosts: &Slab<Host>,
        stats: &ClusterStats,
        rng: &mut Rng,
    ) -> Option<HostKey> {
        let branch = match self.branches.as_mut_slice() {
            [only] => only,
            branches => {
                let number = 1 + pick.hash.map_or_else(|| rng.below(100), |hash| hash % 100) as u32;
                branches.iter_mut().find(|branch| number <= branch.up_to)?
            }
        };
        if branch.is_panic {
            stats.lb_healthy_panic.inc();
        }
        match &mut branch.spread {
            Spread::Pool(policy) => policy.pick(pick.now, hosts, rng),
            Spread::ByLocality(localities) => localities.pick(pick.now, hosts, rng),
            Spread::Hashed(hashed) => hashed.pick(pick.hash.unwrap_or_else(|| rng.bits()), attempt, pick.active, hosts),
        }
    }
}

impl Spread {
    fn new(
        cluster: &Cluster,
        level: &Level,
        available: Available,
        hosts: &Slab<Host>,
        now: Time,
        rng: &mut Rng,
    ) -> Spread {
        let balance = &cluster.balance;
        let localities = match (balance.locality, available) {
            // In panic nobody is believed, so nobody's health is weighed.
            (LocalityLb::Weighted, Available::Healthy | Available::Degraded) => {
                Localities::new(cluster, level, available, hosts, now, rng)
            }
            (LocalityLb::Weighted, Available::Any) | (LocalityLb::Pooled, _) => None,
        };
        match localities {
            Some(localities) => Spread::ByLocality(localities),
            None => Spread::Pool(Policy::new(balance, level.hosts(available), hosts, now, rng)),
        }
    }
}

#[cfg(test)]
mod tests;
