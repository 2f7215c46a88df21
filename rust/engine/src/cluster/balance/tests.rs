use std::collections::HashMap;
use std::sync::Arc;

use pymesh_model::endpoint::Endpoint;

use super::*;

fn hosts(spec: &[(u32, u32, Health)]) -> (Slab<Host>, Vec<(HostKey, u32)>) {
    let mut slab = Slab::default();
    let listed = spec
        .iter()
        .enumerate()
        .map(|(n, (priority, weight, health))| {
            let endpoint = Arc::new(Endpoint {
                address: format!("127.0.0.1:{}", 1000 + n).parse().unwrap(),
                hostname: "".into(),
                weight: *weight,
                health: *health,
                transport_match: Vec::new(),
                workload: Default::default(),
            });
            (slab.insert_with(|_| Host::new(endpoint)), *priority)
        })
        .collect();
    (slab, listed)
}

fn counts(balance: Balance, spec: &[(u32, u32, Health)], picks: usize) -> Vec<usize> {
    let (slab, listed) = hosts(spec);
    let mut rng = Rng::new(1);
    let mut picker = Picker::new(balance, &listed, &slab, &mut rng);
    let mut seen: HashMap<HostKey, usize> = HashMap::new();
    for _ in 0..picks {
        if let Some(key) = picker.pick(&slab, &mut rng) {
            *seen.entry(key).or_default() += 1;
        }
    }
    listed.iter().map(|(key, _)| seen.get(key).copied().unwrap_or(0)).collect()
}

const UP: Health = Health::Healthy;
const DOWN: Health = Health::Unhealthy;

#[test]
fn round_robin_is_exact() {
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, UP), (0, 1, UP), (0, 1, UP)], 30), [10, 10, 10]);
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, UP), (0, 3, UP)], 40), [10, 30]);
}

#[test]
fn unhealthy_hosts_are_left_out_until_most_are() {
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, UP), (0, 1, DOWN)], 10), [10, 0]);
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, UP), (0, 1, DOWN), (0, 1, DOWN)], 9), [3, 3, 3]);
    assert_eq!(counts(Balance::RoundRobin, &[], 9), [] as [usize; 0]);
}

#[test]
fn the_next_priority_serves_when_the_first_cannot() {
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, DOWN), (1, 1, UP)], 10), [0, 10]);
    assert_eq!(counts(Balance::RoundRobin, &[(0, 1, UP), (1, 1, UP)], 10), [10, 0]);
}

#[test]
fn random_follows_weights() {
    let seen = counts(Balance::Random, &[(0, 1, UP), (0, 9, UP)], 10_000);
    assert!((900..1100).contains(&seen[0]), "{seen:?}");
}

#[test]
fn least_request_avoids_the_busy_host() {
    let (mut slab, listed) = hosts(&[(0, 1, UP), (0, 1, UP)]);
    slab.get_mut(listed[0].0).unwrap().active = 100;
    let mut rng = Rng::new(3);
    let mut picker = Picker::new(Balance::LeastRequest { choices: 2 }, &listed, &slab, &mut rng);
    let busy = (0..1000).filter(|_| picker.pick(&slab, &mut rng) == Some(listed[0].0)).count();
    // Only when both samples are the busy one: one time in four.
    assert!((200..300).contains(&busy), "{busy}");
}
