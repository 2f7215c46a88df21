//! What a request is for rate limits: descriptors, made of it by policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pymesh_model::filter::{LimitAction, LocalRateLimit, RateLimit, VirtualHostLimits};

use crate::exchange::Exchange;
use crate::route::matcher::{header_matches, query_matches, query_value};

/// Keys and values.
pub(super) type Descriptor = Vec<(Box<str>, Box<str>)>;

/// Those that the policies of the limit itself make, else those of the route.
pub(super) fn of(exchange: &Exchange, limit: &LocalRateLimit, node_cluster: &str) -> Vec<Descriptor> {
    let mut made = Vec::new();
    let mut add = |policies: &[RateLimit], stage: Option<u32>| {
        let wanted = policies.iter().filter(|policy| stage.is_none_or(|stage| policy.stage == stage));
        made.extend(wanted.filter_map(|policy| descriptor(exchange, policy, node_cluster)));
    };
    if !limit.policies.is_empty() {
        add(&limit.policies, None);
        return made;
    }
    let Some(routed) = &exchange.routed else { return made };
    let Some(forward) = routed.forward() else { return made };
    add(&forward.rate_limits, Some(limit.stage));
    let counts = match limit.virtual_host {
        VirtualHostLimits::Override => forward.rate_limits.is_empty(),
        VirtualHostLimits::Include => true,
        VirtualHostLimits::Ignore => false,
    };
    if let (Some(host), true) = (routed.table.virtual_hosts.get(routed.virtual_host), counts) {
        add(&host.rate_limits, Some(limit.stage));
    }
    made
}

fn descriptor(exchange: &Exchange, policy: &RateLimit, node_cluster: &str) -> Option<Descriptor> {
    let mut descriptor = Vec::with_capacity(policy.actions.len());
    for action in &policy.actions {
        descriptor.extend(entry(exchange, action, node_cluster)?);
    }
    Some(descriptor)
}

/// `None` if there is no descriptor, `Some(None)` if there is no entry.
fn entry(exchange: &Exchange, action: &LimitAction, node_cluster: &str) -> Option<Option<(Box<str>, Box<str>)>> {
    let request = &exchange.request;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned().into_boxed_str();
    let found = |key: &str, value: Option<&[u8]>, may_lack: bool| match value {
        Some(value) => Some(Some((key.into(), text(value)))),
        None => may_lack.then_some(None),
    };
    let remote = || exchange.facts.as_ref().map(|facts| facts.remote.ip().to_canonical());
    match action {
        LimitAction::SourceCluster => Some(Some(("source_cluster".into(), node_cluster.into()))),
        LimitAction::DestinationCluster => {
            let cluster = exchange.routed.as_ref().and_then(|routed| routed.cluster_name(request));
            found("destination_cluster", cluster, false)
        }
        LimitAction::ClientIdentity { key } => {
            let shown = exchange.facts.as_ref().and_then(|facts| facts.principal());
            found(key, shown.map(str::as_bytes), false)
        }
        LimitAction::RemoteAddress => Some(Some(("remote_address".into(), remote()?.to_string().into()))),
        LimitAction::MaskedRemoteAddress { v4, v6 } => {
            Some(Some(("masked_remote_address".into(), network(remote()?, *v4, *v6).into())))
        }
        LimitAction::RequestHeader { name, key, skip_if_absent } => found(key, header(exchange, name), *skip_if_absent),
        LimitAction::QueryParameter { name, key, skip_if_absent } => {
            found(key, query_value(request.path(), name.as_bytes()), *skip_if_absent)
        }
        LimitAction::GenericKey { key, value } => Some(Some((key.clone(), value.clone()))),
        LimitAction::HeaderValueMatch { key, value, expect, headers } => {
            let matches = headers.iter().all(|header| header_matches(header, request));
            (matches == *expect).then(|| Some((key.clone(), value.clone())))
        }
        LimitAction::QueryValueMatch { key, value, expect, query } => {
            let matches = query.iter().all(|query| query_matches(query, request.path()));
            (matches == *expect).then(|| Some((key.clone(), value.clone())))
        }
    }
}

fn header<'e>(exchange: &'e Exchange, name: &str) -> Option<&'e [u8]> {
    let request = &exchange.request;
    match name {
        ":method" => Some(request.method_bytes()),
        ":path" => Some(request.path()),
        ":authority" | "host" => Some(request.authority()),
        ":scheme" => Some(request.scheme.as_str().as_bytes()),
        name => request.headers.get(name.as_bytes()),
    }
}

/// As Envoy writes it: `10.0.0.0/8`.
fn network(address: IpAddr, v4: u8, v6: u8) -> String {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(v4.into())).unwrap_or(0);
            format!("{}/{v4}", Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(v6.into())).unwrap_or(0);
            format!("{}/{v6}", Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_cut_to_their_bits() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(ip("10.1.2.3"), 8, 64), "10.0.0.0/8");
        assert_eq!(network(ip("10.1.2.3"), 32, 64), "10.1.2.3/32");
        assert_eq!(network(ip("10.1.2.3"), 0, 64), "0.0.0.0/0");
        assert_eq!(network(ip("2001:db8:1:2:3::4"), 8, 48), "2001:db8:1::/48");
        assert_eq!(network(ip("2001:db8::4"), 8, 128), "2001:db8::4/128");
    }
}
