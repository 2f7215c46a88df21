//! `RequestMirrorPolicy` of routes, virtual hosts and route tables.

use pymesh_model::route::{HeaderMutation, Mirror, MirrorCluster, MirrorHost};

use super::{header, matcher};
use crate::diagnostic::At;
use crate::proto::envoy::config::common::mutation_rules::v3 as mutation_rules;
use crate::proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;

/// Every request.
const WHOLE: u32 = 1_000_000;

/// Translates one policy; `None` if it names no cluster.
///
/// `trace_sampled` may say either: spans are made by nobody here, so there is nothing to sample.
pub(super) fn policy(policy: &RequestMirrorPolicy, at: &At<'_>) -> Option<Mirror> {
    let cluster = match (policy.cluster.as_str(), policy.cluster_header.as_str()) {
        ("", "") => {
            at.refuse("one of `cluster` and `cluster_header` must be set");
            return None;
        }
        (name, "") => MirrorCluster::One(name.into()),
        ("", header) => MirrorCluster::Header(header.to_ascii_lowercase().into()),
        (_, _) => {
            at.refuse_with_hint("both `cluster` and `cluster_header` are set", "leave one of them out");
            return None;
        }
    };
    let fraction_at = at.field("runtime_fraction");
    let fraction = policy.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value.as_ref());
    let host = match (policy.host_rewrite_literal.as_str(), policy.disable_shadow_host_suffix_append) {
        ("", false) => MirrorHost::Suffixed,
        ("", true) => MirrorHost::Same,
        (host, _) => MirrorHost::Literal(host.into()),
    };
    let headers_at = at.field("request_headers_mutations");
    let headers = policy.request_headers_mutations.iter().enumerate();
    Some(Mirror {
        cluster,
        fraction: fraction.map_or(WHOLE, |fraction| matcher::millionths(fraction, &fraction_at.field("default_value"))),
        host,
        headers: headers.filter_map(|(index, step)| mutation(step, &headers_at.index(index))).collect(),
    })
}

fn mutation(step: &mutation_rules::HeaderMutation, at: &At<'_>) -> Option<HeaderMutation> {
    use mutation_rules::header_mutation::Action;
    Some(match step.action.as_ref()? {
        Action::Remove(name) => HeaderMutation::Remove(header::removal(name, &at.field("remove"))?),
        Action::RemoveOnMatch(names) => {
            let at = at.field("remove_on_match");
            HeaderMutation::RemoveMatching(matcher::string(names.key_matcher.as_ref()?, &at.field("key_matcher"))?)
        }
        Action::Append(option) => HeaderMutation::Append(header::ordinary_addition(option, &at.field("append"))?),
    })
}

#[cfg(test)]
mod tests {
    use pymesh_model::route::{Action, MirrorCluster, MirrorHost, RouteTable};

    use crate::testing;

    fn table(of_table: &str, of_host: &str, of_route: &str) -> String {
        format!(
            "{{name: t, request_mirror_policies: [{of_table}], virtual_hosts: [{{name: all, domains: ['*'], \
             request_mirror_policies: [{of_host}], routes: [\
             {{match: {{prefix: /}}, route: {{cluster: a, request_mirror_policies: [{of_route}]}}}}]}}]}}"
        )
    }

    /// Where requests are mirrored to.
    fn targets(table: &RouteTable) -> Vec<String> {
        let Action::Forward(forward) = &table.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
        let name = |cluster: &MirrorCluster| match cluster {
            MirrorCluster::One(name) => name.to_string(),
            MirrorCluster::Header(header) => format!("by {header}"),
        };
        forward.mirrors.iter().map(|mirror| name(&mirror.cluster)).collect()
    }

    #[test]
    fn the_most_specific_level_that_says_anything_decides() {
        for (levels, wanted) in [
            (["{cluster: t}", "", ""], &["t"][..]),
            (["{cluster: t}", "{cluster: h}", ""], &["h"]),
            (["{cluster: t}", "{cluster: h}", "{cluster: r}, {cluster_header: X-R}"], &["r", "by x-r"]),
            (["", "", ""], &[]),
        ] {
            let [of_table, of_host, of_route] = levels;
            let (found, _) = testing::route_table(&table(of_table, of_host, of_route)).unwrap();
            assert_eq!(targets(&found), wanted);
        }
        let (_, needed) = testing::route_table(&table("{cluster: t}", "{cluster: h}", "{cluster: r}")).unwrap();
        let names: Vec<&str> = needed.iter().map(|(_, name)| &**name).collect();
        assert_eq!(names, ["t", "h", "a", "r"], "a table within a listener may name known clusters only");
    }

    #[test]
    fn every_field_is_read() {
        let policy = "{cluster: c, runtime_fraction: {default_value: {numerator: 5}}, trace_sampled: false, \
                      host_rewrite_literal: other, request_headers_mutations: [{remove: X-A}, \
                      {append: {header: {key: X-B, value: '%REQ(:path)%'}}}, \
                      {remove_on_match: {key_matcher: {prefix: x-c}}}]}";
        let (found, _) = testing::route_table(&table("", "", policy)).unwrap();
        let Action::Forward(forward) = &found.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
        let [mirror] = &*forward.mirrors else { panic!("one mirror") };
        assert_eq!(mirror.fraction, 50_000);
        assert!(matches!(&mirror.host, MirrorHost::Literal(host) if &**host == "other"));
        let steps: Vec<String> = mirror.headers.iter().map(|step| format!("{step:?}")).collect();
        for (step, wanted) in
            steps.iter().zip(["Remove(\"x-a\")", "Append(HeaderAdd { name: \"x-b\"", "RemoveMatching"])
        {
            assert!(step.starts_with(wanted), "{step}");
        }
        for (field, wanted) in [("false", "Suffixed"), ("true", "Same")] {
            let policy = format!("{{cluster: c, disable_shadow_host_suffix_append: {field}}}");
            let (found, _) = testing::route_table(&table("", "", &policy)).unwrap();
            let Action::Forward(forward) = &found.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
            assert_eq!(
                (forward.mirrors[0].fraction, format!("{:?}", forward.mirrors[0].host)),
                (1_000_000, wanted.into())
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let at = "virtual_hosts[0].routes[0].route.request_mirror_policies[0]";
        for (policy, wanted) in [
            ("{}", ": one of `cluster` and `cluster_header` must be set"),
            ("{cluster: a, cluster_header: b}", ": both `cluster` and `cluster_header` are set"),
            (
                "{cluster: a, runtime_fraction: {default_value: {numerator: 101}}}",
                ".runtime_fraction.default_value.numerator: 101 is more than the whole",
            ),
            ("{cluster: a, runtime_fraction: {}}", ".runtime_fraction.default_value: this must be set"),
            ("{cluster: a, request_headers_mutations: [{}]}", ".request_headers_mutations[0]: one of"),
            (
                "{cluster: a, request_headers_mutations: [{remove: Host}]}",
                ".request_headers_mutations[0].remove: `host` cannot be removed",
            ),
            (
                "{cluster: a, request_headers_mutations: [{append: {header: {key: ':path', value: /}}}]}",
                ".request_headers_mutations[0].append.header.key: `:path` cannot be changed",
            ),
            (
                "{cluster: a, request_headers_mutations: [{append: {header: {key: x, value: '%WHAT%'}}}]}",
                ".request_headers_mutations[0].append.header.value: ",
            ),
            (
                "{cluster: a, request_headers_mutations: [{remove_on_match: {key_matcher: {safe_regex: {regex: '('}}}}]}",
                ".request_headers_mutations[0].remove_on_match.key_matcher.safe_regex.regex: ",
            ),
        ] {
            let found = testing::route_table(&table("", "", policy)).unwrap_err();
            assert!(found.iter().any(|one| one.starts_with(&format!("{at}{wanted}"))), "{policy}: {found:?}");
        }
    }
}
