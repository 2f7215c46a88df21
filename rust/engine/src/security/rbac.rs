//! Whether policies let a request or a connection pass ([`pymesh_model::filter::rbac`]).

mod closest;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pymesh_http::RequestHead;
use pymesh_model::filter::rbac::{Permission, Policy, Principal, Rules, RulesAction};
use pymesh_model::http::Forwarding;
use pymesh_model::metadata::{Metadata, Struct, Value};

use crate::decisions::Decision;
use crate::exchange::forward;
use crate::route::matcher::{header_matches, path_of};
use crate::telemetry::Facts;

/// What policies look at.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub facts: &'a Facts,
    /// `None` for a connection of which nothing more is known: what asks for a header or a path does not match.
    pub request: Option<&'a RequestHead>,
    /// How far what a request says of its way is believed.
    pub forwarding: Option<&'a Forwarding>,
    /// The address that the client wanted to reach.
    pub destination: SocketAddr,
    /// What filters before have found out.
    pub metadata: &'a Metadata,
}

impl<'a> Subject<'a> {
    /// A connection whose transport is ready.
    pub fn connection(facts: &'a Facts, destination: SocketAddr) -> Subject<'a> {
        Subject { facts, request: None, forwarding: None, destination, metadata: &facts.metadata }
    }

    /// The client, as far as proxies in front are believed.
    fn remote(&self) -> IpAddr {
        match (self.request, self.forwarding) {
            (Some(request), Some(how)) => forward::trusted_client(&request.headers, how, self.facts.remote.ip()),
            _ => self.facts.remote.ip(),
        }
    }
}

/// What rules say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict<'r> {
    pub allowed: bool,
    /// The first policy that matches.
    pub policy: Option<&'r Policy>,
}

/// Judges a subject.
pub(crate) fn judge<'r>(rules: &'r Rules, subject: &Subject<'_>) -> Verdict<'r> {
    let policy = rules.policies.iter().find(|policy| matches(policy, subject));
    let allowed = match rules.action {
        RulesAction::Allow => policy.is_some(),
        RulesAction::Deny => policy.is_none(),
        RulesAction::Log => true,
    };
    Verdict { allowed, policy }
}

impl Verdict<'_> {
    /// What others are told of rules that only look on, as Envoy names it; `prefix` is `shadow_rules_stat_prefix`.
    pub fn metadata(&self, prefix: &str) -> Struct {
        let result = Value::from(if self.allowed { "allowed" } else { "denied" });
        let id = self
            .policy
            .map(|policy| (format!("{prefix}shadow_effective_policy_id").into(), Value::String(policy.name.clone())));
        id.into_iter().chain([(format!("{prefix}shadow_engine_result").into(), result)]).collect()
    }

    /// As it is told to whoever wants to know.
    pub fn decision(&self, filter: &str, is_enforced: bool) -> Decision {
        let policy = self.policy.map(|policy| policy.name.clone());
        Decision::Access { filter: filter.into(), is_enforced, allowed: self.allowed, policy }
    }

    /// The detail of a refusal: the policy that refuses, or the one that came closest to allowing.
    pub fn refusal(&self, rules: &Rules, subject: &Subject<'_>) -> Arc<str> {
        match self.policy {
            Some(policy) => policy.refusal.clone(),
            None => closest::refusal(rules, subject),
        }
    }
}

fn matches(policy: &Policy, subject: &Subject<'_>) -> bool {
    policy.permissions.iter().any(|permission| permits(permission, subject))
        && policy.principals.iter().any(|principal| is(principal, subject))
}

fn permits(permission: &Permission, subject: &Subject<'_>) -> bool {
    match permission {
        Permission::All(all) => all.iter().all(|one| permits(one, subject)),
        Permission::OneOf(some) => some.iter().any(|one| permits(one, subject)),
        Permission::Not(one) => !permits(one, subject),
        Permission::Any => true,
        Permission::Header(header) => subject.request.is_some_and(|request| header_matches(header, request)),
        Permission::UrlPath(path) => subject.request.is_some_and(|request| path.matches(path_of(request.path()))),
        Permission::DestinationIp(network) => network.contains(subject.destination.ip()),
        Permission::DestinationPort(port) => subject.destination.port() == *port,
        Permission::DestinationPorts(from, to) => (*from..*to).contains(&subject.destination.port().into()),
        Permission::RequestedServerName(name) => {
            name.matches(subject.facts.server_name.as_deref().unwrap_or_default().as_bytes())
        }
        Permission::Metadata(metadata) => metadata.matches(subject.metadata),
    }
}

fn is(principal: &Principal, subject: &Subject<'_>) -> bool {
    match principal {
        Principal::All(all) => all.iter().all(|one| is(one, subject)),
        Principal::OneOf(some) => some.iter().any(|one| is(one, subject)),
        Principal::Not(one) => !is(one, subject),
        Principal::Any => true,
        Principal::Authenticated(name) => subject.facts.peer.as_ref().is_some_and(|peer| {
            name.as_ref().is_none_or(|name| {
                let names = peer.sans.uri.iter().chain(&peer.sans.dns).map(String::as_str);
                names.chain([peer.subject.as_str()]).any(|one| name.matches(one.as_bytes()))
            })
        }),
        Principal::DirectRemoteIp(network) => network.contains(subject.facts.direct_remote.ip()),
        Principal::RemoteIp(network) => network.contains(subject.remote()),
        Principal::Header(header) => subject.request.is_some_and(|request| header_matches(header, request)),
        Principal::UrlPath(path) => subject.request.is_some_and(|request| path.matches(path_of(request.path()))),
        Principal::Metadata(metadata) => metadata.matches(subject.metadata),
    }
}

#[cfg(test)]
mod tests;
