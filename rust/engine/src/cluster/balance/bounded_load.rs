//! Consistent hashing with bounded loads (`hash_balance_factor`, arXiv 1608.01350 and 1908.08762): a host that has
//! more than its share of the requests in flight passes one on, to a host that the same hash always finds.

use rand_mt::Mt;

/// How full a member is: above 1 it has more than it may.
///
/// `active` requests of the member, `all` of the cluster, and its part of the whole `weight`.
pub(super) fn fill(active: u32, all: u32, factor: u32, weight: f64) -> f64 {
    let slots = (u64::from(all) + 1).saturating_mul(u64::from(factor)).saturating_add(99) / 100;
    let own = (slots as f64 * weight).ceil().max(1.0);
    f64::from(active) / own
}

/// The member that takes a request of `chosen`: itself unless it is full, else the first with room in an order that
/// follows from the hash, else the least full.
pub(super) fn choose(chosen: u32, hash: u64, members: u32, fill: impl Fn(u32) -> f64) -> u32 {
    let mut best = (chosen, fill(chosen));
    if best.1 <= 1.0 {
        return chosen;
    }
    // As Envoy shuffles, number for number: `std::mt19937` takes the lower half of its seed.
    let mut random = Mt::new(hash as u32);
    let mut below = |bound: u32| loop {
        let step = (1u64 << 32) / u64::from(bound.max(1));
        let number = u64::from(random.next_u32()) / step.max(1);
        if let Ok(number) = u32::try_from(number) {
            if number < bound {
                return number;
            }
        }
    };
    let mut order: Vec<u32> = (0..members).collect();
    for at in 0..members {
        let other = at + below(members - at);
        order.swap(at as usize, other as usize);
        let Some(candidate) = order.get(at as usize).copied().filter(|candidate| *candidate != chosen) else {
            continue;
        };
        let candidate = (candidate, fill(candidate));
        if candidate.1 <= 1.0 {
            return candidate.0;
        }
        if candidate.1 < best.1 {
            best = candidate;
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_as_in_the_formula() {
        // (9 + 1) * 150 % = 15 slots, a third of which are 5.
        assert_eq!(fill(5, 9, 150, 1.0 / 3.0), 1.0);
        assert!(fill(6, 9, 150, 1.0 / 3.0) > 1.0);
        // Everybody has one, or nothing could begin.
        assert_eq!(fill(1, 0, 100, 0.001), 1.0);
    }

    #[test]
    fn a_full_member_passes_on_to_the_same_others_for_the_same_hash() {
        let full = [0, 3];
        let fill = |member: u32| if full.contains(&member) { 2.0 } else { 0.5 };
        let found: Vec<u32> = (0..100).map(|hash| choose(0, hash, 5, fill)).collect();
        assert_eq!(found, (0..100).map(|hash| choose(0, hash, 5, fill)).collect::<Vec<_>>());
        assert!(found.iter().all(|member| !full.contains(member)));
        assert!([1, 2, 4].iter().all(|member| found.contains(member)), "spread over those with room: {found:?}");
        assert_eq!(choose(1, 7, 5, fill), 1, "who has room keeps its own");
    }

    #[test]
    fn if_all_are_full_the_least_full_takes_it() {
        let fills = [3.0, 2.5, 1.5, 4.0];
        assert_eq!(choose(0, 99, 4, |member| fills[member as usize]), 2);
    }
}
