//! How much may be open towards a cluster at once (Envoy `config.cluster.v3.CircuitBreakers`).
//!
//! The thresholds are those of the whole process, whichever worker has opened what. A request or connection over one is
//! refused at once, with response flag `UO`: it must not add to the load that has filled it.

/// `RoutingPriority` of a route. Each has thresholds and connections of its own, so that what is urgent never waits
/// behind what is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum RoutingPriority {
    #[default]
    Default,
    High,
}

impl RoutingPriority {
    /// All there are, in order of their numbers.
    pub const ALL: [RoutingPriority; 2] = [RoutingPriority::Default, RoutingPriority::High];

    /// As it stands in the names of statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            RoutingPriority::Default => "default",
            RoutingPriority::High => "high",
        }
    }
}

/// `CircuitBreakers`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct CircuitBreakers {
    pub default: Thresholds,
    pub high: Thresholds,
}

impl CircuitBreakers {
    /// Those of a priority.
    pub fn of(&self, priority: RoutingPriority) -> &Thresholds {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }

    /// Some endpoint may have fewer connections than the cluster.
    pub fn limit_hosts(&self) -> bool {
        RoutingPriority::ALL.iter().any(|priority| self.of(*priority).connections_per_host < u32::MAX)
    }
}

impl From<Thresholds> for CircuitBreakers {
    /// At default priority.
    fn from(default: Thresholds) -> Self {
        CircuitBreakers { default, ..CircuitBreakers::default() }
    }
}

/// `Thresholds`, with those of each host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Connections, open or being opened.
    pub connections: u32,
    /// The same to one endpoint (`per_host_thresholds`).
    pub connections_per_host: u32,
    /// Requests that wait for a connection.
    pub pending_requests: u32,
    /// Requests on a connection.
    pub requests: u32,
    /// Requests that are retried, if there is no budget.
    pub retries: u32,
    /// Requests that are retried, as a share of all.
    pub retry_budget: Option<RetryBudget>,
    /// Tell how much is left in `remaining_*`.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            connections: 1024,
            connections_per_host: u32::MAX,
            pending_requests: 1024,
            requests: 1024,
            retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

impl Thresholds {
    /// Most requests that may be retried at once while so many are under way or wait for a connection.
    pub fn most_retries(&self, requests: u32) -> u32 {
        match self.retry_budget {
            // Rounded down: what is not whole is not in the budget.
            Some(budget) => ((f64::from(requests) * budget.percent / 100.0) as u32).max(budget.min_concurrency),
            None => self.retries,
        }
    }
}

/// `RetryBudget`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of the requests that are under way or wait for a connection, 0 to 100.
    pub percent: f64,
    /// So many may be retried in any case.
    pub min_concurrency: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_but_never_less_than_its_least() {
        let with = |percent, min_concurrency| Thresholds {
            retries: 7,
            retry_budget: Some(RetryBudget { percent, min_concurrency }),
            ..Thresholds::default()
        };
        let twenty = with(20.0, 3);
        assert_eq!([0, 14, 15, 19, 20, 1000].map(|requests| twenty.most_retries(requests)), [3, 3, 3, 3, 4, 200]);
        assert_eq!(with(0.0, 0).most_retries(1000), 0);
        assert_eq!(with(100.0, 0).most_retries(u32::MAX), u32::MAX);
        assert_eq!(Thresholds { retries: 7, ..Thresholds::default() }.most_retries(1000), 7);
    }
}
