use pymesh_model::balance::HashFunction;
use pymesh_model::testing;

use super::*;
use crate::base::hash::xx_hash64;

fn ring(minimum_size: u64) -> LbPolicy {
    LbPolicy::RingHash(RingSettings {
        minimum_size,
        maximum_size: 8 << 20,
        function: HashFunction::XxHash,
        hashing: ConsistentHashing::default(),
    })
}

fn maglev(table_size: u64) -> LbPolicy {
    LbPolicy::Maglev(MaglevSettings { table_size, hashing: ConsistentHashing::default() })
}

/// Both kinds as they are by default.
fn both() -> [LbPolicy; 2] {
    [ring(1024), maglev(65_537)]
}

/// A table of hosts on these ports of 127.0.0.1, with their weights.
fn table(policy: LbPolicy, hosts: &[(u16, u32)]) -> HashTable {
    let all: u32 = hosts.iter().map(|(_, weight)| weight).sum();
    let kind = Kind::of(policy).unwrap();
    let members = hosts.iter().map(|(port, weight)| {
        let endpoint = testing::endpoint(([127, 0, 0, 1], *port).into());
        Member::new(&endpoint, kind.hashing(), f64::from(*weight) / f64::from(all))
    });
    HashTable::new(&Plan { kind, members: members.collect() })
}

/// Which port each of so many keys goes to.
fn ports(policy: LbPolicy, hosts: &[(u16, u32)], keys: u64) -> Vec<u16> {
    let table = table(policy, hosts);
    (0..keys).map(|key| hosts[table.owner(xx_hash64(&key.to_le_bytes()), 0).unwrap() as usize].0).collect()
}

fn share(ports: &[u16], port: u16) -> f64 {
    ports.iter().filter(|found| **found == port).count() as f64 / ports.len() as f64
}

#[test]
fn a_small_ring_has_the_points_of_envoys_own_test() {
    let ports = [90, 91, 92, 93, 94, 95];
    let table = table(ring(12), &ports.map(|port| (port, 1)));
    for (point, port) in [
        (833_437_586_790_550_860, 94),
        (928_266_305_478_181_108, 92),
        (1_033_482_794_131_418_490, 90),
        (3_551_244_743_356_806_947, 95),
        (3_851_675_632_748_031_481, 93),
        (5_583_722_120_771_150_861, 91),
        (6_311_230_543_546_372_928, 91),
        (7_700_377_290_971_790_572, 93),
        (13_144_177_310_400_110_813, 95),
        (13_444_792_449_719_432_967, 92),
        (15_516_499_411_664_133_160, 94),
        (16_117_243_373_044_804_889, 90),
    ] {
        let at = |hash, attempt| table.owner(hash, attempt).map(|index| ports[index as usize]);
        assert_eq!(at(point, 0), Some(port), "{point}");
        assert_eq!(at(point - 1, 0), Some(port), "before {point}");
        assert_ne!(at(point, 1), None);
    }
    assert_eq!(table.owner(u64::MAX, 0).map(|index| ports[index as usize]), Some(94), "behind the last is the first");
    assert_eq!(table.owner(0, 1).map(|index| ports[index as usize]), Some(92), "a second attempt is one point further");
}

#[test]
fn nobody_serves_without_hosts() {
    for policy in both() {
        assert_eq!(table(policy, &[]).owner(7, 0), None);
        assert_eq!(table(policy, &[]).owner(7, 3), None);
    }
}

#[test]
fn shares_follow_weights() {
    for policy in both() {
        let ports = ports(policy, &[(1, 1), (2, 2), (3, 7)], 40_000);
        for (port, wanted) in [(1, 0.1), (2, 0.2), (3, 0.7)] {
            let found = share(&ports, port);
            assert!((found - wanted).abs() < 0.035, "{policy:?}: {port} has {found} instead of {wanted}");
        }
    }
}

#[test]
fn the_order_of_hosts_does_not_matter() {
    for policy in both() {
        let there = ports(policy, &[(1, 1), (2, 3), (3, 2)], 5_000);
        let back = ports(policy, &[(3, 2), (2, 3), (1, 1)], 5_000);
        let moved = there.iter().zip(&back).filter(|(a, b)| a != b).count();
        // A ring's fractions of points go to whoever comes first.
        assert!(moved < 50, "{policy:?}: {moved}");
    }
}

#[test]
fn a_host_that_leaves_moves_its_own_keys_and_few_others() {
    const HOSTS: u16 = 10;
    let all: Vec<(u16, u32)> = (1..=HOSTS).map(|port| (port, 1)).collect();
    // On a ring the others get more points each, so that it keeps its size.
    for (policy, others) in [(ring(1024), 0.08), (maglev(65_537), 0.05)] {
        let before = ports(policy, &all, 20_000);
        let after = ports(policy, &all[1..], 20_000);
        let gone = share(&before, 1);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64;
        assert!((0.07..0.13).contains(&gone), "{policy:?}: the host had {gone}");
        assert!(moved - gone <= others, "{policy:?}: {moved} moved where {gone} had to");
        assert!(after.iter().all(|port| *port != 1));
    }
}

#[test]
fn a_second_attempt_may_find_somebody_else() {
    for policy in both() {
        let table = table(policy, &[(1, 1), (2, 1), (3, 1)]);
        let differs = |key: u64| {
            let hash = xx_hash64(&key.to_le_bytes());
            (1..4).any(|attempt| table.owner(hash, attempt) != table.owner(hash, 0))
        };
        let others = (0..1000).filter(|key| differs(*key)).count();
        assert!(others > 900, "{policy:?}: {others}");
    }
}

#[test]
fn metadata_or_the_name_may_stand_for_an_address() {
    let mut endpoint = testing::endpoint(testing::address(1, 80));
    endpoint.hostname = "one.test".into();
    let by_name = ConsistentHashing { use_hostname: true, balance_factor: None };
    assert_eq!(&*key(&endpoint, ConsistentHashing::default()), "10.0.0.1:80");
    assert_eq!(&*key(&endpoint, by_name), "one.test");
    endpoint.hash_key = "one".into();
    assert_eq!(&*key(&endpoint, by_name), "one");
    let six = testing::endpoint("[::1]:80".parse().unwrap());
    assert_eq!(&*key(&six, ConsistentHashing::default()), "[::1]:80");
}

#[test]
fn many_hosts_make_a_wide_table() {
    let hosts: Vec<(u16, u32)> = (1..=300).map(|port| (port, 1)).collect();
    let ports = ports(maglev(65_537), &hosts, 30_000);
    assert!((1..=300).all(|port| ports.contains(&port)));
}
