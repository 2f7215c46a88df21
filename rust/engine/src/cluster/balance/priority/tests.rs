//! The loads that Envoy's documentation gives for panic thresholds, degraded endpoints and priority levels.

use super::*;

/// A priority of 100 hosts, so many of them healthy and so many degraded.
fn of(healthy: u64, degraded: u64) -> Count {
    Count { hosts: 100, judged: (100, 100), healthy: (healthy, healthy), degraded: (degraded, degraded) }
}

/// Loads of healthy and of degraded hosts, and panic, by priority.
fn table(counts: &[Count], threshold: u32) -> (Vec<u32>, Vec<u32>, Vec<bool>) {
    let loads = distribute(counts, 140, false, threshold);
    assert_eq!(loads.iter().map(|load| load.percent).sum::<u32>(), 100);
    let of = |available| {
        let load = |priority| loads.iter().find(|load| load.priority == priority && load.of == available);
        (0..counts.len()).map(|priority| load(priority).map_or(0, |load| load.percent)).collect()
    };
    let panic = |priority| loads.iter().any(|load| load.priority == priority && load.is_panic);
    (of(Available::Healthy), of(Available::Degraded), (0..counts.len()).map(panic).collect())
}

#[test]
fn what_the_first_cannot_take_spills() {
    let healthy = |counts: [u64; 3]| table(&counts.map(|healthy| of(healthy, 0)), 0).0;
    assert_eq!(healthy([100, 100, 100]), [100, 0, 0]);
    assert_eq!(healthy([72, 72, 100]), [100, 0, 0]);
    assert_eq!(healthy([71, 71, 100]), [99, 1, 0]);
    assert_eq!(healthy([50, 50, 100]), [70, 30, 0]);
    assert_eq!(healthy([25, 100, 100]), [35, 65, 0]);
    assert_eq!(healthy([25, 25, 100]), [35, 35, 30]);
    // Together they have not enough, and are scaled; the first takes what rounding leaves.
    assert_eq!(healthy([25, 25, 20]), [37, 35, 28]);
}

#[test]
fn too_few_hosts_are_panic_only_while_all_together_are_too_few() {
    let panic = |counts: [u64; 2]| {
        let (loads, _, panic) = table(&counts.map(|healthy| of(healthy, 0)), 50);
        ([loads[0], loads[1]], [panic[0], panic[1]])
    };
    assert_eq!(panic([72, 72]), ([100, 0], [false, false]));
    assert_eq!(panic([71, 0]), ([100, 0], [false, false]));
    assert_eq!(panic([25, 75]), ([35, 65], [false, false]));
    assert_eq!(panic([20, 50]), ([29, 71], [true, false]));
    assert_eq!(panic([5, 65]), ([8, 92], [true, false]));
    // All panic: by the number of hosts.
    assert_eq!(panic([20, 20]), ([50, 50], [true, true]));
    assert_eq!(panic([0, 0]), ([50, 50], [true, true]));
    assert_eq!(table(&[of(0, 0), of(0, 0)], 0), (vec![100, 0], vec![0, 0], vec![false, false]));
}

#[test]
fn degraded_hosts_come_after_healthy_ones() {
    let loads = |counts: &[Count]| {
        let (healthy, degraded, _) = table(counts, 50);
        (healthy, degraded)
    };
    assert_eq!(loads(&[of(100, 0)]), (vec![100], vec![0]));
    assert_eq!(loads(&[of(50, 50)]), (vec![70], vec![30]));
    assert_eq!(loads(&[of(5, 5), of(0, 90)]), (vec![7, 0], vec![7, 86]));
    assert_eq!(loads(&[of(0, 100), of(100, 0)]), (vec![0, 100], vec![0, 0]));
    // The example in Envoy's code.
    let counts = [(10, 20), (20, 10), (10, 0)].map(|(healthy, degraded)| of(healthy, degraded));
    assert_eq!(distribute(&counts, 100, false, 0).iter().map(|load| load.percent).sum::<u32>(), 100);
    assert_eq!(
        distribute(&counts, 100, false, 0).iter().map(|load| load.percent).collect::<Vec<_>>(),
        [16, 28, 14, 28, 14]
    );
}

#[test]
fn weights_count_where_they_are_asked_for() {
    let count = Count { hosts: 2, judged: (2, 10), healthy: (1, 9), degraded: (0, 0) };
    let backup = Count { hosts: 1, judged: (1, 1), healthy: (1, 1), degraded: (0, 0) };
    let percent = |by_weight| distribute(&[count, backup], 100, by_weight, 50)[0].percent;
    assert_eq!([percent(false), percent(true)], [50, 90]);
}

#[test]
fn a_priority_without_hosts_takes_nothing() {
    let empty = Count::default();
    assert_eq!(table(&[empty, of(10, 0)], 50), (vec![0, 100], vec![0, 0], vec![false, true]));
    assert_eq!(table(&[empty, empty], 50).0, [100, 0]);
    assert_eq!(distribute(&[], 140, false, 50), []);
}
