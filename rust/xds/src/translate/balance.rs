//! How load is spread: `lb_policy`, `common_lb_config`, slow start.

use std::time::Duration;

use pymesh_model::balance::{Balance, LbPolicy as Policy, LocalityLb, SlowStart};
use pymesh_model::cluster::Discovery;

use super::common::{duration_or, enumerator};
use super::consistent_hashing;
use crate::diagnostic::At;
use crate::proto::envoy::config::{cluster::v3 as cluster, core::v3 as core};
use cluster::cluster::common_lb_config::LocalityConfigSpecifier;
use cluster::cluster::{LbConfig, LbPolicy, LeastRequestLbConfig, SlowStartConfig};

/// Envoy's defaults.
const CHOICES: u32 = 2;
const MIN_WEIGHT_PERCENT: f64 = 10.0;

pub(super) fn balance(config: &cluster::Cluster, discovery: &Discovery, at: &At<'_>) -> Balance {
    refuse_foreign_settings(config, at);
    let mut balance = Balance::by(policy(config, discovery, at));
    balance.slow_start = match &config.lb_config {
        Some(LbConfig::RoundRobinLbConfig(settings)) => {
            slow_start(settings.slow_start_config.as_ref(), &at.field("round_robin_lb_config"))
        }
        Some(LbConfig::LeastRequestLbConfig(settings)) => {
            slow_start(settings.slow_start_config.as_ref(), &at.field("least_request_lb_config"))
        }
        _ => None,
    };
    if let Some(common) = &config.common_lb_config {
        balance.locality = match &common.locality_config_specifier {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => LocalityLb::Weighted,
            None => LocalityLb::Pooled,
        };
        if let Some(threshold) = &common.healthy_panic_threshold {
            // Envoy leaves out what is behind the point. Within 0 and 100 by its rules.
            balance.panic_threshold = threshold.value as u32;
        }
        balance.ignore_unchecked_hosts = common.ignore_new_hosts_until_first_hc;
        balance.close_on_change = common.close_connections_on_host_set_change;
    }
    balance
}

/// The settings of a policy mean nothing to another.
fn refuse_foreign_settings(config: &cluster::Cluster, at: &At<'_>) {
    let (field, owner) = match &config.lb_config {
        Some(LbConfig::RoundRobinLbConfig(_)) => ("round_robin_lb_config", LbPolicy::RoundRobin),
        Some(LbConfig::LeastRequestLbConfig(_)) => ("least_request_lb_config", LbPolicy::LeastRequest),
        // The others are judged where they are read.
        _ => return,
    };
    if enumerator::<LbPolicy>(config.lb_policy) != owner {
        let owner = owner.as_str_name();
        at.field(field)
            .refuse_with_hint(format!("this belongs to `lb_policy: {owner}`"), "set that, or leave this out");
    }
}

fn policy(config: &cluster::Cluster, discovery: &Discovery, at: &At<'_>) -> Policy {
    let provided = matches!(discovery, Discovery::OriginalDst(_));
    let policy = enumerator(config.lb_policy);
    let hashing = consistent_hashing::settings(config, policy, at);
    let policy_at = &at.field("lb_policy");
    match policy {
        LbPolicy::ClusterProvided if provided => Policy::RoundRobin,
        _ if provided => {
            policy_at.refuse_with_hint("a cluster of type ORIGINAL_DST chooses by itself", "write CLUSTER_PROVIDED");
            Policy::RoundRobin
        }
        LbPolicy::RoundRobin => Policy::RoundRobin,
        LbPolicy::Random => Policy::Random,
        LbPolicy::LeastRequest => {
            let settings = match &config.lb_config {
                Some(LbConfig::LeastRequestLbConfig(settings)) => settings.clone(),
                _ => LeastRequestLbConfig::default(),
            };
            least_request(&settings, &at.field("least_request_lb_config"))
        }
        LbPolicy::RingHash | LbPolicy::Maglev => hashing.unwrap_or(Policy::RoundRobin),
        LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig => {
            policy_at.refuse_with_hint(
                format!("{} is not supported", policy.as_str_name()),
                "write ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV",
            );
            Policy::RoundRobin
        }
    }
}

fn least_request(settings: &LeastRequestLbConfig, at: &At<'_>) -> Policy {
    let bias = number(settings.active_request_bias.as_ref(), 1.0);
    if !(bias >= 0.0 && bias.is_finite()) {
        at.field("active_request_bias").refuse(format!("this must not be negative, as {bias} is"));
    }
    Policy::LeastRequest { choices: settings.choice_count.unwrap_or(CHOICES), active_request_bias: bias }
}

fn slow_start(settings: Option<&SlowStartConfig>, at: &At<'_>) -> Option<SlowStart> {
    let settings = settings?;
    let at = at.field("slow_start_config");
    let window = duration_or(settings.slow_start_window.as_ref(), Duration::ZERO, &at.field("slow_start_window"));
    let aggression = number(settings.aggression.as_ref(), 1.0);
    if !(aggression > 0.0 && aggression.is_finite()) {
        at.field("aggression").refuse(format!("this must be above 0, not {aggression}"));
    }
    let least = settings.min_weight_percent.as_ref().map_or(MIN_WEIGHT_PERCENT, |percent| percent.value);
    // Without a window no host is ever new.
    (!window.is_zero()).then_some(SlowStart { window, aggression, min_weight: least / 100.0 })
}

/// There are no runtime values here, so `default_value` always decides.
fn number(value: Option<&core::RuntimeDouble>, default: f64) -> f64 {
    value.map_or(default, |value| value.default_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;

    fn with(fields: &str) -> (Balance, Vec<String>) {
        let (cluster, problems) = translated(&format!("{{name: any, type: STATIC, {fields}}}"));
        (cluster.balance, problems)
    }

    #[test]
    fn settings_and_their_defaults() {
        assert_eq!(with(""), (Balance::by(Policy::RoundRobin), vec![]));
        let least = |active_request_bias| Policy::LeastRequest { choices: 2, active_request_bias };
        assert_eq!(with("lb_policy: LEAST_REQUEST").0, Balance::by(least(1.0)));
        let (made, problems) = with(
            "lb_policy: LEAST_REQUEST, least_request_lb_config: {\
               active_request_bias: {default_value: 0.5, runtime_key: any}, \
               slow_start_config: {slow_start_window: 30s, aggression: {default_value: 2, runtime_key: any}, \
                                   min_weight_percent: {value: 25}}}, \
             common_lb_config: {healthy_panic_threshold: {value: 33.9}, locality_weighted_lb_config: {}, \
                                ignore_new_hosts_until_first_hc: true, close_connections_on_host_set_change: true}",
        );
        let expected = Balance {
            policy: least(0.5),
            slow_start: Some(SlowStart { window: Duration::from_secs(30), aggression: 2.0, min_weight: 0.25 }),
            panic_threshold: 33,
            locality: LocalityLb::Weighted,
            ignore_unchecked_hosts: true,
            close_on_change: true,
        };
        assert_eq!((made, problems), (expected, vec![]));
        let slow =
            |fields: &str| with(&format!("round_robin_lb_config: {{slow_start_config: {{{fields}}}}}")).0.slow_start;
        assert_eq!(slow(""), None);
        let expected = SlowStart { window: Duration::from_secs(1), aggression: 1.0, min_weight: 0.1 };
        assert_eq!(slow("slow_start_window: 1s"), Some(expected));
    }

    #[test]
    fn what_is_wrong_or_does_nothing_is_refused() {
        let bias = |value: &str| {
            format!(
                "lb_policy: LEAST_REQUEST, least_request_lb_config: \
                 {{active_request_bias: {{default_value: {value}, runtime_key: any}}}}"
            )
        };
        let aggression = |value: &str| {
            format!(
                "round_robin_lb_config: {{slow_start_config: {{slow_start_window: 1s, \
                 aggression: {{default_value: {value}, runtime_key: any}}}}}}"
            )
        };
        for (fields, problem) in [
            (
                "lb_policy: RANDOM, round_robin_lb_config: {}".to_owned(),
                "round_robin_lb_config: this belongs to `lb_policy: ROUND_ROBIN`",
            ),
            (
                "least_request_lb_config: {}".to_owned(),
                "least_request_lb_config: this belongs to `lb_policy: LEAST_REQUEST`",
            ),
            (bias("-1"), "least_request_lb_config.active_request_bias: this must not be negative, as -1 is"),
            (bias("NaN"), "least_request_lb_config.active_request_bias: this must not be negative, as NaN is"),
            (aggression("0"), "round_robin_lb_config.slow_start_config.aggression: this must be above 0, not 0"),
        ] {
            assert_eq!(with(&fields).1, [problem], "{fields}");
        }
    }
}
