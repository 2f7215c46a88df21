//! Which host serves the next request. Randomness is an argument.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use pymesh_model::cluster::Balance;
use pymesh_model::endpoint::Health;

use super::host::Host;
use super::HostKey;
use crate::base::rng::Rng;
use crate::base::slab::Slab;

/// Chooses among the hosts of the best priority that can serve.
///
/// As in Envoy: within a priority, healthy hosts serve, else degraded ones;
/// when fewer than half are healthy, health is no longer believed and all
/// serve (panic threshold 50 %). The first priority with a healthy host is used.
#[derive(Default)]
pub(crate) struct Picker {
    policy: Policy,
    candidates: Vec<Candidate>,
    healthy: usize,
}

#[derive(Clone, Copy)]
struct Candidate {
    key: HostKey,
    weight: u32,
}

enum Policy {
    /// Equal weights: a cursor.
    Cycle {
        next: usize,
    },
    /// Unequal weights: earliest deadline first. `(deadline, candidate)`.
    Edf {
        queue: BinaryHeap<Reverse<(u64, usize)>>,
    },
    LeastRequest {
        choices: u32,
        total: u64,
        equal: bool,
    },
    Random {
        total: u64,
        equal: bool,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Policy::Cycle { next: 0 }
    }
}

/// One turn of a host of weight 1 on the EDF clock.
const TURN: u64 = 1 << 20;

fn turn(weight: u32) -> u64 {
    (TURN / u64::from(weight.max(1))).max(1)
}

impl Picker {
    pub fn new(balance: Balance, listed: &[(HostKey, u32)], hosts: &Slab<Host>, rng: &mut Rng) -> Picker {
        let (candidates, healthy) = serving(listed, hosts);
        let total = candidates.iter().map(|c| u64::from(c.weight)).sum();
        let equal = candidates.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        let policy = match balance {
            // A random start keeps the workers from marching in step.
            Balance::RoundRobin if equal => Policy::Cycle { next: rng.below(candidates.len() as u64) as usize },
            Balance::RoundRobin => Policy::Edf {
                queue: candidates.iter().enumerate().map(|(at, c)| Reverse((turn(c.weight), at))).collect(),
            },
            Balance::LeastRequest { choices } => Policy::LeastRequest { choices: choices.max(2), total, equal },
            Balance::Random => Policy::Random { total, equal },
        };
        Picker { policy, candidates, healthy }
    }

    /// Hosts believed to be healthy.
    pub fn healthy(&self) -> usize {
        self.healthy
    }

    /// The host for the next request.
    pub fn pick(&mut self, hosts: &Slab<Host>, rng: &mut Rng) -> Option<HostKey> {
        let candidates = &self.candidates;
        let chosen = match &mut self.policy {
            Policy::Cycle { next } => {
                let at = if *next < candidates.len() { *next } else { 0 };
                *next = at + 1;
                candidates.get(at)
            }
            Policy::Edf { queue } => {
                let Reverse((deadline, at)) = queue.pop()?;
                let candidate = candidates.get(at)?;
                let turn = turn(candidate.weight);
                queue.push(Reverse((deadline.wrapping_add(turn), at)));
                Some(candidate)
            }
            Policy::Random { total, equal } => sample(candidates, *total, *equal, rng),
            Policy::LeastRequest { choices, total, equal } => {
                let mut best: Option<(&Candidate, u64)> = None;
                for _ in 0..*choices {
                    let candidate = sample(candidates, *total, *equal, rng)?;
                    let active = hosts.get(candidate.key).map_or(0, |host| u64::from(host.active));
                    // Weight has its effect in the sampling; load decides between the samples.
                    if best.is_none_or(|(_, least)| active < least) {
                        best = Some((candidate, active));
                    }
                }
                best.map(|(candidate, _)| candidate)
            }
        };
        chosen.map(|candidate| candidate.key)
    }
}

fn sample<'a>(candidates: &'a [Candidate], total: u64, equal: bool, rng: &mut Rng) -> Option<&'a Candidate> {
    if equal {
        return candidates.get(rng.below(candidates.len() as u64) as usize);
    }
    let mut point = rng.below(total);
    for candidate in candidates {
        match point.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => point = rest,
            None => return Some(candidate),
        }
    }
    candidates.last()
}

/// The hosts that take part, and how many of all are healthy.
fn serving(listed: &[(HostKey, u32)], hosts: &Slab<Host>) -> (Vec<Candidate>, usize) {
    let health = |key: HostKey| hosts.get(key).map_or(Health::Unhealthy, |host| host.endpoint.health);
    let weight = |key: HostKey| hosts.get(key).map_or(1, |host| host.endpoint.weight.max(1));
    let healthy = listed.iter().filter(|(key, _)| health(*key) == Health::Healthy).count();
    let of = |priority: u32, wanted: &dyn Fn(Health) -> bool| -> Vec<Candidate> {
        listed
            .iter()
            .filter(|(key, at)| *at == priority && wanted(health(*key)))
            .map(|(key, _)| Candidate { key: *key, weight: weight(*key) })
            .collect()
    };
    let mut priorities: Vec<u32> = listed.iter().map(|(_, priority)| *priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let best = priorities
        .iter()
        .copied()
        .find(|p| listed.iter().any(|(key, at)| at == p && health(*key) == Health::Healthy))
        .or(priorities.first().copied());
    let Some(best) = best else { return (Vec::new(), healthy) };
    let all = of(best, &|_| true);
    let well = of(best, &|h| h == Health::Healthy);
    let degraded = of(best, &|h| h == Health::Degraded);
    let usable = well.len() + degraded.len();
    let serving = match (usable * 2 < all.len(), well.is_empty()) {
        (true, _) => all,
        (false, true) => degraded,
        (false, false) => well,
    };
    (serving, healthy)
}

#[cfg(test)]
mod tests;
