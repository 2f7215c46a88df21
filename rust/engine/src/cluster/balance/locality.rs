//! Localities of a priority that share load by their weights, as `locality_weighted_lb_config` asks.
//!
//! A locality takes its weight's part of the load while enough of it is available; as with priorities it can
//! miss some hosts (`overprovisioning_factor`) before the others take over from it.

use pymesh_model::cluster::Cluster;

use super::edf::Edf;
use super::level::{Available, Group, Level};
use super::policy::Policy;
use crate::base::rng::Rng;
use crate::base::slab::Slab;
use crate::base::time::Time;
use crate::cluster::host::Host;
use crate::cluster::HostKey;

/// Localities in turn by their weights, each with a policy of its own.
pub(super) struct Localities {
    turns: Edf,
    shares: Vec<Share>,
}

struct Share {
    weight: f64,
    policy: Policy,
}

impl Localities {
    /// `None` if no locality has a weight: then they are one pool.
    pub fn new(
        cluster: &Cluster,
        level: &Level,
        available: Available,
        hosts: &Slab<Host>,
        now: Time,
        rng: &mut Rng,
    ) -> Option<Localities> {
        let mut shares = Vec::new();
        for group in &level.groups {
            let weight = effective_weight(group, available, cluster.endpoints.overprovisioning);
            if weight > 0.0 {
                let members = group.members.iter().filter(|member| available.has(member)).copied().collect();
                shares.push(Share { weight, policy: Policy::new(&cluster.balance, members, hosts, now, rng) });
            }
        }
        let turns = Edf::new(shares.iter().map(|share| share.weight), rng);
        (!shares.is_empty()).then_some(Localities { turns, shares })
    }

    pub fn pick(&mut self, now: Time, hosts: &Slab<Host>, rng: &mut Rng) -> Option<HostKey> {
        let Localities { turns, shares } = self;
        let at = turns.next(|at| shares.get(at).map_or(1.0, |share| share.weight))?;
        shares.get_mut(at)?.policy.pick(now, hosts, rng)
    }
}

/// A locality's weight, less what its missing hosts cannot do.
pub(super) fn effective_weight(group: &Group, available: Available, overprovisioning: u32) -> f64 {
    let judged = group.members.iter().filter(|member| !member.is_excluded).count();
    let there = group.members.iter().filter(|member| available.has(member)).count();
    if judged == 0 {
        return 0.0;
    }
    let availability = f64::from(overprovisioning) / 100.0 * there as f64 / judged as f64;
    f64::from(group.weight) * availability.min(1.0)
}
