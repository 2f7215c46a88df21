//! Listener filters, and which connections they leave alone.

use prost::Name as _;
use pymesh_model::listener::{Capture, ListenerFilter, ListenerFilterKind, Predicate, ProxyProtocol};

use super::common::open;
use crate::diagnostic::At;
use crate::proto;
use crate::proto::envoy::config::{core::v3 as core, listener::v3 as listener};
use crate::proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use crate::proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use crate::proto::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy;
use crate::proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use core::proxy_protocol_config::Version as ProxyProtocolVersion;
use listener::listener_filter_chain_match_predicate::Rule;

/// The filters in their order. That which restores original destinations is none of them: the driver asks the kernel
/// when it accepts, and that is `capture`.
pub(super) fn listener_filters(config: &listener::Listener, capture: &mut Capture, at: &At<'_>) -> Vec<ListenerFilter> {
    let mut filters = Vec::with_capacity(config.listener_filters.len());
    for (index, filter) in config.listener_filters.iter().enumerate() {
        let at = &at.index(index);
        if is_original_dst(filter) {
            capture.restore = true;
            if filter.filter_disabled.is_some() {
                at.field("filter_disabled").refuse_with_hint(
                    "original destinations are restored for every connection, or for none",
                    "leave it out",
                );
            }
            continue;
        }
        let disabled = filter.filter_disabled.as_ref();
        let disabled = disabled.and_then(|rule| predicate(rule, &at.field("filter_disabled"), 0));
        filters.extend(kind(filter, &at.field("typed_config")).map(|kind| ListenerFilter { kind, disabled }));
    }
    filters
}

fn is_original_dst(filter: &listener::ListenerFilter) -> bool {
    let Some(listener::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { return false };
    proto::type_name(&any.type_url) == OriginalDst::full_name()
}

fn kind(filter: &listener::ListenerFilter, at: &At<'_>) -> Option<ListenerFilterKind> {
    let config = filter.config_type.as_ref().map(|listener::listener_filter::ConfigType::TypedConfig(any)| any);
    let opened = open(config, at)?;
    if opened.is::<TlsInspector>() {
        Some(ListenerFilterKind::TlsInspector)
    } else if opened.is::<HttpInspector>() {
        Some(ListenerFilterKind::HttpInspector)
    } else if opened.is::<proxy::ProxyProtocol>() {
        let config: proxy::ProxyProtocol = opened.decode(at)?;
        Some(ListenerFilterKind::ProxyProtocol(proxy_protocol(&config)))
    } else {
        let supported = [
            TlsInspector::full_name(),
            HttpInspector::full_name(),
            OriginalDst::full_name(),
            proxy::ProxyProtocol::full_name(),
        ];
        opened.refuse(&supported, at);
        None
    }
}

fn proxy_protocol(config: &proxy::ProxyProtocol) -> ProxyProtocol {
    let allows = |version: ProxyProtocolVersion| !config.disallowed_versions.contains(&(version as i32));
    ProxyProtocol {
        is_optional: config.allow_requests_without_proxy_protocol,
        allows_v1: allows(ProxyProtocolVersion::V1),
        allows_v2: allows(ProxyProtocolVersion::V2),
    }
}

/// Predicates within predicates beyond this are refused.
const MAX_DEPTH: usize = 32;

fn predicate(config: &listener::ListenerFilterChainMatchPredicate, at: &At<'_>, depth: usize) -> Option<Predicate> {
    if depth > MAX_DEPTH {
        at.refuse(format!("predicates are nested more than {MAX_DEPTH} levels deep"));
        return None;
    }
    let all = |set: &listener::listener_filter_chain_match_predicate::MatchSet, at: At<'_>| {
        let rules_at = at.field("rules");
        let rules = set.rules.iter().enumerate();
        rules.map(|(index, rule)| predicate(rule, &rules_at.index(index), depth + 1)).collect::<Option<Vec<_>>>()
    };
    match config.rule.as_ref()? {
        Rule::OrMatch(set) => all(set, at.field("or_match")).map(Predicate::Or),
        Rule::AndMatch(set) => all(set, at.field("and_match")).map(Predicate::And),
        Rule::NotMatch(other) => {
            let other = predicate(other, &at.field("not_match"), depth + 1)?;
            Some(Predicate::Not(Box::new(other)))
        }
        Rule::AnyMatch(true) => Some(Predicate::Any),
        Rule::AnyMatch(false) => {
            at.field("any_match").refuse("this must be true");
            None
        }
        Rule::DestinationPortRange(range) => match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end => Some(Predicate::DestinationPort(start..end)),
            _ => {
                at.field("destination_port_range").refuse_with_hint(
                    format!("no port is from {} up to and not including {}", range.start, range.end),
                    "`end` is one more than the last port that is meant",
                );
                None
            }
        },
    }
}
