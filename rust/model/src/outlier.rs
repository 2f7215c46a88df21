//! Passive health checking (Envoy `OutlierDetection`): which answers make a host an outlier, and for how long it is
//! then ejected from its cluster.

use std::time::Duration;

/// `OutlierDetection`. The defaults are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Time between two sweeps, which return hosts and compare success rates.
    pub interval: Duration,
    /// The time of an ejection is this times the number of ejections that are held against the host.
    pub base_ejection_time: Duration,
    /// It grows no further than this.
    pub max_ejection_time: Duration,
    /// Random time, of at most so much, on top.
    pub max_ejection_time_jitter: Duration,
    /// So much of the cluster may be ejected at once.
    pub max_ejection_percent: u32,
    /// One host may be ejected whatever the percentage says.
    pub always_eject_one_host: bool,
    /// 5xx in a row.
    pub consecutive_5xx: Consecutive,
    /// 502, 503, 504 in a row.
    pub consecutive_gateway_failure: Consecutive,
    /// Timeouts, failed connections and resets in a row; counts only with `split_external_local_origin_errors`.
    pub consecutive_local_origin_failure: Consecutive,
    /// What the network does is counted apart from what the host answers. Else it counts as 503 or 504.
    pub split_external_local_origin_errors: bool,
    /// Hosts whose success rate is far below the others'.
    pub success_rate: SuccessRate,
    /// Hosts that fail too large a part of their requests.
    pub failure_percentage: FailurePercentage,
    /// A host that passes an active health check returns at once.
    pub successful_active_health_check_uneject_host: bool,
}

/// A row of failures that makes a host an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consecutive {
    /// Length of the row.
    pub failures: u32,
    /// Of so many percent of such outliers something comes.
    pub enforcing: u32,
}

/// `success_rate_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Percent of the outliers by answers that are ejected.
    pub enforcing: u32,
    /// The same for outliers by what the network does.
    pub enforcing_local_origin: u32,
    /// Fewer hosts with enough requests are not compared.
    pub minimum_hosts: u32,
    /// Requests within an interval that are enough.
    pub request_volume: u32,
    /// Thousandths of a standard deviation below the mean that make an outlier.
    pub stdev_factor: u32,
}

/// `failure_percentage_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// So many percent of failures, or more, make an outlier.
    pub threshold: u32,
    /// Percent of the outliers by answers that are ejected.
    pub enforcing: u32,
    /// The same for outliers by what the network does.
    pub enforcing_local_origin: u32,
    /// With fewer hosts nobody is judged.
    pub minimum_hosts: u32,
    /// Requests within an interval that are enough.
    pub request_volume: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            consecutive_5xx: Consecutive { failures: 5, enforcing: 100 },
            consecutive_gateway_failure: Consecutive { failures: 5, enforcing: 0 },
            consecutive_local_origin_failure: Consecutive { failures: 5, enforcing: 100 },
            split_external_local_origin_errors: false,
            success_rate: SuccessRate {
                enforcing: 100,
                enforcing_local_origin: 100,
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                enforcing: 0,
                enforcing_local_origin: 0,
                minimum_hosts: 5,
                request_volume: 50,
            },
            successful_active_health_check_uneject_host: true,
        }
    }
}
