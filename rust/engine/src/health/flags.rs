//! What may be wrong with a host, as one number.

use std::sync::atomic::{AtomicU32, Ordering};

use pymesh_model::endpoint::Health;

/// A set of reasons, named and printed as Envoy's `HealthFlag`s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The last health checks have failed, or there were none yet.
    pub const FAILED_ACTIVE_HC: Flags = Flags(1 << 0);
    /// Ejected as an outlier.
    pub const FAILED_OUTLIER_CHECK: Flags = Flags(1 << 1);
    /// `UNHEALTHY` or `TIMEOUT`, says the control plane.
    pub const FAILED_EDS_HEALTH: Flags = Flags(1 << 2);
    /// The last health check says so.
    pub const DEGRADED_ACTIVE_HC: Flags = Flags(1 << 3);
    /// `DEGRADED`, says the control plane.
    pub const DEGRADED_EDS_HEALTH: Flags = Flags(1 << 4);
    /// It is to be used once it was checked, and not counted before.
    pub const PENDING_ACTIVE_HC: Flags = Flags(1 << 6);
    /// It has said that it is not to be used any more, and is not counted.
    pub const EXCLUDED_VIA_IMMEDIATE_HC_FAIL: Flags = Flags(1 << 7);
    /// The last health check has failed because there was no answer.
    pub const ACTIVE_HC_TIMEOUT: Flags = Flags(1 << 8);
    /// `DRAINING`, says the control plane.
    pub const EDS_STATUS_DRAINING: Flags = Flags(1 << 9);

    const NAMES: [(Flags, &'static str); 9] = [
        (Flags::FAILED_ACTIVE_HC, "/failed_active_hc"),
        (Flags::FAILED_OUTLIER_CHECK, "/failed_outlier_check"),
        (Flags::FAILED_EDS_HEALTH, "/failed_eds_health"),
        (Flags::DEGRADED_ACTIVE_HC, "/degraded_active_hc"),
        (Flags::DEGRADED_EDS_HEALTH, "/degraded_eds_health"),
        (Flags::PENDING_ACTIVE_HC, "/pending_active_hc"),
        (Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL, "/excluded_via_immediate_hc_fail"),
        (Flags::ACTIVE_HC_TIMEOUT, "/active_hc_timeout"),
        (Flags::EDS_STATUS_DRAINING, "/eds_status_draining"),
    ];

    /// What the control plane says.
    pub fn of_eds(health: Health) -> Flags {
        match health {
            Health::Healthy => Flags::default(),
            Health::Degraded => Flags::DEGRADED_EDS_HEALTH,
            Health::Unhealthy => Flags::FAILED_EDS_HEALTH,
            Health::Draining => Flags::EDS_STATUS_DRAINING,
        }
    }

    /// Both sets.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// One of `other` is set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// All that health checks set.
    pub(super) const OF_CHECKS: Flags = Flags(
        Flags::FAILED_ACTIVE_HC.0
            | Flags::DEGRADED_ACTIVE_HC.0
            | Flags::PENDING_ACTIVE_HC.0
            | Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL.0
            | Flags::ACTIVE_HC_TIMEOUT.0,
    );
    /// No request is to come here, if there is any other host.
    const FAILED: Flags = Flags(Flags::FAILED_ACTIVE_HC.0 | Flags::FAILED_OUTLIER_CHECK.0 | Flags::FAILED_EDS_HEALTH.0);
    /// Others are better.
    const DEGRADED: Flags = Flags(Flags::DEGRADED_ACTIVE_HC.0 | Flags::DEGRADED_EDS_HEALTH.0);

    /// What it comes to.
    pub(crate) fn health(self) -> Health {
        if self.has(Flags::EDS_STATUS_DRAINING) {
            Health::Draining
        } else if self.has(Flags::FAILED) {
            Health::Unhealthy
        } else if self.has(Flags::DEGRADED) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Nobody counts on it: it is not part of what is healthy or not.
    pub(crate) fn is_excluded(self) -> bool {
        self.has(Flags::PENDING_ACTIVE_HC.with(Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL).with(Flags::EDS_STATUS_DRAINING))
    }
}

/// As the admin page shows it.
impl std::fmt::Display for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Flags::default() {
            return f.write_str("healthy");
        }
        Flags::NAMES.iter().filter(|(flag, _)| self.has(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}

/// Flags that several workers read and change.
#[derive(Debug, Default)]
pub(super) struct AtomicFlags(AtomicU32);

impl AtomicFlags {
    pub fn get(&self) -> Flags {
        Flags(self.0.load(Ordering::Acquire))
    }

    pub fn set(&self, flags: Flags) {
        self.0.fetch_or(flags.0, Ordering::AcqRel);
    }

    pub fn clear(&self, flags: Flags) {
        self.0.fetch_and(!flags.0, Ordering::AcqRel);
    }
}
