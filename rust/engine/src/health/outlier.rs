//! Ejecting outliers and taking them back, as Envoy does.
//!
//! A host becomes an outlier by a row of failures, as soon as it is full, or by a sweep at the end of an interval, which
//! compares the success rates of hosts. An outlier is ejected if `enforcing_*` says so and not too much of the cluster is
//! ejected already. A sweep takes it back when its time is over: `base_ejection_time` times the ejections that are held
//! against it. Each interval without an ejection takes one of these back.

use std::sync::Arc;
use std::time::Duration;

use pymesh_model::outlier::OutlierDetection;

use super::flags::Flags;
use super::monitor::{Kind, Origin};
use super::{ClusterHealth, HostHealth, State};
use crate::base::rng::Rng;
use crate::base::time::Time;

/// The ejections of one host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ejection {
    at: Time,
    /// When it last came back.
    returned_at: Option<Time>,
    /// How many are held against it.
    backoff: u32,
    jitter: Duration,
}

/// What the success rates of one interval come to; negative where nothing was compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub average: f64,
    pub threshold: f64,
}

impl Default for Bar {
    fn default() -> Self {
        Bar { average: -1.0, threshold: -1.0 }
    }
}

/// A member and its success rate.
type Rated = (Arc<HostHealth>, f64);

impl HostHealth {
    pub(super) fn is_ejected(&self) -> bool {
        self.flags().has(Flags::FAILED_OUTLIER_CHECK)
    }
}

impl ClusterHealth {
    /// A host has failed as often in a row as it may.
    pub(super) fn on_consecutive(
        &self,
        state: &mut State,
        host: &Arc<HostHealth>,
        kind: Kind,
        detection: &OutlierDetection,
        now: Time,
        rng: &mut Rng,
    ) {
        // Requests to a host that is no longer listed, or is ejected already, may still fail.
        let is_member = state.members.iter().any(|member| Arc::ptr_eq(&member.host, host));
        if !is_member || host.is_ejected() {
            return;
        }
        self.count_detected(kind);
        self.eject(state, host, kind, detection, now, rng);
        if kind == Kind::Consecutive5xx {
            self.outliers.ejections_consecutive_5xx.inc();
        }
        host.monitor.forget(kind);
    }

    fn eject(
        &self,
        state: &mut State,
        host: &Arc<HostHealth>,
        kind: Kind,
        detection: &OutlierDetection,
        now: Time,
        rng: &mut Rng,
    ) {
        let percentage = 100.0 * (state.ejected + 1) as f64 / state.members.len().max(1) as f64;
        let may_eject = percentage <= f64::from(detection.max_ejection_percent.min(100))
            || detection.always_eject_one_host && state.ejected == 0;
        if !may_eject {
            return self.outliers.ejections_overflow.inc();
        }
        if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
            self.outliers.ejections_total.inc();
        }
        if !is_enforced(kind, detection, rng) {
            return;
        }
        let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.host, host)) else { return };
        let ejection = &mut member.ejection;
        ejection.at = now;
        ejection.jitter = random(detection.max_ejection_time_jitter, rng);
        if detection.base_ejection_time.saturating_mul(ejection.backoff)
            < detection.max_ejection_time.saturating_add(detection.base_ejection_time)
        {
            ejection.backoff = ejection.backoff.saturating_add(1);
        }
        host.flags.set(Flags::FAILED_OUTLIER_CHECK);
        state.ejected += 1;
        self.outliers.ejections_active.set(state.ejected as u64);
        self.count_enforced(kind);
        self.changed();
    }

    pub(super) fn take_back(&self, state: &mut State, at: usize, now: Time) {
        let Some(member) = state.members.get_mut(at) else { return };
        member.ejection.returned_at = Some(now);
        member.host.flags.clear(Flags::FAILED_OUTLIER_CHECK);
        member.host.monitor.forget_rows();
        state.ejected = state.ejected.saturating_sub(1);
        self.outliers.ejections_active.set(state.ejected as u64);
        self.changed();
    }

    /// An interval is over.
    pub(super) fn look_for_outliers(&self, state: &mut State, detection: &OutlierDetection, now: Time, rng: &mut Rng) {
        for at in 0..state.members.len() {
            let Some(member) = state.members.get(at) else { continue };
            member.host.monitor.turn();
            let Ejection { at: since, backoff, jitter, .. } = member.ejection;
            let time = detection.base_ejection_time.saturating_mul(backoff).min(detection.max_ejection_time);
            if member.host.is_ejected() && now.since(since) >= time.saturating_add(jitter) {
                self.take_back(state, at, now);
            }
        }
        for origin in [Origin::External, Origin::Local] {
            self.compare(state, origin, detection, now, rng);
        }
        for member in state.members.iter_mut().filter(|member| !member.host.is_ejected()) {
            let ejection = &mut member.ejection;
            if ejection.returned_at.is_some_and(|at| now.since(at) >= detection.interval) {
                ejection.backoff = ejection.backoff.saturating_sub(1);
            }
        }
    }

    /// Ejects the hosts whose success rate of the last interval is too low, compared with the others' and as such.
    fn compare(&self, state: &mut State, origin: Origin, detection: &OutlierDetection, now: Time, rng: &mut Rng) {
        let (rate, failure) = (&detection.success_rate, &detection.failure_percentage);
        let (mut rated, mut judged): (Vec<Rated>, Vec<Rated>) = (Vec::new(), Vec::new());
        for host in state.members.iter().map(|member| &member.host).filter(|host| !host.is_ejected()) {
            let monitored = host.monitor.rate(origin);
            let Some((percentage, volume)) = monitored.last() else { continue };
            if volume >= u64::from(rate.request_volume.min(failure.request_volume)) {
                monitored.show(percentage);
            }
            if volume >= u64::from(rate.request_volume) {
                rated.push((host.clone(), percentage));
            }
            if volume >= u64::from(failure.request_volume) {
                judged.push((host.clone(), percentage));
            }
        }
        let (by_rate, by_failure) = match origin {
            Origin::External => (Kind::SuccessRate, Kind::FailurePercentage),
            Origin::Local => (Kind::SuccessRateLocalOrigin, Kind::FailurePercentageLocalOrigin),
        };
        let mut bar = Bar::default();
        if !rated.is_empty() && rated.len() >= rate.minimum_hosts as usize {
            bar = bar_of(&rated, f64::from(rate.stdev_factor) / 1000.0);
            for (host, _) in rated.iter().filter(|(_, percentage)| *percentage < bar.threshold) {
                self.outliers.ejections_success_rate.inc();
                self.count_detected(by_rate);
                self.eject(state, host, by_rate, detection, now, rng);
            }
        }
        let [external, local] = &mut state.bars;
        match origin {
            Origin::External => *external = bar,
            Origin::Local => *local = bar,
        }
        if !judged.is_empty() && judged.len() >= failure.minimum_hosts as usize {
            let threshold = f64::from(failure.threshold);
            for (host, _) in judged.iter().filter(|(_, percentage)| 100.0 - percentage >= threshold) {
                self.count_detected(by_failure);
                // It may be out by its success rate already; Envoy would count it as ejected twice.
                if !host.is_ejected() {
                    self.eject(state, host, by_failure, detection, now, rng);
                }
            }
        }
    }

    fn count_detected(&self, kind: Kind) {
        let stats = &self.outliers;
        match kind {
            Kind::Consecutive5xx => stats.ejections_detected_consecutive_5xx.inc(),
            Kind::ConsecutiveGatewayFailure => stats.ejections_detected_consecutive_gateway_failure.inc(),
            Kind::ConsecutiveLocalOriginFailure => stats.ejections_detected_consecutive_local_origin_failure.inc(),
            Kind::SuccessRate => stats.ejections_detected_success_rate.inc(),
            Kind::SuccessRateLocalOrigin => stats.ejections_detected_local_origin_success_rate.inc(),
            Kind::FailurePercentage => stats.ejections_detected_failure_percentage.inc(),
            Kind::FailurePercentageLocalOrigin => stats.ejections_detected_local_origin_failure_percentage.inc(),
        }
    }

    fn count_enforced(&self, kind: Kind) {
        let stats = &self.outliers;
        stats.ejections_enforced_total.inc();
        match kind {
            Kind::Consecutive5xx => stats.ejections_enforced_consecutive_5xx.inc(),
            Kind::ConsecutiveGatewayFailure => stats.ejections_enforced_consecutive_gateway_failure.inc(),
            Kind::ConsecutiveLocalOriginFailure => stats.ejections_enforced_consecutive_local_origin_failure.inc(),
            Kind::SuccessRate => stats.ejections_enforced_success_rate.inc(),
            Kind::SuccessRateLocalOrigin => stats.ejections_enforced_local_origin_success_rate.inc(),
            Kind::FailurePercentage => stats.ejections_enforced_failure_percentage.inc(),
            Kind::FailurePercentageLocalOrigin => stats.ejections_enforced_local_origin_failure_percentage.inc(),
        }
    }
}

/// Mean, and mean minus `factor` standard deviations. Not called for nobody.
fn bar_of(rated: &[Rated], factor: f64) -> Bar {
    let count = rated.len().max(1) as f64;
    let average = rated.iter().map(|(_, percentage)| percentage).sum::<f64>() / count;
    let variance = rated.iter().map(|(_, percentage)| (percentage - average).powi(2)).sum::<f64>() / count;
    Bar { average, threshold: average - factor * variance.sqrt() }
}

/// Throws the dice of `enforcing_*`.
fn is_enforced(kind: Kind, detection: &OutlierDetection, rng: &mut Rng) -> bool {
    let percent = match kind {
        Kind::Consecutive5xx => detection.consecutive_5xx.enforcing,
        Kind::ConsecutiveGatewayFailure => detection.consecutive_gateway_failure.enforcing,
        Kind::ConsecutiveLocalOriginFailure => detection.consecutive_local_origin_failure.enforcing,
        Kind::SuccessRate => detection.success_rate.enforcing,
        Kind::SuccessRateLocalOrigin => detection.success_rate.enforcing_local_origin,
        Kind::FailurePercentage => detection.failure_percentage.enforcing,
        Kind::FailurePercentageLocalOrigin => detection.failure_percentage.enforcing_local_origin,
    };
    rng.below(100) < u64::from(percent)
}

/// A time of at most `most`, by the millisecond.
fn random(most: Duration, rng: &mut Rng) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.below(millis.saturating_add(1)))
}
