//! Which policy came closest to allowing what none of them allowed, and what it lacked.
//!
//! The closest is the one that fewest conditions kept from matching; of several that one whose permissions lack least,
//! since they are about what is asked for, and of those the first by name. A condition is told by its kind, never by
//! a value: of what a client has sent, and of what would let it in, nothing goes into a log.
//!
//! Only for a refusal: who is let in does not pay for this.

use std::collections::BTreeSet;
use std::sync::Arc;

use pymesh_model::filter::rbac::{Permission, Policy, Principal, Rules};
use pymesh_model::matcher::HeaderMatch;
use pymesh_model::metadata::MetadataMatch;

use super::{is, permits, Subject};

/// What would have to hold where there is nothing that could.
const NOTHING: &str = "nothing";

/// The detail where no policy of `rules` allows: the closest one and the conditions that it lacked,
/// `rbac_access_denied_matched_policy[none]{ns[shop]-policy[web]-rule[0]:principal,path}`.
pub(super) fn refusal(rules: &Rules, subject: &Subject<'_>) -> Arc<str> {
    let misses = rules.policies.iter().map(|policy| (policy, Miss::of(policy, subject)));
    match misses.min_by_key(|(_, miss)| (miss.lacking.len(), miss.of_permissions)) {
        None => Policy::refusal_by("none"),
        Some((policy, miss)) => Policy::refusal_by_none(&policy.name, &miss.lacking.join(",")),
    }
}

/// What keeps a policy from matching.
struct Miss {
    /// Kinds of conditions, each once.
    lacking: Vec<String>,
    /// How many of its permissions' conditions do not hold.
    of_permissions: usize,
}

impl Miss {
    fn of(policy: &Policy, subject: &Subject<'_>) -> Miss {
        let permissions = fewest(&policy.permissions, subject);
        let of_permissions = permissions.len();
        let mut lacking = fewest(&policy.principals, subject);
        lacking.extend(permissions);
        let mut seen = BTreeSet::new();
        lacking.retain(|kind| seen.insert(kind.clone()));
        Miss { lacking, of_permissions }
    }
}

/// A tree of conditions.
trait Condition: Sized {
    fn shape(&self) -> Shape<'_, Self>;
    fn holds(&self, subject: &Subject<'_>) -> bool;
}

enum Shape<'a, C> {
    All(&'a [C]),
    OneOf(&'a [C]),
    Not(&'a C),
    /// A condition of this kind.
    Single(&'static str),
    Header(&'a HeaderMatch),
    Metadata(&'a MetadataMatch),
}

/// What is lacking where one of several is enough. Long lists are not told to their end: whoever is refused must not be
/// able to make that dear.
fn fewest<C: Condition>(some: &[C], subject: &Subject<'_>) -> Vec<String> {
    if some.iter().any(|one| one.holds(subject)) {
        return Vec::new();
    }
    let mut fewest: Option<Vec<String>> = None;
    for one in some {
        let lacking = lacks(one, subject);
        let is_least = lacking.len() <= 1;
        if fewest.as_ref().is_none_or(|known| lacking.len() < known.len()) {
            fewest = Some(lacking);
        }
        if is_least {
            break;
        }
    }
    fewest.unwrap_or_else(|| vec![NOTHING.to_owned()])
}

fn lacks<C: Condition>(condition: &C, subject: &Subject<'_>) -> Vec<String> {
    if condition.holds(subject) {
        return Vec::new();
    }
    match condition.shape() {
        Shape::All(all) => all.iter().flat_map(|one| lacks(one, subject)).collect(),
        Shape::OneOf(some) => fewest(some, subject),
        Shape::Not(one) => vec![format!("not_{}", kind(one))],
        Shape::Single(_) | Shape::Header(_) | Shape::Metadata(_) => vec![kind(condition)],
    }
}

/// What a condition is about; for a tree, its first.
fn kind<C: Condition>(condition: &C) -> String {
    match condition.shape() {
        Shape::All(some) | Shape::OneOf(some) => some.first().map_or_else(|| NOTHING.to_owned(), kind),
        Shape::Not(one) => format!("not_{}", kind(one)),
        Shape::Single(kind) => kind.to_owned(),
        Shape::Header(header) => match &*header.name {
            ":method" => "method".to_owned(),
            ":authority" | "host" => "host".to_owned(),
            ":path" => "path".to_owned(),
            name => format!("header[{name}]"),
        },
        // Filters that check tokens put the claims below a key of their own.
        Shape::Metadata(wanted) => match (&*wanted.filter, wanted.path.as_slice()) {
            ("envoy.filters.http.jwt_authn", [_, claim @ ..]) => format!("claim[{}]", claim.join(".")),
            (filter, _) => format!("metadata[{filter}]"),
        },
    }
}

impl Condition for Permission {
    fn shape(&self) -> Shape<'_, Self> {
        match self {
            Permission::All(all) => Shape::All(all),
            Permission::OneOf(some) => Shape::OneOf(some),
            Permission::Not(one) => Shape::Not(one),
            Permission::Any => Shape::Single("any"),
            Permission::Header(header) => Shape::Header(header),
            Permission::UrlPath(_) => Shape::Single("path"),
            Permission::DestinationIp(_) => Shape::Single("destination_ip"),
            Permission::DestinationPort(_) | Permission::DestinationPorts(..) => Shape::Single("destination_port"),
            Permission::RequestedServerName(_) => Shape::Single("server_name"),
            Permission::Metadata(wanted) => Shape::Metadata(wanted),
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        permits(self, subject)
    }
}

impl Condition for Principal {
    fn shape(&self) -> Shape<'_, Self> {
        match self {
            Principal::All(all) => Shape::All(all),
            Principal::OneOf(some) => Shape::OneOf(some),
            Principal::Not(one) => Shape::Not(one),
            Principal::Any => Shape::Single("any"),
            Principal::Authenticated(_) => Shape::Single("principal"),
            Principal::DirectRemoteIp(_) => Shape::Single("source_ip"),
            Principal::RemoteIp(_) => Shape::Single("remote_ip"),
            Principal::Header(header) => Shape::Header(header),
            Principal::UrlPath(_) => Shape::Single("path"),
            Principal::Metadata(wanted) => Shape::Metadata(wanted),
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        is(self, subject)
    }
}
