//! Load balancing policies that hash: RING_HASH and MAGLEV.

use pymesh_model::balance::{ConsistentHashing, HashFunction, LbPolicy as Policy, Maglev, RingHash};

use super::common::enumerator;
use crate::diagnostic::At;
use crate::proto::envoy::config::cluster::v3 as cluster;
use cluster::cluster::{
    ring_hash_lb_config, ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
};

/// Envoy's defaults.
const MINIMUM_RING_SIZE: u64 = 1024;
const MAXIMUM_RING_SIZE: u64 = 8 << 20;
const TABLE_SIZE: u64 = 65_537;

/// The policy of a cluster, if it is one of the two. Their settings are refused for others.
pub(super) fn settings(config: &cluster::Cluster, policy: LbPolicy, at: &At<'_>) -> Option<Policy> {
    let common = config.common_lb_config.as_ref().and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let hashing = common.map_or_else(ConsistentHashing::default, |common| ConsistentHashing {
        use_hostname: common.use_hostname_for_hashing,
        balance_factor: common.hash_balance_factor.filter(|factor| *factor > 0),
    });
    let is_named = config.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    if hashing.use_hostname && !is_named {
        at.field("common_lb_config")
            .field("consistent_hashing_lb_config")
            .field("use_hostname_for_hashing")
            .refuse_with_hint(
                "only endpoints of a cluster of type STRICT_DNS are known by name",
                "set `hash_key` in `envoy.lb` metadata of each endpoint",
            );
    }
    let misplaced = |name: &str, at: &At<'_>, wanted: &str| {
        at.field(name)
            .refuse_with_hint(format!("this belongs to `lb_policy: {wanted}`"), "set that, or leave this out");
    };
    match &config.lb_config {
        Some(LbConfig::RingHashLbConfig(_)) if policy != LbPolicy::RingHash => {
            misplaced("ring_hash_lb_config", at, "RING_HASH");
        }
        Some(LbConfig::MaglevLbConfig(_)) if policy != LbPolicy::Maglev => {
            misplaced("maglev_lb_config", at, "MAGLEV");
        }
        _ => {}
    }
    match (policy, &config.lb_config) {
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(ring))) => {
            Some(ring_hash(ring, hashing, &at.field("ring_hash_lb_config")))
        }
        (LbPolicy::RingHash, _) => Some(ring_hash(&RingHashLbConfig::default(), hashing, at)),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(table))) => {
            Some(maglev(table, hashing, &at.field("maglev_lb_config")))
        }
        (LbPolicy::Maglev, _) => Some(maglev(&MaglevLbConfig::default(), hashing, at)),
        _ => {
            if common.is_some() {
                misplaced("consistent_hashing_lb_config", &at.field("common_lb_config"), "RING_HASH` or `MAGLEV");
            }
            None
        }
    }
}

fn ring_hash(ring: &RingHashLbConfig, hashing: ConsistentHashing, at: &At<'_>) -> Policy {
    let minimum_size = ring.minimum_ring_size.unwrap_or(MINIMUM_RING_SIZE);
    let maximum_size = ring.maximum_ring_size.unwrap_or(MAXIMUM_RING_SIZE);
    if minimum_size > maximum_size {
        at.field("minimum_ring_size").refuse(format!("{minimum_size} is above `maximum_ring_size` ({maximum_size})"));
    }
    let function = match enumerator(ring.hash_function) {
        ring_hash_lb_config::HashFunction::XxHash => HashFunction::XxHash,
        ring_hash_lb_config::HashFunction::MurmurHash2 => HashFunction::MurmurHash2,
    };
    Policy::RingHash(RingHash { minimum_size, maximum_size, function, hashing })
}

fn maglev(table: &MaglevLbConfig, hashing: ConsistentHashing, at: &At<'_>) -> Policy {
    let table_size = table.table_size.unwrap_or(TABLE_SIZE);
    if !is_prime(table_size) {
        at.field("table_size").refuse_with_hint(
            format!("{table_size} is not a prime number"),
            "write 65537, or a larger prime for more than some hundred endpoints",
        );
    }
    Policy::Maglev(Maglev { table_size, hashing })
}

/// Numbers here are below some millions.
fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;

    #[test]
    fn primes() {
        let primes: Vec<u64> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(5_000_011) && !is_prime(65_536));
    }

    #[test]
    fn what_is_not_said_is_as_in_envoy() {
        let hashing = ConsistentHashing::default();
        let ring = RingHash { minimum_size: 1024, maximum_size: 8 << 20, function: HashFunction::XxHash, hashing };
        let full = ConsistentHashing { use_hostname: true, balance_factor: Some(150) };
        let common =
            "common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true, hash_balance_factor: 150}}";
        for (rest, expected) in [
            ("lb_policy: RING_HASH".to_owned(), Policy::RingHash(ring)),
            (
                "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 7, hash_function: MURMUR_HASH_2}"
                    .into(),
                Policy::RingHash(RingHash { minimum_size: 7, function: HashFunction::MurmurHash2, ..ring }),
            ),
            ("lb_policy: MAGLEV".into(), Policy::Maglev(Maglev { table_size: 65_537, hashing })),
            (
                format!("type: STRICT_DNS, lb_policy: MAGLEV, maglev_lb_config: {{table_size: 11}}, {common}"),
                Policy::Maglev(Maglev { table_size: 11, hashing: full }),
            ),
        ] {
            let (cluster, problems) = translated(&format!("{{name: a, {rest}}}"));
            assert_eq!((cluster.balance.policy, problems), (expected, vec![]), "{rest}");
        }
    }

    #[test]
    fn settings_that_have_no_effect_are_refused() {
        for (rest, said) in [
            ("ring_hash_lb_config: {}", "ring_hash_lb_config: this belongs to `lb_policy: RING_HASH`"),
            ("lb_policy: RING_HASH, maglev_lb_config: {}", "maglev_lb_config: this belongs to `lb_policy: MAGLEV`"),
            (
                "common_lb_config: {consistent_hashing_lb_config: {}}",
                "common_lb_config.consistent_hashing_lb_config: this belongs to `lb_policy: RING_HASH` or `MAGLEV`",
            ),
            (
                "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}",
                "ring_hash_lb_config.minimum_ring_size: 9 is above `maximum_ring_size` (8)",
            ),
            (
                "lb_policy: MAGLEV, common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}",
                "common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing: \
                 only endpoints of a cluster of type STRICT_DNS are known by name",
            ),
            (
                "lb_policy: MAGLEV, maglev_lb_config: {table_size: 65536}",
                "maglev_lb_config.table_size: 65536 is not a prime number",
            ),
        ] {
            assert_eq!(translated(&format!("{{name: a, {rest}}}")).1, [said], "{rest}");
        }
    }
}
