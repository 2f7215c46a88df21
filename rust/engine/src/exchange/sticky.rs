//! What keeps a client where it is: its hash, the share of a weighted route that the hash falls on, and the cookie
//! that it is given if it has none.
//!
//! The share is chosen when the route is ([`share`]), by the request as it came; the endpoint when one is picked
//! ([`hash`]), by the request as it goes on. Both are as in Envoy but for one thing: a client without a cookie is
//! given it before its share is chosen, so that its first request goes where all the others will.

use std::net::IpAddr;

use pymesh_http::Known;
use pymesh_model::route::{Forward, HashPolicy, SplitBy, WeightedClusters};

use super::forward::trusted_client;
use super::Exchange;
use crate::route::hash_policy::Hashed;
use crate::route::matcher::pick_weighted;

/// The hash of a request; `None` if the policies find nothing in it.
pub(super) fn hash(exchange: &mut Exchange, policies: &[HashPolicy], text: &mut Vec<u8>) -> Option<u64> {
    let Exchange { request, set_cookies, facts, http, .. } = exchange;
    let client = || -> Option<IpAddr> {
        let forwarding = &http.as_ref()?.config.forwarding;
        Some(trusted_client(&request.headers, forwarding, facts.as_ref()?.remote.ip()))
    };
    let ends = facts.as_ref().map(|facts| (facts.remote, facts.local));
    Hashed { request, client, ends, set_cookies, text }.by(policies)
}

/// The entry of a weighted route that a request takes.
pub(super) fn share(
    exchange: &mut Exchange,
    forward: &Forward,
    split: &WeightedClusters,
    chance: u64,
    text: &mut Vec<u8>,
) -> Option<usize> {
    let number = match &split.by {
        SplitBy::Chance => None,
        SplitBy::Header(name) => {
            let mut values = exchange.request.headers.get_all(name.as_bytes());
            // With several it is not clear which is meant.
            let only = values.next().filter(|_| values.next().is_none());
            only.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
        }
        SplitBy::HashPolicy => hash(exchange, &forward.hash_policy, text),
    };
    pick_weighted(&split.clusters, number.unwrap_or(chance))
}

/// Gives the client the cookies that were made for it.
pub(super) fn set_cookies(exchange: &mut Exchange) {
    for value in exchange.set_cookies.drain(..) {
        exchange.response.headers.append_known(Known::SetCookie, &value);
    }
}

#[cfg(test)]
mod tests {
    use pymesh_model::route::{HashOf, WeightedCluster};
    use pymesh_model::testing;

    use super::*;

    fn split(weights: [u32; 2], by: SplitBy) -> WeightedClusters {
        let clusters = weights.map(|weight| WeightedCluster { weight, ..testing::share("version") });
        WeightedClusters { clusters: clusters.into(), by }
    }

    /// The share of a user, whatever chance says.
    fn share_of(user: usize, split: &WeightedClusters, chance: u64) -> usize {
        let policy = HashPolicy { of: HashOf::Header("x-user".into(), None), terminal: false };
        let forward = Forward { hash_policy: vec![policy], ..testing::forward("version") };
        let mut exchange = Exchange::default();
        exchange.request.headers.append(b"x-user", user.to_string().as_bytes());
        share(&mut exchange, &forward, split, chance, &mut Vec::new()).unwrap()
    }

    #[test]
    fn a_user_stays_on_its_version() {
        let split = split([500_000, 500_000], SplitBy::HashPolicy);
        for user in 0..20 {
            let first = share_of(user, &split, 0);
            assert!((0..1000).all(|chance| share_of(user, &split, chance << 40) == first));
        }
    }

    #[test]
    fn a_change_of_weights_moves_the_needed_share_and_nobody_back() {
        const USERS: usize = 20_000;
        let at = |part: u32| {
            let split = split([1_000_000 - part, part], SplitBy::HashPolicy);
            (0..USERS).map(|user| share_of(user, &split, 0)).collect::<Vec<_>>()
        };
        let (few, many) = (at(50_000), at(200_000));
        let moved = few.iter().zip(&many).filter(|(a, b)| a != b).count();
        let back = few.iter().zip(&many).filter(|(a, b)| a > b).count();
        // 15 %, within four standard deviations.
        assert!((2_800..3_200).contains(&moved) && back == 0, "{moved} moved, {back} of them back");
    }

    #[test]
    fn a_header_may_bring_the_number() {
        let split = split([3, 7], SplitBy::Header("x-number".into()));
        let of = |values: &[&str], chance| {
            let mut exchange = Exchange::default();
            for value in values {
                exchange.request.headers.append(b"x-number", value.as_bytes());
            }
            share(&mut exchange, &testing::forward("version"), &split, chance, &mut Vec::new())
        };
        assert_eq!((of(&["2"], 5), of(&["3"], 2), of(&["12"], 5)), (Some(0), Some(1), Some(0)));
        for unclear in [&[][..], &["x"], &["-1"], &["2", "2"]] {
            assert_eq!((of(unclear, 2), of(unclear, 3)), (Some(0), Some(1)), "chance decides: {unclear:?}");
        }
    }
}
