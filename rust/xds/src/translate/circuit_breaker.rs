//! `CircuitBreakers`, and the priority by which a route chooses among them.

use pymesh_model::cluster::{CircuitBreakers, RetryBudget, RoutingPriority, Thresholds};

use super::common::enumerator;
use crate::diagnostic::At;
use crate::proto::envoy::config::{cluster::v3 as cluster, core::v3 as core};
use cluster::circuit_breakers as field;

/// Envoy's defaults for `retry_budget`.
const BUDGET_PERCENT: f64 = 20.0;
const MIN_RETRY_CONCURRENCY: u32 = 3;

pub(super) fn priority(value: i32) -> RoutingPriority {
    match enumerator(value) {
        core::RoutingPriority::Default => RoutingPriority::Default,
        core::RoutingPriority::High => RoutingPriority::High,
    }
}

pub(super) fn breakers(config: Option<&cluster::CircuitBreakers>, at: &At<'_>) -> CircuitBreakers {
    let mut breakers = CircuitBreakers::default();
    let Some(config) = config else { return breakers };
    let mut seen = Vec::new();
    for (index, limits) in config.thresholds.iter().enumerate() {
        let at = at.field("thresholds");
        let at = at.index(index);
        *once(&mut breakers, &mut seen, limits, &at) = thresholds(limits);
    }
    seen.clear();
    for (index, limits) in config.per_host_thresholds.iter().enumerate() {
        let at = at.field("per_host_thresholds");
        let at = at.index(index);
        for (name, is_set) in [
            ("max_pending_requests", limits.max_pending_requests.is_some()),
            ("max_requests", limits.max_requests.is_some()),
            ("max_retries", limits.max_retries.is_some()),
            ("max_connection_pools", limits.max_connection_pools.is_some()),
            ("retry_budget", limits.retry_budget.is_some()),
            ("track_remaining", limits.track_remaining),
        ] {
            if is_set {
                at.field(name).refuse_with_hint(
                    "only the connections of a host have a threshold of their own",
                    "write `max_connections` here, and this in `thresholds`",
                );
            }
        }
        let most = limits.max_connections.unwrap_or(u32::MAX);
        once(&mut breakers, &mut seen, limits, &at).connections_per_host = most;
    }
    breakers
}

/// The thresholds that an entry is for. Of several for one priority Envoy reads the first and passes over the others.
fn once<'a>(
    breakers: &'a mut CircuitBreakers,
    seen: &mut Vec<RoutingPriority>,
    limits: &field::Thresholds,
    at: &At<'_>,
) -> &'a mut Thresholds {
    let priority = priority(limits.priority);
    if seen.contains(&priority) {
        at.field("priority").refuse_with_hint(
            format!("there are thresholds for this priority ({}) already", priority.as_str()),
            "leave one of them out",
        );
    }
    seen.push(priority);
    match priority {
        RoutingPriority::Default => &mut breakers.default,
        RoutingPriority::High => &mut breakers.high,
    }
}

fn thresholds(limits: &field::Thresholds) -> Thresholds {
    let default = Thresholds::default();
    Thresholds {
        connections: limits.max_connections.unwrap_or(default.connections),
        pending_requests: limits.max_pending_requests.unwrap_or(default.pending_requests),
        requests: limits.max_requests.unwrap_or(default.requests),
        retries: limits.max_retries.unwrap_or(default.retries),
        retry_budget: limits.retry_budget.as_ref().map(|budget| RetryBudget {
            percent: budget.budget_percent.map_or(BUDGET_PERCENT, |percent| percent.value),
            min_concurrency: budget.min_retry_concurrency.unwrap_or(MIN_RETRY_CONCURRENCY),
        }),
        track_remaining: limits.track_remaining,
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;

    fn with(fields: &str) -> (CircuitBreakers, Vec<String>) {
        let (cluster, problems) = translated(&format!("{{name: any, circuit_breakers: {{{fields}}}}}"));
        (cluster.circuit_breakers, problems)
    }

    #[test]
    fn each_priority_has_its_thresholds() {
        let none: Vec<String> = vec![];
        assert_eq!(with(""), (CircuitBreakers::default(), none.clone()));
        let (made, problems) = with(
            "thresholds: [{priority: HIGH, max_connections: 1, max_pending_requests: 2, max_requests: 3, \
             retry_budget: {budget_percent: {value: 50}}, track_remaining: true}, {max_retries: 9}], \
             per_host_thresholds: [{max_connections: 4}]",
        );
        let high = Thresholds {
            connections: 1,
            pending_requests: 2,
            requests: 3,
            retry_budget: Some(RetryBudget { percent: 50.0, min_concurrency: 3 }),
            track_remaining: true,
            ..Thresholds::default()
        };
        let default = Thresholds { retries: 9, connections_per_host: 4, ..Thresholds::default() };
        assert_eq!((made, problems), (CircuitBreakers { default, high }, none));
        assert!(made.limit_hosts() && !CircuitBreakers::default().limit_hosts());
    }

    #[test]
    fn what_does_nothing_is_refused() {
        let own = "only the connections of a host have a threshold of their own";
        for (fields, expected) in [
            (
                "thresholds: [{}, {priority: HIGH}, {priority: DEFAULT}]",
                vec!["thresholds[2].priority: there are thresholds for this priority (default) already".to_owned()],
            ),
            (
                "per_host_thresholds: [{priority: HIGH}, {priority: HIGH}]",
                vec![
                    "per_host_thresholds[1].priority: there are thresholds for this priority (high) already".to_owned()
                ],
            ),
            (
                "per_host_thresholds: [{max_requests: 1, retry_budget: {}}]",
                vec![
                    format!("per_host_thresholds[0].max_requests: {own}"),
                    format!("per_host_thresholds[0].retry_budget: {own}"),
                ],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(|text| format!("circuit_breakers.{text}")).collect();
            assert_eq!(with(fields).1, expected, "{fields}");
        }
    }
}
