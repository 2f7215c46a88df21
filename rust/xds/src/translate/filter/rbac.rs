//! `config.rbac.v3.RBAC`, for the HTTP filter, a route's part of it, and the network filter.

use std::sync::Arc;

use pymesh_model::chain_match::Cidr;
use pymesh_model::filter::rbac::{Permission, Policy, Principal, Rbac, Rules, RulesAction};
use pymesh_model::matcher::StringMatch;
use pymesh_model::metadata::MetadataMatch;

use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3::CidrRange;
use crate::proto::envoy::config::rbac::v3 as rbac;
use crate::proto::envoy::extensions::filters::http::rbac::v3 as http;
use crate::proto::envoy::extensions::filters::network::rbac::v3 as network;
use crate::proto::envoy::r#type::matcher::v3 as matching;
use crate::translate::common::{enumerator, prefixes};
use crate::translate::matcher;

pub(super) fn filter(config: &http::Rbac, at: &At<'_>) -> Rbac {
    Rbac {
        rules: config.rules.as_ref().map(|written| rules(written, &at.field("rules"))),
        shadow: config.shadow_rules.as_ref().map(|written| rules(written, &at.field("shadow_rules"))),
        rules_stat_prefix: config.rules_stat_prefix.as_str().into(),
        shadow_stat_prefix: config.shadow_rules_stat_prefix.as_str().into(),
        stat_prefix: Arc::default(),
    }
}

/// In place of the filter's; without rules nothing is enforced.
pub(super) fn of_route(config: &http::RbacPerRoute, at: &At<'_>) -> Rbac {
    config.rbac.as_ref().map(|own| filter(own, &at.field("rbac"))).unwrap_or_default()
}

pub(in crate::translate) fn connections(config: &network::Rbac, at: &At<'_>) -> Rbac {
    if config.enforcement_type == network::rbac::EnforcementType::Continuous as i32 {
        at.field("enforcement_type").refuse_with_hint(
            "a connection is judged once, before anything is connected to",
            "leave `enforcement_type` out",
        );
    }
    Rbac {
        rules: config.rules.as_ref().map(|written| rules(written, &at.field("rules"))),
        shadow: config.shadow_rules.as_ref().map(|written| rules(written, &at.field("shadow_rules"))),
        rules_stat_prefix: Arc::default(),
        shadow_stat_prefix: config.shadow_rules_stat_prefix.as_str().into(),
        stat_prefix: config.stat_prefix.as_str().into(),
    }
}

fn rules(config: &rbac::Rbac, at: &At<'_>) -> Rules {
    let action = match enumerator(config.action) {
        rbac::rbac::Action::Allow => RulesAction::Allow,
        rbac::rbac::Action::Deny => RulesAction::Deny,
        rbac::rbac::Action::Log => RulesAction::Log,
    };
    let at = at.field("policies");
    let mut names: Vec<&String> = config.policies.keys().collect();
    names.sort_unstable();
    let policy = |name: &String| {
        let (written, at) = (config.policies.get(name)?, at.key(name));
        let permissions = each(&written.permissions, &at.field("permissions"), permission);
        let principals = each(&written.principals, &at.field("principals"), principal);
        // What cannot be understood must not be left out of a list of which one is enough.
        (permissions.len() == written.permissions.len() && principals.len() == written.principals.len())
            .then(|| Policy { name: name.as_str().into(), refusal: Policy::refusal_by(name), permissions, principals })
    };
    Rules { action, policies: names.into_iter().filter_map(policy).collect() }
}

fn each<W, M>(written: &[W], at: &At<'_>, mut one: impl FnMut(&W, &At<'_>) -> Option<M>) -> Vec<M> {
    written.iter().enumerate().filter_map(|(index, written)| one(written, &at.index(index))).collect()
}

fn permission(written: &rbac::Permission, at: &At<'_>) -> Option<Permission> {
    use rbac::permission::Rule;
    let port = |port: u32, at: &At<'_>| match u16::try_from(port) {
        Ok(port) => Some(port),
        Err(_) => {
            at.refuse(format!("{port} is no port"));
            None
        }
    };
    Some(match written.rule.as_ref()? {
        Rule::AndRules(set) => Permission::All(each(&set.rules, &at.field("and_rules").field("rules"), permission)),
        Rule::OrRules(set) => Permission::OneOf(each(&set.rules, &at.field("or_rules").field("rules"), permission)),
        Rule::NotRule(one) => Permission::Not(Box::new(permission(one, &at.field("not_rule"))?)),
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => any_is_true(at)?,
        Rule::Header(header) => Permission::Header(matcher::header(header, &at.field("header"))?),
        Rule::UrlPath(path) => Permission::UrlPath(url_path(path, &at.field("url_path"))?),
        Rule::DestinationIp(range) => Permission::DestinationIp(network_of(range, &at.field("destination_ip"))?),
        Rule::DestinationPort(number) => Permission::DestinationPort(port(*number, &at.field("destination_port"))?),
        Rule::DestinationPortRange(range) => match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end && end <= 65536 => Permission::DestinationPorts(start, end),
            _ => {
                at.field("destination_port_range").refuse("`start` must be below `end`, and `end` at most 65536");
                return None;
            }
        },
        Rule::Metadata(metadata) => Permission::Metadata(matcher::metadata(metadata, &at.field("metadata"))?),
        Rule::SourcedMetadata(sourced) => Permission::Metadata(dynamic(sourced, &at.field("sourced_metadata"))?),
        Rule::RequestedServerName(name) => {
            Permission::RequestedServerName(matcher::string(name, &at.field("requested_server_name"))?)
        }
    })
}

fn principal(written: &rbac::Principal, at: &At<'_>) -> Option<Principal> {
    use rbac::principal::Identifier;
    Some(match written.identifier.as_ref()? {
        Identifier::AndIds(set) => Principal::All(each(&set.ids, &at.field("and_ids").field("ids"), principal)),
        Identifier::OrIds(set) => Principal::OneOf(each(&set.ids, &at.field("or_ids").field("ids"), principal)),
        Identifier::NotId(one) => Principal::Not(Box::new(principal(one, &at.field("not_id"))?)),
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => any_is_true(at)?,
        Identifier::Authenticated(who) => {
            let at = at.field("authenticated");
            let at = at.field("principal_name");
            Principal::Authenticated(match &who.principal_name {
                None => None,
                Some(name) => Some(matcher::string(name, &at)?),
            })
        }
        // Deprecated, and the same thing.
        Identifier::SourceIp(range) => Principal::DirectRemoteIp(network_of(range, &at.field("source_ip"))?),
        Identifier::DirectRemoteIp(range) => {
            Principal::DirectRemoteIp(network_of(range, &at.field("direct_remote_ip"))?)
        }
        Identifier::RemoteIp(range) => Principal::RemoteIp(network_of(range, &at.field("remote_ip"))?),
        Identifier::Header(header) => Principal::Header(matcher::header(header, &at.field("header"))?),
        Identifier::UrlPath(path) => Principal::UrlPath(url_path(path, &at.field("url_path"))?),
        Identifier::Metadata(metadata) => Principal::Metadata(matcher::metadata(metadata, &at.field("metadata"))?),
        Identifier::SourcedMetadata(sourced) => Principal::Metadata(dynamic(sourced, &at.field("sourced_metadata"))?),
    })
}

/// What filters have found out, not what a route says.
fn dynamic(written: &rbac::SourcedMetadata, at: &At<'_>) -> Option<MetadataMatch> {
    if written.metadata_source == rbac::MetadataSource::Route as i32 {
        at.field("metadata_source").refuse_with_hint(
            "the metadata of a route cannot be asked for",
            "leave it out, or give the route a policy of its own (`typed_per_filter_config`)",
        );
        return None;
    }
    let at = at.field("metadata_matcher");
    match &written.metadata_matcher {
        Some(written) => matcher::metadata(written, &at),
        None => {
            at.refuse("this must be set");
            None
        }
    }
}

fn any_is_true<M>(at: &At<'_>) -> Option<M> {
    at.field("any").refuse_with_hint("this can only be true", "leave it out");
    None
}

fn url_path(written: &matching::PathMatcher, at: &At<'_>) -> Option<StringMatch> {
    match &written.rule {
        Some(matching::path_matcher::Rule::Path(path)) => matcher::string(path, &at.field("path")),
        None => {
            at.field("path").refuse("this must be set");
            None
        }
    }
}

fn network_of(range: &CidrRange, at: &At<'_>) -> Option<Cidr> {
    // One range at a time, so that its path has no index.
    prefixes(std::slice::from_ref(range), at).pop()
}
