//! Which of a set of hosts is next (`lb_policy`).
//!
//! Hosts of equal weight need no queue: a cursor, or a look at a few of them. Weights that differ, which they
//! also do while a host is new (slow start), are turns of an [`Edf`].

use pymesh_model::balance::{Balance, LbPolicy, SlowStart};

use super::edf::Edf;
use super::level::Member;
use super::slow_start;
use crate::base::rng::Rng;
use crate::base::slab::Slab;
use crate::base::time::Time;
use crate::cluster::host::Host;
use crate::cluster::HostKey;

/// Hosts, and whose turn it is.
pub(super) struct Policy {
    policy: LbPolicy,
    slow_start: Option<SlowStart>,
    candidates: Vec<Candidate>,
    order: Order,
    /// When the last of the new hosts is not new any more, and the order has to be made again.
    settled_at: Option<Time>,
}

#[derive(Clone, Copy)]
struct Candidate {
    key: HostKey,
    weight: u32,
    healthy_since: Option<Time>,
}

enum Order {
    /// The host at this place, then the one after it.
    Cycle(usize),
    Turns(Edf),
    /// The less busy of so many random ones.
    Choices(u32),
    Random,
}

impl Policy {
    pub fn new(balance: &Balance, members: Vec<Member>, hosts: &Slab<Host>, now: Time, rng: &mut Rng) -> Policy {
        let candidates = members
            .into_iter()
            .map(|member| Candidate { key: member.key, weight: member.weight, healthy_since: member.healthy_since })
            .collect();
        let slow_start = balance.slow_start.filter(|_| balance.policy != LbPolicy::Random);
        let mut policy =
            Policy { policy: balance.policy, slow_start, candidates, order: Order::Random, settled_at: None };
        policy.arrange(hosts, now, rng);
        policy
    }

    fn arrange(&mut self, hosts: &Slab<Host>, now: Time, rng: &mut Rng) {
        let window = self.slow_start.map(|settings| settings.window);
        let ends = self.candidates.iter().filter_map(|host| Some(host.healthy_since? + window?));
        self.settled_at = ends.max().filter(|end| *end > now);
        let is_even = self.settled_at.is_none()
            && self.candidates.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        self.order = match self.policy {
            // A random start keeps the workers from marching in step.
            LbPolicy::RoundRobin if is_even => Order::Cycle(rng.below(self.candidates.len() as u64) as usize),
            LbPolicy::LeastRequest { choices, .. } if is_even => Order::Choices(choices.max(2)),
            // Those that hash come here by no way.
            LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => Order::Random,
            LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. } => {
                let weights =
                    self.candidates.iter().map(|host| host.turn_weight(self.policy, self.slow_start, hosts, now));
                Order::Turns(Edf::new(weights, rng))
            }
        };
    }

    /// The host for the next request. Draws nothing if there is only one.
    pub fn pick(&mut self, now: Time, hosts: &Slab<Host>, rng: &mut Rng) -> Option<HostKey> {
        if let [only] = self.candidates.as_slice() {
            return Some(only.key);
        }
        if self.settled_at.is_some_and(|end| end <= now) {
            self.arrange(hosts, now, rng);
        }
        let Policy { policy, slow_start, candidates, order, .. } = self;
        let chosen = match order {
            Order::Cycle(next) => {
                let at = if *next < candidates.len() { *next } else { 0 };
                *next = at + 1;
                candidates.get(at)
            }
            Order::Turns(turns) => {
                let weight = |at: usize| {
                    candidates.get(at).map_or(1.0, |candidate| candidate.turn_weight(*policy, *slow_start, hosts, now))
                };
                turns.next(weight).and_then(|at| candidates.get(at))
            }
            Order::Random => any(candidates, rng),
            Order::Choices(choices) => {
                let mut best: Option<(&Candidate, u32)> = None;
                for _ in 0..*choices {
                    let candidate = any(candidates, rng)?;
                    let active = active(candidate, hosts);
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

impl Candidate {
    /// Its weight on the clock of turns: less while it is new, and for least request while it is busy.
    fn turn_weight(&self, policy: LbPolicy, slow_start: Option<SlowStart>, hosts: &Slab<Host>, now: Time) -> f64 {
        let grown = match (slow_start, self.healthy_since) {
            (Some(settings), Some(since)) => slow_start::factor(&settings, now.since(since)),
            _ => 1.0,
        };
        let load = match policy {
            LbPolicy::LeastRequest { active_request_bias, .. } => {
                let busy = f64::from(active(self, hosts)) + 1.0;
                if active_request_bias == 1.0 {
                    busy
                } else {
                    busy.powf(active_request_bias)
                }
            }
            LbPolicy::RoundRobin | LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => 1.0,
        };
        f64::from(self.weight) * grown / load
    }
}

fn active(candidate: &Candidate, hosts: &Slab<Host>) -> u32 {
    hosts.get(candidate.key).map_or(0, |host| host.active)
}

fn any<'a>(candidates: &'a [Candidate], rng: &mut Rng) -> Option<&'a Candidate> {
    candidates.get(rng.below(candidates.len() as u64) as usize)
}
