//! Which priorities take load, and by what share: the first that is well takes all, what it cannot take
//! spills to the next.
//!
//! The arithmetic is Envoy's (`LoadBalancerBase`), in whole per cent: its rounding decides who gets a request.

use pymesh_model::endpoint::{Endpoints, Health};

use super::level::{Available, Level};

/// A part of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub priority: usize,
    /// Healthy or degraded hosts.
    pub of: Available,
    /// Above zero; all loads of a cluster are 100.
    pub percent: u32,
    /// Too few hosts of the priority are available: all of them are used.
    pub is_panic: bool,
}

/// The hosts of a priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// All, also those that are not judged.
    pub hosts: u64,
    /// What is judged: hosts, and their weights.
    pub judged: (u64, u64),
    pub healthy: (u64, u64),
    pub degraded: (u64, u64),
}

/// The load of each priority in order: first what healthy hosts take, then what degraded ones take.
pub(super) fn loads(levels: &[Level], endpoints: &Endpoints, panic_threshold: u32) -> Vec<Load> {
    let counts: Vec<Count> = levels.iter().map(count).collect();
    distribute(&counts, endpoints.overprovisioning, endpoints.weighted_priority_health, panic_threshold)
}

fn count(level: &Level) -> Count {
    let mut count = Count::default();
    for member in level.members() {
        let add = |to: &mut (u64, u64)| *to = (to.0 + 1, to.1 + u64::from(member.weight));
        count.hosts += 1;
        if !member.is_excluded {
            add(&mut count.judged);
        }
        match member.health {
            Health::Healthy => add(&mut count.healthy),
            Health::Degraded => add(&mut count.degraded),
            Health::Unhealthy | Health::Draining => {}
        }
    }
    count
}

/// See [`loads`]. `overprovisioning` and `panic_threshold` are per cent.
pub(super) fn distribute(counts: &[Count], overprovisioning: u32, by_weight: bool, panic_threshold: u32) -> Vec<Load> {
    let availability = |of: (u64, u64), all: (u64, u64)| -> u64 {
        let (part, whole) = if by_weight { (of.1, all.1) } else { (of.0, all.0) };
        (u64::from(overprovisioning) * part).checked_div(whole).map_or(0, |percent| percent.min(100))
    };
    let healthy: Vec<u64> = counts.iter().map(|count| availability(count.healthy, count.judged)).collect();
    let degraded: Vec<u64> = counts.iter().map(|count| availability(count.degraded, count.judged)).collect();
    let total = healthy.iter().chain(&degraded).sum::<u64>().min(100);
    // With enough hosts over all priorities, none of them needs to panic.
    let panic: Vec<bool> =
        counts.iter().map(|count| total < 100 && is_below(count, u64::from(panic_threshold))).collect();
    let (healthy, degraded) = match (panic.iter().all(|panic| *panic), total) {
        (true, _) => (by_hosts(counts), Vec::new()),
        (false, 0) => (first(counts.len()), Vec::new()),
        (false, total) => by_availability(&healthy, &degraded, total),
    };
    let part = |of: Available| {
        let panic = &panic;
        move |(priority, percent): (usize, u64)| Load {
            priority,
            of,
            percent: percent as u32,
            is_panic: panic.get(priority).copied().unwrap_or(false),
        }
    };
    let healthy = healthy.into_iter().enumerate().map(part(Available::Healthy));
    let degraded = degraded.into_iter().enumerate().map(part(Available::Degraded));
    healthy.chain(degraded).filter(|load| load.percent > 0).collect()
}

/// Fewer than `threshold` per cent of the hosts that are judged are available.
fn is_below(count: &Count, threshold: u64) -> bool {
    let available = count.healthy.0 + count.degraded.0;
    match count.judged.0 {
        0 => threshold > 0,
        judged => available * 100 < threshold * judged,
    }
}

/// As much as each can take, until there is no load left; healthy hosts come first everywhere.
fn by_availability(healthy: &[u64], degraded: &[u64], total: u64) -> (Vec<u64>, Vec<u64>) {
    let mut left = 100;
    let mut take = |available: &u64| {
        let load = left.min(available * 100 / total);
        left -= load;
        load
    };
    let mut healthy_loads: Vec<u64> = healthy.iter().map(&mut take).collect();
    let mut degraded_loads: Vec<u64> = degraded.iter().map(&mut take).collect();
    // What rounding has left over.
    let first_healthy = healthy.iter().zip(&mut healthy_loads).find(|(available, _)| **available > 0);
    let first_degraded = degraded.iter().zip(&mut degraded_loads).find(|(available, _)| **available > 0);
    if let Some((_, load)) = first_healthy.or(first_degraded) {
        *load += left;
    }
    (healthy_loads, degraded_loads)
}

/// All priorities panic: each takes load by the number of its hosts.
fn by_hosts(counts: &[Count]) -> Vec<u64> {
    let all: u64 = counts.iter().map(|count| count.hosts).sum();
    if all == 0 {
        return first(counts.len());
    }
    let mut loads: Vec<u64> = counts.iter().map(|count| 100 * count.hosts / all).collect();
    let left = 100 - loads.iter().sum::<u64>();
    if let Some((_, load)) = counts.iter().zip(&mut loads).find(|(count, _)| count.hosts > 0) {
        *load += left;
    }
    loads
}

/// Nobody can take it, and somebody has to say so.
fn first(priorities: usize) -> Vec<u64> {
    (0..priorities).map(|priority| if priority == 0 { 100 } else { 0 }).collect()
}

#[cfg(test)]
mod tests;
