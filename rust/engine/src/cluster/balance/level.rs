//! The hosts of one priority, by locality, with their health as it is now (Envoy's `HostSet`).

use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::{Health, Locality};

use super::{Listed, Membership};
use crate::base::slab::Slab;
use crate::base::time::Time;
use crate::cluster::host::Host;
use crate::cluster::HostKey;

/// The localities of a priority that have hosts, in order of their names.
#[derive(Default)]
pub(super) struct Level {
    pub groups: Vec<Group>,
}

/// The hosts of a locality.
pub(super) struct Group {
    name: [std::sync::Arc<str>; 3],
    pub weight: u32,
    pub members: Vec<Member>,
}

/// A host as a balancer sees it.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub key: HostKey,
    pub weight: u32,
    pub health: Health,
    /// The health of the others is judged as if it were not there.
    pub is_excluded: bool,
    /// Since when it has been healthy.
    pub healthy_since: Option<Time>,
}

/// Which hosts of a level are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Available {
    Healthy,
    Degraded,
    /// All, whatever their health.
    Any,
}

impl Available {
    pub fn has(self, member: &Member) -> bool {
        match self {
            Available::Healthy => member.health == Health::Healthy,
            Available::Degraded => member.health == Health::Degraded,
            Available::Any => true,
        }
    }
}

impl Level {
    pub fn members(&self) -> impl Iterator<Item = &Member> + '_ {
        self.groups.iter().flat_map(|group| &group.members)
    }

    /// The hosts that are meant, over all localities.
    pub fn hosts(&self, available: Available) -> Vec<Member> {
        self.members().filter(|member| available.has(member)).copied().collect()
    }
}

/// One level for each priority from 0 to the last that is configured; those in between may be empty.
pub(super) fn levels(cluster: &Cluster, listed: &[Listed], hosts: &Slab<Host>) -> Vec<Level> {
    let endpoints = &cluster.endpoints;
    let mut levels: Vec<Level> = Vec::new();
    for locality in &endpoints.localities {
        let at = locality.priority as usize;
        if levels.len() <= at {
            levels.resize_with(at + 1, Level::default);
        }
    }
    for (key, index) in listed {
        let (Some(host), Some(locality)) = (hosts.get(*key), endpoints.localities.get(*index)) else { continue };
        let Some(level) = levels.get_mut(locality.priority as usize) else { continue };
        let health = host.health();
        group(level, locality).members.push(Member {
            key: *key,
            weight: host.endpoint.weight.max(1),
            health,
            is_excluded: host.is_excluded(),
            healthy_since: host.healthy_since,
        });
    }
    for level in &mut levels {
        level.groups.sort_by(|a, b| a.name.cmp(&b.name));
    }
    levels
}

/// The group of a locality. One that is listed twice is one, with the later weight.
fn group<'l>(level: &'l mut Level, locality: &Locality) -> &'l mut Group {
    let name = [locality.region.clone(), locality.zone.clone(), locality.sub_zone.clone()];
    let at = level.groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
        level.groups.push(Group { name, weight: 0, members: Vec::new() });
        level.groups.len() - 1
    });
    // It was found, or has just been added.
    #[allow(clippy::indexing_slicing)]
    let group = &mut level.groups[at];
    group.weight = locality.weight;
    group
}

pub(super) fn membership(levels: &[Level]) -> Membership {
    let mut membership = Membership::default();
    for member in levels.iter().flat_map(Level::members) {
        membership.total += 1;
        membership.excluded += usize::from(member.is_excluded);
        match member.health {
            Health::Healthy => membership.healthy += 1,
            Health::Degraded => membership.degraded += 1,
            Health::Unhealthy | Health::Draining => {}
        }
    }
    membership
}
