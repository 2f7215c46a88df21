use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::balance::*;
use pymesh_model::endpoint::*;
use pymesh_model::testing;

use super::*;
use crate::health::Flags;

const UP: Health = Health::Healthy;
const SOSO: Health = Health::Degraded;
const DOWN: Health = Health::Unhealthy;
const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: 2, active_request_bias: 1.0 };

/// A cluster, its hosts in the order of their description, and a picker.
struct Rig {
    cluster: Cluster,
    listed: Vec<Listed>,
    hosts: Slab<Host>,
    picker: Picker,
    now: Time,
    rng: Rng,
    stats: ClusterStats,
}

/// A locality: its priority, its weight, and weight and health of its hosts.
type Group<'s> = (u32, u32, &'s [(u32, Health)]);

impl Rig {
    fn new(policy: LbPolicy, groups: &[Group<'_>]) -> Rig {
        Rig::with(Balance::by(policy), groups)
    }

    fn with(balance: Balance, groups: &[Group<'_>]) -> Rig {
        let mut cluster = testing::cluster("c", []);
        cluster.balance = balance;
        let (mut hosts, mut listed, mut localities) = (Slab::default(), Vec::new(), Vec::new());
        for (index, (priority, weight, members)) in groups.iter().enumerate() {
            let zone = Arc::from(format!("zone-{index}"));
            let mut locality = Locality { priority: *priority, weight: *weight, zone, ..Locality::default() };
            for (weight, health) in *members {
                let endpoint = Arc::new(Endpoint {
                    address: testing::address(1, 1000 + listed.len() as u16),
                    hostname: "".into(),
                    weight: *weight,
                    health: *health,
                    check: EndpointCheck::default(),
                    hash_key: "".into(),
                    transport_match: Vec::new(),
                    workload: Default::default(),
                });
                locality.endpoints.push(endpoint.clone());
                listed.push((hosts.insert_with(|_| Host::new(endpoint)), index));
            }
            localities.push(locality);
        }
        cluster.endpoints = Arc::new(Endpoints::of(localities));
        let (picker, stats) = (Picker::default(), ClusterStats::default());
        let mut rig = Rig { cluster, listed, hosts, picker, now: Time::default(), rng: Rng::new(1), stats };
        rig.refresh();
        rig
    }

    fn refresh(&mut self) {
        for host in self.hosts.iter_mut().filter(|host| host.health() == UP) {
            host.healthy_since.get_or_insert(self.now);
        }
        self.picker =
            Picker::new(&self.cluster, &self.listed, &self.hosts, &Registry::default(), self.now, &mut self.rng);
    }

    fn host(&mut self, at: usize) -> &mut Host {
        self.hosts.get_mut(self.listed[at].0).unwrap()
    }

    fn pick(&mut self) -> Option<usize> {
        let pick = Pick { now: self.now, ..Pick::default() };
        let host = self.picker.pick(&pick, &self.hosts, &self.stats, &mut self.rng)?;
        self.listed.iter().position(|(key, _)| *key == host)
    }

    /// How often each host was chosen.
    fn counts(&mut self, picks: usize) -> Vec<usize> {
        let mut seen = vec![0; self.listed.len()];
        for _ in 0..picks {
            if let Some(at) = self.pick() {
                seen[at] += 1;
            }
        }
        seen
    }
}

fn counts(policy: LbPolicy, groups: &[Group<'_>], picks: usize) -> Vec<usize> {
    Rig::new(policy, groups).counts(picks)
}

/// A number of random events with this chance, give or take five standard deviations.
#[track_caller]
fn assert_share(seen: usize, of: usize, chance: f64) {
    let (mean, deviation) = (of as f64 * chance, (of as f64 * chance * (1.0 - chance)).sqrt());
    assert!((seen as f64 - mean).abs() <= 5.0 * deviation, "{seen} of {of} is not {chance}");
}

#[test]
fn round_robin_is_exact() {
    assert_eq!(counts(LbPolicy::RoundRobin, &[(0, 1, &[(1, UP), (1, UP), (1, UP)])], 30), [10, 10, 10]);
    assert_eq!(counts(LbPolicy::RoundRobin, &[(0, 1, &[(1, UP), (3, UP)])], 40), [10, 30]);
    assert_eq!(counts(LbPolicy::RoundRobin, &[], 9), [] as [usize; 0]);
}

#[test]
fn unhealthy_hosts_are_left_out_until_most_are() {
    let one_of = |down: &[(u32, Health)]| [&[(1, UP)], down].concat();
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &one_of(&[(1, DOWN)]))]);
    assert_eq!(rig.counts(10), [10, 0]);
    assert_eq!(rig.stats.lb_healthy_panic.value(), 0);
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &one_of(&[(1, DOWN), (1, DOWN)]))]);
    assert_eq!(rig.counts(9), [3, 3, 3]);
    assert_eq!(rig.stats.lb_healthy_panic.value(), 9);
    rig.cluster.balance.panic_threshold = 33;
    rig.refresh();
    assert_eq!(rig.counts(9), [9, 0, 0]);
    rig.host(0).flags = Flags::FAILED_OUTLIER_CHECK;
    rig.cluster.balance.panic_threshold = 0;
    rig.refresh();
    assert_eq!(rig.counts(9), [0, 0, 0]);
}

#[test]
fn the_next_priority_takes_what_the_first_cannot() {
    let first = |health| [(1, UP), (1, UP), (1, health), (1, DOWN)];
    // 2 of 4 are 70 per cent by overprovisioning: the rest spills.
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &first(DOWN)), (1, 1, &[(1, UP)])]);
    let seen = rig.counts(10_000);
    assert_share(seen[4], 10_000, 0.30);
    assert_eq!(seen[0] + seen[1] + seen[4], 10_000);
    // 3 of 4 are enough.
    assert_eq!(counts(LbPolicy::RoundRobin, &[(0, 1, &first(UP)), (1, 1, &[(1, UP)])], 9), [3, 3, 3, 0, 0]);
}

#[test]
fn degraded_hosts_take_what_healthy_ones_of_any_priority_cannot() {
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &[(1, UP), (1, SOSO)]), (1, 1, &[(1, SOSO)])]);
    let seen = rig.counts(10_000);
    assert_share(seen[1], 10_000, 0.30);
    assert_eq!(seen[2], 0);
    let healthy = &[(0, 1, [(1, UP), (1, SOSO)].as_slice()), (1, 1, &[(1, UP)])];
    assert_eq!(counts(LbPolicy::RoundRobin, healthy, 1000)[1], 0);
}

#[test]
fn draining_hosts_do_not_make_the_others_look_ill() {
    let mut rig = Rig::new(
        LbPolicy::RoundRobin,
        &[(0, 1, &[(1, UP), (1, Health::Draining), (1, Health::Draining)]), (1, 1, &[(1, UP)])],
    );
    assert_eq!(rig.counts(10), [10, 0, 0, 0]);
    assert_eq!(rig.picker.membership(), Membership { total: 4, healthy: 2, degraded: 0, excluded: 2 });
}

#[test]
fn unchecked_hosts_count_as_unhealthy_unless_they_are_ignored() {
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &[(1, UP), (1, UP), (1, UP)]), (1, 1, &[(1, UP)])]);
    for at in [1, 2] {
        rig.host(at).flags = Flags::FAILED_ACTIVE_HC;
    }
    rig.refresh();
    assert_share(rig.counts(10_000)[3], 10_000, 0.54);
    for at in [1, 2] {
        rig.host(at).flags = Flags::FAILED_ACTIVE_HC.with(Flags::PENDING_ACTIVE_HC);
    }
    rig.refresh();
    assert_eq!(rig.counts(10), [10, 0, 0, 0]);
}

#[test]
fn localities_share_by_weight_and_health() {
    let weighted = |policy| Balance { locality: LocalityLb::Weighted, ..Balance::by(policy) };
    let groups: &[Group<'_>] = &[(0, 1, &[(1, UP)]), (0, 3, &[(1, UP), (1, UP), (1, UP)]), (0, 0, &[(1, UP)])];
    assert_eq!(Rig::with(weighted(LbPolicy::RoundRobin), groups).counts(400), [100, 100, 100, 100, 0]);
    // One pool without it.
    assert_eq!(Rig::new(LbPolicy::RoundRobin, groups).counts(500), [100; 5]);
    // Half of the second is 70 per cent of its weight.
    let groups: &[Group<'_>] = &[(0, 7, &[(1, UP)]), (0, 10, &[(1, UP), (1, DOWN)])];
    assert_eq!(Rig::with(weighted(LbPolicy::RoundRobin), groups).counts(140), [70, 70, 0]);
    // Without any weight there is nothing to share by.
    let groups: &[Group<'_>] = &[(0, 0, &[(1, UP)]), (0, 0, &[(1, UP), (1, UP)])];
    assert_eq!(Rig::with(weighted(LbPolicy::RoundRobin), groups).counts(30), [10, 10, 10]);
}

#[test]
fn random_knows_no_weights() {
    let seen = counts(LbPolicy::Random, &[(0, 1, &[(1, UP), (9, UP)])], 10_000);
    assert_share(seen[0], 10_000, 0.5);
}

#[test]
fn least_request_avoids_the_busy_host() {
    let mut rig = Rig::new(LEAST, &[(0, 1, &[(1, UP), (1, UP)])]);
    rig.host(0).active = 100;
    // Only when both samples are the busy one.
    assert_share(rig.counts(10_000)[0], 10_000, 0.25);
}

#[test]
fn least_request_divides_different_weights_by_what_hosts_have_to_do() {
    let mut rig = Rig::new(LEAST, &[(0, 1, &[(1, UP), (4, UP)])]);
    assert_eq!(rig.counts(50), [10, 40]);
    rig.host(1).active = 1;
    rig.refresh();
    assert_eq!(rig.counts(30), [10, 20]);
    rig.cluster.balance.policy = LbPolicy::LeastRequest { choices: 2, active_request_bias: 2.0 };
    rig.refresh();
    assert_eq!(rig.counts(30), [15, 15]);
    rig.cluster.balance.policy = LbPolicy::LeastRequest { choices: 2, active_request_bias: 0.0 };
    rig.refresh();
    assert_eq!(rig.counts(50), [10, 40]);
}

#[test]
fn a_new_host_begins_with_a_part_of_its_share() {
    for policy in [LbPolicy::RoundRobin, LEAST] {
        let slow = SlowStart { window: Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };
        let balance = Balance { slow_start: Some(slow), ..Balance::by(policy) };
        let mut rig = Rig::with(balance, &[(0, 1, &[(1, UP), (1, UP)])]);
        rig.now = Time::default() + Duration::from_secs(20);
        rig.host(1).healthy_since = Some(rig.now);
        rig.refresh();
        let seen = rig.counts(1100);
        assert!(seen[1].abs_diff(100) <= 1, "{seen:?}");
        rig.now = rig.now + Duration::from_secs(5);
        rig.counts(30);
        let seen = rig.counts(1500);
        assert!(seen[1].abs_diff(500) <= 1, "{seen:?}");
        // Then it is like the others, and they are chosen as if none had ever been new.
        rig.now = rig.now + Duration::from_secs(5);
        rig.host(0).active = 100;
        let seen = rig.counts(10_000);
        match policy {
            LbPolicy::RoundRobin => assert_eq!(seen, [5000, 5000]),
            _ => assert_share(seen[0], 10_000, 0.25),
        }
    }
}

#[test]
fn hosts_to_avoid_are_taken_if_no_other_is_found() {
    let mut rig = Rig::new(LbPolicy::RoundRobin, &[(0, 1, &[(1, UP), (1, UP)])]);
    let avoid = [rig.listed[0].0];
    let mut seen = HashMap::new();
    for reselections in [0, 1] {
        for _ in 0..10 {
            let pick = Pick { avoid: &avoid, reselections, ..Pick::default() };
            let host = rig.picker.pick(&pick, &rig.hosts, &rig.stats, &mut rig.rng).unwrap();
            *seen.entry((reselections, host == avoid[0])).or_insert(0) += 1;
        }
    }
    assert_eq!(seen, HashMap::from([((0, true), 5), ((0, false), 5), ((1, false), 10)]));
}

fn maglev(balance_factor: Option<u32>) -> LbPolicy {
    let hashing = ConsistentHashing { use_hostname: false, balance_factor };
    LbPolicy::Maglev(Maglev { table_size: 101, hashing })
}

impl Rig {
    /// The host for a hash, while the cluster has so many requests.
    fn hashed(&mut self, hash: u64, active: u32) -> Option<usize> {
        let pick = Pick { now: self.now, hash: Some(hash), active, ..Pick::default() };
        let host = self.picker.pick(&pick, &self.hosts, &self.stats, &mut self.rng)?;
        self.listed.iter().position(|(key, _)| *key == host)
    }
}

#[test]
fn a_hash_finds_its_host_and_chance_any() {
    let mut rig = Rig::new(maglev(None), &[(0, 1, &[(1, UP), (1, UP), (1, UP)])]);
    for hash in 0..200 {
        let first = rig.hashed(hash, 0);
        rig.refresh();
        assert_eq!(rig.hashed(hash, 0), first, "a table that is made anew is the same");
    }
    assert!(rig.counts(300).iter().all(|count| *count > 50));
}

#[test]
fn a_host_that_is_not_well_has_no_place_in_the_table() {
    let mut rig = Rig::new(maglev(None), &[(0, 1, &[(1, UP), (1, DOWN), (1, UP), (1, SOSO)])]);
    let found: Vec<usize> = (0..200).filter_map(|hash| rig.hashed(hash, 0)).collect();
    assert_eq!(found.len(), 200);
    assert!(found.iter().all(|at| [0, 2].contains(at)), "as in Envoy, not even one that is degraded: {found:?}");
    let mut rig = Rig::new(maglev(None), &[(0, 1, &[(1, SOSO), (1, SOSO)])]);
    assert!((0..200).all(|hash| rig.hashed(hash, 0).is_some()), "unless there are no others");
}

#[test]
fn localities_have_their_part_of_the_table() {
    let balance = Balance { locality: LocalityLb::Weighted, ..Balance::by(maglev(None)) };
    let mut rig = Rig::with(balance, &[(0, 3, &[(1, UP)]), (0, 1, &[(1, UP), (1, UP)]), (0, 0, &[(1, UP)])]);
    let mut seen = [0; 4];
    for hash in 0..1010 {
        seen[rig.hashed(hash, 0).unwrap()] += 1;
    }
    assert!((730..790).contains(&seen[0]) && (100..150).contains(&seen[1]) && seen[3] == 0, "{seen:?}");
}

#[test]
fn a_host_that_has_more_than_its_share_passes_on() {
    let mut rig = Rig::new(maglev(Some(150)), &[(0, 1, &[(1, UP), (1, UP), (1, UP)])]);
    let hash = (0..).find(|hash| rig.hashed(*hash, 0) == Some(1)).unwrap();
    // (11 + 1) * 150 % = 18, of which each may have 6.
    rig.host(1).active = 6;
    assert_eq!(rig.hashed(hash, 11), Some(1));
    rig.host(1).active = 7;
    let other = rig.hashed(hash, 11);
    assert!(other.is_some() && other != Some(1));
    assert_eq!(rig.hashed(hash, 11), other, "the same hash, the same other");
}

/// Latencies in milliseconds of requests that come at random, one in a millisecond on average, to twenty hosts of which
/// one takes two seconds, and the others 20 ms; at the median and at the 99th percentile.
fn latencies(policy: LbPolicy) -> [u64; 2] {
    let hosts = [(1, UP); 20];
    let mut rig = Rig::new(policy, &[(0, 1, &hosts)]);
    let mut ending = std::collections::BinaryHeap::new();
    let mut taken = Vec::new();
    let mut now = 0.0;
    for _ in 0..60_000 {
        now -= rig.rng.unit().ln();
        while ending.peek().is_some_and(|std::cmp::Reverse((at, _))| *at <= now as u64) {
            let std::cmp::Reverse((_, host)) = ending.pop().unwrap();
            rig.host(host).active -= 1;
        }
        let host = rig.pick().unwrap();
        let takes = if host == 0 { 2_000 } else { 20 };
        rig.host(host).active += 1;
        ending.push(std::cmp::Reverse((now as u64 + takes, host)));
        taken.push(takes);
    }
    // The beginning is not like the rest.
    let mut taken = taken.split_off(10_000);
    taken.sort_unstable();
    [taken[taken.len() / 2], taken[taken.len() * 99 / 100]]
}

#[test]
fn a_slow_replica_does_not_set_the_tail_where_load_counts() {
    assert_eq!(latencies(LbPolicy::RoundRobin), [20, 2_000], "one in twenty requests meets it");
    assert_eq!(latencies(LEAST), [20, 20], "less than one in a hundred does");
}
