//! Who may do what (`envoy.config.rbac.v3`, and the HTTP and network filters that enforce it).
//!
//! Rules have an action and policies by name. A policy matches a request if one of its principals (who asks) and one of
//! its permissions (what for) do. `ALLOW` refuses what no policy matches, `DENY` what one does, `LOG` nothing.
//!
//! What is said of a refusal is made with the policy. Only where no policy allowed somebody there is more to say, the
//! policy that came closest, and that is found out when it is asked for.

use std::sync::Arc;

use crate::chain_match::Cidr;
use crate::matcher::{HeaderMatch, StringMatch};
use crate::metadata::MetadataMatch;

/// The filter: rules that are enforced, and rules that are only counted.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    /// `rules`; `None` enforces nothing.
    pub rules: Option<Rules>,
    /// `shadow_rules`.
    pub shadow: Option<Rules>,
    /// `rules_stat_prefix`, before the names of its counters.
    pub rules_stat_prefix: Arc<str>,
    /// `shadow_rules_stat_prefix`.
    pub shadow_stat_prefix: Arc<str>,
    /// `stat_prefix` of the network filter.
    pub stat_prefix: Arc<str>,
}

/// `RBAC`.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a match means.
    pub action: RulesAction,
    /// In order of their names; the first that matches is the one that counts.
    pub policies: Vec<Policy>,
}

/// `RBAC.Action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RulesAction {
    Allow,
    Deny,
    Log,
}

/// `Policy`.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its key in the map of policies.
    pub name: Arc<str>,
    /// The response code detail of a request that it refuses.
    pub refusal: Arc<str>,
    /// One of them must match.
    pub permissions: Vec<Permission>,
    /// One of them must match.
    pub principals: Vec<Principal>,
}

impl Policy {
    /// The detail of a refusal by a policy of this name, `none` if there is none that matches.
    pub fn refusal_by(name: &str) -> Arc<str> {
        one_word(&format!("rbac_access_denied_matched_policy[{name}]"))
    }

    /// The detail of a refusal because no policy matched: the `closest` one, and the conditions that it was `lacking`.
    ///
    /// Envoy's ends before the brace.
    pub fn refusal_by_none(closest: &str, lacking: &str) -> Arc<str> {
        one_word(&format!("rbac_access_denied_matched_policy[none]{{{closest}:{lacking}}}"))
    }
}

/// Details are one word.
fn one_word(text: &str) -> Arc<str> {
    text.replace(char::is_whitespace, "_").into()
}

/// What is asked for.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Permission {
    All(Vec<Permission>),
    OneOf(Vec<Permission>),
    Not(Box<Permission>),
    Any,
    Header(HeaderMatch),
    /// The path without its query.
    UrlPath(StringMatch),
    /// The address that the client connected to, or wanted to reach.
    DestinationIp(Cidr),
    DestinationPort(u16),
    /// From the first to below the second.
    DestinationPorts(u32, u32),
    /// SNI; empty without.
    RequestedServerName(StringMatch),
    /// What filters before have found out.
    Metadata(MetadataMatch),
}

/// Who asks.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Principal {
    All(Vec<Principal>),
    OneOf(Vec<Principal>),
    Not(Box<Principal>),
    Any,
    /// By certificate: one of its URIs, one of its DNS names, or its subject matches. `None`: whoever has shown one.
    Authenticated(Option<StringMatch>),
    /// The peer of the socket.
    DirectRemoteIp(Cidr),
    /// The client, as far as proxies in front are believed.
    RemoteIp(Cidr),
    Header(HeaderMatch),
    UrlPath(StringMatch),
    /// What filters before have found out.
    Metadata(MetadataMatch),
}
