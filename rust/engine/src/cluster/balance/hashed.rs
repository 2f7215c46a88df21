//! A set of hosts of which a table says which serves a hash ([`HashTable`]), with a bound on what one of them may have in
//! flight ([`bounded_load`]).
//!
//! Healthy hosts are in the table, and all of them in panic; Envoy knows nothing else here. Where there are degraded
//! ones only, Envoy serves nobody, and we make the table of them.

use std::sync::Arc;

use pymesh_model::balance::{Balance, LocalityLb};

use super::bounded_load;
use super::hash_table::{HashTable, Kind, Member, Plan};
use super::level::{Available, Level, Member as Known};
use crate::base::slab::Slab;
use crate::cluster::host::Host;
use crate::cluster::HostKey;
use crate::shared::Registry;

/// Hosts and their table.
pub(super) struct Hashed {
    table: Arc<HashTable>,
    /// In the order of the table's members, each with its part of the whole.
    hosts: Vec<(HostKey, f64)>,
    /// `hash_balance_factor`.
    bound: Option<u32>,
}

impl Hashed {
    /// `None` for policies that do not hash.
    pub fn new(
        balance: &Balance,
        level: &Level,
        available: Available,
        hosts: &Slab<Host>,
        tables: &Registry<HashTable, Plan>,
    ) -> Option<Hashed> {
        let kind = Kind::of(balance.policy)?;
        let available = match available {
            Available::Degraded if level.members().any(|member| Available::Healthy.has(member)) => Available::Healthy,
            other => other,
        };
        let hosts_and_weights = weighed(balance.locality, level, available);
        let member = |(key, weight): &(HostKey, f64)| {
            hosts.get(*key).map(|host| Member::new(&host.endpoint, kind.hashing(), *weight))
        };
        let plan = Plan { kind, members: hosts_and_weights.iter().filter_map(member).collect() };
        let table = tables.get(&plan, || HashTable::new(&plan));
        Some(Hashed { table, hosts: hosts_and_weights, bound: kind.hashing().balance_factor })
    }

    /// `attempt` counts from 0 the hosts that did not suit, `active` the requests of the whole cluster.
    pub fn pick(&self, hash: u64, attempt: u32, active: u32, hosts: &Slab<Host>) -> Option<HostKey> {
        let mut owner = self.table.owner(hash, attempt)?;
        if let Some(factor) = self.bound {
            let fill = |owner: u32| {
                let Some((key, weight)) = self.hosts.get(owner as usize) else { return 0.0 };
                let own = hosts.get(*key).map_or(0, |host| host.active);
                bounded_load::fill(own, active, factor, *weight)
            };
            let members = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
            owner = bounded_load::choose(owner, hash, members, fill);
        }
        self.hosts.get(owner as usize).map(|(key, _)| *key)
    }
}

/// Hosts with their parts of the whole: of all, or of their localities', whose health does not count here.
fn weighed(locality: LocalityLb, level: &Level, available: Available) -> Vec<(HostKey, f64)> {
    let all: u64 = level.groups.iter().map(|group| u64::from(group.weight)).sum();
    if locality == LocalityLb::Pooled || all == 0 {
        return shares(&level.hosts(available), 1.0).collect();
    }
    let mut weighed = Vec::new();
    for group in level.groups.iter().filter(|group| group.weight > 0) {
        let members: Vec<Known> = group.members.iter().filter(|member| available.has(member)).copied().collect();
        weighed.extend(shares(&members, f64::from(group.weight) / all as f64));
    }
    weighed
}

/// Hosts with their parts of `whole`.
fn shares(members: &[Known], whole: f64) -> impl Iterator<Item = (HostKey, f64)> + '_ {
    let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    members.iter().map(move |member| (member.key, f64::from(member.weight) * whole / sum as f64))
}
