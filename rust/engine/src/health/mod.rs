//! How the hosts of a cluster are, beside what the control plane says of them.
//!
//! It is known to the process, not to a worker: a [`ClusterHealth`] stands in [`crate::shared::Commons`] under the
//! cluster's name, with one [`HostHealth`] for each listed endpoint. Workers report what becomes of their requests
//! ([`Outcome`]); who finds out that a host is an outlier ejects it there and then ([`outlier`]). One worker asks the
//! hosts how they are ([`crate::check`]) and reports that too ([`check`]).
//!
//! * [`Flags`] say what is wrong with a host. They are atomic, and read when a picker is made.
//! * Whoever changes the flags of a host raises the version of its cluster and that of all clusters. A worker compares
//!   the latter once per turn, and makes the pickers of the clusters that have changed anew.
//! * Everything that must be exact (how many are ejected, counters with several writers) changes under the lock of
//!   [`ClusterHealth`]. Requests do not take it, unless theirs makes an outlier.
//!
//! A cluster that asks for none of this has no such value, and its requests pay one comparison.

mod check;
mod flags;
mod monitor;
mod outlier;
mod turn;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Endpoint;
use pymesh_model::outlier::OutlierDetection;

use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::telemetry::stats::{HealthCheckStats, OutlierStats};

use check::Checks;
pub(crate) use check::Verdict;
use flags::AtomicFlags;
pub use flags::Flags;
use monitor::Monitor;
pub(crate) use monitor::Outcome;
pub use monitor::SuccessRates;
use outlier::Ejection;
pub(crate) use turn::health_of;

/// A number that grows with each change of any host's flags.
#[derive(Debug, Default)]
pub struct Version(AtomicU64);

impl Version {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// What the process knows of one endpoint of a cluster.
#[derive(Debug)]
pub(crate) struct HostHealth {
    endpoint: Arc<Endpoint>,
    flags: AtomicFlags,
    monitor: Monitor,
}

impl HostHealth {
    fn new(endpoint: Arc<Endpoint>) -> HostHealth {
        HostHealth { endpoint, flags: AtomicFlags::default(), monitor: Monitor::default() }
    }

    pub fn flags(&self) -> Flags {
        self.flags.get()
    }

    /// Where one endpoint is named in two configurations.
    fn is_of(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.address == endpoint.address && self.endpoint.transport_match == endpoint.transport_match
    }
}

/// What the process knows of the hosts of one cluster.
#[derive(Debug)]
pub struct ClusterHealth {
    version: Version,
    /// Of all clusters.
    any: Arc<Version>,
    outliers: Arc<OutlierStats>,
    checks: Arc<HealthCheckStats>,
    /// There was a connection to a host, of whatever worker.
    has_traffic: AtomicBool,
    state: Mutex<State>,
}

/// What tells one endpoint of a cluster from another.
type Identity<'a> = (SocketAddr, &'a [(Box<str>, Box<str>)]);

/// What is behind the lock.
#[derive(Debug, Default)]
struct State {
    /// The configuration that the members are from.
    config: Option<Arc<Cluster>>,
    members: Vec<Member>,
    /// When to look at the members again.
    sweep_at: Option<Time>,
    /// Members that are ejected.
    ejected: usize,
    /// Of the last sweep: by answers, and by what the network does.
    bars: [outlier::Bar; 2],
}

/// A listed host.
#[derive(Debug)]
struct Member {
    host: Arc<HostHealth>,
    /// As it is configured now.
    endpoint: Arc<Endpoint>,
    ejection: Ejection,
    checks: Checks,
}

impl Member {
    fn new(endpoint: Arc<Endpoint>) -> Member {
        let host = Arc::new(HostHealth::new(endpoint.clone()));
        Member { host, endpoint, ejection: Ejection::default(), checks: Checks::default() }
    }

    /// Nobody asks it any more.
    fn forget_checks(&mut self) {
        self.checks = Checks::default();
        self.host.flags.clear(Flags::OF_CHECKS);
    }
}

impl State {
    fn detection(&self) -> Option<Arc<OutlierDetection>> {
        self.config.as_ref()?.outlier_detection.clone()
    }

    /// Somebody asks it how it is.
    fn is_checked(&self, member: &Member) -> bool {
        self.config.as_ref().is_some_and(|config| config.health_check.is_some()) && !member.endpoint.check.is_disabled
    }
}

/// What the admin page shows of a cluster's success rates: average and threshold, by answers and by what the network
/// does. Negative numbers say that there is none.
pub type Averages = [(f64, f64); 2];

impl ClusterHealth {
    /// True if hosts of this cluster are looked after.
    pub(crate) fn is_for(config: &Cluster) -> bool {
        config.outlier_detection.is_some() || config.health_check.is_some()
    }

    pub(crate) fn new(any: Arc<Version>, outliers: Arc<OutlierStats>, checks: Arc<HealthCheckStats>) -> ClusterHealth {
        let (version, has_traffic) = (Version::default(), AtomicBool::new(false));
        ClusterHealth { version, any, outliers, checks, has_traffic, state: Mutex::default() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Takes the endpoints of a configuration as its members, once for all workers; those that were members before
    /// keep their state. Returns them in the order of the endpoints, each once.
    pub(crate) fn enlist(&self, config: &Arc<Cluster>, now: Time) -> Vec<Arc<HostHealth>> {
        let mut state = self.state();
        if !state.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            self.replace_members(&mut state, config, now);
        }
        state.members.iter().map(|member| member.host.clone()).collect()
    }

    fn replace_members(&self, state: &mut State, config: &Arc<Cluster>, now: Time) {
        let had = state.config.replace(config.clone());
        let mut before: HashMap<SocketAddr, Vec<Member>> = HashMap::new();
        for member in state.members.drain(..) {
            before.entry(member.endpoint.address).or_default().push(member);
        }
        let mut listed: HashSet<Identity<'_>> = HashSet::new();
        for (_, endpoint) in config.endpoints.iter() {
            // One that is listed twice is one host.
            if !listed.insert((endpoint.address, &endpoint.transport_match)) {
                continue;
            }
            let there = before.entry(endpoint.address).or_default();
            let known = there.iter().position(|member| member.host.is_of(endpoint));
            let mut member = match known {
                Some(at) => Member { endpoint: endpoint.clone(), ..there.swap_remove(at) },
                None => Member::new(endpoint.clone()),
            };
            if !state.is_checked(&member) {
                member.forget_checks();
            } else if had.is_some() && known.is_none() {
                // It is not used before it is known to be well. Those of a cluster that is new all are: it warms up.
                member.host.flags.set(Flags::FAILED_ACTIVE_HC);
                if config.balance.ignore_unchecked_hosts {
                    member.host.flags.set(Flags::PENDING_ACTIVE_HC);
                }
            }
            if config.outlier_detection.is_none() {
                member.host.flags.clear(Flags::FAILED_OUTLIER_CHECK);
            }
            state.members.push(member);
        }
        state.ejected = state.members.iter().filter(|member| member.host.is_ejected()).count();
        self.outliers.ejections_active.set(state.ejected as u64);
        self.count_checked(state);
        let interval = |config: &Arc<Cluster>| Some(config.outlier_detection.as_ref()?.interval);
        if had.as_ref().and_then(interval) != interval(config) {
            state.sweep_at = interval(config).map(|interval| now + interval);
        }
        self.changed();
    }

    /// Each of the hosts of this configuration that is asked has been.
    pub(crate) fn is_warm(&self, config: &Arc<Cluster>) -> bool {
        let state = self.state();
        state.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config))
            && state.members.iter().all(|member| !state.is_checked(member) || member.checks.is_known())
    }

    /// When [`ClusterHealth::sweep`] has something to do.
    pub(crate) fn next_sweep(&self) -> Option<Time> {
        self.state().sweep_at
    }

    /// Something became of a request to a host, or of a connection.
    pub(crate) fn report(
        &self,
        host: &Arc<HostHealth>,
        outcome: Outcome,
        detection: &OutlierDetection,
        now: Time,
        rng: &mut Rng,
    ) {
        let found = host.monitor.put(outcome, detection);
        if found.is_none() {
            return;
        }
        let mut state = self.state();
        for kind in found.kinds() {
            self.on_consecutive(&mut state, host, kind, detection, now, rng);
        }
    }

    /// The interval may have passed: returns hosts whose time is over, and looks for those that do worse than others.
    pub(crate) fn sweep(&self, now: Time, rng: &mut Rng) {
        let mut state = self.state();
        // Each worker comes here; one is the first.
        if state.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        let Some(detection) = state.detection() else { return };
        state.sweep_at = Some(now + detection.interval);
        self.look_for_outliers(&mut state, &detection, now, rng);
    }

    /// For the admin page: what is wrong with an endpoint, and its success rates.
    pub fn describe(&self, endpoint: &Endpoint) -> Option<(Flags, SuccessRates)> {
        let state = self.state();
        let member = state.members.iter().find(|member| member.host.is_of(endpoint))?;
        Some((member.host.flags(), member.host.monitor.rates()))
    }

    /// For the admin page: the averages of the last interval.
    pub fn averages(&self) -> Averages {
        self.state().bars.map(|bar| (bar.average, bar.threshold))
    }

    fn changed(&self) {
        self.version.raise();
        self.any.raise();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClusterHealth {
    fn drop(&mut self) {
        self.outliers.ejections_active.set(0);
        self.checks.healthy.set(0);
        self.checks.degraded.set(0);
    }
}

#[cfg(test)]
mod tests;
