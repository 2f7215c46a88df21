//! Which virtual host and which route a request takes.

use std::sync::Arc;

use pymesh_http::{Known, Method, RequestHead, ResponseHead};
use pymesh_model::matcher::{HeaderMatch, HeaderTest, QueryMatch};
use pymesh_model::metadata::Metadata;
use pymesh_model::route::{PathMatch, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster};

use super::path::split_port;

/// Where a route stands in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub virtual_host: usize,
    pub route: usize,
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unrouted {
    #[default]
    NoRoute,
    /// Its virtual host wants TLS (`require_tls`), which is asked before any route is.
    RequiresTls,
}

/// The first matching route of the best matching virtual host.
pub(crate) fn find(
    table: &RouteTable,
    request: &RequestHead,
    metadata: &Metadata,
    random: u64,
) -> Result<Found, Unrouted> {
    let virtual_host = find_virtual_host(table, request.authority()).ok_or(Unrouted::NoRoute)?;
    let host = table.virtual_hosts.get(virtual_host).ok_or(Unrouted::NoRoute)?;
    // As whoever ended TLS says: us, or a proxy in front that is trusted.
    if host.require_tls && request.headers.get_known(Known::XForwardedProto) != Some(b"https") {
        return Err(Unrouted::RequiresTls);
    }
    let routes = &host.routes;
    let fits = |route: &Arc<Route>| {
        matches(route, request, random) && route.matches.metadata.iter().all(|wanted| wanted.matches(metadata))
    };
    let route = match table.index().routes.get(virtual_host) {
        Some(Some(index)) => index.first(path_of(request.path()), |at| routes.get(at).is_some_and(fits)),
        _ => routes.iter().position(fits),
    };
    route.map(|route| Found { virtual_host, route }).ok_or(Unrouted::NoRoute)
}

/// Envoy's order: exact name, longest suffix wildcard, longest prefix
/// wildcard, `*`. Case is ignored.
fn find_virtual_host(table: &RouteTable, authority: &[u8]) -> Option<usize> {
    let host = match split_port(authority) {
        Some((at, _)) if table.ignore_port => authority.get(..at).unwrap_or(authority),
        _ => authority,
    };
    let score = |virtual_host: &VirtualHost| {
        virtual_host.domains.iter().filter_map(|domain| domain_score(domain.as_bytes(), host)).max()
    };
    if let Some(index) = &table.index().hosts {
        return index.find(host, |at| table.virtual_hosts.get(at).and_then(score));
    }
    let mut best: Option<(usize, (u8, usize))> = None;
    for (at, virtual_host) in table.virtual_hosts.iter().enumerate() {
        if let Some(score) = score(virtual_host) {
            if best.is_none_or(|(_, most)| score > most) {
                best = Some((at, score));
            }
        }
    }
    best.map(|(at, _)| at)
}

/// How well a domain matches: kind first, then length.
fn domain_score(domain: &[u8], host: &[u8]) -> Option<(u8, usize)> {
    let fits = |part: Option<&[u8]>, pattern: &[u8]| part.is_some_and(|part| part.eq_ignore_ascii_case(pattern));
    match domain {
        b"*" => Some((0, 0)),
        [b'*', suffix @ ..] => {
            // The wildcard stands for at least one character.
            let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0)?;
            fits(host.get(start..), suffix).then_some((2, suffix.len()))
        }
        [prefix @ .., b'*'] => {
            (host.len() > prefix.len() && fits(host.get(..prefix.len()), prefix)).then_some((1, prefix.len()))
        }
        _ => host.eq_ignore_ascii_case(domain).then_some((3, domain.len())),
    }
}

fn matches(route: &Route, request: &RequestHead, random: u64) -> bool {
    rule_matches(&route.matches, request, random)
}

/// Whether a request is one that a rule means.
pub(crate) fn rule_matches(rule: &RouteMatch, request: &RequestHead, random: u64) -> bool {
    let target = request.path();
    let path = path_of(target);
    let path_fits = match &rule.path {
        PathMatch::Connect => request.method == Method::Connect,
        // CONNECT has none.
        _ if path.is_empty() => false,
        PathMatch::Prefix(prefix) => starts_with(path, prefix.as_bytes(), rule.case_sensitive),
        PathMatch::Exact(exact) => equals(path, exact.as_bytes(), rule.case_sensitive),
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::SeparatedPrefix(prefix) => {
            starts_with(path, prefix.as_bytes(), rule.case_sensitive)
                && matches!(path.get(prefix.len()), None | Some(b'/'))
        }
    };
    path_fits
        && (!rule.grpc || is_grpc(request))
        && rule.fraction.is_none_or(|millionths| random % 1_000_000 < u64::from(millionths))
        && rule.headers.iter().all(|header| header_matches(header, request))
        && rule.query.iter().all(|query| query_matches(query, target))
}

/// The target without its query.
pub(crate) fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    target.get(..end).unwrap_or(target)
}

fn equals(value: &[u8], pattern: &[u8], case_sensitive: bool) -> bool {
    if case_sensitive {
        value == pattern
    } else {
        value.eq_ignore_ascii_case(pattern)
    }
}

fn starts_with(value: &[u8], pattern: &[u8], case_sensitive: bool) -> bool {
    value.get(..pattern.len()).is_some_and(|head| equals(head, pattern, case_sensitive))
}

pub(crate) fn is_grpc(request: &RequestHead) -> bool {
    let content_type = request.headers.get_known(Known::ContentType).unwrap_or_default();
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+')),
        None => false,
    }
}

/// `HeaderMatcher` semantics: of several fields of a name one has to match, so that no rule
/// is evaded by a second field; inverted, none may. A rule about the value of a missing header
/// does not match, and inverting it changes nothing; `missing_as_empty` is for those who want that.
pub(crate) fn header_matches(rule: &HeaderMatch, request: &RequestHead) -> bool {
    values_match(rule, request_values(&rule.name, request))
}

/// The same of a response, whose only pseudo-header is `:status`.
pub(crate) fn response_header_matches(rule: &HeaderMatch, response: &ResponseHead) -> bool {
    let status = response.status;
    let digits = [status / 100, status / 10, status].map(|n| b'0' + (n % 10) as u8);
    let pseudo = (&*rule.name == ":status").then_some(&digits[..]);
    values_match(rule, pseudo.into_iter().chain(response.headers.get_all(rule.name.as_bytes())))
}

fn values_match<'a>(rule: &HeaderMatch, values: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut values = values.peekable();
    if let HeaderTest::Present(wanted) = &rule.test {
        let is_present = rule.missing_as_empty || values.peek().is_some();
        return (is_present == *wanted) != rule.invert;
    }
    let found = match values.peek() {
        Some(_) => values.any(|value| value_matches(&rule.test, value)),
        None if rule.missing_as_empty => value_matches(&rule.test, b""),
        None => return false,
    };
    found != rule.invert
}

fn value_matches(test: &HeaderTest, value: &[u8]) -> bool {
    match test {
        HeaderTest::Present(wanted) => *wanted,
        HeaderTest::Value(string) => string.matches(value),
        HeaderTest::Range(start, end) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok())
            .is_some_and(|n| n >= *start && n < *end),
    }
}

pub(crate) fn request_values<'a>(name: &'a str, request: &'a RequestHead) -> impl Iterator<Item = &'a [u8]> {
    let pseudo = match name {
        ":method" => Some(request.method_bytes()),
        ":path" => Some(request.path()),
        ":authority" | "host" => Some(request.authority()),
        ":scheme" => Some(request.scheme.as_str().as_bytes()),
        _ => None,
    };
    // No field of a parsed head has the name of a pseudo-header, or `host`.
    pseudo.into_iter().chain(request.headers.get_all(name.as_bytes()))
}

pub(crate) fn query_matches(rule: &QueryMatch, target: &[u8]) -> bool {
    let value = query_value(target, rule.name.as_bytes());
    match (&rule.value, value) {
        (None, value) => value.is_some() == rule.present,
        (Some(string), Some(value)) => string.matches(value),
        (Some(_), None) => false,
    }
}

/// The first value of a query parameter, as it stands there.
pub(crate) fn query_value<'a>(target: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query_parameters(target).map(name_and_value).find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// What stands between the `&` of a query; nothing where there is no query.
pub(crate) fn query_parameters(target: &[u8]) -> impl Iterator<Item = &[u8]> {
    let query = target.iter().position(|b| *b == b'?').and_then(|at| target.get(at + 1..));
    query.into_iter().flat_map(|query| query.split(|b| *b == b'&'))
}

/// Of a query parameter, as they stand there; one without `=` is a name.
pub(crate) fn name_and_value(parameter: &[u8]) -> (&[u8], &[u8]) {
    let at = parameter.iter().position(|b| *b == b'=').unwrap_or(parameter.len());
    (parameter.get(..at).unwrap_or_default(), parameter.get(at + 1..).unwrap_or_default())
}

/// The entry on whose share a number falls.
pub(crate) fn pick_weighted(clusters: &[WeightedCluster], number: u64) -> Option<usize> {
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut point = number.checked_rem(total)?;
    for (at, cluster) in clusters.iter().enumerate() {
        match point.checked_sub(u64::from(cluster.weight)) {
            Some(rest) => point = rest,
            None => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests;
