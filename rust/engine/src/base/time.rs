//! Time as an argument.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since an origin that the driver chose. The engine compares and
/// adds; it never asks what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// Later than any time that is reached.
    pub const NEVER: Time = Time(u64::MAX);

    /// A time this many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier`; zero if it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `limit`, or [`Time::NEVER`] if the limit is zero, which
    /// is how configuration writes "none".
    pub fn after_limit(self, limit: Duration) -> Time {
        if limit.is_zero() {
            Time::NEVER
        } else {
            self + limit
        }
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

/// The wall clock at the origin of [`Time`], for logs and headers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// Nanoseconds since the Unix epoch at `Time(0)`.
    pub origin_unix_nanos: u64,
}

impl WallClock {
    /// Nanoseconds since the Unix epoch.
    pub fn unix_nanos(self, time: Time) -> u64 {
        self.origin_unix_nanos.saturating_add(time.0)
    }
}
