//! `HashPolicy` of routes.

use pymesh_model::route::{HashCookie, HashOf, HashPolicy};

use super::common::duration;
use super::header::is_field_name;
use super::matcher;
use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use route::route_action::hash_policy::{Cookie, PolicySpecifier};

pub(super) fn policies(policies: &[route::route_action::HashPolicy], at: &At<'_>) -> Vec<HashPolicy> {
    policies.iter().enumerate().filter_map(|(index, policy)| one(policy, &at.index(index))).collect()
}

fn one(policy: &route::route_action::HashPolicy, at: &At<'_>) -> Option<HashPolicy> {
    let of = match policy.policy_specifier.as_ref()? {
        PolicySpecifier::Header(header) => {
            let at = at.field("header");
            let at = at.field("regex_rewrite");
            let rewrite = header.regex_rewrite.as_ref().and_then(|rewrite| matcher::substitution(rewrite, &at));
            HashOf::Header(header.header_name.to_ascii_lowercase().into(), rewrite)
        }
        PolicySpecifier::Cookie(one) => HashOf::Cookie(cookie(one, &at.field("cookie"))),
        // As Envoy has it, this is no policy if it is false.
        PolicySpecifier::ConnectionProperties(properties) if !properties.source_ip => return None,
        PolicySpecifier::ConnectionProperties(_) => HashOf::SourceIp,
        PolicySpecifier::QueryParameter(parameter) => HashOf::QueryParameter(parameter.name.as_str().into()),
    };
    Some(HashPolicy { of, terminal: policy.terminal })
}

/// What is sent to clients must be one cookie (RFC 6265, section 4.1.1), whatever is written here.
fn cookie(cookie: &Cookie, at: &At<'_>) -> HashCookie {
    let value = |text: &str, at: &At<'_>| -> Box<str> {
        if text.contains(|c: char| c.is_ascii_control() || c == ';') {
            at.refuse(format!("`{}` cannot stand in a cookie", text.escape_debug()));
        }
        text.into()
    };
    if !is_field_name(&cookie.name) {
        at.field("name").refuse(format!("`{}` is not the name of a cookie", cookie.name.escape_debug()));
    }
    let attributes_at = at.field("attributes");
    let attributes = cookie.attributes.iter().enumerate().map(|(index, attribute)| {
        let at = attributes_at.index(index);
        (value(&attribute.name, &at.field("name")), value(&attribute.value, &at.field("value")))
    });
    HashCookie {
        name: cookie.name.as_str().into(),
        ttl: duration(cookie.ttl.as_ref(), &at.field("ttl")),
        path: value(&cookie.path, &at.field("path")),
        attributes: attributes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pymesh_model::route::{Action, ClusterChoice, RouteTable, SplitBy};

    use super::*;
    use crate::testing::route_table;

    fn routes(action: &str) -> (RouteTable, Vec<String>) {
        let route = format!("{{match: {{prefix: /}}, route: {action}}}");
        match route_table(&format!("{{name: r, virtual_hosts: [{{name: h, domains: ['*'], routes: [{route}]}}]}}")) {
            Ok((table, _)) => (table, vec![]),
            Err(problems) => (RouteTable::default(), problems),
        }
    }

    /// The policies of a route, as Rust shows them, and the problems.
    fn shown(policy: &str) -> (Vec<String>, Vec<String>) {
        let (table, problems) = routes(&format!("{{cluster: a, hash_policy: [{policy}]}}"));
        if !problems.is_empty() {
            return (vec![], problems);
        }
        let Action::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!() };
        let shown = forward.hash_policy.iter().map(|policy| format!("{:?} {}", policy.of, policy.terminal));
        (shown.collect(), problems)
    }

    #[test]
    fn every_kind() {
        for (policy, expected) in [
            ("{header: {header_name: X-User}, terminal: true}", vec![r#"Header("x-user", None) true"#]),
            ("{connection_properties: {source_ip: true}}", vec!["SourceIp false"]),
            ("{connection_properties: {source_ip: false}}", vec![]),
            ("{query_parameter: {name: User}}", vec![r#"QueryParameter("User") false"#]),
        ] {
            assert_eq!(shown(policy), (expected.into_iter().map(String::from).collect(), vec![]), "{policy}");
        }
        let (table, problems) = routes(
            "{cluster: a, hash_policy: [{cookie: {name: u, ttl: 60s, path: /p, attributes: [{name: Secure}]}}, \
             {header: {header_name: x, regex_rewrite: {pattern: {regex: '(a)b'}, substitution: '\\1'}}}]}",
        );
        assert_eq!(problems, [] as [String; 0]);
        let Action::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!() };
        let HashOf::Cookie(cookie) = &forward.hash_policy[0].of else { panic!() };
        assert_eq!((&*cookie.name, cookie.ttl, &*cookie.path), ("u", Some(Duration::from_secs(60)), "/p"));
        assert_eq!(cookie.attributes, [("Secure".into(), "".into())]);
        assert!(matches!(&forward.hash_policy[1].of, HashOf::Header(_, Some((_, with))) if &**with == r"\1"));
    }

    #[test]
    fn what_would_not_be_a_cookie_is_refused() {
        for (cookie, said) in [
            ("{name: 'a=b'}", "name: `a=b` is not the name of a cookie"),
            ("{name: a, path: '/;x'}", "path: `/;x` cannot stand in a cookie"),
            ("{name: a, attributes: [{name: B, value: 'c;d'}]}", "attributes[0].value: `c;d` cannot stand in a cookie"),
            ("{name: a, ttl: -1s}", "ttl: a duration here must not be negative, as -1s is"),
        ] {
            let at = "virtual_hosts[0].routes[0].route.hash_policy[0].cookie";
            assert_eq!(shown(&format!("{{cookie: {cookie}}}")).1, [format!("{at}.{said}")]);
        }
    }

    #[test]
    fn where_the_number_of_a_split_comes_from() {
        let split = |rest: &str| {
            let clusters = "[{name: a, weight: 1}, {name: b, weight: 2}]";
            let (table, problems) = routes(&format!("{{weighted_clusters: {{clusters: {clusters}{rest}}}}}"));
            if !problems.is_empty() {
                return (SplitBy::Chance, problems);
            }
            let Action::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!() };
            let ClusterChoice::Weighted(split) = &forward.cluster else { panic!() };
            (split.by.clone(), problems)
        };
        assert_eq!(split(""), (SplitBy::Chance, vec![]));
        assert_eq!(split(", header_name: X-Random"), (SplitBy::Header("x-random".into()), vec![]));
        assert_eq!(split(", use_hash_policy: true, total_weight: 3"), (SplitBy::HashPolicy, vec![]));
        assert_eq!(split(", use_hash_policy: false"), (SplitBy::Chance, vec![]));
        let at = "virtual_hosts[0].routes[0].route.weighted_clusters.total_weight";
        assert_eq!(split(", total_weight: 100").1, [format!("{at}: the weights add up to 3, not to 100")]);
    }
}
