//! `OutlierDetection`.

use pymesh_model::outlier::{Consecutive, FailurePercentage, OutlierDetection, SuccessRate};

use super::common::{duration, duration_or};
use crate::diagnostic::At;
use crate::proto::envoy::config::cluster::v3 as cluster;

pub(super) fn outlier_detection(config: &cluster::OutlierDetection, at: &At<'_>) -> OutlierDetection {
    let default = OutlierDetection::default();
    let base_at = at.field("base_ejection_time");
    let base_ejection_time = duration_or(config.base_ejection_time.as_ref(), default.base_ejection_time, &base_at);
    let most_at = at.field("max_ejection_time");
    let max_ejection_time = match duration(config.max_ejection_time.as_ref(), &most_at) {
        Some(most) if most < base_ejection_time => {
            most_at.refuse_with_hint(
                format!("{most:?} is shorter than `base_ejection_time`, which is {base_ejection_time:?}"),
                "no ejection is shorter than that: raise this, or lower it",
            );
            most
        }
        Some(most) => most,
        None => default.max_ejection_time.max(base_ejection_time),
    };
    let jitter_at = at.field("max_ejection_time_jitter");
    let consecutive = |failures: Option<u32>, enforcing: Option<u32>, default: Consecutive| Consecutive {
        failures: failures.unwrap_or(default.failures),
        enforcing: enforcing.unwrap_or(default.enforcing),
    };
    OutlierDetection {
        interval: duration_or(config.interval.as_ref(), default.interval, &at.field("interval")),
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter: duration_or(
            config.max_ejection_time_jitter.as_ref(),
            default.max_ejection_time_jitter,
            &jitter_at,
        ),
        max_ejection_percent: config.max_ejection_percent.unwrap_or(default.max_ejection_percent),
        always_eject_one_host: config.always_eject_one_host.unwrap_or(default.always_eject_one_host),
        consecutive_5xx: consecutive(config.consecutive_5xx, config.enforcing_consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_failure: consecutive(
            config.consecutive_gateway_failure,
            config.enforcing_consecutive_gateway_failure,
            default.consecutive_gateway_failure,
        ),
        consecutive_local_origin_failure: consecutive(
            config.consecutive_local_origin_failure,
            config.enforcing_consecutive_local_origin_failure,
            default.consecutive_local_origin_failure,
        ),
        split_external_local_origin_errors: config.split_external_local_origin_errors,
        success_rate: success_rate(config, default.success_rate),
        failure_percentage: failure_percentage(config, default.failure_percentage),
        successful_active_health_check_uneject_host: config
            .successful_active_health_check_uneject_host
            .unwrap_or(default.successful_active_health_check_uneject_host),
    }
}

fn success_rate(config: &cluster::OutlierDetection, default: SuccessRate) -> SuccessRate {
    SuccessRate {
        enforcing: config.enforcing_success_rate.unwrap_or(default.enforcing),
        enforcing_local_origin: config.enforcing_local_origin_success_rate.unwrap_or(default.enforcing_local_origin),
        minimum_hosts: config.success_rate_minimum_hosts.unwrap_or(default.minimum_hosts),
        request_volume: config.success_rate_request_volume.unwrap_or(default.request_volume),
        stdev_factor: config.success_rate_stdev_factor.unwrap_or(default.stdev_factor),
    }
}

fn failure_percentage(config: &cluster::OutlierDetection, default: FailurePercentage) -> FailurePercentage {
    FailurePercentage {
        threshold: config.failure_percentage_threshold.unwrap_or(default.threshold),
        enforcing: config.enforcing_failure_percentage.unwrap_or(default.enforcing),
        enforcing_local_origin: config
            .enforcing_failure_percentage_local_origin
            .unwrap_or(default.enforcing_local_origin),
        minimum_hosts: config.failure_percentage_minimum_hosts.unwrap_or(default.minimum_hosts),
        request_volume: config.failure_percentage_request_volume.unwrap_or(default.request_volume),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pymesh_model::outlier::{Consecutive, OutlierDetection};

    use crate::testing::{refused, translated};

    #[test]
    fn every_field_is_taken_and_the_rest_is_envoys() {
        let with = |fields: &str| {
            let (cluster, problems) = translated(&format!("{{name: a, outlier_detection: {{{fields}}}}}"));
            assert_eq!(problems, Vec::<String>::new());
            (*cluster.outlier_detection.unwrap()).clone()
        };
        assert!(translated("{name: a}").0.outlier_detection.is_none());
        assert_eq!(with(""), OutlierDetection::default());
        let detection = with(
            "interval: 1s, base_ejection_time: 400s, max_ejection_time_jitter: 2s, max_ejection_percent: 100, \
             always_eject_one_host: true, consecutive_5xx: 0, enforcing_consecutive_5xx: 1, \
             consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 3, \
             split_external_local_origin_errors: true, consecutive_local_origin_failure: 4, \
             enforcing_consecutive_local_origin_failure: 5, enforcing_success_rate: 6, \
             enforcing_local_origin_success_rate: 7, success_rate_minimum_hosts: 8, success_rate_request_volume: 9, \
             success_rate_stdev_factor: 10, failure_percentage_threshold: 11, enforcing_failure_percentage: 12, \
             enforcing_failure_percentage_local_origin: 13, failure_percentage_minimum_hosts: 14, \
             failure_percentage_request_volume: 15, successful_active_health_check_uneject_host: false",
        );
        assert_eq!((detection.interval, detection.max_ejection_percent), (Duration::from_secs(1), 100));
        assert_eq!(detection.max_ejection_time, Duration::from_secs(400), "no less than the base");
        assert_eq!(detection.max_ejection_time_jitter, Duration::from_secs(2));
        assert_eq!(detection.consecutive_5xx, Consecutive { failures: 0, enforcing: 1 });
        assert_eq!(detection.consecutive_gateway_failure, Consecutive { failures: 2, enforcing: 3 });
        assert_eq!(detection.consecutive_local_origin_failure, Consecutive { failures: 4, enforcing: 5 });
        let rate = detection.success_rate;
        assert_eq!([rate.enforcing, rate.enforcing_local_origin, rate.minimum_hosts], [6, 7, 8]);
        assert_eq!([rate.request_volume, rate.stdev_factor], [9, 10]);
        let failure = detection.failure_percentage;
        assert_eq!([failure.threshold, failure.enforcing, failure.enforcing_local_origin], [11, 12, 13]);
        assert_eq!([failure.minimum_hosts, failure.request_volume], [14, 15]);
        assert!(detection.always_eject_one_host && detection.split_external_local_origin_errors);
        assert!(!detection.successful_active_health_check_uneject_host);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place() {
        let table = [
            (
                "base_ejection_time: 10s, max_ejection_time: 5s",
                "outlier_detection.max_ejection_time: 5s is shorter than `base_ejection_time`, which is 10s \
                 (hint: no ejection is shorter than that: raise this, or lower it)",
            ),
            ("interval: 0s", "outlier_detection.interval: this must be longer than 0s"),
            ("max_ejection_percent: 101", "outlier_detection.max_ejection_percent: this must be at most 100, not 101"),
            (
                "monitors: [{name: a}]",
                "outlier_detection.monitors: field `monitors` of envoy.config.cluster.v3.OutlierDetection is not \
                 supported (hint: use its `consecutive_*`, `success_rate_*` and `failure_percentage_*`)",
            ),
        ];
        for (fields, wanted) in table {
            assert_eq!(refused(&format!("{{name: a, outlier_detection: {{{fields}}}}}")), [wanted]);
        }
        // Envoy has it; the messages that this is built with do not yet.
        let later = refused("{name: a, outlier_detection: {detect_degraded_hosts: true}}");
        let wanted = "outlier_detection.detect_degraded_hosts: envoy.config.cluster.v3.OutlierDetection has no field";
        assert!(later.len() == 1 && later[0].starts_with(wanted), "{later:?}");
        assert_eq!(
            refused("{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, outlier_detection: {}}"),
            ["outlier_detection: a cluster of type ORIGINAL_DST goes where the client wanted, whatever becomes of it \
              (hint: leave it out)"]
        );
    }
}
