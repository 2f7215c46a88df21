use std::time::Duration;

use pymesh_model::outlier::{Consecutive, FailurePercentage, SuccessRate};
use pymesh_model::testing::{address, cluster};

use super::*;
use crate::telemetry::stats::Stats as _;
use Outcome::{Answer, Connected, Failed, Relayed, Timeout};

/// A cluster of `hosts` members that looks for outliers.
struct Watched {
    health: ClusterHealth,
    hosts: Vec<Arc<HostHealth>>,
    detection: OutlierDetection,
    now: Time,
    rng: Rng,
}

impl Watched {
    fn new(hosts: u8, detection: OutlierDetection) -> Watched {
        let health = ClusterHealth::new(Arc::default(), Arc::default(), Arc::default());
        let mut watched = Watched { health, hosts: Vec::new(), detection, now: Time::default(), rng: Rng::new(1) };
        watched.list(1..=hosts);
        watched
    }

    /// The endpoints change.
    fn list(&mut self, hosts: impl Iterator<Item = u8>) {
        let addresses: Vec<_> = hosts.map(|host| address(host, 80)).collect();
        let detection = Some(Arc::new(self.detection.clone()));
        let config = Arc::new(Cluster { outlier_detection: detection, ..cluster("c", addresses) });
        self.hosts = self.health.enlist(&config, self.now);
    }

    fn puts(&mut self, host: usize, outcomes: impl IntoIterator<Item = Outcome>) {
        for outcome in outcomes {
            self.health.report(&self.hosts[host], outcome, &self.detection, self.now, &mut self.rng);
        }
    }

    /// Fails as often as it takes.
    fn breaks(&mut self, host: usize) {
        self.puts(host, [Answer(500); 5]);
    }

    /// An interval later.
    fn sweeps(&mut self) -> Vec<usize> {
        self.now = self.now + self.detection.interval;
        self.health.sweep(self.now, &mut self.rng);
        self.ejected()
    }

    fn ejected(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|at| self.hosts[*at].is_ejected()).collect()
    }

    /// Every number that is not zero.
    fn counts(&self) -> String {
        let mut shown = Vec::new();
        self.health.outliers.visit(&mut |name, _, value| {
            if value > 0 {
                shown.push(format!("{} {value}", name.trim_start_matches("ejections_")));
            }
        });
        shown.join(", ")
    }
}

/// Half of the cluster may be ejected.
fn half() -> OutlierDetection {
    OutlierDetection { max_ejection_percent: 50, ..OutlierDetection::default() }
}

#[test]
fn a_row_of_errors_ejects_and_a_success_ends_it() {
    let mut watched = Watched::new(4, half());
    watched.puts(0, [Answer(500), Answer(502), Answer(503), Timeout, Answer(404)]);
    watched.puts(0, [Answer(599), Failed, Answer(501), Connected, Timeout]);
    assert_eq!(watched.ejected(), [0usize; 0]);
    let version = watched.health.version();
    watched.puts(0, [Answer(500)]);
    assert_eq!(watched.ejected(), [0]);
    assert!(watched.health.version() > version, "workers are told");
    assert_eq!(
        watched.counts(),
        "active 1, total 1, consecutive_5xx 1, enforced_total 1, detected_consecutive_5xx 1, enforced_consecutive_5xx 1"
    );
    // What is still under way changes nothing.
    watched.puts(0, [Answer(500); 10]);
    assert_eq!(watched.counts().matches("detected_consecutive_5xx 1").count(), 1);
}

#[test]
fn gateway_failures_have_a_row_of_their_own() {
    let detection = OutlierDetection {
        consecutive_5xx: Consecutive { failures: 0, enforcing: 100 },
        consecutive_gateway_failure: Consecutive { failures: 3, enforcing: 100 },
        ..half()
    };
    let mut watched = Watched::new(2, detection);
    watched.puts(0, [Answer(502), Answer(503), Answer(500), Answer(502), Answer(504)]);
    assert_eq!(watched.ejected(), [0usize; 0], "a 500 is no gateway failure");
    watched.puts(0, [Failed]);
    assert_eq!(watched.ejected(), [0]);
    assert_eq!(
        watched.counts(),
        "active 1, enforced_total 1, detected_consecutive_gateway_failure 1, enforced_consecutive_gateway_failure 1"
    );
}

#[test]
fn what_is_not_enforced_is_counted_and_counted_anew() {
    let detection = OutlierDetection { consecutive_5xx: Consecutive { failures: 2, enforcing: 0 }, ..half() };
    let mut watched = Watched::new(2, detection);
    watched.puts(0, [Answer(500); 5]);
    assert_eq!(watched.ejected(), [0usize; 0]);
    assert_eq!(watched.counts(), "total 2, consecutive_5xx 2, detected_consecutive_5xx 2");
}

#[test]
fn local_failures_count_apart_if_they_are_split() {
    let detection = OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: Consecutive { failures: 2, enforcing: 100 },
        ..half()
    };
    let mut watched = Watched::new(4, detection);
    watched.puts(0, [Failed, Connected, Timeout, Relayed, Failed]);
    watched.puts(1, [Answer(500), Answer(500), Failed, Answer(500), Answer(500), Connected]);
    assert_eq!(watched.ejected(), [0usize; 0]);
    watched.puts(0, [Timeout]);
    watched.puts(1, [Answer(500)]);
    assert_eq!(watched.ejected(), [0, 1]);
    assert!(watched.counts().contains("enforced_consecutive_local_origin_failure 1"), "{}", watched.counts());
}

#[test]
fn no_more_is_ejected_than_may_be() {
    let mut watched = Watched::new(4, OutlierDetection { max_ejection_percent: 49, ..half() });
    watched.breaks(0);
    watched.breaks(1);
    assert_eq!(watched.ejected(), [0]);
    assert!(watched.counts().contains("overflow 1"), "{}", watched.counts());
    // With ten percent of four hosts nobody may be, unless one always may.
    let mut strict = Watched::new(4, OutlierDetection::default());
    strict.breaks(0);
    assert_eq!(strict.ejected(), [0usize; 0]);
    let mut strict = Watched::new(4, OutlierDetection { always_eject_one_host: true, ..OutlierDetection::default() });
    strict.breaks(0);
    strict.breaks(1);
    assert_eq!(strict.ejected(), [0]);
}

#[test]
fn each_ejection_is_longer_and_good_intervals_make_it_shorter() {
    let detection = OutlierDetection { max_ejection_time: Duration::from_secs(70), ..half() };
    let mut watched = Watched::new(2, detection);
    let mut intervals_out = Vec::new();
    for _ in 0..5 {
        watched.breaks(0);
        intervals_out.push((1..).find(|_| watched.sweeps().is_empty()).unwrap());
    }
    // 30 s, 60 s, and then no more than 70 s; the row of three does not grow further.
    assert_eq!(intervals_out, [3, 6, 7, 7, 7]);
    assert_eq!(watched.counts().matches("active").count(), 0);
    // Four ejections are held against it; each good interval after its return takes one back.
    for _ in 0..3 {
        watched.sweeps();
    }
    watched.breaks(0);
    assert_eq!((1..).find(|_| watched.sweeps().is_empty()), Some(6));
    for _ in 0..9 {
        watched.sweeps();
    }
    watched.breaks(0);
    assert_eq!((1..).find(|_| watched.sweeps().is_empty()), Some(3));
}

#[test]
fn a_host_returns_with_a_clean_slate() {
    let detection = OutlierDetection {
        consecutive_5xx: Consecutive { failures: 3, enforcing: 100 },
        consecutive_gateway_failure: Consecutive { failures: 4, enforcing: 100 },
        ..half()
    };
    let mut watched = Watched::new(2, detection);
    watched.puts(0, [Answer(503); 3]);
    while !watched.sweeps().is_empty() {}
    watched.puts(0, [Answer(503); 2]);
    assert_eq!(watched.ejected(), [0usize; 0]);
}

#[test]
fn jitter_comes_on_top() {
    let detection = OutlierDetection {
        interval: Duration::from_secs(1),
        max_ejection_time_jitter: Duration::from_secs(20),
        ..half()
    };
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut watched = Watched::new(2, detection.clone());
        watched.rng = Rng::new(seed);
        watched.breaks(0);
        times.push((1..).find(|_| watched.sweeps().is_empty()).unwrap());
    }
    assert!(times.iter().all(|time| (30..=50).contains(time)), "{times:?}");
    assert!(times.iter().max().unwrap() - times.iter().min().unwrap() > 10, "{times:?}");
}

#[test]
fn a_success_rate_far_below_the_others_ejects() {
    let success_rate = SuccessRate { request_volume: 10, ..OutlierDetection::default().success_rate };
    let mut watched = Watched::new(5, OutlierDetection { success_rate, ..half() });
    for host in 0..5 {
        watched.puts(host, [Answer(200); 10]);
    }
    // Never as many errors in a row as would eject.
    watched.puts(0, [Answer(500), Answer(200), Answer(500), Answer(200), Answer(500)]);
    assert_eq!(watched.sweeps(), [0]);
    let [(average, threshold), local] = watched.health.averages();
    // Mean 96, standard deviation 8.
    assert_eq!((average, (threshold * 10.0).round()), (96.0, 808.0));
    assert_eq!(local, (-1.0, -1.0));
    assert_eq!(watched.health.describe(&watched.hosts[0].endpoint).unwrap().1, [80.0, -1.0]);
    assert_eq!(
        watched.counts(),
        "active 1, total 1, success_rate 1, enforced_total 1, detected_success_rate 1, enforced_success_rate 1"
    );
    // The next interval has no requests.
    assert_eq!(watched.sweeps(), [0]);
    assert_eq!(watched.health.averages(), [(-1.0, -1.0); 2]);
}

#[test]
fn too_few_hosts_or_requests_are_not_compared() {
    let success_rate = SuccessRate { request_volume: 10, ..OutlierDetection::default().success_rate };
    for (hosts, requests) in [(4, 10), (5, 8)] {
        let mut watched = Watched::new(hosts, OutlierDetection { success_rate, ..half() });
        for host in 1..usize::from(hosts) {
            watched.puts(host, vec![Answer(200); requests]);
        }
        watched.puts(0, [Answer(500), Answer(200), Answer(500)]);
        assert_eq!(watched.sweeps(), [0usize; 0]);
    }
}

#[test]
fn too_large_a_part_of_failures_ejects() {
    let failure_percentage = FailurePercentage {
        threshold: 40,
        enforcing: 100,
        minimum_hosts: 2,
        request_volume: 5,
        ..OutlierDetection::default().failure_percentage
    };
    let mut watched = Watched::new(3, OutlierDetection { failure_percentage, ..half() });
    watched.puts(0, [Answer(500), Answer(500), Answer(200), Answer(200), Answer(200)]);
    watched.puts(1, [Answer(500), Answer(200), Answer(200), Answer(200), Answer(200)]);
    watched.puts(2, [Answer(500); 4]);
    assert_eq!(watched.sweeps(), [0]);
    assert_eq!(
        watched.counts(),
        "active 1, enforced_total 1, detected_failure_percentage 1, enforced_failure_percentage 1"
    );
}

#[test]
fn members_keep_their_state_and_those_that_leave_are_not_counted() {
    let mut watched = Watched::new(4, half());
    watched.breaks(0);
    watched.breaks(3);
    assert_eq!(watched.ejected(), [0, 3]);
    let gone = watched.hosts[0].clone();
    watched.list(2..=5);
    assert_eq!(watched.ejected(), [2], "the fourth is the third now");
    assert!(watched.counts().starts_with("active 1,"), "{}", watched.counts());
    watched.health.report(&gone, Answer(500), &watched.detection, watched.now, &mut watched.rng);
    assert!(watched.counts().starts_with("active 1,"), "{}", watched.counts());
    let none = Arc::new(cluster("c", [address(5, 80)]));
    watched.health.enlist(&none, watched.now);
    assert!(!watched.counts().contains("active"), "{}", watched.counts());
}

#[test]
fn one_of_many_workers_sweeps() {
    let mut watched = Watched::new(2, half());
    watched.puts(0, [Answer(500)]);
    watched.now = watched.now + watched.detection.interval;
    for _ in 0..2 {
        watched.health.sweep(watched.now, &mut watched.rng);
    }
    assert!(watched.hosts[0].monitor.rate(monitor::Origin::External).last().is_some(), "the second had nothing to do");
}

#[test]
fn flags_read_as_the_admin_page_of_envoy_has_them() {
    use pymesh_model::endpoint::Health;
    assert_eq!(Flags::default().to_string(), "healthy");
    let both = Flags::of_eds(Health::Unhealthy).with(Flags::FAILED_OUTLIER_CHECK);
    assert_eq!(both.to_string(), "/failed_outlier_check/failed_eds_health");
    assert_eq!(both.health(), Health::Unhealthy);
    assert_eq!(Flags::of_eds(Health::Degraded).health(), Health::Degraded);
    assert_eq!(Flags::of_eds(Health::Draining).with(Flags::FAILED_OUTLIER_CHECK).health(), Health::Draining);
}
