//! What the results of active health checks come to, as Envoy has it. Who asks the hosts is [`crate::check`].
//!
//! A host begins as failed and its first result counts at once. Then `healthy_threshold` successes in a row make it
//! healthy; one bad answer makes it unhealthy, or `unhealthy_threshold` of those that may pass: that there is no answer,
//! or one of the `retriable_statuses`. A cluster that is new waits until all of its hosts have had their first result, and with
//! it a proxy that starts ([`crate::check`]).

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::health_check::{HealthCheck, Pace};

use super::flags::Flags;
use super::{ClusterHealth, HostHealth, State};
use crate::base::rng::Rng;
use crate::base::time::Time;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Healthy,
    /// It has said that others are better.
    Degraded,
    /// Its answer is a bad one.
    Bad {
        /// The next may be better.
        retriable: bool,
        /// It has said that it is not to be used any more.
        excluded: bool,
    },
    /// There is no connection, or it broke.
    Unreachable,
    /// No answer in time.
    Late,
}

/// What a result has changed, on which the time of the next check depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Unchanged,
    /// More of the same will.
    Pending,
    Changed,
}

/// The results of one host so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// There was none.
    is_first: bool,
    successes: u32,
    failures: u32,
}

impl Default for Checks {
    fn default() -> Self {
        Checks { is_first: true, successes: 0, failures: 0 }
    }
}

impl Checks {
    /// There was a result.
    pub fn is_known(&self) -> bool {
        !self.is_first
    }
}

impl ClusterHealth {
    /// A check begins.
    pub(crate) fn attempt(&self) {
        let _one_at_a_time = self.state();
        self.checks.attempt.inc();
    }

    /// A check of a host is over.
    pub(crate) fn conclude(
        &self,
        host: &Arc<HostHealth>,
        verdict: Verdict,
        check: &HealthCheck,
        now: Time,
    ) -> Transition {
        let mut state = self.state();
        let transition = match verdict {
            Verdict::Healthy => self.pass(&mut state, host, false, check, now),
            Verdict::Degraded => self.pass(&mut state, host, true, check, now),
            Verdict::Bad { retriable, excluded } => {
                if excluded {
                    host.flags.set(Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
                }
                self.fail(&mut state, host, retriable, false, check)
            }
            Verdict::Unreachable => {
                self.checks.network_failure.inc();
                self.fail(&mut state, host, true, false, check)
            }
            Verdict::Late => {
                self.checks.network_failure.inc();
                self.fail(&mut state, host, true, true, check)
            }
        };
        self.settle(&mut state, transition);
        transition
    }

    /// A host has said in an answer to a client that it is not to be used any more (`x-envoy-immediate-health-check-fail`).
    pub(crate) fn expel(&self, host: &Arc<HostHealth>, check: &HealthCheck) {
        let mut state = self.state();
        let member = state.members.iter().find(|member| Arc::ptr_eq(&member.host, host));
        if !member.is_some_and(|member| state.is_checked(member)) {
            return;
        }
        host.flags.set(Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
        self.checks.passive_failure.inc();
        let transition = self.fail(&mut state, host, false, false, check);
        self.settle(&mut state, transition);
    }

    /// There was a connection to the cluster: its checks keep their normal pace from now on.
    pub(crate) fn note_traffic(&self) {
        self.has_traffic.store(true, Relaxed);
    }

    /// How long to wait for the next check after one that went so.
    pub(crate) fn next_check(&self, verdict: Verdict, transition: Transition, pace: &Pace, rng: &mut Rng) -> Duration {
        let is_pending = transition == Transition::Pending;
        let is_success = matches!(verdict, Verdict::Healthy | Verdict::Degraded);
        let time = match (self.has_traffic.load(Relaxed), is_success, is_pending) {
            (false, true, false) => pace.no_traffic_healthy,
            (false, _, _) => pace.no_traffic,
            (true, true, false) => pace.interval,
            (true, true, true) => pace.healthy_edge,
            (true, false, false) => pace.unhealthy,
            (true, false, true) => pace.unhealthy_edge,
        };
        let part = below(time.saturating_mul(pace.jitter_percent) / 100, rng);
        (time + part + below(pace.jitter, rng)).max(Duration::from_millis(1))
    }

    /// How long to wait for the first.
    pub(crate) fn first_check(pace: &Pace, rng: &mut Rng) -> Duration {
        below(pace.initial_jitter, rng)
    }

    fn pass(
        &self,
        state: &mut State,
        host: &Arc<HostHealth>,
        degraded: bool,
        check: &HealthCheck,
        now: Time,
    ) -> Transition {
        self.checks.success.inc();
        let Some(at) = state.members.iter().position(|member| Arc::ptr_eq(&member.host, host)) else {
            return Transition::Unchanged;
        };
        let Some(member) = state.members.get_mut(at) else { return Transition::Unchanged };
        let checks = &mut member.checks;
        let is_first = std::mem::take(&mut checks.is_first);
        checks.failures = 0;
        let mut transition = Transition::Unchanged;
        if host.flags().has(Flags::FAILED_ACTIVE_HC) {
            checks.successes += 1;
            if is_first || checks.successes >= check.healthy_threshold {
                let gone = Flags::FAILED_ACTIVE_HC.with(Flags::ACTIVE_HC_TIMEOUT);
                host.flags.clear(gone.with(Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL));
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        transition = clear_pending(host, transition);
        if degraded != host.flags().has(Flags::DEGRADED_ACTIVE_HC) {
            match degraded {
                true => host.flags.set(Flags::DEGRADED_ACTIVE_HC),
                false => host.flags.clear(Flags::DEGRADED_ACTIVE_HC),
            }
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        let returns = state.detection().is_some_and(|detection| detection.successful_active_health_check_uneject_host);
        if returns && host.is_ejected() && !host.flags().has(Flags::FAILED_ACTIVE_HC) {
            self.take_back(state, at, now);
        }
        transition
    }

    fn fail(
        &self,
        state: &mut State,
        host: &Arc<HostHealth>,
        may_pass: bool,
        is_late: bool,
        check: &HealthCheck,
    ) -> Transition {
        self.checks.failure.inc();
        let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.host, host)) else {
            return Transition::Unchanged;
        };
        let checks = &mut member.checks;
        let is_first = std::mem::take(&mut checks.is_first);
        checks.successes = 0;
        let mut transition = Transition::Unchanged;
        if !host.flags().has(Flags::FAILED_ACTIVE_HC) {
            checks.failures += 1;
            if is_first || !may_pass || checks.failures >= check.unhealthy_threshold {
                host.flags.set(Flags::FAILED_ACTIVE_HC);
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        match is_late && host.flags().has(Flags::FAILED_ACTIVE_HC) {
            true => host.flags.set(Flags::ACTIVE_HC_TIMEOUT),
            false => host.flags.clear(Flags::ACTIVE_HC_TIMEOUT),
        }
        clear_pending(host, transition)
    }

    fn settle(&self, state: &mut State, transition: Transition) {
        if transition == Transition::Changed {
            self.changed();
        }
        self.count_checked(state);
    }

    /// Brings the gauges in line with the members.
    pub(super) fn count_checked(&self, state: &State) {
        let checked = state.members.iter().filter(|member| state.is_checked(member));
        let (mut healthy, mut degraded) = (0, 0);
        for member in checked {
            let flags = member.host.flags();
            healthy += u64::from(!flags.has(Flags::FAILED_ACTIVE_HC));
            degraded += u64::from(flags.has(Flags::DEGRADED_ACTIVE_HC));
        }
        self.checks.healthy.set(healthy);
        self.checks.degraded.set(degraded);
    }
}

fn clear_pending(host: &HostHealth, transition: Transition) -> Transition {
    match host.flags().has(Flags::PENDING_ACTIVE_HC) {
        true => {
            host.flags.clear(Flags::PENDING_ACTIVE_HC);
            Transition::Changed
        }
        false => transition,
    }
}

/// A random time below `limit`, by the millisecond.
fn below(limit: Duration, rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.below(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)))
}
