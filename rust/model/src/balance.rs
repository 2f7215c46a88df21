//! How load is spread over the endpoints of a cluster (Envoy `lb_policy`, `common_lb_config`).
//!
//! The order of decisions is Envoy's: a priority by its health, then perhaps a
//! locality by its weight, then a host by the policy.

use std::time::Duration;

/// Everything that decides who takes part, and by what share.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// How a host is chosen of those that take part.
    pub policy: LbPolicy,
    /// New hosts of ROUND_ROBIN and LEAST_REQUEST begin with a part of their share.
    pub slow_start: Option<SlowStart>,
    /// `healthy_panic_threshold`, per cent: with fewer hosts available than this, a priority uses all
    /// of them. Zero: it never does.
    pub panic_threshold: u32,
    /// What localities of a priority have to do with each other.
    pub locality: LocalityLb,
    /// `ignore_new_hosts_until_first_hc`: a host whose health nobody has looked at does not count as unhealthy.
    pub ignore_unchecked_hosts: bool,
    /// `close_connections_on_host_set_change`: connections to all hosts end when one comes or goes.
    pub close_on_change: bool,
}

impl Balance {
    /// A policy with Envoy's defaults.
    pub fn by(policy: LbPolicy) -> Balance {
        Balance {
            policy,
            slow_start: None,
            panic_threshold: 50,
            locality: LocalityLb::Pooled,
            ignore_unchecked_hosts: false,
            close_on_change: false,
        }
    }
}

/// `lb_policy` with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// Of equal weights, the less busy of `choices` random ones. Of others, in turn by
    /// `weight / (active requests + 1) ^ active_request_bias`.
    LeastRequest {
        /// At least 2.
        choices: u32,
        /// Zero: how busy a host is does not count. Not negative.
        active_request_bias: f64,
    },
    /// Any; weights do not count.
    Random,
    /// The next on a ring of hashes; a request without a hash gets any.
    RingHash(RingHash),
    /// By a table of hashes; a request without a hash gets any.
    Maglev(Maglev),
}

impl LbPolicy {
    /// It goes by the hash of a request.
    pub fn hashes(&self) -> bool {
        matches!(self, LbPolicy::RingHash(_) | LbPolicy::Maglev(_))
    }
}

/// `ring_hash_lb_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingHash {
    /// Points on the ring, at least: the host of least weight gets whole ones (default 1024).
    pub minimum_size: u64,
    /// And at most (default 8 Mi).
    pub maximum_size: u64,
    /// What makes points of hosts.
    pub function: HashFunction,
    /// What both have.
    pub hashing: ConsistentHashing,
}

/// `hash_function` of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum HashFunction {
    #[default]
    XxHash,
    MurmurHash2,
}

/// `maglev_lb_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Maglev {
    /// Entries, a prime number (default 65537).
    pub table_size: u64,
    /// What both have.
    pub hashing: ConsistentHashing,
}

/// `consistent_hashing_lb_config`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConsistentHashing {
    /// `use_hostname_for_hashing`: hosts stand in the table by name, not by address.
    pub use_hostname: bool,
    /// `hash_balance_factor`: most requests of a host in percent of the mean; a host with more passes a request
    /// on to another, always the same for the same hash. `None`: no bound.
    pub balance_factor: Option<u32>,
}

/// `locality_config_specifier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalityLb {
    /// Nothing: their hosts are one pool.
    Pooled,
    /// They share load by their weights and their health (`locality_weighted_lb_config`).
    Weighted,
}

/// `slow_start_config`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long a host is new. Not zero.
    pub window: Duration,
    /// 1: the share grows in proportion to time; more than 1: faster at first. Above zero.
    pub aggression: f64,
    /// The least part of its weight that a new host has, of 1.
    pub min_weight: f64,
}
