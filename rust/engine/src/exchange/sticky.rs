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
